"""The laws of a weight baseline, through two links."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from dmpo.errors import ConfigError
from dmpo.testing.bench import difference, generator, same_tensors
from dmpo.testing.laws import Law, law
from dmpo.testing.weight import ratio_of
from dmpo.weights.base import Baseline, WeightEstimator
from dmpo.weights.linear import LinearConfig, LinearWeights
from dmpo.weights.tilted import TiltedConfig, TiltedWeights

__all__ = ["LAWS", "BaselineBench"]

TOLERANCE = 1e-4
ESTIMATORS: tuple[WeightEstimator, ...] = (
    TiltedWeights(TiltedConfig(alpha=0.5)),
    LinearWeights(LinearConfig(alpha=0.5)),
)
"""The softmax link and the linear one."""


@final
@dataclass(frozen=True)
class BaselineBench:
    """Three groups of five rollouts, their weights, and what the current policy says of them."""

    baseline: Baseline
    """What is tried."""

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rewards, log p_ref − log p_v and log p_θ − log p_v, new each time."""
        rewards = torch.rand(3, 5, generator=generator(1))
        ratios = 0.3 * torch.randn(2, 3, 5, generator=generator(2))
        return rewards, ratios[0], ratios[1]

    def weights(
        self, estimator: WeightEstimator, rewards: Tensor, reference: Tensor, model: Tensor | None
    ) -> Tensor:
        """Return w_base."""
        log_ratio = ratio_of(reference)
        estimated = estimator.estimate(rewards, log_ratio)
        return self.baseline.weights(estimator, rewards, log_ratio, estimated, model)


@law
def baseline_has_the_shape(bench: BaselineBench) -> Iterator[str]:
    """The baseline is a finite number for each rollout, [B, N]."""
    for estimator in ESTIMATORS:
        found = bench.weights(estimator, *bench.inputs)
        if found.shape != (3, 5):
            yield f"expected: [3, 5]; it is {list(found.shape)}"
        elif not bool(found.isfinite().all()):
            yield f"expected: finite numbers; with {type(estimator).__name__} some are not"


@law
def strength_is_a_share(bench: BaselineBench) -> Iterator[str]:
    """`strength` is the share that is subtracted, from 0 to 1."""
    if not 0 <= bench.baseline.strength <= 1:
        yield f"expected: within [0, 1]; strength is {bench.baseline.strength}"


@law
def groups_know_nothing_of_each_other(bench: BaselineBench) -> Iterator[str]:
    """The baseline of a group does not depend on the others."""
    for estimator in ESTIMATORS:
        whole = bench.weights(estimator, *bench.inputs)
        alone = bench.weights(estimator, *(each[:1] for each in bench.inputs))
        if difference(whole[:1], alone) > TOLERANCE:
            yield f"expected: a group's own; alone it is another, with {type(estimator).__name__}"


@law
def order_in_a_group_does_not_matter(bench: BaselineBench) -> Iterator[str]:
    """Rollouts of a group in another order have the same baselines in that order."""
    order = [3, 0, 4, 2, 1]
    for estimator in ESTIMATORS:
        turned = bench.weights(estimator, *(each[:, order] for each in bench.inputs))
        if difference(turned, bench.weights(estimator, *bench.inputs)[:, order]) > TOLERANCE:
            yield f"expected: it moves with its rollouts; with {type(estimator).__name__}, not"


@law
def needs_model_log_ratio_is_honest(bench: BaselineBench) -> Iterator[str]:
    """The current policy's log p_θ − log p_v is asked for exactly if `needs_model_log_ratio`."""
    rewards, reference, model = bench.inputs
    estimator = ESTIMATORS[0]
    try:
        without = bench.weights(estimator, rewards, reference, None)
    except ConfigError as error:
        if not bench.baseline.needs_model_log_ratio:
            yield f"expected: needs_model_log_ratio is True; without it: {error}"
        return
    if bench.baseline.needs_model_log_ratio:
        yield "expected: a ConfigError without log p_θ − log p_v; none came"
    elif difference(without, bench.weights(estimator, rewards, reference, model)) > TOLERANCE:
        yield "expected: needs_model_log_ratio is True; it changes the baseline"


@law
def baseline_has_no_gradient(bench: BaselineBench) -> Iterator[str]:
    """No gradient goes through the baseline."""
    rewards, reference, model = bench.inputs
    found = bench.weights(ESTIMATORS[0], rewards, reference, model.requires_grad_())
    if found.requires_grad:
        yield "expected: plain numbers; the gradient of log p_θ goes through it: detach it"


@law
def rewards_stay_as_they_are(bench: BaselineBench) -> Iterator[str]:
    """`weights` writes into nothing it was handed, and gives the same each time."""
    given = bench.inputs
    estimator = ESTIMATORS[0]
    log_ratio = ratio_of(given[1])
    estimated = estimator.estimate(given[0], log_ratio)
    before = [tensor.clone() for tensor in (estimated.values, estimated.coefficient)]
    first = bench.baseline.weights(estimator, given[0], log_ratio, estimated, given[2]).clone()
    after = [estimated.values, estimated.coefficient]
    if not (same_tensors(given, bench.inputs) and same_tensors(before, after)):
        yield "expected: rewards and weights as they were; it wrote into them"
    if not same_tensors(first, bench.weights(estimator, *bench.inputs)):
        yield "expected: the same baseline from the same weights; they differ"


LAWS: tuple[Law, ...] = (
    baseline_has_the_shape,
    strength_is_a_share,
    groups_know_nothing_of_each_other,
    order_in_a_group_does_not_matter,
    needs_model_log_ratio_is_honest,
    baseline_has_no_gradient,
    rewards_stay_as_they_are,
)
"""The laws of a baseline, in the order they are looked at."""
