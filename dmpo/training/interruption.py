"""Signals that ask a run to stop, and the moments at which it can."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar, final

__all__ = ["Abandoned", "Interruption"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

Result = TypeVar("Result")


class Abandoned(KeyboardInterrupt):
    """Raised by a third SIGINT inside what was held: the state of the run is not to be trusted."""


class _Broken(BaseException):
    """Leaves what may be broken off; no `except Exception` on the way takes it for a failure."""


@final
class Interruption:
    """Turns SIGINT, SIGTERM and SIGUSR1 into a request that a loop reads between two steps.

    The first signal only asks. A further SIGINT raises :class:`KeyboardInterrupt`: at once, or,
    where a step is being completed or a checkpoint written, right after that. A third one does
    not wait there and raises :class:`Abandoned`. Further SIGTERMs are ignored: launchers repeat
    them. SIGUSR1 is what schedulers send before time is up.

    Signals are taken over between entering and leaving the context, in the main thread alone;
    without a context it never asks for anything.

    Args:
        notify: Told the signal's name when the first one arrives; runs inside the signal
            handler, so it should only write a line.
    """

    def __init__(self, notify: Callable[[str], None] | None = None) -> None:
        """Ask for nothing yet."""
        self._notify = notify
        self._signal: str | None = None
        self._is_held = False
        self._is_pending = False
        self._is_breakable = False
        self._previous: dict[int, Any] = {}

    @property
    def signal(self) -> str | None:
        """Name of the signal that asked to stop; None: none did."""
        return self._signal

    def __enter__(self) -> Interruption:
        """Take over the signals."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Complete what is inside before a second SIGINT ends the process."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            pending, self._is_pending = self._is_pending, False
        if pending:
            raise KeyboardInterrupt

    def broken_off(self, work: Callable[[], Result]) -> Result | None:
        """Return what ``work`` returns, or None as soon as the first signal comes.

        For what leaves no trace until it is complete, such as an evaluation. A function, not a
        context: a signal may come at any instruction, and a context has some outside of its
        ``try``.
        """
        try:
            try:
                self._is_breakable = self._signal is None
                return work()
            finally:
                self._is_breakable = False
        except _Broken:
            return None

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        is_first = self._signal is None
        if is_first:
            self._signal = signal.Signals(number).name
            if self._notify is not None:
                self._notify(self._signal)
            if self._is_breakable:
                self._is_breakable = False
                raise _Broken
        elif number == signal.SIGINT:
            if self._is_held and not self._is_pending:
                self._is_pending = True
                return
            is_abandoned, self._is_pending = self._is_held, False
            raise Abandoned if is_abandoned else KeyboardInterrupt
