"""``dmpo report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmpo.cli.completion import runs as run_directories
from dmpo.cli.options import Debug, path

__all__ = ["report", "say_report"]


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            parser=path,
            metavar="RUN...",
            help="Directories of runs, or folders with runs below: then all of them.",
            autocompletion=run_directories,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            parser=path,
            metavar="<path>",
            help="The page's file; report.html in the run's directory, or of several runs in the "
            "current one, if left out.",
        ),
    ] = None,
    browse: Annotated[bool, typer.Option("--open", help="Show the page in a browser.")] = False,
    debug: Debug = False,  # noqa: ARG001  (read by main)
) -> None:
    """Write a page about runs: curves, rollouts and how they were unmasked, evaluations, settings.

    It is one HTML file with everything in it, which needs no network.
    """
    from dmpo.cli.results import say
    from dmpo.config.places import check_writable
    from dmpo.errors import ConfigError, OutputError
    from dmpo.reporting.run_contents import chosen_runs
    from dmpo.reporting.run_page import report_place, write_report

    places = chosen_runs(runs)
    where = report_place(places, output)
    if where.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--output: must end in .html; given {where}.")
    if where.is_dir():
        raise ConfigError(f"--output: {where} is a directory; name a file.")
    check_writable(where, "--output")
    try:
        written = write_report(places, where)
    except OutputError as error:
        raise ConfigError(f"--output: {error}") from None
    if len(places) > 1:
        say("runs", str(len(places)))
    say("page", str(written))
    if browse:
        _open(written)


def _open(page: Path) -> None:
    import webbrowser

    from dmpo.cli.results import say

    if not webbrowser.open(page.absolute().as_uri()):
        say("browser", "none could be opened")


def say_report(run: Path) -> None:
    """Write a run's page and say where it is; a failure is said and ends nothing.

    Args:
        run: Its directory, the run being over.
    """
    from dmpo.cli.results import say
    from dmpo.reporting.run_page import write_report

    try:
        say("report", str(write_report([run])))
    except Exception as error:  # the run is finished and saved, whatever becomes of its page
        say("report", f"not written: {error}")
