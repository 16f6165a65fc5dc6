"""Options that several commands share, and what they amount to."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dmpo.config.layers import Tree

if TYPE_CHECKING:
    from typer import Context as Context
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
    "check_writable",
    "command_layer",
    "decoded",
    "free_directory",
    "run_directory",
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


def decoded(text: str) -> str:
    """Return an argument as UTF-8, also where the locale says otherwise."""
    return os.fsencode(text).decode("utf-8", errors="replace")


Recipe = Annotated[
    str | None, typer.Option("--recipe", help="A shipped recipe's name, or a path to one.")
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


def free_directory(output: Path | None, label: str) -> Path:
    """Return the directory to write to: ``output``, or a new one under ``runs``.

    Raises:
        ConfigError: If it exists and is not an empty directory, or cannot be written.
    """
    from dmpo.errors import ConfigError

    if output is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        output = Path("runs") / f"{Path(label).stem}-{stamp}"
    check_writable(output, "--output")
    if output.exists() and not (output.is_dir() and all(map(_is_no_trace, output.iterdir()))):
        raise ConfigError(f"--output: {output} exists already; name one that does not.")
    return output


def check_writable(output: Path, flag: str) -> None:
    """Find out before any work whether something can be written at ``output``.

    Raises:
        ConfigError: If it lies below a file or in a directory that may not be written to, or
            its name needs another locale.
    """
    from dmpo.errors import ConfigError

    try:
        str(output).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{flag}: {decoded(str(output))} is no name in this locale "
            f"({sys.getfilesystemencoding()}); use another, or set PYTHONUTF8=1."
        ) from None
    try:
        existing = next(p for p in (output, *output.absolute().parents) if p.exists())
    except OSError as error:
        raise ConfigError(f"{flag}: {output} cannot be made: {error.strerror}.") from None
    if existing != output and not existing.is_dir():
        raise ConfigError(f"{flag}: {output} cannot be made: {existing} is not a directory.")
    if not os.access(existing, os.W_OK):
        raise ConfigError(f"{flag}: {output} cannot be made: {existing} may not be written to.")


def show_help(context: Context) -> None:
    """Print the help of a group that was called without a command."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run_directory(output: Path | None, label: str, *, is_written: bool = True) -> Path:
    """Return the directory of a run, the same on every process.

    Args:
        output: As given; None: a new one under ``runs``.
        label: Of the recipe; a part of the new one's name.
        is_written: Whether anything will be written there.

    Raises:
        ConfigError: If it is taken, or several processes would each name their own.
    """
    from dmpo.cli.results import is_main_process, num_processes
    from dmpo.errors import ConfigError

    if num_processes() > 1 and output is None and is_written:
        raise ConfigError("--output: several processes need one place; name it.")
    if output is not None and not is_main_process():
        return output
    return free_directory(output, label)


def _is_no_trace(path: Path) -> bool:
    """Return whether this is what a run leaves that was killed at its very start."""
    return path.name == ".lock" or path.name.endswith(".partial")
