from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import LikelihoodConfig
from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.likelihoods.mean_field import MeanFieldConfig, MeanFieldLikelihood
from dmpo.objectives.frozen import buffer_log_probs
from dmpo.objectives.wddo import WddoConfig, WddoObjective
from tests.objectives.buffers import move, moved_policy, padded, two_groups
from tests.objectives.build import gradient, parts, rng
from tests.oracles.likelihood import ExhaustiveLikelihood
from tests.oracles.records import rewards_of
from tests.oracles.tabular import TabularPolicy, random_table, subset_log_probs

ELBO = ElboLikelihood(ElboConfig(num_views=4))
EXHAUSTIVE = ExhaustiveLikelihood(LikelihoodConfig())
STEP = ("tilted", {"alpha": 0, "eta": 2.0})


def wddo(likelihood, *, weights=STEP, baseline=("none", {}), updates=4, **settings):
    chosen = parts(likelihood, weights=weights, baseline=baseline, updates=updates)
    return WddoObjective(WddoConfig(**settings), chosen)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_loss_is_that_of_plain_python() -> None:
    policy = moved_policy()
    objective = wddo(EXHAUSTIVE, beta=0.7, gamma=0.4)
    rollouts, rewards = two_groups()
    experience = objective.prepare(policy, rollouts, rewards, rng())
    views = experience.views[0]
    before = EXHAUSTIVE.combine(experience.behaviour_log_probs[0], views).flatten().tolist()
    move(policy)
    after_views = buffer_log_probs(objective.parts, policy, rollouts, views)
    after = EXHAUSTIVE.combine(after_views, views).flatten().tolist()
    expected = 0.0
    for weight, old, new in zip(experience.weights.values.flatten(), before, after, strict=True):
        ratio = 0.7 * (new - old)
        expected -= float(weight) * math.log(sigmoid(ratio)) + 0.4 * math.log(sigmoid(-ratio))
    batch = objective.draw(policy, experience, rng(), update=2)
    assert objective.loss(policy, batch).loss.item() == pytest.approx(expected / 8, rel=1e-6)


def test_gradient_at_the_behaviour_policy_is_half_beta_times_weight_minus_gamma() -> None:
    policy = moved_policy()
    objective = wddo(EXHAUSTIVE, beta=0.5, gamma=0.8)
    experience = objective.prepare(policy, *two_groups(), rng())
    batch = objective.draw(policy, experience, rng(), update=0)
    _, got = gradient(objective, policy, batch)
    policy.module.zero_grad(set_to_none=True)
    # d/dΔ of −w·log σ(βΔ) − γ·log σ(−βΔ) at Δ = 0 is −(w − γ)·β/2.
    scores = subset_log_probs(policy, batch.completions)[1:]
    answers = batch.views.coefficient.movedim(1, 0)
    log_p = (scores * answers).sum((0, -1))
    (-(batch.weights - 0.8) * 0.25 * log_p).sum().div(8).backward()
    assert torch.allclose(got["logits"], policy.table.grad)


def test_equal_rewards_give_no_gradient_at_the_behaviour_policy() -> None:
    policy = moved_policy()
    objective = wddo(EXHAUSTIVE)
    rollouts, rewards = two_groups()
    flat = rewards_of(torch.ones_like(rewards.total))
    experience = objective.prepare(policy, rollouts, flat, rng())
    _, gradients = gradient(objective, policy, objective.draw(policy, experience, rng(), update=0))
    assert torch.allclose(gradients["logits"], torch.zeros(()).double(), atol=1e-12)


def test_terms_look_through_two_draws_that_hold_whole_pairs() -> None:
    policy, objective = moved_policy(), wddo(ELBO)
    rollouts, rewards = two_groups()
    hidden = objective.prepare(policy, rollouts, rewards, rng()).views[0].hidden
    assert hidden.shape[2] == 8
    for draw in hidden.chunk(2, dim=2):
        first, second = draw.chunk(2, dim=2)
        scored = rollouts.answer_mask.unsqueeze(2)
        assert ((first ^ second) | ~scored).all()
    assert not hidden[:, :, :4].equal(hidden[:, :, 4:])


def test_each_term_reads_a_draw_of_its_own() -> None:
    policy, objective = moved_policy(), wddo(ELBO, beta=0.7, gamma=0.4)
    rollouts, rewards = two_groups()
    experience = objective.prepare(policy, rollouts, rewards, rng())
    move(policy)
    views = experience.views[1]
    moved = (
        buffer_log_probs(objective.parts, policy, rollouts, views)
        - experience.behaviour_log_probs[1]
    )
    real, fake = (views.coefficient * moved).sum(-1).unflatten(-1, (2, 4)).sum(-1).unbind(-1)
    terms = experience.weights.values * logsigmoid(0.7 * real) + 0.4 * logsigmoid(-0.7 * fake)
    batch = objective.draw(policy, experience, rng(), update=1)
    assert objective.loss(policy, batch).loss.item() == pytest.approx(-terms.mean().item())


@pytest.mark.parametrize(
    ("likelihood", "settings", "num_views"),
    [(ELBO, {"independent": False}, 4), (MeanFieldLikelihood(MeanFieldConfig()), {}, 1)],
)
def test_views_are_not_doubled_where_both_terms_share_them(likelihood, settings, num_views) -> None:
    objective = wddo(likelihood, **settings)
    views = objective.prepare(moved_policy(), *two_groups(), rng()).views
    assert views[0].hidden.shape[2] == num_views


def test_weights_are_those_of_the_tilted_target() -> None:
    policy = moved_policy()
    objective = wddo(EXHAUSTIVE, weights=("tilted", {"alpha": 0.5}))
    assert objective.needs_reference
    rollouts, rewards = two_groups()
    experience = objective.prepare(policy, rollouts, rewards, rng())
    log_weights = rewards.total / 0.5 + experience.log_ratio.value
    assert torch.allclose(experience.weights.values, 4 * torch.softmax(log_weights, -1))


def test_weights_look_through_as_many_views_as_the_loss_and_know_their_noise() -> None:
    pair = ElboLikelihood(ElboConfig(num_views=2))
    policy = moved_policy()
    rollouts, rewards = two_groups()
    objective = wddo(pair, weights=("tilted", {"alpha": 0.5}))
    got = objective.prepare(policy, rollouts, rewards, rng()).log_ratio
    source = rng()
    one, other = (objective._single_log_ratio(policy, rollouts, source).value for _ in range(2))
    assert torch.equal(got.value, (one + other) / 2)
    assert torch.equal(got.standard_error, (one - other).abs() / 2)


@given(st.integers(1, 8))
def test_loss_and_gradient_do_not_depend_on_the_cut(num_rows: int) -> None:
    policy, objective = moved_policy(), wddo(ELBO)
    experience = objective.prepare(policy, *two_groups(), rng())
    move(policy)
    batch = objective.draw(policy, experience, rng(), update=1)
    whole, gradients = gradient(objective, policy, batch)
    cut, pieces = gradient(objective, policy, batch, num_rows)
    assert cut == pytest.approx(whole)
    assert torch.allclose(gradients["logits"], pieces["logits"], atol=1e-9)


def test_padding_left_of_the_prompt_changes_nothing() -> None:
    policy, objective, losses = moved_policy(), wddo(EXHAUSTIVE), []
    rollouts, rewards = two_groups()
    for each in (rollouts, padded(rollouts)):
        experience = objective.prepare(policy, each, rewards, rng())
        losses.append(
            objective.loss(policy, objective.draw(policy, experience, rng(), update=0)).loss
        )
    assert torch.equal(*losses)


def test_step_on_policy_stores_no_log_probabilities() -> None:
    objective = wddo(ELBO, updates=1)
    policy = TabularPolicy(random_table(1))
    experience = objective.prepare(policy, *two_groups(), rng())
    assert experience.behaviour_log_probs == ()
    output = objective.loss(policy, objective.draw(policy, experience, rng(), update=0))
    assert output.loss.item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize(
    "choices",
    [
        {"weights": ("advantage", {})},
        {"weights": ("linear", {"alpha": 0, "eta": 1.0})},
        {"baseline": ("mean", {})},
    ],
)
def test_weights_that_may_be_negative_are_refused(choices) -> None:
    with pytest.raises(ConfigError, match="no lower bound"):
        wddo(ELBO, **choices)


def test_rollouts_without_weight_may_be_skipped_only_without_the_unweighted_term() -> None:
    assert wddo(ELBO, gamma=0.0).ignores_weightless_rows
    assert not wddo(ELBO).ignores_weightless_rows
