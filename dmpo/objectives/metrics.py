"""What objectives say of a buffer and of a step, in one place.

Of a buffer (``Experience.metrics``):

| name | meaning |
| --- | --- |
| ess | effective sample size, mean over groups, as a share of N |
| weight_min, weight_max | smallest and largest weight, baseline not yet subtracted |
| coefficient | proximal coefficient c, mean over groups |
| log_ratio_mean | log p_ref − log p_v, mean over rollouts, nats |
| log_ratio_std | its standard deviation inside a group, mean over groups, nats |
| log_ratio_standard_error | its noise: standard error over replicates, root mean square over rollouts, nats; missing where a single replicate cannot tell |
| reward_spread_over_alpha | standard deviation of r/α inside a group, mean over groups, nats |
| noise_exceeds_reward | 1 where the noise is larger than that spread: the weights follow the noise, not the reward; else 0 |

The three log-ratio rows and the two after them appear only where α > 0.

Of a step (``Batch.metrics``):

| name | meaning |
| --- | --- |
| real_weight_min, real_weight_max, real_weight_mean | weight minus λ times baseline |
| baseline_ess | effective sample size of the `model` baseline's weights |
| model_log_ratio_std | standard deviation of log p_θ − log p_v inside a group, nats (`model`) |

Of a loss (``LossOutput.metrics``): ``cross_entropy``, the unweighted L̂/D in nats per token
(dmpo); ``kl`` to the reference, nats per token, ``clip_ratio``, the share of tokens whose gradient is
clipped away, and ``outside_ratio``, the share whose ratio has left the clip range (diffu_grpo).
What the d1 code logs as its clip ratio is the difference of the two: the tokens outside the range
that are *not* clipped.
"""  # noqa: E501 (a table's row is one line)

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dmpo.diffusion.tilting import effective_sample_size
from dmpo.records import LogRatio, Weights
from dmpo.weights.base import WeightEstimator

__all__ = ["group_spread", "log_ratio_metrics", "real_weight_metrics", "weight_metrics"]


def group_spread(values: Float[Tensor, "B N"]) -> float:
    """Return the sample standard deviation inside a group, mean over groups."""
    return float(values.std(dim=-1, correction=min(1, values.shape[-1] - 1)).mean())


def weight_metrics(weights: Weights) -> dict[str, float]:
    """Describe the weights of a buffer."""
    return {
        "ess": float(weights.ess.mean()),
        "weight_min": float(weights.values.min()),
        "weight_max": float(weights.values.max()),
        "coefficient": float(weights.coefficient.mean()),
    }


def log_ratio_metrics(
    estimator: WeightEstimator, rewards: Float[Tensor, "B N"], log_ratio: LogRatio
) -> dict[str, float]:
    """Set the noise of the log-ratio beside the spread of r/α: which of the two leads?"""
    still = LogRatio(value=torch.zeros_like(rewards), standard_error=None)
    tilt = estimator.log_weights(rewards, still, rewards.new_ones(rewards.shape[0]))
    spread = group_spread(tilt)
    metrics = {
        "log_ratio_mean": float(log_ratio.value.mean()),
        "log_ratio_std": group_spread(log_ratio.value),
        "reward_spread_over_alpha": spread,
    }
    if log_ratio.standard_error is not None:
        noise = float(log_ratio.standard_error.square().mean().sqrt())
        metrics["log_ratio_standard_error"] = noise
        metrics["noise_exceeds_reward"] = float(noise > spread)
    return metrics


def real_weight_metrics(
    real: Float[Tensor, "B N ..."],
    model_baseline: Float[Tensor, "B N"] | None,
    model_log_ratio: Float[Tensor, "B N"] | None,
) -> dict[str, float]:
    """Describe the weights that one step uses, one of each rollout or of each of its views."""
    metrics = {
        "real_weight_min": float(real.min()),
        "real_weight_max": float(real.max()),
        "real_weight_mean": float(real.mean()),
    }
    if model_baseline is not None:
        metrics["baseline_ess"] = float(effective_sample_size(model_baseline).mean())
    if model_log_ratio is not None:
        metrics["model_log_ratio_std"] = group_spread(model_log_ratio)
    return metrics
