"""Can DMPO's weights be freed of likelihood noise? Ways around it at equal compute.

    python benchmarks/noise.py --stage tune --jobs 2     # learning rates, on the validation split
    python benchmarks/noise.py --stage test --jobs 2     # the chosen ones, 5 seeds, test split
    python benchmarks/noise.py --stage report            # table and picture from what is kept

Two testbeds on the tiny LLaDA inside the package. digit_sum: many right answers, of which only
the joint matters. sudoku: one right answer, tokens nearly independent. Every arm shares policy,
sampler (but for the adaptive order), task, B, N, F and the budget in model tokens, and gets its
own learning rate: the one of the best headline at the end of the budget on validation problems.
The exact testbed is `benchmarks/exact.py`'s, where KL(p* ‖ p_θ) is enumerated.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.arms import HEADLINE, RESULTS, finished, run_all
from benchmarks.arms_report import by_arm, compute_to_reach, figure, mean_curve, mean_figure, table
from benchmarks.baselines import interval
from benchmarks.provenance import provenance
from dmpo.files import replace_text

BUDGET = {"digit_sum": 1.0e6, "sudoku": 0.5e6}
RATES = {"digit_sum": (5e-5, 1e-4, 2e-4, 5e-4), "sudoku": (1e-4, 2e-4, 5e-4)}
TEST_SEEDS = (1, 2, 3, 4, 5)
ELBO = {"name": "elbo", "num_views": 4, "antithetic": True}
LOSS = {"digit_sum": {"name": "elbo", "num_views": 2}, "sudoku": {"name": "mean_field"}}
SKIP = {"training.skip_below": 0.02}
ADAPTIVE = {"name": "entropy_bound", "temperature": 1.0, "gamma": 0.1}


def target(alpha: float, c: float, *, link: str = "tilted") -> dict[str, Any]:
    """Return weights that aim at p_ref · exp(r/α) by steps of c."""
    return {"weights": {"name": link, "alpha": alpha, "coefficient": c}}


PATH = {"ratio_likelihood": "path"}
NOISY = {"ratio_likelihood": ELBO}
SMALL = target(0.02, 0.2)
DEFAULT = "softmax, ELBO, none, α .02, c .2"
"""What `--objective dmpo` is."""
PAPER_FORM = "the paper's form: softmax, ELBO, model, α .04, c 1"
ARMS: Mapping[str, Mapping[str, Any]] = {
    "softmax, path, none, α .02, c .2": {**PATH, **SMALL, "baseline": "none", **SKIP},
    DEFAULT: {**NOISY, **SMALL, "baseline": "none", **SKIP},
    "softmax, path, mean, α .02, c .2": {**PATH, **SMALL, "baseline": "mean"},
    "softmax, path, model, α .02, c .2": {**PATH, **SMALL, "baseline": "model"},
    "softmax, ELBO, model, α .02, c .2": {**NOISY, **SMALL, "baseline": "model"},
    "softmax, path, none, α .1, c 1": {**PATH, **target(0.1, 1.0), "baseline": "none", **SKIP},
    "softmax, path, model, α .1, c 1": {**PATH, **target(0.1, 1.0), "baseline": "model"},
    "softmax, ELBO, model, α .1, c 1": {**NOISY, **target(0.1, 1.0), "baseline": "model"},
    "linear, path, mean, α .1, c .1": {
        **PATH,
        **target(0.1, 0.1, link="linear"),
        "baseline": "mean",
    },
    "linear, path, model, α .1, c .1": {
        **PATH,
        **target(0.1, 0.1, link="linear"),
        "baseline": "model",
    },
    "linear, ELBO, model, α .1, c .1": {
        **NOISY,
        **target(0.1, 0.1, link="linear"),
        "baseline": "model",
    },
    "adaptive order: softmax, path, none, α .02, c .2": {
        **PATH,
        **SMALL,
        "baseline": "none",
        **SKIP,
        "sampler": ADAPTIVE,
    },
    "replay of 2: softmax, path, none, α .02, c .2": {
        **PATH,
        **SMALL,
        "baseline": "none",
        **SKIP,
        "training.replay_buffers": 2,
    },
    "α 0, η 10, none (rejection sampling)": {
        "weights": {"name": "tilted", "alpha": 0.0, "eta": 10.0, "coefficient": 1.0},
        "baseline": "none",
        **SKIP,
    },
    "α 0, η 10, model": {
        "weights": {"name": "tilted", "alpha": 0.0, "eta": 10.0, "coefficient": 1.0},
        "baseline": "model",
    },
    PAPER_FORM: {**NOISY, **target(0.04, 1.0), "baseline": "model"},
    "diffu-GRPO, β 0": {
        "objective": "diffu_grpo",
        "objective.beta": 0.0,
        "likelihood": {"name": "mean_field", "prompt_mask": 0.0},
    },
    # The best of the other objectives over both testbeds, in benchmarks/paper.py.
    "spg": {"objective": "spg"},
    "wd1": {"objective": "wd1"},
    "just_grpo": {
        "objective": "just_grpo",
        "sampler": {"name": "roar", "block_length": 1, "tokens_per_step": 1},
        "training.updates_per_buffer": 1,
    },
    "diffu-GRPO, β .04": {
        "objective": "diffu_grpo",
        "objective.beta": 0.04,
        "likelihood": {"name": "mean_field", "prompt_mask": 0.0},
    },
}


def settings_of(task: str, arm: str, rate: float) -> dict[str, Any]:
    """Return an arm's settings on a task."""
    given = dict(ARMS[arm])
    if "objective" not in given:
        given = {"likelihood": LOSS[task], **given}
    return {**given, "training.learning_rate": rate}


def tuning_jobs(
    tasks: Sequence[str], arms: Sequence[str], rates: Sequence[float] | None
) -> list[dict]:
    """Return the runs that choose learning rates; ``rates`` None is the task's usual ones."""
    return [
        job(task, arm, rate, 0, "validation")
        for arm, task in itertools.product(arms, tasks)
        for rate in rates or RATES[task]
    ]


def job(task: str, arm: str, rate: float, seed: int, split: str) -> dict:
    return {
        "task": task,
        "arm": arm,
        "settings": settings_of(task, arm, rate),
        "seed": seed,
        "budget": BUDGET[task],
        "split": split,
    }


def best_rates(path: Path, tasks: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return the learning rate of the best headline of each task and arm, on validation."""
    best: dict[tuple[str, str], tuple[float, float]] = {}
    for run in finished(path).values():
        task, arm = run["job"]["task"], run["job"]["arm"]
        if task in tasks and run["job"]["split"] == "validation" and run["job"]["seed"] == 0:
            rate = run["job"]["settings"]["training.learning_rate"]
            found = (run["figures"][HEADLINE[task]], rate)
            best[task, arm] = max(best.get((task, arm), (-1.0, 0.0)), found)
    return {which: rate for which, (_, rate) in best.items()}


def of_chosen_rates(path: Path, tasks: Sequence[str]) -> list[dict]:
    """Return the runs on the test split at the learning rate that validation chose."""
    rates = best_rates(path, tasks)

    def is_chosen(job: Mapping[str, Any]) -> bool:
        # What is measured before training, and what shares another arm's rate, has none of its own.
        rate = rates.get((job["task"], job["arm"]))
        return rate is None or job["settings"]["training.learning_rate"] == rate

    runs = (run for run in finished(path).values() if run["job"]["split"] == "test")
    return [run for run in runs if is_chosen(run["job"])]


def before(task: str) -> dict:
    """Return the job that only measures the policy as it is."""
    return {**job(task, "diffu-GRPO, β 0", 1e-4, 0, "test"), "arm": "(before)", "budget": 0}


def write_report(path: Path, options: argparse.Namespace) -> None:
    """Write tables, curves, and the compute that each arm needs for diffu-GRPO's end."""
    runs = of_chosen_rates(path, options.tasks)
    lines = [
        "# Ways around likelihood noise, at equal compute",
        "",
        "Mean ± half of the 95% t-interval over seeds; held-out test problems; learning rates "
        "chosen on validation problems (seed 0). *Noise* is the standard error of log p_ref − "
        "log p_v, *spread* the standard deviation of r/α inside a group, both in nats, means over "
        "buffers but the first; *rows kept* the share of rollouts that gradient steps look at.",
        "",
    ]
    panels = []
    for task in options.tasks:
        mine = by_arm(run for run in runs if run["job"]["task"] == task and run["job"]["budget"])
        start = next(
            (run for run in runs if run["job"]["task"] == task and not run["job"]["budget"]), None
        )
        if not mine or start is None:
            continue
        name, rival = HEADLINE[task], best_rival(mine, HEADLINE[task])
        seeds = max(len(records) for records in mine.values())
        lines += [f"## {task}: {BUDGET[task] / 1e6:g} M model tokens, {seeds} seeds", ""]
        lines += table(task, mine, start, headline=name)
        lines += _reached(mine, name, rival, start["figures"][name])
        lines += _minus_default(mine, name)
        shown = sorted(mine.items(), key=lambda one: -mean_figure(one[1], name))[:7]
        shown += [(arm, mine[arm]) for arm in (rival, PAPER_FORM) if arm not in dict(shown)]
        curves = {arm: mean_curve(records, name) for arm, records in shown}
        panels.append((task, "model tokens, millions", name, curves))
    seconds = sum(run["seconds"] for run in runs)
    lines += [*provenance(), f"- {len(runs)} runs, {seconds:.0f} s in all (added up)", ""]
    text = "\n".join(lines)
    print(text)
    replace_text(path.with_suffix(".md"), text)
    replace_text(path.with_suffix(".svg"), figure(panels))


def _minus_default(arms: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> list[str]:
    """Return what the default gains over each other arm, seed by seed."""
    usual = {run["job"]["seed"]: run["figures"][name] for run in arms[DEFAULT]}
    lines = [
        f"*{DEFAULT}* minus each other arm, differences within a seed:",
        "",
        f"| minus | {name} |",
        "| --- | --- |",
    ]
    for arm, records in sorted(arms.items(), key=lambda one: mean_figure(one[1], name)):
        gains = [usual[r["job"]["seed"]] - r["figures"][name] for r in records]
        if arm != DEFAULT:
            lines.append(f"| {arm} | {interval(gains)} |")
    return [*lines, ""]


def best_rival(arms: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> str:
    """Return the diffu-GRPO of the best end."""
    rivals = [arm for arm in arms if "diffu" in arm]
    return max(rivals, key=lambda arm: mean_figure(arms[arm], name))


def _reached(
    arms: Mapping[str, Sequence[Mapping[str, Any]]], name: str, rival: str, start: float
) -> list[str]:
    """Return how much compute each arm needs to be where the rival ends."""
    level = mean_curve(arms[rival], name)[-1][1]
    lines = [f"Share of the budget after which the mean curve reaches {rival}'s end ({level:.3f}):"]
    budget = mean_curve(arms[rival], name)[-1][0]
    for arm, records in arms.items():
        needed = compute_to_reach(records, name, level, start)
        lines.append(f"- {arm}: {'not reached' if needed is None else f'{needed / budget:.0%}'}")
    return [lines[0], "", *lines[1:], ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=["tune", "test", "report"], required=True)
    parser.add_argument("--tasks", nargs="+", choices=list(BUDGET), default=list(BUDGET))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(TEST_SEEDS))
    parser.add_argument(
        "--rates", type=float, nargs="+", help="learning rates to try, where the best is an edge"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--name", default="noise", help="results/NAME.json keeps every run")
    options = parser.parse_args()
    path = RESULTS / f"{options.name}.json"
    if options.stage == "tune":
        jobs = tuning_jobs(options.tasks, options.arms, options.rates)
        run_all(jobs, path, processes=options.jobs)
        return
    if options.stage == "report":
        write_report(path, options)
        return
    rates = best_rates(path, options.tasks)
    jobs = [before(task) for task in options.tasks] + [
        job(task, arm, rates[task, arm], seed, "test")
        for seed, arm, task in itertools.product(options.seeds, options.arms, options.tasks)
        if (task, arm) in rates
    ]
    run_all(jobs, path, processes=options.jobs)


if __name__ == "__main__":
    main()
