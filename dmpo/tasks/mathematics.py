r"""Whether two mathematical answers are equal: exact checks first, then math-verify in a process.

Equal writing, exact numbers, numbers with a base and words are decided here and at once. What is
left goes to math-verify (SymPy), which on some texts takes hours or all memory; its own time
limit is a signal that works in the main thread alone. So it runs in processes of its own, which
are killed at the time limit, whatever thread or process asks.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import functools
import itertools
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import final

from dmpo.errors import DmpoError
from dmpo.tasks.math_worker import READY
from dmpo.tasks.numbers import exact_number

__all__ = ["MathVerifier", "equivalent"]

SECONDS = 5.0
START_SECONDS = 120.0
MAX_CHARACTERS = 1000
MAX_CACHED = 65_536

_REMOVED = re.compile(
    r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])|\\[!,;: ]|\\?[$%]|°"
    r"|\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\[()\[\]]|\s+|(?<=[0-9])\{,\}(?=[0-9]{3})"
)
_TEXT = re.compile(r"\\(?:text|mbox|textbf|textit|mathrm|operatorname)\s*\{([^{}]*)\}")
_ONLY_TEXT = re.compile(rf"\s*{_TEXT.pattern}\s*")
_SHORT_FRACTION = re.compile(r"\\frac([0-9A-Za-z])(?:([0-9A-Za-z])|(?=\{))")
_SHORT_ROOT = re.compile(r"\\sqrt([0-9A-Za-z])")
_SHORT_SCRIPT = re.compile(r"([_^])\{([0-9A-Za-z])\}")
_WITH_BASE = re.compile(r"([0-9A-Fa-f]+)(?:_\{?([0-9]+)\}?)?")


def equivalent(answer: str, reference: str, *, seconds: float = SECONDS) -> bool:
    """Return whether an answer equals the reference, mathematically.

    Numbers are compared exactly: a rounded decimal is not the fraction. Lists without brackets
    are sets: ``3, 5`` is ``5, 3``. A degree, currency or percent sign, or a unit behind the
    number, may be missing.

    Args:
        answer: LaTeX or plain text, any text at all; longer than 1,000 characters equals nothing.
        reference: The right answer.
        seconds: Time limit of one comparison by math-verify; past it, the two are not equal.
    """
    if max(len(answer), len(reference)) > MAX_CHARACTERS:
        return answer == reference
    decided = _decided(answer, reference)
    return _verified(answer, reference, seconds) if decided is None else decided


@final
class MathVerifier:
    """Processes that compare answers with math-verify, each comparison under a time limit.

    Any number of threads may ask at once; a thread that finds no idle process starts one. They
    live until :meth:`close`, or until the process that started them ends.
    """

    def __init__(self) -> None:
        """Start nothing; the first question does."""
        self._idle: collections.deque[_Worker] = collections.deque()
        self._slots = threading.BoundedSemaphore(max(1, os.cpu_count() or 1))

    def equivalent(self, answer: str, reference: str, *, seconds: float) -> bool:
        """Return math-verify's verdict; False if it takes longer or its process ends."""
        with self._slots:
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = _Worker()
            verdict = worker.ask(answer, reference, seconds)
            if verdict is None:
                worker.close()
                return False
            self._idle.append(worker)
            return verdict

    def close(self) -> None:
        """End every idle process."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()


@final
class _Worker:
    """One process of :mod:`dmpo.tasks.math_worker` and its pipes."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            # -P: no module beside the script or in the working directory hides a library's.
            [sys.executable, "-P", "-m", "dmpo.tasks.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"},
        )
        self._buffer = b""
        if self._line(START_SECONDS) != READY:
            self.close()
            raise DmpoError(
                "grading mathematics: the process for math-verify did not start; "
                f"try: {sys.executable} -m dmpo.tasks.math_worker"
            )

    def ask(self, answer: str, reference: str, seconds: float) -> bool | None:
        """Return the verdict; None if there was none in time, after which this is of no use."""
        number = next(self._numbers)
        request = {"id": number, "answer": answer, "reference": reference, "seconds": seconds}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return None
        line = self._line(seconds)
        reply = json.loads(line) if line else None
        return reply["verdict"] if reply and reply["id"] == number else None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _line(self, seconds: float) -> str | None:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        # Not select: the numbers of open files may go beyond what it takes.
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return None
            part = os.read(pipe, 65536)
            if not part:
                return None
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()


@functools.lru_cache(maxsize=MAX_CACHED)
def _verified(answer: str, reference: str, seconds: float) -> bool:
    return _verifier().equivalent(answer, reference, seconds=seconds)


@functools.cache
def _verifier() -> MathVerifier:
    """Return the verifier of this process. A forked child makes its own."""
    verifier = MathVerifier()
    atexit.register(verifier.close)
    return verifier


os.register_at_fork(after_in_child=_verifier.cache_clear)


def _decided(answer: str, reference: str) -> bool | None:
    """Return a verdict that needs no algebra, or None."""
    if not answer.strip():
        return False
    first, second = _normalised(answer), _normalised(reference)
    if first == second:
        return True
    if _ONLY_TEXT.fullmatch(reference):
        return _word(first) == _word(second)
    if "_" in second and (base := _WITH_BASE.fullmatch(second)):
        given = _WITH_BASE.fullmatch(first)
        return bool(given and given[1] == base[1] and given[2] in (None, base[2]))
    numbers = exact_number(answer), exact_number(reference)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] in _values(numbers[1], "%" in reference, "%" in answer)
    return None


def _values(number: Fraction, is_percent: bool, other_is_percent: bool) -> Iterator[Fraction]:
    yield number
    if is_percent and not other_is_percent:
        yield number / 100
    if other_is_percent and not is_percent:
        yield number * 100


def _normalised(text: str) -> str:
    r"""Return a writing that equal answers often share: no spaces, ``\frac{a}{b}``, no signs.

    Only what does not change the value is taken off.
    """
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("−", "-")
    text = _REMOVED.sub("", _TEXT.sub(r"\1", text)).removesuffix(".")
    text = _SHORT_FRACTION.sub(
        lambda match: f"\\frac{{{match[1]}}}" + (f"{{{match[2]}}}" if match[2] else ""), text
    )
    return _SHORT_SCRIPT.sub(r"\1\2", _SHORT_ROOT.sub(r"\\sqrt{\1}", text))


def _word(text: str) -> str:
    return text.strip("().,;:\"'*").casefold()
