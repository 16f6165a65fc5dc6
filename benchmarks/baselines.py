"""The paper's Figure 4 in miniature: its target at small batch, with each baseline, over seeds.

    python benchmarks/baselines.py --name baselines --jobs 2    # 84 runs, most of a minute each
    python benchmarks/baselines.py --tasks sudoku --seeds 0 --steps 8 --problems 32
    python benchmarks/baselines.py --split validation ...       # to choose settings

Two temperatures of the target: at α = 0.05 rewards differ by several nats inside a group, and a
softmax over it gives bad rollouts a weight near 0; at α = 0.2 by about one, and every rollout
gets a positive weight that matters, which is what the paper's baselines are for.

Sudoku has one right answer to a problem and is scored by it; digit_sum has up to 344, so there
the distinct right answers among samples are counted, and on a few held-out prompts all 10^4
responses are enumerated: accuracy, diversity and KL(p* ‖ p_θ) without sampling noise.

A run is a function of task, baseline and seed (one seed: the same prompts, the same first
buffer). With --name, each finished run is kept in results/NAME.json at once, and the next call
with the same settings goes on from there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.arms import exact, finished, in_processes, keep, key
from benchmarks.provenance import provenance
from dmpo.config.assembly import build_evaluator, build_light_parts, build_training_parts
from dmpo.config.layers import sourced
from dmpo.config.recipes import recipe_chain
from dmpo.config.resolve import resolve_run
from dmpo.config.run import RunConfig
from dmpo.files import replace_text
from dmpo.policies.base import DiffusionPolicy
from dmpo.reporting.intervals import mean_interval
from dmpo.tasks.base import Task
from dmpo.training.events import Event, StepDone
from dmpo.training.randomness import generator_for
from dmpo.training.tracker_kinds import TrackingSettings
from dmpo.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results"
BASELINES = ("none", "mean", "individual", "model")
DIGITS = "0123456789"
ALPHAS = (0.05, 0.2)
LIKELIHOOD = {"name": "elbo", "num_views": 4, "antithetic": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What differs from task to task; chosen on the validation split."""

    learning_rate: float
    num_steps: int
    num_problems: int
    """Of the split, at most."""


TASKS: Mapping[str, Size] = {
    "sudoku": Size(learning_rate=2e-4, num_steps=64, num_problems=256),
    # At 5e-4 the noise of the log-ratio reaches 4 nats and every baseline falls behind the start.
    "digit_sum": Size(learning_rate=1e-4, num_steps=32, num_problems=64),
}
TRAINING = {"prompts_per_buffer": 8, "rollouts_per_prompt": 8, "updates_per_buffer": 8}
ENUMERATED = 4
"""Prompts of digit_sum whose responses are enumerated."""
SHOWN = {
    "sudoku": {"cells": "cells", "puzzles": "puzzles"},
    "digit_sum": {
        "right": "right, sampled",
        "distinct right answers": "distinct right of 64",
        "exact accuracy": "right, exact",
        "effective right answers": "effective right answers",
        "divergence": "KL(p* ‖ p_θ)",
    },
}
"""Figures of a run in the order of the table, and what heads their columns."""


def main() -> None:
    options = parse(sys.argv[1:])
    path = RESULTS / f"{options.name}.json" if options.name else None
    done = finished(path)
    jobs = [job for job in _jobs(options) if key(job) not in done]
    print(f"{len(done)} runs are there, {len(jobs)} to go")
    for record in in_processes(run, jobs, options.jobs):
        done[key(record["job"])] = record
        print(_line(record), flush=True)
        if path is not None:
            keep(path, done)
    wanted = [done[key(job)] for job in _jobs(options)]
    text = report(wanted, options)
    print(text)
    if options.name:
        replace_text(RESULTS / f"{options.name}.md", text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--baselines", nargs="+", choices=BASELINES, default=list(BASELINES))
    parser.add_argument("--alphas", type=float, nargs="+", default=list(ALPHAS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, help="gradient steps of each run")
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--problems", type=int, help="at most, of the split")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--name", help="keep runs in results/NAME.json and write NAME.md")
    parser.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("PATH", "JSON"),
        help="another setting, to choose settings with: training.learning_rate 1e-4",
    )
    return parser.parse_args(arguments)


def _jobs(options: argparse.Namespace) -> Iterator[dict]:
    """Yield everything that decides a run's figures; baseline None is the policy before."""
    for task, alpha in itertools.product(options.tasks, options.alphas):
        shared = {
            "task": task,
            "split": options.split,
            "problems": options.problems or TASKS[task].num_problems,
            "settings": _settings(task, alpha, options.steps, options.set),
        }
        yield {**shared, "baseline": None, "seed": 0}
        for seed, baseline in itertools.product(options.seeds, options.baselines):
            yield {**shared, "baseline": baseline, "seed": seed}


def _settings(task: str, alpha: float, steps: int | None, extra: Sequence[tuple[str, str]]) -> dict:
    size = TASKS[task]
    settings = {
        "task": task,
        "likelihood": LIKELIHOOD,
        "ratio_likelihood": None,
        "weights": {"name": "tilted", "alpha": alpha, "coefficient": 1.0},
        "training": {
            **TRAINING,
            "learning_rate": size.learning_rate,
            "num_steps": steps or size.num_steps,
        },
    }
    for path, value in extra:
        section, _, key = path.partition(".")
        given = json.loads(value)
        settings[section] = {**settings.get(section, {}), key: given} if key else given
    return settings


def run(job: dict) -> dict:
    """Train as the job says and return its figures, and what the training itself measured."""
    started = time.perf_counter()
    config = _config(job)
    light = build_light_parts(config)
    parts = build_training_parts(config, light)
    log = Log()
    if job["baseline"] is not None:
        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                parts,
                config.training,
                seed=config.seed,
                run_directory=Path(folder) / "run",
                observers=[log],
                tracking=TrackingSettings(trackers=()),
            ).train()
    figures = evaluate(config, parts.policy, light.task)
    return {
        "job": job,
        "figures": figures,
        "training": log.steps,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _config(job: Mapping[str, Any]) -> RunConfig:
    changes = {
        **job["settings"],
        "seed": job["seed"],
        "baseline": job["baseline"] or "none",
        "evaluation": {"split": job["split"], "num_examples": job["problems"]},
    }
    layers = [*recipe_chain(job["task"]).layers, sourced(changes, "benchmark")]
    return resolve_run(layers).config


class Log:
    """Keeps, for the first step of each buffer, what says whether weights mean anything."""

    NAMES = ("reward/mean", "weights/ess", "log_ratio/standard_error", "log_ratio/reward_spread")

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def notify(self, event: Event) -> None:
        if isinstance(event, StepDone):
            kept = {name: event.metrics[name] for name in self.NAMES if name in event.metrics}
            row = {"step": event.step, **{name: round(value, 4) for name, value in kept.items()}}
            if not self.steps or self._is_new(row):
                self.steps.append(row)

    def _is_new(self, row: Mapping[str, float]) -> bool:
        return {**row, "step": 0} != {**self.steps[-1], "step": 0}


def evaluate(config: RunConfig, policy: DiffusionPolicy, task: Task) -> dict[str, float]:
    """Return sampled figures, and on digit_sum the exact ones, means over prompts."""
    evaluator = build_evaluator(config.evaluation, task)
    result = evaluator.evaluate(policy, generator_for(0, 0, 0, "evaluation"))
    figures = {name: figure.mean for name, figure in result.figures.items()}
    if config.task.name == "digit_sum":
        figures["distinct right answers"] = result.distinct_right
        alpha = config.weights.parameters["alpha"]
        split = config.evaluation.split
        figures |= exact(policy, task, split, alpha=alpha, num_prompts=ENUMERATED)
    return figures


def _line(record: dict) -> str:
    job = record["job"]
    figures = ", ".join(f"{name} {value:.3f}" for name, value in record["figures"].items())
    what = f"{job['task']} α {_alpha(job)} {job['baseline']} seed {job['seed']}"
    return f"{what}: {figures}; {record['seconds']} s"


def _alpha(job: Mapping[str, Any]) -> float:
    return job["settings"]["weights"]["alpha"]


def report(records: Sequence[dict], options: argparse.Namespace) -> str:
    """Return tables of mean and 95% t-interval over seeds, and of paired differences."""
    count = f"{len(options.seeds)} seed" + "s" * (len(options.seeds) > 1)
    lines = [
        "# Weight baselines at small batch",
        "",
        "The paper's target (softmax weights, ELBO with four antithetic views in weights and "
        f"loss), B = {TRAINING['prompts_per_buffer']}, N = {TRAINING['rollouts_per_prompt']}, F = "
        f"{TRAINING['updates_per_buffer']}, on the tiny LLaDA inside the package, "
        f"{options.split} split. Mean ± half of the 95% t-interval over "
        f"{count}. A seed gives every baseline the same prompts and the same first buffer, so the "
        "second table "
        "of each pair takes differences within a seed: an interval that does not hold 0 is one "
        "baseline's doing.",
        "",
    ]
    for task, alpha in itertools.product(options.tasks, options.alphas):
        chosen = [r for r in records if r["job"]["task"] == task and _alpha(r["job"]) == alpha]
        training = chosen[0]["job"]["settings"]["training"]
        lines += [
            f"## {task}, α = {alpha}",
            "",
            f"{training['num_steps']} gradient steps, learning rate {training['learning_rate']}, "
            f"{chosen[0]['job']['problems']} problems.",
            "",
            *_section(task, chosen, options.baselines),
        ]
    seconds = sum(record["seconds"] for record in records)
    lines += [*provenance(), f"- {len(records)} runs, {seconds:.0f} s in all (added up)", ""]
    return "\n".join(lines)


def _section(task: str, records: Sequence[dict], baselines: Sequence[str]) -> list[str]:
    (before,) = (record for record in records if record["job"]["baseline"] is None)
    columns = [name for name in SHOWN[task] if name in before["figures"]]
    head = " | ".join(SHOWN[task][name] for name in columns)
    rule = "| --- |" + " --- |" * len(columns)
    start = " | ".join(f"{before['figures'][name]:.3g}" for name in columns)
    values = {
        (baseline, name): _over_seeds(records, baseline, name)
        for baseline, name in itertools.product(baselines, columns)
    }
    lines = [f"| baseline | {head} | ESS | noise | spread |", rule + " --- |" * 3]
    lines.append(f"| (before) | {start} | | | |")
    for baseline in baselines:
        cells = [interval(values[baseline, name]) for name in columns]
        lines.append(f"| {baseline} | {' | '.join(cells)} | {_noise(records, baseline)} |")
    lines += [
        "",
        "While training, means over buffers but the first: ESS, effective sample size of the "
        "weights (share of N); noise, standard error of log p_ref − log p_v; spread, standard "
        "deviation of r/α inside a group (both in nats).",
        "",
    ]
    others = [baseline for baseline in baselines if baseline != "none"]
    if not others or "none" not in baselines:
        return lines
    lines += [f"| minus `none` | {head} |", rule]
    for baseline in others:
        pairs = [zip(values[baseline, name], values["none", name], strict=True) for name in columns]
        cells = [interval([one - other for one, other in pair]) for pair in pairs]
        lines.append(f"| {baseline} | {' | '.join(cells)} |")
    return [*lines, ""]


def _over_seeds(records: Sequence[dict], baseline: str, name: str) -> list[float]:
    return [r["figures"][name] for r in records if r["job"]["baseline"] == baseline]


def _noise(records: Sequence[dict], baseline: str) -> str:
    names = Log.NAMES[1:]
    rows = [row for r in records if r["job"]["baseline"] == baseline for row in r["training"][1:]]
    return " | ".join(
        f"{statistics.mean(row[name] for row in rows):.2f}" if rows else "–" for name in names
    )


def interval(values: Sequence[float]) -> str:
    """Return mean ± half of the 95% interval of Student's t."""
    found = mean_interval(values)
    digits = 3 if abs(found.mean) < 1 else 2 if abs(found.mean) < 10 else 1
    if found.half_width is None:
        return f"{found.mean:.{digits}f}"
    return f"{found.mean:.{digits}f} ± {found.half_width:.{digits}f}"


if __name__ == "__main__":
    main()
