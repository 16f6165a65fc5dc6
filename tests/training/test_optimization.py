from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.training.optimization import (
    OptimizationSettings,
    build_optimizer,
    build_scheduler,
    schedule_factor,
    trainable_parameters,
)


def test_cosine_is_half_way_down_at_half_time() -> None:
    settings = OptimizationSettings(num_steps=10, schedule="cosine")
    factors = [schedule_factor(step, settings) for step in (0, 5, 10)]
    assert factors == pytest.approx([1.0, 0.5, 0.0])


@given(
    warmup=st.integers(0, 10),
    steps=st.integers(10, 30),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
)
def test_learning_rate_rises_to_the_peak_and_never_rises_again(
    warmup: int, steps: int, schedule: str
) -> None:
    settings = OptimizationSettings(num_steps=steps, warmup_steps=warmup, schedule=schedule)
    factors = [schedule_factor(step, settings) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[max(0, warmup - 1)] == 1
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


def test_scheduler_follows_the_factor() -> None:
    module = torch.nn.Linear(2, 2)
    settings = OptimizationSettings(num_steps=8, warmup_steps=4, schedule="linear")
    optimizer = build_optimizer(module.parameters(), settings)
    scheduler = build_scheduler(optimizer, settings)
    for step in range(8):
        rate = optimizer.param_groups[0]["lr"]
        assert rate == pytest.approx(settings.learning_rate * schedule_factor(step, settings))
        optimizer.step()
        scheduler.step()


def test_optimizer_is_adamw_as_written_out() -> None:
    settings = OptimizationSettings(
        learning_rate=0.1, betas=(0.8, 0.9), adam_epsilon=1e-3, weight_decay=0.2
    )
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.0]))
    optimizer = build_optimizer([weight], settings)
    expected, first, second = weight.detach().double(), 0.0, 0.0
    for step in range(1, 6):
        gradient = torch.tensor([0.3, -1.0, 2.0]) * step
        weight.grad = gradient
        optimizer.step()
        first, second = 0.8 * first + 0.2 * gradient, 0.9 * second + 0.1 * gradient**2
        scaled = (first / (1 - 0.8**step)) / ((second / (1 - 0.9**step)) ** 0.5 + 1e-3)
        expected = expected * (1 - 0.1 * 0.2) - 0.1 * scaled
    torch.testing.assert_close(weight.detach().double(), expected, atol=1e-6, rtol=1e-6)


def test_frozen_parameters_are_not_trained() -> None:
    module = torch.nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    assert [parameter.shape for parameter in trainable_parameters(module)] == [(2, 2)]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"warmup_steps": 11, "num_steps": 10}, "warmup_steps 11 exceeds num_steps 10"),
        ({"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\)"),
    ],
)
def test_contradictions_are_refused(given_: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizationSettings(**given_)
