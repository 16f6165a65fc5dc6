from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.diffusion.tilting import (
    effective_sample_size,
    group_advantages,
    group_softmax_weights,
    largest_coefficient,
    linear_weights,
    proximal_log_weights,
    tilted_log_weights,
)
from tests.oracles import weights as oracle

numbers = st.floats(-6, 6, allow_nan=False, width=32)
groups = st.lists(numbers, min_size=2, max_size=9)
links = st.sampled_from([group_softmax_weights, linear_weights])


def group(values) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


@given(groups, links)
def test_weights_have_mean_one_in_each_group(values, link):
    assert link(group(values)).mean().item() == pytest.approx(1)


@given(groups)
def test_softmax_weights_are_never_negative(values):
    assert (group_softmax_weights(group(values)) >= 0).all()


@given(groups)
def test_weights_agree_with_plain_python(values):
    assert group_softmax_weights(group(values))[0].tolist() == pytest.approx(
        oracle.softmax_weights(values)
    )
    assert linear_weights(group(values))[0].tolist() == pytest.approx(oracle.linear_weights(values))


@given(groups)
def test_links_agree_to_first_order(values):
    small = 1e-4 * group(values)
    difference = group_softmax_weights(small) - linear_weights(small)
    # Log weights of up to 6e-4: what is left is of the order of their squares.
    assert difference.abs().max() < 2e-6


@given(groups, links, st.floats(-50, 50))
def test_weights_ignore_a_constant(values, link, constant):
    assert torch.allclose(link(group(values)), link(group(values) + constant), atol=1e-9)


@given(groups, links, st.randoms())
def test_weights_follow_a_permutation_of_the_group(values, link, random):
    order = list(range(len(values)))
    random.shuffle(order)
    assert torch.allclose(link(group(values)[:, order]), link(group(values))[:, order])


@given(groups, links)
def test_weights_of_two_groups_do_not_touch_each_other(values, link):
    other = torch.linspace(-3, 3, len(values), dtype=torch.float64).unsqueeze(0)
    both = link(torch.cat([group(values), other]))
    assert torch.allclose(both, torch.cat([link(group(values)), link(other)]))


@given(groups, st.floats(0.05, 4), st.floats(0.1, 10))
def test_log_weights_ignore_a_common_factor_of_reward_and_alpha(rewards, alpha, factor):
    ratio = torch.linspace(-1, 1, len(rewards), dtype=torch.float64).unsqueeze(0)
    once = tilted_log_weights(group(rewards), ratio, alpha)
    scaled = tilted_log_weights(group(rewards) * factor, ratio, alpha * factor)
    assert torch.allclose(once, scaled)


@given(groups)
def test_effective_sample_size_lies_between_one_rollout_and_all(values):
    share = effective_sample_size(group_softmax_weights(group(values))).item()
    assert 1 / len(values) - 1e-9 <= share <= 1 + 1e-9
    assert share == pytest.approx(
        oracle.effective_sample_size(oracle.softmax_weights(values)), rel=1e-6
    )


@given(groups, st.floats(0.01, 1), st.floats(0.01, 1))
def test_effective_sample_size_falls_as_the_coefficient_grows(values, one, two):
    shares = [
        effective_sample_size(group_softmax_weights(c * group(values))).item()
        for c in sorted([one, two])
    ]
    assert shares[0] >= shares[1] - 1e-9


def test_effective_sample_size_of_no_weight_at_all_is_zero():
    assert effective_sample_size(torch.zeros(1, 4)).item() == 0


@given(groups, st.floats(0.2, 0.99))
def test_largest_coefficient_agrees_with_a_fine_grid(values, threshold):
    got = largest_coefficient(group(values), threshold, 0.01, 1.0).item()
    expected = oracle.largest_coefficient(values, threshold, 0.01, 1.0, steps=1000)
    assert got == pytest.approx(expected, abs=2e-3)


def test_largest_coefficient_stays_in_its_range():
    wild, tame = group([0.0, 500.0]), group([0.0, 0.1])
    assert largest_coefficient(wild, 0.9, 0.2, 0.8).item() == 0.2
    assert largest_coefficient(tame, 0.9, 0.2, 0.8).item() == 0.8


def test_largest_coefficient_is_each_group_s_own():
    both = torch.cat([group([0.0, 3.0, 1.0]), group([0.0, 9.0, 2.0])])
    together = largest_coefficient(both, 0.8, 0.01, 1.0)
    alone = [largest_coefficient(row.unsqueeze(0), 0.8, 0.01, 1.0).item() for row in both]
    assert together.tolist() == pytest.approx(alone)
    assert alone[0] > alone[1]


def test_proximal_step_scales_each_group_by_its_coefficient():
    got = proximal_log_weights(torch.ones(2, 3), torch.tensor([0.5, 0.1]))
    assert torch.allclose(got, torch.tensor([[0.5] * 3, [0.1] * 3]))


@given(groups, st.booleans(), st.sampled_from([None, 1e-4, 0.1]))
def test_advantages_agree_with_plain_python(rewards, leave_one_out, epsilon):
    got = group_advantages(group(rewards), leave_one_out=leave_one_out, scale_epsilon=epsilon)
    expected = oracle.advantages(rewards, leave_one_out=leave_one_out, epsilon=epsilon)
    assert got[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_effective_sample_size_does_not_depend_on_the_scale_of_the_weights():
    weights = torch.tensor([[1.0, 2.0, 5.0]])
    # (1 + 2 + 5)² / (3 · (1 + 4 + 25)) = 64 / 90
    assert effective_sample_size(weights).item() == pytest.approx(64 / 90)
    assert effective_sample_size(10 * weights).item() == pytest.approx(64 / 90)
