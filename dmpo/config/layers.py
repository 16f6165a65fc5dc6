"""Layers of settings: which value wins, where it came from, and what it takes along.

A layer is a tree of plain values in which every leaf knows its source. ``stacked`` lays one
layer over another: mappings merge key by key, everything else is replaced. Three rules keep a
lower layer's settings from outliving what they belonged to:

- a section whose plugin changes loses the lower layer's other keys;
- where the objective changes, the lower layer's likelihoods, weights and baseline go, so that
  the new objective's own defaults apply;
- where the task changes, the lower layer's canvas lengths go: they belonged to other answers.

And a setting that excludes another one takes its place: a model to load the lower layer's
model from scratch, another alpha the lower layer's eta, a run shorter than the lower layer's
warm-up the warm-up.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dmpo.errors import ConfigError

__all__ = [
    "Leaf",
    "Tree",
    "assigned",
    "is_section",
    "leaf_sources",
    "leaves",
    "merged",
    "name_of",
    "plain",
    "sourced",
    "stacked",
]

_SECTIONS = (
    "policy",
    "task",
    "sampler",
    "likelihood",
    "ratio_likelihood",
    "weights",
    "baseline",
    "objective",
    "evaluation.sampler",
    "rewards.*",
    "tasks.*",
)
_LISTS = ("rewards", "tasks")
_PARTS = ("likelihood", "ratio_likelihood", "weights", "baseline")
_LENGTHS = tuple(
    f"{sampler}.{key}"
    for sampler in ("sampler", "evaluation.sampler")
    for key in ("gen_length", "block_length", "steps", "tokens_per_step")
)

_TAKES_THE_PLACE_OF = {
    "policy.model": ("policy.scratch", "policy.revision"),
    "policy.scratch": ("policy.model", "policy.revision"),
    "weights.alpha": ("weights.eta",),
}
_WARMUP = "training.warmup_steps"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value that is not merged any further."""

    value: Any
    """Text, number, boolean, None, or an empty list."""
    source: str
    """Where it came from, in words: ``recipe sudoku``, ``--set``, …"""


Tree: TypeAlias = dict[str, Any] | list[Any] | Leaf
"""What a layer is made of: mappings and lists of trees, and leaves."""


def is_section(path: tuple[str, ...]) -> bool:
    """Return whether a plugin's name and parameters stand at this path."""
    dotted = ".".join(path)
    return any(
        dotted.count(".") == pattern.count(".") and fnmatch.fnmatchcase(dotted, pattern)
        for pattern in _SECTIONS
    )


def sourced(value: Any, source: str, path: tuple[str, ...] = ()) -> Tree:
    """Return plain nested values as a tree whose leaves all come from ``source``.

    Shorthands are written out: ``baseline: model`` is ``baseline: {name: model}``, and a single
    reward is a list of one.
    """
    if path in {(name,) for name in _LISTS} and _is_one(value):
        value = [value]
    if isinstance(value, str) and is_section(path):
        value = {"name": value}
    if isinstance(value, Mapping):
        return {key: sourced(item, source, (*path, key)) for key, item in value.items()}
    if isinstance(value, list) and value:
        return [sourced(item, source, (*path, str(n))) for n, item in enumerate(value)]
    return Leaf(value, source)


def _is_one(value: Any) -> bool:
    """Return whether one section stands where a list of them is accepted."""
    return isinstance(value, str) or (isinstance(value, Mapping) and "name" in value)


def assigned(path: str, value: Any, source: str) -> Tree:
    """Return the tree that says nothing but ``path = value``.

    Args:
        path: Dotted; a number names an element of a list.
        value: Plain nested values.
        source: Where it came from.

    Raises:
        ConfigError: If the path has an empty part.
    """
    parts = tuple(path.split("."))
    if not all(parts):
        raise ConfigError(f"{source}: {path!r} is not a dotted path such as training.num_steps.")
    tree = sourced(value, source, parts)
    for part in reversed(parts):
        tree = {part: tree}
    return tree


def merged(lower: Tree, upper: Tree, path: tuple[str, ...] = ()) -> Tree:
    """Return ``upper`` over ``lower``, key by key, dropping nothing.

    Raises:
        ConfigError: If an element of a list, or a part of a plain value, is addressed that
            does not exist.
    """
    if isinstance(upper, dict) and isinstance(lower, list):
        return _with_elements(lower, upper, path)
    if isinstance(upper, list) and isinstance(lower, dict) and all(map(str.isdecimal, lower)):
        return _with_elements(upper, lower, path)  # a list, and changes meant for its elements
    if isinstance(lower, Leaf) and isinstance(upper, dict) and lower.value is not None and upper:
        raise ConfigError(
            f"{'.'.join((*path, next(iter(upper))))}: {'.'.join(path)} has no parts, it is "
            f"{lower.value!r} (from {lower.source})."
        )
    if not (isinstance(lower, dict) and isinstance(upper, dict)):
        return upper
    result = dict(lower)
    for key, item in upper.items():
        result[key] = merged(lower[key], item, (*path, key)) if key in lower else item
    return result


def _with_elements(lower: list[Tree], upper: dict[str, Tree], path: tuple[str, ...]) -> Tree:
    result = list(lower)
    for key, item in upper.items():
        if not (key.isdecimal() and int(key) <= len(result)):
            raise ConfigError(
                f"{'.'.join((*path, key))}: not an element of the list; "
                f"accepted: 0 to {len(result)}."
            )
        if int(key) == len(result):
            result.append(item)
        else:
            below = result[int(key)]
            result[int(key)] = _over((*path, key), below, item)
    return result


def _over(path: tuple[str, ...], lower: Tree, upper: Tree) -> Tree:
    """Merge two values of one path; a section of another plugin is replaced."""
    if is_section(path) and _renames(lower, upper):
        return upper
    return merged(lower, upper, path)


def stacked(lower: Tree, upper: Tree) -> Tree:
    """Return the layer ``upper`` over ``lower`` by the rules of this module."""
    dropped: tuple[str, ...] = ()
    if _renames(_at(lower, "objective"), _at(upper, "objective")):
        dropped += _PARTS
    if _renames(_at(lower, "task"), _at(upper, "task")):
        dropped += _LENGTHS
    for path in _section_paths(upper):
        if _renames(_at(lower, path), _at(upper, path)):
            dropped += (path,)
    for path, others in _TAKES_THE_PLACE_OF.items():
        value = _at(upper, path)
        if value is not None and plain(value) not in (None, _plain_at(lower, path)):
            dropped += others
    steps, warmup = _plain_at(upper, "training.num_steps"), _plain_at(lower, _WARMUP)
    if isinstance(steps, int) and isinstance(warmup, int) and warmup > steps:
        dropped += (_WARMUP,)
    return merged(_without(lower, dropped), upper)


def _section_paths(tree: Tree) -> Iterable[str]:
    for pattern in _SECTIONS:
        if "*" not in pattern and _at(tree, pattern) is not None:
            yield pattern


def _at(tree: Tree | None, path: str) -> Tree | None:
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _plain_at(tree: Tree, path: str) -> Any:
    found = _at(tree, path)
    return None if found is None else plain(found)


def _without(tree: Tree, paths: Iterable[str]) -> Tree:
    for path in paths:
        if _at(tree, path) is not None:
            tree = _cut(tree, path.split("."))
    return tree


def _cut(tree: Tree, parts: list[str]) -> Tree:
    if not isinstance(tree, dict):
        return tree
    if len(parts) == 1:
        return {key: item for key, item in tree.items() if key != parts[0]}
    return {key: _cut(item, parts[1:]) if key == parts[0] else item for key, item in tree.items()}


def name_of(tree: Tree | None) -> str | None:
    """Return the plugin name a section gives, None where it gives none."""
    name = _at(tree, "name")
    return name.value if isinstance(name, Leaf) and isinstance(name.value, str) else None


def _renames(lower: Tree | None, upper: Tree | None) -> bool:
    old, new = name_of(lower), name_of(upper)
    return old is not None and new is not None and old != new


def plain(tree: Tree) -> Any:
    """Return the tree's values without their sources."""
    if isinstance(tree, dict):
        return {key: plain(item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [plain(item) for item in tree]
    return tree.value


def leaf_sources(tree: Tree) -> dict[str, str]:
    """Return the source of each leaf by its dotted path."""
    return {path: leaf.source for path, leaf in leaves(tree).items()}


def leaves(tree: Tree, path: tuple[str, ...] = ()) -> dict[str, Leaf]:
    """Return each leaf by its dotted path, in the order of the tree."""
    if isinstance(tree, Leaf):
        return {".".join(path): tree}
    items = tree.items() if isinstance(tree, dict) else ((str(n), t) for n, t in enumerate(tree))
    found: dict[str, Leaf] = {}
    for key, item in items:
        found.update(leaves(item, (*path, key)))
    return found
