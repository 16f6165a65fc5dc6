"""Evaluations side by side: for the terminal, as Markdown, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, final

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dmpo.evaluation.figures import Figure
from dmpo.evaluation.summary import EvaluationResult

__all__ = [
    "FittedTable",
    "evaluation_json",
    "evaluation_markdown",
    "evaluation_record",
    "evaluation_table",
    "markdown_table",
]

UNBOUNDED = 10_000
"""Columns in which any table fits."""


def evaluation_table(results: Mapping[str, EvaluationResult]) -> RenderableType:
    """Return a table with one column per result and one row per figure.

    Where the console is too narrow for it, every figure gets a line of its own.

    Args:
        results: Column heading (``before``, ``after``, …) to result, in order.
    """
    return FittedTable(list(results), _rows(results))


@final
class FittedTable:
    """A table, or, where the console is too narrow for it, its cells below each other.

    Args:
        headings: One of each column behind the first.
        rows: A row's label and its cells.
    """

    def __init__(self, headings: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> None:
        """Keep the texts."""
        self._headings = headings
        self._rows = rows

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        table = Table(box=SIMPLE_HEAD)
        table.add_column("", no_wrap=True)
        for heading in self._headings:
            table.add_column(Text(heading), justify="right", no_wrap=True)
        for label, cells in self._rows:
            table.add_row(Text(label), *map(Text, cells))
        width = Measurement.get(console, options.update(max_width=UNBOUNDED), table).maximum
        if width <= options.max_width:
            yield table
            return
        for label, cells in self._rows:
            yield Text(label, overflow="fold")
            for heading, cell in zip(self._headings, cells, strict=True):
                yield Text(f"  {heading}: {cell}", overflow="fold")


def evaluation_markdown(results: Mapping[str, EvaluationResult]) -> str:
    """Return the same table as Markdown."""
    return markdown_table("", list(results), _rows(results))


def markdown_table(
    corner: str, headings: Sequence[str], rows: Sequence[tuple[str, list[str]]]
) -> str:
    """Return a table as Markdown, a line end behind each row.

    Args:
        corner: Heading of the first column.
        headings: One of each column behind it.
        rows: A row's label and its cells.
    """
    head = f"| {corner} | " if corner else "| | "
    lines = [head + " | ".join(headings) + " |", "| --- |" + " ---: |" * len(headings)]
    lines += [f"| {label} | " + " | ".join(cells) + " |" for label, cells in rows]
    return "\n".join(lines) + "\n"


def evaluation_record(result: EvaluationResult) -> dict[str, Any]:
    """Return a result without its completions, as plain JSON values."""
    record = asdict(result)
    del record["completions"]
    return record


def evaluation_json(results: Mapping[str, EvaluationResult]) -> str:
    """Return the results by heading, without their completions, as JSON text."""
    records = {heading: evaluation_record(result) for heading, result in results.items()}
    return json.dumps(records, indent=2, ensure_ascii=False) + "\n"


def _rows(results: Mapping[str, EvaluationResult]) -> list[tuple[str, list[str]]]:
    columns = list(results.values())
    names = list(dict.fromkeys(name for result in columns for name in result.figures))
    rows = [(name, [_cell(result.figures.get(name)) for result in columns]) for name in names]
    if any(result.accuracy != result.score for result in columns):
        cells = [_interval(r.accuracy, *r.accuracy_interval) for r in columns]
        rows.insert(0, ("accuracy", cells))
    if any(result.majority is not None for result in columns):
        rows.append(("majority vote", [_cell(result.majority) for result in columns]))
    ks = sorted({k for result in columns for k in result.pass_at})
    rows += [(f"pass@{k}", [_cell(result.pass_at.get(k)) for result in columns]) for k in ks]
    if any(result.distinct_right is not None for result in columns):
        rows.append(
            (
                "distinct right answers",
                [
                    ""
                    if r.distinct_right is None
                    else f"{r.distinct_right:.2f} of {r.samples_per_prompt}"
                    for r in columns
                ],
            )
        )
    if any(result.entropy is not None for result in columns):
        cells = ["" if r.entropy is None else f"{r.entropy:.3f}" for r in columns]
        rows.append(("entropy of a token (nats)", cells))
    if any(result.response_length is not None for result in columns):
        rows.append(("answer tokens", [_number(r.response_length, ".1f") for r in columns]))
    if any(result.num_forwards for result in columns):
        rows.append(("forward passes", [f"{r.num_forwards:,}" for r in columns]))
        rows.append(("answer tokens/s", [_number(r.tokens_per_second, ",.0f") for r in columns]))
    rows.append(("problems", [f"{r.num_examples:,} ({r.split})" for r in columns]))
    return rows


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return _interval(figure.mean, figure.low, figure.high)


def _interval(mean: float, low: float, high: float) -> str:
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"
