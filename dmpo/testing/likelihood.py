"""The laws of a likelihood, looked at on rollouts of the packaged tiny LLaDA with their path."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from dmpo.errors import ConfigError
from dmpo.likelihoods.base import Likelihood, rollout_log_probs
from dmpo.records import Rollouts, Views
from dmpo.testing.bench import (
    copied,
    difference,
    grouped,
    nudge,
    padded,
    recorded_rollouts,
    same_tensors,
    tiny_policy,
)
from dmpo.testing.laws import Law, law

__all__ = ["LAWS", "LikelihoodBench"]

TOLERANCE = 1e-4
SEEDS = range(3)


@final
class LikelihoodBench:
    """Rollouts, and what one policy and another say of a likelihood's views of them.

    Args:
        likelihood: What is tried.
        by_default: Whether its Config was given nothing.
    """

    def __init__(self, likelihood: Likelihood, *, by_default: bool) -> None:
        """Draw the rollouts."""
        self.likelihood = likelihood
        self.by_default = by_default
        self.policy = tiny_policy()
        self.rollouts = recorded_rollouts(self.policy)

    def drawn(self, rollouts: Rollouts | None = None, seed: int = 0) -> Views:
        """Draw views by the generator that training hands out."""
        rollouts = rollouts or self.rollouts
        return self.likelihood.views(rollouts, grouped(rollouts.prompts, "draw", seed))

    @functools.cached_property
    def views(self) -> Views:
        """The views that most laws look at."""
        return self.drawn()

    def scored(self, rollouts: Rollouts, views: Views, rows: int = 8) -> Tensor:
        """Return the views' token log-probabilities."""
        return rollout_log_probs(self.policy, rollouts, views, rows_per_forward=rows)

    @functools.cached_property
    def log_probs(self) -> Tensor:
        """Token log-probabilities under the policy that drew the rollouts."""
        return self.scored(self.rollouts, self.views)

    @functools.cached_property
    def other_log_probs(self) -> Tensor:
        """The same under another policy."""
        policy = tiny_policy()
        nudge(policy, 3)
        return rollout_log_probs(policy, self.rollouts, self.views, rows_per_forward=8)


@law
def views_have_the_shape(bench: LikelihoodBench) -> Iterator[str]:
    """Views are `hidden` (true or false) and `coefficient` (numbers), both [B, N, R, D]."""
    views, shape = bench.views, bench.rollouts.completions.shape
    hidden, coefficient = views.hidden, views.coefficient
    if hidden.dtype != torch.bool or not coefficient.is_floating_point():
        yield f"expected: bool and float; given {hidden.dtype} and {coefficient.dtype}"
    if hidden.dim() != 4 or hidden.shape[:2] != shape[:2] or hidden.shape[3] != shape[2]:
        yield f"expected: [{shape[0]}, {shape[1]}, R, {shape[2]}]; hidden is {list(hidden.shape)}"
    if coefficient.shape != hidden.shape:
        yield f"expected: one shape; coefficient is {list(coefficient.shape)}"
    prompt, width = views.prompt_hidden, bench.rollouts.prompts.tokens.shape[1]
    if prompt is not None and list(prompt.shape) != [*hidden.shape[:3], width]:
        yield f"expected: prompt_hidden [B, N, R, {width}]; it is {list(prompt.shape)}"


@law
def only_hidden_tokens_count(bench: LikelihoodBench) -> Iterator[str]:
    """A token that a view leaves visible has the coefficient 0 in it; coefficients are finite."""
    views = bench.views
    seen = int(((views.coefficient != 0) & ~views.hidden).sum())
    if seen:
        yield f"expected: coefficient 0 where hidden is False; {seen} visible tokens are scored"
    if not bool(views.coefficient.isfinite().all()):
        yield "expected: finite coefficients; some are infinite or not numbers"


@law
def only_the_answer_counts(bench: LikelihoodBench) -> Iterator[str]:
    """Tokens count that `eos` says count, and no others; some do."""
    scored = bench.likelihood.scored(bench.rollouts.answer_mask).unsqueeze(2)
    counted = bench.views.coefficient != 0
    beyond = int((counted & ~scored).sum())
    if beyond:
        yield f"expected: coefficient 0 behind the first EOS; {beyond} tokens there are scored"
    if not bool(counted.any()):
        yield "expected: some token counts; all coefficients are 0"


@law
def padding_is_never_hidden(bench: LikelihoodBench) -> Iterator[str]:
    """Of a prompt only real tokens are hidden; by default, none."""
    hidden = bench.views.prompt_hidden
    if hidden is None:
        return
    if bench.by_default:
        yield (
            "expected: prompt_hidden is None unless a setting asks for it; with the defaults "
            f"{int(hidden.sum())} prompt tokens are hidden"
        )
    real = bench.rollouts.prompts.attention_mask[:, None, None]
    if bool((hidden & ~real).any()):
        yield "expected: padding stays as it is; some of it is hidden"


@law
def same_seed_same_views(bench: LikelihoodBench) -> Iterator[str]:
    """The same generator gives the same views; other ones give others unless `is_deterministic`."""
    if not same_tensors(bench.views, bench.drawn()):
        yield "expected: equal views from equal generators; they differ"
    drawn = [bench.drawn(seed=seed) for seed in SEEDS]
    alike = all(same_tensors(each, drawn[0]) for each in drawn)
    if alike and not bench.likelihood.is_deterministic:
        yield "expected: is_deterministic is True; views of three seeds are the same"
    if not alike and bench.likelihood.is_deterministic:
        yield "expected: is_deterministic is False; views of three seeds differ"


@law
def order_of_groups_does_not_matter(bench: LikelihoodBench) -> Iterator[str]:
    """A prompt's views do not depend on the prompts beside it: draw by `dmpo.diffusion.draws`."""
    turned = bench.rollouts.groups([1, 0])
    found, alone = bench.drawn(turned), bench.drawn(bench.rollouts.groups([1]))
    for what, views in (("turned", found), ("alone", alone)):
        # Beside others a row may have empty views, as many as the longest path has steps.
        if not torch.equal(_trimmed(bench.views.coefficient[1]), _trimmed(views.coefficient[0])):
            yield f"expected: the views of a prompt are its own; {what}, they are others"


@law
def neither_padding_nor_portions_matter(bench: LikelihoodBench) -> Iterator[str]:
    """The value does not depend on the prompts' padding or on how many rows run at once."""
    value = bench.likelihood.combine(bench.log_probs, bench.views)
    portions = bench.scored(bench.rollouts, bench.views, rows=3)
    if difference(value, bench.likelihood.combine(portions, bench.views)) > TOLERANCE:
        yield "expected: the same value from portions of 3 rows; it differs"
    wide = replace(bench.rollouts, prompts=padded(bench.rollouts.prompts))
    views = bench.drawn(wide)
    if difference(value, bench.likelihood.combine(bench.scored(wide, views), views)) > TOLERANCE:
        yield "expected: the same value with wider prompts; it differs"


@law
def value_is_one_number_per_rollout(bench: LikelihoodBench) -> Iterator[str]:
    """`combine` gives a finite number [B, N]; `log_ratio` of a policy with itself is 0."""
    value = bench.likelihood.combine(bench.log_probs, bench.views)
    shape = bench.rollouts.completions.shape[:2]
    if value.shape != shape:
        yield f"expected: [{shape[0]}, {shape[1]}]; combine gives {list(value.shape)}"
    if not bool(value.isfinite().all()):
        yield "expected: finite values; some are infinite or not numbers"
    ratio = bench.likelihood.log_ratio(bench.log_probs, bench.log_probs, bench.views)
    if bool(ratio.any()):
        yield f"expected: log_ratio of a policy with itself is 0; it is up to {_most(ratio)}"


@law
def log_ratio_is_the_difference(bench: LikelihoodBench) -> Iterator[str]:
    """`log_ratio` is the difference of the two policies' values (views without a threshold)."""
    likelihood, views = bench.likelihood, bench.views
    if views.threshold > 0:
        return
    one, other = bench.log_probs, bench.other_log_probs
    expected = likelihood.combine(one, views) - likelihood.combine(other, views)
    found = likelihood.log_ratio(one, other, views)
    if difference(expected, found) > TOLERANCE:
        yield f"expected: {_few(expected)}; log_ratio gives {_few(found)}"


@law
def is_linear_is_honest(bench: LikelihoodBench) -> Iterator[str]:
    """Where `is_linear`, the value is the sum over views of what `combine_views` gives."""
    likelihood, views = bench.likelihood, bench.views
    if not likelihood.is_linear:
        return
    whole = likelihood.combine(bench.log_probs, views)
    parts = likelihood.combine_views(bench.log_probs, views)
    if parts.shape != views.hidden.shape[:3] or difference(parts.sum(-1), whole) > TOLERANCE:
        yield "expected: combine is the sum of combine_views over R; it is not"
    if views.threshold == 0:
        twice = likelihood.combine(2 * bench.log_probs, views)
        if difference(twice, 2 * whole) > TOLERANCE:
            yield "expected: twice the log-probabilities give twice the value; they do not"


@law
def standard_error_is_one(bench: LikelihoodBench) -> Iterator[str]:
    """`standard_error` is None, or [B, N], finite, not negative; 0 where `is_exact`."""
    likelihood = bench.likelihood
    error = likelihood.standard_error(bench.log_probs - bench.other_log_probs, bench.views)
    if error is None:
        if likelihood.is_exact:
            yield "expected: zeros, as is_exact is True; it is None"
        return
    shape = bench.rollouts.completions.shape[:2]
    if error.shape != shape:
        yield f"expected: [{shape[0]}, {shape[1]}]; it is {list(error.shape)}"
    elif not bool((error.isfinite() & (error >= 0)).all()):
        yield f"expected: finite numbers of at least 0; there is {float(error.min())}"
    elif likelihood.is_exact and bool(error.any()):
        yield f"expected: zeros, as is_exact is True; it is up to {_most(error)}"


@law
def exact_means_deterministic(bench: LikelihoodBench) -> Iterator[str]:
    """Where `is_exact`, nothing is drawn: `is_deterministic` is True as well."""
    if bench.likelihood.is_exact and not bench.likelihood.is_deterministic:
        yield "expected: is_deterministic is True where is_exact is; it is False"


@law
def needs_path_is_honest(bench: LikelihoodBench) -> Iterator[str]:
    """Rollouts without a path are refused with a ConfigError exactly if `needs_path`."""
    without = replace(bench.rollouts, log_probs=None)
    try:
        bench.drawn(without)
    except ConfigError as error:
        if not bench.likelihood.needs_path:
            yield f"expected: needs_path is True; without a path: {error}"
    else:
        if bench.likelihood.needs_path:
            yield "expected: a ConfigError for rollouts without log_probs; there was none"


@law
def recorded_log_probs_are_the_policys(bench: LikelihoodBench) -> Iterator[str]:
    """`recorded_log_probs` is None, or what the policy that drew them says of the views."""
    recorded = bench.likelihood.recorded_log_probs(bench.rollouts, bench.views)
    if recorded is not None and difference(recorded, bench.log_probs) > TOLERANCE:
        yield "expected: what evaluating the views gives; the recorded ones differ"


@law
def rollouts_stay_as_they_are(bench: LikelihoodBench) -> Iterator[str]:
    """`views` writes nothing into the rollouts and runs no model."""
    before, ran = copied(bench.rollouts), bench.policy.forward_tokens
    bench.drawn()
    if not same_tensors(before, copied(bench.rollouts)):
        yield "expected: rollouts as they were; views wrote into them"
    if bench.policy.forward_tokens != ran:
        yield "expected: no forward pass; views ran the policy"


def _trimmed(of_rows: Tensor) -> Tensor:
    """Return views [N, R, D] without those at the end that are empty in every row."""
    used = of_rows.flatten(2).any(dim=2).any(dim=0).nonzero()
    return of_rows[:, : int(used.max()) + 1 if len(used) else 0]


def _most(values: Tensor) -> str:
    return f"{float(values.abs().max()):.3g}"


def _few(values: Tensor) -> str:
    return ", ".join(f"{number:.4g}" for number in values.flatten()[:3].tolist())


LAWS: tuple[Law, ...] = (
    views_have_the_shape,
    only_hidden_tokens_count,
    only_the_answer_counts,
    padding_is_never_hidden,
    same_seed_same_views,
    order_of_groups_does_not_matter,
    neither_padding_nor_portions_matter,
    value_is_one_number_per_rollout,
    log_ratio_is_the_difference,
    is_linear_is_honest,
    standard_error_is_one,
    exact_means_deterministic,
    needs_path_is_honest,
    recorded_log_probs_are_the_policys,
    rollouts_stay_as_they_are,
)
"""The laws of a likelihood, in the order they are looked at."""
