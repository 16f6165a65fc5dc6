from __future__ import annotations

import json

import pytest
import torch
from dmpo_dream.sampler import (
    DreamSampler,
    DreamSamplerConfig,
    negative_entropy,
    probability_margin,
    tokens_per_step,
)
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file

from dmpo.records import Example, Prompts
from dmpo.registry import SAMPLERS

ALGORITHMS = ("maskgit_plus", "topk_margin", "entropy")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def prompts_of(tokens):
    examples = tuple(Example(prompt="") for _ in tokens)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    return Prompts(examples=examples, tokens=tokens, attention_mask=mask)


def official_counts(history, prompt_length, mask_id):
    """Return how many tokens each step of the official run revealed in a row."""
    hidden = (history[:, 0, prompt_length:] == mask_id).sum(dim=1).tolist()
    total = history.shape[2] - prompt_length
    return [a - b for a, b in zip([total, *hidden], hidden, strict=False)]


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_sampler_equals_the_official_one_token_for_token(official, official_files, alg):
    cases = json.loads((official_files / "forward.json").read_text())["generate"]
    case = next(case for case in cases if case["name"] == alg)
    tensors = load_file(official_files / "generate.safetensors")
    prompt, history = tensors[f"{alg}.prompt_ids"], tensors[f"{alg}.history"]
    length = case["max_new_tokens"]
    sampler = DreamSampler(
        DreamSamplerConfig(
            alg=alg, gen_length=length, steps=case["steps"], eps=case["eps"], temperature=0
        )
    )
    seen = []
    rollouts = sampler.watched_sample(
        official,
        prompts_of(prompt),
        num_rollouts=1,
        generator=seeded(),
        on_step=lambda snapshot: seen.append(snapshot.completions.clone()),
    )
    assert rollouts.completions[:, 0].equal(tensors[f"{alg}.output_ids"][:, -length:])
    counts = official_counts(history, prompt.shape[1], official.mask_token_id)
    revealing = [step for step, count in enumerate(counts) if count]
    assert torch.stack(seen[1:]).equal(history[revealing, :, prompt.shape[1] :])
    # The official sampler also runs the model in steps that reveal nothing.
    assert len(counts) == case["forward_calls"]
    assert rollouts.num_forwards == case["forward_calls"] - counts.count(0)


def test_schedule_rounds_down_and_ends_with_the_rest():
    # 10 tokens, eps 0.5, 3 steps: t = 1, 5/6, 2/3, 1/2: ⌊10/6⌋ = 1, ⌊9/5⌋ = 1, then 8.
    assert tokens_per_step(10, 3, 0.5) == (1, 1, 8)


def test_schedule_leaves_out_steps_that_reveal_nothing():
    # ⌊12·(1 − s/t)⌋ of the first of 12 steps is ⌊12·0.999/12⌋ = 0.
    assert tokens_per_step(12, 12, 0.001) == (1,) * 10 + (2,)
    assert tokens_per_step(2, 512, 0.001) == (2,)


@given(st.integers(1, 300), st.integers(1, 600), st.floats(1e-4, 0.9))
def test_schedule_reveals_everything_in_no_more_steps_than_asked(num_tokens, num_steps, eps):
    counts = tokens_per_step(num_tokens, num_steps, eps)
    assert sum(counts) == num_tokens
    assert min(counts) >= 1
    assert len(counts) <= num_steps


def test_certainty_by_hand():
    log_probs = torch.tensor([[[0.5, 0.25, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0]]]).log()
    assert negative_entropy(log_probs)[0].tolist() == pytest.approx([-1.0397208, 0.0])
    assert probability_margin(log_probs)[0].tolist() == pytest.approx([0.25, 1.0])


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_more_steps_than_tokens_end(small, alg):
    sampler = DreamSampler(DreamSamplerConfig(alg=alg, gen_length=6, steps=64, temperature=0.7))
    rollouts = sampler.sample(
        small(), prompts_of(torch.tensor([[3, 4]])), num_rollouts=2, generator=seeded()
    )
    assert rollouts.num_forwards == len(tokens_per_step(6, 64, 0.001)) <= 6


def test_blocks_are_filled_from_left_to_right(small):
    sampler = DreamSampler(DreamSamplerConfig(gen_length=8, block_length=4, steps=4))
    rollouts = sampler.sample(
        small(), prompts_of(torch.tensor([[3, 4]])), num_rollouts=2, generator=seeded()
    )
    steps = rollouts.commit_step[0]
    assert (steps[:, :4].amax(1) < steps[:, 4:].amin(1)).all()
    assert rollouts.num_forwards == 2 * len(tokens_per_step(4, 2, 0.001))


@pytest.mark.parametrize(("alg", "recorded"), [("maskgit_plus", 0), ("entropy", 1)])
def test_path_is_recorded_where_drawn_tokens_do_not_decide(small, alg, recorded):
    sampler = DreamSampler(DreamSamplerConfig(alg=alg, gen_length=6, steps=3, temperature=0.8))
    rollouts = sampler.sample(
        small(), prompts_of(torch.tensor([[3, 4]])), num_rollouts=3, generator=seeded()
    )
    assert (rollouts.log_probs is not None) == sampler.records_path == bool(recorded)


def test_recorded_path_is_that_of_the_policy_replayed(small):
    policy, temperature = small(), 0.8
    config = DreamSamplerConfig(gen_length=6, steps=3, temperature=temperature)
    prompt = torch.tensor([[3, 4]])
    rollouts = DreamSampler(config).sample(
        policy, prompts_of(prompt), num_rollouts=2, generator=seeded()
    )
    rows = torch.cat([prompt.expand(2, -1), rollouts.completions[0]], dim=1)
    steps = torch.cat([torch.full((2, 2), -1), rollouts.commit_step[0]], dim=1)
    total = torch.zeros(rows.shape)
    for step in range(rollouts.num_forwards):
        noisy = policy.corrupt(rows, steps >= step)
        mask = torch.ones_like(rows, dtype=torch.bool)
        with policy.evaluating():
            total += policy.token_logprobs(
                noisy, mask, rows, steps == step, temperature=temperature
            )
    torch.testing.assert_close(rollouts.log_probs[0], total[:, 2:], atol=1e-5, rtol=1e-4)


def test_certainty_is_that_of_the_tempered_distribution(small):
    # Two positions whose order by entropy turns over with the temperature.
    from dmpo_dream.sampler import PeakedRule

    from dmpo.samplers.block_loop import Proposal

    flat_tail = torch.tensor([4.0, 0.0] + [0.0] * 98)
    two_peaks = torch.tensor([4.0, 4.0] + [-20.0] * 98)
    logits = torch.stack([flat_tail, two_peaks])[None]
    zeros = torch.zeros(1, 2, dtype=torch.long)
    proposal = Proposal(
        logits=logits,
        tokens=zeros,
        current=zeros,
        valid=zeros == 0,
        hidden=zeros == 0,
        newly_revealed=zeros[:, 0],
        step=0,
    )
    chosen = [
        PeakedRule((1,), temperature, negative_entropy).reveal(proposal).tolist()
        for temperature in (0, 0.25)
    ]
    assert chosen == [[[False, True]], [[True, False]]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alg": "origin"}, "alg"),
        ({"eps": 0.0}, "eps"),
        ({"eps": 1.0}, "eps"),
        ({"steps": 0}, "steps"),
        ({"steps": 5, "block_length": 4}, "steps 5 cannot be spread over 2 blocks"),
        ({"block_length": 3}, "block_length 3 does not divide gen_length 8"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        DreamSamplerConfig(gen_length=8, **settings)


def test_sampler_is_registered():
    assert SAMPLERS.load("dream") is DreamSampler
