"""``dmpo runs``."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from dmpo.cli.options import Debug, path

__all__ = ["runs"]

SHOWN_COMMANDS = 5
"""Stopped runs whose command is printed, at most."""


def runs(
    folder: Annotated[
        Path | None,
        typer.Argument(parser=path, metavar="[FOLDER]", help="Where to look; runs if left out."),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(metavar="newest|name|state|score|reward|steps|time", help="What comes first."),
    ] = "newest",
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="running|finished|stopped|failed|empty", help="Only these; repeatable."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list instead of a table.")
    ] = False,
    debug: Debug = False,  # noqa: ARG001  (read by main)
) -> None:
    """List runs: how each stands, how far it has come, and what to type to go on with it."""
    from dmpo.errors import DataError
    from dmpo.reporting.run_summary import find_runs, run_summary
    from dmpo.reporting.run_table import chosen_summaries, runs_json, runs_table

    if folder is not None and not folder.is_dir():
        raise DataError(f"FOLDER: {folder} is not a directory.")
    where = folder or Path("runs")
    found = [run_summary(run) for run in find_runs(where)]
    chosen = chosen_summaries(found, sort=sort, states=state or ())
    if as_json:
        typer.echo(runs_json(chosen))
        return
    if not chosen:
        typer.echo(f"no runs in {where}" + (f" that are {' or '.join(state)}" if state else ""))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in runs_table(chosen, now=time.time(), width=width):
        typer.echo(line)
    stopped = [run.resume for run in chosen if run.resume]
    for number, command in enumerate(stopped[:SHOWN_COMMANDS]):
        typer.echo(("\n" if number == 0 else "") + f"go on with  {command}")
    if len(stopped) > SHOWN_COMMANDS:
        typer.echo(f"            … and {len(stopped) - SHOWN_COMMANDS} more (--json has them all)")
