from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import LikelihoodConfig, view_log_probs
from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.objectives.spg import SpgConfig, SpgObjective, sandwiched_bound
from dmpo.registry import LIKELIHOODS
from tests.objectives.buffers import moved_policy, padded, two_groups
from tests.objectives.build import gradient, parts, rng
from tests.oracles.likelihood import ExhaustiveLikelihood
from tests.oracles.records import rewards_of
from tests.oracles.tabular import TabularPolicy, all_rollouts, log_probs, random_table

ELBO = ElboLikelihood(ElboConfig())
EXHAUSTIVE = ExhaustiveLikelihood(LikelihoodConfig())


def spg(likelihood, *, weights=("advantage", {}), baseline=("none", {}), other=None, **settings):
    chosen = parts(likelihood, weights=weights, baseline=baseline, ratio_likelihood=other)
    return SpgObjective(SpgConfig(**settings), chosen)


def first_batch(objective, policy, rollouts, rewards):
    experience = objective.prepare(policy, rollouts, rewards, rng())
    return objective.draw(policy, experience, rng(3), update=0)


def bounds(policy, batch, power: float) -> tuple[list, list]:
    """ELBO and EUBO of each row, token by token in plain Python."""
    rows = (batch.prompt_tokens, batch.prompt_mask, batch.completions)
    scores = view_log_probs(policy, *rows, batch.views)
    lower, upper = [], []
    for row, factors in zip(scores, batch.views.coefficient, strict=True):
        lower.append(sum(f * s for f, s in zip(factors.flatten(), row.flatten(), strict=True)))
        of_tokens = []
        for d in range(row.shape[1]):
            terms = [f * (power * s).exp() for f, s in zip(factors[:, d], row[:, d], strict=True)]
            if any(f > 0 for f in factors[:, d]):
                of_tokens.append(sum(terms).log() / power)
        upper.append(sum(of_tokens))
    return lower, upper


@pytest.mark.parametrize(("negative", "share"), [("mix", 0.25), ("eubo", 1.0), ("elbo", 0.0)])
@pytest.mark.parametrize("normalisation", ["response", "canvas"])
def test_loss_and_gradient_are_those_of_plain_python(negative, share, normalisation) -> None:
    settings = {"omega": share} if negative == "mix" else {}
    settings |= {} if negative == "elbo" else {"power": 2.0}
    objective = spg(ELBO, negative=negative, normalisation=normalisation, **settings)
    policy = moved_policy()
    batch = first_batch(objective, policy, *two_groups())
    loss, got = gradient(objective, policy, batch, num_rows=3)
    policy.module.zero_grad(set_to_none=True)
    expected = 0.0
    for row, (lower, upper) in enumerate(zip(*bounds(policy, batch, 2.0), strict=True)):
        advantage = batch.weights[row]
        length = 4 if normalisation == "canvas" else int(batch.answer_mask[row].sum())
        bound = lower if advantage >= 0 else share * upper + (1 - share) * lower
        expected = expected - advantage * bound / length / 8
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(got["logits"], policy.table.grad, atol=1e-7)


def test_bad_responses_are_left_out_by_zero() -> None:
    policy = moved_policy()
    rollouts, rewards = two_groups()
    objective = spg(EXHAUSTIVE, negative="zero")
    batch = first_batch(objective, policy, rollouts, rewards)
    good = batch.kept(batch.weights > 0)
    _, everything = gradient(objective, policy, batch)
    _, alone = gradient(objective, policy, good)
    assert torch.allclose(everything["logits"], alone["logits"])


@pytest.mark.parametrize(
    ("negative", "expected"), [("mix", 2.6), ("eubo", 3.0), ("elbo", 1.0), ("zero", 0.0)]
)
def test_bound_of_a_bad_response_is_the_chosen_one(negative, expected) -> None:
    lower, upper = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0])
    got = sandwiched_bound(lower, upper, torch.tensor([1.0, -1.0]), negative, 0.8)
    assert got.tolist() == pytest.approx([1.0, expected])


def test_exact_bounds_stand_on_both_sides_of_the_likelihood() -> None:
    policy = TabularPolicy(random_table(1))
    objective = spg(EXHAUSTIVE, negative="eubo")
    rewards = rewards_of(torch.linspace(0, 1, 81).unsqueeze(0))
    batch = first_batch(objective, policy, all_rollouts(), rewards)
    with torch.no_grad():
        lower, upper = (torch.stack(bound) for bound in bounds(policy, batch, 1.5))
        assert (lower <= log_probs(policy) + 1e-9).all()
        assert (lower <= upper + 1e-9).all()
    gap = objective.loss(policy, batch).metrics["bound_gap"].item()
    assert gap == pytest.approx(((upper - lower) / 4).mean().item())


def test_equal_rewards_give_no_gradient() -> None:
    policy, objective = moved_policy(), spg(ELBO)
    rollouts, rewards = two_groups()
    batch = first_batch(objective, policy, rollouts, rewards_of(torch.ones_like(rewards.total)))
    _, gradients = gradient(objective, policy, batch)
    assert not gradients["logits"].any()


@given(st.integers(1, 8))
def test_loss_and_gradient_do_not_depend_on_the_cut(num_rows: int) -> None:
    policy, objective = moved_policy(), spg(ELBO)
    batch = first_batch(objective, policy, *two_groups())
    whole, gradients = gradient(objective, policy, batch)
    cut, pieces = gradient(objective, policy, batch, num_rows)
    assert cut == pytest.approx(whole)
    assert torch.allclose(gradients["logits"], pieces["logits"], atol=1e-9)


def test_padding_left_of_the_prompt_changes_nothing() -> None:
    policy, objective = moved_policy(), spg(EXHAUSTIVE)
    rollouts, rewards = two_groups()
    losses = [
        objective.loss(policy, first_batch(objective, policy, each, rewards)).loss
        for each in (rollouts, padded(rollouts))
    ]
    assert torch.equal(*losses)


def test_baseline_is_taken_from_weights_that_have_a_link() -> None:
    policy = moved_policy()
    step = ("tilted", {"alpha": 0, "eta": 1.0})
    objective = spg(ELBO, weights=step, baseline=("mean", {}))
    batch = first_batch(objective, policy, *two_groups())
    assert batch.weights.reshape(2, 4).sum(-1).tolist() == pytest.approx([0, 0], abs=1e-5)


def test_views_are_fresh_at_every_update_and_nothing_is_run_before_the_loss() -> None:
    policy, objective = moved_policy(), spg(ELBO)
    before, source = policy.forward_tokens, rng()
    experience = objective.prepare(policy, *two_groups(), source)
    hidden = [objective.draw(policy, experience, source, update=n).views.hidden for n in range(2)]
    assert not torch.equal(*hidden)
    assert policy.forward_tokens == before
    assert not objective.needs_reference


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"weights": ("tilted", {"alpha": 0.1})}, "neither a reference nor a ratio"),
        (
            {"weights": ("tilted", {"alpha": 0, "eta": 1.0}), "baseline": ("model", {})},
            "'model' does not go with it",
        ),
        ({"other": EXHAUSTIVE}, "ratio_likelihood: spg"),
        ({"likelihood": LIKELIHOODS.build("eubo")}, "EuboLikelihood is no sum over tokens"),
    ],
)
def test_parts_that_do_not_go_with_it_are_refused(choices, message) -> None:
    with pytest.raises(ConfigError, match=message):
        spg(**{"likelihood": ELBO, **choices})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negative": "eubo", "omega": 0.1}, "without negative: mix"),
        ({"negative": "elbo", "power": 2}, "without negative: eubo or mix"),
        ({"power": 0.5}, "greater than or equal to 1"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings, message) -> None:
    with pytest.raises(ValidationError, match=message):
        SpgConfig(**settings)
