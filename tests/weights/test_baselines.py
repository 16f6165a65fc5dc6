from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.errors import ConfigError
from dmpo.records import LogRatio
from dmpo.weights.advantage import AdvantageConfig, AdvantageWeights
from dmpo.weights.baselines import (
    IndividualBaseline,
    IndividualBaselineConfig,
    MeanBaseline,
    MeanBaselineConfig,
    ModelBaseline,
    ModelBaselineConfig,
    NoBaseline,
    NoBaselineConfig,
)
from dmpo.weights.linear import LinearConfig, LinearWeights
from dmpo.weights.tilted import TiltedConfig, TiltedWeights
from dmpo.weights.tilted_adaptive import TiltedAdaptiveConfig, TiltedAdaptiveWeights

ESTIMATORS = {
    "tilted": TiltedWeights(TiltedConfig(alpha=0.5, coefficient=0.6)),
    "tilted_adaptive": TiltedAdaptiveWeights(TiltedAdaptiveConfig(alpha=0.5)),
    "linear": LinearWeights(LinearConfig(alpha=0.5)),
}
BASELINES = {
    "none": NoBaseline(NoBaselineConfig()),
    "mean": MeanBaseline(MeanBaselineConfig()),
    "individual": IndividualBaseline(IndividualBaselineConfig()),
    "model": ModelBaseline(ModelBaselineConfig()),
}
estimators = st.sampled_from(sorted(ESTIMATORS))
matrices = st.integers(0, 9999).map(
    lambda seed: torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(seed)).double()
)


def ratio(value) -> LogRatio:
    return LogRatio(value=value, standard_error=None)


def real_weights(estimator, baseline, rewards, log_ratio, model_log_ratio=None):
    weights = estimator.estimate(rewards, log_ratio)
    base = baseline.weights(estimator, rewards, log_ratio, weights, model_log_ratio)
    return weights.values - baseline.strength * base


@given(matrices, estimators)
def test_mean_baseline_makes_real_weights_sum_to_zero(values, name):
    rewards, log_ratio = values[0], ratio(values[1])
    real = real_weights(ESTIMATORS[name], BASELINES["mean"], rewards, log_ratio)
    assert torch.allclose(real.sum(-1), torch.zeros(6).double(), atol=1e-9)


@given(matrices, estimators)
def test_individual_baseline_is_antisymmetric_where_reference_is_behaviour(values, name):
    log_ratio = ratio(torch.zeros_like(values[0]))
    estimator, baseline = ESTIMATORS[name], BASELINES["individual"]
    if name == "tilted_adaptive":
        # The softmax of −ℓ has a sample size, and so a coefficient, of its own.
        estimator = TiltedAdaptiveWeights(TiltedAdaptiveConfig(alpha=0.5, threshold=1e-6))
    forth = real_weights(estimator, baseline, values[0], log_ratio)
    assert torch.allclose(forth, -real_weights(estimator, baseline, -values[0], log_ratio))


@given(matrices, estimators)
def test_model_baseline_cancels_the_weights_where_the_policy_is_the_target(values, name):
    estimator = ESTIMATORS[name]
    weights = estimator.estimate(values[0], ratio(values[1]))
    # log p* − log p_v is the log weight, up to a constant of the group.
    reached = weights.log_weights + values[2, :, :1]
    real = real_weights(estimator, BASELINES["model"], values[0], ratio(values[1]), reached)
    assert torch.allclose(real, torch.zeros_like(real), atol=1e-9)


@given(matrices, estimators, st.sampled_from(sorted(BASELINES)))
def test_baselines_of_a_buffer_are_those_of_its_groups(values, name, baseline):
    def real(rows):
        model = values[2][rows]
        return real_weights(
            ESTIMATORS[name], BASELINES[baseline], values[0][rows], ratio(values[1][rows]), model
        )

    pieces = [real(slice(row, row + 1)) for row in range(6)]
    assert torch.allclose(real(slice(None)), torch.cat(pieces))


def test_individual_baseline_tilts_by_the_negative_reward():
    rewards, log_ratio = torch.tensor([[0.0, 1.0]]), ratio(torch.tensor([[0.2, -0.4]]))
    estimator = ESTIMATORS["tilted"]
    weights = estimator.estimate(rewards, log_ratio)
    got = BASELINES["individual"].weights(estimator, rewards, log_ratio, weights, None)
    expected = 2 * torch.softmax(0.6 * torch.tensor([[0.2, -2.4]]), -1)
    assert torch.allclose(got, expected)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_strength_is_the_share_that_is_subtracted(share):
    baseline = MeanBaseline(MeanBaselineConfig(strength=share))
    rewards = torch.tensor([[0.0, 1.0, 2.0]])
    real = real_weights(ESTIMATORS["linear"], baseline, rewards, ratio(torch.zeros(1, 3)))
    assert real.mean().item() == pytest.approx(1 - share)


def test_no_baseline_subtracts_nothing():
    rewards = torch.tensor([[0.0, 1.0, 2.0]])
    log_ratio = ratio(torch.zeros(1, 3))
    real = real_weights(ESTIMATORS["tilted"], BASELINES["none"], rewards, log_ratio)
    assert torch.equal(real, ESTIMATORS["tilted"].estimate(rewards, log_ratio).values)


def test_model_baseline_stops_the_gradient():
    rewards = torch.zeros(1, 3)
    model = torch.randn(1, 3, requires_grad=True)
    weights = ESTIMATORS["tilted"].estimate(rewards, ratio(rewards))
    base = BASELINES["model"].weights(ESTIMATORS["tilted"], rewards, ratio(rewards), weights, model)
    assert not base.requires_grad


def test_model_baseline_without_the_model_is_refused():
    rewards = torch.zeros(1, 3)
    weights = ESTIMATORS["tilted"].estimate(rewards, ratio(rewards))
    with pytest.raises(ConfigError, match="current policy"):
        BASELINES["model"].weights(ESTIMATORS["tilted"], rewards, ratio(rewards), weights, None)


@pytest.mark.parametrize("name", ["mean", "individual", "model"])
def test_baselines_are_refused_where_weights_have_no_link(name):
    estimator = AdvantageWeights(AdvantageConfig())
    rewards = torch.tensor([[0.0, 1.0]])
    weights = estimator.estimate(rewards, None)
    with pytest.raises(ConfigError, match="centred already"):
        BASELINES[name].weights(estimator, rewards, None, weights, rewards)


@given(matrices, st.floats(-3, 3))
def test_linear_weights_of_the_full_step_with_the_model_baseline_know_no_behaviour_policy(
    values, shift
):
    """So an old buffer serves without any ratio: log p_v cancels."""
    rewards, reference, model = values
    reals = [
        real_weights(
            ESTIMATORS["linear"],
            BASELINES["model"],
            rewards,
            ratio(reference - behaviour),
            model - behaviour,
        )
        for behaviour in (torch.zeros_like(model), shift * values[0].flip(-1))
    ]
    assert torch.allclose(reals[0], reals[1], atol=1e-9)
