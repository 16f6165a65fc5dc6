"""Completions of an evaluation, one JSON line each."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from dmpo.evaluation.evaluator import EvaluationResult

__all__ = ["write_completions"]


def write_completions(path: Path, result: EvaluationResult) -> None:
    """Write every completion with its answer and grades; makes missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for completion in result.completions:
            file.write(json.dumps(asdict(completion), ensure_ascii=False) + "\n")
