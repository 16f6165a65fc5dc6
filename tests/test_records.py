"""A batch keeps the normalisers of its buffer, whichever rows and views it is cut down to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.records import Batch, Views


def batch_of(num_rows: int, num_views: int = 2) -> Batch:
    """Row s has completions s, and its view r the reference's log-probabilities 10·s + r."""
    row = torch.arange(num_rows)
    shape = (num_rows, num_views, 3)
    numbers = 10.0 * row[:, None, None] + torch.arange(num_views)[:, None]
    return Batch(
        prompt_tokens=row[:, None],
        prompt_mask=torch.ones(num_rows, 1, dtype=torch.bool),
        completions=row[:, None].expand(num_rows, 3),
        answer_mask=torch.ones(num_rows, 3, dtype=torch.bool),
        views=Views(hidden=torch.ones(shape, dtype=torch.bool), coefficient=numbers.expand(shape)),
        weights=numbers[..., 0] - 5,
        behaviour_log_probs=None,
        reference_log_probs=numbers.expand(shape),
        num_rows_in_buffer=num_rows,
        num_tokens_in_buffer=3.0 * num_rows,
    )


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 7), st.integers(1, 5))
def test_pieces_hold_every_row_and_view_once(num_rows, num_views, rows, views):
    pieces = batch_of(num_rows, num_views).split(rows, views)
    assert all(p.num_rows <= rows and p.views.hidden.shape[1] <= views for p in pieces)
    assert all(torch.equal(p.reference_log_probs, p.views.coefficient) for p in pieces)
    assert all(torch.equal(p.weights, p.reference_log_probs[..., 0] - 5) for p in pieces)
    found = torch.cat([p.views.coefficient[..., 0].flatten() for p in pieces])
    expected = batch_of(num_rows, num_views).views.coefficient[..., 0].flatten()
    assert torch.equal(found.sort().values, expected)


def test_kept_rows_are_normalised_by_the_buffer_and_know_their_share_of_it():
    batch = batch_of(8).kept(torch.arange(8) >= 2)
    batch = batch.kept(batch.completions[:, 0] >= 5)
    assert batch.completions[:, 0].tolist() == [5, 6, 7]
    assert batch.num_rows_in_buffer == 8
    assert batch.num_tokens_in_buffer == 24
    assert batch.share_kept == pytest.approx(3 / 8)


def test_size_of_a_row_is_that_of_its_largest_weight():
    batch = replace(batch_of(2), weights=torch.tensor([[0.0, -3.0], [1.0, 0.5]]))
    assert batch.weight_sizes.tolist() == [3.0, 1.0]
    assert replace(batch, weights=torch.tensor([-2.0, 0.5])).weight_sizes.tolist() == [2.0, 0.5]
