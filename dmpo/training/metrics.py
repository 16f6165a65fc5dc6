"""What a step's line in metrics.jsonl says: pure functions from records to numbers.

Figures of a buffer are repeated on each of its F steps, so that every line is complete. Of several
processes, tokens and operations are added up, extremes are those of all, and everything else is a
mean over all that they did (:mod:`dmpo.training.reduction`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import torch

from dmpo.records import Batch, Experience, Rollouts
from dmpo.rewards.base import missing_rows
from dmpo.tasks.base import Task
from dmpo.training.phases import PhaseTotals, model_tokens, of_training
from dmpo.training.rollout import flat_groups

__all__ = [
    "METRICS",
    "OBJECTIVE_NAMES",
    "buffer_metrics",
    "cost_metrics",
    "log_ratio_warnings",
    "missing_warnings",
    "named_by_objective",
    "phase_metrics",
    "right_answers",
    "step_metrics",
    "unique_answers",
]

METRICS: Mapping[str, str] = {
    "reward/mean": "Mean total reward of the buffer.",
    "reward/std": "Standard deviation of the total reward over the buffer.",
    "reward/component/<name>": "Mean of a named part of the reward over the rollouts that have it.",
    "reward/missing": "Share of rollouts that no reward has an opinion on; their total is 0.",
    "reward/flat_groups": "Share of groups whose rewards are all equal: they carry no signal.",
    "weights/ess": "Effective sample size, as a share of N, mean over groups; before a baseline.",
    "weights/coefficient": "Proximal coefficient c, mean over prompts.",
    "weights/max": "Largest weight of the buffer, baseline not yet subtracted.",
    "weights/min": "Smallest weight of the buffer, baseline not yet subtracted.",
    "weights/real_max": "Largest real weight (baseline subtracted) of the step.",
    "weights/real_min": "Smallest real weight of the step.",
    "weights/real_mean": "Mean real weight of the step.",
    "weights/kept": "Share of the buffer's rollouts that the step looks at (training.skip_below, "
    "flat_groups).",
    "weights/baseline_ess": "Effective sample size of the `model` baseline's weights.",
    "log_ratio/mean": "Mean of log p_ref − log p_v, in nats; like the next four, only with a "
    "reference.",
    "log_ratio/std": "Its standard deviation inside a group, mean over groups, in nats.",
    "log_ratio/standard_error": "Its noise over the likelihood's replicates, root mean square, in "
    "nats; missing where a single replicate cannot tell.",
    "log_ratio/reward_spread": "Standard deviation of r/α inside a group, mean over groups, in "
    "nats: what the noise should be small against.",
    "log_ratio/noise_exceeds_reward": "1 where the noise is the larger of the two: a warning.",
    "log_ratio/model_std": "Standard deviation of log p_θ − log p_v inside a group, in nats; only "
    "with the `model` baseline.",
    "objective/<name>": "Anything else that an objective reports of a buffer or a step.",
    "rollout/length": "Answer tokens, the first EOS included, mean.",
    "rollout/entropy": "Entropy of the distribution that an answer token was drawn from, before "
    "temperature, at the step that fixed it, mean in nats (DMPO, Appendix C.3).",
    "rollout/negative_log_prob": "−log-probability of an answer token when it was drawn, mean in "
    "nats: estimates the entropy of the rollouts; only where the sampler records it.",
    "rollout/unique_answers": "Distinct readable answers in a group, mean over groups.",
    "rollout/right": "Share of rollouts that are right: the task's headline grade is 1.",
    "rollout/pass_at_n": "Share of groups with at least one right rollout.",
    "rollout/unique_right_answers": "Distinct right answers in a group, mean over groups.",
    "rollout/unreadable": "Share of rollouts without a readable answer.",
    "rollout/forward_passes": "Forward passes that made the buffer, each over all its rows.",
    "rollout/discarded_groups": "Groups without spread that fresh prompts replaced "
    "(training.flat_groups: replace).",
    "drift/kl_reference": "KL of the policy from the reference, in nats: the mean of "
    "log p_v − log p_ref over the buffer by the objective's own likelihood, where it has one. With "
    "training.measure_drift_every: of log p_θ − log p_ref by the ELBO instead, the same for every "
    "objective, and only on the buffers measured.",
    "drift/kl_reference_error": "Standard error of the measured one over rollouts, in nats.",
    "drift/elbo_gap": "Exact log p_θ(o) − exact ELBO, mean over rollouts in nats; measured with "
    "training.measure_drift_every where the canvas has at most 8 tokens.",
    "loss/total": "Loss of the step, over the whole buffer.",
    "loss/<name>": "A named part of the loss.",
    "optimizer/gradient_norm": "Norm of the gradient before clipping.",
    "optimizer/learning_rate": "Learning rate of the step.",
    "optimizer/skipped_steps": "Steps so far whose loss or gradient was not finite.",
    "tokens/<phase>": "Positions run through the model in a phase since the last line; "
    "neighbouring rows that are equal run once.",
    "tokens/forward": "Positions run forwards since the last line; no evaluation.",
    "tokens/backward": "Those of them that were run backwards as well: the phase of the loss.",
    "tokens/model": "Model tokens since the last line: forward 1, backward 2; no evaluation.",
    "tokens/model_total": "Model tokens since the beginning.",
    "tokens/per_second": "Model tokens per second since the last line; no evaluation.",
    "flops/<phase>": "Floating-point operations of the model in a phase since the last line, by "
    "the policy's formula; 0 where it has none.",
    "flops/forward": "Those of forward passes, all phases; no evaluation.",
    "flops/backward": "Those of backward passes, with what they compute again; no evaluation.",
    "flops/total": "Floating-point operations since the beginning; no evaluation.",
    "time/<phase>": "Seconds of a phase since the last line.",
    "time/total": "Seconds of training since the beginning; no evaluation, no checkpoint.",
}
"""Every metric that a step may carry and what it means; objectives add their own."""


OBJECTIVE_NAMES: Mapping[str, str] = {
    "discarded_groups": "rollout/discarded_groups",
    "ess": "weights/ess",
    "coefficient": "weights/coefficient",
    "weight_max": "weights/max",
    "weight_min": "weights/min",
    "real_weight_max": "weights/real_max",
    "real_weight_min": "weights/real_min",
    "real_weight_mean": "weights/real_mean",
    "baseline_ess": "weights/baseline_ess",
    "log_ratio_mean": "log_ratio/mean",
    "log_ratio_std": "log_ratio/std",
    "log_ratio_standard_error": "log_ratio/standard_error",
    "reward_spread_over_alpha": "log_ratio/reward_spread",
    "noise_exceeds_reward": "log_ratio/noise_exceeds_reward",
    "model_log_ratio_std": "log_ratio/model_std",
}
"""What objectives call their figures, and where a line puts them."""


def unique_answers(task: Task, rollouts: Rollouts) -> tuple[float, float]:
    """Return distinct readable answers per group, and the share of unreadable rollouts."""
    distinct, unreadable = 0, 0
    for example, texts in zip(rollouts.prompts.examples, rollouts.texts, strict=True):
        answers = [task.read_answer(example, text) for text in texts]
        unreadable += answers.count(None)
        distinct += len(set(answers) - {None})
    return distinct / rollouts.num_prompts, unreadable / rollouts.num_rows


def right_answers(task: Task, rollouts: Rollouts) -> dict[str, float]:
    """Return what a buffer got right: rollouts, groups, and distinct answers of a group."""
    groups = list(zip(rollouts.prompts.examples, rollouts.texts, strict=True))
    pairs = [(example, text) for example, texts in groups for text in dict.fromkeys(texts)]
    is_right = iter([grades[task.headline] == 1 for grades in task.grade_all(pairs)])
    right, solved, distinct = 0, 0, 0
    for example, texts in groups:
        counts = Counter(texts)
        good = [text for text in counts if next(is_right)]
        right += sum(counts[text] for text in good)
        solved += bool(good)
        distinct += len({task.read_answer(example, text) for text in good})
    return {
        "rollout/right": right / rollouts.num_rows,
        "rollout/pass_at_n": solved / rollouts.num_prompts,
        "rollout/unique_right_answers": distinct / rollouts.num_prompts,
    }


def buffer_metrics(experience: Experience, task: Task) -> dict[str, float]:
    """Return the figures of a buffer; see :data:`METRICS`."""
    rollouts, total = experience.rollouts, experience.rewards.total
    distinct, unreadable = unique_answers(task, rollouts)
    metrics: dict[str, float] = {
        "reward/mean": total.mean().item(),
        "reward/std": total.std(unbiased=False).item(),
        "reward/flat_groups": flat_groups(experience.rewards).float().mean().item(),
        "reward/missing": missing_rows(experience.rewards).float().mean().item(),
        "weights/ess": experience.weights.ess.mean().item(),
        "weights/coefficient": experience.weights.coefficient.mean().item(),
        "rollout/length": rollouts.answer_mask.sum(-1).float().mean().item(),
        "rollout/unique_answers": distinct,
        "rollout/unreadable": unreadable,
        "rollout/forward_passes": float(rollouts.num_forwards),
        **right_answers(task, rollouts),
    }
    for name, values in experience.rewards.components.items():
        metrics[f"reward/component/{name}"] = values.nanmean().item()
    if rollouts.log_probs is not None:
        drawn = rollouts.log_probs[rollouts.answer_mask]
        metrics["rollout/negative_log_prob"] = -drawn.double().mean().item()
    if rollouts.entropies is not None:
        entropies = rollouts.entropies[rollouts.answer_mask]
        metrics["rollout/entropy"] = entropies.double().mean().item()
    if experience.log_ratio is not None:
        metrics["drift/kl_reference"] = -experience.log_ratio.value.double().mean().item()
    return {**metrics, **named_by_objective(experience.metrics)}


def named_by_objective(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what an objective reports under the names of :data:`METRICS`.

    A name of the table stays; one that it does not know is put under ``objective/``.
    """

    def known(name: str) -> str:
        if name in METRICS or name.startswith("objective/"):
            return name
        return OBJECTIVE_NAMES.get(name, f"objective/{name}")

    return {known(name): value for name, value in metrics.items()}


def log_ratio_warnings(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Return a sentence if the log-ratio's noise exceeds the spread of r/α (METHOD, "Likelihood").

    A buffer whose rewards do not differ within any group is no reason to warn.
    """
    noise = metrics.get("log_ratio/standard_error", 0.0)
    spread = metrics.get("log_ratio/reward_spread", 0.0)
    if not 0 < spread < noise:
        return ()
    return (
        f"the noise of the log-ratio, {noise:.2g} nats, exceeds the spread of r/alpha, "
        f"{spread:.2g} nats: weights follow the noise (more replicates, a path likelihood, a "
        "smaller step c or alpha 0 help)",
    )


def missing_warnings(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Return a sentence if there are rollouts that no reward has an opinion on."""
    share = metrics.get("reward/missing", 0.0)
    if share == 0:
        return ()
    return (
        f"{share:.0%} of the rollouts have no reward at all: every reward function returned None "
        "or failed on them; they count as 0",
    )


def step_metrics(batch: Batch) -> dict[str, float]:
    """Return the extremes of the real weights, the share of rows, and what the draw learnt."""
    weights = batch.weights if batch.num_rows else torch.zeros(1)
    return {
        "weights/real_max": weights.max().item(),
        "weights/real_min": weights.min().item(),
        "weights/kept": batch.share_kept,
        **named_by_objective(batch.metrics),
    }


def phase_metrics(totals: PhaseTotals) -> dict[str, float]:
    """Return tokens, operations and seconds by phase, and their sums over training."""
    return {
        **{f"tokens/{phase}": float(count) for phase, count in totals.tokens.items()},
        **{f"flops/{phase}": float(count) for phase, count in totals.flops.items()},
        **cost_metrics(totals),
        **{f"time/{phase}": value for phase, value in totals.seconds.items()},
    }


def cost_metrics(totals: PhaseTotals) -> dict[str, float]:
    """Return tokens and operations over all phases of training."""
    seconds = math.fsum(of_training(totals.seconds).values())
    model = float(model_tokens(totals.tokens))
    return {
        "tokens/forward": float(sum(of_training(totals.tokens).values())),
        "tokens/backward": float(totals.tokens["loss"]),
        "tokens/model": model,
        "tokens/per_second": model / seconds if seconds > 0 else 0.0,
        "flops/forward": float(sum(of_training(totals.forward_flops).values())),
        "flops/backward": float(sum(of_training(totals.backward_flops).values())),
    }
