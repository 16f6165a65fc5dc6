from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import LikelihoodConfig, view_log_probs
from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.objectives.gdsd import GdsdConfig, GdsdObjective
from tests.objectives.buffers import move, moved_policy, padded, two_groups
from tests.objectives.build import gradient, parts, rng
from tests.oracles.likelihood import ExhaustiveLikelihood
from tests.oracles.records import rewards_of
from tests.oracles.tabular import TabularPolicy, random_table

PAIRS = ElboLikelihood(ElboConfig(num_views=4))
SINGLE = ElboLikelihood(ElboConfig(num_views=4, antithetic=False, stratified=False))
NODES = ElboLikelihood(ElboConfig(num_views=3, masking="quadrature"))
EXHAUSTIVE = ExhaustiveLikelihood(LikelihoodConfig())
LEAVE_ONE_OUT = ("advantage", {"centre": "leave_one_out"})


def gdsd(likelihood, *, weights=LEAVE_ONE_OUT, baseline=("none", {}), updates=4, **settings):
    chosen = parts(likelihood, weights=weights, baseline=baseline, updates=updates)
    return GdsdObjective(GdsdConfig(**settings), chosen)


def estimates(policy, batch, num_draws: int):
    """What each draw says of each row, added up in plain Python."""
    rows = (batch.prompt_tokens, batch.prompt_mask, batch.completions)
    scores = batch.views.coefficient * view_log_probs(policy, *rows, batch.views)
    of_views = scores.sum(-1)
    size = of_views.shape[1]
    return [
        sum(of_views[:, r] for r in range(j, size, num_draws)) * num_draws for j in range(num_draws)
    ]


def naive(now, before, reference, batch, *, psi: float, beta: float):
    total = 0.0
    for old, new, ref in zip(before, now, reference, strict=True):
        for row in range(batch.num_rows):
            target = psi * batch.weights[row]
            square = (new[row] - old[row] - target) ** 2 + beta * (new[row] - ref[row]) ** 2
            total = total + square / int(batch.answer_mask[row].sum())
    return total / len(now) / batch.num_rows


@pytest.mark.parametrize(
    ("likelihood", "num_draws"), [(PAIRS, 2), (SINGLE, 4), (NODES, 1), (EXHAUSTIVE, 1)]
)
def test_loss_and_gradient_are_those_of_plain_python(likelihood, num_draws) -> None:
    policy, objective = moved_policy(), gdsd(likelihood, psi=1.5, beta=0.3)
    experience = objective.prepare(policy, *two_groups(), rng())
    batch = objective.draw(policy, experience, rng(), update=1)
    with torch.no_grad():
        before = estimates(policy, batch, num_draws)
        with policy.reference():
            reference = estimates(policy, batch, num_draws)
    move(policy)
    loss, got = gradient(objective, policy, batch, num_rows=3)
    policy.module.zero_grad(set_to_none=True)
    expected = naive(
        estimates(policy, batch, num_draws), before, reference, batch, psi=1.5, beta=0.3
    )
    expected.backward()
    assert loss == pytest.approx(expected.item())
    assert torch.allclose(got["logits"], policy.table.grad)


def test_released_loss_clamps_the_sum_over_tokens_and_has_no_gradient_beyond() -> None:
    policy, objective = moved_policy(), gdsd(EXHAUSTIVE, reference=True, beta=0.0)
    experience = objective.prepare(policy, *two_groups(), rng())
    move(policy)
    batch = objective.draw(policy, experience, rng(), update=1)
    loss, gradients = gradient(objective, policy, batch)
    assert not gradients["logits"].any()
    views = batch.views
    rows = (batch.prompt_tokens, batch.prompt_mask, batch.completions)
    now = EXHAUSTIVE.combine(view_log_probs(policy, *rows, views), views)
    before = EXHAUSTIVE.combine(batch.behaviour_log_probs, views)
    expected = 0.0
    for row in range(8):
        moved = min(max((now[row] - before[row]).item(), math.log(1 - 4e-4)), math.log(1 + 4e-4))
        expected += (moved / 4 - float(batch.weights[row])) ** 2 / 8
    assert loss == pytest.approx(expected)


def test_released_loss_sums_over_draws_and_halves_the_square_to_the_reference() -> None:
    policy, objective = moved_policy(), gdsd(PAIRS, reference=True, beta=0.5, updates=1)
    experience = objective.prepare(policy, *two_groups(), rng())
    batch = objective.draw(policy, experience, rng(), update=0)
    with torch.no_grad():
        now = torch.stack(estimates(policy, batch, 2))
        with policy.reference():
            reference = torch.stack(estimates(policy, batch, 2))
    # At θ = v: Σ_j (ψA)², and ½(l_j − l_ref)²/(R·L) over rows.
    expected = 2 * batch.weights.square().mean() + 0.5 * (now - reference).square().mean() / 8
    assert objective.loss(policy, batch).loss.item() == pytest.approx(expected.item())


def test_equal_rewards_give_no_gradient_at_the_behaviour_policy() -> None:
    policy, objective = moved_policy(), gdsd(PAIRS, beta=0.0)
    rollouts, rewards = two_groups()
    flat = rewards_of(torch.ones_like(rewards.total))
    experience = objective.prepare(policy, rollouts, flat, rng())
    _, gradients = gradient(objective, policy, objective.draw(policy, experience, rng(), update=0))
    assert not gradients["logits"].any()


@given(st.integers(1, 8))
def test_loss_and_gradient_do_not_depend_on_the_cut(num_rows: int) -> None:
    policy, objective = moved_policy(), gdsd(PAIRS)
    experience = objective.prepare(policy, *two_groups(), rng())
    move(policy)
    batch = objective.draw(policy, experience, rng(), update=1)
    whole, gradients = gradient(objective, policy, batch)
    cut, pieces = gradient(objective, policy, batch, num_rows)
    assert cut == pytest.approx(whole)
    assert torch.allclose(gradients["logits"], pieces["logits"], atol=1e-9)


def test_padding_left_of_the_prompt_changes_nothing() -> None:
    policy, objective, losses = moved_policy(), gdsd(EXHAUSTIVE), []
    rollouts, rewards = two_groups()
    for each in (rollouts, padded(rollouts)):
        experience = objective.prepare(policy, each, rewards, rng())
        batch = objective.draw(policy, experience, rng(), update=0)
        losses.append(objective.loss(policy, batch).loss)
    assert torch.equal(*losses)


def test_reference_and_behaviour_are_asked_only_where_they_count() -> None:
    objective = gdsd(PAIRS, beta=0.0, updates=1)
    experience = objective.prepare(TabularPolicy(random_table(1)), *two_groups(), rng())
    assert not objective.needs_reference
    assert experience.behaviour_log_probs == experience.reference_log_probs == ()
    assert not objective.ignores_weightless_rows


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"weights": ("tilted", {"alpha": 0, "eta": 1.0})}, "mean 0"),
        ({"weights": ("tilted", {"alpha": 0.1})}, "alpha = 0 and eta"),
    ],
)
def test_weights_that_are_no_advantages_are_refused(choices, message) -> None:
    with pytest.raises(ConfigError, match=message):
        gdsd(PAIRS, **choices)


def test_clamp_without_the_released_loss_is_refused() -> None:
    with pytest.raises(ValidationError, match="no effect without reference: true"):
        GdsdConfig(epsilon=0.1)
