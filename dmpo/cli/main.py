"""The entry of ``dmpo``: commands, and how errors are said."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, TextIO, final

import typer

import dmpo
from dmpo.cli.commands import Listed, ListingGroup
from dmpo.cli.completion import COMPLETION
from dmpo.cli.options import Context, Debug, show_help
from dmpo.errors import DataWarning, DmpoError

__all__ = ["app", "main"]

USAGE_ERROR = 2
INTERRUPTED = 130

# A command is a line here: imported when it is asked for, and listed below its heading.
START, LOOK, EXTEND, CHECK = "Start", "Look", "Extend", "Check"
SETTINGS = True
COMMANDS = (
    Listed("train", START, "dmpo.cli.train:train", "Train a policy by RL.", SETTINGS),
    Listed("sft", START, "dmpo.cli.sft:sft", "Train it on demonstrations first.", SETTINGS),
    Listed("generate", START, "dmpo.cli.generate:generate", "Complete prompts.", SETTINGS),
    Listed("eval", START, "dmpo.cli.evaluate:evaluate", "Measure a policy on tasks.", SETTINGS),
    Listed("runs", LOOK, "dmpo.cli.runs:runs", "List runs and how each stands."),
    Listed("report", LOOK, "dmpo.cli.report:report", "Write a page about runs."),
    Listed("compare", LOOK, "dmpo.cli.compare:compare", "Train and report arms side by side."),
    Listed("export", LOOK, "dmpo.cli.export:export", "Write a policy for others to load."),
    Listed("plugins", EXTEND, "dmpo.cli.plugins:app", "List and describe what is registered."),
    Listed("recipes", EXTEND, "dmpo.cli.recipes:app", "List and show ready-made settings."),
    Listed("config", EXTEND, "dmpo.cli.config:app", "Show, describe and check settings."),
    Listed("doctor", CHECK, "dmpo.cli.doctor:doctor", "Try out what this machine can do."),
    Listed("version", CHECK, "dmpo.cli.version:version", "Print what runs, with versions."),
)
CLOSING = (
    "Examples:",
    "  dmpo train                               the demonstration: Sudoku on a CPU",
    "  dmpo train --recipe llada_gsm8k          LLaDA-8B on a GPU",
    "  dmpo generate --prompt 1+2+3= --watch    a completion while it is unmasked",
    "",
    "`dmpo COMMAND --help` has the options; guides and reference are in docs/ of the",
    "sources, beginning with docs/index.md.",
)


@final
class _Root(ListingGroup):
    listed = COMMANDS
    closing = CLOSING


app = typer.Typer(
    name="dmpo",
    cls=_Root,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Fine-tune diffusion language models by distribution matching policy optimization.",
)


def _say_version(is_given: bool) -> bool:
    if is_given:
        typer.echo(f"dmpo {dmpo.__version__}")
        raise typer.Exit
    return False


def _install_completion(is_given: bool) -> bool:
    if is_given:
        from dmpo.cli.completion import install

        install()
        raise typer.Exit
    return False


def _show_completion(is_given: bool) -> bool:
    if is_given:
        from dmpo.cli.completion import script

        typer.echo(script())
        raise typer.Exit
    return False


@app.callback(invoke_without_command=True)
def _root(
    context: Context,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Print dmpo's version."
        ),
    ] = False,
    install_completion: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--install-completion",
            callback=_install_completion,
            is_eager=True,
            help="Have this shell complete commands, options and registered names.",
        ),
    ] = False,
    show_completion: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--show-completion",
            callback=_show_completion,
            is_eager=True,
            help="Print the script that --install-completion installs.",
        ),
    ] = False,
    debug: Debug = False,  # noqa: ARG001
) -> None:
    show_help(context)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    An error is one line on the standard error stream; ``--debug``, anywhere on the line, shows
    the traceback as well.

    Args:
        arguments: What follows ``dmpo``; the process's own if None.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    _prepare_streams()
    if COMPLETION in os.environ and arguments is None:
        from dmpo.cli.completion import answer

        return answer(typer.main.get_command(app))
    try:
        with _warnings_are_said():
            code = typer.main.get_command(app).main(
                given, prog_name="dmpo", standalone_mode=False, obj=tuple(given)
            )
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted.", INTERRUPTED, debug)
    except DmpoError as error:
        return _fail(str(error), error.exit_code, debug)
    except BaseException as error:  # a plugin's own sys.exit() among them
        if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
            _abandon(sys.stdout)  # whoever read the output has gone; say nothing
            return 1
        if hasattr(error, "format_message"):  # a usage error of typer's, whose class is private
            return _fail(error.format_message(), USAGE_ERROR, debug)
        hint = "" if debug else " (--debug shows the traceback)"
        return _fail(_described(error) + hint, 1, debug)
    if code == INTERRUPTED:  # newer typers turn the interrupt into an exit code of their own
        return _fail("interrupted.", INTERRUPTED, debug)
    return code if isinstance(code, int) else 0


def _prepare_streams() -> None:
    """Make the standard streams ones that can be written to, whatever they were at the start.

    Closed ones lead nowhere. A character that the terminal's encoding lacks becomes a question
    mark there, rather than an error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


@contextlib.contextmanager
def _warnings_are_said() -> Iterator[None]:
    """Say what data were left out in a line; the main process alone, whatever the filters are."""
    others = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, DataWarning):
            others(message, category, filename, lineno, file, line)
        elif os.environ.get("RANK", "0") == "0":
            typer.echo(f"dmpo: warning: {_printable(str(message))}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default", DataWarning)
        warnings.showwarning = show
        yield


def _described(error: BaseException) -> str:
    """Return an error that is none of the library's in words."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename is not None:
            return f"{error.filename}: {error.strerror}."
        if not _takes_text(sys.stdout):
            _abandon(sys.stdout)
            return f"standard output: cannot be written: {error.strerror}."
    return f"{type(error).__name__}: {error}"


def _takes_text(stream: TextIO) -> bool:
    """Return whether a line break can be written to a stream."""
    try:
        stream.write("\n")
        stream.flush()
    except OSError:
        return False
    return True


def _abandon(stream: TextIO) -> None:
    """Let what is left in a stream go nowhere, so that the end of the process says nothing."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fail(message: str, code: int, debug: bool) -> int:
    if (rank := os.environ.get("RANK", "0")) != "0":
        if code == USAGE_ERROR:  # which all processes find, and the main one says
            return code
        message = f"process {rank}: {message}"
    try:
        if debug and sys.exc_info()[0] is not None:
            traceback.print_exc()
        typer.echo(f"dmpo: error: {_printable(message)}", err=True)
    except OSError:
        _abandon(sys.stderr)  # nobody can be told; the exit code remains
    return code


def _printable(message: str) -> str:
    """Return a message as one line without control characters."""
    line = " ".join(message.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
