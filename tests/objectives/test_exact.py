"""Training on tables: where the divergence from the target starts, and where it ends."""

from __future__ import annotations

import itertools

import pytest
import torch

from dmpo.registry import BASELINES, LIKELIHOODS
from tests.oracles.convergence import Choice, elbo_limits, path_limits, problems, train
from tests.oracles.tabular import TabularPolicy, divergence, log_probs

AGREE = problems([0, 1], is_consistent=True)
DISAGREE = problems([0, 1], is_consistent=False)
EVERY = [
    (baseline, likelihood, size)
    for baseline, likelihood, size in itertools.product(
        BASELINES.names(), LIKELIHOODS.names(), (16, 128)
    )
    if size > 16 or baseline != "none"  # see test_small_groups_need_a_baseline
]


def ends(choice: Choice, given=AGREE, *, learning_rate=0.08, num_rollouts=256, num_steps=160):
    """Return the mean divergence before and after, in nats."""
    curve = train(
        choice,
        given,
        num_rollouts=num_rollouts,
        num_steps=num_steps,
        measure_at=(0, num_steps),
        learning_rate=learning_rate,
    )
    return curve.mean(1).tolist()


@pytest.mark.parametrize(("baseline", "likelihood", "num_rollouts"), EVERY)
def test_first_buffers_go_towards_the_target(baseline, likelihood, num_rollouts):
    choice = Choice(ratio=likelihood, loss=likelihood, baseline=baseline)
    start, end = ends(choice, num_rollouts=num_rollouts, num_steps=16, learning_rate=0.01)
    assert end < start


def test_divergence_starts_at_that_of_the_reference():
    start, _ = ends(Choice(ratio="path", loss="path"), DISAGREE, num_rollouts=2, num_steps=1)
    expected = [
        divergence(target, log_probs(TabularPolicy(table))).item()
        for table, target in zip(DISAGREE.tables, DISAGREE.targets, strict=True)
    ]
    assert start == pytest.approx(sum(expected) / 2)


@pytest.mark.parametrize("baseline", ["mean", "model"])
@pytest.mark.parametrize("weights", ["tilted", "linear"])
def test_path_likelihood_with_a_large_group_reaches_the_target(baseline, weights):
    start, end = ends(Choice(ratio="path", loss="path", weights=weights, baseline=baseline))
    assert start > 0.8
    assert end < 0.05


def test_individual_baseline_stays_away_from_the_target():
    _, end = ends(Choice(ratio="path", loss="path", baseline="individual"))
    assert end > 0.15


def test_small_groups_need_a_baseline():
    start, without = ends(Choice(ratio="path", loss="path", baseline="none"), num_rollouts=4)
    _, subtracted = ends(Choice(ratio="path", loss="path", baseline="mean"), num_rollouts=4)
    assert subtracted < start < without


def test_noise_of_the_elbo_keeps_training_from_the_target_and_shared_masks_lessen_it():
    given = problems(list(range(8)), is_consistent=True)
    _, shared = ends(Choice(ratio="elbo", loss="elbo"), given)
    _, independent = ends(Choice(ratio="elbo_independent", loss="elbo"), given)
    assert 0.1 < shared < 0.9 * independent


@pytest.mark.parametrize("limits", [elbo_limits, path_limits])
def test_limits_are_zero_only_where_orders_agree(limits):
    assert torch.allclose(limits(AGREE), torch.zeros(2, dtype=torch.float64), atol=1e-12)
    assert (limits(DISAGREE) > 0.01).all()
