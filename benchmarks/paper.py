"""The paper's questions on the tiny testbeds: 5 seeds, equal compute, results and plots kept.

    python benchmarks/paper.py --stage tune --jobs 2            # learning rates, validation split
    python benchmarks/paper.py --stage test --jobs 2            # everything, 5 seeds, test split
    python benchmarks/paper.py --stage test --parts objectives --tasks sudoku
    python benchmarks/paper.py --stage report                   # results/paper.md and its plots

Parts: `versus` (DMPO against diffu-GRPO at equal steps and at equal compute), `updates` (F = 1 to
24), `groups` (N = 4 to 32 at equal B·N), `samplers` (fast ones against roar), `objectives` (all of
them). The runs of `versus` are `benchmarks/noise.py`'s; the other parts have half its budget. The
baseline ablation is `benchmarks/baselines.py`; entropy against reward is drawn from `versus`.

Every arm gets its own learning rate, the one of the best headline at the end of the budget on
validation problems (seed 0); arms that differ only in F, N or sampler from DMPO share DMPO's.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import noise
from benchmarks.arms import COMMON, HEADLINE, RESULTS, run_all
from benchmarks.arms_report import (
    compute_to_reach,
    figure,
    mean_curve,
    mean_figure,
    steps_and_figure,
    table,
)
from benchmarks.noise import LOSS, TEST_SEEDS, best_rates, of_chosen_rates
from benchmarks.provenance import provenance
from dmpo.files import replace_text

NOISE = RESULTS / "noise.json"
BUDGET = {task: tokens / 2 for task, tokens in noise.BUDGET.items()}
RATES = {"digit_sum": (5e-5, 1e-4, 2e-4), "sudoku": (1e-4, 2e-4, 5e-4)}
NUM_MARKS = 4
VERSUS = {
    "dmpo": "softmax, path, none, α .02, c .2",
    "dmpo, replay of 2": "replay of 2: softmax, path, none, α .02, c .2",
    "dmpo, the paper's form": noise.PAPER_FORM,
    "dmpo, α 0 (rejection sampling)": "α 0, η 10, none (rejection sampling)",
    "diffu_grpo": "diffu-GRPO, β 0",
}
"""Arms of `benchmarks/noise.py` that `versus` reports, by their names here."""
PARTS = ("updates", "groups", "samplers", "objectives")
HEADINGS = {
    "updates": "F, gradient steps on one buffer",
    "groups": "N, rollouts of one prompt, at equal B·N",
    "samplers": "Fast samplers against the random order",
    "objectives": "All objectives",
}
PLAIN = {"likelihood": {"name": "mean_field", "prompt_mask": 0.0}, "objective.beta": 0.0}
ON_POLICY = {"training.updates_per_buffer": 1}
MOST_LINES = 8
LEFT_TO_RIGHT = {"name": "roar", "block_length": 1, "tokens_per_step": 1}
GIVEN_STEPS = {"digit_sum": 4, "sudoku": 8}
"""Views of an objective that looks at states of the path: all there are."""


def dmpo(task: str) -> dict[str, Any]:
    """Return DMPO as `--objective dmpo` has it by default, on the likelihood of the task's loss."""
    return {
        "likelihood": LOSS[task],
        "ratio_likelihood": "path",
        "weights": {"name": "tilted", "alpha": 0.02, "coefficient": 0.2},
        "baseline": "none",
        "training.skip_below": 0.02,
    }


def paper_form(task: str) -> dict[str, Any]:
    """Return DMPO as the paper has it."""
    return {
        "likelihood": LOSS[task],
        **noise.ARMS[noise.PAPER_FORM],
    }


def objectives(task: str) -> Mapping[str, dict[str, Any]]:
    """Return every objective with the settings that its authors would give it here."""
    steps = GIVEN_STEPS[task]
    named: dict[str, dict[str, Any]] = {
        "dmpo": dmpo(task),
        "dmpo, the paper's form": paper_form(task),
        "diffu_grpo": {"objective": "diffu_grpo", **PLAIN},
        "just_grpo": {"objective": "just_grpo", "sampler": LEFT_TO_RIGHT, **ON_POLICY},
        "trace_rl": {"objective": "trace_rl"},
        "egspo": {"objective": "egspo", "likelihood.num_views": steps},
        "rldf": {"objective": "rldf"},
        "spg": {"objective": "spg"},
        "wd1pp": {"objective": "wd1pp"},
    }
    others = ("wddo", "coupled_grpo", "unigrpo", "espo", "bgpo", "vrpo", "gdsd", "wd1")
    named |= {name: {"objective": name} for name in others}
    return named


def variations(task: str, part: str) -> Mapping[str, dict[str, Any]]:
    """Return DMPO with one thing changed."""
    base, size = dmpo(task), {"digit_sum": 256, "sudoku": 128}[task]
    if part == "updates":
        return {
            f"F = {n}": {**base, "training.updates_per_buffer": n} for n in (1, 2, 4, 8, 16, 24)
        }
    if part == "groups":
        return {
            f"N = {n}": {
                **base,
                "training.rollouts_per_prompt": n,
                "training.prompts_per_buffer": size // n,
            }
            for n in (4, 8, 16, 32)
        }
    noisy = {"ratio_likelihood": {"name": "elbo", "num_views": 4, "antithetic": True}}
    half = {"digit_sum": 2, "sudoku": 4}[task]
    fast: dict[str, dict[str, Any]] = {
        "roar, the task's own": {},
        "roar, twice the tokens a step": {
            "sampler.tokens_per_step": {"digit_sum": 2, "sudoku": 4}[task]
        },
        "peaked": {"sampler": {"name": "peaked", "steps": half}},
        "entropy_bound": {"sampler": {"name": "entropy_bound", "gamma": 0.5}},
        "low_confidence": {"sampler": {"name": "low_confidence", "steps": half}, **noisy},
        "threshold": {"sampler": {"name": "threshold", "threshold": 0.9}, **noisy},
    }
    return {name: {**base, **changes} for name, changes in fast.items()}


def arms(task: str, part: str) -> Mapping[str, dict[str, Any]]:
    """Return the arms of a part by name, without what every run of the task has anyway."""
    named = objectives(task) if part == "objectives" else variations(task, part)
    return {
        name: {key: value for key, value in settings.items() if COMMON[task].get(key) != value}
        for name, settings in named.items()
    }


def job(task: str, arm: str, settings: Mapping[str, Any], seed: int, split: str) -> dict:
    """Return a run of half the budget, without enumeration."""
    return {
        "task": task,
        "arm": arm,
        "settings": dict(settings),
        "seed": seed,
        "budget": BUDGET[task],
        "split": split,
        "marks": NUM_MARKS,
        "exact": False,
    }


def tuning_jobs(
    tasks: Sequence[str], names: Sequence[str] | None, rates: Sequence[float] | None
) -> Iterator[dict]:
    """Yield the runs that choose a learning rate for each objective."""
    for task in tasks:
        of_task = rates or RATES[task]
        for (arm, settings), rate in itertools.product(arms(task, "objectives").items(), of_task):
            if names is not None and arm not in names:
                continue
            yield job(task, arm, {**settings, "training.learning_rate": rate}, 0, "validation")


def test_jobs(
    tasks: Sequence[str], parts: Sequence[str], seeds: Sequence[int], path: Path
) -> Iterator[dict]:
    """Yield the runs of the parts; settings that two parts share are run once."""
    rates, seen = best_rates(path, tasks), []
    for seed, task, part in itertools.product(seeds, tasks, reversed(parts)):
        for arm, settings in arms(task, part).items():
            rate = rates.get((task, arm), rates.get((task, "dmpo")))
            if rate is None:
                raise SystemExit(f"{task}, {arm}: no learning rate yet; run --stage tune first")
            which = (task, seed, settings)
            if which not in seen:
                seen.append(which)
                yield job(task, arm, {**settings, "training.learning_rate": rate}, seed, "test")


def before(task: str) -> dict:
    """Return the job that only measures the policy as it is."""
    return {**job(task, "(before)", {}, 0, "test"), "budget": 0}


def runs_of(part: str, task: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Return the runs of each arm of a part: those of the same settings, whatever their name."""
    found: dict[str, list] = {}
    for arm, settings in arms(task, part).items():
        for run in runs:
            given = dict(run["job"]["settings"])
            given.pop("training.learning_rate", None)
            if run["job"]["task"] == task and run["job"]["budget"] and given == settings:
                found.setdefault(arm, []).append(run)
    return found


def report(path: Path, tasks: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return tables of every part, and a picture of each by the part's name."""
    runs = of_chosen_rates(path, tasks)
    long = of_chosen_rates(NOISE, tasks)
    lines = [
        "# The paper's questions on the tiny testbeds",
        "",
        "Test split, mean ± half of the 95% t-interval over seeds; learning rates chosen on the "
        "validation split, seed 0. The baseline ablation is [a page of its own](baselines.md). "
        "*Entropy* is that of the distributions the tokens of rollouts were drawn from, mean over "
        "training; the same for *ESS*, *noise* and *spread*.",
        "",
        "## DMPO against diffu-GRPO",
        "",
        f"The runs of [noise.md](noise.md). ![curves, entropy against reward]({path.stem}.svg)",
        "",
    ]
    panels: dict[str, list[tuple]] = {part: [] for part in ("", *PARTS)}
    for task in tasks:
        start = measured_before(task, long)
        mine = {
            name: [r for r in long if r["job"]["arm"] == arm and r["job"]["task"] == task]
            for name, arm in VERSUS.items()
        }
        mine = {name: records for name, records in mine.items() if records}
        if start is None or "diffu_grpo" not in mine:
            continue
        lines += [heading(task, noise.BUDGET[task], mine), ""]
        lines += table(task, mine, start, headline=HEADLINE[task])
        lines += _shares(mine, HEADLINE[task], start["figures"][HEADLINE[task]])
        lines += _at_equal_steps(mine, HEADLINE[task])
        panels[""] += [_against_compute(task, mine), _against_entropy(task, mine)]
    for part in PARTS:
        lines += [f"## {HEADINGS[part]}", "", f"![curves]({path.stem}_{part}.svg)", ""]
        for task in tasks:
            start, mine = measured_before(task, runs), runs_of(part, task, runs)
            if start is None or not mine:
                continue
            lines += [heading(task, BUDGET[task], mine), ""]
            lines += table(task, mine, start, headline=HEADLINE[task])
            panels[part].append(_against_compute(task, _best(task, mine)))
            if part == "objectives" and "diffu_grpo" in mine:
                lines += _shares(mine, HEADLINE[task], start["figures"][HEADLINE[task]])
    seconds = sum(run["seconds"] for run in runs)
    lines += [*provenance(), f"- {len(runs)} runs, {seconds:.0f} s in all (added up)", ""]
    pictures = {part: figure(of_part) for part, of_part in panels.items() if of_part}
    return "\n".join(lines), pictures


def _best(task: str, arms: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Sequence[Any]]:
    """Return the arms of the best ends, no more than a picture can tell apart."""
    best = sorted(arms, key=lambda arm: -mean_figure(arms[arm], HEADLINE[task]))[:MOST_LINES]
    return {arm: records for arm, records in arms.items() if arm in best}


def measured_before(task: str, runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the figures of the policy before training."""
    mine = (run for run in runs if run["job"]["task"] == task and not run["job"]["budget"])
    return next(mine, None)


def heading(task: str, budget: float, arms: Mapping[str, Sequence[Any]]) -> str:
    """Return the heading of a table."""
    seeds = sorted({len(records) for records in arms.values()})
    return f"### {task}, {budget / 1e6:g} M model tokens, {' or '.join(map(str, seeds))} seeds"


def _shares(mine: Mapping[str, Sequence[Any]], name: str, start: float) -> list[str]:
    level, budget = (mean_curve(mine["diffu_grpo"], name)[-1][n] for n in (1, 0))
    lines = [f"Share of the budget at which the mean curve reaches diffu-GRPO's end ({level:.3f}):"]
    lines.append("")
    for arm, records in sorted(mine.items(), key=lambda one: -mean_figure(one[1], name)):
        needed = compute_to_reach(records, name, level, start)
        lines.append(f"- {arm}: {'not reached' if needed is None else f'{needed / budget:.0%}'}")
    return [*lines, ""]


def _at_equal_steps(mine: Mapping[str, Sequence[Any]], name: str) -> list[str]:
    """Return the headline where the arm of the fewest gradient steps has its end."""
    curves = {arm: steps_and_figure(records, name) for arm, records in mine.items()}
    steps = min(curve[-1][0] for curve in curves.values())
    lines = [f"At equal gradient steps ({steps:.0f}), by straight lines between measurements:", ""]
    for arm, curve in curves.items():
        lines.append(f"- {arm}: {at(curve, steps):.3f}")
    return [*lines, ""]


def at(curve: Sequence[tuple[float, float]], x: float) -> float:
    """Return the height of a curve at ``x``, by straight lines."""
    for (left, low), (right, high) in itertools.pairwise(curve):
        if left <= x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return curve[-1][1] if x > curve[-1][0] else curve[0][1]


def _against_compute(task: str, mine: Mapping[str, Sequence[Any]]) -> tuple:
    name = HEADLINE[task]
    curves = {arm: mean_curve(records, name) for arm, records in mine.items()}
    return task, "model tokens, millions", name, curves


def _against_entropy(task: str, mine: Mapping[str, Sequence[Any]]) -> tuple:
    """Return reward against rollout entropy, buffer by buffer, of the first seed."""
    curves = {
        arm: [
            (row["rollout/entropy"], *[row["reward/mean"]] * 3)
            for row in records[0]["training"]
            if "rollout/entropy" in row
        ]
        for arm, records in mine.items()
    }
    return f"{task}, one seed", "rollout entropy, nats per token", "reward", curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=["tune", "test", "report"], required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(BUDGET), default=list(BUDGET))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(TEST_SEEDS))
    parser.add_argument("--arms", nargs="+", help="objectives to tune; all of them if left out")
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates to try")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--name", default="paper", help="results/NAME.json keeps every run")
    options = parser.parse_args()
    path = RESULTS / f"{options.name}.json"
    if options.stage == "report":
        text, pictures = report(path, options.tasks)
        print(text)
        replace_text(path.with_suffix(".md"), text)
        for part, picture in pictures.items():
            name = f"{path.stem}_{part}" if part else path.stem
            replace_text(path.with_name(f"{name}.svg"), picture)
        return
    if options.stage == "tune":
        jobs = list(tuning_jobs(options.tasks, options.arms, options.rates))
    else:
        jobs = [before(task) for task in options.tasks]
        jobs += test_jobs(options.tasks, options.parts, options.seeds, path)
    run_all(jobs, path, processes=options.jobs)


if __name__ == "__main__":
    main()
