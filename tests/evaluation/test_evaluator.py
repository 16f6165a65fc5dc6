from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, final

import pytest
import torch
from rich.console import Console

from dmpo.errors import DataError
from dmpo.evaluation.evaluator import EvaluationSettings, Evaluator
from dmpo.evaluation.saved import read_tables, write_completions, write_tables
from dmpo.evaluation.summary import EvaluationResult
from dmpo.evaluation.table import evaluation_json, evaluation_markdown, evaluation_table
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Prompts, Rollouts
from dmpo.registry import SAMPLERS
from dmpo.samplers.base import Sampler, SamplerConfig
from tests.oracles.training import distinct_right_answers
from tests.training.runs import CountingTask, small_policy


@final
class ScriptedSampler(Sampler):
    """Writes given texts, one after the other, whatever the prompt."""

    Config: ClassVar[type[SamplerConfig]] = SamplerConfig

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.modes: list[bool] = []

    def sample(
        self,
        policy: DiffusionPolicy,
        prompts: Prompts,
        *,
        num_rollouts: int,
        generator: torch.Generator,
    ) -> Rollouts:
        self.modes.append(policy.module.training)
        rows = len(prompts.examples)
        texts = [self.texts.pop(0) for _ in range(rows * num_rollouts)]
        shape = (rows, num_rollouts, 4)
        lengths = torch.tensor([min(4, len(text) + 1) for text in texts]).reshape(shape[:2])
        return Rollouts(
            prompts=prompts,
            completions=policy.encode_completions(texts, 4).reshape(shape),
            answer_mask=torch.arange(4) < lengths[..., None],
            commit_step=torch.zeros(shape, dtype=torch.long),
            log_probs=None,
            temperature=0.0,
            num_forwards=4,
            texts=tuple(
                tuple(texts[i : i + num_rollouts]) for i in range(0, len(texts), num_rollouts)
            ),
        )


def _evaluate(texts: Sequence[str], **settings: object) -> EvaluationResult:
    """Evaluate on prompts that ask for 2, 0, 1, 2, … four times each."""
    evaluator = Evaluator(CountingTask(), ScriptedSampler(texts), EvaluationSettings(**settings))
    return evaluator.evaluate(small_policy(), torch.Generator())


def test_counts_and_intervals_have_the_values_found_by_hand() -> None:
    result = _evaluate(["2222", "0000", "00", "="], num_examples=4)
    right = result.figures["right"]
    assert (right.mean, right.count, result.score) == (0.5, 4, 0.5)
    assert (right.low, right.high) == pytest.approx((0.15003, 0.84997), abs=1e-5)
    assert result.figures["share"].mean == (1 + 1 + 0 + 0) / 4
    assert result.response_length == (4 + 4 + 3 + 2) / 4
    assert (result.num_examples, result.num_forwards) == (4, 4)
    assert result.distinct_right is None
    assert list(result.figures) == ["right", "share"]


def test_batches_change_nothing_but_the_forward_passes() -> None:
    texts = ["2222", "0000", "1111"] * 3
    whole, cut = _evaluate(texts), _evaluate(texts, rows_per_forward=2)
    assert whole.figures == cut.figures
    assert whole.completions == cut.completions
    assert (whole.num_forwards, cut.num_forwards) == (4, 5 * 4)


def test_distinct_right_answers_are_counted_once() -> None:
    texts = ["2222", "2222", "1", "0000", "1", "2"]
    result = _evaluate(texts, num_examples=2, samples_per_prompt=3)
    graded = [[("2222", True)] * 2 + [("1", False)], [("0000", True), ("1", False), ("2", False)]]
    assert result.distinct_right == distinct_right_answers(graded) == 1.0
    assert result.figures["right"].count == 2
    assert result.figures["right"].mean == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_pass_at_k_has_the_values_found_by_hand() -> None:
    texts = ["2222", "=", "=", "=", "0000", "0000", "=", "="]  # 1 and 2 of 4 right
    result = _evaluate(texts, num_examples=2, samples_per_prompt=4)
    means = {k: figure.mean for k, figure in result.pass_at.items()}
    assert means == pytest.approx({1: 3 / 8, 2: (1 / 2 + 5 / 6) / 2, 4: 1.0})
    assert result.pass_at[1].mean == result.score
    assert _evaluate(["="], num_examples=1).pass_at == {}


def test_entropy_is_the_mean_over_answer_tokens() -> None:
    sampler = SAMPLERS.build("roar", {"gen_length": 4})
    settings = EvaluationSettings(rows_per_forward=2)
    result = Evaluator(CountingTask(), sampler, settings).evaluate(
        small_policy(), torch.Generator().manual_seed(0)
    )
    assert result.entropy is not None
    assert 0 < result.entropy < math.log(100)
    assert _evaluate(["="], num_examples=1).entropy is None


def test_saved_tables_are_read_back_and_so_are_older_ones(tmp_path: Path) -> None:
    result = replace(
        _evaluate(["2222", "="], num_examples=1, samples_per_prompt=2), completions=(), entropy=0.5
    )
    write_tables(tmp_path, {"after": result})
    assert read_tables(tmp_path) == {"after": result}
    file = tmp_path / "evaluation.json"
    content = json.loads(file.read_text())
    del content["after"]["pass_at"], content["after"]["entropy"]
    file.write_text(json.dumps(content))
    assert read_tables(tmp_path) == {"after": replace(result, pass_at={}, entropy=None)}


def test_table_shows_pass_at_k_and_entropy_where_there_are_any() -> None:
    with_both = replace(
        _evaluate(["2222", "="], num_examples=1, samples_per_prompt=2), entropy=1.25
    )
    without = _evaluate(["2222"], num_examples=1)
    text = evaluation_markdown({"before": without, "after": with_both})
    assert "| pass@2 |  | 1.000 [" in text
    assert "| entropy of a token (nats) |  | 1.250 |" in text
    assert "pass@" not in evaluation_markdown({"before": without})


def test_policy_is_evaluated_without_dropout_and_put_back() -> None:
    policy, sampler = small_policy(), ScriptedSampler(["0"] * 9)
    Evaluator(CountingTask(), sampler, EvaluationSettings()).evaluate(policy, torch.Generator())
    assert sampler.modes == [False]
    assert policy.module.training


def test_empty_split_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountingTask, "examples", lambda *_: [])
    with pytest.raises(DataError, match="the test split of the task is empty"):
        _evaluate([])


def test_completions_are_saved_one_a_line(tmp_path: Path) -> None:
    result = _evaluate(["2222", "x"[:0]], num_examples=2)
    write_completions(tmp_path / "new" / "saved.jsonl", result)
    lines = (tmp_path / "new" / "saved.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    assert (first["prompt"], first["completion"], first["answer"]) == ("20=", "2222", "2222")
    assert first["grades"] == {"share": 1.0, "right": 1.0}
    assert json.loads(lines[1])["answer"] is None


def test_table_sets_before_beside_after() -> None:
    results = {
        "before": _evaluate(["2222", "1"], num_examples=2),
        "after": _evaluate(["2222", "0000"], num_examples=2),
    }
    markdown = evaluation_markdown(results).splitlines()
    assert markdown[0] == "| | before | after |"
    assert markdown[2].startswith("| right | 0.500 [0.095, 0.905] | 1.000 [0.342, 1.000] |")
    console = Console(width=100)
    with console.capture() as captured:
        console.print(evaluation_table(results))
    assert "1.000 [0.342, 1.000]" in captured.get()
    record = json.loads(evaluation_json(results))
    assert record["after"]["figures"]["right"]["mean"] == 1
    assert "completions" not in record["after"]


def test_table_that_is_too_wide_is_set_in_lines() -> None:
    results = {heading: _evaluate(["2222", "1"], num_examples=2) for heading in ("[b]", "after")}
    console = Console(width=30)
    with console.capture() as captured:
        console.print(evaluation_table(results))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert lines[:2] == ["right", "  [b]: 0.500 [0.095, 0.905]"]
    assert max(map(len, lines)) <= 30
