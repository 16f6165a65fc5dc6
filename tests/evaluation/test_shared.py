from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dmpo.errors import ConfigError
from dmpo.evaluation.evaluator import EvaluationSettings, Evaluator
from dmpo.evaluation.shared import Progress, check_settings, evaluate_shared
from dmpo.evaluation.summary import EvaluationResult
from dmpo.registry import SAMPLERS
from tests.training.runs import CountingTask, small_policy


def evaluator() -> Evaluator:
    settings = EvaluationSettings(num_examples=7, samples_per_prompt=2, rows_per_forward=4)
    return Evaluator(CountingTask(), SAMPLERS.build("roar", {"gen_length": 4}), settings)


def evaluate(progress: Progress | None = None, **share: int) -> EvaluationResult:
    generator = torch.Generator().manual_seed(3)
    return evaluate_shared(evaluator(), small_policy(), generator, progress=progress, **share)


def texts(result: EvaluationResult) -> list[tuple[int, str]]:
    return [(each.index, each.completion) for each in result.completions]


def test_parts_together_are_what_one_process_finds(tmp_path: Path) -> None:
    whole = evaluate()
    generator = torch.Generator().manual_seed(3)
    assert texts(whole) == texts(evaluator().evaluate(small_policy(), generator))
    starts = list(evaluator().starts())
    assert starts == [0, 2, 4, 6]
    for rank in (1, 0):
        progress = Progress(tmp_path, rank)
        for start in starts[rank::2]:
            fresh = torch.Generator().manual_seed(3)
            progress.keep(evaluator().evaluate_chunk(small_policy(), start, fresh))
    shared = evaluate(Progress(tmp_path, 0))
    assert texts(shared) == texts(whole)
    assert shared.figures == whole.figures


def test_a_stopped_evaluation_goes_on_and_a_torn_line_is_done_again(tmp_path: Path) -> None:
    whole = evaluate(Progress(tmp_path / "whole", 0))
    (lines,) = (tmp_path / "whole").iterdir()
    kept = lines.read_bytes().splitlines(keepends=True)
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "process0.jsonl").write_bytes(kept[0] + kept[1][:40])
    again = evaluate(Progress(torn, 0))
    assert texts(again) == texts(whole)
    assert len(Progress(torn, 0).chunks()) == 4


def test_other_settings_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "unfinished"
    check_settings(folder, {"seed": 1})
    check_settings(folder, {"seed": 1})
    with pytest.raises(ConfigError, match=r"--output: .* unfinished evaluation with other"):
        check_settings(folder, {"seed": 2})
