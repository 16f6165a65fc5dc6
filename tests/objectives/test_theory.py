"""What the gradient means, with every expectation a sum over 81 responses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.likelihoods.base import LikelihoodConfig
from tests.objectives.build import dmpo, gradient, rng
from tests.oracles.likelihood import ExhaustiveLikelihood
from tests.oracles.records import rewards_of, rollouts_of
from tests.oracles.tabular import (
    LENGTH,
    PROMPT,
    RESPONSES,
    TabularPolicy,
    all_rollouts,
    consistent_table,
    divergence,
    log_probs,
    path_log_probs,
    random_joint,
    random_table,
    target_log_probs,
)

EXHAUSTIVE = ExhaustiveLikelihood(LikelihoodConfig())
ALPHA = 0.5
TILTED = ("tilted", {"alpha": ALPHA})
LINEAR = ("linear", {"alpha": ALPHA})
UNIFORM = torch.full((81,), 1 / 81, dtype=torch.float64)
seeds = st.integers(0, 99)

# Every token 0, 1, 2 with probability 1/2, 1/4, 1/4: 256 rows hold each response as often as
# this policy draws it, so the mean over rows is its expectation.
COUNTS = torch.tensor([2, 1, 1])[RESPONSES].prod(-1)
PRODUCT = COUNTS.double() / 256


def rewards(seed: int) -> torch.Tensor:
    return torch.rand(81, generator=rng(seed), dtype=torch.float64)


def policy_with_reference(reference: torch.Tensor, current: torch.Tensor) -> TabularPolicy:
    policy = TabularPolicy(reference)
    policy.freeze_reference()
    with torch.no_grad():
        policy.table.copy_(current)
    return policy


def step_gradient(objective, policy, theta, rollouts, total):
    """Gradient at ``theta`` of a buffer that ``policy``, as it is, is the behaviour of."""
    experience = objective.prepare(policy, rollouts, rewards_of(total.unsqueeze(0)), rng())
    with torch.no_grad():
        policy.table.copy_(theta)
    batch = objective.draw(policy, experience, rng(), update=1)
    return gradient(objective, policy, batch)[1]["logits"]


def loss_gradient(policy: TabularPolicy, loss: torch.Tensor) -> torch.Tensor:
    (got,) = torch.autograd.grad(loss, policy.table)
    return got


@settings(max_examples=8)
@given(seeds)
def test_gradient_is_that_of_the_divergence_from_the_target_at_path_level(seed):
    reference = consistent_table(random_joint(seed))
    policy = policy_with_reference(reference, consistent_table(UNIFORM))
    theta = random_table(seed + 1)
    objective = dmpo(EXHAUSTIVE, weights=TILTED, baseline=("none", {}))
    got = step_gradient(objective, policy, theta, all_rollouts(), rewards(seed))
    # KL(p*(o)/24 ‖ p_θ(o; σ)/24) over responses and orders.
    log_reference = random_joint(seed).log()
    target = target_log_probs(log_reference, rewards(seed), ALPHA)
    paths = path_log_probs(policy)
    kl = (target.exp() * (target - paths.mean(0))).sum()
    assert torch.allclose(LENGTH * got, loss_gradient(policy, kl), atol=1e-7)


@settings(max_examples=8)
@given(seeds)
def test_model_baseline_leaves_the_expected_gradient_unchanged(seed):
    theta = consistent_table(random_joint(seed + 1))
    gradients = []
    for name in ("none", "model"):
        policy = policy_with_reference(random_table(seed), consistent_table(UNIFORM))
        objective = dmpo(EXHAUSTIVE, weights=TILTED, baseline=(name, {}))
        gradients.append(step_gradient(objective, policy, theta, all_rollouts(), rewards(seed)))
    assert gradients[0].abs().max() > 1e-3
    assert torch.allclose(*gradients, atol=1e-7)


@settings(max_examples=8)
@given(seeds)
def test_mean_baseline_leaves_the_expected_gradient_of_the_behaviour_policy_unchanged(seed):
    behaviour = consistent_table(PRODUCT)
    rows = torch.repeat_interleave(torch.arange(81), COUNTS)
    rollouts = rollouts_of(PROMPT, RESPONSES[rows].unsqueeze(0))
    gradients = []
    for name in ("none", "mean"):
        policy = policy_with_reference(random_table(seed), behaviour)
        objective = dmpo(EXHAUSTIVE, weights=TILTED, baseline=(name, {}))
        gradients.append(step_gradient(objective, policy, behaviour, rollouts, rewards(seed)[rows]))
    assert gradients[0].abs().max() > 1e-3
    assert torch.allclose(*gradients, atol=1e-7)


def test_individual_baseline_changes_the_expected_gradient():
    behaviour = consistent_table(UNIFORM)
    gradients = []
    for name in ("none", "individual"):
        policy = policy_with_reference(random_table(0), behaviour)
        objective = dmpo(EXHAUSTIVE, weights=TILTED, baseline=(name, {}))
        gradients.append(step_gradient(objective, policy, behaviour, all_rollouts(), rewards(0)))
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


@settings(max_examples=8)
@given(seeds, st.floats(0.2, 1))
def test_linear_weights_with_the_model_baseline_descend_the_log_variance(seed, coefficient):
    weights = ("linear", {"alpha": ALPHA, "coefficient": coefficient})
    reference, behaviour = random_table(seed), random_table(seed + 1)
    policy = policy_with_reference(reference, behaviour)
    theta = random_table(seed + 2)
    rows = torch.randint(0, 81, (6,), generator=rng(seed))
    rollouts = rollouts_of(PROMPT, RESPONSES[rows].unsqueeze(0))
    objective = dmpo(EXHAUSTIVE, weights=weights, baseline=("model", {}))
    got = step_gradient(objective, policy, theta, rollouts, rewards(seed)[rows])

    def bound(table):
        return path_log_probs(TabularPolicy(table)).mean(0)[rows].detach()

    tilt = rewards(seed)[rows] / ALPHA + bound(reference) - bound(behaviour)
    gap = path_log_probs(policy).mean(0)[rows] - bound(behaviour) - coefficient * tilt
    loss = gap.var(correction=0) / 2
    assert torch.allclose(LENGTH * got, loss_gradient(policy, loss), atol=1e-6)


@pytest.mark.parametrize("weights", [TILTED, LINEAR])
def test_model_baseline_stands_still_at_the_target(weights):
    reference = random_joint(4)
    policy = policy_with_reference(consistent_table(reference), consistent_table(random_joint(5)))
    target = target_log_probs(reference.log(), rewards(4), ALPHA).exp()
    objective = dmpo(EXHAUSTIVE, weights=weights, baseline=("model", {}))
    got = step_gradient(objective, policy, consistent_table(target), all_rollouts(), rewards(4))
    assert got.abs().max() < 1e-6


def test_expected_elbo_stands_still_beside_the_target_where_orders_disagree():
    table = random_table(7)
    policy = policy_with_reference(table, consistent_table(UNIFORM))
    paths = path_log_probs(TabularPolicy(table)).detach()
    beside = target_log_probs(paths.mean(0), rewards(4), ALPHA)
    target = target_log_probs(log_probs(TabularPolicy(table)).detach(), rewards(4), ALPHA)
    objective = dmpo(EXHAUSTIVE, weights=TILTED, baseline=("model", {}))
    pulls = []
    for place in (beside, target):
        with torch.no_grad():
            policy.table.copy_(consistent_table(UNIFORM))
        theta = consistent_table(place.exp())
        got = step_gradient(objective, policy, theta, all_rollouts(), rewards(4))
        pulls.append(got.abs().max())
    assert divergence(target, beside) > 0.01
    assert pulls[0] < 1e-6
    assert pulls[1] > 1e-3
