"""What an evaluation leaves on disk: its completions and its tables."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dmpo.errors import DataError
from dmpo.evaluation.evaluator import graded
from dmpo.evaluation.figures import Figure
from dmpo.evaluation.summary import (
    EvaluatedChunk,
    EvaluatedCompletion,
    EvaluationResult,
    evaluation_result,
)
from dmpo.evaluation.table import evaluation_json, evaluation_markdown, evaluation_record
from dmpo.files import replace_text
from dmpo.tasks.base import Task
from dmpo.tasks.sources import Row

__all__ = ["read_tables", "regraded", "write_completions", "write_figures", "write_tables"]


def write_completions(path: Path, result: EvaluationResult) -> None:
    """Write every completion with its answer and grades; makes missing folders."""
    lines = (json_line(each) for each in result.completions)
    replace_text(path, "".join(f"{line}\n" for line in lines))


def json_line(completion: EvaluatedCompletion) -> str:
    """Return a completion as one line of JSON; what JSON has no form for becomes text."""
    # A lone surrogate, which a model may write, is no UTF-8: escaped it is.
    return json.dumps(asdict(completion), default=str)


def write_tables(directory: Path, results: Mapping[str, EvaluationResult]) -> None:
    """Write evaluation.json and evaluation.md, a column for each named result."""
    replace_text(directory / "evaluation.json", evaluation_json(results))
    replace_text(directory / "evaluation.md", evaluation_markdown(results))


def write_figures(
    path: Path, results: Sequence[tuple[Mapping[str, Any], EvaluationResult]]
) -> None:
    """Write figures to one JSON file: an object for one result, a list of them for several.

    Args:
        path: Replaced if it is there.
        results: What was measured (task, canvas length, grader), and the result.
    """
    records = [{**facts, **evaluation_record(result)} for facts, result in results]
    content = records[0] if len(records) == 1 else records
    replace_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


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


def regraded(task: Task, rows: Sequence[Row], option: str) -> EvaluationResult:
    """Grade saved completions, one a row, whoever sampled them.

    A row has ``completion`` and what the task needs to know its problem again: ``prompt`` and
    ``columns`` as :func:`write_completions` writes them, or the task's own columns. Rows with one
    ``index`` are samples of one problem.

    Args:
        task: Whose grader counts.
        rows: At least one.
        option: What messages call where they are from.

    Raises:
        DataError: If a row does not say what it answers, or problems have different numbers of
            completions.
    """
    began = time.perf_counter()
    pairs = []
    for row in rows:
        try:
            pairs.append((task.from_record(row.values), _completion(row.values)))
        except DataError as error:
            raise DataError(f"{row.origin}: {error}") from None
    indices = [int(row.values.get("index", position)) for position, row in enumerate(rows)]
    completions = graded(
        task,
        pairs,
        indices=indices,
        lengths=[row.values.get("length") for row in rows],
        entropies=[row.values.get("entropy") for row in rows],
    )
    counts = Counter(indices)
    if len(set(counts.values())) > 1:
        (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
        raise DataError(
            f"{option}: problem {most} has {many} completions and problem {least} has "
            f"{few}; every problem needs as many."
        )
    chunk = EvaluatedChunk(
        first_index=0,
        num_forwards=0,
        seconds=time.perf_counter() - began,
        completions=completions,
    )
    return evaluation_result([chunk], headline=task.headline, split="saved completions")


def _completion(values: Mapping[str, Any]) -> str:
    completion = values.get("completion")
    if not isinstance(completion, str):
        raise DataError(f"`completion` must be text, found {completion!r:.60}.")
    return completion


def _result(record: dict[str, Any]) -> EvaluationResult:
    figures = {name: Figure(**figure) for name, figure in record["figures"].items()}
    # Evaluations saved before there were pass@k, majorities and accuracies have none.
    pass_at = {int(k): Figure(**figure) for k, figure in record.get("pass_at", {}).items()}
    majority = record.get("majority")
    headline = figures[record["headline"]]
    low, high = record.get("accuracy_interval", (headline.low, headline.high))
    changes = {
        "figures": figures,
        "pass_at": pass_at,
        "majority": None if majority is None else Figure(**majority),
        "accuracy": record.get("accuracy", headline.mean),
        "accuracy_interval": (low, high),
    }
    return EvaluationResult(**{**record, **changes}, completions=())
