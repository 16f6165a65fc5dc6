"""A package to begin a plugin with: small, working, tested, and of the author's own name."""

from __future__ import annotations

import contextlib
import importlib.util
import keyword
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

import dmpo
from dmpo.errors import ConfigError
from dmpo.files import replace_text, writing
from dmpo.objectives.presets import PRESETS
from dmpo.plugins.kinds import Kind, kind_of
from dmpo.registry import REGISTRIES

__all__ = ["Scaffold", "scaffold", "write_scaffold"]

TEMPLATES = Path(__file__).with_name("templates")
LONGEST = 30
"""Characters of a name: longer ones break the lines of the generated files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaffold:
    """A package that is ready to be written."""

    kind: Kind
    """What it is a plugin of."""
    name: str
    """The registered name."""
    package: str
    """The distribution, and the folder."""
    files: Mapping[str, str]
    """Texts by their path inside the folder."""

    @property
    def flag(self) -> str:
        """How ``dmpo train`` is told of it."""
        return f"--{self.kind.name}"


def scaffold(kind: str, name: str) -> Scaffold:
    """Return the package of a plugin.

    Args:
        kind: The interface: ``objective``, ``sampler``, …
        name: What users are to type: small letters, digits, ``_`` and ``-``.

    Raises:
        UnknownNameError: If there is no such interface.
        ConfigError: If the name cannot be one, or is taken.
    """
    chosen = kind_of(kind)
    identifier = name.replace("-", "_")
    _check_name(chosen, name, identifier)
    module, package = f"dmpo_{identifier}", f"dmpo-{identifier.replace('_', '-')}"
    cls = _class_name(identifier, chosen.suffix)
    major, minor = (int(part) for part in dmpo.__version__.split(".")[:2])
    words = {
        "kind": chosen.name,
        "called": chosen.called,
        "name": name,
        "identifier": identifier,
        "module": module,
        "package": package,
        "file": chosen.name,
        "cls": cls,
        "config": f"{cls}Config",
        "group": f"dmpo.{chosen.group}",
        "summary": chosen.summary,
        "flag": f"--{chosen.name}",
        "section": "rewards.0" if chosen.name == "reward" else chosen.name,
        "minimum": f"{major}.{minor}",
        "below": f"0.{minor + 1}" if major == 0 else f"{major + 1}",
    }
    templates = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
        f"{module}/__init__.py": "init.py",
        f"{module}/{chosen.name}.py": f"{chosen.name}.py",
        f"tests/test_{identifier}.py": f"test_{chosen.name}.py",
    }
    files = {path: _filled(template, words) for path, template in templates.items()}
    return Scaffold(
        kind=chosen, name=name, package=package, files={**files, f"{module}/py.typed": ""}
    )


def write_scaffold(made: Scaffold, directory: Path) -> None:
    """Write a package, whole or not at all.

    Args:
        made: The package.
        directory: Its folder; missing, or empty.

    Raises:
        ConfigError: If there is something in it already.
        OutputError: If it cannot be written.
    """
    if directory.is_symlink() or (directory.exists() and not _is_empty(directory)):
        raise ConfigError(
            f"--output: {directory} exists already and is not empty; name a folder that does not."
        )
    place = directory.absolute()
    beside = place.with_name(f".{place.name}.partial")
    missing = [folder for folder in place.parents if not folder.exists()]
    with writing(directory):
        shutil.rmtree(beside, ignore_errors=True)
        try:
            for path, text in made.files.items():
                replace_text(beside / path, text)
            os.replace(beside, directory)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            for folder in missing:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise


def _is_empty(directory: Path) -> bool:
    return directory.is_dir() and not any(directory.iterdir())


def _check_name(kind: Kind, name: str, identifier: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", identifier) or not identifier[-1].isalnum():
        raise ConfigError(
            f"name: {name!r} cannot be typed as a {kind.name}'s name; accepted are small letters, "
            "digits, '_' and '-', a letter first and no '_' or '-' last."
        )
    if len(name) > LONGEST:
        raise ConfigError(f"name: {name!r} has {len(name)} characters; at most {LONGEST}.")
    if keyword.iskeyword(identifier) or keyword.issoftkeyword(identifier):
        raise ConfigError(f"name: {name!r} is a word of Python's own; choose another.")
    for taken in (name, identifier):
        if (entry := REGISTRIES[kind.group].entries().get(taken)) is not None:
            raise ConfigError(
                f"name: {kind.name} {taken!r} is registered by {entry.distribution}; choose "
                "another."
            )
    if kind.name == "objective" and identifier in PRESETS:
        raise ConfigError(f"name: objective {identifier!r} is a preset; choose another.")
    module = f"dmpo_{identifier}"
    if importlib.util.find_spec(module) is not None:
        raise ConfigError(f"name: there is a module {module} already; choose another.")


def _class_name(identifier: str, suffix: str) -> str:
    words = "".join(word.capitalize() for word in identifier.split("_"))
    return words if words.endswith(suffix) and words != suffix else f"{words}{suffix}"


def _filled(template: str, words: Mapping[str, str]) -> str:
    text = (TEMPLATES / f"{template}.tmpl").read_text(encoding="utf-8")
    return Template(text).substitute(words)
