from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.objectives.bgpo import bounded_ratio
from tests.objectives.build import gradient
from tests.objectives.registered import drawn_buffer, registered, step
from tests.objectives.test_ratio import policy_of


@given(x=st.floats(-5, 5), advantage=st.floats(-3, 3))
def test_bound_times_the_advantage_never_exceeds_the_ratios(x, advantage):
    ratio = bounded_ratio(torch.tensor([[x]]), torch.tensor([[advantage]])).item()
    assert ratio * advantage <= math.exp(x) * advantage + 1e-4


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_bound_touches_the_ratio_at_one(advantage):
    x = torch.zeros(1, 1, requires_grad=True)
    ratio = bounded_ratio(x, torch.tensor([[advantage]]))
    ratio.backward()
    assert ratio.item() == 1
    assert x.grad.item() == 1


def test_far_moves_of_good_responses_have_a_number_and_a_gradient():
    x = torch.tensor([[-3.0, 200.0]], requires_grad=True)
    ratio = bounded_ratio(x, torch.tensor([[1.0]]))
    ratio.sum().backward()
    assert ratio.tolist() == [[-2.0, 201.0]]
    assert x.grad.tolist() == [[1.0, 1.0]]


def test_mean_over_draws_is_a_lower_bound_of_espos_surrogate():
    settings = {"epsilon": 0.99, "epsilon_high": 99.0, "beta": 0.0}
    bgpo = registered("bgpo", dual_clip=None, **settings)
    espo = registered("espo", weights={"name": "advantage", "scale": "std"}, **settings)
    behaviour, policy = policy_of(2), policy_of(2, 3)
    losses = []
    for objective in (bgpo, espo):
        _, batch = step(objective, behaviour, drawn_buffer(behaviour))
        losses.append([objective.loss(policy, row).loss.item() for row in batch.split(1)])
    for bound, loss in zip(*losses, strict=True):
        assert bound >= loss - 1e-6
    assert sum(losses[0]) > sum(losses[1]) + 1e-4


def test_each_draw_is_clipped_by_itself():
    objective = registered("bgpo")
    _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
    far = policy_of(2, 3, scale=2.0)
    assert 0 < objective.loss(far, batch).metrics["clip_ratio"].item() < 1
    good = replace(batch, weights=torch.ones_like(batch.weights))
    _, clipped = gradient(objective, far, good)
    _, free = gradient(registered("bgpo", epsilon_high=99.0), far, good)
    assert not torch.equal(clipped["logits"], free["logits"])
