from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.objectives.build import gradient
from tests.objectives.registered import drawn_buffer, registered, step
from tests.objectives.test_ratio import policy_of


def test_factors_of_a_view_cancel():
    objective = registered("unigrpo")
    _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
    factors = torch.rand(batch.views.hidden.shape[:2]).unsqueeze(-1) + 0.1
    views = replace(batch.views, coefficient=batch.views.coefficient * factors)
    loss, gradients = gradient(objective, policy_of(2, 3), batch)
    other, scaled = gradient(objective, policy_of(2, 3), replace(batch, views=views))
    assert other == pytest.approx(loss, abs=1e-6)
    assert torch.allclose(scaled["logits"], gradients["logits"], atol=1e-7)


def test_pull_is_towards_the_policy_of_the_rollouts():
    objective = registered("unigrpo")
    assert not objective.needs_reference
    _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
    assert objective.loss(policy_of(2), batch).metrics["kl"].item() == pytest.approx(0, abs=1e-9)
    assert objective.loss(policy_of(2, 3), batch).metrics["kl"].item() > 0.01


def test_every_view_weighs_alike_however_much_it_hides():
    objective = registered("unigrpo", beta=0.0)
    _, batch = step(objective, policy_of(2), drawn_buffer(policy_of(2)))
    scores = (batch.views.coefficient != 0).any(-1)
    assert objective.loss(policy_of(2), batch).loss.item() == pytest.approx(
        -(batch.weights * scores.any(-1)).mean().item(), abs=1e-6
    )
