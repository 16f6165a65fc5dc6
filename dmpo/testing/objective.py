"""The laws of an objective, looked at on a small buffer of the packaged tiny LLaDA.

The reference, the behaviour policy and the current one are three different policies, as in the
middle of a run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from dmpo.errors import DmpoError
from dmpo.objectives.base import Objective, ObjectiveParts
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Batch, Experience, Rewards, Rollouts
from dmpo.registry import BASELINES, LIKELIHOODS, WEIGHTS, Registry
from dmpo.testing.bench import (
    copied,
    grouped,
    nudge,
    padded,
    put_state,
    recorded_rollouts,
    rewards_of,
    same_tensors,
    state_of,
    tiny_policy,
)
from dmpo.testing.laws import Law, law

__all__ = ["LAWS", "ObjectiveBench", "default_parts"]

TOLERANCE = 1e-4
"""Of sums in another order, as a share of their size."""
UPDATES = 2
PARTS: Mapping[str, Registry[Any]] = {
    "likelihood": LIKELIHOODS,
    "weights": WEIGHTS,
    "baseline": BASELINES,
}


def default_parts(
    plugin: type[Objective], chosen: Mapping[str, Mapping[str, Any]] | None = None
) -> ObjectiveParts:
    """Return an objective's own parts, or those that were chosen instead.

    Raises:
        DmpoError: If a part is not registered, or does not take its parameters.
    """
    sections = {**plugin.default_parts, **(chosen or {})}
    built: dict[str, Any] = {}
    for part, registry in PARTS.items():
        section = dict(sections[part])
        built[part] = registry.build(section.pop("name"), section)
    return ObjectiveParts(
        **built,
        ratio_likelihood=built["likelihood"],
        updates_per_buffer=UPDATES,
        rows_per_forward=64,
        score=_ones,
    )


def _ones(rollouts: Rollouts) -> Rewards:
    """Reward the share of ones in a text."""
    total = [[text.count("1") / max(1, len(text)) for text in row] for row in rollouts.texts]
    return Rewards(total=torch.tensor(total), components={})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """What a gradient step is made of."""

    experience: Experience
    """The buffer, frozen by the behaviour policy."""
    batch: Batch
    """Its second step, drawn at the current policy."""


@final
class ObjectiveBench:
    """A buffer, and an objective's first step on it.

    Args:
        objective: What is tried.
    """

    def __init__(self, objective: Objective) -> None:
        """Make the reference, the behaviour policy, the current one, and a buffer."""
        self.objective = objective
        self.policy = tiny_policy()
        self.policy.freeze_reference()
        nudge(self.policy, 1)
        self.behaviour = state_of(self.policy)
        self.rollouts = recorded_rollouts(self.policy)
        self.rewards = rewards_of(self.rollouts)
        nudge(self.policy, 2)
        self.current = state_of(self.policy)

    @functools.cached_property
    def step(self) -> Step:
        """The step that most laws look at."""
        return self.taken(self.rollouts, self.rewards)

    def taken(
        self, rollouts: Rollouts, rewards: Rewards, policy: DiffusionPolicy | None = None
    ) -> Step:
        """Prepare a buffer and draw its second step."""
        policy = policy or self.policy
        put_state(policy, self.behaviour)
        source = grouped(rollouts.prompts, "prepare")
        experience = self.objective.prepare(policy, rollouts, rewards, source)
        put_state(policy, self.current)
        source = grouped(rollouts.prompts, "draw")
        batch = self.objective.draw(policy, experience, source, update=UPDATES - 1)
        return Step(experience=experience, batch=batch)

    def loss(
        self, batch: Batch, num_rows: int | None = None, num_views: int | None = None
    ) -> tuple[float, dict[str, Tensor]]:
        """Return loss and gradient of a batch at the current policy, in slices."""
        put_state(self.policy, self.current)
        self.policy.module.zero_grad(set_to_none=True)
        total = 0.0
        for piece in batch.split(num_rows or max(1, batch.num_rows), num_views):
            output = self.objective.loss(self.policy, piece)
            output.loss.backward()  # type: ignore[no-untyped-call]
            total += float(output.loss.detach())
        gradient = {
            name: weight.grad.clone()
            for name, weight in self.policy.module.named_parameters()
            if weight.grad is not None
        }
        self.policy.module.zero_grad(set_to_none=True)
        return total, gradient

    @functools.cached_property
    def whole(self) -> tuple[float, dict[str, Tensor]]:
        """Loss and gradient of the whole batch at once."""
        return self.loss(self.step.batch)

    def differences(
        self, other: tuple[float, dict[str, Tensor]], what: str, whole: Any = None
    ) -> Iterator[str]:
        """Yield how another loss and gradient differ from the whole batch's."""
        loss, gradient = whole or self.whole
        if not abs(loss - other[0]) <= TOLERANCE * max(1.0, abs(loss)):
            yield f"expected: {what} gives the loss {loss:.6g}; it is {other[0]:.6g}"
        norm = math.sqrt(sum(float(each.square().sum()) for each in gradient.values()))
        zero = torch.zeros(())
        squares = 0.0
        for name in {*gradient, *other[1]}:
            away = gradient.get(name, zero) - other[1].get(name, zero)
            squares += float(away.square().sum())
        if not math.sqrt(squares) <= 10 * TOLERANCE * norm + 1e-6:
            yield (
                f"expected: {what} gives the same gradient; of its length {norm:.3g} it is off by "
                f"{math.sqrt(squares):.3g}"
            )


@law
def default_parts_are_registered(bench: ObjectiveBench) -> Iterator[str]:
    """`default_parts` names a registered likelihood, weights and baseline with valid parameters."""
    plugin = type(bench.objective)
    given = set(plugin.default_parts)
    if given != set(PARTS):
        yield f"expected: {', '.join(PARTS)}; default_parts has {', '.join(sorted(given))}"
        return
    try:
        default_parts(plugin)
    except DmpoError as error:
        yield f"expected: parts that can be built; {error}"


@law
def loss_is_finite(bench: ObjectiveBench) -> Iterator[str]:
    """The loss is one finite number, in the precision of a float or better."""
    output = bench.objective.loss(bench.policy, bench.step.batch)
    if output.loss.shape != () or not output.loss.is_floating_point():
        yield f"expected: a scalar; it is {output.loss.dtype} of shape {list(output.loss.shape)}"
    elif not bool(output.loss.detach().isfinite()):
        yield f"expected: a finite number; it is {float(output.loss.detach())}"


@law
def gradient_reaches_the_weights(bench: ObjectiveBench) -> Iterator[str]:
    """The loss has a finite gradient that is not zero at the trained weights."""
    output = bench.objective.loss(bench.policy, bench.step.batch)
    if not output.loss.requires_grad:
        yield "expected: a loss with a gradient; it has none: was it detached?"
        return
    _, gradient = bench.whole
    if not any(bool(each.any()) for each in gradient.values()):
        yield "expected: some weight moves; every gradient is zero"
    if not all(bool(each.isfinite().all()) for each in gradient.values()):
        yield "expected: finite gradients; some are infinite or not numbers"


@law
def loss_is_deterministic(bench: ObjectiveBench) -> Iterator[str]:
    """The loss of a batch is the same each time: every draw was made before, in `draw`."""
    again = bench.loss(bench.step.batch)
    yield from bench.differences(again, "the same batch once more")


@law
def slices_of_rows_add_up(bench: ObjectiveBench) -> Iterator[str]:
    """The losses and gradients of slices of rows add up to those of the whole batch."""
    for num_rows in (1, 3):
        sums = bench.loss(bench.step.batch, num_rows)
        yield from bench.differences(sums, f"the sum over slices of {num_rows}")


@law
def slices_of_views_add_up(bench: ObjectiveBench) -> Iterator[str]:
    """Where `is_sum_over_views`, the losses of slices of a row's views add up, too."""
    if bench.objective.is_sum_over_views:
        sums = bench.loss(bench.step.batch, 3, 1)
        yield from bench.differences(sums, "the sum over single views")


@law
def metrics_add_up(bench: ObjectiveBench) -> Iterator[str]:
    """The metrics of a loss are detached finite scalars that add up over slices like the loss."""
    batch = bench.step.batch
    whole = bench.objective.loss(bench.policy, batch).metrics
    sums = dict.fromkeys(whole, 0.0)
    for piece in batch.split(3):
        for name, value in bench.objective.loss(bench.policy, piece).metrics.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
    for name, value in whole.items():
        if value.requires_grad:
            yield f"expected: detached; metric {name} carries a gradient"
        number = float(value.detach())
        if not math.isfinite(number):
            yield f"expected: a finite number; metric {name} is {number}"
        elif not abs(number - sums[name]) <= TOLERANCE * max(1.0, abs(number)):
            yield f"expected: slices add up to {number:.6g}; metric {name} gives {sums[name]:.6g}"


@law
def buffer_metrics_are_numbers(bench: ObjectiveBench) -> Iterator[str]:
    """The metrics of a buffer and of a step are finite floats."""
    for owner, metrics in (
        ("prepare", bench.step.experience.metrics),
        ("draw", bench.step.batch.metrics),
    ):
        for name, value in metrics.items():
            if not (isinstance(value, float) and math.isfinite(value)):
                yield f"expected: a finite float; metric {name} of {owner} is {value!r}"


@law
def weightless_rows_add_nothing(bench: ObjectiveBench) -> Iterator[str]:
    """Where `ignores_weightless_rows`, a row of weight 0 may be left out: nothing changes."""
    if not bench.objective.ignores_weightless_rows:
        return
    batch = bench.step.batch
    weights = batch.weights.clone()
    weights[::2] = 0
    some = replace(batch, weights=weights)
    left = some.kept(some.weight_sizes > 0)
    yield from bench.differences(
        bench.loss(left), "the batch without its rows of weight 0", bench.loss(some)
    )


@law
def order_of_groups_does_not_matter(bench: ObjectiveBench) -> Iterator[str]:
    """Prompts in another order give the same loss: draws belong to a prompt's place in the run."""
    turned = bench.taken(bench.rollouts.groups([1, 0]), bench.rewards.groups([1, 0]))
    yield from bench.differences(bench.loss(turned.batch), "the buffer with its prompts turned")


@law
def padding_does_not_matter(bench: ObjectiveBench) -> Iterator[str]:
    """More padding on the left of the prompts changes nothing, whatever tokens it is made of."""
    wide = replace(bench.rollouts, prompts=padded(bench.rollouts.prompts))
    step = bench.taken(wide, bench.rewards)
    yield from bench.differences(bench.loss(step.batch), "the buffer with wider prompts")


@law
def same_seed_same_step(bench: ObjectiveBench) -> Iterator[str]:
    """The same generators give the same experience and the same batch, bit for bit."""
    again = bench.taken(bench.rollouts, bench.rewards)
    if not same_tensors(bench.step.batch, again.batch):
        yield "expected: equal batches from equal generators; they differ"


@law
def prepare_and_draw_keep_the_policy(bench: ObjectiveBench) -> Iterator[str]:
    """`prepare` and `draw` leave weights, gradients, mode, rollouts and rewards as they were."""
    yield from _kept(bench, "prepare", lambda: _prepare(bench))
    yield from _kept(
        bench,
        "draw",
        lambda: bench.objective.draw(
            bench.policy,
            bench.step.experience,
            grouped(bench.rollouts.prompts, "draw"),
            update=0,
        ),
    )


@law
def nothing_stored_has_a_gradient(bench: ObjectiveBench) -> Iterator[str]:
    """What `prepare` and `draw` return is numbers alone, without a gradient's graph."""
    for owner, record in (("prepare", bench.step.experience), ("draw", bench.step.batch)):
        if any(tensor.requires_grad for tensor in copied(record)):
            yield f"expected: plain numbers; what {owner} returned carries a gradient"


@law
def needs_reference_is_honest(bench: ObjectiveBench) -> Iterator[str]:
    """The reference is asked exactly if `needs_reference`."""
    policy = tiny_policy()  # which froze none, and says so when it is asked
    try:
        step = bench.taken(bench.rollouts, bench.rewards, policy)
        bench.objective.loss(policy, step.batch)
    except DmpoError as error:
        if not bench.objective.needs_reference:
            yield (
                "expected: needs_reference is True, or no look at the reference; without one: "
                f"{' '.join(str(error).split())}"
            )
    else:
        if bench.objective.needs_reference:
            yield (
                "expected: needs_reference is False; a policy without a reference was enough, and "
                "a copy of the model would be kept for nothing"
            )


@law
def draw_asks_policy_is_honest(bench: ObjectiveBench) -> Iterator[str]:
    """Where `draw_asks_policy` is False, `draw` does not run the policy."""
    if bench.objective.draw_asks_policy:
        return
    for update in range(UPDATES):
        before = bench.policy.forward_tokens
        source = grouped(bench.rollouts.prompts, "draw")
        bench.objective.draw(bench.policy, bench.step.experience, source, update=update)
        ran = bench.policy.forward_tokens - before
        if ran:
            yield f"expected: no forward pass in draw(update={update}); it ran {ran} positions"


@law
def every_row_is_there(bench: ObjectiveBench) -> Iterator[str]:
    """A batch has all rows of the buffer, group by group, and says how many the buffer has."""
    batch, rollouts = bench.step.batch, bench.rollouts
    if batch.num_rows != rollouts.num_rows or batch.num_rows_in_buffer != rollouts.num_rows:
        yield (
            f"expected: {rollouts.num_rows} rows of {rollouts.num_rows}; it is {batch.num_rows} of "
            f"{batch.num_rows_in_buffer}"
        )
    elif not batch.completions.equal(rollouts.completions.flatten(0, 1)):
        yield "expected: completions in the buffer's order; they are others"


def _prepare(bench: ObjectiveBench) -> Experience:
    source = grouped(bench.rollouts.prompts, "prepare")
    return bench.objective.prepare(bench.policy, bench.rollouts, bench.rewards, source)


def _kept(bench: ObjectiveBench, name: str, act: Callable[[], Any]) -> Iterator[str]:
    policy, given = bench.policy, (bench.rollouts, bench.rewards)
    policy.module.train()
    policy.module.zero_grad(set_to_none=True)
    weights, records = state_of(policy), copied(given)
    act()
    if not same_tensors(weights, state_of(policy)):
        yield f"expected: {name} leaves the weights alone; it changed some"
        put_state(policy, weights)
    if any(weight.grad is not None for weight in policy.module.parameters()):
        yield f"expected: {name} leaves no gradient; some weight has one"
        policy.module.zero_grad(set_to_none=True)
    if not all(module.training for module in policy.module.modules()):
        yield f"expected: {name} leaves the mode of the policy as it was; part of it evaluates now"
        policy.module.train()
    if not same_tensors(records, copied(given)):
        yield f"expected: {name} leaves rollouts and rewards as they are; it wrote into them"


LAWS: tuple[Law, ...] = (
    default_parts_are_registered,
    every_row_is_there,
    loss_is_finite,
    gradient_reaches_the_weights,
    loss_is_deterministic,
    slices_of_rows_add_up,
    slices_of_views_add_up,
    metrics_add_up,
    buffer_metrics_are_numbers,
    weightless_rows_add_nothing,
    order_of_groups_does_not_matter,
    padding_does_not_matter,
    same_seed_same_step,
    prepare_and_draw_keep_the_policy,
    nothing_stored_has_a_gradient,
    needs_reference_is_honest,
    draw_asks_policy_is_honest,
)
"""The laws of an objective, in the order they are looked at."""
