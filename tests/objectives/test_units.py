from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.likelihoods.elbo import ElboConfig, ElboLikelihood
from dmpo.objectives.units import reduced, total_weight, unit_log_probs, unit_sizes, unit_weights
from dmpo.records import Views
from tests.objectives.build import rng

LIKELIHOOD = ElboLikelihood(ElboConfig())
LEVELS = ("token", "view_token", "view", "draw", "response")
COEFFICIENT = torch.tensor([[[2.0, 0.0, 2.0], [0.0, 0.0, 0.0]]])
VIEWS = Views(hidden=torch.ones_like(COEFFICIENT, dtype=torch.bool), coefficient=COEFFICIENT)
LOG_PROBS = torch.tensor([[[-1.0, -9.0, -3.0], [-9.0, -9.0, -9.0]]])


@pytest.mark.parametrize(
    ("level", "values", "weights"),
    [
        ("token", [-2, 0, -6], [1, 0, 1]),
        ("view_token", [-1, -9, -3, -9, -9, -9], [2, 0, 2, 0, 0, 0]),
        ("view", [-8, 0], [1, 0]),
        ("draw", [-16, 0], [1, 1]),
        ("response", [-8], [1]),
    ],
)
def test_units_of_a_row_with_an_empty_view(level, values, weights):
    found = unit_log_probs(level, LIKELIHOOD, LOG_PROBS, VIEWS)
    assert found.flatten().tolist() == values
    assert unit_weights(level, COEFFICIENT).flatten().tolist() == weights
    assert total_weight(level, VIEWS) == sum(weights)


def test_sizes_are_tokens_of_a_step_or_of_the_response():
    lengths = torch.tensor([3])
    assert unit_sizes("view", COEFFICIENT, lengths).tolist() == [[2, 1]]
    assert unit_sizes("draw", COEFFICIENT, lengths).tolist() == [[3]]
    assert unit_sizes("response", COEFFICIENT, lengths).tolist() == [3]
    assert unit_sizes("token", COEFFICIENT, lengths).item() == 1
    assert unit_sizes("response", COEFFICIENT, torch.tensor([0])).tolist() == [1]


def test_mean_over_draws_is_the_response():
    coefficient = torch.rand(5, 4, 3, generator=rng(1))
    views = Views(hidden=coefficient > 0, coefficient=coefficient)
    log_probs = -torch.rand(5, 4, 3, generator=rng(2))
    draws = unit_log_probs("draw", LIKELIHOOD, log_probs, views).mean(-1)
    torch.testing.assert_close(draws, unit_log_probs("response", LIKELIHOOD, log_probs, views))


@pytest.mark.parametrize("normalisation", ["token", "response", "view", "canvas"])
@pytest.mark.parametrize("level", LEVELS)
@given(cut=st.integers(1, 5), seed=st.integers(0, 99))
def test_slices_of_rows_add_up(level, normalisation, cut, seed):
    coefficient = (torch.rand(6, 3, 4, generator=rng(seed)) - 0.4).clamp(min=0)
    weights = unit_weights(level, coefficient)
    values = torch.randn(weights.shape, generator=rng(seed + 1))
    whole = {"num_rows": 6, "total": float(weights.sum()), "length": 4}
    parts = [
        reduced(values[rows], weights[rows], normalisation, **whole)
        for rows in (slice(cut), slice(cut, None))
    ]
    found = reduced(values, weights, normalisation, **whole)
    assert sum(parts).item() == pytest.approx(found.item(), abs=1e-5)


@pytest.mark.parametrize("normalisation", ["token", "response", "view"])
def test_mean_of_ones_is_one_where_every_row_scores_something(normalisation):
    coefficient = torch.rand(4, 3, 5, generator=rng(3)) + 0.1
    for level in LEVELS:
        weights = unit_weights(level, coefficient)
        found = reduced(
            torch.ones_like(weights),
            weights,
            normalisation,
            num_rows=4,
            total=float(weights.sum()),
            length=5,
        )
        assert found.item() == pytest.approx(1)


@pytest.mark.parametrize("normalisation", ["token", "response", "view", "canvas"])
def test_rows_that_score_nothing_add_nothing(normalisation):
    weights = torch.zeros(2, 3, 4)
    found = reduced(weights + 1, weights, normalisation, num_rows=2, total=0.0, length=4)
    assert found.item() == 0
