"""Seconds to grade 10,000 completions of each task, on one core.

    python benchmarks/grading.py --completions FOLDER

FOLDER holds gsm8k_256.jsonl and so on: real outputs with `question`, `completion` and `reference`.
They are repeated, each time with another first line, so that no two completions are equal. Of
`code` 1,000 right answers to our own problems are run, all at once, as training does.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.provenance import provenance
from dmpo.files import replace_text
from dmpo.records import Example
from dmpo.registry import TASKS
from dmpo.tasks.sources import read_rows

RESULTS = Path(__file__).parent / "results"
TASK_NAMES = ("gsm8k", "math500", "countdown", "sudoku")
NUM_COMPLETIONS = 10_000
NUM_PROGRAMS = 1_000


def pairs_of(task: Any, file: Path, count: int) -> list[tuple[Example, str]]:
    """Return ``count`` completions, no two alike, with their problems."""
    rows = [row.values for row in read_rows(file, "--completions")]
    problems = [(task.from_record(row), str(row["completion"])) for row in rows]
    repeated = itertools.islice(itertools.cycle(problems), count)
    return [(example, f"\n{n}{text}") for n, (example, text) in enumerate(repeated)]


def measured(name: str, folder: Path, grader: str) -> str:
    """Return one row of the table."""
    given = {"grader": grader}
    if "format" in TASKS.load(name).Config.model_fields:  # type: ignore[attr-defined]
        given["format"] = "paper"
    task = TASKS.build(name, given)
    pairs = pairs_of(task, folder / f"{name}_256.jsonl", NUM_COMPLETIONS)
    task.grade(*pairs[0])  # worker processes start before the clock does
    wall, busy = time.perf_counter(), time.process_time()
    for example, text in pairs:
        task.grade(example, text)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    return f"| {name} | {grader} | {wall:.2f} | {busy:.2f} |"


def programs_measured() -> str:
    """Return what running code costs, as a sentence."""
    task: Any = TASKS.build("code", {"source": "generated"})
    rng = random.Random(0)
    examples = itertools.islice(itertools.cycle(task.examples("train")), NUM_PROGRAMS)
    pairs = [
        (example, task.demonstrate(example, rng).replace("def ", f"# {n}\ndef ", 1))
        for n, example in enumerate(examples)
    ]
    wall, before = time.perf_counter(), os.times()
    figures = task.grade_all(pairs)
    wall, after = time.perf_counter() - wall, os.times()
    right = sum(figure["right"] for figure in figures)
    here = after.user + after.system - before.user - before.system
    inside = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return (
        f"code: {NUM_PROGRAMS:,} programs with their tests in {wall:.1f} s by the clock on "
        f"{len(os.sched_getaffinity(0))} cores; {here:.1f} s of processor time in this process, "
        f"{inside:.1f} s in the sandbox; {right:.0f} pass."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--completions", type=Path, required=True, help="folder of the outputs")
    options = parser.parse_args()
    lines = [
        f"# Seconds to grade {NUM_COMPLETIONS:,} completions, one after the other",
        "",
        "math-verify works in processes of its own: its time is in the first column alone, and is "
        "that of the few hundred distinct pairs of an answer and a reference that the exact checks "
        "leave open; the rest comes out of the cache.",
        "",
        "| task | grader | seconds | of them in this process |",
        "| --- | --- | --- | --- |",
    ]
    for name, grader in itertools.product(TASK_NAMES, ("default", "published")):
        lines.append(measured(name, options.completions, grader))
        print(lines[-1], flush=True)
    lines += ["", programs_measured()]
    print(lines[-1], flush=True)
    text = "\n".join([*lines, "", *provenance(), ""])
    replace_text(RESULTS / "grading.md", text)


if __name__ == "__main__":
    main()
