"""The commands as a list: name, panel and one line each; the rest is imported when asked for.

So ``dmpo --help`` and a shell's completion take little longer than starting Python does.
"""

from __future__ import annotations

import importlib
import itertools
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import typer
from typer.core import TyperCommand, TyperGroup

from dmpo.cli.options import SETTINGS_CONTEXT

__all__ = ["LightCommand", "LightGroup", "Listed", "ListingGroup"]


@dataclass(frozen=True, slots=True)
class Listed:
    """A command as the list of commands has it."""

    name: str
    """What users type."""
    panel: str
    """The heading it stands under."""
    target: str
    """``module:attribute`` of its function, or of the typer app of a group of commands."""
    help: str
    """What it does, on one line."""
    takes_settings: bool = False
    """Whether any setting is a flag of it: ``--likelihood.eos answer``."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """What a shell may complete a word with, as typer's scripts print it."""

    value: str
    help: str | None = None
    type: str = "plain"


@final
class LightCommand(TyperCommand):
    """A command whose flags are completed without reading their values.

    Typer reads each value, also of an option that nobody gave, by a pydantic model of its own,
    and those take longer to build than all the rest of a completion.
    """

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option ``--help``."""
        return _false_unless_given(super().get_help_option(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line; for a completion, only which text belongs to which option."""
        if not ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        given, rest, _ = self.make_parser(ctx).parse_args(args=list(args))
        ctx.params = {str(each.name): given.get(str(each.name)) for each in self.params}
        ctx.args = rest
        return rest

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the flags that begin so and may still be given, those of settings among them."""
        from dmpo.cli.completion import setting_flags

        given = {
            flag
            for each in self.params
            if ctx.params.get(each.name) is not None and not getattr(each, "multiple", False)
            for flag in each.opts
        }
        found: list[Any] = [
            item for item in super().shell_complete(ctx, incomplete) if item.value not in given
        ]
        if ctx.ignore_unknown_options and not found:
            flags = setting_flags(ctx.info_name, ctx.params, incomplete)
            found = [_Offer(flag) for flag in flags]
        return found


@final
class LightGroup(TyperGroup):
    """A group of commands that reads no value where none was given."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option ``--help``."""
        return _false_unless_given(super().get_help_option(ctx))


class ListingGroup(TyperGroup, ABC):
    """A group whose commands are those of a list, each imported when it is asked for."""

    listed: ClassVar[Sequence[Listed]]
    """In the order of the help page; those of a panel stand together."""
    closing: ClassVar[Sequence[str]]
    """The last lines of the help page, printed as they are."""

    def __init__(self, **settings: Any) -> None:
        """Take the place of what typer would build before it is needed."""
        super().__init__(**settings)
        self.commands = _Commands(self.listed)  # type: ignore[assignment]

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option ``--help``."""
        return _false_unless_given(super().get_help_option(ctx))

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the names in their order."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the commands below the headings of their panels."""
        width = max(len(each.name) for each in self.listed)
        for panel, group in itertools.groupby(self.listed, key=lambda each: each.panel):
            with formatter.section(panel):
                formatter.write_dl([(each.name.ljust(width), each.help) for each in group])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the last lines."""
        formatter.write("".join(f"{line}\n" for line in ("", *self.closing)))

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the commands or flags that begin so."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        found = [each for each in self.listed if each.name.startswith(incomplete)]
        return [_Offer(each.name, help=each.help) for each in found]


@final
class _Commands(Mapping[str, Any]):
    """Commands by name, each built the first time it is looked up."""

    def __init__(self, listed: Sequence[Listed]) -> None:
        self._listed = {each.name: each for each in listed}
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = _command(self._listed[name])
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        return name in self._listed

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)


def _command(listed: Listed) -> Any:
    """Import a command and return what typer makes of it."""
    module, _, attribute = listed.target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    # A group of its own, so that typer sees what it would see among all the others.
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=listed.name, cls=LightGroup)
    else:
        context = SETTINGS_CONTEXT if listed.takes_settings else None
        app.command(listed.name, cls=LightCommand, context_settings=context)(found)
    group: Any = typer.main.get_command(app)
    return group.commands[listed.name]


def _false_unless_given(option: Any) -> Any:
    """Return ``--help`` with a default that need not be read."""
    if option is not None:
        option.default = False
    return option
