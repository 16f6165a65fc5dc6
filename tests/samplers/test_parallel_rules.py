"""The rules that reveal as many tokens as the model is sure of, against the written-out ones."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.errors import ConfigError
from dmpo.registry import SAMPLERS
from dmpo.samplers.block_loop import Proposal
from dmpo.samplers.entropy_bound import EntropyBoundRule
from dmpo.samplers.factor import FactorRule
from dmpo.samplers.peaked import PeakedRule
from tests.oracles.samplers import (
    chi_square_p_value,
    entropy_choice,
    factor_choice,
    greedy_choice,
    greedy_wino,
    logits_of,
    parallel_probabilities,
    replay_path,
    threshold_choice,
)
from tests.samplers.policies import RandomPolicy, make_prompts, seeded

TEXTS = ("1 2 3 4", "5", "2 2", "4 3 1")
SHAPES = [(8, 8), (8, 4), (6, 2), (9, 3)]
CHOICES = {"threshold": threshold_choice, "factor": factor_choice, "entropy_bound": entropy_choice}
SETTING = {"threshold": "threshold", "factor": "factor", "entropy_bound": "gamma"}


def sample(name, policy, *texts, num_rollouts=1, seed=0, **config):
    return SAMPLERS.build(name, config).sample(
        policy, make_prompts(policy, *texts), num_rollouts=num_rollouts, generator=seeded(seed)
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from(SHAPES),
    rule=st.one_of(
        st.tuples(st.just("threshold"), st.sampled_from([0.3, 0.5, 0.9])),
        st.tuples(st.just("factor"), st.sampled_from([0.5, 1.0, 2.0])),
        st.tuples(st.just("entropy_bound"), st.sampled_from([0.0, 0.5, 1.5, 4.0])),
    ),
    stop_at_eos=st.booleans(),
)
def test_greedy_tokens_equal_the_written_out_sampler(seed, shape, rule, stop_at_eos):
    (gen_length, block_length), (name, value) = shape, rule
    policy = RandomPolicy(seed=seed)
    lengths = {"gen_length": gen_length, "block_length": block_length}
    config = {**lengths, "temperature": 0, "stop_at_eos": stop_at_eos, SETTING[name]: value}
    rollouts = sample(name, policy, *TEXTS, **config)
    for row, text in enumerate(TEXTS):
        prompt = [int(token) for token in text.split()]
        tokens, num_forwards = greedy_choice(
            logits_of(policy, len(prompt)),
            prompt,
            policy.mask_token_id,
            **lengths,
            choose=CHOICES[name](value),
            eos_token_id=policy.eos_token_id if stop_at_eos else None,
        )
        assert rollouts.completions[row, 0].tolist() == tokens
        assert sample(name, policy, text, **config).num_forwards == num_forwards


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(8, 8), (12, 6), (6, 2)]),
    thresholds=st.sampled_from([(0.6, 0.9), (0.3, 0.5), (0.2, 0.9), (0.9, 0.1)]),
)
def test_wino_in_a_batch_equals_the_written_out_sampler(seed, shape, thresholds):
    policy = RandomPolicy(seed=seed)
    config = {
        "gen_length": shape[0],
        "block_length": shape[1],
        "threshold": thresholds[0],
        "threshold_back": thresholds[1],
    }
    rollouts = sample("wino", policy, *TEXTS, temperature=0, **config)
    for row, text in enumerate(TEXTS):
        prompt = [int(token) for token in text.split()]
        tokens, num_forwards = greedy_wino(policy, prompt, **config)
        assert rollouts.completions[row, 0].tolist() == tokens
        alone = sample("wino", policy, text, temperature=0, **config)
        assert alone.num_forwards == num_forwards


def test_wino_revokes_fewer_tokens_than_it_drafted_the_step_before():
    policy, hidden = RandomPolicy(seed=3, scale=1.0), []
    config = {"gen_length": 12, "temperature": 0, "threshold": 0.2, "threshold_back": 0.9}
    SAMPLERS.build("wino", config).watched_sample(
        policy,
        make_prompts(policy, *TEXTS),
        num_rollouts=1,
        generator=seeded(),
        on_step=lambda shot: hidden.append(shot.hidden),
    )
    pairs = list(itertools.pairwise(hidden))
    drafted = [(before & ~after).sum(1) for before, after in pairs]
    revoked = [(after & ~before).sum(1) for before, after in pairs]
    assert sum(int(count.sum()) for count in revoked) > 0
    for now, before in zip(revoked[1:], drafted[:-1], strict=True):
        assert (now <= (before - 1).clamp(min=0)).all()


def above(threshold):
    def reveals(probabilities, drawn):
        sure = {d for d in (0, 1) if probabilities[d, drawn[d]] >= threshold}
        return sure or {0 if probabilities[0, drawn[0]] > probabilities[1, drawn[1]] else 1}

    return reveals


def within(gamma):
    def reveals(probabilities, drawn):
        entropy = -torch.xlogy(probabilities, probabilities).sum(-1)
        return {0, 1} if entropy.min() <= gamma else {int(entropy.argmin())}

    return reveals


def most_peaked(probabilities, drawn):
    return {int(probabilities.amax(-1).argmax())}


@pytest.mark.parametrize(
    ("name", "config", "reveals"),
    [
        ("threshold", {"threshold": 0.5}, above(0.5)),
        ("factor", {"factor": 1.5}, above(0.5)),  # 1 - 1.5 / (2 + 1)
        ("wino", {"threshold": 0.5}, above(0.5)),  # of two tokens none is ever revoked
        ("entropy_bound", {"gamma": 2.0}, within(2.0)),
        ("entropy_bound", {"gamma": 0.0}, within(0.0)),
        ("peaked", {}, most_peaked),
        ("peaked", {"steps": 1}, within(torch.inf)),
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_frequencies_agree_with_the_exact_distribution(name, config, reveals, temperature):
    """Error of the first kind 1e-4 at the fixed seed."""
    policy = RandomPolicy(vocab_size=3)
    exact = parallel_probabilities(
        logits_of(policy, 2), [1, 2], 3, temperature=temperature, reveals=reveals
    )
    drawn = sample(
        name, policy, "1 2", num_rollouts=6000, gen_length=2, temperature=temperature, **config
    )
    codes = drawn.completions[0, :, 0] * 3 + drawn.completions[0, :, 1]
    observed = torch.bincount(codes, minlength=9).tolist()
    assert sum(exact.values()) == pytest.approx(1, abs=1e-6)
    assert chi_square_p_value(observed, list(exact.values())) > 1e-4


def test_peaked_compares_probabilities_not_logits():
    logits = torch.tensor([[[5.0, 5.0], [0.0, -3.0], [1.0, 0.0]]])
    nothing, everything = torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool)
    proposal = Proposal(
        logits=logits,
        tokens=nothing,
        current=nothing,
        valid=everything,
        hidden=everything,
        newly_revealed=nothing[:, 0],
        step=0,
    )
    assert PeakedRule((1,)).reveal(proposal).tolist() == [[False, True, False]]
    assert PeakedRule((2,)).reveal(proposal).tolist() == [[False, True, True]]


@pytest.mark.parametrize(
    ("name", "config"), [("entropy_bound", {"gamma": 1.5}), ("peaked", {"steps": 3})]
)
def test_orders_that_are_chosen_before_the_draw_record_the_path(name, config):
    policy = RandomPolicy()
    rollouts = sample(name, policy, "1 2", num_rollouts=4, gen_length=6, temperature=0.7, **config)
    assert rollouts.num_forwards < 6
    for row in range(4):
        replayed = replay_path(
            logits_of(policy, 2),
            [1, 2],
            rollouts.completions[0, row].tolist(),
            rollouts.commit_step[0, row].tolist(),
            policy.mask_token_id,
            0.7,
        )
        assert rollouts.log_probs[0, row].tolist() == pytest.approx(replayed, abs=1e-4)


@pytest.mark.parametrize("name", ["threshold", "factor", "wino"])
def test_rules_that_look_at_the_tokens_record_no_path(name):
    policy = RandomPolicy()
    assert sample(name, policy, "1", gen_length=4).log_probs is None
    assert not SAMPLERS.build(name, {"gen_length": 4}).records_path


def test_factor_ignores_surplus_slots():
    confidence = torch.tensor([[0.1, 0.9, 0.8], [0.3, 0.99, 0.99]])
    valid = torch.tensor([[True, True, True], [True, False, False]])
    chosen = FactorRule(1.0).safe(confidence, valid)
    assert chosen.tolist() == [[False, True, True], [True, False, False]]


def test_entropy_bound_of_0_reveals_one_token_per_step():
    assert sample("entropy_bound", RandomPolicy(), "1", gen_length=5, gamma=0).num_forwards == 5
    assert not EntropyBoundRule.sees_tokens


BAD_SETTINGS = [
    ("threshold", {"threshold": 0}, r"sampler\.threshold: .* given 0"),
    ("threshold", {"threshold": 1.5}, r"sampler\.threshold: .* given 1\.5"),
    ("factor", {"factor": -1}, r"sampler\.factor: .* given -1"),
    ("entropy_bound", {"gamma": -0.1}, r"sampler\.gamma: .* given -0\.1"),
    ("wino", {"cache": "dual"}, "cache dual cannot be combined with wino"),
    ("low_confidence", {"cache": "both"}, r"sampler\.cache: .*none.*prefix.*dual"),
    ("low_confidence", {"cache": "dual", "cfg_scale": 1}, "cache dual cannot be combined with cfg"),
]


@pytest.mark.parametrize(("name", "settings", "message"), BAD_SETTINGS)
def test_bad_settings_are_refused_in_one_line(name, settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        SAMPLERS.config(name, {"gen_length": 8, **settings})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_policy_without_keys_and_values_refuses_a_cache(cache):
    with pytest.raises(ConfigError, match=r"sampler\.cache: RandomPolicy keeps no keys"):
        sample("threshold", RandomPolicy(), "1", gen_length=4, cache=cache)
