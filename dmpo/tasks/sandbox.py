"""Untrusted Python programs, run with tests in processes of their own under limits.

What holds a program:

- a process of its own, in its own session, whose whole process group is killed when the program
  ends or its time is up; standard input, output and error lead nowhere; the environment holds
  nothing but the seed of hashes (so that the order of a set is the same every time), the working
  directory is new and empty, and only the standard library can be imported;
- resource limits: processor time, address space, open files, no byte written to any file;
- an audit hook, which the program cannot take out: no file is opened but those of the standard
  library, for reading; no network, no process, no thread, no signal, no ctypes, no stack frames;
- on Linux, x86-64 and 64-bit ARM, a system-call filter in the kernel
  (:mod:`dmpo.tasks.seccomp`), which holds even where the interpreter itself is subverted: nothing
  is written, nothing started, no connection made. Where there is none the other layers stand
  alone, and ``Verdict.by_kernel`` says so.

A test counts as passed only if its own random token came back through a pipe that the program has
no name for; printing, exiting early and reporting anything else is no verdict. Tests have builtins
of their own, and ``==`` in an assertion does not believe an object that says it equals everything.

What it is not: a container. Program and tests share one interpreter, so a program written against
this very file can still forge its verdict: through the globals of a function that a test hands it,
a library function it replaces (``math.isclose``), crafted bytecode or a hole in the interpreter.
It can read the files of the standard library, use its share of processor and memory, and where the
kernel's filter is missing it is held by Python alone. For code from somebody who wants to do harm,
run the whole training in a container or a virtual machine.
"""

from __future__ import annotations

import contextlib
import functools
import marshal
import math
import os
import queue
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

from dmpo.tasks.seccomp import seccomp_filter
from dmpo.tasks.unit_tests import UnitTests

__all__ = ["MAX_CODE", "Limits", "Program", "Verdict", "run_program", "run_programs"]

# The worker comes compiled, with its orders: to compile it anew would double a start.
BOOT = """
import marshal, os
parts = []
while part := os.read(0, 65536):
    parts.append(part)
worker, orders = marshal.loads(b"".join(parts))
names = {"__name__": "worker"}
exec(worker, names)
names["main"](orders)
"""
WORKER = Path(__file__).with_name("sandbox_worker.py")
PYTEST = Path(__file__).with_name("sandbox_pytest.py")
MAX_CODE = 1_000_000
"""Longest program that is run at all, in characters."""
TOKEN_BYTES = 12
REPORT_SLACK = 4096
"""Bytes of a report beyond the tokens: the layers in force, and the first error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use, its start and its tests included."""

    wall_seconds: float = 10.0
    """Time by the clock."""
    cpu_seconds: int = 5
    """Processor time, a whole number of seconds."""
    memory_bytes: int = 512 * 1024**2
    """Address space, the interpreter's 30 MB included."""
    open_files: int = 32
    """File descriptors."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is run: untrusted code, and the tests that it shall pass."""

    code: str
    """Python source, as a model wrote it."""
    tests: UnitTests
    """From :func:`dmpo.tasks.unit_tests.unit_tests`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a program."""

    passed: tuple[bool, ...]
    """Per test. False as well where the program ended, or was ended, before it."""
    reason: str = field(default="", compare=False)
    """The first error in the program's own words, or how it ended; empty if there was none."""
    seconds: float = field(default=0.0, compare=False)
    """Time by the clock."""
    by_kernel: bool = field(default=False, compare=False)
    """Whether the system-call filter held it."""


DEFAULT_LIMITS = Limits()


def run_programs(
    programs: Sequence[Program], *, limits: Limits = DEFAULT_LIMITS, workers: int | None = None
) -> list[Verdict]:
    """Run programs, several at a time, and return their verdicts in order.

    Args:
        programs: Equal ones are run once.
        limits: Of each program.
        workers: Programs at a time; None: one per processor that this process may use.
    """
    distinct = list(dict.fromkeys(programs))
    count = min(len(distinct), workers or _num_processors())
    if count <= 1:
        verdicts = [run_program(program, limits=limits) for program in distinct]
    else:
        verdicts = _run_in_threads(distinct, limits, count)
    found = dict(zip(distinct, verdicts, strict=True))
    return [found[program] for program in programs]


def _num_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run_in_threads(programs: Sequence[Program], limits: Limits, count: int) -> list[Verdict]:
    """Run programs in daemon threads, each of which only waits for a process at a time.

    Unlike a pool of :mod:`concurrent.futures`, they keep no process from its exit.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Verdict | BaseException]] = queue.SimpleQueue()
    given_up = threading.Event()
    for index in range(len(programs)):
        todo.put(index)

    def work() -> None:
        while not given_up.is_set():
            try:
                index = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, run_program(programs[index], limits=limits)))
            except BaseException as error:  # raised again by who waits
                done.put((index, error))

    for number in range(count):
        name = f"dmpo-sandbox-{number}"
        threading.Thread(target=work, name=name, daemon=True).start()
    found: dict[int, Verdict] = {}
    try:
        while len(found) < len(programs):
            index, result = done.get()
            if isinstance(result, BaseException):
                raise result
            found[index] = result
    finally:
        given_up.set()
    return [found[index] for index in range(len(programs))]


def run_program(program: Program, *, limits: Limits = DEFAULT_LIMITS) -> Verdict:
    """Run one program and its tests.

    Safe in any thread and in daemonic processes; the process is started without running Python
    code between fork and exec.

    Raises:
        OSError: If this machine starts no process at all.
    """
    if len(program.code) > MAX_CODE:
        return Verdict(passed=(False,) * program.tests.num_tests, reason="the program is too long")
    tokens = tuple(secrets.token_hex(TOKEN_BYTES).encode() for _ in program.tests.at_once)
    orders = marshal.dumps((_worker(), _orders(program, tokens, limits)))
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dmpo-sandbox-") as folder:
        process = _started(folder)
        try:
            bound = REPORT_SLACK + len(tokens) * (2 * TOKEN_BYTES + 2)
            report, ending = _exchange(process, orders, begin + limits.wall_seconds, bound)
        finally:
            ended = _end(process)
    lines = report.split(b"\n")[:-1]
    said = next((line[1:].decode() for line in lines if line[:1] == b"R" and line.isascii()), "")
    return Verdict(
        passed=tuple(b"P" + token in lines for token in tokens),
        reason=ending or said or ended,
        seconds=time.monotonic() - begin,
        by_kernel=lines[:1] == [b"K"],
    )


def _orders(program: Program, tokens: tuple[bytes, ...], limits: Limits) -> dict[str, Any]:
    tests = program.tests
    needs_pytest = any("pytest" in statement for statement in tests.statements)
    return {
        "code": program.code,
        "statements": tests.statements,
        "at_once": tests.at_once,
        "shadows_builtins": tests.shadows_builtins,
        "tokens": tokens,
        "pytest": PYTEST.read_text(encoding="utf-8") if needs_pytest else "",
        "filter": _filter(),
        "cpu_seconds": limits.cpu_seconds,
        "alarm_seconds": math.ceil(limits.wall_seconds) + 2,
        "memory_bytes": limits.memory_bytes,
        "open_files": limits.open_files,
    }


_filter = functools.cache(seccomp_filter)


@functools.cache
def _worker() -> CodeType:
    return compile(WORKER.read_text(encoding="utf-8"), "sandbox", "exec", dont_inherit=True)


def _started(folder: str) -> subprocess.Popen[bytes]:
    # -I would also ignore the seed of hashes, the one variable there is; -s -P is the rest of it.
    environment = {"PYTHONHASHSEED": "0"}
    if "LD_LIBRARY_PATH" in os.environ:  # where the interpreter's own library may lie
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return subprocess.Popen(
        [sys.executable, "-s", "-P", "-S", "-B", "-c", BOOT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )


def _exchange(
    process: subprocess.Popen[bytes], orders: bytes, deadline: float, bound: int
) -> tuple[bytes, str]:
    """Send the orders and read the report until it ends, the time is up, or it is too long."""
    assert process.stdin is not None
    assert process.stdout is not None
    report = bytearray()
    rest = memoryview(orders)
    for pipe in (process.stdin, process.stdout):
        os.set_blocking(pipe.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return bytes(report), "the time limit was reached"
            for key, _ in selector.select(remaining):
                if key.fileobj is process.stdin:
                    rest = rest[_written(process.stdin.fileno(), rest) :]
                    if not rest:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                part = os.read(process.stdout.fileno(), 1 << 16)
                report += part
                if not part:
                    return bytes(report), ""
                if len(report) > bound:
                    return bytes(report[:bound]), "the report is longer than a report can be"


def _written(descriptor: int, content: memoryview) -> int:
    try:
        return os.write(descriptor, content[: 1 << 16])
    except BlockingIOError:
        return 0
    except BrokenPipeError:  # it ended before it had read everything
        return len(content)


def _end(process: subprocess.Popen[bytes]) -> str:
    """Kill the process group, wait for the process, and return how it ended by itself."""
    # Not yet waited for, so the number is still this group's.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    code = process.wait()
    if code < 0 and -code != signal.SIGKILL:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with status {code}" if code > 0 else ""
