"""Before and after a shipped recipe, over seeds: the figures of the README.

    python benchmarks/demo.py                             # the demo, seeds 0 1 2, test split
    python benchmarks/demo.py --recipe digit_sum --name digit_sum
    python benchmarks/demo.py --split validation -- --training.learning_rate 3e-4   # to choose

Every seed is one run of `dmpo train` as a process, in a folder of its own; what follows `--` is
handed to it. Prints a Markdown table; with --name it is kept in benchmarks/results/, with command,
machine and versions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from provenance import provenance, versions

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = parse(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="dmpo-demo-") as scratch:
        folder = Path(options.keep or scratch)
        runs = [
            train(options.recipe, seed, options.split, options.extra, folder)
            for seed in options.seeds
        ]
    text = report(options.recipe, options.split, runs)
    print(text)
    if options.name:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.name}.md").write_text(text, encoding="utf-8")
        record = {"arguments": sys.argv[1:], "versions": dict(versions()), "runs": runs}
        (RESULTS / f"{options.name}.json").write_text(json.dumps(record, indent=1) + "\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    own, extra = arguments, []
    if "--" in arguments:
        cut = arguments.index("--")
        own, extra = arguments[:cut], arguments[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="sudoku")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--name", help="write results/NAME.md and NAME.json")
    parser.add_argument("--keep", help="keep the run directories in this folder")
    options = parser.parse_args(own)
    options.extra = extra
    return options


def train(recipe: str, seed: int, split: str, extra: Sequence[str], folder: Path) -> dict:
    """Run one seed; return its figures before and after, and its seconds."""
    output = folder / f"{recipe}-{seed}"
    command = [sys.executable, "-m", "dmpo", "train", "--recipe", recipe, "--seed", str(seed)]
    command += ["--output", str(output), "--evaluation.split", split, "--plain", *extra]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    evaluations = json.loads((output / "evaluation.json").read_text())
    last = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "seed": seed,
        "steps": last["step"],
        "evaluations": evaluations,
        "training_seconds": last["time/total"],
        "wall_seconds": wall,
        "model_tokens": last["tokens/model_total"],
    }


def figures(evaluation: dict) -> dict[str, float]:
    values = {name: figure["mean"] for name, figure in evaluation["figures"].items()}
    if evaluation.get("distinct_right") is not None:
        values["distinct right answers"] = evaluation["distinct_right"]
    return values


def report(recipe: str, split: str, runs: list[dict]) -> str:
    before = [figures(next(iter(run["evaluations"].values()))) for run in runs]
    after = [figures(list(run["evaluations"].values())[-1]) for run in runs]
    seeds = [run["seed"] for run in runs]
    count = f"{len(runs)} seed" + "s" * (len(runs) > 1)
    lines = [
        f"# Recipe `{recipe}`, {split} split",
        "",
        f"| figure | before | after, mean of {count} | " + per_seed("seed {}", seeds),
        "| --- | --- | --- |" + " --- |" * len(runs),
    ]
    for name in before[0]:
        start = statistics.mean(row[name] for row in before)
        end = [row[name] for row in after]
        cells = per_seed("{:.3f}", end)
        lines.append(f"| {name} | {start:.3f} | **{statistics.mean(end):.3f}** | {cells}")
    seconds = [run["training_seconds"] for run in runs]
    lines += [
        "",
        f"{runs[0]['steps']} gradient steps, {statistics.mean(seconds):.0f} s of training "
        f"({min(seconds):.0f} to {max(seconds):.0f}), "
        f"{statistics.mean(run['wall_seconds'] for run in runs):.0f} s with evaluations, "
        f"{runs[0]['model_tokens'] / 1e6:.2f} M model tokens (forward 1, backward 2).",
        "",
        *provenance(),
        "",
    ]
    return "\n".join(lines)


def per_seed(template: str, values: Sequence[float]) -> str:
    return " | ".join(template.format(value) for value in values) + " |"


if __name__ == "__main__":
    main()
