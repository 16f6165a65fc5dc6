"""What an evaluation leaves on disk: its completions and its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from dmpo.evaluation.evaluator import EvaluationResult
from dmpo.evaluation.table import evaluation_json, evaluation_markdown

__all__ = ["write_completions", "write_tables"]


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
