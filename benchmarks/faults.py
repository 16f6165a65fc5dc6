"""Kill a run at random moments, damage its checkpoints, and compare what comes out in the end.

    python benchmarks/faults.py --name faults                 # 100 kills, two at a time
    python benchmarks/faults.py --kills 4 --signals 2 --damages 3

Every run is a process: `dmpo train --resume auto` on a LLaDA of 26k parameters with LoRA dropout,
a reference, the `model` baseline, 24 steps, a checkpoint every 3 (within a buffer of 4) and
evaluations in between. It counts as recovered if metrics, samples, evaluations (but for what a
clock decides) and the bytes of weights and optimizer equal those of a run that was left alone.

- kills: SIGKILL at a moment drawn uniformly over the run; then one resume to the end.
- signals: SIGTERM and SIGINT in turn; the run must exit 0 with a line how to go on.
- damages: each file of the newest checkpoint deleted, truncated, flipped in one bit; the resume
  must name it and go on from the checkpoint before.

Workers import dmpo once and fork a process per run; a worker lives for ten trials, so trials
differ in their hash seed, too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from provenance import provenance, versions

from tests.oracles import faults

RESULTS = Path(__file__).parent / "results"
DAMAGES = ("deleted", "truncated", "flipped")


class Forked:
    """A run in a child of this process, which has dmpo imported already."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run(arguments, log)

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        if self._code is None:
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def send_signal(self, sig: int) -> None:
        os.kill(self.pid, sig)


def _run(arguments: Sequence[str], log: Path) -> None:
    """Become the run: nothing of the parent goes on behind this."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    code = 1
    try:
        from dmpo.cli.main import main

        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def prepare() -> None:
    """Import what every run needs, once per worker."""
    import torch

    torch.set_num_threads(1)
    import torch.utils.tensorboard

    import dmpo.cli.main
    import dmpo.policies.llada
    import dmpo.training.trainer  # noqa: F401


def kill(trial: int, seed: int, folder: Path, seconds: float) -> dict[str, Any]:
    """Kill a run once, at a random moment, and let it come to its end."""
    delay = random.Random(f"{seed}/{trial}").uniform(0, seconds)
    return interrupt(folder / f"kill-{trial}", delay, signal.SIGKILL)


def stop(trial: int, seed: int, folder: Path, seconds: float) -> dict[str, Any]:
    """Ask a run to stop, at a random moment, and let it come to its end."""
    number = (signal.SIGTERM, signal.SIGINT)[trial % 2]
    delay = random.Random(f"{seed}/stop/{trial}").uniform(0, 0.9 * seconds)
    found = interrupt(folder / f"stop-{trial}", delay, number)
    said = found["exit_code"] == 0 and "go on with" in found.pop("log")
    return {**found, "signal": number.name, "recovered": found["recovered"] and said}


def interrupt(run: Path, delay: float, number: int) -> dict[str, Any]:
    found = faults.send_at(Forked, run, delay, number)
    log = run.with_suffix(".log").read_text()
    faults.complete(Forked, run)
    recovered = faults.trace(run) == faults.trace(run.parent / "whole")
    shutil.rmtree(run)
    return {**found, "recovered": recovered} | ({} if number == signal.SIGKILL else {"log": log})


def damage(trial: int, seed: int, folder: Path, seconds: float) -> dict[str, Any]:  # noqa: ARG001
    """Damage one file of the newest checkpoint of a run and let it come to its end again."""
    source = folder / "halfway"
    newest = max((source / "checkpoints").glob("step-*"))
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    name = files[trial // len(DAMAGES)].relative_to(newest)
    how = DAMAGES[trial % len(DAMAGES)]
    run = folder / f"damage-{trial}"
    shutil.copytree(source, run, ignore=shutil.ignore_patterns(".lock"))
    ruin(run / "checkpoints" / newest.name / name, how)
    said = faults.complete(Forked, run)
    before = sorted((source / "checkpoints").glob("step-*"))[-2].name
    skipped = next((line for line in said.splitlines() if line.startswith("skipped")), "")
    recovered = faults.trace(run) == faults.trace(folder / "whole")
    shutil.rmtree(run)
    return {
        "file": name.as_posix(),
        "damage": how,
        "named": newest.name in skipped and name.as_posix() in skipped,
        "checkpoint_before": any(
            line.startswith("resume") and before in line for line in said.splitlines()
        ),
        "recovered": recovered,
    }


def ruin(file: Path, how: str) -> None:
    content = file.read_bytes()
    file.unlink()
    if how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def main() -> None:
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="dmpo-faults-"))
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(
        options.jobs, initializer=prepare, maxtasksperchild=10
    ) as pool:
        seconds = pool.apply(reference, (folder,))
        results = {
            "kills": trials(pool, kill, options.kills, options.seed, folder, seconds),
            "signals": trials(pool, stop, options.signals, options.seed, folder, seconds),
            "damages": trials(
                pool, damage, min(options.damages, num_damages(folder)), 0, folder, seconds
            ),
        }
    shutil.rmtree(folder)
    minutes = (time.perf_counter() - started) / 60
    text = report(results, options.seed, seconds, minutes)
    print(text)
    if options.name:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.name}.md").write_text(text, encoding="utf-8")
        record = json.dumps(
            {"seed": options.seed, "versions": dict(versions()), **results}, indent=1
        )
        (RESULTS / f"{options.name}.json").write_text(record + "\n", encoding="utf-8")
    if not all(trial["recovered"] for rows in results.values() for trial in rows):
        sys.exit(1)


def reference(folder: Path) -> float:
    """Make the run that is left alone and one that was stopped; return the seconds of the first."""
    whole = folder / "whole"
    process = Forked(faults.arguments(whole), whole.with_suffix(".log"))
    while not (whole / "config.yaml").exists() and process.poll() is None:
        time.sleep(0.005)
    started = time.perf_counter()
    assert process.wait() == 0, whole.with_suffix(".log").read_text()
    seconds = time.perf_counter() - started
    halfway = folder / "halfway"
    for attempt in range(20):  # until a checkpoint within a buffer is the newest of two
        shutil.rmtree(halfway, ignore_errors=True)
        faults.send_at(Forked, halfway, seconds * (0.4 + 0.02 * attempt))
        steps = [int(p.name[5:]) for p in sorted((halfway / "checkpoints").glob("step-*"))]
        if len(steps) == 2 and steps[-1] % 4:
            return seconds
    raise SystemExit("no run was killed with two checkpoints behind it; try again")


def num_damages(folder: Path) -> int:
    newest = max((folder / "halfway" / "checkpoints").glob("step-*"))
    return len(DAMAGES) * sum(path.is_file() for path in newest.rglob("*"))


def trials(
    pool: Any, trial: Callable[..., Any], count: int, seed: int, folder: Path, seconds: float
) -> list[dict[str, Any]]:
    pending = [pool.apply_async(trial, (i, seed, folder, seconds)) for i in range(count)]
    rows = []
    for number, result in enumerate(pending, start=1):
        rows.append(result.get())
        if not rows[-1]["recovered"]:
            print(f"{trial.__name__} {number}: NOT recovered: {rows[-1]}", file=sys.stderr)
    return rows


def report(results: dict[str, Any], seed: int, seconds: float, minutes: float) -> str:
    kills, signals, damages = (results[name] for name in ("kills", "signals", "damages"))
    good = {name: sum(row["recovered"] for row in rows) for name, rows in results.items()}
    named = sum(row["named"] and row["checkpoint_before"] for row in damages)
    before = sum(row["checkpoints"] == 0 for row in kills)
    within = sum(row["in_a_checkpoint"] for row in kills)
    ended = sum(row["exit_code"] == 0 for row in kills)
    lines = [
        "# A run that is killed, stopped, or finds its checkpoint damaged",
        "",
        "| trial | count | end bit-identical to a run left alone |",
        "| --- | ---: | ---: |",
        f"| SIGKILL at a random moment, one resume | {len(kills)} | **{good['kills']}** |",
        f"| SIGTERM or SIGINT: exit 0, a line how to go on, one resume | {len(signals)} | "
        f"**{good['signals']}** |",
        f"| a file of the newest checkpoint deleted, truncated or flipped | {len(damages)} | "
        f"**{good['damages']}** |",
        "",
        f"Of the kills {before} came before the first checkpoint, {within} while one was being "
        f"written, {ended} after the run's end. Of the damages {named} were named, file by file, "
        "and the checkpoint before was used.",
        "",
        "Compared: every metric, sample, evaluation and completion that no clock decides, and the "
        "bytes of the last checkpoint's weights and optimizer. "
        f"A run left alone takes {seconds:.1f} s.",
        "",
        *provenance(),
        f"- seed {seed}, one thread a run, {minutes:.0f} min in all",
        "",
    ]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--damages", type=int, default=10**6, help="at most; default: all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="write results/NAME.md and NAME.json")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
