from __future__ import annotations

import pytest
import torch

from dmpo.likelihoods.base import rollout_log_probs
from dmpo.likelihoods.path import PathConfig, PathLikelihood
from dmpo.registry import SAMPLERS
from dmpo.samplers.roar import RoarConfig
from tests.oracles.samplers import (
    chi_square_p_value,
    logits_of,
    random_order_probabilities,
    replay_path,
)
from tests.samplers.policies import RandomPolicy, make_prompts, seeded

BLIND = ["roar", "random"]


def sample(name, policy, *texts, num_rollouts=1, seed=0, **config):
    return SAMPLERS.build(name, config).sample(
        policy, make_prompts(policy, *texts), num_rollouts=num_rollouts, generator=seeded(seed)
    )


@pytest.mark.parametrize("name", BLIND)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_agree_with_the_exact_distribution(name, temperature):
    """Error of the first kind 1e-4 at the fixed seed."""
    policy = RandomPolicy(vocab_size=3)
    exact = random_order_probabilities(logits_of(policy, 2), [1, 2], 3, temperature=temperature)
    drawn = sample(name, policy, "1 2", num_rollouts=6000, gen_length=2, temperature=temperature)
    codes = drawn.completions[0, :, 0] * 3 + drawn.completions[0, :, 1]
    observed = torch.bincount(codes, minlength=9).tolist()
    assert sum(exact.values()) == pytest.approx(1, abs=1e-6)
    assert chi_square_p_value(observed, list(exact.values())) > 1e-4


@pytest.mark.parametrize("name", BLIND)
def test_order_within_each_block_is_uniform(name):
    """Error of the first kind 1e-4 for each of the two blocks at the fixed seed."""
    policy = RandomPolicy()
    drawn = sample(name, policy, "1", num_rollouts=3000, gen_length=6, block_length=3)
    for block in (0, 1):
        order = drawn.commit_step[0, :, 3 * block : 3 * block + 3] - 3 * block
        _, observed = (order @ torch.tensor([9, 3, 1])).unique(return_counts=True)
        assert chi_square_p_value(observed.tolist(), [1 / 6] * 6) > 1e-4


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("roar", {"block_length": 3}),
        ("roar", {"tokens_per_step": 4}),
        ("random", {"block_length": 3, "steps": 4}),
    ],
)
def test_log_probs_equal_a_replay_of_the_path(name, config, temperature):
    policy = RandomPolicy()
    texts = ["1 2 3", "4"]
    drawn = sample(
        name, policy, *texts, num_rollouts=2, gen_length=6, temperature=temperature, **config
    )
    for row, text in enumerate(texts):
        prompt = [int(token) for token in text.split()]
        for rollout in range(2):
            path = drawn.completions[row, rollout], drawn.commit_step[row, rollout]
            expected = replay_path(
                logits_of(policy, len(prompt)), prompt, *(t.tolist() for t in path), 6, temperature
            )
            recorded = drawn.log_probs[row, rollout].tolist()
            assert recorded == pytest.approx(expected, abs=1e-4)


def test_roar_draws_one_token_per_step_by_default():
    drawn = sample("roar", RandomPolicy(), "1", num_rollouts=2, gen_length=6)
    assert drawn.num_forwards == 6
    assert (drawn.commit_step.sort(-1).values == torch.arange(6)).all()


def test_roar_draws_k_tokens_a_step_and_what_is_left_in_the_last():
    assert RoarConfig(gen_length=14, block_length=7, tokens_per_step=3).schedule == (3, 3, 1)
    drawn = sample("roar", RandomPolicy(), "1", gen_length=14, block_length=7, tokens_per_step=3)
    assert drawn.num_forwards == 6
    assert drawn.commit_step.flatten().bincount().tolist() == [3, 3, 1, 3, 3, 1]


def test_random_follows_the_schedule():
    drawn = sample("random", RandomPolicy(), "1", gen_length=10, block_length=5, steps=4)
    assert drawn.commit_step.flatten().bincount().tolist() == [3, 2, 3, 2]


def test_blocks_are_filled_from_left_to_right():
    drawn = sample("roar", RandomPolicy(), "1", num_rollouts=8, gen_length=8, block_length=2)
    steps = drawn.commit_step[0].unflatten(-1, (4, 2)) // 2
    assert (steps == torch.arange(4)[:, None]).all()


def test_log_probs_are_absent_at_temperature_0_and_under_guidance():
    policy = RandomPolicy()
    assert sample("roar", policy, "1", gen_length=4, temperature=0).log_probs is None
    assert sample("random", policy, "1", gen_length=4, cfg_scale=0.5).log_probs is None
    assert sample("random", policy, "1", gen_length=4).log_probs is not None


def test_rows_have_orders_of_their_own():
    drawn = sample("roar", RandomPolicy(), "1", "2", num_rollouts=4, gen_length=8)
    assert drawn.commit_step.flatten(0, 1).unique(dim=0).shape[0] > 1


@pytest.mark.parametrize(
    ("name", "config"), [("roar", {"block_length": 3}), ("random", {"steps": 2})]
)
def test_log_probs_equal_the_path_likelihood(name, config):
    policy = RandomPolicy()
    drawn = sample(
        name, policy, "1 2 3", "4", num_rollouts=3, gen_length=6, temperature=0.5, **config
    )
    path = PathLikelihood(PathConfig(eos="canvas"))
    views = path.views(drawn, seeded())
    replayed = rollout_log_probs(policy, drawn, views, rows_per_forward=4)
    expected = drawn.log_probs.sum(-1).tolist()
    for row, sums in zip(path.combine(replayed, views).tolist(), expected, strict=True):
        assert row == pytest.approx(sums, abs=1e-4)
