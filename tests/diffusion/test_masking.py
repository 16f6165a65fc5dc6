from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.diffusion.masking import (
    bernoulli_masks,
    context_masks,
    count_masks,
    mask_counts,
    quadrature_counts,
    random_subsets,
    rate_masks,
    uniform_levels,
)
from dmpo.errors import ConfigError


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


booleans = st.booleans()
draws = st.sampled_from([2, 4, 6])
lengths = st.integers(1, 9)


@st.composite
def scored_rows(draw):
    length = draw(lengths)
    rows = draw(st.lists(st.integers(1, length), min_size=1, max_size=4))
    return torch.arange(length) < torch.tensor(rows).unsqueeze(-1)


@given(scored_rows(), draws, booleans, booleans, st.integers(0, 99))
def test_count_masks_never_hide_what_does_not_count(scored, num, antithetic, stratified, seed):
    hidden = count_masks(scored, num, rng(seed), antithetic=antithetic, stratified=stratified)
    assert hidden.shape == (scored.shape[0], num, scored.shape[1])
    assert not (hidden & ~scored.unsqueeze(-2)).any()


@given(scored_rows(), draws, booleans, st.integers(0, 99))
def test_rate_masks_never_hide_what_does_not_count(scored, num, antithetic, seed):
    hidden = rate_masks(
        scored, num, rng(seed), antithetic=antithetic, stratified=False, squeeze=False
    )
    assert hidden.shape == (scored.shape[0], num, scored.shape[1])
    assert not (hidden & ~scored.unsqueeze(-2)).any()


@given(scored_rows(), draws, booleans, st.integers(0, 99))
def test_antithetic_draws_are_complements(scored, num, stratified, seed):
    hidden = count_masks(scored, num, rng(seed), antithetic=True, stratified=stratified)
    first, second = hidden.chunk(2, dim=-2)
    assert not (first & second).any()
    assert torch.equal(first | second, scored.unsqueeze(-2).expand_as(first))


@pytest.mark.parametrize(
    ("antithetic", "stratified"), list(itertools.product([False, True], repeat=2))
)
def test_count_masks_spread_their_sizes_evenly_over_all_of_them(antithetic, stratified):
    scored = torch.ones(5000, 4, dtype=torch.bool)
    hidden = count_masks(scored, 2, rng(), antithetic=antithetic, stratified=stratified)
    frequency = torch.bincount(hidden.sum(-1).flatten(), minlength=5) / 10_000
    assert torch.allclose(frequency, torch.full((5,), 0.2), atol=0.03)


def test_count_masks_draw_every_set_of_a_size_alike():
    scored = torch.ones(6000, 4, dtype=torch.bool)
    hidden = random_subsets(scored, torch.full((6000, 1), 2), rng())
    seen = Counter(map(tuple, hidden[:, 0].tolist()))
    assert len(seen) == 6
    assert all(abs(count - 1000) < 150 for count in seen.values())


def test_stratified_counts_take_each_size_once_when_there_are_as_many_draws():
    counts = mask_counts(torch.full((50,), 7), 8, rng(), stratified=True)
    assert torch.equal(counts.sort(-1).values, torch.arange(8).expand(50, 8))


def test_stratified_levels_are_evenly_spaced():
    levels = uniform_levels((100,), 5, rng(), stratified=True)
    assert torch.allclose(levels.diff(dim=-1), torch.full((100, 4), 0.2, dtype=torch.float64))
    assert levels.min() >= 0
    assert levels.max() <= 1


@pytest.mark.parametrize("stratified", [False, True])
def test_squeezed_rates_are_those_of_the_official_code(stratified):
    scored = torch.ones(4000, 20, dtype=torch.bool)
    hidden = rate_masks(scored, 2, rng(), antithetic=True, stratified=stratified, squeeze=True)
    first, second = hidden.float().mean((0, 2)).tolist()
    assert first == pytest.approx(0.55, abs=0.02)
    assert second == pytest.approx(0.45, abs=0.02)
    # t in [0.1, 1]: 20 hidden tokens of 20 are common, none of 20 is rare.
    sizes = hidden[:, 0].sum(-1)
    assert (sizes == 20).sum() > 3 * (sizes == 0).sum()


def test_squeeze_without_pairs_is_refused():
    scored = torch.ones(1, 4, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"\+10%"):
        rate_masks(scored, 2, rng(), antithetic=False, stratified=False, squeeze=True)


def test_pairs_of_an_odd_number_of_draws_are_refused():
    scored = torch.ones(1, 4, dtype=torch.bool)
    with pytest.raises(ConfigError, match="even number"):
        count_masks(scored, 3, rng(), antithetic=True, stratified=False)


def test_masks_come_from_the_generator_alone():
    scored = torch.ones(5, 6, dtype=torch.bool)
    state = torch.get_rng_state()
    first = count_masks(scored, 4, rng(7), antithetic=True, stratified=True)
    torch.manual_seed(123)
    again = count_masks(scored, 4, rng(7), antithetic=True, stratified=True)
    torch.set_rng_state(state)
    assert torch.equal(first, again)
    assert not torch.equal(first, count_masks(scored, 4, rng(8), antithetic=True, stratified=True))


def test_bernoulli_masks_hide_at_their_rate_and_only_what_counts():
    scored = (torch.arange(10) < 6).expand(2000, 10)
    hidden = bernoulli_masks(scored, torch.tensor([0.0, 0.3, 1.0]).expand(2000, 3), rng())
    assert hidden[..., :6].float().mean((0, 2)).tolist() == pytest.approx([0, 0.3, 1], abs=0.02)
    assert not hidden[..., 6:].any()


def test_context_masks_hide_real_tokens_at_their_rate():
    real = (torch.arange(5) >= 2).expand(2000, 5)
    hidden = context_masks(real, 3, 0.15, rng())
    assert hidden.shape == (2000, 3, 5)
    assert hidden[..., 2:].float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert not hidden[..., :2].any()


def test_quadrature_counts_are_rounded_and_neither_zero_nor_too_many():
    counts = quadrature_counts(torch.tensor([64, 3, 1]), torch.tensor([0.1127, 0.5, 0.8873]))
    assert counts.tolist() == [[7, 32, 57], [1, 2, 3], [1, 1, 1]]


@pytest.mark.parametrize("antithetic", [False, True])
def test_stratified_rates_make_every_size_as_likely(antithetic):
    scored = torch.ones(5000, 4, dtype=torch.bool)
    hidden = rate_masks(scored, 2, rng(), antithetic=antithetic, stratified=True, squeeze=False)
    frequency = torch.bincount(hidden.sum(-1).flatten(), minlength=5) / 10_000
    assert torch.allclose(frequency, torch.full((5,), 0.2), atol=0.03)
