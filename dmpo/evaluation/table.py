"""Evaluations side by side: for the terminal, as Markdown, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dmpo.evaluation.evaluator import EvaluationResult
from dmpo.evaluation.figures import Figure

__all__ = ["evaluation_json", "evaluation_markdown", "evaluation_record", "evaluation_table"]


def evaluation_table(results: Mapping[str, EvaluationResult]) -> Table:
    """Return a table with one column per result and one row per figure.

    Args:
        results: Column heading (``before``, ``after``, …) to result, in order.
    """
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    for heading in results:
        table.add_column(heading, justify="right")
    for label, cells in _rows(results):
        table.add_row(label, *cells)
    return table


def evaluation_markdown(results: Mapping[str, EvaluationResult]) -> str:
    """Return the same table as Markdown."""
    lines = [
        "| | " + " | ".join(results) + " |",
        "| --- |" + " ---: |" * len(results),
    ]
    lines += [f"| {label} | " + " | ".join(cells) + " |" for label, cells in _rows(results)]
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
    rows.append(("answer tokens", [f"{r.response_length:.1f}" for r in columns]))
    rows.append(("forward passes", [f"{r.num_forwards:,}" for r in columns]))
    rows.append(("answer tokens/s", [f"{r.tokens_per_second:,.0f}" for r in columns]))
    rows.append(("problems", [f"{r.num_examples:,} ({r.split})" for r in columns]))
    return rows


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"{figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
