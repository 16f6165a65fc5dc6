"""What a step's line in metrics.jsonl says: pure functions from records to numbers.

Figures of a buffer are repeated on each of its F steps, so that every line is complete.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from dmpo.records import Batch, Experience, Rollouts
from dmpo.tasks.base import Task
from dmpo.training.phases import Phase, model_tokens

__all__ = [
    "METRICS",
    "buffer_metrics",
    "group_spread",
    "log_ratio_warnings",
    "phase_metrics",
    "unique_answers",
    "weight_metrics",
]

METRICS: Mapping[str, str] = {
    "reward/mean": "Mean total reward of the buffer.",
    "reward/std": "Standard deviation of the total reward over the buffer.",
    "reward/component/<name>": "Mean of a named part of the reward.",
    "reward/flat_groups": "Share of groups whose rewards are all equal: they carry no signal.",
    "weights/ess": "Effective sample size, as a share of N, mean over groups; before a baseline.",
    "weights/coefficient": "Proximal coefficient c, mean over prompts.",
    "weights/max": "Largest real weight (baseline subtracted) of the step.",
    "weights/min": "Smallest real weight of the step.",
    "log_ratio/mean": "Mean of log p_ref − log p_v, in nats; only with a reference.",
    "log_ratio/std": "Its standard deviation within groups, in nats.",
    "log_ratio/standard_error": "Its noise over the likelihood's replicates, in nats (root mean "
    "square); only where replicates tell.",
    "log_ratio/tilt_spread": "Standard deviation of r/α within groups, in nats: what the noise "
    "should be small against.",
    "rollout/length": "Answer tokens, the first EOS included, mean.",
    "rollout/negative_log_prob": "−log-probability of an answer token when it was drawn, mean in "
    "nats: estimates the entropy of the rollouts; only where the sampler records it.",
    "rollout/unique_answers": "Distinct readable answers in a group, mean over groups.",
    "rollout/unreadable": "Share of rollouts without a readable answer.",
    "rollout/forward_passes": "Forward passes that made the buffer, each over all its rows.",
    "loss/total": "Loss of the step, over the whole buffer.",
    "loss/<name>": "A named part of the loss.",
    "optimizer/gradient_norm": "Norm of the gradient before clipping.",
    "optimizer/learning_rate": "Learning rate of the step.",
    "optimizer/skipped_steps": "Steps so far whose loss or gradient was not finite.",
    "tokens/<phase>": "Forward tokens of a phase since the last line.",
    "tokens/model": "Model tokens since the last line: forward 1, backward 2; no evaluation.",
    "tokens/model_total": "Model tokens since the beginning.",
    "tokens/per_second": "Model tokens per second since the last line; no evaluation.",
    "time/<phase>": "Seconds of a phase since the last line.",
    "time/total": "Seconds of training since the beginning; no evaluation.",
}
"""Every metric that a step may carry and what it means; objectives add their own."""


def group_spread(values: Float[Tensor, "B N"]) -> float:
    """Return the pooled standard deviation within groups, √(mean of the groups' variances)."""
    return values.double().var(dim=1, unbiased=True).mean().sqrt().item()


def unique_answers(task: Task, rollouts: Rollouts) -> tuple[float, float]:
    """Return distinct readable answers per group, and the share of unreadable rollouts."""
    distinct, unreadable = 0, 0
    for example, texts in zip(rollouts.prompts.examples, rollouts.texts, strict=True):
        answers = [task.read_answer(example, text) for text in texts]
        unreadable += answers.count(None)
        distinct += len(set(answers) - {None})
    return distinct / rollouts.num_prompts, unreadable / rollouts.num_rows


def buffer_metrics(experience: Experience, task: Task) -> dict[str, float]:
    """Return the figures of a buffer; see :data:`METRICS`."""
    rollouts, total = experience.rollouts, experience.rewards.total
    distinct, unreadable = unique_answers(task, rollouts)
    flat = total.amax(dim=1) == total.amin(dim=1)
    metrics = {
        "reward/mean": total.mean().item(),
        "reward/std": total.std(unbiased=False).item(),
        "reward/flat_groups": flat.float().mean().item(),
        "weights/ess": experience.weights.ess.mean().item(),
        "weights/coefficient": experience.weights.coefficient.mean().item(),
        "rollout/length": rollouts.answer_mask.sum(-1).float().mean().item(),
        "rollout/unique_answers": distinct,
        "rollout/unreadable": unreadable,
        "rollout/forward_passes": float(rollouts.num_forwards),
    }
    for name, values in experience.rewards.components.items():
        metrics[f"reward/component/{name}"] = values.mean().item()
    if rollouts.log_probs is not None:
        drawn = rollouts.log_probs[rollouts.answer_mask]
        metrics["rollout/negative_log_prob"] = -drawn.double().mean().item()
    return {**metrics, **_log_ratio_metrics(experience), **experience.metrics}


def _log_ratio_metrics(experience: Experience) -> dict[str, float]:
    ratio, weights = experience.log_ratio, experience.weights
    if ratio is None:
        return {}
    metrics = {
        "log_ratio/mean": ratio.value.mean().item(),
        "log_ratio/std": group_spread(ratio.value),
    }
    if ratio.standard_error is not None:
        error = ratio.standard_error.double()
        metrics["log_ratio/standard_error"] = error.square().mean().sqrt().item()
    if weights.log_weights is not None:
        tilt = weights.log_weights / weights.coefficient[:, None] - ratio.value
        metrics["log_ratio/tilt_spread"] = group_spread(tilt)
    return metrics


def log_ratio_warnings(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Return a sentence if the log-ratio's noise exceeds the spread of r/α (METHOD, "Likelihood").

    Groups whose rewards do not differ at all are no reason to warn.
    """
    noise = metrics.get("log_ratio/standard_error", 0.0)
    spread = metrics.get("log_ratio/tilt_spread", 0.0)
    if not 0 < spread < noise:
        return ()
    return (
        f"the noise of the log-ratio, {noise:.2g} nats, exceeds the spread of r/alpha, "
        f"{spread:.2g} nats: weights follow the noise (more replicates, a path likelihood, a "
        "smaller step c or alpha 0 help)",
    )


def weight_metrics(batch: Batch) -> dict[str, float]:
    """Return the extremes of the real weights of a step, and what the draw learnt."""
    weights = batch.weights if batch.num_rows else torch.zeros(1)
    return {
        "weights/max": weights.max().item(),
        "weights/min": weights.min().item(),
        **batch.metrics,
    }


def phase_metrics(seconds: Mapping[Phase, float], tokens: dict[Phase, int]) -> dict[str, float]:
    """Return tokens and seconds by phase, model tokens and their rate."""
    training = math.fsum(value for phase, value in seconds.items() if phase != "evaluation")
    model = float(model_tokens(tokens))
    return {
        **{f"tokens/{phase}": float(count) for phase, count in tokens.items()},
        "tokens/model": model,
        "tokens/per_second": model / training if training > 0 else 0.0,
        **{f"time/{phase}": value for phase, value in seconds.items()},
    }
