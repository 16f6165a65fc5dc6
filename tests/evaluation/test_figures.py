from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.evaluation.figures import (
    Z_95,
    pass_at_k,
    powers_up_to,
    summarize,
    wilson_interval,
)
from tests.oracles.training import wilson_by_search


def test_wilson_interval_has_the_value_found_by_hand() -> None:
    # p̂ = 1/2, n = 4, z² = 3.8415: centre .5, half width √(.0625·z² + z⁴/64)·/(1 + z²/4) = .35
    low, high = wilson_interval(0.5, 4)
    assert (low, high) == pytest.approx((0.15003, 0.84997), abs=1e-5)


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (3, 10), (10, 10), (52, 256)])
def test_wilson_interval_holds_what_the_score_test_accepts(successes: int, count: int) -> None:
    expected = wilson_by_search(successes, count, Z_95)
    assert wilson_interval(successes / count, count) == pytest.approx(expected, abs=1e-4)


@given(successes=st.integers(0, 50), rest=st.integers(0, 50))
def test_wilson_interval_surrounds_the_share_within_0_and_1(successes: int, rest: int) -> None:
    count = max(1, successes + rest)
    mean = successes / count
    low, high = wilson_interval(mean, count)
    assert 0 <= low <= mean <= high <= 1


def test_figure_of_shares_is_mean_with_standard_error_over_problems() -> None:
    figure = summarize([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert figure.mean == 0.5
    assert figure.count == 3
    assert figure.standard_error == pytest.approx((0.25 / 3) ** 0.5)
    assert figure.high - figure.low == pytest.approx(2 * Z_95 * figure.standard_error)


def test_figure_of_right_and_wrong_gets_wilsons_interval() -> None:
    figure = summarize([[1.0], [0.0], [1.0], [0.0]])
    assert (figure.low, figure.high) == pytest.approx((0.15003, 0.84997), abs=1e-5)


def test_single_problem_has_no_spread() -> None:
    assert summarize([[0.3, 0.5]]).standard_error == 0


@given(samples=st.lists(st.booleans(), min_size=1, max_size=8), data=st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(
    samples: list[bool], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(samples)))
    subsets = [any(subset) for subset in itertools.combinations(samples, k)]
    expected = sum(subsets) / len(subsets)
    assert pass_at_k(len(samples), sum(samples), k) == pytest.approx(expected)


@pytest.mark.parametrize(("samples", "ks"), [(1, [1]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_pass_at_k_is_told_for_powers_of_two_and_all_samples(samples: int, ks: list[int]) -> None:
    assert powers_up_to(samples) == ks
