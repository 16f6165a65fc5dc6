"""YAML in and out: the core schema of YAML 1.2, without silent surprises.

PyYAML speaks YAML 1.1, where ``1e-3`` is text, ``off`` is a boolean and ``12:30`` is a number,
and where the later of two equal keys wins without a word. Here numbers are numbers, words are
words, and a repeated key is an error.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dmpo.errors import ConfigError, reading_failure

__all__ = ["read_yaml_file", "yaml_text", "yaml_value", "yaml_with_comments"]

MAX_DIGITS = 18
"""Of a whole number: what fits into 64 bits, as tensors and seeds need it."""
MAX_DEPTH = 32
"""Of mappings and lists inside each other: a value that contains itself has no end."""
MAX_VALUES = 100_000
"""Of values in a document, aliases written out: a few lines can stand for billions."""
MAX_CHARACTERS = 10_000_000
"""Of all texts in a document, aliases written out, too."""

_INT = re.compile(r"^[-+]?[0-9]+$")
_FLOAT = re.compile(
    r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN)$"
)
_BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"^(~|null|Null|NULL|)$")


class _Loader(yaml.SafeLoader):
    """Safe loading by the YAML 1.2 core schema; repeated keys are errors."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping and refuse repeated or non-text keys."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"line {line}: key {key!r} is not text; quote it.")
            if key in seen:
                raise ConfigError(f"line {line}: key {key!r} is given twice.")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        """Read digits as a decimal number: YAML 1.1 would read ``010`` as eight."""
        digits = node.value.lstrip("+-")
        if len(digits.lstrip("0")) > MAX_DIGITS:
            line = node.start_mark.line + 1
            raise ConfigError(
                f"line {line}: {digits[:MAX_DIGITS]}… has {len(digits)} digits; whole numbers of "
                f"at most {MAX_DIGITS} digits are accepted."
            )
        return int(node.value)


for _tag, _pattern in (("null", _NULL), ("bool", _BOOL), ("int", _INT), ("float", _FLOAT)):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, None)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_decimal)


class _Dumper(yaml.SafeDumper):
    """Quotes text that a reader of YAML 1.1 or 1.2 would take for something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [
            *_Loader.yaml_implicit_resolvers.get(first, []),
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {*_Loader.yaml_implicit_resolvers, *yaml.SafeDumper.yaml_implicit_resolvers}
    }

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Write every value in full."""
        return True


def yaml_value(text: str, origin: str) -> Any:
    """Return what ``text`` says in YAML.

    Args:
        text: A YAML document.
        origin: Where it comes from, named in errors.

    Raises:
        ConfigError: If it is not YAML, or repeats a key; the message has one line.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
        _check_size(value)
        return value
    except RecursionError:
        raise ConfigError(f"{origin}: {_TOO_LARGE}") from None
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{origin}: {line}not YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not YAML: {' '.join(str(error).split())}") from None


_TOO_LARGE = f"more than {MAX_DEPTH} levels or {MAX_VALUES:,} values; settings have fewer."
_TOO_LONG = f"more than {MAX_CHARACTERS:,} characters of text; settings have fewer."


def _check_size(value: Any) -> None:
    level, count, characters = [value], 0, 0
    for _ in range(MAX_DEPTH):
        mappings = [item for item in level if isinstance(item, dict)]
        lists = [item for item in level if isinstance(item, list | set)]
        level = [item for mapping in mappings for item in mapping.values()]
        level += [item for part in lists for item in part]
        count += len(level)
        if not level:
            return
        if count > MAX_VALUES:
            break
        characters += sum(len(item) for item in level if isinstance(item, str))
        if characters > MAX_CHARACTERS:
            raise ConfigError(_TOO_LONG)
    raise ConfigError(_TOO_LARGE)


def read_yaml_file(path: Path) -> dict[str, Any]:
    """Return the mapping a YAML file holds; an empty file is an empty mapping.

    Raises:
        ConfigError: If the file cannot be read, is not YAML, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {reading_failure(error)}.") from None
    values = yaml_value(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        found = "a list" if isinstance(values, list) else repr(values)[:40]
        raise ConfigError(f"{path}: expected `key: value` lines, found {found}.")
    return values


def yaml_text(values: Any) -> str:
    """Return ``values`` as a YAML document that ``yaml_value`` reads back unchanged."""
    return yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )


def yaml_with_comments(values: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Return a YAML document with a comment behind each leaf.

    Args:
        values: Nested mappings and lists of plain values.
        comments: What to say of each leaf, by dotted path (``rewards.0.weight``).
    """
    lines = _lines(values, comments, (), "")
    width = min(60, max((len(text) for text, _ in lines), default=0))
    return "".join(
        f"{text:<{width}}  # {comment}\n" if comment else f"{text}\n" for text, comment in lines
    )


def _lines(
    value: Any, comments: Mapping[str, str], path: tuple[str, ...], indent: str
) -> list[tuple[str, str]]:
    entries: list[tuple[str, str, Any]] = []
    if isinstance(value, Mapping):
        entries = [(f"{indent}{_inline(key)}:", key, item) for key, item in value.items()]
    else:
        entries = [(f"{indent}-", str(index), item) for index, item in enumerate(value)]
    lines = []
    for head, key, item in entries:
        below = (*path, key)
        if isinstance(item, Mapping) and item and head.endswith("-"):
            (first, comment), *rest = _lines(item, comments, below, indent + "  ")
            lines += [(f"{head} {first.lstrip()}", comment), *rest]
        elif isinstance(item, Mapping | list) and item:
            lines.append((head, ""))
            lines += _lines(item, comments, below, indent + "  ")
        else:
            lines.append((f"{head} {_inline(item)}", comments.get(".".join(below), "")))
    return lines


def _inline(value: Any) -> str:
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        default_style='"' if isinstance(value, str) and "\n" in value else None,
        allow_unicode=True,
        width=float("inf"),
    )
    return text.removesuffix("\n").removesuffix("\n...")
