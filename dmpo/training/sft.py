"""Supervised fine-tuning of a masked diffusion model on what tasks demonstrate (LLaDA's recipe).

Every batch holds problems of one task, drawn by the mixture's weights, so nothing is padded
for the sake of another task; answers are demonstrated afresh every time a problem comes up.
"""

from __future__ import annotations

import functools
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from pydantic import Field, PositiveInt, model_validator

from dmpo.errors import ConfigError
from dmpo.evaluation.evaluator import Evaluator
from dmpo.evaluation.saved import write_tables
from dmpo.evaluation.summary import EvaluationResult
from dmpo.files import append_line, filling, replace_text
from dmpo.policies.base import DiffusionPolicy
from dmpo.tasks.base import Task
from dmpo.training.checkpoint import save_policy
from dmpo.training.denoising import (
    DenoisingBatch,
    Masking,
    denoising_loss,
    draw_noise,
    split_rows,
)
from dmpo.training.engine import Engine, Update, divergence
from dmpo.training.evaluating import evaluate_run
from dmpo.training.events import Observer, StepDone
from dmpo.training.interruption import Interruption
from dmpo.training.metrics import cost_metrics
from dmpo.training.optimization import OptimizationSettings, Schedule
from dmpo.training.phases import PhaseMeter
from dmpo.training.prompts import prompt_indices
from dmpo.training.randomness import generator_for, seed_for, seeded_dropout
from dmpo.training.regroup import part_of
from dmpo.training.run_directory import RunDirectory

__all__ = ["SftSettings", "SftTask", "SftTrainer", "chosen_task"]


class SftSettings(OptimizationSettings):
    """Batch, noise, and how often a line is written."""

    num_steps: PositiveInt = Field(2000, description="Gradient steps in all.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate.")
    schedule: Schedule = Field(
        "cosine", description="What follows warm-up: constant, or a decay to 0 at num_steps."
    )
    batch_rows: PositiveInt = Field(128, description="Demonstrations per gradient step.")
    micro_batch_rows: PositiveInt | None = Field(
        None, description="Demonstrations per forward and backward pass, at most; null: all."
    )
    masking: Masking = Field(
        "count",
        description="How many tokens are hidden: a count uniform on 1..D, or (bernoulli, "
        "LLaDA's) each token with probability t, t uniform.",
    )
    stratified: bool = Field(
        True, description="Spread the shares of hidden tokens evenly over a batch."
    )
    log_every: PositiveInt = Field(20, description="Steps between lines of metrics.jsonl.")

    @model_validator(mode="after")
    def _check_stratified(self) -> SftSettings:
        if self.stratified and self.batch_rows == 1:
            raise ValueError("stratified spreads over the rows of a batch; batch_rows is 1.")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class SftTask:
    """One ingredient of the mixture."""

    name: str
    """What it is called in files."""
    task: Task
    """Where problems and demonstrations come from."""
    weight: float = 1.0
    """Its share of the batches, relative to the others."""
    response_length: int | None = None
    """Canvas length D; None: the task's own."""
    evaluator: Evaluator | None = None
    """Measures the policy at the end; None: it is not measured."""


@final
class SftTrainer:
    """Trains a policy to answer as the demonstrations do, and saves it.

    Args:
        policy: What is trained.
        tasks: The mixture; names differ, weights are positive.
        settings: Optimizer, batch, noise.
        seed: With it and the tasks, a run is determined.
        output: Folder that gets the policy, metrics.jsonl, evaluation.json and evaluation.md.
        observers: Told of every ``log_every``-th step.
        interruption: Asked after each step whether to stop; None: nothing stops the run early.
        config_text: The resolved configuration, kept as config.yaml.

    Raises:
        ConfigError: If the mixture is empty, a name comes twice, or a weight is not positive.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        tasks: Sequence[SftTask],
        settings: SftSettings,
        *,
        seed: int,
        output: Path,
        observers: Sequence[Observer] = (),
        interruption: Interruption | None = None,
        config_text: str = "",
    ) -> None:
        """Check the mixture and wrap the policy."""
        _check_mixture(tasks)
        self._policy = policy
        self._tasks = {task.name: task for task in tasks}
        self._examples = {task.name: task.task.examples("train") for task in tasks}
        self._settings = settings
        self._seed = seed
        self._directory = RunDirectory(output)
        self._interruption = interruption or Interruption()
        self._config_text = config_text
        self._engine = Engine(policy, settings)
        if settings.batch_rows < self._engine.num_ranks:
            raise ConfigError(
                f"batch_rows: {settings.batch_rows} demonstrations are fewer than "
                f"{self._engine.num_ranks} processes; each needs one of its own."
            )
        self._rows = part_of(settings.batch_rows, self._engine.rank, self._engine.num_ranks)
        self._observers = tuple(observers)
        self._meter = PhaseMeter(policy)
        self._model_tokens = self._model_flops = 0.0
        self._cursors: Counter[str] = Counter()
        self._skipped = self._skipped_in_a_row = 0
        self._has_stepped = False

    def train(self) -> dict[str, EvaluationResult]:
        """Take every step, save the policy, and return the figures of each measured task.

        A signal ends the steps early; the policy is saved as it then is, and not measured.

        Raises:
            ConfigError: If another run is writing to the folder.
            DivergenceError: If ``max_skipped_in_a_row`` steps had no finite loss or gradient;
                the policy is saved as it was before them.
            OutputError: If the folder cannot be written.
        """
        if not self._engine.is_main:
            return self._run()
        self._directory.claim()
        try:
            self._directory.go_back(0)
            if self._config_text:
                replace_text(self._directory.path / "config.yaml", self._config_text)
            return self._run()
        except Exception:
            if not self._has_stepped:
                self._directory.abandon()
            raise
        finally:
            self._directory.release()

    def _run(self) -> dict[str, EvaluationResult]:
        settings, started = self._settings, time.perf_counter()
        losses: list[float] = []
        for step in range(settings.num_steps):
            loss, update = self._gradient_step(step)
            self._has_stepped = True
            losses.append(loss)
            stops = self._is_interrupted()
            if self._skipped_in_a_row >= settings.max_skipped_in_a_row:
                self._save()
                raise divergence(self._skipped_in_a_row, self._directory.path)
            if (step + 1) % settings.log_every and step + 1 < settings.num_steps and not stops:
                continue
            metrics = {
                "loss/total": sum(losses) / len(losses),
                "optimizer/gradient_norm": update.gradient_norm,
                "optimizer/learning_rate": update.learning_rate,
                "optimizer/skipped_steps": float(self._skipped),
                **self._cost(),
                "time/total": time.perf_counter() - started,
            }
            losses.clear()
            self._report(step + 1, metrics)
            if stops:
                break
        self._save()
        return self._measure()

    def _gradient_step(self, step: int) -> tuple[float, Update]:
        """Return the loss of one step, and what the optimizer did."""
        settings = self._settings
        batch = self._batch(step)
        slices = split_rows(batch, settings.micro_batch_rows or len(self._rows))
        dropout_seed = seed_for(self._seed, self._engine.rank, step, "dropout")
        with self._meter.phase("loss"), seeded_dropout(dropout_seed, self._policy.device):
            losses = self._engine.backward(
                slices, functools.partial(denoising_loss, self._policy), spare=slices[0]
            )
        update = self._engine.update(losses["total"])
        self._skipped += update.is_skipped
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if update.is_skipped else 0
        return losses["total"], update

    def _batch(self, step: int) -> DenoisingBatch:
        """Draw a task, its next problems, demonstrations of them, and the noise."""
        settings, policy = self._settings, self._policy
        chosen = chosen_task(list(self._tasks.values()), seed=self._seed, step=step)
        examples = self._examples[chosen.name]
        indices = prompt_indices(
            len(examples),
            seed=self._seed,
            cursor=self._cursors[chosen.name],
            count=settings.batch_rows,
        )
        self._cursors[chosen.name] += settings.batch_rows
        rows = slice(self._rows.start, self._rows.stop)
        mine = [examples[index] for index in indices[rows]]
        length = chosen.response_length or chosen.task.response_length
        answers = [
            chosen.task.demonstrate(example, self._rng(step, row))
            for example, row in zip(mine, self._rows, strict=True)
        ]
        prompts = policy.encode(mine)
        # Drawn for the whole batch, so that it does not depend on the number of processes.
        hidden, coefficient = draw_noise(
            settings.batch_rows,
            length,
            generator_for(self._seed, 0, step, "noise"),
            masking=settings.masking,
            stratified=settings.stratified,
        )
        return DenoisingBatch(
            prompt_tokens=prompts.tokens,
            prompt_mask=prompts.attention_mask,
            responses=policy.encode_completions(answers, length),
            hidden=hidden[rows],
            coefficient=coefficient[rows],
            num_rows_in_batch=settings.batch_rows / self._engine.num_ranks,
        )

    def _rng(self, step: int, row: int) -> random.Random:
        return random.Random(seed_for(self._seed, row, step, "demonstrations"))

    def _cost(self) -> dict[str, float]:
        """Return tokens and operations since the last line and in all, of all processes."""
        metrics = self._engine.mean(cost_metrics(self._meter.take()))
        self._model_tokens += metrics["tokens/model"]
        self._model_flops += metrics["flops/forward"] + metrics["flops/backward"]
        totals = {"tokens/model_total": self._model_tokens, "flops/total": self._model_flops}
        return {**metrics, **totals}

    def _report(self, step: int, metrics: dict[str, float]) -> None:
        if not self._engine.is_main:
            return
        append_line(self._directory.path / "metrics.jsonl", json.dumps({"step": step, **metrics}))
        seconds, num_steps = metrics["time/total"], self._settings.num_steps
        event = StepDone(
            step=step,
            num_steps=num_steps,
            metrics=metrics,
            seconds=seconds,
            seconds_left=seconds / step * (num_steps - step),
        )
        for observer in self._observers:
            observer.notify(event)

    def _is_interrupted(self) -> bool:
        return self._engine.is_true_anywhere(self._interruption.signal is not None)

    def _save(self) -> None:
        state = self._engine.weights.whole_state()
        if self._engine.is_main:
            with self._interruption.held(), filling(self._directory.path) as folder:
                save_policy(self._policy, folder, state)

    def _measure(self) -> dict[str, EvaluationResult]:
        results: dict[str, EvaluationResult] = {}
        for name, task in self._tasks.items():
            if task.evaluator is None or self._is_interrupted():
                continue
            result = evaluate_run(
                task.evaluator,
                self._policy,
                seed=self._seed,
                engine=self._engine,
                interruption=self._interruption,
            )
            if result is not None:
                results[name] = result
        if self._engine.is_main and results:
            write_tables(self._directory.path, results)
        return results


def chosen_task(tasks: Sequence[SftTask], *, seed: int, step: int) -> SftTask:
    """Return the task of a step's batch, drawn by the mixture's weights; equal on every rank."""
    rng = random.Random(seed_for(seed, 0, step, "mixture"))
    return rng.choices(tasks, weights=[task.weight for task in tasks])[0]


def _check_mixture(tasks: Sequence[SftTask]) -> None:
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"tasks: give at least one, each name once; given {names}.")
    for task in tasks:
        if task.weight <= 0:
            raise ConfigError(f"tasks: weight of {task.name!r} must be positive; {task.weight}.")
