"""Sampling with, and training of, converted decoders and masked language models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dmpo.errors import ConfigError
from dmpo.records import Example
from dmpo.registry import SAMPLERS
from tests.cli.command import dmpo
from tests.policies.mdlm_checkpoints import DECODERS, FAMILIES, load, write_checkpoint

SHORT = (
    *("--training.prompts_per_buffer", "2"),
    *("--training.rollouts_per_prompt", "2"),
    *("--training.warmup_steps", "0"),
    *("--evaluation.num_examples", "2"),
)


def sample(policy, *prompts, **settings):
    sampler = SAMPLERS.build("low_confidence", {"gen_length": 8, "steps": 8, **settings})
    examples = [Example(prompt=prompt) for prompt in prompts]
    with policy.evaluating():
        return sampler.sample(
            policy,
            policy.encode(examples),
            num_rollouts=1,
            generator=torch.Generator().manual_seed(0),
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_mdlm_padded_rows_are_sampled_as_if_alone(family, tmp_path):
    policy = load(write_checkpoint(tmp_path, family, spread=0.5))
    prompts = ("1+1=", "12+345=", "7=")
    together = sample(policy, *prompts, temperature=0.0).completions
    alone = [sample(policy, prompt, temperature=0.0).completions for prompt in prompts]
    assert torch.equal(together, torch.cat(alone))
    assert len(together.unique()) > 1


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "bert", "distilbert"])
def test_mdlm_token_told_to_see_everything_says_what_it_always_says(family, kernel, tmp_path):
    policy = load(write_checkpoint(tmp_path, family), attention=kernel)
    tokens = torch.arange(5, 15).unsqueeze(0)
    everywhere = torch.arange(10).unsqueeze(0)
    visible = torch.ones(1, 10, 10, dtype=torch.bool)
    with policy.evaluating():
        told = policy.attended_logits(tokens, everywhere, position_ids=everywhere, visible=visible)
        plain = policy.logits(tokens, visible[0, :1], everywhere)
    torch.testing.assert_close(told, plain)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("family", DECODERS)
def test_mdlm_cached_window_of_an_unchanged_sequence_changes_nothing(family, shifted, tmp_path):
    policy = load(write_checkpoint(tmp_path, family), shifted=shifted)
    tokens = torch.arange(20).view(2, 10)
    mask = torch.arange(10) >= torch.tensor([[0], [3]])
    everywhere = torch.arange(10).expand(2, 10)
    with policy.evaluating():
        plain = policy.logits(tokens, mask, everywhere)
        cache = policy.new_cache()
        filling = policy.cached_logits(tokens, mask, everywhere, cache=cache, window=(0, 10))
        window = policy.cached_logits(tokens, mask, everywhere[:, 5:8], cache=cache, window=(5, 8))
    torch.testing.assert_close(filling[mask], plain[mask])
    torch.testing.assert_close(window, plain[:, 5:8], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_mdlm_encoder_refuses_a_cache_of_keys_and_values(family, tmp_path):
    policy = load(write_checkpoint(tmp_path, family))
    with pytest.raises(ConfigError, match=rf"{family} keeps no keys and values; 'none'"):
        policy.new_cache()


def test_mdlm_decoder_with_windows_refuses_what_does_not_know_them(tmp_path):
    windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    policy = load(write_checkpoint(tmp_path, "qwen2", **windows))
    tokens = torch.arange(6).unsqueeze(0)
    with pytest.raises(ConfigError, match="qwen2 attends within windows"):
        policy.new_cache()
    with pytest.raises(ConfigError, match="qwen2 attends within windows"):
        policy.attended_logits(
            tokens, tokens, position_ids=tokens, visible=torch.ones(1, 6, 6, dtype=torch.bool)
        )


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("qwen3", ("--policy.lora", "{rank: 2}")),
        ("bert", ()),
    ],
)
def test_mdlm_is_trained_and_read_back(family, more, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(Path("model"), family)
    lines = [json.dumps({"prompt": f"{i}+1=", "answer": str(i + 1)}) for i in range(8)]
    Path("sums.jsonl").write_text("\n".join(lines) + "\n")
    task = ("--task", "file", "--task.path", "sums.jsonl", "--task.response_length", "4")
    policy = ("--policy", "mdlm", "--model", "model", *more)
    run = ("--steps", "1", "--output", "out")
    said = dmpo(capsys, "train", *task, *policy, *SHORT, *run)
    assert (said.code, said.err) == (0, "")
    assert family in said.out
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 1
    again = dmpo(capsys, "train", "--resume", "out", "--steps", "2")
    assert (again.code, again.err) == (0, "")
