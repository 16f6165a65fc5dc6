"""What a shell may offer to complete a command line with, found without importing any of it.

Names come from the metadata of installed packages, fields of settings from the text of the class
that declares them: importing them would take longer than somebody who pressed Tab waits.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Final

__all__ = [
    "PLUGIN_GROUPS",
    "field_names",
    "recipe_files",
    "registered_names",
    "run_places",
    "setting_flags",
]

_GROUPS: Final[Mapping[str, str]] = {
    "policy": "policies",
    "task": "tasks",
    "sampler": "samplers",
    "likelihood": "likelihoods",
    "ratio_likelihood": "likelihoods",
    "weights": "weights",
    "baseline": "baselines",
    "objective": "objectives",
}
"""The registry of each section that names a plugin."""
PLUGIN_GROUPS: Final = tuple(sorted({*_GROUPS.values(), "rewards"}))
"""Every registry."""
_SHORTEST = 3
"""Letters of a section's name from which its fields are offered before a dot is typed."""


def registered_names(group: str) -> tuple[str, ...]:
    """Return the names in a registry, sorted; of objectives those of the presets, too.

    Args:
        group: The registry's, for example ``samplers``.
    """
    names = {point.name for point in metadata.entry_points(group=f"dmpo.{group}")}
    if group == "objectives":
        from dmpo.objectives.presets import PRESETS

        names |= {*PRESETS}
    return tuple(sorted(names))


def recipe_files() -> tuple[str, ...]:
    """Return the names of the recipes that installed packages carry, sorted."""
    modules = [point.value for point in metadata.entry_points(group="dmpo.recipes")]
    places = [place.parent for module in modules if (place := _source(module)) is not None]
    folders = [Path(__file__).parents[1] / "recipes", *places]
    return tuple(sorted({path.stem for folder in folders for path in folder.glob("*.yaml")}))


def run_places(incomplete: str) -> tuple[str, ...]:
    """Return the directories of runs that a path may go on to, the newest first.

    Args:
        incomplete: The path so far; where it names no folder, those below ``runs`` are meant.
    """
    folder = incomplete.rpartition("/")[0] if "/" in incomplete else "runs"
    folder = folder or "/"
    try:
        found = [path.parent for path in Path(folder).expanduser().glob("*/config.yaml")]
        found.sort(key=lambda run: run.stat().st_mtime, reverse=True)
    except OSError:
        return ()
    prefix = "" if folder == "/" else folder
    return tuple(f"{prefix}/{run.name}" for run in found)


def setting_flags(model: str, chosen: Mapping[str, Any], incomplete: str) -> tuple[str, ...]:
    """Return the dotted flags that go on from what is typed.

    Args:
        model: ``module:Class`` of the command's settings.
        chosen: The plugin of each section that the command line names already; where it names
            none, the parameters of all registered ones are offered.
        incomplete: The flag so far: ``--weights.al``.
    """
    head, dot, _ = incomplete.removeprefix("--").partition(".")
    if not incomplete.startswith("--") or (not dot and len(head) < _SHORTEST):
        return ()
    sections = [name for name in field_names(model) if name == head or not dot]
    names = [
        f"--{section}.{field}"
        for section in sections
        if section.startswith(head)
        for field in _section_fields(model, section, chosen.get(section))
    ]
    return tuple(name for name in names if name.startswith(incomplete))


def field_names(target: str) -> tuple[str, ...]:
    """Return the fields of a class of settings, inherited ones first.

    Args:
        target: ``module:Class``; what cannot be found has none.
    """
    return tuple(_fields(*_split(target)))


def _section_fields(model: str, section: str, chosen: object) -> tuple[str, ...]:
    module, name = _split(model)
    if section not in _GROUPS:
        return tuple(_fields(module, _fields(module, name)[section]))
    points = metadata.entry_points(group=f"dmpo.{_GROUPS[section]}")
    family = chosen.partition("/")[0] if isinstance(chosen, str) else None
    found = [point for point in points if point.name == family] or list(points)
    configs = [_attribute_name(*_split(point.value), "Config") for point in found]
    return tuple(dict.fromkeys(name for config in configs if config for name in _fields(*config)))


def _split(target: str) -> tuple[str, str]:
    module, _, name = target.partition(":")
    return module, name


def _fields(module: str, name: str) -> dict[str, str]:
    """Return the fields of a class, and how each is annotated."""
    found: dict[str, str] = {}
    for _, node in reversed(list(_ancestry(module, name))):
        for each in node.body:
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                annotation = ast.unparse(each.annotation)
                if not annotation.startswith("ClassVar"):
                    found[each.target.id] = annotation
    return found


def _attribute_name(module: str, name: str, attribute: str) -> tuple[str, str] | None:
    """Return module and name of the class that a class's attribute is set to."""
    for home, node in _ancestry(module, name):
        for each in node.body:
            if isinstance(each, ast.Assign):
                target = each.targets[0]
            elif isinstance(each, ast.AnnAssign):
                target = each.target
            else:
                continue
            if ast.unparse(target) == attribute and isinstance(each.value, ast.Name):
                return home, each.value.id
    return None


def _ancestry(module: str, name: str) -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield a class and those it derives from, each with the module where it stands."""
    found = _class(module, name)
    if found is None:
        return
    yield found
    home, node = found
    for base in node.bases:
        base = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(base, ast.Name):
            yield from _ancestry(home, base.id)


def _class(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """Return where a class is written, following imports of its name."""
    for node in _tree(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _class(node.module, alias.name)
    return None


@functools.cache
def _tree(module: str) -> tuple[ast.stmt, ...]:
    """Return the statements of a module, unread ones of libraries left out."""
    path = _source(module)
    if path is None:
        return ()
    try:
        return tuple(ast.parse(path.read_text(encoding="utf-8")).body)
    except (OSError, SyntaxError, ValueError):
        return ()


def _source(module: str) -> Path | None:
    """Return the file of a module without running its package's own code, as an import would."""
    if module.partition(".")[0] in ("abc", "pydantic", "typing"):
        return None
    places, parts = None, module.split(".")
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), places)
        if spec is None:
            return None
        places = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.origin else None
