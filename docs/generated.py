"""The parts of the reference that are made from the code, as Markdown."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

__all__ = ["GENERATORS", "cli_markdown", "metrics_markdown", "plugins_markdown"]


def _cell(value: object) -> str:
    """Return text that cannot break out of a table's cell."""
    text = " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;")


def _table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def _first_paragraph(subject: object) -> str:
    return " ".join((inspect.getdoc(subject) or "").split("\n\n")[0].split())


def _settings(config: type[BaseModel]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name, field in config.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"`{_cell(default)}`"
        rows.append((f"`{name}`", shown, _cell(field.description or "")))
    return rows


def plugins_markdown() -> str:
    """Return one section per interface and one entry per registered plugin."""
    from dmpo.registry import REGISTRIES

    lines: list[str] = []
    for group, registry in REGISTRIES.items():
        lines += [f"## {group.capitalize()}", ""]
        for name, entry in registry.entries().items():
            plugin = registry.load(name)
            owner = entry.distribution.partition(" ")[0]
            origin = "" if owner == "dmpo-dllm" else f" From the package `{owner}`."
            lines += [f"### `{name}`", "", f"{_first_paragraph(plugin)}{origin}", ""]
            lines += [f"Class: `{entry.target.replace(':', '.')}`", ""]
            settings = _settings(plugin.Config)
            if settings:
                lines += [*_table(("setting", "default", "meaning"), settings), ""]
    return "\n".join(lines)


def metrics_markdown() -> str:
    """Return the table of everything a step's line may say."""
    from dmpo.training.metrics import METRICS

    rows = [(f"`{_cell(name)}`", _cell(meaning)) for name, meaning in METRICS.items()]
    return "\n".join(_table(("name", "meaning"), rows))


def cli_markdown() -> str:
    """Return every command of the program with its arguments and options."""
    import typer

    from dmpo.cli.main import app

    lines: list[str] = []
    for path, command in _commands("dmpo", typer.main.get_command(app)):
        lines += [f"## `{path}`", "", *_help(command), ""]
        options = [_option(parameter) for parameter in command.params]
        if options:
            lines += [*_table(("option", "default", "meaning"), options), ""]
    return "\n".join(lines)


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(f"{path} {name}", child)


def _help(command: Any) -> Iterator[str]:
    for paragraph in inspect.cleandoc(command.help or "").replace("\b", "").split("\n\n"):
        yield paragraph
        yield ""


def _option(parameter: Any) -> tuple[object, ...]:
    is_option = parameter.param_type_name == "option"
    spelt = (
        ", ".join([*parameter.opts, *parameter.secondary_opts])
        if is_option
        else (parameter.human_readable_name)
    )
    default = parameter.default
    shown = "" if default in (None, False, ()) or callable(default) else f"`{_cell(default)}`"
    if parameter.required:
        shown = "required"
    return f"`{_cell(spelt)}`", shown, _cell(getattr(parameter, "help", "") or "")


GENERATORS = {"cli": cli_markdown, "metrics": metrics_markdown, "plugins": plugins_markdown}
"""What stands in for ``<!-- generated: NAME -->``."""
