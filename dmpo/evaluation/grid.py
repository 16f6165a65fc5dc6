"""Tasks by canvas lengths: the paper's Table 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from dmpo.evaluation.summary import EvaluationResult
from dmpo.evaluation.table import FittedTable, markdown_table

__all__ = ["grid_markdown", "grid_table"]

Grid = Mapping[tuple[str, int], EvaluationResult]
"""Task and canvas length to result."""


def _accuracy(result: EvaluationResult) -> str:
    low, high = result.accuracy_interval
    return f"{result.accuracy:.1%} [{low:.1%}, {high:.1%}]"


def _tokens(result: EvaluationResult) -> str:
    return "" if result.response_length is None else f"{result.response_length:.0f}"


def _speed(result: EvaluationResult) -> str:
    return "" if result.tokens_per_second is None else f"{result.tokens_per_second:,.0f}"


CELLS: Mapping[str, Callable[[EvaluationResult], str]] = {
    "Accuracy, with its 95% interval": _accuracy,
    "Effective tokens of an answer": _tokens,
    "Effective tokens per second": _speed,
}
"""What is shown of a result, a table each."""


def grid_table(results: Grid) -> RenderableType:
    """Return a table for accuracy, one for effective tokens and one for speed."""
    parts: list[RenderableType] = []
    for title, cell in CELLS.items():
        lengths, rows = _rows(results, cell)
        parts += [Text(title), FittedTable(lengths, rows)]
    return Group(*parts)


def grid_markdown(results: Grid) -> str:
    """Return the same tables as Markdown."""
    tables = (
        f"{title}:\n\n{markdown_table('task', *_rows(results, cell))}"
        for title, cell in CELLS.items()
    )
    return "\n".join(tables)


def _rows(
    results: Grid, cell: Callable[[EvaluationResult], str]
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    tasks = list(dict.fromkeys(task for task, _ in results))
    lengths = list(dict.fromkeys(length for _, length in results))
    found = [
        (task, [cell(results[task, n]) if (task, n) in results else "" for n in lengths])
        for task in tasks
    ]
    return [str(length) for length in lengths], found
