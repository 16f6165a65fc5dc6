from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.reporting.intervals import mean_interval, student_t_quantile


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (30, 2.0423)]
)
def test_student_t_quantile_has_the_values_of_the_tables(freedom: int, expected: float) -> None:
    assert student_t_quantile(freedom) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 6, 11])
def test_student_t_quantile_encloses_its_share_of_the_density(freedom: int) -> None:
    bound, count = student_t_quantile(freedom, 0.9), 20_000
    norm = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    grid = ((n + 0.5) / count * bound for n in range(count))
    inside = sum(norm * (1 + t * t / freedom) ** (-(freedom + 1) / 2) for t in grid)
    assert 2 * inside * bound / count == pytest.approx(0.9, abs=1e-6)


def test_mean_interval_of_three_seeds_has_the_value_found_by_hand() -> None:
    # s = 1, n = 3, t = 4.3027: half width 4.3027 / √3 = 2.4842
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.half_width is not None
    assert (interval.mean, interval.half_width) == pytest.approx((2.0, 2.4841), abs=1e-3)


def test_a_single_seed_has_no_interval() -> None:
    assert mean_interval([0.4]).half_width is None


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(-3, 3), st.floats(0.5, 4))
def test_mean_interval_moves_and_scales_with_its_values(
    values: list[float], shift: float, scale: float
) -> None:
    before, after = mean_interval(values), mean_interval([scale * v + shift for v in values])
    assert before.half_width is not None
    assert after.mean == pytest.approx(scale * before.mean + shift, abs=1e-9)
    assert after.half_width == pytest.approx(scale * before.half_width, abs=1e-9)
