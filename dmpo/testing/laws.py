"""Laws, and how many of them are looked at together.

A law is a function that is handed what it looks at and yields a line for everything it finds
wrong. Its name is the function's, its promise the first line of the docstring.
"""

from __future__ import annotations

import inspect
import random
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "UNTOUCHED_RANDOMNESS",
    "Broken",
    "Law",
    "broken_laws",
    "law",
    "report",
]

UNTOUCHED_RANDOMNESS = "leaves_global_randomness_alone"
"""The law that is watched while all others are looked at."""

ROOM = Path(__file__).parent
"""Where frames of this room lie, which are of no interest to an author."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """One promise of an interface, and how it is looked at."""

    name: str
    """What messages and the page of laws call it."""
    promise: str
    """What is promised, in one sentence."""
    check: Callable[[Any], Iterable[str]]
    """Yields what was expected and what happened, once for each thing that is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A law that does not hold."""

    law: str
    """Its name."""
    promise: str
    """What it promises."""
    found: tuple[str, ...]
    """What was expected and what happened."""
    hides: tuple[str, ...] = field(default=())
    """Laws that the same failure stood in the way of."""


RANDOMNESS = Law(
    name=UNTOUCHED_RANDOMNESS,
    promise="Draws come from the generator that is handed in; the global random streams of torch, "
    "Python and numpy stay as they are (dropout apart).",
    check=lambda _: (),
)
"""Looked at by :func:`broken_laws` itself."""


def law(check: Callable[[Any], Iterable[str]]) -> Law:
    """Make a law of a function whose docstring is the promise."""
    promise = " ".join((inspect.getdoc(check) or "").partition("\n\n")[0].split())
    return Law(name=check.__name__, promise=promise, check=check)


def broken_laws(subject: Any, laws: Sequence[Law], *, home: str = "") -> list[Broken]:
    """Look at every law and return those that do not hold.

    What the plugin raises breaks the law it was raised under; laws that the same error stands in
    the way of are named beside it, not reported again.

    Args:
        subject: What the laws are handed.
        laws: Which.
        home: The plugin's own file, whose line is named where it raises.
    """
    broken: list[Broken] = []
    raised: dict[str, int] = {}
    touched: list[str] = []
    for each in laws:
        before = _random_state()
        try:
            found = tuple(each.check(subject))
        except Exception as error:  # a plugin may raise anything
            text = _told(error, home)
            if text in raised:
                first = broken[raised[text]]
                broken[raised[text]] = replace(first, hides=(*first.hides, each.name))
                found = ()
            else:
                raised[text] = len(broken)
                found = (text,)
        if found:
            broken.append(Broken(law=each.name, promise=each.promise, found=found))
        if not _is_same(before, _random_state()):
            touched.append(each.name)
            _restore(before)
    if touched:
        line = f"expected: no draw from a global stream; one moved during {', '.join(touched)}"
        broken.append(Broken(law=RANDOMNESS.name, promise=RANDOMNESS.promise, found=(line,)))
    return broken


def report(name: str, kind: str, broken: Sequence[Broken], *, num_laws: int) -> str:
    """Return broken laws as an author reads them.

    Args:
        name: Of the class.
        kind: Of the interface, with its article.
        broken: Which laws, and how.
        num_laws: How many were looked at.
    """
    count = len(broken)
    laws = "1 law" if count == 1 else f"{count} laws"
    return "\n".join(
        [
            f"{name} breaks {laws} of {kind}, of {num_laws} that were looked at "
            "(docs/guides/conformance.md has them all):",
            *(line for each in broken for line in _lines(each)),
        ]
    )


def _lines(broken: Broken) -> Iterator[str]:
    yield ""
    yield f"  {broken.law}"
    yield f"    promised: {broken.promise}"
    for line in broken.found:
        yield f"    found:    {line}"
    if broken.hides:
        yield f"    which also stands in the way of: {', '.join(broken.hides)}"


def _told(error: Exception, home: str) -> str:
    """Return what was raised and where: in the plugin's own file, if it was there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == home]
    others = [frame for frame in frames if Path(frame.filename).parent != ROOM]
    place = (own or others or frames)[-1]
    message = " ".join(str(error).split())
    return (
        f"expected: no error; raised {type(error).__name__}: {message} "
        f"({Path(place.filename).name}, line {place.lineno})"
    )


def _random_state() -> tuple[Any, ...]:
    """Return the states of the global streams.

    Of Python's own there is none where beartype is loaded: checking types, it draws from it.
    """
    numpy = sys.modules.get("numpy")
    legacy = numpy.random.get_state(legacy=False) if numpy else None
    own = None if "beartype" in sys.modules else random.getstate()
    return torch.get_rng_state(), own, legacy


def _is_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return (
        torch.equal(one[0], other[0])
        and one[1] == other[1]
        and _numbers(one[2]) == _numbers(other[2])
    )


def _numbers(state: Any) -> Any:
    return None if state is None else (state["state"]["key"].tobytes(), state["state"]["pos"])


def _restore(state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        random.setstate(state[1])
    numpy = sys.modules.get("numpy")
    if numpy and state[2] is not None:
        numpy.random.set_state(state[2])
