from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dmpo.training.events import BufferFilled
from dmpo.training.rollout import token_texts
from dmpo.training.tracking import sample_records
from tests.training.runs import Recorder, small_trainer


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> BufferFilled:
    recorder = Recorder()
    small_trainer(tmp_path_factory.mktemp("run"), observers=(recorder,)).train()
    return next(event for event in recorder.events if isinstance(event, BufferFilled))


def test_samples_say_what_each_token_was_and_when_it_was_fixed(filled: BufferFilled) -> None:
    rollouts = filled.experience.rollouts
    for sample in sample_records(filled):
        row, column = sample["group"], sample["rollout"]
        length = int(rollouts.answer_mask[row, column].sum())
        assert "".join(sample["tokens"]) == sample["completion"]
        assert sample["commit_steps"] == rollouts.commit_step[row, column, :length].tolist()
        assert max(sample["commit_steps"]) < sample["denoising_steps"]
        assert len(sample["tokens"]) == len(sample["log_probs"]) == length
    assert json.loads(json.dumps(sample_records(filled))) == [
        {**sample, "tokens": list(sample["tokens"])} for sample in sample_records(filled)
    ]


def test_samples_say_where_a_rollout_stands_in_its_group(filled: BufferFilled) -> None:
    total, weights = filled.experience.rewards.total, filled.experience.weights.values
    for sample in sample_records(filled):
        row, column = sample["group"], sample["rollout"]
        ahead = [other for other in total[row].tolist() if other > sample["reward"]]
        assert sample["rank"] == 1 + len(ahead)
        assert sample["group_size"] == weights.shape[1]
        assert sample["weight"] == pytest.approx(float(weights[row, column]))


def test_samples_have_no_texts_of_tokens_where_nobody_can_read_them(filled: BufferFilled) -> None:
    for sample in sample_records(replace(filled, decode=None)):
        assert "tokens" not in sample
        assert sample["completion"] is not None


def test_tokens_that_are_parts_of_a_character_have_its_text_together() -> None:
    pieces = {0: b"a", 1: b"\xe2\x86", 2: b"\x92", 3: b"b", 4: b""}

    def decode(rows: Tensor) -> list[str]:
        texts = [b"".join(pieces[token] for token in row) for row in rows.tolist()]
        return [text.decode(errors="replace") for text in texts]

    tokens = torch.tensor([0, 1, 2, 3, 1, 4])
    assert token_texts(decode, tokens) == ("a", "→", "", "b", "\ufffd", "")
    assert token_texts(decode, tokens[:0]) == ()
