"""Untrusted Python programs, run with tests in processes of their own under limits.

What holds a program:

- a process of its own, forked by a bare interpreter (not by this one, with its threads and its
  memory), in a session whose whole process group is killed when the program's time is up;
  standard input, output and error lead nowhere; the environment is empty, the working directory is
  new and empty, only the standard library can be imported, and the seed of hashes is fixed, so that
  the order of a set is the same every time;
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
from typing import Any

from dmpo.tasks.seccomp import seccomp_filter
from dmpo.tasks.unit_tests import UnitTests

__all__ = ["MAX_CODE", "Limits", "Program", "Verdict", "run_program", "run_programs"]

# The worker comes compiled, as the first thing on standard input: to compile it anew would double
# a start.
BOOT = """
import marshal, os, sys
length = int.from_bytes(os.read(0, 8), "little")
parts = []
while length and (part := os.read(0, length)):
    parts.append(part)
    length -= len(part)
names = {"__name__": "worker"}
exec(marshal.loads(b"".join(parts)), names)
names["serve"](int(sys.argv[1]))
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
        with _Starter() as starter:
            verdicts = [_run(program, limits, starter) for program in distinct]
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
        with _Starter() as starter:
            while not given_up.is_set():
                try:
                    index = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((index, _run(programs[index], limits, starter)))
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
    with _Starter() as starter:
        return _run(program, limits, starter)


def _run(program: Program, limits: Limits, starter: _Starter) -> Verdict:
    if len(program.code) > MAX_CODE:
        return Verdict(passed=(False,) * program.tests.num_tests, reason="the program is too long")
    tokens = tuple(secrets.token_hex(TOKEN_BYTES).encode() for _ in program.tests.at_once)
    begin = time.monotonic()
    bound = REPORT_SLACK + len(tokens) * (2 * TOKEN_BYTES + 2)
    orders = marshal.dumps(_orders(program, tokens, limits))
    report, ending = starter.run(orders, begin + limits.wall_seconds, bound)
    lines = report.split(b"\n")[:-1]
    said = next((line[1:].decode() for line in lines if line[:1] == b"R" and line.isascii()), "")
    return Verdict(
        passed=tuple(b"P" + token in lines for token in tokens),
        reason=said or ending,
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
        "cpu_seconds": limits.cpu_seconds,
        "alarm_seconds": math.ceil(limits.wall_seconds) + 2,
        "memory_bytes": limits.memory_bytes,
        "open_files": limits.open_files,
    }


@functools.cache
def _filter() -> bytes:
    return seccomp_filter() or b""


@functools.cache
def _worker() -> bytes:
    text = WORKER.read_text(encoding="utf-8")
    return marshal.dumps(compile(text, "sandbox", "exec", dont_inherit=True))


class _Starter:
    """A process that forks one for each program: what Python needs to start is paid for once.

    It and its programs are one process group. A program that has to be ended takes the starter
    with it; the next program gets another.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dmpo-sandbox-")
        self._process: subprocess.Popen[bytes] | None = None
        self._control = -1

    def __enter__(self) -> _Starter:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    def run(self, orders: bytes, deadline: float, bound: int) -> tuple[bytes, str]:
        """Run a program; return its report and, in words, how it ended if not by itself.

        Raises:
            OSError: If no process starts.
        """
        preface = b""
        if self._process is None:
            preface = self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        exchange = _Exchange(process.stdin.fileno(), process.stdout.fileno(), self._control)
        try:
            ending = exchange.run(preface + _framed(orders), deadline, bound)
        except BaseException:
            self._end()
            raise
        if not exchange.status:
            self._end()
            if not ending:
                raise OSError("the sandbox's process ended by itself before the program did")
            return bytes(exchange.report), ending
        return bytes(exchange.report), _ended(int(exchange.status))

    def _start(self) -> bytes:
        """Start the process; return what it reads first."""
        # -I would also ignore the seed of hashes, the one variable there is; -s -P is its rest.
        environment = {"PYTHONHASHSEED": "0"}
        if "LD_LIBRARY_PATH" in os.environ:  # where the interpreter's own library may lie
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        self._control, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-S", "-B", "-c", BOOT, str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self._folder.name,
                env=environment,
                pass_fds=(theirs,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._control)
            raise
        finally:
            os.close(theirs)
        return _framed(_worker()) + _framed(_filter())

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        self._process = None
        # Not yet waited for, so the number is still this group's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        os.close(self._control)
        process.wait()


class _Exchange:
    """Orders go to the starter; the program's report and its end come back."""

    def __init__(self, orders: int, report: int, control: int) -> None:
        self._orders, self._report, self._control = orders, report, control
        self.report = bytearray()
        self.status = b""

    def run(self, orders: bytes, deadline: float, bound: int) -> str:
        """Return why it was broken off; nothing where the program, or the starter, ended."""
        rest = memoryview(orders)
        for descriptor in (self._orders, self._report, self._control):
            os.set_blocking(descriptor, False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._orders, selectors.EVENT_WRITE)
            selector.register(self._report, selectors.EVENT_READ)
            selector.register(self._control, selectors.EVENT_READ)
            while not self.status:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return "the time limit was reached"
                ready = {key.fd for key, _ in selector.select(remaining)}
                if self._orders in ready:
                    rest = rest[_written(self._orders, rest) :]
                    if not rest:
                        selector.unregister(self._orders)
                if self._report in ready:
                    self._read_report(bound)
                if len(self.report) > bound:
                    return "the report is longer than a report can be"
                if self._control in ready:
                    self.status = os.read(self._control, 64)
                    if not self.status:
                        return ""
        # The program is gone: what it wrote is in the pipe.
        while self._read_report(bound):
            if len(self.report) > bound:
                self.status = b""  # the rest would be taken for the next program's
                return "the report is longer than a report can be"
        return ""

    def _read_report(self, bound: int) -> bool:
        try:
            part = os.read(self._report, bound + 1)
        except BlockingIOError:
            return False
        self.report += part
        return bool(part)


def _framed(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


def _written(descriptor: int, content: memoryview) -> int:
    try:
        return os.write(descriptor, content[: 1 << 16])
    except BlockingIOError:
        return 0
    except BrokenPipeError:  # it ended before it had read everything
        return len(content)


def _ended(code: int) -> str:
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with status {code}" if code > 0 else ""
