"""Recipes: named YAML files of settings, shipped with the package or anywhere on disk.

A recipe may stand on another one (``extends: sudoku``, or a path relative to itself) and says
in ``description`` what it is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dmpo.config.layers import Tree, sourced
from dmpo.config.yaml_text import read_yaml_file
from dmpo.errors import ConfigError, UnknownNameError

__all__ = ["Chain", "file_chain", "recipe_chain", "recipe_names", "recipe_path"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A settings file and what it extends."""

    layers: Sequence[Tree]
    """Lowest first."""
    description: str
    """Of the last file that has one; may be empty."""


def _directory() -> Path:
    return Path(str(resources.files("dmpo"))) / "recipes"


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that the package carries, sorted."""
    return tuple(sorted(path.stem for path in _directory().glob("*.yaml")))


def recipe_path(name: str, relative_to: Path | None = None) -> Path:
    """Return the file of a recipe.

    Args:
        name: A shipped recipe's name, or a path (with a ``/`` or ending in .yaml or .yml).
        relative_to: The directory a relative path starts from; the current one if None.

    Raises:
        UnknownNameError: If no shipped recipe has the name.
        ConfigError: If the path is no file.
    """
    if name in recipe_names():
        return _directory() / f"{name}.yaml"
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        raise UnknownNameError("recipe", name, recipe_names())
    path = (relative_to or Path()) / Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"recipe: no file {path}; shipped: {', '.join(recipe_names())}.")
    return path


def recipe_chain(name: str) -> Chain:
    """Return the layers of a recipe, those it extends first.

    Raises:
        ConfigError: If a file is missing, is not YAML, or extends itself in the end.
    """
    return _chain(recipe_path(name), ())


def file_chain(path: Path) -> Chain:
    """Return the layers of a settings file, those it extends first.

    Raises:
        ConfigError: See :func:`recipe_chain`.
    """
    return _chain(path, ())


def _chain(path: Path, above: tuple[Path, ...]) -> Chain:
    if path.resolve() in above:
        names = " → ".join(_label(step) for step in (*above, path.resolve()))
        raise ConfigError(f"extends: {names} goes in a circle.")
    values = read_yaml_file(path)
    base = values.pop("extends", None)
    description = values.pop("description", "")
    for key, value in (("extends", base), ("description", description)):
        if not isinstance(value, str | None):
            raise ConfigError(f"{path}: {key}: expected text, given {value!r}.")
    lower = Chain(layers=(), description="")
    if base is not None:
        try:
            below = recipe_path(base, path.parent)
        except ConfigError as error:
            raise ConfigError(f"{path}: extends: {error}") from None
        lower = _chain(below, (*above, path.resolve()))
    return Chain(
        layers=(*lower.layers, sourced(values, _label(path))),
        description=" ".join((description or lower.description).split()),
    )


def _label(path: Path) -> str:
    shipped = path.resolve().parent == _directory().resolve()
    return f"recipe {path.stem}" if shipped else f"file {path}"
