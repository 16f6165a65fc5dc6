from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.samplers.low_confidence import (
    LowConfidenceConfig,
    LowConfidenceSampler,
    most_confident,
)
from dmpo.samplers.schedule import tokens_per_step
from tests.oracles.samplers import (
    chi_square_p_value,
    counts_per_step,
    greedy_low_confidence,
    logits_of,
    low_confidence_probabilities,
)
from tests.samplers.policies import RandomPolicy, make_prompts, seeded

TEXTS = ("1 2 3 4", "5", "2 2", "4 3 1")


def sample(policy, *texts, num_rollouts=1, seed=0, **config):
    sampler = LowConfidenceSampler(LowConfidenceConfig(**config))
    return sampler.sample(
        policy, make_prompts(policy, *texts), num_rollouts=num_rollouts, generator=seeded(seed)
    )


def test_tokens_per_step_puts_the_remainder_first():
    assert tokens_per_step(12, 5) == (3, 3, 2, 2, 2)
    assert tokens_per_step(8, 8) == (1,) * 8
    assert tokens_per_step(7, 1) == (7,)


@given(num_tokens=st.integers(1, 64), data=st.data())
def test_tokens_per_step_deals_tokens_out_in_turn(num_tokens, data):
    num_steps = data.draw(st.integers(1, num_tokens))
    assert list(tokens_per_step(num_tokens, num_steps)) == counts_per_step(num_tokens, num_steps)


@settings(max_examples=10)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(8, 8, 8), (8, 4, 6), (12, 6, 4), (6, 2, 3), (9, 9, 4)]),
    cfg_scale=st.sampled_from([0.0, 0.7]),
)
def test_greedy_tokens_equal_the_written_out_sampler(seed, shape, cfg_scale):
    gen_length, block_length, steps = shape
    policy = RandomPolicy(seed=seed)
    lengths = {"gen_length": gen_length, "block_length": block_length, "steps": steps}
    rollouts = sample(policy, *TEXTS, temperature=0, cfg_scale=cfg_scale, **lengths)
    for row, text in enumerate(TEXTS):
        prompt = [int(token) for token in text.split()]
        logits = logits_of(policy, len(prompt), cfg_scale)
        tokens, steps_taken = greedy_low_confidence(logits, prompt, 6, **lengths)
        assert rollouts.completions[row, 0].tolist() == tokens
        assert rollouts.commit_step[row, 0].tolist() == steps_taken


def test_batch_order_and_padding_change_nothing_at_temperature_0():
    policy = RandomPolicy()
    config = {"gen_length": 8, "block_length": 4, "temperature": 0}
    batch = sample(policy, *TEXTS, **config)
    backwards = sample(policy, *reversed(TEXTS), **config)
    alone = torch.cat([sample(policy, text, **config).completions for text in TEXTS])
    assert batch.completions.equal(backwards.completions.flip(0))
    assert batch.completions.equal(alone)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_frequencies_agree_with_the_exact_distribution(temperature):
    """Error of the first kind 1e-4 at the fixed seed."""
    policy = RandomPolicy(vocab_size=3)
    exact = low_confidence_probabilities(logits_of(policy, 2), [1, 2], 3, temperature=temperature)
    drawn = sample(policy, "1 2", num_rollouts=6000, gen_length=2, temperature=temperature)
    codes = drawn.completions[0, :, 0] * 3 + drawn.completions[0, :, 1]
    observed = torch.bincount(codes, minlength=9).tolist()
    assert sum(exact.values()) == pytest.approx(1, abs=1e-6)
    assert chi_square_p_value(observed, list(exact.values())) > 1e-4


def test_confidence_is_read_at_temperature_1():
    """Confidence at the sampling temperature would give another distribution."""
    policy = RandomPolicy(vocab_size=3, seed=11)
    tempered = low_confidence_probabilities(
        logits_of(policy, 2), [1, 2], 3, temperature=3.0, confidence_temperature=3.0
    )
    exact = low_confidence_probabilities(logits_of(policy, 2), [1, 2], 3, temperature=3.0)
    drawn = sample(policy, "1 2", num_rollouts=6000, gen_length=2, temperature=3.0)
    codes = drawn.completions[0, :, 0] * 3 + drawn.completions[0, :, 1]
    observed = torch.bincount(codes, minlength=9).tolist()
    assert chi_square_p_value(observed, list(exact.values())) > 1e-4
    assert chi_square_p_value(observed, list(tempered.values())) < 1e-6


def test_log_probs_are_absent_because_positions_depend_on_tokens():
    assert sample(RandomPolicy(), "1", gen_length=4, temperature=1.0).log_probs is None


def test_guidance_runs_a_doubled_batch_with_the_prompt_masked():
    policy = RandomPolicy()
    rollouts = sample(policy, "1 2", "3", gen_length=4, cfg_scale=0.5)
    tokens, attention_mask, _ = policy.asked[0]
    assert rollouts.num_forwards == len(policy.asked) == 4
    assert tokens.shape[0] == 4
    assert (tokens[2:] == policy.mask_token_id).all()
    assert attention_mask[2:].equal(attention_mask[:2])


def test_most_confident_ignores_surplus_slots():
    confidence = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.99]])
    valid = torch.tensor([[True, True, True], [True, False, False]])
    chosen = most_confident(confidence, valid, 2)
    assert chosen.tolist() == [[False, True, True], [True, False, False]]
