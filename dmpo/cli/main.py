"""The entry of ``dmpo``: commands, and how errors are said."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import typer

from dmpo.cli import config, evaluate, generate, plugins, sft, train, version
from dmpo.cli.options import SETTINGS_CONTEXT, Context, Debug
from dmpo.errors import DmpoError

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
app.command("generate", context_settings=SETTINGS_CONTEXT)(generate.generate)
app.add_typer(config.app, name="config")
app.add_typer(plugins.app, name="plugins")
app.command("version")(version.version)


@app.callback(invoke_without_command=True)
def _root(context: Context, debug: Debug = False) -> None:  # noqa: ARG001
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


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
    command = typer.main.get_command(app)
    try:
        code = command.main(given, prog_name="dmpo", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted.", INTERRUPTED, debug)
    except DmpoError as error:
        return _fail(str(error), error.exit_code, debug)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has gone; say nothing
        return 1
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of typer's, whose class is private
            return _fail(error.format_message(), USAGE_ERROR, debug)
        hint = "" if debug else " (--debug shows the traceback)"
        return _fail(f"{type(error).__name__}: {error}{hint}", 1, debug)
    if code == INTERRUPTED:  # newer typers turn the interrupt into an exit code of their own
        return _fail("interrupted.", INTERRUPTED, debug)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int, debug: bool) -> int:
    if debug and sys.exc_info()[0] is not None:
        traceback.print_exc()
    typer.echo(f"dmpo: error: {' '.join(message.split())}", err=True)
    return code
