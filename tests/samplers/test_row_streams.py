"""What is drawn for a prompt is the prompt's own: neighbours, order and portions change nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Prompts, Rollouts
from dmpo.registry import SAMPLERS
from dmpo.samplers.base import Sampler
from dmpo.training.randomness import group_generator
from dmpo.training.rollout import sample_rollouts
from tests.policies.builders import small_policy

TEXTS = ("12345", "3", "97", "0001", "42+", "7", "3")
"""Several lengths, so that rows are padded; two are the same text."""
SAMPLERS_DRAWN = {
    "roar": {"tokens_per_step": 2},
    "random": {"tokens_per_step": 2},
    "low_confidence": {"steps": 6},
    "threshold": {"threshold": 0.3},
    "entropy_bound": {"gamma": 2.5},
}
NUM_ROLLOUTS = 3

everyone = range(len(TEXTS))
portions = st.lists(st.sampled_from(everyone), min_size=1, unique=True)


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    """Return a random LLaDA whose confidence differs from row to row."""
    policy = small_policy(shape={"seed": 4})
    with torch.no_grad():
        policy.module.causal_lm.lm_head.weight.mul_(2.0)
    return policy


def prompts_of(policy: DiffusionPolicy, places: Sequence[int]) -> Prompts:
    prompts = policy.encode([Example(prompt=TEXTS[place]) for place in places])
    return replace(prompts, index=torch.tensor(places))


def sampler_of(name: str, **changes: Any) -> Sampler:
    config = {"gen_length": 12, "block_length": 4, "temperature": 0.8}
    return SAMPLERS.build(name, {**config, **SAMPLERS_DRAWN[name], **changes})


def rollouts_of(
    policy: DiffusionPolicy,
    sampler: Sampler,
    places: Sequence[int],
    *,
    rows_per_forward: int = 1000,
    step: int = 0,
    on_portion: Callable[[Rollouts], None] | None = None,
) -> Rollouts:
    return sample_rollouts(
        policy,
        sampler,
        prompts_of(policy, places),
        num_rollouts=NUM_ROLLOUTS,
        rows_per_forward=rows_per_forward,
        generator=functools.partial(group_generator, 0, step, "rollout"),
        on_portion=on_portion,
    )


def assert_same_draws(found: Rollouts, expected: Rollouts) -> None:
    """Assert that groups are the same: tokens bit for bit, their logits but for rounding."""
    assert found.completions.equal(expected.completions)
    assert found.texts == expected.texts
    # Passes are counted over the rows that run together, so only their order is a row's own.
    order = [each.commit_step.argsort(dim=-1, stable=True) for each in (found, expected)]
    assert order[0].equal(order[1])
    assert (found.log_probs is None) == (expected.log_probs is None)
    for name in ("log_probs", "entropies"):
        if getattr(found, name) is not None:
            one, other = getattr(found, name), getattr(expected, name)
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS_DRAWN)
@settings(max_examples=6)
@given(places=portions, rows=st.integers(NUM_ROLLOUTS, 4 * NUM_ROLLOUTS))
def test_rollouts_of_a_prompt_do_not_depend_on_those_beside_it(
    policy: DiffusionPolicy, name: str, places: list[int], rows: int
) -> None:
    sampler = sampler_of(name)
    whole = rollouts_of(policy, sampler, everyone)
    assert_same_draws(
        rollouts_of(policy, sampler, places, rows_per_forward=rows), whole.groups(places)
    )


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("name", ["roar", "threshold"])
def test_neither_do_they_where_keys_are_kept(
    policy: DiffusionPolicy, name: str, cache: str
) -> None:
    sampler = sampler_of(name, cache=cache)
    whole = rollouts_of(policy, sampler, everyone)
    one_by_one = rollouts_of(policy, sampler, everyone, rows_per_forward=NUM_ROLLOUTS)
    assert_same_draws(one_by_one, whole)


@pytest.mark.parametrize("name", SAMPLERS_DRAWN)
def test_neither_do_they_where_rows_stop_at_their_eos(policy: DiffusionPolicy, name: str) -> None:
    sampler = sampler_of(name, stop_at_eos=True, temperature=1.5)
    whole = rollouts_of(policy, sampler, everyone)
    assert_same_draws(rollouts_of(policy, sampler, everyone, rows_per_forward=NUM_ROLLOUTS), whole)
    assert not whole.answer_mask.all()


@pytest.mark.parametrize("name", SAMPLERS_DRAWN)
def test_rollouts_come_in_the_order_of_their_prompts(policy: DiffusionPolicy, name: str) -> None:
    places = [0, 3, 1, 5, 2]
    rollouts = rollouts_of(policy, sampler_of(name), places, rows_per_forward=NUM_ROLLOUTS)
    assert [example.prompt for example in rollouts.prompts.examples] == [TEXTS[p] for p in places]
    assert rollouts.prompts.index is not None
    assert rollouts.prompts.index.tolist() == places
    expected = prompts_of(policy, places)
    assert rollouts.prompts.attention_mask.equal(expected.attention_mask)
    real = expected.attention_mask
    assert rollouts.prompts.tokens[real].equal(expected.tokens[real])


@pytest.mark.parametrize("name", SAMPLERS_DRAWN)
def test_rows_groups_and_steps_have_draws_of_their_own(policy: DiffusionPolicy, name: str) -> None:
    # Places 1 and 6 hold the same text.
    first = rollouts_of(policy, sampler_of(name), [1, 6])
    later = rollouts_of(policy, sampler_of(name), [1, 6], step=1)
    rows = torch.cat([each.completions.flatten(0, 1) for each in (first, later)])
    assert len(rows.unique(dim=0)) == 4 * NUM_ROLLOUTS


@pytest.mark.parametrize("rows", [3, 7, 9, 1000])
def test_portions_are_told_of_once_each_and_hold_whole_groups(
    policy: DiffusionPolicy, rows: int
) -> None:
    told: list[Rollouts] = []
    rollouts_of(policy, sampler_of("roar"), everyone, rows_per_forward=rows, on_portion=told.append)
    assert all(each.num_rows <= rows and each.num_rollouts == NUM_ROLLOUTS for each in told)
    places = [int(place) for each in told for place in each.prompts.index]
    assert sorted(places) == list(everyone)
    lengths = [len(TEXTS[place]) for place in places]
    assert lengths == sorted(lengths)


def test_shorter_portions_carry_no_padding(policy: DiffusionPolicy) -> None:
    told: list[Rollouts] = []
    rollouts_of(policy, sampler_of("roar"), everyone, rows_per_forward=3, on_portion=told.append)
    assert all(each.prompts.attention_mask.all() for each in told)
