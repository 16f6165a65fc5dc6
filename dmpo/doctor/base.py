"""What an examination finds: checks, advice, and a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

__all__ = ["Advice", "Area", "Check", "Report", "State", "found", "readable_bytes"]

State = Literal["ok", "absent", "warning", "failed"]
"""As it should be; not there, which is no fault; usable, but less than it could be; not usable."""

Area = Literal["packages", "devices", "kernels", "network", "system"]
"""What a check is about."""

T = TypeVar("T")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    area: Area
    """What it belongs to."""
    name: str
    """What was looked at, in a word or two."""
    state: State
    """How it stands."""
    detail: str
    """What was found, on one line."""
    is_needed: bool = False
    """Whether nothing can be trained where it has failed."""
    fix: str = ""
    """A command that mends it; empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Something that would help on this machine."""

    text: str
    """What, and why; one line."""
    command: str = ""
    """A command or a setting to paste; empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An examination from its first check to its verdict."""

    checks: tuple[Check, ...]
    """Everything that was looked at, area by area."""
    faster: tuple[Advice, ...]
    """What would make training faster here."""
    wrong: tuple[Advice, ...]
    """What does not work as it should, and how it is mended."""
    can_train: bool
    """Whether a run can be started here."""
    verdict: str
    """That, in one line."""


def found(read: Callable[[], T]) -> T | None:
    """Return what can be read, or None where reading it fails in whatever way."""
    try:
        return read()
    except Exception:
        return None


def readable_bytes(count: int) -> str:
    """Return a number of bytes as people say it: ``15.6 GiB``."""
    unit = 0
    while count >> 10 * (unit + 1) and unit < len(_UNITS) - 1:
        unit += 1
    value = count / 2 ** (10 * unit)
    return f"{value:.{int(unit > 0 and value < 100)}f} {_UNITS[unit]}"
