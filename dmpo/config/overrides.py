"""What the command line says about settings: ``--set a.b=c`` and ``--a.b c``.

The whole command line is one layer: nothing in it drops anything else of it, and a named flag
wins over ``--set``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dmpo.config.layers import Tree, assigned, merged
from dmpo.config.yaml_text import yaml_value
from dmpo.errors import ConfigError, nearest_name

__all__ = ["command_line_layer", "dotted_flags"]


def command_line_layer(
    sets: Iterable[str], flags: Mapping[str, tuple[str, Any]], dotted: Iterable[tuple[str, str]]
) -> Tree:
    """Return the layer of one command line.

    Args:
        sets: What followed each ``--set``: ``a.b=c``, c in YAML.
        flags: Value of each named flag that was given, by flag (``--baseline``): the dotted
            path it stands for, and the value.
        dotted: Path and YAML text of each ``--a.b c``.

    Raises:
        ConfigError: If a ``--set`` has no ``=``, a path is malformed, or a value is not YAML.
    """
    layer: Tree = {}
    for text in sets:
        path, equals, value = text.partition("=")
        if not (equals and path.strip()):
            raise ConfigError(f"--set: expected KEY=VALUE, given {text!r}.")
        origin = f"--set {path.strip()}"
        layer = merged(layer, assigned(path.strip(), yaml_value(value, origin), "--set"))
    for flag, (path, value) in flags.items():
        layer = merged(layer, assigned(path, value, flag))
    for path, value in dotted:
        layer = merged(layer, assigned(path, yaml_value(value, f"--{path}"), f"--{path}"))
    return layer


def dotted_flags(
    arguments: Sequence[str], *, options: Iterable[str], sections: Iterable[str]
) -> list[tuple[str, str]]:
    """Return path and text of each ``--a.b c`` or ``--a.b=c`` among left-over arguments.

    Args:
        arguments: What the command did not know itself.
        options: The flags it knows, for the nearest name (``--baseline``).
        sections: The first parts of valid dotted flags (``likelihood``).

    Raises:
        ConfigError: If an argument is no dotted flag, or has no value.
    """
    found = []
    rest = list(arguments)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        path = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("-"):
            raise ConfigError(f"unexpected argument {flag!r}; settings are given as --name value.")
        if not flag.startswith("--") or "." not in path or path.split(".")[0] not in sections:
            raise ConfigError(_unknown(flag, options, sections))
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{flag}: needs a value: {flag} VALUE.")
            value = rest.pop(0)
        found.append((path, value))
    return found


def _unknown(flag: str, options: Iterable[str], sections: Iterable[str]) -> str:
    head, dot, tail = flag.removeprefix("--").partition(".")
    if dot:
        near = nearest_name(head, sections)
        hint = f" Did you mean '--{near}.{tail}'?" if near else ""
    else:
        near = nearest_name(flag, options)
        hint = f" Did you mean {near!r}?" if near else ""
    return f"unknown option {flag!r}.{hint}"
