"""Runs of a comparison at equal compute: an arm, a seed, a budget in model tokens.

A model token is one position run forward once; a backward pass counts 2 more. Rollouts,
likelihoods and losses all count; evaluations do not. A run stops at the first step that reaches
its budget. On its way, at fixed marks of the budget, the policy is measured on held-out
problems, always with the same random draws, so that curves against compute can be drawn.

On digit_sum all 10^4 responses to a few held-out prompts are enumerated at the end: accuracy,
effective right answers exp(H) and KL(p* ‖ p_θ) at α = 0.1, without sampling noise.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.provenance import versions
from dmpo.config.assembly import build_evaluator, build_light_parts, build_training_parts
from dmpo.config.layers import assigned, sourced, stacked
from dmpo.config.recipes import recipe_chain
from dmpo.config.resolve import resolve_run
from dmpo.config.run import RunConfig
from dmpo.evaluation.evaluator import Evaluator
from dmpo.files import replace_text
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Split
from dmpo.registry import POLICIES
from dmpo.registry import TASKS as TASK_REGISTRY
from dmpo.tasks.base import Task
from dmpo.training.events import Event, StepDone
from dmpo.training.randomness import generator_for
from dmpo.training.tracker_kinds import TrackingSettings
from dmpo.training.trainer import Trainer
from tests.oracles.enumeration import answer_table, exact_figures, response_probabilities

RESULTS = Path(__file__).parent / "results"
DIGITS = "0123456789"
ENUMERATED = 6
"""Prompts of digit_sum whose responses are enumerated."""
EXACT_ALPHA = 0.1
"""Temperature of the target that the enumeration compares with, the same for every arm."""
NUM_MARKS = 8
"""Measurements on the way, evenly over the budget."""
ON_THE_WAY = {"digit_sum": (48, 8), "sudoku": (128, 1)}
"""Problems and samples of each that a measurement on the way takes; the last takes all."""

COMMON: Mapping[str, Mapping[str, Any]] = {
    "digit_sum": {
        "training.prompts_per_buffer": 16,
        "training.rollouts_per_prompt": 16,
        "training.updates_per_buffer": 8,
        "evaluation.samples_per_prompt": 16,
        "evaluation.num_examples": 96,
    },
    "sudoku": {
        "training.prompts_per_buffer": 16,
        "training.rollouts_per_prompt": 8,
        "training.updates_per_buffer": 8,
        "evaluation.num_examples": 256,
    },
}
"""What every arm shares: the size of a buffer, and what is measured."""
HEADLINE = {"digit_sum": "right", "sudoku": "puzzles"}
LOGGED = (
    "reward/mean",
    "weights/ess",
    "weights/kept",
    "log_ratio/standard_error",
    "log_ratio/reward_spread",
    "rollout/negative_log_prob",
    "rollout/entropy",
    "rollout/unique_right_answers",
    "rollout/unique_answers",
)


class _EnoughError(Exception):
    """The budget is used up."""


def key(job: Mapping[str, Any]) -> str:
    """Return what tells one run from another."""
    return json.dumps(job, sort_keys=True)


def finished(path: Path | None) -> dict[str, dict]:
    """Return the runs that a file of results holds."""
    if path is None or not path.exists():
        return {}
    return {key(run["job"]): run for run in json.loads(path.read_text(encoding="utf-8"))["runs"]}


def run_all(jobs: Sequence[dict], path: Path | None, *, processes: int) -> list[dict]:
    """Run what is not finished yet, keep every run at once, and return all in order."""
    done = finished(path)
    left = [job for job in jobs if key(job) not in done]
    for job in left:
        build_light_parts(config_of(job))  # a contradiction shows before any run has begun
    print(f"{len(jobs) - len(left)} runs are there, {len(left)} to go", flush=True)
    for record in in_processes(run, left, processes):
        # Several calls may share a file: what others have added stays.
        done = {**done, **finished(path), key(record["job"]): record}
        print(line(record), flush=True)
        if path is not None:
            keep(path, done)
    return [done[key(job)] for job in jobs]


def keep(path: Path, done: Mapping[str, dict]) -> None:
    """Write all runs, one a line."""
    runs = ",\n".join(json.dumps(one) for one in done.values())
    text = f'{{"versions": {json.dumps(dict(versions()))},\n"runs": [\n{runs}\n]}}\n'
    replace_text(path, text)


def line(record: Mapping[str, Any]) -> str:
    """Return a run in one line."""
    job = record["job"]
    figures = ", ".join(f"{name} {value:.3f}" for name, value in record["figures"].items())
    what = f"{job['task']} {job['arm']} seed {job['seed']}"
    return f"{what}: {figures}; {record['tokens'] / 1e6:.2f} M tokens, {record['seconds']} s"


def in_processes(
    run: Callable[[dict], dict], jobs: Sequence[dict], processes: int
) -> Iterator[dict]:
    """Yield the record of each job as it is finished; one thread a process."""
    if processes == 1:
        torch.set_num_threads(1)
        yield from map(run, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.imap_unordered(run, jobs)


def run(job: dict) -> dict:
    """Train as the job says and return its figures, and its curve.

    A job has: task, arm (its name), settings (dotted), seed, budget (model tokens; 0: only
    measure), split; and, if not the usual, marks (measurements on the way) and exact
    (whether to enumerate at the end).
    """
    started = time.perf_counter()
    config = config_of(job)
    light = build_light_parts(config)
    parts = build_training_parts(config, light)
    evaluator = build_evaluator(config.evaluation, light.task)
    log = _Log(job, _sketch(config, light.task), parts.policy)
    if job["budget"]:
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                parts,
                config.training,
                seed=config.seed,
                run_directory=Path(folder) / "run",
                observers=[log],
                tracking=TrackingSettings(trackers=()),
            )
            with contextlib.suppress(_EnoughError):
                trainer.train()
    figures = measure(evaluator, parts.policy)
    if job["task"] == "digit_sum" and job.get("exact", True):
        figures |= exact(parts.policy, light.task, job["split"])
    return {
        "job": job,
        "figures": {name: round(value, 5) for name, value in figures.items()},
        "curve": log.curve,
        "training": log.steps,
        "tokens": log.tokens,
        "flops": log.flops,
        "training_seconds": round(log.seconds, 2),
        "seconds": round(time.perf_counter() - started, 1),
    }


def config_of(job: Mapping[str, Any]) -> RunConfig:
    """Return the resolved settings of a job."""
    shared: dict[str, Any] = {
        **COMMON[job["task"]],
        "seed": job["seed"],
        "training.num_steps": 100_000,
        "evaluation.split": job["split"],
    }
    layers = list(recipe_chain(job["task"]).layers)
    tree = sourced({}, "benchmark")
    for path, value in {**shared, **job["settings"]}.items():
        tree = stacked(tree, assigned(path, value, "benchmark"))
    return resolve_run([*layers, tree]).config


def _sketch(config: RunConfig, task: Task) -> Evaluator:
    """Return an evaluator of fewer problems."""
    num_examples, samples = ON_THE_WAY[config.task.name]
    changes = {"num_examples": num_examples, "samples_per_prompt": samples}
    return build_evaluator(config.evaluation.model_copy(update=changes), task)


def measure(evaluator: Evaluator, policy: DiffusionPolicy) -> dict[str, float]:
    """Return sampled figures on the held-out problems."""
    result = evaluator.evaluate(policy, generator_for(0, 0, 0, "evaluation"))
    figures = {name: figure.mean for name, figure in result.figures.items() if "@" not in name}
    if result.distinct_right is not None:
        figures["distinct right"] = result.distinct_right
    return figures


class _Log:
    """Keeps the curve against compute, and of each buffer what says whether weights mean much."""

    def __init__(
        self, job: Mapping[str, Any], evaluator: Evaluator, policy: DiffusionPolicy
    ) -> None:
        self._job = job
        self._evaluator = evaluator
        self._policy = policy
        self.curve: list[dict[str, float]] = []
        self.steps: list[dict[str, float]] = []
        self.tokens = 0.0
        self.flops = 0.0
        self.seconds = 0.0
        self._last: dict[str, float] = {}

    def notify(self, event: Event) -> None:
        if not isinstance(event, StepDone):
            return
        self.tokens, self.seconds = event.metrics["tokens/model_total"], event.seconds
        self.flops = event.metrics.get("flops/total", 0.0)
        kept = {n: round(event.metrics[n], 4) for n in LOGGED if n in event.metrics}
        if kept != self._last:
            self.steps.append({"step": event.step, "tokens": self.tokens, **kept})
            self._last = kept
        budget, marks = self._job["budget"], self._job.get("marks", NUM_MARKS)
        # Where settings are chosen, only the end counts.
        is_mark = self.tokens >= budget * (len(self.curve) + 1) / marks
        if is_mark and self._job["split"] == "test":
            figures = measure(self._evaluator, self._policy)
            point = {"step": event.step, "tokens": self.tokens, "flops": self.flops}
            point |= {"seconds": round(self.seconds, 2)}
            self.curve.append({**point, **{n: round(v, 4) for n, v in figures.items()}})
        if self.tokens >= budget:
            raise _EnoughError


def exact(
    policy: DiffusionPolicy,
    task: Task,
    split: Split,
    *,
    alpha: float = EXACT_ALPHA,
    num_prompts: int = ENUMERATED,
) -> dict[str, float]:
    """Return figures by enumeration, means over the first prompts of a split."""
    examples = task.examples(split)[:num_prompts]
    each = [
        exact_figures(
            _probabilities(policy, example),
            reference,
            answer_table(task, example, DIGITS, task.response_length).is_right,
            alpha,
        )
        for example, reference in zip(examples, _references(split, num_prompts), strict=True)
    ]
    return {
        "exact accuracy": statistics.mean(one.accuracy for one in each),
        "effective right answers": statistics.mean(one.effective_answers for one in each),
        "divergence": statistics.mean(one.divergence for one in each),
    }


@functools.cache
def _references(split: Split, num_prompts: int) -> list[torch.Tensor]:
    """Return the probabilities of the policy before training; one pass for all runs."""
    policy = POLICIES.build("llada")
    task = TASK_REGISTRY.build("digit_sum")
    return [_probabilities(policy, example) for example in task.examples(split)[:num_prompts]]


def _probabilities(policy: DiffusionPolicy, example: Example) -> torch.Tensor:
    alphabet = policy.encode_completions([DIGITS], len(DIGITS))[0]
    return response_probabilities(policy, example, alphabet, 4).flatten()
