"""How rewards are run: side by side, under time limits, and row by row to find one that fails."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, TypeVar, final

import torch

from dmpo.records import Rewards, Rollouts

__all__ = [
    "InBackground",
    "merged_rows",
    "row_name",
    "row_of",
    "run_rows",
    "run_together",
    "run_within",
]

T = TypeVar("T")


@final
class InBackground(Generic[T]):
    """Calls that run one after the other in a thread, while who made them goes on.

    The thread is a daemon: a call that hangs keeps nobody from leaving.
    """

    def __init__(self) -> None:
        """Wait for the first call."""
        self._calls: queue.SimpleQueue[Callable[[], T] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[T | BaseException] = queue.SimpleQueue()
        self._num_calls = 0
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._run,), daemon=True).start()

    def add(self, call: Callable[[], T]) -> None:
        """Have a call made after those before it; without gradients."""
        self._num_calls += 1
        self._calls.put(call)

    def results(self) -> list[T]:
        """Wait for all calls and return what they returned, in order; nothing is added after.

        Raises:
            BaseException: What the first call to fail raised.
        """
        self._calls.put(None)
        found = [self._results.get() for _ in range(self._num_calls)]
        for result in found:
            if isinstance(result, BaseException):
                raise result
        return found  # type: ignore[return-value]

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                with torch.no_grad():
                    result: T | BaseException = call()
            except BaseException as error:  # raised again by who waits
                result = error
            self._results.put(result)


def run_within(timeout: float | None, call: Callable[[], T]) -> T:
    """Return what a call returns, or give up on it.

    A call that is given up goes on in a daemon thread: nothing in Python can end it, but neither
    the run nor its exit waits for it. Code that keeps the interpreter's lock (one long regular
    expression, say) keeps this function from giving up, too.

    Args:
        timeout: Seconds; None: no limit, and no thread.
        call: Runs without gradients, in a thread of its own.

    Raises:
        TimeoutError: If the call takes longer.
    """
    if timeout is None:
        return call()
    results = _start([call])
    try:
        _, result = results.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError(f"no answer within {timeout:g} s") from None
    if isinstance(result, BaseException):
        raise result
    return result


def run_together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Return what calls return, run at the same time in threads, in order.

    Raises:
        BaseException: What the first call to fail raised, at once; the others are left behind.
    """
    if len(calls) == 1:
        return [calls[0]()]
    results = _start(calls)
    found: dict[int, T] = {}
    while len(found) < len(calls):
        index, result = results.get()
        if isinstance(result, BaseException):
            raise result
        found[index] = result
    return [found[index] for index in range(len(calls))]


def run_rows(
    timeout: float | None, call: Callable[[int], T], num_rows: int
) -> list[T | Exception | None]:
    """Return what a call returns for each row, or the error it raises there.

    Args:
        timeout: Seconds for all rows together; None: no limit.
        call: Of a row's number.
        num_rows: How many.

    Returns:
        One entry per row; None for the rows that it did not come to in time. The first of them
        is the one it hung at.
    """
    results: list[T | Exception | None] = [None] * num_rows
    given_up = threading.Event()

    def run() -> None:
        for row in range(num_rows):
            if given_up.is_set():
                return
            try:
                result: T | Exception = call(row)
            except Exception as error:  # whatever a user's function may raise
                result = error
            except SystemExit as error:
                result = RuntimeError(f"SystemExit: {error}")
            if not given_up.is_set():
                results[row] = result

    try:
        run_within(timeout, run)
    except TimeoutError:
        given_up.set()
    return list(results)


def _start(calls: Sequence[Callable[[], T]]) -> queue.SimpleQueue[tuple[int, T | BaseException]]:
    results: queue.SimpleQueue[tuple[int, T | BaseException]] = queue.SimpleQueue()

    def run(index: int) -> None:
        try:
            with torch.no_grad():
                result: T | BaseException = calls[index]()
        except BaseException as error:  # raised again by who waits
            result = error
        results.put((index, result))

    for index in range(len(calls)):
        context = contextvars.copy_context()
        name = f"dmpo-reward-{index}"
        threading.Thread(target=context.run, args=(run, index), name=name, daemon=True).start()
    return results


def row_name(row: int, num_rollouts: int) -> str:
    """Return how messages call a row."""
    prompt, rollout = divmod(row, num_rollouts)
    return f"row {row} (prompt {prompt}, rollout {rollout})"


def row_of(rollouts: Rollouts, row: int) -> Rollouts:
    """Return one rollout of one prompt as a buffer of its own."""
    prompt, rollout = divmod(row, rollouts.num_rollouts)
    group = rollouts.groups([prompt])
    log_probs, entropies = group.log_probs, group.entropies
    one = slice(rollout, rollout + 1)
    return replace(
        group,
        completions=group.completions[:, one],
        answer_mask=group.answer_mask[:, one],
        commit_step=group.commit_step[:, one],
        log_probs=None if log_probs is None else log_probs[:, one],
        entropies=None if entropies is None else entropies[:, one],
        texts=(group.texts[0][one],),
    )


def merged_rows(rows: Sequence[Rewards | None], name: str, num_rollouts: int) -> Rewards:
    """Return the rewards of single rows as those of a buffer.

    A row that is None is missing: its total is 0, its components are NaN. If every row is,
    there is one component of that kind, called ``name``.
    """
    shape = (len(rows) // num_rollouts, num_rollouts)
    found = [row for row in rows if row is not None]
    names = dict.fromkeys(key for row in found for key in row.components) or {name: None}
    nothing = torch.full((1, 1), torch.nan)

    def column(key: str) -> torch.Tensor:
        cells = [nothing if row is None else row.components.get(key, nothing) for row in rows]
        return torch.cat(cells).reshape(shape)

    totals = [torch.zeros(1, 1) if row is None else row.total for row in rows]
    return Rewards(
        total=torch.cat(totals).reshape(shape), components={key: column(key) for key in names}
    )
