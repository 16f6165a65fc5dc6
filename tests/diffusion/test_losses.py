from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.diffusion.losses import (
    clipped_surrogate,
    is_clipped,
    k3_divergence,
    weighted_denoising_cross_entropy,
    weighted_discriminative_loss,
)
from tests.oracles import losses as oracle

log_ratios = st.floats(-2, 2, allow_nan=False)
advantages = st.floats(-3, 3, allow_nan=False)
epsilons = st.floats(0.05, 0.9)


def test_denoising_cross_entropy_is_the_weighted_mean_per_token():
    got = weighted_denoising_cross_entropy(
        torch.tensor([-6.0, -8.0]), torch.tensor([1.0, -2.0]), torch.tensor([3, 4]), 2
    )
    # (1·6/3 − 2·8/4) / 2 rows
    assert got.item() == pytest.approx(-1.0)


def test_denoising_cross_entropy_adds_up_over_slices():
    scores, weights, lengths = torch.randn(6), torch.randn(6), torch.tensor([1, 2, 3, 4, 5, 6])
    whole = weighted_denoising_cross_entropy(scores, weights, lengths, 6)
    parts = [
        weighted_denoising_cross_entropy(scores[cut], weights[cut], lengths[cut], 6)
        for cut in (slice(0, 1), slice(1, 5), slice(5, 6))
    ]
    assert torch.allclose(whole, torch.stack(parts).sum())


def test_denoising_cross_entropy_of_an_empty_answer_is_zero():
    zero = torch.zeros(1)
    got = weighted_denoising_cross_entropy(zero, torch.ones(1), torch.zeros(1, dtype=torch.long), 1)
    assert got.item() == 0


@given(log_ratios, advantages, epsilons, epsilons)
def test_clipped_surrogate_agrees_with_plain_python(log_ratio, advantage, low, high):
    got = clipped_surrogate(
        torch.tensor([[log_ratio]], dtype=torch.float64),
        torch.tensor([advantage], dtype=torch.float64),
        epsilon_low=low,
        epsilon_high=high,
    )
    assert got.item() == pytest.approx(oracle.clipped_surrogate(log_ratio, advantage, low, high))


@given(log_ratios, advantages.filter(lambda value: abs(value) > 1e-3), epsilons)
def test_token_is_clipped_exactly_where_it_gives_no_gradient(log_ratio, advantage, epsilon):
    ratio = torch.tensor([[log_ratio]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([advantage], dtype=torch.float64)
    clip = {"epsilon_low": epsilon, "epsilon_high": epsilon}
    clipped_surrogate(ratio, weight, **clip).sum().backward()
    assert is_clipped(ratio.detach(), weight, **clip).item() == (ratio.grad.item() == 0)


@given(st.floats(-5, 0), st.floats(-5, 0))
def test_k3_is_never_negative_and_zero_where_both_agree(log_prob, reference):
    one = torch.tensor([[log_prob]], dtype=torch.float64)
    two = torch.tensor([[reference]], dtype=torch.float64)
    assert k3_divergence(one, two).item() >= -1e-12
    assert k3_divergence(one, one).item() == 0
    assert k3_divergence(one, two).item() == pytest.approx(oracle.k3(log_prob, reference), abs=1e-9)


def test_k3_is_the_divergence_in_the_mean():
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reference = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    mean = (policy * k3_divergence(policy.log()[None], reference.log()[None])[0]).sum()
    assert mean.item() == pytest.approx((policy * (policy / reference).log()).sum().item())


def test_weighted_discriminative_loss_is_log_two_per_term_where_nothing_has_moved() -> None:
    # Δ = 0 in both halves: σ(0) = 1/2, so w·log 2 + γ·log 2, with mean-one weights (1 + γ)·log 2.
    still = torch.zeros(4)
    weights = torch.tensor([2.0, 1.0, 1.0, 0.0])
    loss = weighted_discriminative_loss(still, still, weights, 4, beta=1.0, gamma=0.5)
    assert loss.item() == pytest.approx(1.5 * math.log(2))
