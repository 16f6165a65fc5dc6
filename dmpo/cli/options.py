"""Options that several commands share, and what they amount to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dmpo.cli.completion import recipes

if TYPE_CHECKING:
    from typer import Context as Context

    from dmpo.config.layers import Tree
else:
    # What typer hands to a command is an object of the class its public one derives from.
    Context = typer.Context.__base__

__all__ = [
    "SETTINGS_CONTEXT",
    "ConfigFile",
    "Debug",
    "Output",
    "Recipe",
    "Seed",
    "Sets",
    "Steps",
    "command_layer",
    "path",
    "real_number",
    "settings_layers",
    "show_help",
    "whole_number",
]

SETTINGS_CONTEXT: dict[str, Any] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
}
"""Lets a command see ``--likelihood.eos answer``, which no option declares."""

MAX_DIGITS = 18
"""Of a whole number on the command line, as in a settings file."""


def whole_number(text: str) -> int:
    """Return the whole number that a flag was given.

    Raises:
        BadParameter: If it is none, or has more digits than 64 bits hold.
    """
    if not re.fullmatch(r"[-+]?[0-9]+", text):
        raise typer.BadParameter(f"{text!r} is not a whole number.")
    digits = text.lstrip("+-0")
    if len(digits) > MAX_DIGITS:
        raise typer.BadParameter(
            f"{digits[:MAX_DIGITS]}… has {len(digits)} digits; at most {MAX_DIGITS} are accepted."
        )
    return int(text)


def real_number(text: str) -> float:
    """Return the number that a flag was given.

    Raises:
        BadParameter: If it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number.") from None


def path(text: str) -> Path:
    """Return a path.

    Raises:
        BadParameter: If it is empty, which the system would take for the current directory.
    """
    if not text.strip():
        raise typer.BadParameter("it is empty; give a path.")
    return Path(text)


Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="A shipped recipe's name, or a path to one.",
        autocompletion=recipes,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        parser=path,
        metavar="<path>",
        help="A YAML file of settings; may extend a recipe.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting by its dotted path; repeatable."),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        parser=path,
        metavar="<path>",
        help="Where to write; must not exist, or be empty.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", parser=whole_number, metavar="<int>", help="Seed of everything random."),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", parser=whole_number, metavar="<int>", help="Gradient steps in all."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]


def command_layer(
    context: Context,
    *,
    sections: tuple[str, ...],
    sets: list[str] | None = None,
    flags: Mapping[str, tuple[str, Any]] | None = None,
    named: Mapping[str, str] | None = None,
) -> Tree:
    """Return the layer that a command line adds to recipe and file.

    Args:
        context: Whose left-over arguments are settings, too.
        sections: The first parts of valid dotted flags.
        sets: What followed each ``--set``.
        flags: Dotted path and value (None: not given) of each declared option, by flag.
        named: Undeclared flags that are accepted, and their paths.
    """
    from dmpo.config.overrides import command_line_layer, split_flags

    given: list[tuple[str, str, Any]] = []
    for flag, (path, value) in (flags or {}).items():
        values = value if isinstance(value, list) else [value]
        given += [(flag, path, item) for item in values if item is not None]
    options = [option for parameter in context.command.params for option in parameter.opts]
    given += split_flags(context.args, sections=sections, named=named, options=options)
    return command_line_layer(sets or (), given)


def settings_layers(
    recipe: str | None, config: Path | None, *, default_recipe: str
) -> tuple[list[Tree], str, str]:
    """Return the layers of recipe and file, what the recipe is called, and its description.

    The default recipe stands in where neither is given.
    """
    from dmpo.config.recipes import file_chain, recipe_chain

    layers: list[Tree] = []
    label, description = "", ""
    if recipe is not None or config is None:
        label = default_recipe if recipe is None else recipe
        chain = recipe_chain(label)
        layers += chain.layers
        description = chain.description
    if config is not None:
        chain = file_chain(config)
        layers += chain.layers
        label, description = label or str(config), chain.description or description
    return layers, label, description


def show_help(context: Context) -> None:
    """Print the help of a group that was called without a command."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
