"""An evaluation shared out to processes and gone on with after a stop.

A chunk of problems is the unit: its draws depend on its place alone, so it does not matter which
process samples it, or when. No problem is left out or counted twice.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch

from dmpo.errors import ConfigError
from dmpo.evaluation.evaluator import Evaluator
from dmpo.evaluation.summary import EvaluatedChunk, EvaluatedCompletion, EvaluationResult
from dmpo.files import append_line, read_lines, replace_text, writing
from dmpo.policies.base import DiffusionPolicy

__all__ = ["Progress", "check_settings", "evaluate_shared"]


@final
class Progress:
    """The chunks that an unfinished evaluation has so far: a file of lines for each process.

    Args:
        folder: Where they lie; made when the first is kept.
        rank: This process.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        """Keep the place; nothing is read yet."""
        self._folder = folder
        self._file = folder / f"process{rank}.jsonl"

    def chunks(self) -> dict[int, EvaluatedChunk]:
        """Return what all processes have kept, by first problem.

        A line that a stop cut short is left out: its chunk is sampled again.
        """
        found: dict[int, EvaluatedChunk] = {}
        for file in sorted(self._folder.glob("process*.jsonl")):
            for line in read_lines(file):
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    chunk = _chunk(json.loads(line))
                    found[chunk.first_index] = chunk
        return found

    def keep(self, chunk: EvaluatedChunk) -> None:
        """Add a chunk to this process's file.

        Raises:
            OutputError: If it cannot be written.
        """
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        if self._file.exists() and not self._file.read_bytes().endswith(b"\n"):
            append_line(self._file, "")
        append_line(self._file, json.dumps(asdict(chunk), default=str))


def check_settings(folder: Path, settings: Any) -> None:
    """Remember the settings of an unfinished evaluation, or compare with those remembered.

    Args:
        folder: Of the evaluation.
        settings: Plain values.

    Raises:
        ConfigError: If the evaluation was begun with others.
    """
    file = folder / "settings.json"
    given = json.loads(json.dumps(settings))
    if not file.exists():
        replace_text(file, json.dumps(given, indent=2) + "\n")
        return
    if json.loads(file.read_text(encoding="utf-8")) != given:
        raise ConfigError(
            f"--output: {folder.parent} holds an unfinished evaluation with other settings (see "
            f"{file}); name another directory, or delete it."
        )


def evaluate_shared(
    evaluator: Evaluator,
    policy: DiffusionPolicy,
    generator: torch.Generator,
    *,
    rank: int = 0,
    num_processes: int = 1,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Return the figures over all problems; every process calls this and gets them all.

    Args:
        evaluator: What to evaluate.
        policy: This process's copy.
        generator: Seeded alike on every process.
        rank: This process.
        num_processes: How many share the work.
        progress: Where chunks are kept, and those of before taken from; None: nowhere.

    Raises:
        DataError: If the split is empty.
    """
    # One process says what is there: another could read what a third has just added.
    done = _said_by_main({} if progress is None else progress.chunks(), num_processes)
    seed = generator.initial_seed()
    mine = []
    for start in _share(evaluator.starts(), done, rank, num_processes):
        fresh = torch.Generator(device=generator.device).manual_seed(seed)
        chunk = evaluator.evaluate_chunk(policy, start, fresh)
        if progress is not None:
            progress.keep(chunk)
        mine.append(chunk)
    return evaluator.result([*done.values(), *_gathered(mine, num_processes)])


def _share(
    starts: Iterable[int], done: dict[int, EvaluatedChunk], rank: int, num_processes: int
) -> list[int]:
    return [start for start in starts if start not in done][rank::num_processes]


def _said_by_main(done: dict[int, EvaluatedChunk], num_processes: int) -> dict[int, EvaluatedChunk]:
    if num_processes == 1:
        return done
    from accelerate.utils import broadcast_object_list

    said = [done]
    broadcast_object_list(said)
    return said[0]


def _gathered(chunks: list[EvaluatedChunk], num_processes: int) -> list[EvaluatedChunk]:
    if num_processes == 1:
        return chunks
    from accelerate.utils import gather_object

    gathered: list[EvaluatedChunk] = gather_object(chunks)
    return gathered


def _chunk(record: dict[str, Any]) -> EvaluatedChunk:
    completions = tuple(EvaluatedCompletion(**each) for each in record["completions"])
    return EvaluatedChunk(**{**record, "completions": completions})
