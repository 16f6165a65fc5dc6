"""The parts of the reference that are made from the code, as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

__all__ = [
    "GENERATORS",
    "cli_markdown",
    "metrics_markdown",
    "names_markdown",
    "plugins_markdown",
    "recipes_markdown",
    "results_markdown",
    "settings_markdown",
]

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
_PICTURE = re.compile(r"\]\((\w+\.svg)\)")


def _cell(value: object) -> str:
    """Return text that cannot break out of a table's cell."""
    text = " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;")


def _table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def _settings(config: type[BaseModel]) -> Iterator[tuple[object, ...]]:
    for name, field in config.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if default is PydanticUndefined:
            shown = ""
        elif isinstance(default, BaseModel):
            shown = "see below" if not default.model_extra else f"`{_cell(default)}`"
        else:
            shown = f"`{_cell(default)}`"
        yield f"`{name}`", shown, _cell(field.description or "")


def plugins_markdown() -> str:
    """Return one section per interface and one entry per registered plugin."""
    from dmpo.config.describe import describe_plugin
    from dmpo.registry import REGISTRIES

    lines: list[str] = []
    for group, registry in REGISTRIES.items():
        lines += [f"## {group.capitalize()}", ""]
        for name in registry.names():
            lines += [f"### `{name}`", "", "```text", describe_plugin(registry, name), "```", ""]
    return "\n".join(lines)


def settings_markdown() -> str:
    """Return the tables of everything beside plugins that a run can be told."""
    from dmpo.config.run import EvaluationSection, RunConfig, SftConfig
    from dmpo.training.settings import TrainingSettings
    from dmpo.training.sft import SftSettings
    from dmpo.training.tracker_kinds import TrackingSettings

    tables: Mapping[str, type[BaseModel]] = {
        "`dmpo train`": RunConfig,
        "`training` of `dmpo train`": TrainingSettings,
        "`tracking` of `dmpo train`": TrackingSettings,
        "`dmpo sft`": SftConfig,
        "`training` of `dmpo sft`": SftSettings,
        "`evaluation` of both": EvaluationSection,
    }
    lines: list[str] = []
    for title, model in tables.items():
        lines += [f"## {title}", ""]
        lines += [*_table(("setting", "default", "meaning"), _settings(model)), ""]
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
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name.upper()]
    spelt = ", ".join(names)
    default = parameter.default
    shown = "" if default in (None, False, ()) or callable(default) else f"`{_cell(default)}`"
    if parameter.required:
        shown = "required"
    return f"`{_cell(spelt)}`", shown, _cell(getattr(parameter, "help", "") or "")


def names_markdown() -> str:
    """Return the table of what ``dmpo`` itself offers, and where each name lives."""
    import dmpo

    homes = {name: getattr(dmpo, name).__module__ for name in dmpo.__all__ if name[0] != "_"}
    rows = [(f"`{name}`", f"[`{home}`][{home}.{name}]") for name, home in homes.items()]
    return "\n".join(_table(("name", "lives in"), rows))


def recipes_markdown() -> str:
    """Return the table of the recipes that installed packages ship."""
    from dmpo.config.recipes import recipe_summaries

    rows = [
        (
            f"`{recipe.name}`",
            _cell(recipe.purpose),
            recipe.task and f"`{recipe.task}`",
            recipe.hardware or "any",
            recipe.package,
        )
        for recipe in recipe_summaries()
    ]
    return "\n".join(_table(("recipe", "what it is", "task", "made for", "shipped by"), rows))


def results_markdown(name: str, section: str) -> str:
    """Return a section of ``benchmarks/results/NAME.md``, without its heading.

    Args:
        name: Of the page.
        section: How the heading begins.

    Raises:
        LookupError: If the page has no such section.
    """
    lines = (RESULTS / f"{name}.md").read_text(encoding="utf-8").splitlines()
    levels = [len(line) - len(line.lstrip("#")) if line.startswith("#") else 0 for line in lines]
    heads = (n for n, level in enumerate(levels) if level)
    start = next((n for n in heads if lines[n].lstrip("# ").startswith(section)), None)
    if start is None:
        raise LookupError(f"{name}.md has no section {section!r}")
    ends = (n for n in range(start + 1, len(lines)) if 0 < levels[n] <= levels[start])
    text = "\n".join(lines[start + 1 : next(ends, len(lines))])
    return _PICTURE.sub(r"](../images/results/\1)", text).strip()


GENERATORS = {
    "cli": cli_markdown,
    "metrics": metrics_markdown,
    "names": names_markdown,
    "plugins": plugins_markdown,
    "recipes": recipes_markdown,
    "settings": settings_markdown,
}
"""What stands in for ``<!-- generated: NAME -->``."""
