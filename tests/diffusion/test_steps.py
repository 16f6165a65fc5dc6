from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.diffusion.draws import GroupGenerator
from dmpo.diffusion.steps import distinct_draws, path_steps, step_means, systematic_draws

seeds = st.integers(0, 999)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_steps_are_ranked_per_row_and_those_that_commit_nothing_that_counts_left_out():
    commit = torch.tensor([[7, 2, 2, 5], [0, 3, 3, 1]])
    scored = torch.tensor([[True, True, True, True], [True, True, True, False]])
    steps = path_steps(commit, scored)
    assert steps.rank.tolist() == [[2, 0, 0, 1], [0, 1, 1, -1]]
    assert steps.number.tolist() == [[2, 5, 7], [0, 3, 0]]
    assert steps.count.tolist() == [3, 2]
    assert steps.exists.tolist() == [[True, True, True], [True, True, False]]


@given(st.integers(1, 8), seeds)
def test_rank_is_the_number_of_earlier_steps(length, seed):
    commit = torch.randint(0, 20, (3, length), generator=rng(seed))
    scored = torch.rand(3, length, generator=rng(seed)) < 0.7
    steps = path_steps(commit, scored)
    for row in range(3):
        numbers = sorted(set(commit[row][scored[row]].tolist()))
        assert steps.count[row].item() == len(numbers)
        assert steps.number[row, : len(numbers)].tolist() == numbers
        for place in range(length):
            expected = numbers.index(commit[row, place]) if scored[row, place] else -1
            assert steps.rank[row, place].item() == expected


def test_means_are_over_the_tokens_of_a_step_that_count():
    commit = torch.tensor([[1, 0, 1, 1]])
    scored = torch.tensor([[True, True, True, False]])
    means = step_means(torch.tensor([[1.0, 5.0, 3.0, 9.0]]), path_steps(commit, scored))
    assert means.tolist() == [[5.0, 2.0]]


@given(st.integers(1, 6), st.integers(1, 9), seeds)
def test_systematic_draws_hit_each_index_within_one_of_its_expectation(size, num_draws, seed):
    chances = torch.rand(size, generator=rng(seed), dtype=torch.float64) + 0.01
    chances = chances / chances.sum()
    drawn = systematic_draws(chances, torch.tensor(num_draws), num_draws, rng(seed))
    hits = torch.bincount(drawn, minlength=size)
    assert (drawn.diff() >= 0).all()
    assert ((hits - num_draws * chances).abs() < 1 + 1e-9).all()


def test_systematic_draws_hit_each_index_as_often_as_expected():
    chances = torch.tensor([0.5, 0.0, 0.2, 0.3]).expand(5000, 4)
    counts = torch.full((5000,), 3)
    drawn = systematic_draws(chances, counts, 5, rng())
    assert (drawn[:, 3:] == -1).all()
    hits = torch.bincount(drawn[:, :3].flatten(), minlength=4) / 5000
    assert hits.tolist() == pytest.approx([1.5, 0, 0.6, 0.9], abs=0.03)


def test_distinct_draws_are_different_and_end_where_nothing_is_left():
    chances = torch.tensor([0.5, 0.0, 0.2, 0.3]).expand(5000, 4)
    drawn = distinct_draws(chances.log(), 9, rng())
    assert drawn.shape == (5000, 9)
    assert (drawn.sort(-1).values == torch.tensor([-1] * 6 + [0, 2, 3])).all()
    first = torch.bincount(drawn[:, 0], minlength=4) / 5000
    assert first.tolist() == pytest.approx([0.5, 0, 0.2, 0.3], abs=0.03)


def test_distinct_draws_of_a_group_do_not_depend_on_the_steps_of_another():
    chances = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
    short, long = (GroupGenerator(0, torch.tensor(keys)) for keys in ([7], [7, 8]))
    alone = distinct_draws(chances[:1, :2].log(), 3, short)
    assert alone.equal(distinct_draws(chances.log(), 3, long)[:1])


def test_distinct_draws_are_in_proportion_among_many():
    chances = torch.tensor([0.4, *[0.1] * 6]).expand(5000, 7)
    first, second = distinct_draws(chances.log(), 2, rng()).unbind(-1)
    assert (first == 0).double().mean().item() == pytest.approx(0.4, abs=0.03)
    # What is left over is drawn from in proportion again: 0.6 · 0.4/0.9.
    assert (second == 0).double().mean().item() == pytest.approx(0.6 * 4 / 9, abs=0.03)
