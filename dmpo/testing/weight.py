"""The laws of a weight estimator, on groups of rewards and log-ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from dmpo.errors import ConfigError
from dmpo.records import LogRatio, Weights
from dmpo.testing.bench import difference, generator, same_tensors
from dmpo.testing.laws import Law, law
from dmpo.weights.base import WeightEstimator

__all__ = ["LAWS", "WeightBench", "ratio_of"]

TOLERANCE = 1e-4


def ratio_of(value: Tensor) -> LogRatio:
    """Return a log-ratio without noise."""
    return LogRatio(value=value, standard_error=torch.zeros_like(value))


@final
@dataclass(frozen=True)
class WeightBench:
    """Three groups of five rollouts."""

    estimator: WeightEstimator
    """What is tried."""

    @property
    def rewards(self) -> Tensor:
        """Rewards in [0, 1], new each time."""
        return torch.rand(3, 5, generator=generator(1))

    @property
    def log_ratio(self) -> LogRatio | None:
        """A log-ratio of some tenths of a nat, where the estimator needs one."""
        if not self.estimator.needs_reference:
            return None
        return ratio_of(0.2 * torch.randn(3, 5, generator=generator(2)))

    def estimated(self) -> Weights:
        """Return the weights that most laws look at."""
        return self.estimator.estimate(self.rewards, self.log_ratio)


def _turned(log_ratio: LogRatio | None, order: list[int]) -> LogRatio | None:
    return None if log_ratio is None else ratio_of(log_ratio.value[:, order])


def _rows(log_ratio: LogRatio | None, rows: slice) -> LogRatio | None:
    return None if log_ratio is None else ratio_of(log_ratio.value[rows])


@law
def weights_have_the_shape(bench: WeightBench) -> Iterator[str]:
    """Weights are finite [B, N]; `ess` and `coefficient` are finite [B], without a gradient."""
    found = bench.estimated()
    for name, values, shape in (
        ("values", found.values, (3, 5)),
        ("log_weights", found.log_weights, (3, 5)),
        ("ess", found.ess, (3,)),
        ("coefficient", found.coefficient, (3,)),
    ):
        if values is None:
            continue
        if tuple(values.shape) != shape:
            yield f"expected: {name} {list(shape)}; it is {list(values.shape)}"
        elif not bool(values.isfinite().all()):
            yield f"expected: finite numbers; {name} has others"
    if bool((found.coefficient <= 0).any()):
        yield "expected: coefficients above 0; one is not"


@law
def mean_is_one(bench: WeightBench) -> Iterator[str]:
    """Where `has_link`, weights are the link of the log weights and have mean 1 in each group."""
    if not bench.estimator.has_link:
        return
    found = bench.estimated()
    means = found.values.mean(dim=-1)
    if difference(means, torch.ones_like(means)) > TOLERANCE:
        yield f"expected: mean 1 in each group; the means are {means.tolist()}"
    if found.log_weights is None:
        yield "expected: log_weights, as has_link is True; they are None"
    elif difference(bench.estimator.link(found.log_weights), found.values) > TOLERANCE:
        yield "expected: values are link(log_weights); they are not"


@law
def log_weights_follow_the_coefficient(bench: WeightBench) -> Iterator[str]:
    """Where `has_link`, `log_weights` at the chosen coefficients are those of the estimate."""
    if not bench.estimator.has_link:
        return
    found = bench.estimated()
    again = bench.estimator.log_weights(bench.rewards, bench.log_ratio, found.coefficient)
    if found.log_weights is not None and difference(again, found.log_weights) > TOLERANCE:
        yield "expected: log_weights(rewards, log_ratio, coefficient); the estimate's differ"


@law
def has_link_is_honest(bench: WeightBench) -> Iterator[str]:
    """Without a link, `link` and `log_weights` are refused and an estimate has no log weights."""
    if bench.estimator.has_link:
        return
    if bench.estimated().log_weights is not None:
        yield "expected: log_weights is None, as has_link is False; it is not"
    zeros, ones = torch.zeros(1, 2), torch.ones(1)
    asked: Mapping[str, Callable[[], Tensor]] = {
        "link": lambda: bench.estimator.link(zeros),
        "log_weights": lambda: bench.estimator.log_weights(zeros, ratio_of(zeros), ones),
    }
    for name, ask in asked.items():
        try:
            ask()
        except ConfigError:
            continue
        yield f"expected: {name} raises ConfigError, as has_link is False; it does not"


@law
def order_in_a_group_does_not_matter(bench: WeightBench) -> Iterator[str]:
    """Rollouts of a group in another order have the same weights in that order."""
    order = [3, 0, 4, 2, 1]
    turned = bench.estimator.estimate(bench.rewards[:, order], _turned(bench.log_ratio, order))
    if difference(turned.values, bench.estimated().values[:, order]) > TOLERANCE:
        yield "expected: weights move with their rollouts; they do not"


@law
def constant_reward_does_not_matter(bench: WeightBench) -> Iterator[str]:
    """Where `has_link`, a constant added to all rewards of a group changes no weight."""
    if not bench.estimator.has_link:
        return
    more = bench.estimator.estimate(bench.rewards + 0.7, bench.log_ratio)
    if difference(more.values, bench.estimated().values) > TOLERANCE:
        yield "expected: the same weights for r and r + 0.7; they differ"


@law
def groups_know_nothing_of_each_other(bench: WeightBench) -> Iterator[str]:
    """The weights of a group do not depend on the rewards of the others."""
    whole, first = bench.estimated(), slice(0, 1)
    changed = bench.rewards
    changed[1:] = 5 * changed[1:] - 2
    other = bench.estimator.estimate(changed, bench.log_ratio)
    alone = bench.estimator.estimate(bench.rewards[first], _rows(bench.log_ratio, first))
    for what, found in (("other rewards beside it", other), ("alone", alone)):
        if difference(found.values[first], whole.values[first]) > TOLERANCE:
            yield f"expected: a group's own weights; {what}, they are others"


@law
def better_rewards_never_weigh_less(bench: WeightBench) -> Iterator[str]:
    """At equal log-ratios a rollout of higher reward has no lower weight."""
    rewards = bench.rewards.sort(dim=-1).values
    even = ratio_of(torch.zeros_like(rewards)) if bench.estimator.needs_reference else None
    values = bench.estimator.estimate(rewards, even).values
    if bool((values.diff(dim=-1) < -TOLERANCE).any()):
        yield f"expected: rising weights for rising rewards; they are {values[0].tolist()}"


@law
def sample_size_is_a_share(bench: WeightBench) -> Iterator[str]:
    """`ess` is a share of N: from 1/N to 1 if no weight is negative, else within [0, 1]."""
    found = bench.estimated()
    least = 1 / 5 if bool((found.values >= 0).all()) else 0.0
    slack = TOLERANCE
    if bool(((found.ess < least - slack) | (found.ess > 1 + slack)).any()):
        yield f"expected: within [{least:g}, 1]; ess is {found.ess.tolist()}"


@law
def needs_reference_is_honest(bench: WeightBench) -> Iterator[str]:
    """A missing log-ratio is refused with a ConfigError exactly if `needs_reference`."""
    estimator, noise = bench.estimator, ratio_of(torch.randn(3, 5, generator=generator(7)))
    try:
        without = estimator.estimate(bench.rewards, None).values
    except ConfigError as error:
        if not estimator.needs_reference:
            yield f"expected: needs_reference is True; without a log-ratio: {error}"
        return
    moves = difference(without, estimator.estimate(bench.rewards, noise).values) > TOLERANCE
    if estimator.needs_reference:
        yield "expected: a ConfigError without a log-ratio, as needs_reference is True; none came"
    elif moves:
        yield "expected: needs_reference is True; a log-ratio changes the weights"


@law
def rewards_stay_as_they_are(bench: WeightBench) -> Iterator[str]:
    """`estimate` writes into nothing it was handed, and gives the same each time."""
    rewards, log_ratio = bench.rewards, bench.log_ratio
    first = bench.estimator.estimate(rewards, log_ratio)
    if not (same_tensors(rewards, bench.rewards) and same_tensors(log_ratio, bench.log_ratio)):
        yield "expected: rewards and log-ratio as they were; estimate wrote into them"
    if not same_tensors(first, bench.estimated()):
        yield "expected: the same weights from the same rewards; they differ"


LAWS: tuple[Law, ...] = (
    weights_have_the_shape,
    mean_is_one,
    log_weights_follow_the_coefficient,
    has_link_is_honest,
    order_in_a_group_does_not_matter,
    constant_reward_does_not_matter,
    groups_know_nothing_of_each_other,
    better_rewards_never_weigh_less,
    sample_size_is_a_share,
    needs_reference_is_honest,
    rewards_stay_as_they_are,
)
"""The laws of a weight estimator, in the order they are looked at."""
