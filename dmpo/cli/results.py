"""What a run found, and how a command says it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from pathlib import Path

import typer
from rich.console import Console

from dmpo.config.ranks import is_main_process
from dmpo.evaluation.saved import read_tables
from dmpo.evaluation.table import evaluation_table

__all__ = ["print_evaluations", "say", "say_stopping"]


def print_evaluations(console: Console, run: Path) -> None:
    """Print a run's first and last evaluation side by side; nothing if it has none."""
    evaluations = list(read_tables(run).items())
    if not evaluations:
        return
    (first, before), (_, after) = evaluations[0], evaluations[-1]
    columns = {"after": after}
    if len(evaluations) > 1:
        columns = {"before" if first == "step 0" else first: before, **columns}
    console.print(evaluation_table(columns))


def say(label: str, text: str) -> None:
    """Print ``label  text``, wrapped between words under the text where a terminal is narrow."""
    head = f"{label:<12}"
    if sys.stdout.isatty():
        text = textwrap.fill(
            text,
            width=max(2 * len(head), shutil.get_terminal_size().columns),
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
    else:
        text = head + text
    typer.echo(text)


def say_stopping(signal: str) -> None:
    """Say what a first signal does, straight to the system: a handler may not use the console."""
    if is_main_process():
        line = f"\ndmpo: {signal}: finishing this step, then saving; Ctrl-C again exits at once\n"
        with contextlib.suppress(OSError):
            os.write(2, line.encode())
