"""The entry of ``dmpo``: commands, and how errors are said."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import TextIO

import typer

from dmpo.cli import compare, config, evaluate, export, generate, plugins, sft, train, version
from dmpo.cli.options import SETTINGS_CONTEXT, Context, Debug, show_help
from dmpo.errors import DataWarning, DmpoError

__all__ = ["app", "main"]

USAGE_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    name="dmpo",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Fine-tune diffusion language models by distribution matching policy optimization.",
)
app.command("train", context_settings=SETTINGS_CONTEXT)(train.train)
app.command("sft", context_settings=SETTINGS_CONTEXT)(sft.sft)
app.command("eval", context_settings=SETTINGS_CONTEXT)(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("generate", context_settings=SETTINGS_CONTEXT)(generate.generate)
app.command("export")(export.export)
app.add_typer(config.app, name="config")
app.add_typer(plugins.app, name="plugins")
app.command("version")(version.version)


@app.callback(invoke_without_command=True)
def _root(context: Context, debug: Debug = False) -> None:  # noqa: ARG001
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
