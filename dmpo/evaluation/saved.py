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
from dmpo.files import replace_text

__all__ = ["read_tables", "write_completions", "write_tables"]


def write_completions(path: Path, result: EvaluationResult) -> None:
    """Write every completion with its answer and grades; makes missing folders."""
    lines = (json.dumps(asdict(each), ensure_ascii=False) for each in result.completions)
    replace_text(path, "".join(f"{line}\n" for line in lines))


def write_tables(directory: Path, results: Mapping[str, EvaluationResult]) -> None:
    """Write evaluation.json and evaluation.md, a column for each named result."""
    replace_text(directory / "evaluation.json", evaluation_json(results))
    replace_text(directory / "evaluation.md", evaluation_markdown(results))


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
    # Evaluations saved before there was pass@k have none.
    pass_at = {int(k): Figure(**figure) for k, figure in record.get("pass_at", {}).items()}
    return EvaluationResult(**{**record, "figures": figures, "pass_at": pass_at}, completions=())
