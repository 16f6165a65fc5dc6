"""Make small deliberate errors in the mathematics, one at a time, and see whether the tests notice.

    python benchmarks/mutations.py --name mutations       # all of them, two at a time
    python benchmarks/mutations.py --only 3 17            # these alone, with pytest's last lines

Each error is made in a copy of the repository, and tests run up to the first failure: the few
files that the error names, or else the tests of its room and then those of the other rooms. An
error that no test notices is a hole in the tests. The copy without an error comes first: all the
tests that are to notice an error have to pass there.
Prints a Markdown table, and writes it with command, machine and versions to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
ROOMS = ("diffusion", "likelihoods", "weights", "objectives", "samplers")


@dataclass(frozen=True)
class Mutation:
    """One error: what is wrong about it, and the edit that makes it."""

    error: str
    file: str
    old: str
    new: str
    only: str = ""
    """The tests that have to notice, below tests/; none named: all rooms, its own first."""

    @property
    def tests(self) -> tuple[str, ...]:
        own = self.file.split("/")[0]
        return tuple(self.only.split()) or tuple(sorted(ROOMS, key=lambda room: room != own))


MUTATIONS = (
    # diffusion: likelihood, masking, tilting, losses
    Mutation(
        "D/m in place of (D+1)/m where m is uniform on 0..D",
        "diffusion/likelihood.py",
        "return _over_sizes(hidden, (lengths + 1)[..., None, None], sizes)",
        "return _over_sizes(hidden, lengths[..., None, None], sizes)",
    ),
    Mutation(
        "replicates added up in place of their mean",
        "diffusion/likelihood.py",
        "factor = numerator.float() / (sizes.clamp(min=1).float() * hidden.shape[-2])",
        "factor = numerator.float() / sizes.clamp(min=1).float()",
    ),
    Mutation(
        "standard error not divided by the root of the number of replicates",
        "diffusion/likelihood.py",
        "return estimates.std(dim=-1, correction=1) / math.sqrt(num_replicates)",
        "return estimates.std(dim=-1, correction=1)",
    ),
    Mutation(
        "antithetic pairs taken for independent replicates",
        "diffusion/likelihood.py",
        "estimates = torch.stack(estimates.chunk(2, dim=-1)).mean(0)",
        "estimates = estimates.clone()",
    ),
    Mutation(
        "off by one in m: D in place of D + 1 sizes",
        "diffusion/masking.py",
        "counts = (levels * (lengths.unsqueeze(-1) + 1)).floor().long()",
        "counts = (levels * lengths.unsqueeze(-1)).floor().long()",
    ),
    Mutation(
        "one more token hidden than drawn",
        "diffusion/masking.py",
        "return ranks < counts.unsqueeze(-1)",
        "return ranks <= counts.unsqueeze(-1)",
    ),
    Mutation(
        "complement taken over the whole canvas, not over the tokens that count",
        "diffusion/masking.py",
        "return torch.cat([hidden, scored.unsqueeze(-2) & ~hidden], dim=-2)",
        "return torch.cat([hidden, ~hidden], dim=-2)",
    ),
    Mutation(
        "strata without their random offset",
        "diffusion/masking.py",
        "offset = uniform((*shape, 1), generator)",
        "offset = torch.full((*shape, 1), 0.5, dtype=torch.float64)",
    ),
    Mutation(
        "log-ratio with the wrong sign",
        "diffusion/tilting.py",
        "return rewards / alpha + log_ratio",
        "return rewards / alpha - log_ratio",
    ),
    Mutation(
        "reward times alpha in place of reward over alpha",
        "diffusion/tilting.py",
        "return rewards / alpha + log_ratio",
        "return rewards * alpha + log_ratio",
    ),
    Mutation(
        "softmax over prompts in place of the rollouts of one",
        "diffusion/tilting.py",
        "return torch.softmax(log_weights, dim=-1) * log_weights.shape[-1]",
        "return torch.softmax(log_weights, dim=0) * log_weights.shape[0]",
    ),
    Mutation(
        "linear link centred over the buffer in place of the group",
        "diffusion/tilting.py",
        "return 1 + log_weights - log_weights.mean(dim=-1, keepdim=True)",
        "return 1 + log_weights - log_weights.mean()",
    ),
    Mutation(
        "effective sample size without the square of the sum",
        "diffusion/tilting.py",
        "share = weights.mean(-1).square() /",
        "share = weights.mean(-1) /",
    ),
    Mutation(
        "bisection that keeps the wrong half",
        "diffusion/tilting.py",
        "low, high = torch.where(good, middle, low), torch.where(good, high, middle)",
        "low, high = torch.where(good, low, middle), torch.where(good, middle, high)",
    ),
    Mutation(
        "leave-one-out mean scaled by (N-1)/N in place of N/(N-1)",
        "diffusion/tilting.py",
        "advantages = centred * size / (size - 1) if leave_one_out else centred",
        "advantages = centred * (size - 1) / size if leave_one_out else centred",
    ),
    Mutation(
        "loss with the wrong sign",
        "diffusion/losses.py",
        "return -(weights * log_likelihood / lengths.clamp(min=1)).sum() / num_rows",
        "return (weights * log_likelihood / lengths.clamp(min=1)).sum() / num_rows",
    ),
    Mutation(
        "loss over the rows of the micro-batch in place of the buffer",
        "diffusion/losses.py",
        "return -(weights * log_likelihood / lengths.clamp(min=1)).sum() / num_rows",
        "return -(weights * log_likelihood / lengths.clamp(min=1)).sum() / len(weights)",
    ),
    Mutation(
        "the larger of the clipped and the plain surrogate",
        "diffusion/losses.py",
        "surrogate = torch.minimum(ratio * advantage, clipped * advantage)",
        "surrogate = torch.maximum(ratio * advantage, clipped * advantage)",
        "diffusion/test_losses.py",
    ),
    Mutation(
        "k3 divergence with policy and reference exchanged",
        "diffusion/losses.py",
        "difference = reference_log_probs - log_probs",
        "difference = log_probs - reference_log_probs",
    ),
    Mutation(
        "Gauss weights of the interval [-1, 1] on nodes of [0, 1]",
        "diffusion/likelihood.py",
        "return (values + 1) / 2, vectors[0].square()",
        "return (values + 1) / 2, 2 * vectors[0].square()",
        "diffusion/test_likelihood.py",
    ),
    Mutation(
        "n/m in place of (n+1)/m in a block",
        "diffusion/likelihood.py",
        "numerator = num_blocks[..., None, None] * (block.sum(-1, keepdim=True) + 1)",
        "numerator = num_blocks[..., None, None] * block.sum(-1, keepdim=True)",
        "diffusion/test_likelihood.py",
    ),
    Mutation(
        "coefficients of the power mean raised to the power themselves",
        "diffusion/likelihood.py",
        "terms = (power * token_log_probs + logarithm).where(counts, -math.inf)",
        "terms = (power * (token_log_probs + logarithm)).where(counts, -math.inf)",
        "likelihoods/test_eubo.py",
    ),
    Mutation(
        "standard error of a sample as if drawn with replacement",
        "diffusion/likelihood.py",
        "return (spread * counts / (counts - 1).clamp(min=1) * (1 - share))",
        "return (spread * counts / (counts - 1).clamp(min=1))",
        "diffusion/test_likelihood.py",
    ),
    Mutation(
        "tokens that do not count in the mean of the first step",
        "diffusion/steps.py",
        "values.double().masked_fill(~counts, 0.0)",
        "values.double()",
        "diffusion/test_steps.py",
    ),
    Mutation(
        "systematic draws that always begin in the middle",
        "diffusion/steps.py",
        "points = (place + levels) / counts.clamp(min=1).unsqueeze(-1)",
        "points = (place + 0.5 + 0 * levels) / counts.clamp(min=1).unsqueeze(-1)",
        "diffusion/test_steps.py",
    ),
    Mutation(
        "Gumbel noise with the wrong sign",
        "diffusion/steps.py",
        "keys = log_probabilities.double() - noise.log()",
        "keys = log_probabilities.double() + noise.log()",
        "diffusion/test_steps.py",
    ),
    Mutation(
        "sum in place of the mean over which token came last",
        "diffusion/enumeration.py",
        "return ways.logsumexp(dim=-1) - math.log(ways.shape[-1])",
        "return ways.logsumexp(dim=-1)",
        "diffusion/test_enumeration.py",
    ),
    Mutation(
        "pairs that are told apart already pull the most",
        "diffusion/losses.py",
        "slopes = beta * torch.sigmoid(-margins) /",
        "slopes = beta * torch.sigmoid(margins) /",
        "objectives/test_vrpo.py",
    ),
    Mutation(
        "unweighted term of WDDO pulls the way of the weighted one",
        "diffusion/losses.py",
        "fake = gamma * functional.logsigmoid(-beta * fake_log_ratio)",
        "fake = gamma * functional.logsigmoid(beta * fake_log_ratio)",
        "objectives/test_wddo.py",
    ),
    Mutation(
        "dual clip on good responses, too",
        "diffusion/losses.py",
        "return torch.where(advantage < 0, bounded, surrogate)",
        "return bounded",
        "objectives/test_ratio.py",
    ),
    # likelihoods
    Mutation(
        "mask inverted: visible tokens hidden, hidden ones shown",
        "likelihoods/base.py",
        "policy.corrupt(tokens, torch.cat([prompt_hidden, hidden], dim=1))",
        "policy.corrupt(tokens, torch.cat([prompt_hidden, ~hidden], dim=1))",
        "likelihoods/test_base.py",
    ),
    Mutation(
        "padding attended to, as in the official code",
        "likelihoods/base.py",
        "attention = torch.cat([real, ",
        "attention = torch.cat([torch.ones_like(real), ",
    ),
    Mutation(
        "mean over views in place of their weighted sum",
        "likelihoods/base.py",
        "return self.combine_views(token_log_probs, views).sum(dim=-1)",
        "return self.combine_views(token_log_probs, views).mean(dim=-1)",
        "likelihoods/test_elbo.py",
    ),
    Mutation(
        "buffer read at temperature 1, whatever it was drawn at",
        "likelihoods/path.py",
        "            temperature=rollouts.temperature,\n",
        "",
    ),
    Mutation(
        "path that shows the tokens of the step itself",
        "likelihoods/path.py",
        "hidden=steps >= step,",
        "hidden=steps > step,",
    ),
    Mutation(
        "one-step likelihood that leaves the canvas behind the answer visible",
        "likelihoods/mean_field.py",
        "hidden=torch.ones_like(scored),",
        "hidden=scored,",
    ),
    Mutation(
        "views drawn over the whole canvas although the answer alone counts",
        "likelihoods/base.py",
        'return answer_mask if eos == "answer" else torch.ones_like(answer_mask)',
        "return torch.ones_like(answer_mask)",
    ),
    Mutation(
        "tokens counted by what the other policy says of them",
        "likelihoods/base.py",
        "coefficient = counted_coefficient(views, token_log_probs)\n            return",
        "coefficient = counted_coefficient(views, other_log_probs)\n            return",
        "likelihoods/test_trace.py",
    ),
    Mutation(
        "mask rates of a set and its complement exchanged",
        "likelihoods/coupled.py",
        "torch.cat([rates, 1 - rates], -1)",
        "torch.cat([1 - rates, rates], -1)",
        "likelihoods/test_coupled.py",
    ),
    Mutation(
        "two log-probabilities of a token added up in place of their mean",
        "likelihoods/coupled.py",
        "coefficient = torch.cat([everything.float(), coefficient], dim=-2) / 2",
        "coefficient = torch.cat([everything.float(), coefficient], dim=-2)",
        "likelihoods/test_coupled.py",
    ),
    Mutation(
        "later blocks visible",
        "likelihoods/block.py",
        "hidden = drawn | (block > chosen) | ~scored.unsqueeze(-2)",
        "hidden = drawn | ~scored.unsqueeze(-2)",
        "likelihoods/test_block.py",
    ),
    Mutation(
        "blocks of the canvas in place of those of the answer",
        "likelihoods/block.py",
        "num_blocks = block.masked_fill(~scored, -1).amax(-1) + 1",
        "num_blocks = (block[-1] + 1).expand(scored.shape[:-1])",
        "likelihoods/test_block.py",
    ),
    Mutation(
        "a step that was drawn twice counts once",
        "likelihoods/trace.py",
        "factor = (hits / expected).where(",
        "factor = (1 / expected).where(",
        "likelihoods/test_trace.py",
    ),
    Mutation(
        "confident steps drawn more often, not less",
        "likelihoods/trace.py",
        "doubts = -step_means(_log_probs(rollouts), steps)",
        "doubts = step_means(_log_probs(rollouts), steps)",
        "likelihoods/test_trace.py",
    ),
    Mutation(
        "state after the first step of a merged run",
        "likelihoods/trace.py",
        "at = first.clamp(0, steps.number.shape[-1] - 1)",
        "at = (end - 1).clamp(0, steps.number.shape[-1] - 1)",
        "likelihoods/test_trace.py",
    ),
    Mutation(
        "views drawn by default settings, whatever is asked for",
        "likelihoods/eubo.py",
        "return draw_subsets(scored, self.config, generator)",
        "return draw_subsets(scored, ElboConfig(), generator)",
        "likelihoods/test_eubo.py",
    ),
    Mutation(
        "suffix visible behind the token that is scored",
        "likelihoods/left_to_right.py",
        "hidden=place >= start.unsqueeze(-1)",
        "hidden=place == start.unsqueeze(-1)",
        "likelihoods/test_left_to_right.py",
    ),
    Mutation(
        "sampled positions that do not stand for those left out",
        "likelihoods/left_to_right.py",
        "factor = lengths / counts.clamp(min=1)",
        "factor = counts / counts.clamp(min=1)",
        "likelihoods/test_left_to_right.py",
    ),
    Mutation(
        "nodes of the quadrature weighed alike",
        "likelihoods/elbo.py",
        "coefficient = quadrature_coefficients(hidden, lengths, weights)",
        "coefficient = reference_coefficients(hidden, lengths)",
        "likelihoods/test_elbo.py",
    ),
    Mutation(
        "exact coefficients on Bernoulli masks of squeezed rates",
        "likelihoods/elbo.py",
        "**draws, squeeze=False)",
        "**draws, squeeze=config.antithetic)",
        "likelihoods/test_elbo.py",
    ),
    # weights
    Mutation(
        "individual baseline without the minus in front of the reward",
        "weights/baselines.py",
        "estimator.log_weights(-rewards, log_ratio, estimated.coefficient)",
        "estimator.log_weights(rewards, log_ratio, estimated.coefficient)",
    ),
    Mutation(
        "mean baseline of 0 in place of the link at 0",
        "weights/baselines.py",
        "return estimator.link(torch.zeros_like(rewards))",
        "return torch.zeros_like(rewards)",
    ),
    Mutation(
        "model baseline without its stop-gradient",
        "weights/baselines.py",
        "return estimator.link(model_log_ratio.detach())",
        "return estimator.link(model_log_ratio)",
    ),
    Mutation(
        "coefficient not applied at alpha 0",
        "weights/target.py",
        "return proximal_log_weights(config.eta * rewards, coefficient)",
        "return config.eta * rewards",
    ),
    Mutation(
        "adaptive coefficient found but not used",
        "weights/tilted_adaptive.py",
        "return self.weights_at(rewards, log_ratio, coefficient)",
        "return self.weights_at(rewards, log_ratio, rewards.new_ones(rewards.shape[0]))",
    ),
    Mutation(
        "full step where the coefficient is left out",
        "weights/target.py",
        "return min(1.0, STEP_SIZE * self.alpha) if self.alpha > 0 else 1.0",
        "return 1.0",
        "weights/test_estimators.py",
    ),
    Mutation(
        "effective sample size of the log weights",
        "weights/target.py",
        "ess=effective_sample_size(values)",
        "ess=effective_sample_size(log_weights)",
    ),
    Mutation(
        "deviation of the population taken for that of a sample",
        "weights/advantage.py",
        'of_population=config.scale == "population_std",',
        'of_population=config.scale == "std",',
        "weights/test_estimators.py",
    ),
    Mutation(
        "floor of the deviation forgotten",
        "weights/advantage.py",
        "floor=config.floor,",
        "floor=0.0,",
        "weights/test_estimators.py",
    ),
    # objectives
    Mutation(
        "baseline added in place of subtracted",
        "objectives/dmpo.py",
        "real = weights.values - parts.baseline.strength * baseline",
        "real = weights.values + parts.baseline.strength * baseline",
    ),
    Mutation(
        "strength of the baseline forgotten",
        "objectives/dmpo.py",
        "real = weights.values - parts.baseline.strength * baseline",
        "real = weights.values - baseline",
    ),
    Mutation(
        "log p_v - log p_ref in place of log p_ref - log p_v",
        "objectives/frozen.py",
        "value=likelihood.log_ratio(reference, behaviour, views),",
        "value=likelihood.log_ratio(behaviour, reference, views),",
        "objectives/test_dmpo.py",
    ),
    Mutation(
        "reference evaluated with the weights of the policy",
        "objectives/frozen.py",
        "    with policy.reference():\n        reference",
        "    if True:\n        reference",
        "objectives/test_dmpo.py",
    ),
    Mutation(
        "model baseline frozen at the first update",
        "objectives/dmpo.py",
        "        if update == 0:\n",
        "        if update >= 0:\n",
    ),
    Mutation(
        "loss on the same views at every update although fresh ones are asked for",
        "objectives/dmpo.py",
        "            views = parts.likelihood.views(rollouts, generator)\n        baseline",
        "            views = parts.likelihood.views(rollouts, torch.Generator().manual_seed(0))\n"
        "        baseline",
    ),
    Mutation(
        "views of the first update at every update of a ratio",
        "objectives/ratio.py",
        "index = update % len(experience.views)",
        "index = 0",
        "objectives/test_diffu_grpo.py",
    ),
    Mutation(
        "divergence subtracted from the loss",
        "objectives/ratio.py",
        "loss = loss + config.beta * divergence",
        "loss = loss - config.beta * divergence",
        "objectives/test_ratio.py",
    ),
    Mutation(
        "rows and weights of a buffer in different orders",
        "objectives/rows.py",
        "weights=weights.flatten(0, 1),",
        "weights=weights.transpose(0, 1).flatten(0, 1),",
        "objectives/test_dmpo.py",
    ),
    Mutation(
        "mean over the responses of a slice in place of the buffer",
        "objectives/units.py",
        "of_rows).sum() / num_rows",
        "of_rows).sum() / len(values)",
        "objectives/test_units.py",
    ),
    Mutation(
        "mean over views weighed by how much each scores",
        "objectives/units.py",
        'if normalisation == "view" and values.dim() > 2:',
        'if normalisation == "view" and values.dim() > 3:',
        "objectives/test_ratio.py",
    ),
    Mutation(
        "log-probability of a draw without its factor R",
        "objectives/units.py",
        "return whole * likelihood.combine_views(token_log_probs, views)",
        "return likelihood.combine_views(token_log_probs, views)",
        "objectives/test_units.py",
    ),
    Mutation(
        "divergence of the log-ratio per token, so divided by D twice",
        "objectives/ratio.py",
        "divergence = mean(per_token(estimate(difference, torch.zeros_like(difference))))",
        "divergence = mean(estimate(per_token(difference), torch.zeros_like(difference)))",
        "objectives/test_espo.py",
    ),
    Mutation(
        "ratio of the whole response in place of that per token",
        "objectives/espo.py",
        "divides_by_size = True",
        "divides_by_size = False",
        "objectives/test_espo.py",
    ),
    Mutation(
        "clip range above 1 that is that below it",
        "objectives/ratio.py",
        '"epsilon_high": low if high is None else high',
        '"epsilon_high": low',
        "objectives/test_diffu_grpo.py",
    ),
    Mutation(
        "divergence to the behaviour policy whatever is asked for",
        "objectives/ratio.py",
        'if config.divergence_to == "reference":',
        "if config.divergence_to is None:",
        "objectives/test_ratio.py",
    ),
    Mutation(
        "both terms of WDDO through the same draw",
        "objectives/wddo.py",
        "for part in (slice(half), slice(num_views - half, None))",
        "for part in (slice(half), slice(half))",
        "objectives/test_wddo.py",
    ),
    Mutation(
        "states that score nothing take a share of the softmax",
        "objectives/wd1pp.py",
        "torch.softmax(values.masked_fill(~counts, -torch.inf), dim=1).nan_to_num(0.0)",
        "torch.softmax(values, dim=1) * counts",
        "objectives/test_wd1pp.py",
    ),
    Mutation(
        "sum in place of the mean over the hidden tokens of a text",
        "objectives/wd1pp.py",
        "scored * (lengths / sizes.square())",
        "scored * (lengths / sizes)",
        "objectives/test_wd1pp.py",
    ),
    Mutation(
        "lower and upper bound exchanged",
        "objectives/spg.py",
        "below = torch.lerp(lower, upper, share)",
        "below = torch.lerp(upper, lower, share)",
        "objectives/test_spg.py",
    ),
    Mutation(
        "upper bound for good responses",
        "objectives/spg.py",
        "return torch.where(advantages < 0, below, lower)",
        "return torch.where(advantages > 0, below, lower)",
        "objectives/test_spg.py",
    ),
    Mutation(
        "margins without the reference",
        "objectives/vrpo.py",
        "log_ratio = likelihood.log_ratio(current, reference, views).flatten()",
        "log_ratio = likelihood.combine(current, views).flatten() + 0 * reference.sum()",
        "objectives/test_vrpo.py",
    ),
    Mutation(
        "groups without spread give a pair of one rollout",
        "objectives/vrpo.py",
        "varied = rewards.amax(dim=1) > rewards.amin(dim=1)",
        "varied = rewards.amax(dim=1) >= rewards.amin(dim=1)",
        "objectives/test_vrpo.py",
    ),
    Mutation(
        "regression towards minus the advantage",
        "objectives/gdsd.py",
        "squares = (moved - targets).square()",
        "squares = (moved + targets).square()",
        "objectives/test_gdsd.py",
    ),
    Mutation(
        "a subset and its complement taken for two draws",
        "objectives/gdsd.py",
        "return torch.stack(estimates.chunk(2, dim=-1)).mean(dim=0)",
        "return estimates",
        "objectives/test_gdsd.py",
    ),
    Mutation(
        "steps of a rank compared with 0 where a rollout has none",
        "objectives/egspo.py",
        "total = torch.where(counts, total, sums / sizes.clamp(min=1))",
        "total = torch.where(counts, total, 0 * sums / sizes.clamp(min=1))",
        "objectives/test_egspo.py",
    ),
    Mutation(
        "reward of a step not divided by 1 + lambda",
        "objectives/egspo.py",
        "return (rewards + strength * (rewards - greedy)) / (1 + strength)",
        "return rewards + strength * (rewards - greedy)",
        "objectives/test_egspo.py",
    ),
    Mutation(
        "ratio bounded from the wrong side",
        "objectives/bgpo.py",
        "is_good = advantages > 0",
        "is_good = advantages < 0",
        "objectives/test_bgpo.py",
    ),
    # samplers
    Mutation(
        "log-probabilities of untempered logits, as in the official code",
        "samplers/draw.py",
        "scaled = logits if temperature == 1 else logits / temperature",
        "scaled = logits",
    ),
    Mutation(
        "one uniform number for the run and for the token inside it",
        "samplers/draw.py",
        "_first_above(inside, within)[0]",
        "_first_above(inside, uniform)[0]",
    ),
    Mutation(
        "least confident tokens revealed first",
        "samplers/low_confidence.py",
        "best = ranked.topk(min(count, ranked.shape[1]), dim=1).indices",
        "best = ranked.topk(min(count, ranked.shape[1]), dim=1, largest=False).indices",
    ),
    Mutation(
        "remainder of the schedule on the last steps",
        "samplers/schedule.py",
        "share + (step < remainder)",
        "share + (step >= num_steps - remainder)",
    ),
    Mutation(
        "one order for all rows",
        "samplers/block_loop.py",
        "return uniforms_at(streams, places).argsort(dim=1).argsort(dim=1)",
        "return uniforms_at(streams[:1].expand_as(streams), places).argsort(dim=1).argsort(dim=1)",
    ),
    Mutation(
        "one more position revealed than the schedule says",
        "samplers/random_order.py",
        "return (state.order >= first) & (state.order < end)",
        "return (state.order >= first) & (state.order <= end)",
    ),
    Mutation(
        "answer ends before its first EOS",
        "samplers/canvas.py",
        "return is_eos.cumsum(-1) - is_eos.long() == 0",
        "return is_eos.cumsum(-1) == 0",
    ),
    Mutation(
        "guidance towards the prompt-free logits",
        "samplers/forward.py",
        "return unconditional + (self._scale + 1) * (conditional - unconditional)",
        "return conditional + (self._scale + 1) * (unconditional - conditional)",
    ),
    Mutation(
        "steps of a path counted from the block's start",
        "samplers/block_loop.py",
        "revealed=revealed, forward=self.num_forwards",
        "revealed=revealed, forward=state.step",
    ),
    Mutation(
        "rows end with the first block, whether it has an EOS or not",
        "samplers/canvas.py",
        "rest = ended[:, None] & self.hidden",
        "rest = self.hidden.clone()",
    ),
    Mutation(
        "threshold that spares the most confident token",
        "samplers/threshold.py",
        "return ((confidence >= threshold) & valid) | most_confident(confidence, valid, 1)",
        "return ((confidence >= threshold) & valid) | ~(confidence >= threshold).any(1)[:, None]",
    ),
    Mutation(
        "dynamic factor over n in place of n + 1",
        "samplers/factor.py",
        "passes = ranked >= 1 - self._factor / (rank + 1)",
        "passes = ranked >= 1 - self._factor / rank",
    ),
    Mutation(
        "bound on all entropies, the largest among them",
        "samplers/entropy_bound.py",
        "before = ranked.double().cumsum(dim=1).roll(1, dims=1)",
        "before = ranked.double().cumsum(dim=1)",
    ),
    Mutation(
        "shadow that sees the token it is to verify",
        "samplers/wino.py",
        "visible[:, length:, start:end] &= ~shadowed",
        "visible[:, length:, start:end] |= shadowed",
    ),
    Mutation(
        "cache that is never filled again",
        "samplers/forward.py",
        "if step.step == 0:",
        "if self._cache is None:",
    ),
    Mutation(
        "cache whose rows are not those of the canvas once one has finished",
        "samplers/forward.py",
        "self._cache.select(torch.searchsorted(self._rows, step.rows))",
        "self._cache.select(torch.arange(len(step.rows)))",
    ),
    Mutation(
        "largest logit in place of the largest probability",
        "samplers/peaked.py",
        "peak = proposal.logits.amax(dim=-1) - proposal.logits.logsumexp(dim=-1)",
        "peak = proposal.logits.amax(dim=-1)",
        "samplers/test_parallel_rules.py samplers/test_random_order.py",
    ),
    # records, training, policies
    Mutation(
        "flat groups kept and those whose rewards differ replaced",
        "training/filling.py",
        "(flat if is_flat else varied).append(",
        "(varied if is_flat else flat).append(",
        "training/test_buffer_options.py",
    ),
    Mutation(
        "the same prompts again in every round of replacement",
        "training/filling.py",
        "_told_apart(self._scored(cursor + taken, missing, step))",
        "_told_apart(self._scored(cursor, missing, step))",
        "training/test_buffer_options.py",
    ),
    Mutation(
        "what is drawn for a group depends on its row in the batch",
        "diffusion/draws.py",
        'self.keys = keys.to("cpu", torch.long)',
        "self.keys = torch.arange(len(keys))",
        "diffusion/test_draws.py samplers/test_row_streams.py",
    ),
    Mutation(
        "numbers of a padded prompt counted from its left",
        "diffusion/draws.py",
        "torch.arange(width - 1, -1, -1)",
        "torch.arange(width)",
        "diffusion/test_draws.py",
    ),
    Mutation(
        "every process normalises by its own rows",
        "training/gradient.py",
        "return replace(batch, num_rows_in_buffer=rows, num_tokens_in_buffer=tokens)",
        "return batch",
        "training/test_processes.py",
    ),
    Mutation(
        "a pass that only keeps step with the others counts in the gradient",
        "training/engine.py",
        "loss = output.loss if counts else output.loss * 0.0",
        "loss = output.loss",
        "training/test_processes.py",
    ),
    Mutation(
        "gradients of a failed attempt stay",
        "training/micro_batches.py",
        "            self._engine.weights.forget_gradients()\n            release_memory()",
        "            release_memory()",
        "training/test_micro_batches.py",
    ),
    Mutation(
        "replayed buffers that begin anew with their first step",
        "training/settings.py",
        "before = age * (self.updates_per_buffer // self.replay_buffers)",
        "before = 0",
        "training/test_buffer_options.py",
    ),
    Mutation(
        "several steps on a buffer before the next has its turn",
        "training/settings.py",
        "age = update % len(buffers)",
        "age = update // (self.updates_per_buffer // self.replay_buffers) % len(buffers)",
        "training/test_buffer_options.py",
    ),
    Mutation(
        "rows that a step looks at normalised by themselves",
        "records.py",
        "return replace(self.rows(rows), share_kept=share)",
        "return replace(self.rows(rows), share_kept=share, num_rows_in_buffer=len(rows))",
        "test_records.py",
    ),
    Mutation(
        "share of the rows kept that forgets an earlier choice",
        "records.py",
        "share = self.share_kept * len(rows) / max(1, self.num_rows)",
        "share = len(rows) / max(1, self.num_rows)",
        "test_records.py",
    ),
    Mutation(
        "row left out as soon as one of its views weighs nothing",
        "records.py",
        "return size if size.dim() == 1 else size.amax(dim=1)",
        "return size if size.dim() == 1 else size.amin(dim=1)",
        "test_records.py",
    ),
    Mutation(
        "last rows lost where slices do not divide the buffer",
        "records.py",
        "starts = range(0, self.num_rows, num_rows)",
        "starts = range(0, max(1, self.num_rows - num_rows + 1), num_rows)",
        "test_records.py",
    ),
    Mutation(
        "stored reference of the first views for every piece of a row",
        "records.py",
        "reference is None else reference[:, views],",
        "reference is None else reference[:, : views.stop - views.start],",
        "test_records.py",
    ),
    Mutation(
        "gradient of weights that do not train",
        "policies/flops.py",
        "backward += once * (takes_gradient + layer.weight.requires_grad)",
        "backward += once * (takes_gradient + 1)",
        "policies/test_flops.py",
    ),
    Mutation(
        "attention as costly backwards as forwards",
        "policies/flops.py",
        "pair=Cost(forward=attention, backward=2 * attention, recomputed=attention)",
        "pair=Cost(forward=attention, backward=attention, recomputed=attention)",
        "policies/test_flops.py",
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What the tests made of an error."""

    caught_by: str | None
    tail: str


def main() -> None:
    options = parse()
    numbers = options.only or range(1, len(MUTATIONS) + 1)
    asked = {path: None for number in numbers for path in MUTATIONS[number - 1].tests}
    if (control := attempt(None, tuple(asked))).caught_by is not None:
        raise SystemExit(f"a test fails without any error: {control.tail}")
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        chosen = [MUTATIONS[number - 1] for number in numbers]
        tests = [mutation.tests for mutation in chosen]
        outcomes = dict(zip(numbers, pool.map(attempt, chosen, tests), strict=True))
    if options.only:
        for number, outcome in outcomes.items():
            print(f"{number}: {outcome.caught_by}\n{outcome.tail}\n")
        return
    text = report(outcomes)
    print(text)
    if options.name:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.name}.md").write_text(text, encoding="utf-8")
    if any(outcome.caught_by is None for outcome in outcomes.values()):
        sys.exit(1)


def attempt(mutation: Mutation | None, tests: tuple[str, ...]) -> Outcome:
    """Make one error, or none, in a copy of the repository and run tests on it."""
    with tempfile.TemporaryDirectory(prefix="dmpo-mutation-") as folder:
        copy = Path(folder) / "dmpo"
        keep = shutil.ignore_patterns(".*", "runs", "site", "__pycache__", "results")
        shutil.copytree(ROOT, copy, ignore=keep)
        if (ROOT.parent / "shared").is_dir():
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
        if mutation is not None:
            mutate(copy / "dmpo" / mutation.file, mutation)
        command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider --no-header".split()
        run = subprocess.run(
            [*command, *(f"tests/{path}" for path in tests)],
            cwd=copy,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "PYTHONPATH": str(copy),
            },
            capture_output=True,
            text=True,
            check=False,
        )
    failed = [line for line in run.stdout.splitlines() if line.startswith("FAILED")]
    if run.returncode and not failed:  # an error at collection is no test that noticed
        raise SystemExit(f"{mutation}: pytest ended with {run.returncode}: {run.stdout[-2000:]}")
    return Outcome(failed[0].split()[1].split("[")[0] if failed else None, run.stdout[-3000:])


def mutate(file: Path, mutation: Mutation) -> None:
    source = file.read_text(encoding="utf-8")
    if (count := source.count(mutation.old)) != 1:
        raise SystemExit(f"{mutation.file}: {mutation.old!r} is there {count} times")
    file.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")


def report(outcomes: dict[int, Outcome]) -> str:
    caught = sum(outcome.caught_by is not None for outcome in outcomes.values())
    lines = [
        "# Deliberate errors, one at a time",
        "",
        f"**{caught} of {len(outcomes)} are caught.** Named is the first test that fails.",
        "",
        "| | error | file | first test that fails |",
        "| ---: | --- | --- | --- |",
    ]
    for number, outcome in outcomes.items():
        mutation = MUTATIONS[number - 1]
        test = "**none**"
        if outcome.caught_by:
            path, _, name = outcome.caught_by.partition("::")
            test = f"`{name}` ({path.removeprefix('tests/')})"
        lines.append(f"| {number} | {mutation.error} | `{mutation.file}` | {test} |")
    return "\n".join([*lines, "", *provenance(), ""])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="+", help="numbers of errors to make")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--name", help="write results/NAME.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
