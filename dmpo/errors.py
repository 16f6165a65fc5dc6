"""The errors a user of the library may meet; every one of them is a :class:`DmpoError`.

A message names the field, what was given, what is accepted and, where there is one, the
nearest valid name. The command line prints the message alone and exits with ``exit_code``.
What a run goes on after is a warning of Python's, and a line of its own on the command line.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DataWarning",
    "DivergenceError",
    "DmpoError",
    "OutOfMemoryError",
    "OutputError",
    "PluginError",
    "ProcessError",
    "RewardError",
    "UnknownNameError",
    "nearest_name",
    "reading_failure",
]


class DmpoError(Exception):
    """Root of the library's errors. ``exit_code`` is what the command line exits with."""

    exit_code = 1


class ConfigError(DmpoError, ValueError):
    """A setting that is wrong, out of range, or contradicts another one."""

    exit_code = 2


class DataError(DmpoError, ValueError):
    """A data set or a prompt that cannot be used as given."""

    exit_code = 2


class DataWarning(UserWarning):
    """Data that were left out because a setting says so."""


class UnknownNameError(ConfigError, LookupError):
    """A name that nothing is registered under.

    Args:
        field: What the name was given for, for example ``"objective"``.
        given: The name as given.
        accepted: The names that would have been accepted.
        listed: Where they are listed, if they are too many for a line.
    """

    def __init__(
        self, field: str, given: str, accepted: Iterable[str], *, listed: str | None = None
    ) -> None:
        """Compose the one-line message from the facts."""
        self.field = field
        self.given = given
        self.accepted = tuple(sorted(accepted))
        near, package = nearest_name(given, self.accepted), _companion(given, self.accepted)
        hint = f" Did you mean {near!r}?" if near else ""
        if package is not None:
            hint = f" It comes with the package {package}: plugins/{package} in the repository."
        names = listed or f"accepted: {', '.join(self.accepted) or 'none is registered'}"
        super().__init__(f"{field}: unknown name {given!r}; {names}.{hint}")

    def __str__(self) -> str:
        """Return the message (``KeyError`` and its kin would quote it)."""
        return str(self.args[0])


_COMPANIONS = {"dream": "dmpo-dream", "reasoning_gym": "dmpo-reasoning-gym"}
"""Packages that register a name, and names that begin with it, beside this one."""


def _companion(given: str, accepted: Iterable[str]) -> str | None:
    """Return the package that a name would come with, if it is one of those that are not here."""
    for known, package in _COMPANIONS.items():
        beginnings = (f"{known}/", f"{known}_")
        is_here = any(name == known or name.startswith(beginnings) for name in accepted)
        if not is_here and (given == known or given.startswith(beginnings)):
            return package
    return None


class PluginError(DmpoError, ImportError):
    """A plugin that cannot be imported or does not honour its interface."""


class CheckpointError(DmpoError, OSError):
    """A checkpoint that is missing, incomplete, or of another family."""

    exit_code = 2


class DivergenceError(DmpoError, ArithmeticError):
    """A run whose losses or gradients stay infinite or not numbers."""


class OutOfMemoryError(DmpoError, MemoryError):
    """A step that is too large for the device."""


class OutputError(DmpoError, OSError):
    """A file that cannot be written: no space, no permission, no such place."""


class ProcessError(DmpoError, RuntimeError):
    """Another process of the run that is gone, or does not come."""


class RewardError(DmpoError, RuntimeError):
    """A reward function that raised or returned something that is not one number per row."""


def reading_failure(error: Exception) -> str:
    """Return in words why a text or JSON file cannot be read.

    Args:
        error: What reading, decoding or parsing it raised.

    Returns:
        The system's own words, without number and path; which byte is not UTF-8; what stands
        where in a line that is not JSON.
    """
    if isinstance(error, json.JSONDecodeError):
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
        return f"{error.msg} at {place}"
    if isinstance(error, RecursionError):
        return "too many lists or objects inside each other"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte {error.start + 1} is 0x{error.object[error.start]:02x})"
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or str(error)


def nearest_name(given: str, accepted: Iterable[str]) -> str | None:
    """Return the accepted name closest to the given one, or None if none is close.

    Args:
        given: The name that was not found.
        accepted: The names to compare with.

    Returns:
        The closest accepted name by :mod:`difflib`'s ratio (cut-off 0.5), or None. Of names that
        come near, one made of the very same letters is taken for the one that was meant.

    Example:
        >>> nearest_name("medn", ["mean", "model"])
        'mean'
        >>> nearest_name("dpmo", ["dmpo", "gdpo"])
        'dmpo'
    """
    matches = difflib.get_close_matches(given, list(accepted), n=5, cutoff=0.5)
    swapped = [match for match in matches if sorted(match) == sorted(given)]
    return next(iter(swapped or matches), None)
