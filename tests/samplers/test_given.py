from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dmpo.errors import ConfigError, DataError
from dmpo.records import Example, Rollouts
from dmpo.registry import POLICIES, SAMPLERS
from tests.cli.command import assert_one_line, dmpo

SCRATCH = {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 24}
POLICY = POLICIES.build("llada", {"scratch": SCRATCH})


def sampled(examples: list[Example], *, num_rollouts: int = 2, **settings) -> Rollouts:
    sampler = SAMPLERS.build("given", {"gen_length": 4, **settings})
    return sampler.sample(
        POLICY,
        POLICY.encode(examples),
        num_rollouts=num_rollouts,
        generator=torch.Generator().manual_seed(0),
    )


def pair(chosen: object = "12", rejected: object = "3") -> Example:
    return Example(prompt="1+2=", columns={"chosen": chosen, "rejected": rejected, "n": 1})


def test_completions_are_the_columns_on_a_canvas_filled_up_with_eos() -> None:
    before = POLICY.forward_tokens
    rollouts = sampled([pair(), pair("4444", "")])
    assert rollouts.texts == (("12", "3"), ("4444", ""))
    assert rollouts.answer_mask.sum(-1).tolist() == [[3, 2], [4, 1]]
    assert (rollouts.completions[0, 1, 1:] == POLICY.eos_token_id).all()
    assert rollouts.log_probs is None
    assert not rollouts.commit_step.any()
    assert rollouts.num_forwards == 0
    assert POLICY.forward_tokens == before


def test_columns_are_taken_in_the_order_they_are_named_in() -> None:
    rollouts = sampled([pair()], columns=["rejected", "chosen"])
    assert rollouts.texts == (("3", "12"),)


def test_number_of_rollouts_must_be_that_of_the_columns() -> None:
    with pytest.raises(ConfigError, match=r"training\.rollouts_per_prompt: 8 .* set it to 2"):
        sampled([pair()], num_rollouts=8)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            Example(prompt="1+2=", columns={"chosen": "3", "rejectd": "4"}),
            r"prompt 1 \('1\+2='\) has no column 'rejected'; it has 'chosen', 'rejectd'. "
            "Did you mean 'rejectd'",
        ),
        (pair(rejected=3), r"prompt 1 .* column 'rejected' must be text, found 3"),
        (pair(chosen="12345"), r"prompt 1, column 'chosen': 5 tokens do not fit a canvas of 4"),
    ],
)
def test_completion_that_is_none_is_named_with_its_prompt(example: Example, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sampled([pair(), example])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.5}, "nothing is drawn"),
        ({"columns": ["a", "a"]}, "named twice"),
        ({"columns": []}, "columns"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SAMPLERS.build("given", {"gen_length": 4, **settings})


PAIRS = (
    *("--set", "policy.scratch={d_model: 16, n_layers: 1, n_heads: 2, mlp_hidden_size: 24}"),
    *("--task", "file", "--task.path", "pairs.jsonl", "--task.response_length", "4"),
    *("--task.answer_column", "chosen", "--sampler", "given", "--reward", "given_order"),
    *("--objective", "vrpo", "--training.warmup_steps", "0", "--evaluation.num_examples", "2"),
    *("--training.prompts_per_buffer", "4", "--training.updates_per_buffer", "2"),
)


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{n}=", "chosen": str(n), "rejected": "9"} for n in range(20, 60)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Path("pairs.jsonl")


@pytest.mark.usefixtures("pairs")
def test_preference_file_trains_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    learn = ("--training.rollouts_per_prompt", "2", "--training.learning_rate", "0.003")
    said = dmpo(capsys, "train", *PAIRS, *learn, "--steps", "16", "--output", "out")
    assert (said.code, said.err) == (0, "")
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    losses = [line["objective/preference_loss"] for line in lines]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses[-1] < 0.5
    assert lines[-1]["objective/preference_accuracy"] == 1
    assert lines[-1]["tokens/rollout"] == 0


@pytest.mark.usefixtures("pairs")
def test_wrong_number_of_rollouts_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = dmpo(capsys, "train", *PAIRS, "--training.rollouts_per_prompt", "4", "--output", "out")
    assert_one_line(said, 2, "training.rollouts_per_prompt: 4 rollouts are asked for")
    assert not Path("out").exists()
