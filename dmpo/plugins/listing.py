"""What is installed: every registered name, where it comes from, and what cannot be used."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from dmpo.errors import PluginError
from dmpo.objectives.presets import PRESETS
from dmpo.plugins.kinds import KINDS, kind_of
from dmpo.registry import REGISTRIES, PluginEntry

__all__ = ["Failed", "Listed", "Listing", "listed_plugins", "listing_json", "listing_text"]

GAP = "  "
SHORTEST_SUMMARY = 24
"""Columns that a summary has at least, however narrow the terminal."""
UNUSABLE = "(cannot be used, see below)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A registered name, or a preset."""

    kind: str
    """Of which interface; ``preset`` for a combination of parts."""
    name: str
    """What users type."""
    package: str
    """Who registered it."""
    version: str
    """Of the package."""
    target: str
    """Where it stands, ``module:attribute``; of a preset the objective that it is."""
    summary: str
    """The first line of its docstring; empty if it cannot be loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A name that cannot be used."""

    kind: str
    """Of which interface."""
    name: str
    """What users would type."""
    package: str
    """Who registered it, with the version."""
    reason: str
    """Why not, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All that is installed."""

    plugins: tuple[Listed, ...]
    """By interface, then by name; presets behind the objectives."""
    failed: tuple[Failed, ...]
    """Those among them that cannot be used."""


def listed_plugins(kind: str | None = None) -> Listing:
    """Return what is installed; every plugin is imported to find out.

    Args:
        kind: One interface alone; None: all of them.

    Raises:
        UnknownNameError: If there is no such interface.
    """
    chosen = list(KINDS.values()) if kind is None else [kind_of(kind)]
    plugins: list[Listed] = []
    failed: list[Failed] = []
    for each in chosen:
        registry = REGISTRIES[each.group]
        for name, entry in registry.entries().items():
            summary = ""
            try:
                summary = _first_line(registry.load(name))
            except PluginError as error:
                reason = _reason(error, each.name, entry)
                failed.append(
                    Failed(kind=each.name, name=name, package=entry.distribution, reason=reason)
                )
            package, _, version = entry.distribution.rpartition(" ")
            plugins.append(
                Listed(
                    kind=each.name,
                    name=name,
                    package=package,
                    version=version,
                    target=entry.target,
                    summary=summary,
                )
            )
        if each.name == "objective":
            plugins += _presets()
    return Listing(plugins=tuple(plugins), failed=tuple(failed))


def listing_text(listing: Listing, *, width: int | None) -> list[str]:
    """Return a table for each interface, and below them a line for all that cannot be used.

    Args:
        listing: What is installed.
        width: Columns of the terminal; summaries are wrapped to it. None: nothing is wrapped.
    """
    names = max((len(each.name) for each in listing.plugins), default=0)
    packages = max((len(_package(each)) for each in listing.plugins), default=0)
    lines: list[str] = []
    for heading, rows in _by_kind(listing.plugins):
        lines.append(heading)
        for each in rows:
            start = f"{GAP}{each.name:<{names}}{GAP}{_package(each):<{packages}}{GAP}"
            lines += _wrapped(start, each.summary or UNUSABLE, width)
    if listing.failed:
        lines.append("cannot be used")
        lines += [
            f"{GAP}BROKEN {each.kind} {each.name} ({each.package}): {each.reason}"
            for each in listing.failed
        ]
    return lines


def listing_json(listing: Listing) -> str:
    """Return what is installed as JSON, for programs."""
    return json.dumps(asdict(listing), indent=2, ensure_ascii=False)


def _presets() -> Iterator[Listed]:
    for name, preset in PRESETS.items():
        owner = REGISTRIES["objectives"].entry(preset.objective).distribution
        package, _, version = owner.rpartition(" ")
        yield Listed(
            kind="preset",
            name=name,
            package=package,
            version=version,
            target=preset.objective,
            summary=preset.summary,
        )


def _by_kind(plugins: Sequence[Listed]) -> Iterator[tuple[str, list[Listed]]]:
    headings = {
        **{kind.name: kind.group for kind in KINDS.values()},
        "preset": "presets of objectives",
    }
    for kind, heading in headings.items():
        if rows := [each for each in plugins if each.kind == kind]:
            yield heading, rows


def _package(each: Listed) -> str:
    return f"{each.package} {each.version}".strip()


def _wrapped(start: str, text: str, width: int | None) -> list[str]:
    room = None if width is None else max(SHORTEST_SUMMARY, width - len(start))
    parts = [text] if room is None else textwrap.wrap(text, room) or [""]
    return [(start + parts[0]).rstrip(), *(" " * len(start) + part for part in parts[1:])]


def _first_line(plugin: type) -> str:
    text = inspect.cleandoc(plugin.__doc__ or "")
    return text.splitlines()[0] if text else ""


def _reason(error: PluginError, kind: str, entry: PluginEntry) -> str:
    """Return why, without what the line says already."""
    text = " ".join(str(error).split())
    for known in (f"{kind} {entry.name!r} of {entry.distribution}", f"{kind} {entry.name!r}"):
        text = text.removeprefix(known)
    return text.lstrip(" :")
