"""Rollouts and completions that a run has saved, read back for a page: cut, and few enough."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmpo.errors import DataError, reading_failure
from dmpo.reporting.visible import visible

__all__ = [
    "SavedSamples",
    "graded_completions",
    "read_samples",
    "sample_records",
    "spread_out",
]

MOST_TEXT = 4_000
"""Characters of a prompt or a completion that a page shows."""
MOST_TOKENS = 1_024
"""Tokens of a rollout whose order of unmasking a page shows."""
MOST_TOKEN_TEXT = 80
"""Characters of a token."""
MOST_LINE = 40_000
"""Characters that a rollout takes on a page, about, however long its line is."""
_FIRST_STEP = re.compile(rb'\{"step": (\d{1,18}),')

_NUMBERS = ("reward", "weight", "baseline_weight", "ess")
_COUNTS = ("group", "rollout", "group_size", "rank", "denoising_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSamples:
    """The rollouts of samples.jsonl, or of some of its steps."""

    records: tuple[Mapping[str, Any], ...]
    """As they were written, texts cut and made fit to be shown."""
    num_left_out: int = 0
    """Steps that are not among them, so that they are few enough."""
    num_damaged: int = 0
    """Lines that could not be read and were left out."""


def read_samples(run: Path, *, most_characters: int) -> SavedSamples:
    """Return the rollouts that a run has saved; none if it has no samples.jsonl.

    Files of earlier versions say less of each rollout; what is missing stays out.

    Args:
        run: Its directory.
        most_characters: Of all that is returned, about. Of more, some steps are left out, evenly.

    Raises:
        DataError: If the file cannot be read.
    """
    path = run / "samples.jsonl"
    sizes: dict[int, int] = {}
    num_damaged = 0
    for line in _lines(path):
        if (step := _step(line)) is not None:
            sizes[step] = sizes.get(step, 0) + min(len(line), MOST_LINE)
        elif line.endswith(b"\n"):
            num_damaged += 1
    steps = set(spread_out(sizes, most_characters))
    records = []
    for line in _lines(path):
        if _step(line) in steps and (record := _object(line)) is not None:
            if (sample := _sample(record)) is not None:
                records.append(sample)
            else:
                num_damaged += 1
    return SavedSamples(
        records=tuple(records), num_left_out=len(sizes) - len(steps), num_damaged=num_damaged
    )


def sample_records(
    samples: Sequence[SavedSamples], *, strengths: Sequence[float | None]
) -> dict[str, Any]:
    """Return what the page's script needs of several runs' rollouts, as plain JSON values.

    Args:
        samples: Of each run.
        strengths: λ of each run's baseline, for real weights; None: not known.

    Returns:
        ``prompts``, each once, and ``samples``, which name run and prompt by number.
    """
    prompts: dict[str, int] = {}
    shown = [
        {
            "run": run,
            **record,
            "prompt": prompts.setdefault(record["prompt"], len(prompts)),
            **_real_weight(record, strength),
        }
        for run, (saved, strength) in enumerate(zip(samples, strengths, strict=True))
        for record in saved.records
    ]
    return {"prompts": list(prompts), "samples": shown}


def spread_out(sizes: Mapping[int, int], most: int) -> list[int]:
    """Return steps, evenly spread from the first to the last, that are not too large together.

    Args:
        sizes: Size of each step.
        most: Of all of them; the last is kept, however large.
    """
    steps = sorted(sizes)
    chosen, count = steps, len(steps)
    while count > 1 and sum(sizes[step] for step in chosen) > most:
        count = max(1, count * 4 // 5)
        gap = (len(steps) - 1) / max(1, count - 1)
        chosen = [steps[len(steps) - 1 - round(number * gap)] for number in reversed(range(count))]
    return chosen


def graded_completions(
    run: Path, step: int, headline: str, most: int
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return some right and some wrong completions that an evaluation has saved.

    Args:
        run: Its directory.
        step: Of the evaluation.
        headline: The figure that tells: 1 is right.
        most: Of either kind; the first of the file, one of each problem.

    Raises:
        DataError: If they cannot be read.
    """
    kinds: dict[bool, dict[str, Mapping[str, Any]]] = {True: {}, False: {}}
    for line in _lines(run / "evaluations" / f"step-{step:06d}.jsonl"):
        record = _object(line)
        grades = (record or {}).get("grades")
        if record is None or not isinstance(grades, dict):
            continue
        kind = kinds[grades.get(headline) == 1]
        if len(kind) < most:
            kind.setdefault(str(record.get("index", len(kind))), record)
        if all(len(each) == most for each in kinds.values()):
            break
    return list(kinds[True].values()), list(kinds[False].values())


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, none if it is missing; the last may be being written."""
    try:
        with path.open("rb") as file:
            yield from file
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reading_failure(error)}.") from None


def _object(line: bytes) -> dict[str, Any] | None:
    """Return the object of a line; None if it is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _step(line: bytes) -> int | None:
    """Return the step of a line, which stands first in those that dmpo writes; None: damaged."""
    match = _FIRST_STEP.match(line)
    if match and line.rstrip().endswith(b"}"):
        return int(match[1])
    step = (_object(line) or {}).get("step")
    return step if _is_whole(step) else None


def _sample(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a line says that is of the right kind; None without step or texts."""
    step, prompt, completion = (record.get(key) for key in ("step", "prompt", "completion"))
    if not (_is_whole(step) and isinstance(prompt, str) and isinstance(completion, str)):
        return None
    sample: dict[str, Any] = {"step": step, "prompt": visible(prompt, MOST_TEXT)}
    for key in _NUMBERS:
        if _is_number(record.get(key)):
            sample[key] = _rounded(record[key])
    sample |= {key: record[key] for key in _COUNTS if _is_whole(record.get(key))}
    components = record.get("components")
    if isinstance(components, dict):
        sample["components"] = {
            visible(name, MOST_TOKEN_TEXT): _rounded(value) if _is_number(value) else None
            for name, value in components.items()
        }
    path = _unmasking(record)
    if "".join(path.get("tokens", ())) != visible(completion):
        sample["completion"] = visible(completion, MOST_TEXT)
    return {**sample, **path}


def _unmasking(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return tokens, the steps that fixed them, and what is known of each; all or nothing."""
    tokens, steps = record.get("tokens"), record.get("commit_steps")
    if not (isinstance(tokens, list) and isinstance(steps, list) and len(tokens) == len(steps)):
        return {}
    if not all(isinstance(each, str) for each in tokens) or not all(map(_is_whole, steps)):
        return {}
    path: dict[str, Any] = {
        "tokens": [visible(token, MOST_TOKEN_TEXT) for token in tokens[:MOST_TOKENS]],
        "commit_steps": steps[:MOST_TOKENS],
    }
    if len(tokens) > MOST_TOKENS:
        path["num_tokens"] = len(tokens)
    for key in ("log_probs", "entropies"):
        values = record.get(key)
        if isinstance(values, list) and len(values) == len(tokens):
            path[key] = [
                _rounded(each, 3) if _is_number(each) else None for each in values[:MOST_TOKENS]
            ]
    return path


def _real_weight(record: Mapping[str, Any], strength: float | None) -> dict[str, float]:
    if strength is None or not {"weight", "baseline_weight"} <= record.keys():
        return {}
    return {"real_weight": _rounded(record["weight"] - strength * record["baseline_weight"])}


def _rounded(value: float, digits: int = 5) -> float:
    return float(f"{value:.{digits}g}")


def _is_number(value: Any) -> bool:
    """Return whether this is a finite number."""
    return type(value) in (float, int) and -1e300 < value < 1e300


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
