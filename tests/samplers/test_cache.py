"""Caches in the block loop: a batch is its rows alone, whoever finishes first."""

from __future__ import annotations

import pytest
import torch

from dmpo.records import Example
from dmpo.registry import SAMPLERS
from tests.oracles.samplers import chi_square_p_value, random_order_probabilities
from tests.policies.builders import small_policy
from tests.samplers.policies import seeded

TEXTS = ("12345", "3", "97", "0001", "42+")
RULES = {
    "low_confidence": {"steps": 6},
    "threshold": {"threshold": 0.5},
    "factor": {"factor": 1.6},
    "entropy_bound": {"gamma": 2.5},
    "roar": {"tokens_per_step": 2},
    "wino": {"threshold": 0.4, "threshold_back": 0.3},
}


@pytest.fixture(scope="module")
def policy():
    """Return a random LLaDA whose confidence differs from row to row."""
    policy = small_policy(shape={"seed": 4})
    with torch.no_grad():
        policy.module.causal_lm.lm_head.weight.mul_(2.0)
    return policy


def sample(policy, texts, name, **settings):
    config = {"gen_length": 12, "block_length": 4, "temperature": 0, **RULES[name], **settings}
    prompts = policy.encode([Example(prompt=text) for text in texts])
    return SAMPLERS.build(name, config).sample(policy, prompts, num_rollouts=1, generator=seeded())


CASES = [(name, cache) for name in RULES for cache in ("none", "prefix", "dual") if name != "wino"]


@pytest.mark.parametrize(("name", "cache"), [c for c in CASES if c[0] != "roar"])
def test_batch_with_padding_equals_its_rows_alone(policy, name, cache):
    together = sample(policy, TEXTS, name, cache=cache)
    alone = [sample(policy, [text], name, cache=cache) for text in TEXTS]
    assert together.completions.equal(torch.cat([rollouts.completions for rollouts in alone]))


def test_wino_batch_with_padding_equals_its_rows_alone(policy):
    together = sample(policy, TEXTS, "wino")
    alone = [sample(policy, [text], "wino") for text in TEXTS]
    assert together.completions.equal(torch.cat([rollouts.completions for rollouts in alone]))


@pytest.mark.parametrize("name", ["threshold", "factor", "entropy_bound"])
def test_rows_of_such_a_batch_do_finish_at_different_steps(policy, name):
    steps = sample(policy, TEXTS, name).commit_step[:, 0, :4].amax(dim=1)
    assert steps.unique().numel() > 1


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_cached_steps_run_over_the_window_alone(policy, cache):
    before = policy.forward_tokens
    rollouts = sample(policy, ["7"], "low_confidence", steps=12, cache=cache)
    run = {
        "none": 12 * 13,
        "prefix": 3 * 13 + 3 * (12 + 8 + 4),
        "dual": 3 * 13 + 3 * (4 + 4 + 4),
    }[cache]
    assert policy.forward_tokens - before == run
    assert rollouts.num_forwards == 12


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_path_is_not_recorded_with_a_cache(policy, cache):
    rollouts = sample(policy, ["7"], "roar", cache=cache, temperature=1.0)
    assert rollouts.log_probs is None
    assert not SAMPLERS.build("roar", {"gen_length": 4, "cache": cache}).records_path


@pytest.mark.parametrize(("name", "cache"), CASES)
def test_one_step_per_block_is_the_same_with_and_without_a_cache(policy, name, cache):
    """The first step of a block runs over everything, so a cache changes nothing there."""
    settings = {
        "low_confidence": {"steps": 3},
        "threshold": {"threshold": 1e-6},
        "factor": {"factor": 9.0},
        "entropy_bound": {"gamma": 1e4},
        "roar": {"tokens_per_step": 4},
    }[name]
    with_cache = sample(policy, TEXTS, name, cache=cache, **settings)
    assert with_cache.num_forwards == 3
    assert with_cache.completions.equal(sample(policy, TEXTS, name, **settings).completions)


def remembering(policy, prompt_length, window):
    """Return logits of single rows as a cache gives them that saw both tokens hidden."""

    def logits(tokens):
        row = torch.tensor([tokens])
        mask, everywhere = torch.ones_like(row).bool(), torch.arange(len(tokens))[None]
        hidden = row.clone()
        hidden[:, prompt_length:] = policy.mask_token_id
        cache, found = policy.new_cache(), torch.full((len(tokens), policy.vocab_size), torch.nan)
        with policy.evaluating():
            found[:] = policy.cached_logits(hidden, mask, everywhere, cache=cache, window=window)[0]
            if not row.equal(hidden):
                inside = everywhere[:, slice(*window)]
                found[slice(*window)] = policy.cached_logits(
                    row, mask, inside, cache=cache, window=window
                )[0]
        return found

    return logits


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_with_a_cache_agree_with_the_exact_distribution(cache, temperature):
    """Error of the first kind 1e-4 at the fixed seed; draws of the mask token are set aside."""
    policy = small_policy(shape={"characters": "abc", "seed": 1})
    with torch.no_grad():
        policy.module.causal_lm.lm_head.weight.mul_(3.0)
    prompt = policy.encode([Example(prompt="ab")])
    exact = random_order_probabilities(
        remembering(policy, 2, (2, 4)),
        prompt.tokens[0].tolist(),
        policy.mask_token_id,
        temperature=temperature,
    )
    config = {"gen_length": 2, "temperature": temperature, "cache": cache}
    drawn = (
        SAMPLERS.build("roar", config)
        .sample(policy, prompt, num_rollouts=4000, generator=seeded())
        .completions[0]
    )
    drawn = drawn[(drawn != policy.mask_token_id).all(dim=1)]
    codes = drawn[:, 0] * policy.mask_token_id + drawn[:, 1]
    observed = torch.bincount(codes, minlength=len(exact)).tolist()
    total = sum(exact.values())
    assert chi_square_p_value(observed, [p / total for p in exact.values()]) > 1e-4
