"""Algorithm 1 of DMPO on one screen (arXiv 2510.08233; METHOD, "The loop").

    for step = 0, 1, 2, …
        if step mod F = 0:  prompts, rollouts, rewards, weights: the buffer
        draw views;  loss, over micro-batches;  one step of AdamW

What an objective does in these moments is its own affair; the loop knows none by name.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch

from dmpo.errors import OutputError
from dmpo.evaluation.evaluator import Evaluator
from dmpo.objectives.base import Objective
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, Experience, Rollouts
from dmpo.rewards.base import RewardModel
from dmpo.samplers.base import Sampler
from dmpo.tasks.base import Task
from dmpo.training import events
from dmpo.training.checkpoint import Progress
from dmpo.training.checkpoint_store import CheckpointStore
from dmpo.training.drift import first_rollouts, is_drift_due, measure_drift
from dmpo.training.engine import Engine, Update, divergence
from dmpo.training.evaluating import evaluate_run, evaluations_to_come
from dmpo.training.filling import BufferFiller
from dmpo.training.gradient import Gradient
from dmpo.training.interruption import Abandoned, Interruption
from dmpo.training.metrics import (
    buffer_metrics,
    log_ratio_warnings,
    missing_warnings,
    phase_metrics,
    step_metrics,
)
from dmpo.training.phases import PhaseMeter, model_tokens, of_training
from dmpo.training.prompts import fingerprint
from dmpo.training.randomness import group_generator
from dmpo.training.regroup import pinned
from dmpo.training.rollout import unmasked_sample
from dmpo.training.run_directory import RunDirectory, list_checkpoints
from dmpo.training.settings import TrainingSettings
from dmpo.training.tracker_kinds import EndState, TrackingSettings, check_trackers
from dmpo.training.trackers import Trackers
from dmpo.training.tracking import Tracker, environment_record

__all__ = ["Trainer", "TrainingParts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingParts:
    """The exchangeable parts of a run."""

    policy: DiffusionPolicy
    """What is trained."""
    task: Task
    """Where prompts come from."""
    sampler: Sampler
    """How rollouts are made."""
    reward: RewardModel
    """What makes a rollout good."""
    objective: Objective
    """How rewards become a gradient."""


@final
class Trainer:
    """Runs Algorithm 1; everything it writes goes into one run directory.

    An evaluator is asked before the first step, after the last, and every
    ``evaluate_every`` steps, always with the same random draws.

    Args:
        parts: What runs. Where the objective needs a reference, the policy's weights at this
            moment become π_ref.
        settings: The loop's numbers.
        seed: The run's seed: with it and the parts, a run is determined.
        run_directory: Where everything is written; nothing is before :meth:`train`.
        evaluator: Measures the policy; None: it is not measured.
        observers: Told of everything that happens, in order; on the main process only.
        interruption: Asked between two steps whether to stop; None: nothing stops the run early.
        config_text: The resolved configuration, kept as config.yaml.
        command: How the run was started, kept in environment.json.
        tracking: Trackers that get the metrics beside metrics.jsonl; None: TensorBoard.
    """

    def __init__(
        self,
        parts: TrainingParts,
        settings: TrainingSettings,
        *,
        seed: int,
        run_directory: Path,
        evaluator: Evaluator | None = None,
        observers: Sequence[events.Observer] = (),
        interruption: Interruption | None = None,
        config_text: str = "",
        command: Sequence[str] = (),
        tracking: TrackingSettings | None = None,
    ) -> None:
        """Freeze the reference, wrap policy and optimizer."""
        self._parts = parts
        self._settings = settings
        self._seed = seed
        self._directory = RunDirectory(run_directory)
        self._evaluator = evaluator
        self._tracking = tracking or TrackingSettings()
        check_trackers(self._tracking)
        if parts.objective.needs_reference or settings.measure_drift_every is not None:
            parts.policy.freeze_reference()
        self._engine = Engine(parts.policy, settings)
        self._meter = PhaseMeter(parts.policy)
        self._filler = BufferFiller(
            policy=parts.policy,
            task=parts.task,
            sampler=parts.sampler,
            reward=parts.reward,
            settings=settings,
            engine=self._engine,
            meter=self._meter,
            seed=seed,
        )
        self._gradient = Gradient(
            policy=parts.policy,
            objective=parts.objective,
            settings=settings,
            engine=self._engine,
            meter=self._meter,
            seed=seed,
        )
        self._checkpoints = CheckpointStore(
            self._directory,
            self._engine,
            parts.policy,
            run={
                "seed": seed,
                "problems": fingerprint(self._filler.examples),
                "prompts_per_buffer": settings.prompts_per_buffer,
                "rollouts_per_prompt": settings.rollouts_per_prompt,
                "updates_per_buffer": settings.updates_per_buffer,
            },
            config_text=config_text,
            keep=settings.keep_checkpoints,
        )
        self._interruption = interruption or Interruption()
        self._config_text = config_text
        self._command = command
        self._progress = Progress()
        self._is_restored = False
        self._buffers: tuple[Experience, ...] = ()  # the newest first
        self._buffer_metrics: dict[str, float] = {}
        self._evaluation_seconds: list[float] = []  # of each so far in this process
        self._observers = tuple(observers) if self._engine.is_main else ()

    def train(self) -> events.Finished:
        """Run until a limit of the settings or a signal; return how it ended.

        Raises:
            ConfigError: If another run is writing to the directory.
            DivergenceError: If ``max_skipped_in_a_row`` steps had no finite loss or gradient;
                the state is saved.
            OutputError: If the directory cannot be written.
            KeyboardInterrupt: At a second SIGINT; the last complete step is saved.
        """
        if not self._engine.is_main:
            return self._run()
        self._directory.claim()
        try:
            if not self._is_restored:
                self._directory.check_unused()
            # It reads what earlier processes logged, before that is taken back.
            trackers = Trackers(self._tracking, self._directory.path, warn=self._warn)
            self._directory.go_back(self._progress.step)
            return self._run_tracked(self._tracker(trackers))
        except Exception:
            if self._progress.step == 0 and not list_checkpoints(self._directory.path):
                self._directory.abandon()
            raise
        finally:
            self._directory.release()

    def _run_tracked(self, tracker: Tracker) -> events.Finished:
        """Run, and have it written down; whatever ends the run, trackers learn what it was."""
        state: EndState = "failed"
        self._observers = (tracker, *self._observers)
        try:
            finished = self._run()
            state = "killed" if finished.reason == "interrupted" else "finished"
            return finished
        except KeyboardInterrupt:
            state = "killed"
            raise
        finally:
            self._observers = self._observers[1:]
            tracker.close(state)

    def _run(self) -> events.Finished:
        settings, first_step = self._settings, self._progress.step
        self._emit(
            events.Started(
                step=first_step, num_steps=settings.num_steps, run_directory=self._directory.path
            )
        )
        try:
            if first_step == 0 or _is_due(first_step, settings.evaluate_every):
                self._evaluate()
            while (reason := self._reason_to_stop()) is None:
                self._step()
                if self._progress.skipped_in_a_row >= settings.max_skipped_in_a_row:
                    raise divergence(self._progress.skipped_in_a_row, self.save())
                if _is_due(self._progress.step, settings.checkpoint_every):
                    self._save_if_possible()
                if _is_due(self._progress.step, settings.evaluate_every):
                    self._evaluate()
            path = self.save()
        except Abandoned:
            raise
        except KeyboardInterrupt:
            if self._engine.num_ranks == 1:  # others would not come to save their part
                self.save()
            raise
        if reason != "interrupted" and not _is_due(self._progress.step, settings.evaluate_every):
            self._evaluate()
        if self._is_interrupted():
            reason = "interrupted"  # also where the signal came during the last evaluation
        finished = events.Finished(
            step=self._progress.step,
            seconds=self._progress.seconds,
            reason=reason,
            checkpoint=path,
        )
        self._emit(finished)
        return finished

    def _step(self) -> None:
        """Fill the buffer where it is used up, take a gradient step, and tell of it."""
        started, progress, buffers = time.perf_counter(), self._progress, self._buffers
        update = progress.step % self._settings.updates_per_buffer
        if update == 0 or not buffers:
            experience, num_taken = self._fill_buffer()
            buffers = (experience, *buffers)[: self._settings.replay_buffers]
            progress = replace(progress, cursor=progress.cursor + num_taken)
        self._engine.meet(f"step {progress.step + 1}")
        experience, number = self._settings.turn(buffers, update)
        batch, losses = self._gradient.add_up(experience, number, progress.step)
        # Until here the run is as it was after the step before; behind here it is one further.
        with self._interruption.held():
            with self._meter.phase("optimizer"):
                done = self._engine.update(losses["total"])
            self._buffers = buffers
            size = experience.rollouts.num_rows
            metrics = self._step_metrics(batch, losses, done, size=size)
            self._advance(progress, done, metrics, seconds=time.perf_counter() - started)

    def _fill_buffer(self) -> tuple[Experience, int]:
        """Take B prompts, N rollouts each, rewards, and freeze what the objective needs.

        Returns:
            The buffer, and how many prompts it used up.
        """
        parts, settings, step = self._parts, self._settings, self._progress.step
        parts.reward.begin_step(step)
        # The frozen reference has the precision of the live policy, whose forward pass casts.
        precision = self._engine.accelerator.autocast()
        with self._engine.weights.gathered():
            filled = self._filler.fill(self._progress.cursor, step)
            rollouts, rewards = filled.rollouts, filled.rewards
            generator = self._generator("prepare", rollouts)
            with self._meter.phase("prepare"), torch.no_grad(), precision:
                experience = parts.objective.prepare(parts.policy, rollouts, rewards, generator)
            drift = self._drift(rollouts)
        experience = replace(experience, metrics={**experience.metrics, **drift})
        if settings.flat_groups == "replace":
            counts = {"discarded_groups": float(filled.num_discarded)}
            experience = replace(experience, metrics={**experience.metrics, **counts})
        self._buffer_metrics = self._figures(experience)
        row = step // settings.updates_per_buffer % rollouts.num_prompts
        self._emit(
            events.BufferFilled(
                step=step,
                experience=experience,
                metrics=self._buffer_metrics,
                sample=unmasked_sample(parts.policy, rollouts, rewards.total, row=row),
                decode=parts.policy.decode,
                warnings=(
                    *missing_warnings(self._buffer_metrics),
                    *log_ratio_warnings(self._buffer_metrics),
                ),
            )
        )
        if settings.offload_buffers:
            experience = pinned(experience)
        return experience, filled.num_prompts_taken

    def _drift(self, rollouts: Rollouts) -> Mapping[str, float]:
        """Measure how far the policy has come from its reference, where it is time to."""
        settings, step = self._settings, self._progress.step
        if not is_drift_due(step, settings.measure_drift_every, settings.updates_per_buffer):
            return {}
        with self._meter.phase("drift"), self._engine.accelerator.autocast():
            return measure_drift(
                self._parts.policy,
                first_rollouts(rollouts, settings.drift_rows),
                self._generator("drift", rollouts),
                rows_per_forward=settings.likelihood_rows or settings.rows_per_forward,
            )

    def _figures(self, experience: Experience) -> dict[str, float]:
        figures = buffer_metrics(experience, self._parts.task)
        # Where drift is measured, one curve is not made of two estimators.
        if self._settings.measure_drift_every and "drift/kl_reference" not in experience.metrics:
            figures.pop("drift/kl_reference", None)
        means = self._engine.mean(figures, size=float(experience.rollouts.num_prompts))
        # A component that no rollout has is no figure; every process has its name, though.
        return {name: mean for name, mean in means.items() if not math.isnan(mean)}

    def _step_metrics(
        self, batch: Batch, losses: dict[str, float], update: Update, *, size: int
    ) -> dict[str, float]:
        figures = step_metrics(batch)
        if not batch.num_rows and self._engine.num_ranks > 1:
            figures |= dict.fromkeys(("weights/real_max", "weights/real_min"), math.nan)
        return {
            **self._engine.mean(figures, size=float(size)),
            **{f"loss/{name}": value for name, value in losses.items()},
            "optimizer/gradient_norm": update.gradient_norm,
            "optimizer/learning_rate": update.learning_rate,
        }

    def _advance(
        self,
        before: Progress,
        update: Update,
        metrics: dict[str, float],
        *,
        seconds: float,
    ) -> None:
        """Count the step and tell of it."""
        totals = self._meter.take()
        now = replace(
            before,
            step=before.step + 1,
            skipped_steps=before.skipped_steps + update.is_skipped,
            skipped_in_a_row=before.skipped_in_a_row + 1 if update.is_skipped else 0,
            seconds=before.seconds + seconds - totals.seconds["drift"],
            model_tokens=before.model_tokens + self._engine.total(model_tokens(totals.tokens)),
            model_flops=before.model_flops
            + self._engine.total(sum(of_training(totals.flops).values())),
            micro_batch_rows=self._gradient.sizes[0],
            micro_batch_views=self._gradient.sizes[1],
        )
        self._progress = now
        so_far = {
            "optimizer/skipped_steps": float(now.skipped_steps),
            "tokens/model_total": float(now.model_tokens),
            "flops/total": float(now.model_flops),
            "time/total": now.seconds,
        }
        phases = {**self._engine.mean(phase_metrics(totals)), **so_far}
        left = self._settings.seconds_left(
            now.step, now.seconds, model_tokens=now.model_tokens, model_flops=now.model_flops
        )
        self._emit(
            events.StepDone(
                step=now.step,
                num_steps=self._settings.num_steps,
                metrics={**self._buffer_metrics, **metrics, **phases},
                seconds=now.seconds,
                seconds_left=left,
                evaluation_seconds_left=self._evaluation_seconds_left(left),
            )
        )

    def _evaluation_seconds_left(self, seconds_left: float) -> float | None:
        """Return the estimated seconds of evaluations to come; None: not known yet."""
        if self._evaluator is None:
            return 0.0
        known, now = self._evaluation_seconds, self._progress
        if not known:
            return None
        last = now.step + round(seconds_left * now.step / max(1e-9, now.seconds))
        count = evaluations_to_come(now.step, last, self._settings.evaluate_every)
        return count * sum(known) / len(known)

    def _evaluate(self) -> None:
        """Measure the policy; a signal breaks it off, and it is made up for on resuming."""
        evaluator = self._evaluator
        if evaluator is None or self._is_interrupted():
            return
        started = time.perf_counter()
        with self._meter.phase("evaluation"):
            result = evaluate_run(
                evaluator,
                self._parts.policy,
                seed=self._seed,
                engine=self._engine,
                interruption=self._interruption,
            )
        if result is not None:
            self._evaluation_seconds.append(time.perf_counter() - started)
            self._emit(events.EvaluationDone(step=self._progress.step, result=result))

    def save(self) -> Path:
        """Write a checkpoint of this very moment, if there is none, and return where it is.

        Raises:
            OutputError: If it cannot be written; the checkpoints before it stay.
        """
        settings = self._settings
        is_within = self._progress.step % settings.updates_per_buffer != 0
        needed = self._buffers if is_within else self._buffers[: settings.replay_buffers - 1]
        with self._interruption.held():
            return self._checkpoints.save(self._progress, needed)

    def _save_if_possible(self) -> None:
        try:
            self.save()
        except OutputError as error:
            if self._settings.on_save_error == "stop":
                raise
            self._warn(f"no checkpoint: {error}")

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint as if the run had never stopped.

        Raises:
            CheckpointError: If it is damaged, or of a run with another seed or other sizes.
            ConfigError: If another run is writing to the run directory.
        """
        if self._engine.is_main:
            self._directory.claim()
        self._progress, self._buffers = self._checkpoints.load(path)
        self._gradient.restore(self._progress.micro_batch_rows, self._progress.micro_batch_views)
        if self._settings.offload_buffers:
            self._buffers = tuple(pinned(buffer) for buffer in self._buffers)
        self._is_restored = True
        if self._buffers:
            self._buffer_metrics = self._figures(self._buffers[0])

    def _generator(self, purpose: str, rollouts: Rollouts) -> torch.Generator:
        return group_generator(self._seed, self._progress.step, purpose, rollouts.prompts)

    def _reason_to_stop(self) -> events.StopReason | None:
        settings, progress = self._settings, self._progress
        seconds = progress.seconds
        is_boundary = progress.step % settings.updates_per_buffer == 0
        if settings.max_seconds is not None and is_boundary:  # processes' clocks differ
            seconds = self._engine.mean({"seconds": seconds})["seconds"]
        reason = settings.limit_reached(
            progress.step,
            model_tokens=progress.model_tokens,
            model_flops=progress.model_flops,
            seconds=seconds,
        )
        return "interrupted" if reason != "num_steps" and self._is_interrupted() else reason

    def _is_interrupted(self) -> bool:
        return self._engine.is_true_anywhere(self._interruption.signal is not None)

    def _tracker(self, trackers: Trackers) -> Tracker:
        engine = self._engine
        environment = environment_record(
            self._seed, self._command, self._parts.policy.device, engine.num_ranks
        )
        return Tracker(
            self._directory.path,
            engine.accelerator,
            trackers,
            first_step=self._progress.step,
            sample_every=self._settings.sample_every,
            config_text=self._config_text,
            environment=environment,
        )

    def _warn(self, text: str) -> None:
        self._emit(events.Warned(step=self._progress.step, text=text))

    def _emit(self, event: events.Event) -> None:
        for observer in self._observers:
            observer.notify(event)


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step > 0 and step % every == 0
