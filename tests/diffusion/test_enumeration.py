from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dmpo.diffusion.enumeration import expected_log_prob, marginal_log_prob, revealed_sets


def random_table(length: int, seed: int, *, rows: tuple[int, ...] = ()) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (*rows, 2**length, length)
    return -3 * torch.rand(shape, dtype=torch.float64, generator=generator)


def order_log_probs(table: Tensor) -> Tensor:
    """Return Σ_i log π(o_σi | o_σ<i) of every order, one after the other."""
    sums = []
    for order in itertools.permutations(range(table.shape[1])):
        before = [sum(1 << d for d in order[:i]) for i in range(len(order))]
        sums.append(sum(table[u, d] for u, d in zip(before, order, strict=True)))
    return torch.stack(sums)


@given(length=st.integers(1, 5), seed=st.integers(0, 1000))
def test_both_equal_the_mean_over_all_orders(length: int, seed: int) -> None:
    table = random_table(length, seed)
    orders = order_log_probs(table)
    marginal = orders.logsumexp(0) - math.log(len(orders))
    assert float(marginal_log_prob(table)) == pytest.approx(float(marginal))
    assert float(expected_log_prob(table)) == pytest.approx(float(orders.mean()))


@given(length=st.integers(1, 8), seed=st.integers(0, 1000))
def test_elbo_is_never_above_the_log_probability(length: int, seed: int) -> None:
    table = random_table(length, seed, rows=(2, 3))
    assert (expected_log_prob(table) <= marginal_log_prob(table) + 1e-12).all()


def test_both_agree_where_the_order_does_not_matter() -> None:
    table = torch.tensor([-1.0, -2.0, -0.5]).expand(8, 3)
    assert float(marginal_log_prob(table)) == pytest.approx(-3.5)
    assert float(expected_log_prob(table)) == pytest.approx(-3.5)


def test_what_is_inside_a_set_is_not_read() -> None:
    table = random_table(3, seed=0)
    spoilt = table.masked_fill(revealed_sets(3), torch.nan)
    assert marginal_log_prob(spoilt).equal(marginal_log_prob(table))


def test_impossible_tokens_leave_the_orders_that_avoid_them() -> None:
    # Two tokens; the first is impossible unless the second is there: one order of two remains.
    table = torch.tensor([[-torch.inf, -1.0], [0.0, -9.0], [-2.0, 0.0], [0.0, 0.0]])
    assert float(marginal_log_prob(table)) == pytest.approx(-3.0 - math.log(2))
    assert float(expected_log_prob(table)) == -math.inf
