from __future__ import annotations

import math

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.diffusion.likelihood import (
    block_coefficients,
    exact_coefficients,
    gauss_legendre,
    quadrature_coefficients,
    reference_coefficients,
    replicate_estimates,
    replicate_standard_error,
    sample_standard_error,
)
from tests.oracles import likelihood as oracle
from tests.oracles.tabular import LENGTH, SUBSETS, TabularPolicy, random_table, subset_log_probs

seeds = st.integers(0, 999)


def estimates(policy, coefficients):
    """What each of the 16 sets alone says of each response, through the library's factors."""
    scores = subset_log_probs(policy).detach().unsqueeze(2)
    hidden = SUBSETS[:, None, None].expand(-1, scores.shape[1], -1, -1)
    lengths = torch.full(hidden.shape[:2], LENGTH)
    return replicate_estimates(scores, coefficients(hidden, lengths).double()).squeeze(-1)


def expectation(values):
    """Over sets whose size is uniform on 0..D."""
    sizes = SUBSETS.sum(-1).tolist()
    weights = [oracle.subset_probability(size, LENGTH) for size in sizes]
    return (torch.tensor(weights, dtype=torch.float64).unsqueeze(-1) * values).sum(0)


def test_exact_coefficient_is_one_more_than_the_length_over_the_size():
    hidden = torch.tensor([[True, False, True], [False, False, False]])
    got = exact_coefficients(hidden, torch.tensor(3))
    # (3 + 1) / 2 over R = 2 draws; the empty set counts as 0.
    assert got.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def test_reference_coefficient_is_the_length_over_the_size():
    hidden = torch.tensor([[True, False, True], [False, False, False]])
    assert reference_coefficients(hidden, torch.tensor(3)).tolist() == [[0.75, 0, 0.75], [0, 0, 0]]


@given(seeds)
def test_exact_coefficients_estimate_the_elbo_without_bias(seed):
    policy = TabularPolicy(random_table(seed))
    truth = oracle.enumerated_elbo(subset_log_probs(policy).detach(), SUBSETS)
    assert torch.allclose(expectation(estimates(policy, exact_coefficients)), truth, atol=1e-5)


@given(seeds)
def test_reference_coefficients_fall_short_by_one_part_in_one_more_than_the_length(seed):
    policy = TabularPolicy(random_table(seed))
    truth = oracle.enumerated_elbo(subset_log_probs(policy).detach(), SUBSETS)
    got = expectation(estimates(policy, reference_coefficients))
    assert torch.allclose(got, truth * LENGTH / (LENGTH + 1), atol=1e-5)


def test_standard_error_is_that_of_the_mean_of_free_draws():
    values = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    # Squares of the deviations from 3 add up to 14; 14 / 3 is the variance of one draw.
    expected = math.sqrt(14 / 3 / 4)
    assert replicate_standard_error(values, antithetic=False).item() == pytest.approx(expected)


def test_standard_error_takes_an_antithetic_pair_as_one_replicate():
    values = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    # Pairs (1, 3) and (2, 6): means 2 and 4, whose standard error is |4 − 2| / 2.
    assert replicate_standard_error(values, antithetic=True).item() == pytest.approx(1.0)


@pytest.mark.parametrize(("num_draws", "antithetic"), [(1, False), (2, True)])
def test_standard_error_is_unknown_from_a_single_replicate(num_draws, antithetic):
    assert replicate_standard_error(torch.ones(3, num_draws), antithetic=antithetic) is None


@pytest.mark.parametrize("num_nodes", range(1, 9))
def test_gauss_legendre_is_the_rule_of_the_tables(num_nodes):
    nodes, weights = gauss_legendre(num_nodes)
    expected, factors = numpy.polynomial.legendre.leggauss(num_nodes)
    assert nodes.tolist() == pytest.approx(((expected + 1) / 2).tolist())
    assert weights.tolist() == pytest.approx((factors / 2).tolist())


def test_quadrature_coefficient_is_the_weight_times_length_over_size():
    hidden = torch.tensor([[True, False, True], [True, False, False]])
    got = quadrature_coefficients(hidden, torch.tensor(3), torch.tensor([0.25, 0.75]))
    # ¼ · 3/2, and ¾ · 3/1
    assert got.tolist() == [[0.375, 0, 0.375], [2.25, 0, 0]]


def test_block_coefficient_is_that_of_the_block_times_the_number_of_blocks():
    block = torch.tensor([[True, True, False], [False, False, True]])
    hidden = torch.tensor([[True, False, False], [False, False, False]])
    # 2 blocks · (2 + 1)/1 over R = 2; nothing hidden counts as 0.
    assert block_coefficients(hidden, block, torch.tensor(2)).tolist() == [[3, 0, 0], [0, 0, 0]]


def test_standard_error_of_a_sample_is_zero_where_it_is_everything():
    values, drawn = torch.tensor([[1.0, 2.0, 6.0]]), torch.ones(1, 3, dtype=torch.bool)
    assert sample_standard_error(values, drawn, torch.tensor([1.0])).item() == 0
    # 3/2 · 14 · (1 − ½)
    got = sample_standard_error(values, drawn, torch.tensor([0.5])).item()
    assert got == pytest.approx(math.sqrt(10.5))
