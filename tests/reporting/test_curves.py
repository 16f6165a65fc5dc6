from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.reporting.curves import Curve, curve_on_axis, mean_band, thinned


def test_curve_leaves_out_steps_whose_position_is_unknown() -> None:
    curve = curve_on_axis({0: 1.0, 4: 2.0, 8: 3.0}, {0: 0.0, 4: 900.0})
    assert curve == Curve((0.0, 900.0), (1.0, 2.0))


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=60), st.integers(1, 70))
def test_thinned_curve_has_no_more_points_and_stays_inside(ys: list[float], most: int) -> None:
    curve = thinned(Curve(tuple(map(float, range(len(ys)))), tuple(ys)), most)
    assert len(curve.x) == min(len(ys), most)
    assert list(curve.x) == sorted(curve.x)
    assert min(ys) - 1e-9 <= min(curve.y) <= max(curve.y) <= max(ys) + 1e-9


def test_band_of_runs_with_the_same_positions_interpolates_nothing() -> None:
    band = mean_band([Curve((0.0, 1.0), (2.0, 4.0)), Curve((0.0, 1.0), (4.0, 8.0))])
    assert (band.x, band.mean) == ((0.0, 1.0), (3.0, 6.0))
    assert (band.low, band.high) == ((2.0, 4.0), (4.0, 8.0))


def test_band_ends_where_the_shortest_run_does() -> None:
    band = mean_band([Curve((0.0, 2.0), (0.0, 2.0)), Curve((0.0, 1.0, 4.0), (0.0, 3.0, 6.0))])
    assert band.x == (0.0, 1.0, 2.0)
    assert band.mean == pytest.approx((0.0, 2.0, 3.0))


def test_band_leaves_out_runs_without_points() -> None:
    assert mean_band([Curve((), ()), Curve((1.0,), (5.0,))]).mean == (5.0,)
    assert mean_band([]).x == ()


@given(st.lists(st.lists(st.floats(-9, 9), min_size=2, max_size=9), min_size=1, max_size=4))
def test_band_encloses_its_mean(runs: list[list[float]]) -> None:
    band = mean_band([Curve(tuple(map(float, range(len(ys)))), tuple(ys)) for ys in runs], most=5)
    assert len(band.x) <= 5
    for low, mean, high in zip(band.low, band.mean, band.high, strict=True):
        assert low - 1e-9 <= mean <= high + 1e-9
