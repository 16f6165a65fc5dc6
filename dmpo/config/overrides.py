"""What the command line says about settings: ``--set a.b=c``, ``--baseline mean``, ``--a.b c``.

The whole command line is one layer: nothing in it drops anything else of it, and a flag wins
over ``--set``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dmpo.config.layers import Tree, assigned, merged
from dmpo.config.yaml_text import yaml_value
from dmpo.errors import ConfigError, nearest_name

__all__ = ["SETTING_FLAGS", "command_line_layer", "split_flags"]

SETTING_FLAGS: Final[Mapping[str, str]] = {
    "--policy": "policy",
    "--model": "policy.model",
    "--task": "task",
    "--sampler": "sampler",
    "--reward": "rewards",
    "--likelihood": "likelihood",
    "--weights": "weights",
    "--baseline": "baseline",
    "--objective": "objective",
    "--seed": "seed",
    "--steps": "training.num_steps",
    "--max-seconds": "training.max_seconds",
    "--auto-micro-batch": "training.auto_micro_batch",
    "--tracker": "tracking.trackers",
}
"""The flags that stand for one setting each, and its dotted path."""
LISTS: Final = ("rewards", "tracking.trackers")
"""Settings whose flags may be repeated: their values add up to a list."""


def command_line_layer(
    sets: Iterable[str] = (),
    flags: Iterable[tuple[str, str, Any]] = (),
) -> Tree:
    """Return the layer of one command line.

    Args:
        sets: What followed each ``--set``: ``a.b=c``, c in YAML.
        flags: Flag, dotted path and value of every other setting, in order; those of
            :data:`LISTS` add up.

    Raises:
        ConfigError: If a ``--set`` has no ``=``, a path is malformed, or a value is not YAML.
    """
    layer: Tree = {}
    lists: dict[str, list[Any]] = {path: [] for path in LISTS}
    for text in sets:
        path, equals, value = text.partition("=")
        if not (equals and path.strip()):
            raise ConfigError(f"--set: expected KEY=VALUE, given {text!r}.")
        origin = f"--set {path.strip()}"
        layer = merged(layer, assigned(path.strip(), yaml_value(value, origin), "--set"))
    for flag, path, value in flags:
        given = value
        if path in lists:
            lists[path] += value if isinstance(value, list) else [value]
            given = list(lists[path])
        layer = merged(layer, assigned(path, given, flag))
    return layer


def split_flags(
    arguments: Sequence[str],
    *,
    sections: Iterable[str],
    named: Mapping[str, str] | None = None,
    options: Iterable[str] = (),
) -> list[tuple[str, str, Any]]:
    """Return flag, dotted path and value of each setting among left-over arguments.

    Args:
        arguments: What the command did not know itself: ``--a.b c``, ``--a.b=c``.
        sections: The first parts of valid dotted flags (``likelihood``).
        named: Flags without a dot that are accepted as well, and their paths.
        options: The flags the command knows itself, for the nearest name.

    Raises:
        ConfigError: If an argument is no such flag, has no value, or the value is not YAML.
    """
    named = named or {}
    sections = tuple(sections)
    found = []
    rest = list(arguments)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if not flag.startswith("-"):
            raise ConfigError(f"unexpected argument {flag!r}; settings are given as --name value.")
        path = named.get(flag, flag.removeprefix("--").replace("-", "_"))
        is_dotted = flag.startswith("--") and "." in flag and path.split(".")[0] in sections
        if flag not in named and not is_dotted:
            raise ConfigError(_unknown(flag, (*options, *named), sections))
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{flag}: needs a value: {flag} VALUE.")
            value = rest.pop(0)
        found.append((flag, path, yaml_value(value, flag)))
    return found


def _unknown(flag: str, options: Iterable[str], sections: Iterable[str]) -> str:
    head, dot, tail = flag.removeprefix("--").partition(".")
    near = nearest_name(head, sections) if dot else nearest_name(flag, options)
    guess = f"--{near}.{tail}" if dot and near else near
    if head in sections and not (guess and flag.startswith(guess)):
        return f"unknown option {flag!r}; its parts are options: --{head}.NAME VALUE."
    return f"unknown option {flag!r}." + (f" Did you mean {guess!r}?" if guess else "")
