"""Recipes: named YAML files of settings, shipped with a package or anywhere on disk.

A recipe may stand on others (``extends: sudoku``, a path relative to itself, or a list of such,
lowest first) and says in ``description`` what it is for, in ``hardware`` what it is sized for.
What several have in common lies in ``parts/`` beside them and is named so: ``parts/task_gsm8k``.
A plugin's package ships its own in a folder that it names by an entry point of the group
``dmpo.recipes``: a module's dotted name, whose folder holds the files.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources, util
from pathlib import Path
from typing import Any

from dmpo.config.layers import Tree, name_of, sourced, stacked
from dmpo.config.yaml_text import read_yaml_file
from dmpo.errors import ConfigError, UnknownNameError

__all__ = [
    "Chain",
    "RecipeSummary",
    "file_chain",
    "recipe_chain",
    "recipe_names",
    "recipe_path",
    "recipe_summaries",
]

GROUP = "dmpo.recipes"
PARTS = "parts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A settings file and what it extends."""

    layers: Sequence[Tree]
    """Lowest first."""
    description: str
    """Of the last file that has one; may be empty."""
    hardware: str
    """What it is sized for, of the last file that says it; may be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSummary:
    """What a list of recipes says of one."""

    name: str
    """By which ``--recipe`` takes it."""
    package: str
    """That ships it."""
    policy: str
    """The policy it names; may be empty."""
    task: str
    """The task it names, or its tasks; may be empty."""
    hardware: str
    """What it is sized for; may be empty."""
    description: str
    """What it is for; may be empty."""

    @property
    def purpose(self) -> str:
        """The description up to its first colon or full stop, short enough for a list."""
        return re.split(r"[:.](?: |$)", self.description, maxsplit=1)[0]


@dataclass(frozen=True, slots=True)
class _File:
    """One file of a chain."""

    layer: Tree
    texts: Mapping[str, str]


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that installed packages carry, sorted; parts are none."""
    return tuple(sorted(name for name in _shipped() if not name.startswith(f"{PARTS}/")))


def recipe_path(name: str, relative_to: Path | None = None) -> Path:
    """Return the file of a recipe.

    Args:
        name: A shipped recipe's name, a shipped part's, or a path (with a ``/`` or ending in
            .yaml or .yml).
        relative_to: The directory a relative path starts from; the current one if None.

    Raises:
        UnknownNameError: If no shipped recipe has the name.
        ConfigError: If the path is no file, or two packages ship the name.
    """
    files = _shipped().get(name, {})
    if len(files) > 1:
        raise ConfigError(f"recipe: {name!r} is shipped by {' and by '.join(files)}; give a path.")
    for file in files.values():
        return file
    listed = f"`dmpo recipes` lists the {len(recipe_names())} there are"
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        raise UnknownNameError("recipe", name, recipe_names(), listed=listed)
    path = (relative_to or Path()) / Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"recipe: no file {path}; shipped: {listed}.")
    return path


def recipe_chain(name: str) -> Chain:
    """Return the layers of a recipe, those it extends first.

    Raises:
        ConfigError: If a file is missing, is not YAML, or extends itself in the end.
    """
    return file_chain(recipe_path(name))


def file_chain(path: Path) -> Chain:
    """Return the layers of a settings file, those it extends first.

    What is reached in two ways is laid once, below both.

    Raises:
        ConfigError: See :func:`recipe_chain`.
    """
    files: dict[Path, _File] = {}
    _collect(path, (), files)
    texts = {"description": "", "hardware": ""}
    for file in files.values():
        texts |= file.texts
    return Chain(layers=tuple(file.layer for file in files.values()), **texts)


def recipe_summaries() -> tuple[RecipeSummary, ...]:
    """Return what there is to say of every shipped recipe, by name."""
    shipped = _shipped()
    return tuple(
        _summary(name, package, file)
        for name in recipe_names()
        for package, file in shipped[name].items()
    )


def _summary(name: str, package: str, file: Path) -> RecipeSummary:
    chain = file_chain(file)
    tree: Any = functools.reduce(stacked, chain.layers)
    tasks = [tree["task"]] if "task" in tree else tree.get("tasks", [])
    return RecipeSummary(
        name=name,
        package=package,
        policy=name_of(tree.get("policy")) or "",
        task=", ".join(filter(None, map(name_of, tasks))),
        hardware=chain.hardware,
        description=chain.description,
    )


def _collect(path: Path, above: tuple[Path, ...], files: dict[Path, _File]) -> None:
    """Add a file behind those it extends, unless it is there."""
    place = path.resolve()
    if place in above:
        names = " → ".join(_label(step) for step in (*above, place))
        raise ConfigError(f"extends: {names} goes in a circle.")
    if place in files:
        return
    values = read_yaml_file(path)
    for base in _bases(path, values.pop("extends", None)):
        try:
            below = recipe_path(base, path.parent)
        except ConfigError as error:
            raise ConfigError(f"{path}: extends: {error}") from None
        _collect(below, (*above, place), files)
    texts = {key: _text(path, key, values.pop(key, None)) for key in ("description", "hardware")}
    said = {key: text for key, text in texts.items() if text}
    files[place] = _File(sourced(values, _label(path)), said)


def _bases(path: Path, value: Any) -> Sequence[str]:
    """Return the names and paths that a file extends."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    if isinstance(value, list):
        raise ConfigError(f"{path}: extends: expected a list of names, given {value!r}.")
    text = _text(path, "extends", value)
    return [text] if value is not None else []


def _text(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str | None):
        raise ConfigError(f"{path}: {key}: expected text, given {value!r}.")
    return " ".join((value or "").split())


def _label(path: Path) -> str:
    place = path.resolve()
    for name, files in _shipped().items():
        if any(place == file.resolve() for file in files.values()):
            return f"recipe {name}"
    return f"file {path}"


@functools.cache
def _shipped() -> Mapping[str, Mapping[str, Path]]:
    """Return the shipped files by name (``sudoku``, ``parts/task_sudoku``) and package."""
    found: dict[str, dict[str, Path]] = {}
    for package, directory in _directories():
        for file in sorted((*directory.glob("*.yaml"), *directory.glob(f"{PARTS}/*.yaml"))):
            name = file.relative_to(directory).with_suffix("").as_posix()
            found.setdefault(name, {})[package] = file
    return dict(sorted(found.items()))


def _directories() -> Iterator[tuple[str, Path]]:
    """Yield each package that has recipes, and where; what is not to be found is left out."""
    yield "dmpo-dllm", Path(str(resources.files("dmpo"))) / "recipes"
    for point in sorted(metadata.entry_points(group=GROUP)):
        try:
            spec = util.find_spec(point.value)
        except ImportError:
            continue
        for location in (spec and spec.submodule_search_locations) or ():
            yield point.dist.name if point.dist else point.name, Path(location)
