"""Seconds to grade 10,000 completions of each task, on one core.

    python benchmarks/grading.py --completions FOLDER

FOLDER holds gsm8k_256.jsonl and so on: real outputs with `question`, `completion` and `reference`.
They are repeated, each time with another first line, so that no two completions are equal. For
MATH-500 the comparisons that math-verify decided are counted, with what they cost alone.
"""

from __future__ import annotations

import argparse
import itertools
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
    text = "\n".join([*lines, "", *provenance(), ""])
    replace_text(RESULTS / "grading.md", text)


if __name__ == "__main__":
    main()
