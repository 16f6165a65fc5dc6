from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dmpo.errors import ConfigError
from dmpo.records import LogRatio
from dmpo.weights.advantage import AdvantageConfig, AdvantageWeights
from dmpo.weights.linear import LinearConfig, LinearWeights
from dmpo.weights.tilted import TiltedConfig, TiltedWeights
from dmpo.weights.tilted_adaptive import TiltedAdaptiveConfig, TiltedAdaptiveWeights
from tests.oracles import weights as oracle

BUILD = {
    "tilted": lambda **settings: TiltedWeights(TiltedConfig(**settings)),
    "tilted_adaptive": lambda **settings: TiltedAdaptiveWeights(TiltedAdaptiveConfig(**settings)),
    "linear": lambda **settings: LinearWeights(LinearConfig(**settings)),
}
linked = st.sampled_from(sorted(BUILD))
softmaxed = st.sampled_from(["tilted", "tilted_adaptive"])
rewards_of_groups = st.lists(
    st.floats(-2, 2, allow_nan=False, width=32), min_size=3, max_size=8
).map(lambda values: torch.tensor([values], dtype=torch.float64))
alphas = st.floats(0.2, 5)


def ratio_like(rewards: torch.Tensor, scale: float = 1.0) -> LogRatio:
    value = scale * torch.linspace(-1, 1, rewards.shape[-1], dtype=rewards.dtype)
    return LogRatio(value=value.expand_as(rewards).clone(), standard_error=None)


@given(rewards_of_groups, linked, alphas)
def test_weights_have_mean_one_per_group(rewards, name, alpha):
    weights = BUILD[name](alpha=alpha).estimate(rewards, ratio_like(rewards))
    assert weights.values.mean().item() == pytest.approx(1)


@given(rewards_of_groups, softmaxed, alphas)
def test_softmax_weights_are_not_negative_and_report_their_sample_size(rewards, name, alpha):
    weights = BUILD[name](alpha=alpha).estimate(rewards, ratio_like(rewards))
    assert (weights.values >= 0).all()
    assert weights.ess.tolist() == pytest.approx(
        [oracle.effective_sample_size(weights.values[0].tolist())]
    )


@given(rewards_of_groups, linked, alphas, st.floats(-3, 3))
def test_weights_ignore_a_constant_reward(rewards, name, alpha, constant):
    estimator = BUILD[name](alpha=alpha)
    once = estimator.estimate(rewards, ratio_like(rewards)).values
    assert torch.allclose(once, estimator.estimate(rewards + constant, ratio_like(rewards)).values)


@given(rewards_of_groups, linked, alphas, st.floats(0.2, 5))
def test_weights_ignore_a_common_factor_of_reward_and_alpha(rewards, name, alpha, factor):
    once = BUILD[name](alpha=alpha).estimate(rewards, ratio_like(rewards)).values
    scaled = BUILD[name](alpha=alpha * factor).estimate(rewards * factor, ratio_like(rewards))
    assert torch.allclose(once, scaled.values)


@given(rewards_of_groups, linked, alphas, st.randoms())
def test_weights_follow_a_permutation_of_the_group(rewards, name, alpha, random):
    order = list(range(rewards.shape[-1]))
    random.shuffle(order)
    estimator, ratio = BUILD[name](alpha=alpha), ratio_like(rewards)
    moved = LogRatio(value=ratio.value[:, order], standard_error=None)
    again = estimator.estimate(rewards[:, order], moved).values
    assert torch.allclose(estimator.estimate(rewards, ratio).values[:, order], again)


@given(rewards_of_groups, linked, alphas)
def test_weights_rise_with_the_reward_at_equal_log_ratio(rewards, name, alpha):
    weights = BUILD[name](alpha=alpha).estimate(rewards, ratio_like(rewards, 0.0)).values
    ordered = weights[0, rewards[0].argsort()]
    assert (ordered.diff() >= -1e-12).all()


@given(rewards_of_groups, linked)
def test_weights_become_uniform_as_alpha_grows_where_reference_is_behaviour(rewards, name):
    weights = BUILD[name](alpha=1e8).estimate(rewards, ratio_like(rewards, 0.0))
    assert torch.allclose(weights.values, torch.ones_like(rewards), atol=1e-6)


@given(rewards_of_groups, alphas, st.floats(0.05, 1), st.floats(0.05, 1))
def test_sample_size_falls_as_the_coefficient_grows(rewards, alpha, one, two):
    sizes = [
        BUILD["tilted"](alpha=alpha, coefficient=c).estimate(rewards, ratio_like(rewards)).ess
        for c in sorted([one, two])
    ]
    assert sizes[0].item() >= sizes[1].item() - 1e-9


@given(rewards_of_groups, linked)
def test_links_agree_to_first_order(rewards, name):
    weights = BUILD[name](alpha=1e4).estimate(rewards, ratio_like(rewards, 1e-4)).values
    linear = BUILD["linear"](alpha=1e4).estimate(rewards, ratio_like(rewards, 1e-4)).values
    assert (weights - linear).abs().max() < 1e-6


@given(rewards_of_groups, alphas)
def test_tilted_weights_are_the_softmax_of_the_scaled_log_weights(rewards, alpha):
    weights = BUILD["tilted"](alpha=alpha, coefficient=0.3).estimate(rewards, ratio_like(rewards))
    ratio = ratio_like(rewards).value[0].tolist()
    logs = [0.3 * (r / alpha + d) for r, d in zip(rewards[0].tolist(), ratio, strict=True)]
    assert weights.log_weights[0].tolist() == pytest.approx(logs)
    assert weights.values[0].tolist() == pytest.approx(oracle.softmax_weights(logs))
    assert weights.coefficient.tolist() == pytest.approx([0.3])


@given(rewards_of_groups, st.floats(0.3, 0.95))
def test_adaptive_weights_take_the_largest_step_of_enough_sample_size(rewards, threshold):
    estimator = BUILD["tilted_adaptive"](alpha=0.1, threshold=threshold, c_min=0.001)
    weights = estimator.estimate(rewards, ratio_like(rewards))
    chosen = weights.coefficient.item()
    assert weights.ess.item() >= threshold - 1e-6 or chosen == pytest.approx(0.001)
    if chosen < 1:
        further = rewards.new_tensor([min(1.0, chosen * 1.01)])
        values = estimator.link(estimator.log_weights(rewards, ratio_like(rewards), further))
        assert oracle.effective_sample_size(values[0].tolist()) < threshold


@pytest.mark.parametrize("name", sorted(BUILD))
def test_step_size_alone_needs_no_reference(name):
    rewards = torch.tensor([[0.0, 1.0, 2.0]])
    estimator = BUILD[name](alpha=0, eta=0.1)
    assert not estimator.needs_reference
    assert torch.allclose(estimator.estimate(rewards, None).log_weights, 0.1 * rewards)


def test_linear_weights_without_reference_are_the_group_relative_reward():
    weights = BUILD["linear"](alpha=0, eta=2.0).estimate(torch.tensor([[0.0, 1.0]]), None)
    assert weights.values.tolist() == [[0.0, 2.0]]


@pytest.mark.parametrize("name", sorted(BUILD))
def test_missing_log_ratio_is_refused_where_alpha_needs_it(name):
    estimator = BUILD[name](alpha=0.5)
    assert estimator.needs_reference
    with pytest.raises(ConfigError, match="log-ratio"):
        estimator.estimate(torch.zeros(1, 2), None)


@pytest.mark.parametrize("config", [TiltedConfig, TiltedAdaptiveConfig, LinearConfig])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0}, "give eta"),
        ({"alpha": 0.1, "eta": 1.0}, "no effect"),
        ({"alpha": -1}, "greater than or equal to 0"),
        ({"alpha": 0, "eta": 0}, "greater than 0"),
    ],
)
def test_contradictory_targets_are_refused(config, settings, message):
    with pytest.raises(ValidationError, match=message):
        config(**settings)


@pytest.mark.parametrize("config", [TiltedConfig, LinearConfig])
def test_coefficient_beside_a_step_size_is_refused(config):
    with pytest.raises(ValidationError, match="eta alone"):
        config(alpha=0, eta=1.0, coefficient=0.5)


@pytest.mark.parametrize("config", [TiltedConfig, LinearConfig])
def test_coefficient_left_out_makes_steps_of_ten_times_the_reward(config):
    steps = {alpha: config(alpha=alpha, coefficient=None).step for alpha in (0.02, 0.1, 0.5)}
    assert steps == {0.02: pytest.approx(0.2), 0.1: 1, 0.5: 1}
    assert config(alpha=0, eta=3, coefficient=None).step == 1
    assert config().step == 1


def test_empty_range_of_coefficients_is_refused():
    with pytest.raises(ValidationError, match="not below"):
        TiltedAdaptiveConfig(c_min=0.5, c_max=0.5)


def advantages(rewards, **settings):
    return AdvantageWeights(AdvantageConfig(**settings)).estimate(torch.tensor(rewards), None)


def test_advantage_is_the_reward_less_the_mean_of_the_group():
    assert advantages([[0.0, 1.0, 5.0]]).values.tolist() == [[-2.0, -1.0, 3.0]]


def test_advantage_can_leave_its_own_reward_out_of_the_mean():
    got = advantages([[0.0, 1.0, 5.0]], centre="leave_one_out").values
    assert got[0].tolist() == pytest.approx([-3.0, -1.5, 4.5])


def test_advantage_can_be_divided_by_the_standard_deviation():
    # Sample variance of 0, 1, 5: (4 + 1 + 9) / 2 = 7.
    got = advantages([[0.0, 1.0, 5.0]], scale="std").values
    assert got[0].tolist() == pytest.approx([x / (7**0.5 + 1e-4) for x in (-2, -1, 3)])


def test_advantage_can_be_divided_by_the_deviation_of_the_population():
    # (4 + 1 + 9) / 3.
    got = advantages([[0.0, 1.0, 5.0]], scale="population_std", epsilon=0.0).values
    assert got[0].tolist() == pytest.approx([x / (14 / 3) ** 0.5 for x in (-2, -1, 3)])


def test_advantage_is_divided_by_the_floor_where_the_deviation_is_below_it():
    rewards = [[0.0, 0.002], [0.0, 2.0]]
    got = advantages(rewards, scale="std", epsilon=0.0, floor=0.01).values
    assert got.flatten().tolist() == pytest.approx([-0.1, 0.1, -(0.5**0.5), 0.5**0.5])


@pytest.mark.parametrize("scale", ["none", "std", "population_std"])
def test_advantages_of_equal_rewards_are_zero_whatever_divides_them(scale):
    settings = {} if scale == "none" else {"epsilon": 0.0}
    # The mean of these, rounded, is none of them.
    got = advantages([[0.1] * 7, [0.7] * 7], scale=scale, **settings).values
    assert not got.any()


def test_advantages_of_equal_rewards_are_zero():
    weights = advantages([[1.0, 1.0, 1.0]], scale="std")
    assert not weights.values.any()
    assert weights.ess.tolist() == [0]


def test_leave_one_out_of_one_rollout_is_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        advantages([[1.0]], centre="leave_one_out")


@pytest.mark.parametrize("settings", [{"epsilon": 0.5}, {"floor": 0.1}])
def test_divisor_without_a_deviation_is_refused(settings):
    with pytest.raises(ValidationError, match="no effect"):
        AdvantageConfig(**settings)
