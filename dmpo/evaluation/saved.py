"""What an evaluation leaves on disk: its completions and its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dmpo.errors import DataError
from dmpo.evaluation.evaluator import EvaluationResult
from dmpo.evaluation.figures import Figure
from dmpo.evaluation.table import evaluation_json, evaluation_markdown

__all__ = ["read_tables", "write_completions", "write_tables"]


def write_completions(path: Path, result: EvaluationResult) -> None:
    """Write every completion with its answer and grades; makes missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for completion in result.completions:
            file.write(json.dumps(asdict(completion), ensure_ascii=False) + "\n")


def write_tables(directory: Path, results: Mapping[str, EvaluationResult]) -> None:
    """Write evaluation.json and evaluation.md, a column for each named result."""
    (directory / "evaluation.json").write_text(evaluation_json(results), encoding="utf-8")
    (directory / "evaluation.md").write_text(evaluation_markdown(results), encoding="utf-8")


def read_tables(directory: Path) -> dict[str, EvaluationResult]:
    """Return what :func:`write_tables` wrote, without completions; nothing if it wrote nothing.

    Raises:
        DataError: If evaluation.json is not what was written.
    """
    path = directory / "evaluation.json"
    if not path.exists():
        return {}
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        return {heading: _result(record) for heading, record in records.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not an evaluation that dmpo saved ({error!r}).") from error


def _result(record: dict[str, Any]) -> EvaluationResult:
    figures = {name: Figure(**figure) for name, figure in record["figures"].items()}
    return EvaluationResult(**{**record, "figures": figures}, completions=())
