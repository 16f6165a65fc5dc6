"""Two thousand steps of a tiny run: does memory grow, or the number of open files?

    OMP_NUM_THREADS=1 python benchmarks/soak.py --name soak

The run is a process of its own (`dmpo train`: a LLaDA of 26k parameters with LoRA dropout, a
reference, the `model` baseline, replay of two buffers, a checkpoint every 25 steps of which two are
kept, an evaluation every 250). Beside it, twice a second, its resident memory and its open files
are read from /proc. What grows is the difference between the medians of the last and of the second
quarter: the first one warms caches up.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from provenance import provenance

from tests.oracles import faults

RESULTS = Path(__file__).parent / "results"
KEPT, EVERY = 2, 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--name", help="write results/NAME.md and NAME.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dmpo-soak-") as folder:
        run = Path(folder) / "run"
        command = [
            *(sys.executable, "-m", "dmpo", *faults.arguments(run)),
            *("--steps", str(options.steps), "--training.replay_buffers", "2"),
            *("--training.checkpoint_every", str(EVERY), "--training.evaluate_every", "250"),
            *("--training.keep_checkpoints", str(KEPT)),
        ]
        log = Path(folder) / "log"
        samples = []
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
            while process.poll() is None:
                if (sample := look(process.pid, run)) is not None:
                    samples.append(sample)
                time.sleep(0.5)
        assert process.returncode == 0, log.read_text()
        found = findings(samples, run, options.steps)
    text = report(found, options.steps)
    print(text)
    if options.name:
        (RESULTS / f"{options.name}.md").write_text(text, encoding="utf-8")
        record = json.dumps({**found, "samples": samples}, indent=1)
        (RESULTS / f"{options.name}.json").write_text(record + "\n", encoding="utf-8")


def look(pid: int, run: Path) -> dict[str, float] | None:
    """Return the run's step, memory and open files; None before its first step or after it."""
    try:
        lines = (run / "metrics.jsonl").read_bytes().count(b"\n")
        status = Path(f"/proc/{pid}/status").read_text()
        files = len(os.listdir(f"/proc/{pid}/fd"))
        threads = next(int(x.split()[1]) for x in status.splitlines() if x.startswith("Threads:"))
        resident = next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return None
    return {"step": lines, "mib": resident / 1024, "files": files, "threads": threads}


def findings(samples: list[dict[str, float]], run: Path, steps: int) -> dict[str, Any]:
    quarters = [
        [s for s in samples if steps * q / 4 <= s["step"] < steps * (q + 1) / 4] for q in range(4)
    ]
    medians = {
        name: [statistics.median(s[name] for s in quarter) for quarter in quarters]
        for name in ("mib", "files", "threads")
    }
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    values = [value for line in lines for value in line.values()]
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    return {
        "medians": medians,
        "steps": len(lines),
        "figures": len(values),
        "not_finite": sum(not math.isfinite(value) for value in values),
        "skipped_steps": lines[-1]["optimizer/skipped_steps"],
        "checkpoints": checkpoints,
        "pruned": checkpoints == [f"step-{steps - EVERY:06d}", f"step-{steps:06d}"],
        "seconds": lines[-1]["time/total"],
    }


def report(found: dict[str, Any], steps: int) -> str:
    names = {"mib": "resident memory, MiB", "files": "open files", "threads": "threads"}
    rows = [
        f"| {names[name]} | " + " | ".join(f"{v:.1f}" for v in m) + f" | **{m[3] - m[1]:+.1f}** |"
        for name, m in found["medians"].items()
    ]
    return "\n".join(
        [
            f"# {steps} steps of a tiny run",
            "",
            "| median of | 1st quarter | 2nd | 3rd | 4th | 4th - 2nd |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            f"{found['steps']} lines of metrics with {found['figures']} figures, of which "
            f"{found['not_finite']} are not finite; {found['skipped_steps']:.0f} skipped steps. "
            f"Checkpoints at the end: {', '.join(found['checkpoints'])} "
            f"({'as' if found['pruned'] else 'NOT as'} configured). "
            f"{found['seconds']:.0f} s of training.",
            "",
            *provenance(),
            "",
        ]
    )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
