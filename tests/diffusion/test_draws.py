from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dmpo.diffusion.draws import (
    GroupGenerator,
    row_streams,
    substreams,
    uniform,
    uniforms_at,
    unit_interval,
)

SEED = 1234567
CPU = torch.device("cpu")

seeds = st.integers(0, 2**63 - 1)
dtypes = st.sampled_from([torch.float32, torch.float64])


@st.composite
def groups_and_choices(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Draw keys of some groups, and places of some of them in another order."""
    keys = draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=6, unique=True))
    order = draw(st.permutations(range(len(keys))))
    return keys, order[: draw(st.integers(1, len(keys)))]


def of(seed: int, keys: list[int]) -> GroupGenerator:
    return GroupGenerator(seed, torch.tensor(keys, dtype=torch.long))


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_numbers_are_those_of_the_published_splitmix64() -> None:
    # Outputs of the reference code for the state 1234567 (Rosetta Code, "splitmix64").
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    found = uniforms_at(torch.tensor(SEED), torch.arange(3))
    assert found.tolist() == [(number >> 11) / 2**53 for number in known]
    single = uniforms_at(torch.tensor(SEED), torch.arange(3), torch.float32)
    assert single.tolist() == [(number >> 40) / 2**24 for number in known]


@given(groups_and_choices(), seeds, dtypes)
def test_what_a_group_draws_depends_on_no_other_group_and_no_order(
    chosen: tuple[list[int], list[int]], seed: int, dtype: torch.dtype
) -> None:
    keys, places = chosen
    everyone, some = of(seed, keys), of(seed, [keys[place] for place in places])
    for shape in ((3, 5), (), (2, 1, 4)):  # several calls, one after the other
        together = uniform((len(keys), *shape), everyone, dtype)
        assert uniform((len(places), *shape), some, dtype).equal(together[places])


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 7), seeds)
def test_columns_added_on_the_left_leave_the_others_what_they_are(
    rows: int, width: int, more: int, seed: int
) -> None:
    short = uniform((2, rows, width), of(seed, [4, 9]))
    long = uniform((2, rows, width + more), of(seed, [4, 9]))
    assert long[..., more:].equal(short)
    assert len(long.unique()) == long.numel()


@given(st.integers(1, 4), st.integers(1, 6), seeds)
def test_rows_added_behind_leave_the_others_what_they_are(rows: int, more: int, seed: int) -> None:
    few, many = (uniform((2, n, 3), of(seed, [0, 1])) for n in (rows, rows + more))
    assert many[:, :rows].equal(few)


def test_every_call_draws_anew_and_a_fresh_generator_begins_again() -> None:
    generator = of(SEED, [0, 1])
    calls = [uniform((2, 3), generator) for _ in range(50)]
    assert len(torch.stack(calls).unique()) == 50 * 6
    again = of(SEED, [0, 1])
    assert all(uniform((2, 3), again).equal(call) for call in calls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_are_uniform(dtype: torch.dtype) -> None:
    count = 400_000
    found = uniform((100, count // 100), of(SEED, list(range(100))), dtype)
    assert found.dtype == dtype
    assert 0 <= found.min() < 10 / count
    assert 1 - 10 / count < found.max() < 1
    # Mean 1/2 and variance 1/12; four standard errors of each.
    assert abs(float(found.double().mean()) - 1 / 2) < 4 * math.sqrt(1 / 12 / count)
    assert abs(float(found.double().var()) - 1 / 12) < 4 * math.sqrt(1 / 180 / count)
    hits = (found.flatten() * 64).long().bincount(minlength=64).double()
    chi_square = float(((hits - count / 64) ** 2 / (count / 64)).sum())
    assert abs(chi_square - 63) < 4 * math.sqrt(2 * 63)


def test_fractions_never_reach_one_in_either_precision() -> None:
    largest = torch.tensor(-1)  # all 64 bits set
    assert unit_interval(largest, torch.float32).item() == 1 - 2.0**-24
    assert unit_interval(largest, torch.float64).item() == 1 - 2.0**-53
    assert unit_interval(torch.tensor(0)).item() == 0


def test_neighbours_are_not_correlated() -> None:
    size = 400
    generator = of(SEED, list(range(size)))
    found = uniform((size, size, 4), generator)
    next_call = uniform((size, size, 4), generator)
    other_seed = uniform((size, size, 4), of(SEED + 1, list(range(size))))
    pairs = {
        "keys": (found[1:], found[:-1]),
        "rows": (found[:, 1:], found[:, :-1]),
        "places": (found[..., 1:], found[..., :-1]),
        "keys and rows": (found[1:, 1:], found[:-1, :-1]),
        "calls": (found, next_call),
        "seeds": (found, other_seed),
    }
    for name, (one, other) in pairs.items():
        assert abs(correlation(one, other)) < 4.5 / math.sqrt(one.numel()), name


def test_a_key_and_a_call_do_not_stand_in_for_each_other() -> None:
    generator = of(SEED, list(range(200)))
    drawn = torch.stack([uniform((200, 2, 5), generator) for _ in range(100)])
    assert len(drawn.unique()) == drawn.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_any_other_generator_draws_as_torch_does(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    found = uniform(shape, torch.Generator().manual_seed(3), dtype)
    expected = torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
    assert found.equal(expected)


@pytest.mark.parametrize("shape", [(), (3,), (1, 2)])
def test_shapes_of_other_groups_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"2 groups cannot draw numbers of shape \["):
        uniform(shape, of(SEED, [0, 1]))


def test_nothing_to_draw_is_an_empty_tensor() -> None:
    assert uniform((2, 3, 0), of(SEED, [0, 1])).shape == (2, 3, 0)
    assert uniform((0, 3), of(SEED, [])).shape == (0, 3)


def test_whoever_knows_nothing_of_groups_draws_from_a_stream_of_the_first_key() -> None:
    first, again, other = (torch.rand(4, generator=of(SEED, [key])) for key in (5, 5, 6))
    assert first.equal(again)
    assert not first.equal(other)


def test_streams_of_rows_and_their_parts_are_all_different() -> None:
    generator = of(SEED, list(range(40)))
    rows = row_streams(generator, 40, 30, CPU)
    parts = torch.stack([substreams(rows, number) for number in range(40)])
    deeper = torch.stack([substreams(parts, number) for number in range(3)])
    everything = torch.cat([rows.flatten(), parts.flatten(), deeper.flatten()])
    assert len(everything.unique()) == len(everything)
    numbers = uniforms_at(parts, torch.arange(4).expand(*parts.shape, -1))
    assert len(numbers.unique()) == numbers.numel()


def test_row_streams_belong_to_group_and_row_alone() -> None:
    whole = row_streams(of(SEED, [3, 1, 8]), 3, 5, CPU)
    assert row_streams(of(SEED, [8, 3]), 2, 5, CPU).equal(whole[[2, 0]])
    assert row_streams(of(SEED, [3, 1, 8]), 3, 2, CPU).equal(whole[:, :2])


def test_row_streams_of_any_other_generator_take_one_draw_and_tell_groups_apart() -> None:
    one, other = (torch.Generator().manual_seed(0) for _ in range(2))
    streams = row_streams(one, 20, 30, CPU)
    row_streams(other, 2, 3, CPU)
    assert len(streams.unique()) == 600
    assert torch.rand(1, generator=one).equal(torch.rand(1, generator=other))
    assert not row_streams(one, 20, 30, CPU).equal(streams)


def test_numbers_of_a_place_do_not_depend_on_the_places_beside_it() -> None:
    streams = row_streams(of(SEED, [0, 1]), 2, 3, CPU)
    every = uniforms_at(streams, torch.arange(10).expand(2, 3, -1))
    for some in itertools.combinations(range(10), 2):
        at = torch.tensor(some).expand(2, 3, -1)
        assert uniforms_at(streams, at).equal(every[..., list(some)])
