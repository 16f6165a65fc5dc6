"""What every likelihood keeps to on rollouts of any shape."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.likelihoods.base import rollout_log_probs
from dmpo.records import Rollouts
from dmpo.registry import LIKELIHOODS
from tests.oracles.records import rollouts_of
from tests.oracles.tabular import LENGTH, TabularPolicy, random_table

POLICY = TabularPolicy(random_table(0))
VARIANTS = [(name, {}) for name in LIKELIHOODS.names()] + [
    ("elbo", {"masking": "bernoulli"}),
    ("elbo", {"masking": "quadrature", "num_views": 3}),
    ("elbo", {"estimator": "reference"}),
    ("coupled", {"weighting": "average", "include_full": False}),
    ("block", {"block_length": 3}),
    ("trace", {"merge": 2}),
    ("trace", {"steps": "sampled", "probability": "confidence"}),
    ("trace", {"steps": "sampled", "probability": "entropy", "num_views": 2}),
    ("trace", {"steps": "sampled", "correct": False}),
    ("trace", {"steps": "entropy", "num_views": 2}),
    ("left_to_right", {"num_views": 2}),
]
seeds = st.integers(0, 999)
few = settings(max_examples=8)
each_variant = pytest.mark.parametrize(("name", "chosen"), VARIANTS)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_rollouts(seed: int, length: int = LENGTH) -> Rollouts:
    """Return 2 × 3 rollouts of random tokens, steps and answer lengths, prompts padded."""
    shape, source = (2, 3, length), rng(seed)
    ends = torch.randint(1, length + 1, (2, 3, 1), generator=source)
    return rollouts_of(
        torch.zeros(2, 3, dtype=torch.long),
        torch.randint(0, 3, shape, generator=source),
        prompt_mask=torch.tensor([[False, True, True], [True, True, True]]),
        answer_mask=torch.arange(length) < ends,
        commit_step=torch.randint(0, 9, shape, generator=source),
        log_probs=-torch.rand(shape, generator=source),
        entropies=torch.rand(shape, generator=source),
    )


@each_variant
@few
@given(seed=seeds, length=st.integers(1, 9))
def test_tokens_behind_the_first_eos_are_never_scored(name, chosen, seed, length):
    rollouts = some_rollouts(seed, length)
    views = LIKELIHOODS.build(name, chosen).views(rollouts, rng(seed))
    counted = views.coefficient != 0
    assert not (counted & ~rollouts.answer_mask.unsqueeze(2)).any()
    assert not (counted & ~views.hidden).any()
    assert views.coefficient.isfinite().all()
    assert (views.coefficient >= 0).all()


@each_variant
@few
@given(seed=seeds)
def test_prompt_is_never_hidden_unless_a_setting_says_so(name, chosen, seed):
    views = LIKELIHOODS.build(name, chosen).views(some_rollouts(seed), rng(seed))
    assert views.prompt_hidden is None


@each_variant
@few
@given(seed=seeds)
def test_views_follow_the_generator_alone(name, chosen, seed):
    likelihood, rollouts = LIKELIHOODS.build(name, chosen), some_rollouts(seed)
    before = torch.get_rng_state()
    once, again = (likelihood.views(rollouts, rng(seed)) for _ in range(2))
    assert torch.equal(once.hidden, again.hidden)
    assert torch.equal(once.coefficient, again.coefficient)
    assert torch.equal(before, torch.get_rng_state())


@each_variant
@few
@given(seed=seeds)
def test_chunks_and_padding_of_the_prompt_change_nothing(name, chosen, seed):
    likelihood, rollouts = LIKELIHOODS.build(name, chosen), some_rollouts(seed)
    prompts = rollouts.prompts
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    padded = replace(
        prompts,
        tokens=torch.cat([nothing.long() + POLICY.pad_token_id, prompts.tokens], dim=1),
        attention_mask=torch.cat([nothing, prompts.attention_mask], dim=1),
    )
    values = []
    for given_rollouts, rows in (
        (rollouts, 6),
        (rollouts, 1),
        (replace(rollouts, prompts=padded), 6),
    ):
        views = likelihood.views(given_rollouts, rng(seed))
        scores = rollout_log_probs(POLICY, given_rollouts, views, rows_per_forward=rows)
        values.append(likelihood.combine(scores, views))
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


@each_variant
@few
@given(seed=seeds)
def test_log_ratio_is_the_difference_and_of_a_policy_with_itself_zero(name, chosen, seed):
    likelihood, rollouts = LIKELIHOODS.build(name, chosen), some_rollouts(seed)
    views = likelihood.views(rollouts, rng(seed))
    one, other = (
        rollout_log_probs(TabularPolicy(random_table(table)), rollouts, views, rows_per_forward=6)
        for table in (1, 2)
    )
    expected = likelihood.combine(one, views) - likelihood.combine(other, views)
    assert torch.allclose(likelihood.log_ratio(one, other, views), expected)
    assert not likelihood.log_ratio(one, one, views).any()
    error = likelihood.standard_error(one - other, views)
    assert error is None or bool((error.isfinite() & (error >= 0)).all())


FIXED = [name for name in LIKELIHOODS.names() if LIKELIHOODS.build(name).is_deterministic]


@pytest.mark.parametrize("name", FIXED)
@few
@given(seed=seeds)
def test_rows_in_another_order_are_the_same_rows(name, seed):
    likelihood = LIKELIHOODS.build(name)
    rollouts = some_rollouts(seed)
    turned = rollouts.groups([1, 0])
    once, moved = likelihood.views(rollouts, rng()), likelihood.views(turned, rng())
    assert torch.equal(once.hidden.flip(0), moved.hidden)
    assert torch.equal(once.coefficient.flip(0), moved.coefficient)
