"""Kill a run at random moments, damage its checkpoints, and compare what comes out in the end.

    python benchmarks/faults.py --name faults                 # 100 kills, two at a time
    python benchmarks/faults.py --ranks 2 --kills 40 --signals 0 --damages 0 --name faults_ranks
    python benchmarks/faults.py --out-of-memory 5 --kills 20 --signals 2 --name faults_memory
    python benchmarks/faults.py --kills 4 --signals 2 --damages 3 --full-disks 2

Every run is a process: `dmpo train --resume auto` on a LLaDA of 26k parameters with LoRA dropout,
a reference, the `model` baseline, 24 steps, a checkpoint every 3 (within a buffer of 4) and
evaluations in between. It counts as recovered if metrics, samples, evaluations (but for what a
clock decides) and the bytes of weights and optimizer equal those of a run that was left alone.

- kills: SIGKILL at a moment drawn uniformly over the run; then one resume to the end.
- signals: SIGTERM and SIGINT in turn; the run must exit 0 with a line how to go on.
  With `--ranks`, of one of the processes (even trials) or of all of them (odd ones).
- full disks: no file may grow beyond a size drawn between 4 KiB and the largest file of a
  checkpoint; the run must say so, or go on as `training.on_save_error` says (in turn), and end
  whole once there is room again.
- damages: each file of the newest checkpoint deleted, truncated, flipped in one bit; the resume
  must name it and go on from the checkpoint before.

`--out-of-memory K` adds `--auto-micro-batch` and has every pass with gradient over more than K
rollouts fail as a full GPU does.

Workers import dmpo once and fork a process per run; a worker lives for ten trials, so trials
differ in their hash seed, too.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from provenance import provenance, versions

from tests.oracles import faults
from tests.oracles.processes import free_port

RESULTS = Path(__file__).parent / "results"
DAMAGES = ("deleted", "truncated", "flipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a run meets."""

    ranks: int = 1
    """Processes of the run."""
    most_rows: int | None = None
    """Rollouts beyond which a pass with gradient is out of memory."""
    file_size: int | None = None
    """Bytes beyond which no file can grow."""
    victim: int | None = None
    """The process that signals go to; None: to all."""
    more: tuple[str, ...] = ()
    """Further arguments."""


class Forked:
    """A run in children of this process, which has dmpo imported already."""

    def __init__(
        self, arguments: Sequence[str], log: Path, *, meets: Circumstances | None = None
    ) -> None:
        self._meets = meets or Circumstances()
        more = ("--auto-micro-batch",) if self._meets.most_rows else ()
        arguments = [*arguments, *more, *self._meets.more]
        self._codes: dict[int, int] = {}
        self._pids: list[int] = []
        port = free_port()
        for rank in range(self._meets.ranks):
            pid = os.fork()
            if pid == 0:
                _run(arguments, log, self._meets, rank, port)
            self._pids.append(pid)
        self.pid = self._pids[0]

    def poll(self) -> int | None:
        self._look(os.WNOHANG)
        return self._code if len(self._codes) == len(self._pids) else None

    def wait(self) -> int:
        self._look(0)
        return self._code

    def send_signal(self, sig: int) -> None:
        victim = self._meets.victim
        for pid in self._pids if victim is None else [self._pids[victim]]:
            if pid not in self._codes:
                os.kill(pid, sig)

    @property
    def _code(self) -> int:
        """The worst: a signal, an error, or nothing."""
        return min(self._codes.values(), key=lambda code: (code >= 0, -code))

    def _look(self, options: int) -> None:
        for pid in self._pids:
            if pid not in self._codes:
                found, status = os.waitpid(pid, options)
                if found:
                    self._codes[pid] = os.waitstatus_to_exitcode(status)


def _run(arguments: Sequence[str], log: Path, meets: Circumstances, rank: int, port: int) -> None:
    """Become a process of the run: nothing of the parent goes on behind this."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if meets.ranks > 1:
        there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ.update(there, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(meets.ranks))
    code = 1
    try:
        from dmpo.cli.main import main

        if meets.most_rows is not None:
            _limit_memory(meets.most_rows)
        if meets.file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (meets.file_size, meets.file_size))
        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _limit_memory(most_rows: int) -> None:
    """Have passes with gradient over more rollouts fail as they do on a full GPU."""
    import torch

    from dmpo.policies.denoiser import Denoiser

    forward = Denoiser.forward

    def limited(self: Any, tokens: Any, *arguments: Any, **more: Any) -> Any:
        if torch.is_grad_enabled() and len(tokens) > most_rows:
            raise torch.OutOfMemoryError(f"{len(tokens)} sequences where {most_rows} fit")
        return forward(self, tokens, *arguments, **more)

    Denoiser.forward = limited  # type: ignore[method-assign]


def prepare() -> None:
    """Import what every run needs, once per worker."""
    import torch

    torch.set_num_threads(1)
    import torch.utils.tensorboard

    import dmpo.cli.main
    import dmpo.policies.llada
    import dmpo.training.trainer  # noqa: F401


def kill(
    trial: int, seed: int, folder: Path, seconds: float, meets: Circumstances
) -> dict[str, Any]:
    """Kill a run once, at a random moment, and let it come to its end."""
    rng = random.Random(f"{seed}/{trial}")
    delay = rng.uniform(0, seconds)
    if meets.ranks > 1 and trial % 2 == 0:
        meets = replace(meets, victim=rng.randrange(meets.ranks))
    found = interrupt(folder / f"kill-{trial}", delay, signal.SIGKILL, meets)
    return {**found, "victim": "all" if meets.victim is None else meets.victim}


def stop(
    trial: int, seed: int, folder: Path, seconds: float, meets: Circumstances
) -> dict[str, Any]:
    """Ask a run to stop, at a random moment, and let it come to its end."""
    number = (signal.SIGTERM, signal.SIGINT)[trial % 2]
    delay = random.Random(f"{seed}/stop/{trial}").uniform(0, 0.9 * seconds)
    found = interrupt(folder / f"stop-{trial}", delay, number, meets)
    said = found["exit_code"] == 0 and "go on with" in found.pop("log")
    return {**found, "signal": number.name, "recovered": found["recovered"] and said}


def interrupt(run: Path, delay: float, number: int, meets: Circumstances) -> dict[str, Any]:
    launch = functools.partial(Forked, meets=meets)
    found = faults.send_at(launch, run, delay, number)
    log = run.with_suffix(".log").read_text()
    faults.complete(launch, run)
    recovered = faults.trace(run) == faults.trace(run.parent / "whole")
    shutil.rmtree(run)
    return {**found, "recovered": recovered} | ({} if number == signal.SIGKILL else {"log": log})


def fill_disk(
    trial: int,
    seed: int,
    folder: Path,
    seconds: float,  # noqa: ARG001
    meets: Circumstances,
) -> dict[str, Any]:
    """Run out of disk while checkpoints are written, and end once there is room again."""
    largest = max(path.stat().st_size for path in (folder / "whole" / faults.LAST).rglob("*"))
    # Less than a page would leave no room for the log, which is a file, too.
    size = random.Random(f"{seed}/disk/{trial}").randrange(4096, largest)
    how = ("stop", "continue")[trial % 2]
    more = ("--training.on_save_error", how)
    run = folder / f"disk-{trial}"
    full = replace(meets, file_size=size, more=more)
    log = run.with_suffix(".log")
    code = Forked(faults.arguments(run), log, meets=full).wait()
    said = log.read_text()
    whole = all(_is_whole(path) for path in (run / "checkpoints").glob("step-*"))
    faults.complete(functools.partial(Forked, meets=replace(meets, more=more)), run)
    recovered = faults.trace(run) == faults.trace(folder / "whole")
    shutil.rmtree(run)
    return {
        "bytes": size,
        "on_save_error": how,
        "exit_code": code,
        "said": "cannot be written" in said and "Traceback" not in said,
        "no_half_checkpoint": whole,
        "recovered": recovered and whole and code == 1,
    }


def _is_whole(path: Path) -> bool:
    from dmpo.errors import CheckpointError
    from dmpo.training.checkpoint import verify_checkpoint

    try:
        verify_checkpoint(path)
    except CheckpointError:
        return False
    return True


def damage(
    trial: int,
    seed: int,  # noqa: ARG001
    folder: Path,
    seconds: float,  # noqa: ARG001
    meets: Circumstances,
) -> dict[str, Any]:
    """Damage one file of the newest checkpoint of a run and let it come to its end again."""
    source = folder / "halfway"
    newest = max((source / "checkpoints").glob("step-*"))
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    name = files[trial // len(DAMAGES)].relative_to(newest)
    how = DAMAGES[trial % len(DAMAGES)]
    run = folder / f"damage-{trial}"
    shutil.copytree(source, run, ignore=shutil.ignore_patterns(".lock"))
    ruin(run / "checkpoints" / newest.name / name, how)
    said = faults.complete(functools.partial(Forked, meets=meets), run)
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
        meets = Circumstances(ranks=options.ranks, most_rows=options.out_of_memory)
        seconds = pool.apply(reference, (folder, meets))
        given = (options.seed, folder, seconds, meets)
        damages = min(options.damages, num_damages(folder))
        results = {
            "kills": trials(pool, kill, options.kills, *given),
            "signals": trials(pool, stop, options.signals, *given),
            "damages": trials(pool, damage, damages, *given),
            "full_disks": trials(pool, fill_disk, options.full_disks, *given),
        }
    shutil.rmtree(folder)
    minutes = (time.perf_counter() - started) / 60
    text = report(results, meets, options.seed, seconds, minutes)
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


def reference(folder: Path, meets: Circumstances) -> float:
    """Make the run that is left alone and one that was stopped; return the seconds of the first."""
    whole = folder / "whole"
    launch = functools.partial(Forked, meets=meets)
    process = launch(faults.arguments(whole), whole.with_suffix(".log"))
    while not (whole / "config.yaml").exists() and process.poll() is None:
        time.sleep(0.005)
    started = time.perf_counter()
    assert process.wait() == 0, whole.with_suffix(".log").read_text()
    seconds = time.perf_counter() - started
    halfway = folder / "halfway"
    for attempt in range(20):  # until a checkpoint within a buffer is the newest of two
        shutil.rmtree(halfway, ignore_errors=True)
        faults.send_at(launch, halfway, seconds * (0.4 + 0.02 * attempt))
        steps = [int(p.name[5:]) for p in sorted((halfway / "checkpoints").glob("step-*"))]
        if len(steps) == 2 and steps[-1] % 4:
            return seconds
    raise SystemExit("no run was killed with two checkpoints behind it; try again")


def num_damages(folder: Path) -> int:
    newest = max((folder / "halfway" / "checkpoints").glob("step-*"))
    return len(DAMAGES) * sum(path.is_file() for path in newest.rglob("*"))


def trials(
    pool: Any,
    trial: Callable[..., Any],
    count: int,
    seed: int,
    folder: Path,
    seconds: float,
    meets: Circumstances,
) -> list[dict[str, Any]]:
    pending = [pool.apply_async(trial, (i, seed, folder, seconds, meets)) for i in range(count)]
    rows = []
    for number, result in enumerate(pending, start=1):
        rows.append(result.get())
        if not rows[-1]["recovered"]:
            print(f"{trial.__name__} {number}: NOT recovered: {rows[-1]}", file=sys.stderr)
    return rows


def report(
    results: dict[str, Any], meets: Circumstances, seed: int, seconds: float, minutes: float
) -> str:
    kills, damages, disks = (results[name] for name in ("kills", "damages", "full_disks"))
    named = sum(row["named"] and row["checkpoint_before"] for row in damages)
    before = sum(row["checkpoints"] == 0 for row in kills)
    within = sum(row["in_a_checkpoint"] for row in kills)
    ended = sum(row["exit_code"] == 0 for row in kills)
    one = sum(row["victim"] != "all" for row in kills)
    what = {
        "kills": "SIGKILL at a random moment, one resume"
        + (f" ({one} of one process, {len(kills) - one} of all)" if meets.ranks > 1 else ""),
        "signals": "SIGTERM or SIGINT: exit 0, a line how to go on, one resume",
        "damages": "a file of the newest checkpoint deleted, truncated or flipped",
        "full_disks": "a disk that is full at a checkpoint (stop and continue in turn), one resume",
    }
    lines = [
        "# A run that is killed, stopped, out of disk, or finds its checkpoint damaged",
        "",
        "| trial | count | end bit-identical to a run left alone |",
        "| --- | ---: | ---: |",
    ]
    for name, rows in results.items():
        if rows:
            good = sum(row["recovered"] for row in rows)
            lines.append(f"| {what[name]} | {len(rows)} | **{good}** |")
    lines += [""]
    if meets.ranks > 1:
        lines += [f"The run has {meets.ranks} processes (DDP over gloo).", ""]
    if meets.most_rows is not None:
        lines += [
            "With `--auto-micro-batch`, where a pass with gradient over more than "
            f"{meets.most_rows} sequences is out of memory.",
            "",
        ]
    if kills:
        lines.append(
            f"Of the kills {before} came before the first checkpoint, {within} while one was being "
            f"written, {ended} after the run's end. "
        )
    if damages:
        lines.append(
            f"Of the damages {named} were named, file by file, and the checkpoint before was used. "
        )
    if disks:
        said = sum(row["said"] for row in disks)
        lines.append(
            f"Of the full disks {said} were said in a line, and none left half a checkpoint."
            if all(row["no_half_checkpoint"] for row in disks)
            else f"Of the full disks {said} were said in a line; some left half a checkpoint."
        )
    lines += [
        "",
        "Compared: every metric, sample, evaluation and completion that no clock decides, and the "
        "bytes of the last checkpoint's weights and optimizer. "
        f"A run left alone takes {seconds:.1f} s.",
        "",
        *provenance(),
        f"- seed {seed}, one thread a process, {minutes:.0f} min in all",
        "",
    ]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--damages", type=int, default=10**6, help="at most; default: all")
    parser.add_argument("--full-disks", type=int, default=10)
    parser.add_argument("--ranks", type=int, default=1, help="processes of a run")
    parser.add_argument("--out-of-memory", type=int, metavar="ROWS")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="write results/NAME.md and NAME.json")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
