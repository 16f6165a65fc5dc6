"""How long `dmpo` takes before it says anything, beside `import torch` on the same machine.

    python benchmarks/startup.py              # 20 rounds
    python benchmarks/startup.py --rounds 40

A round runs every command once, each in a process of its own, and `python -c "import torch"` before
each of them: the two of a pair see the same machine. A ratio is the median over pairs; processor
time is that of the process, without what others take of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provenance import provenance

from dmpo.files import replace_text

RESULTS = Path(__file__).parent / "results"
LIMIT = 0.4
"""Share of the time of `import torch` that a command may take before it says anything."""
TORCH = ("-c", "import torch")
BARE = ("-c", "pass")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is started."""

    name: str
    arguments: Sequence[str]
    variables: Mapping[str, str]


def command(text: str) -> Case:
    return Case(name=f"`{text}`", arguments=("-m", "dmpo", *text.split()[1:]), variables={})


def completion(text: str) -> Case:
    """Return what a shell runs when somebody presses Tab behind a text."""
    count = len(text.split()) - (not text.endswith(" "))
    return Case(
        name=f"Tab behind `{text}`",
        arguments=("-m", "dmpo"),
        variables={
            "_DMPO_COMPLETE": "complete_bash",
            "COMP_WORDS": text,
            "COMP_CWORD": str(count),
        },
    )


CASES = (
    command("dmpo --help"),
    command("dmpo --version"),
    command("dmpo version"),
    command("dmpo train --help"),
    completion("dmpo tr"),
    completion("dmpo train --policy "),
    completion("dmpo train --sampler.s"),
    completion("dmpo train --training."),
)


def started(arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> list[float]:
    """Return seconds by the clock and of the processor from a process's start to its end."""
    environment = {**os.environ, **(variables or {})}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{arguments} ended with {process.returncode}")
    return [seconds, usage.ru_utime + usage.ru_stime]


def measured(rounds: int) -> list[dict[str, object]]:
    """Return what each case took, and torch beside it."""
    cases = (Case(name="Python alone", arguments=BARE, variables={}), *CASES)
    pairs: dict[str, list[tuple[list[float], list[float]]]] = {case.name: [] for case in cases}
    for case in cases:  # the files of all are read once, and compiled
        started(case.arguments, case.variables)
    started(TORCH)
    for number in range(rounds):
        for case in cases:
            reference = started(TORCH)
            pairs[case.name].append((started(case.arguments, case.variables), reference))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return [row(name, found) for name, found in pairs.items()]


def row(name: str, pairs: Sequence[tuple[list[float], list[float]]]) -> dict[str, object]:
    ratios = [own[0] / torch[0] for own, torch in pairs]
    quarters = statistics.quantiles(ratios, n=4)
    return {
        "command": name,
        "pairs": len(pairs),
        "seconds": statistics.median(own[0] for own, _ in pairs),
        "seconds of import torch": statistics.median(torch[0] for _, torch in pairs),
        "ratio": statistics.median(ratios),
        "ratio, middle half": [quarters[0], quarters[2]],
        "processor seconds": statistics.median(own[1] for own, _ in pairs),
        "processor seconds of import torch": statistics.median(torch[1] for _, torch in pairs),
        "processor ratio": statistics.median(own[1] / torch[1] for own, torch in pairs),
    }


def page(rows: Sequence[Mapping[str, object]], origin: Sequence[str]) -> str:
    lines = [
        "# Start-up",
        "",
        "Seconds from a process's start to its end, beside `import torch` in a process just "
        f"before it. A ratio is the median over pairs; the limit is {LIMIT}.",
        "",
        *origin,
        "",
        "| command | seconds | `import torch` | ratio | middle half | processor | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in rows:
        low, high = each["ratio, middle half"]  # type: ignore[misc]
        lines.append(
            f"| {each['command']} | {each['seconds']:.3f} | "
            f"{each['seconds of import torch']:.3f} | **{each['ratio']:.3f}** | "
            f"{low:.3f} to {high:.3f} | {each['processor seconds']:.3f} | "
            f"{each['processor ratio']:.3f} |"
        )
    within = all(each["ratio"] < LIMIT for each in rows)  # type: ignore[operator]
    verdict = "Every command is" if within else "Not every command is"
    lines += ["", f"{verdict} below {LIMIT} of `import torch`, over {rows[0]['pairs']} pairs each."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="pairs of each command, at least 10")
    options = parser.parse_args()
    if options.rounds < 10:
        parser.error("--rounds: at least 10")
    origin = provenance()
    rows = measured(options.rounds)
    text = page(rows, origin)
    record = {"provenance": origin, "limit": LIMIT, "rows": rows}
    replace_text(RESULTS / "startup.json", json.dumps(record, indent=2) + "\n")
    replace_text(RESULTS / "startup.md", text)
    print(text, end="")


if __name__ == "__main__":
    main()
