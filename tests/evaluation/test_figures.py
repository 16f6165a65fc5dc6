from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.evaluation.figures import Z_95, summarize, wilson_interval
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
