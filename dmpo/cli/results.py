"""What a run found, gathered from its events for the last lines of a command."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import final

import typer
from rich.console import Console

from dmpo.evaluation.evaluator import EvaluationResult
from dmpo.evaluation.table import evaluation_table
from dmpo.training.events import EvaluationDone, Event

__all__ = ["Results", "is_main_process", "num_processes", "say"]


@final
class Results:
    """Keeps the first and the last evaluation of a run."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._evaluations: dict[int, EvaluationResult] = {}

    def notify(self, event: Event) -> None:
        """Take note of evaluations."""
        if isinstance(event, EvaluationDone):
            self._evaluations[event.step] = event.result

    def print_table(self, console: Console) -> None:
        """Print before and after side by side."""
        steps = sorted(self._evaluations)
        if not steps:
            return
        columns = {"after": self._evaluations[steps[-1]]}
        if len(steps) > 1:
            first = "before" if steps[0] == 0 else f"step {steps[0]}"
            columns = {first: self._evaluations[steps[0]], **columns}
        console.print(evaluation_table(columns))


def num_processes() -> int:
    """Return how many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this is the process that talks."""
    return int(os.environ.get("RANK", "0")) == 0


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
