"""Buffers cut into groups, dealt out and joined: what they say of each group stays the same."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dmpo.objectives.base import Objective
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import Example, Experience, Prompts, Rollouts
from dmpo.registry import OBJECTIVES, REWARDS, SAMPLERS
from dmpo.training.metrics import buffer_metrics, named_by_objective
from dmpo.training.randomness import group_generator
from dmpo.training.regroup import chosen_groups, joined_buffers, on_device, part_of, pinned
from dmpo.training.rollout import sample_rollouts
from tests.objectives.registered import registered
from tests.training.runs import CountingTask, small_objective, small_policy

TASK = CountingTask()
EXAMPLES = [
    Example(prompt=prompt, columns={"digit": prompt[0]})
    for prompt in ("0=", "112=", "0120120=", "2=", "12=")
]
"""Several lengths: a part of them is padded less than all are."""
SAMPLER_SETTINGS: dict[str, dict[str, Any]] = {
    "roar": {},
    "entropy_bound": {"gamma": 2.0},
    "threshold": {"threshold": 0.3},
}
PATHLESS = {("rldf", "threshold"), ("just_grpo", "threshold")}
"""Objectives that look at recorded log-probabilities, with the sampler that records none."""


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return each objective with each sampler that it can learn from."""
    every = [(name, sampler) for name in names for sampler in SAMPLER_SETTINGS]
    return [pair for pair in every if pair not in PATHLESS]


def policy_of(seed: int = 0) -> DiffusionPolicy:
    policy = small_policy()
    policy.freeze_reference()
    move(policy, seed)
    policy.module.eval()
    return policy


def move(policy: DiffusionPolicy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in policy.module.parameters():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return policy_of()


def objective_of(name: str) -> Objective:
    if name == "dmpo":
        return small_objective(baseline="model")
    return registered(name, score=functools.partial(REWARDS.build("task").score, task=TASK))


def generator_of(purpose: str, prompts: Prompts) -> torch.Generator:
    return group_generator(0, 0, purpose, prompts)


def buffer_of(
    policy: DiffusionPolicy,
    objective: Objective,
    places: Sequence[int] = range(len(EXAMPLES)),
    sampler: str = "roar",
) -> Experience:
    """Return what a process prepares that has these places of the run."""
    prompts = policy.encode([EXAMPLES[place] for place in places])
    rollouts = sample_rollouts(
        policy,
        SAMPLERS.build(sampler, {"gen_length": 6, **SAMPLER_SETTINGS[sampler]}),
        replace(prompts, index=torch.tensor(places)),
        num_rollouts=4,
        rows_per_forward=64,
        generator=functools.partial(generator_of, "rollout"),
    )
    rewards = REWARDS.build("task").score(rollouts, TASK)
    with torch.no_grad():
        return objective.prepare(
            policy, rollouts, rewards, generator_of("prepare", rollouts.prompts)
        )


def gradient_of(
    policy: DiffusionPolicy, objective: Objective, parts: Sequence[Experience]
) -> dict[str, Tensor]:
    """Return the mean of the gradients of several processes, as each of them would compute it."""
    with torch.no_grad():
        batches = [
            objective.draw(policy, part, generator_of("draw", part.rollouts.prompts), update=1)
            for part in parts
        ]
    counts = [(batch.num_rows_in_buffer, batch.num_tokens_in_buffer) for batch in batches]
    rows, tokens = (sum(each) / len(parts) for each in zip(*counts, strict=True))
    policy.module.zero_grad(set_to_none=True)
    for batch in batches:
        scaled = replace(batch, num_rows_in_buffer=rows, num_tokens_in_buffer=tokens)
        (objective.loss(policy, scaled).loss / len(parts)).backward()
    return {n: p.grad.clone() for n, p in policy.module.named_parameters() if p.grad is not None}


def assert_same(found: Any, expected: Any, where: str, tolerance: float) -> None:
    """Assert that two records say the same; what stands under padding is not said."""
    if isinstance(expected, Prompts):
        real = expected.attention_mask
        assert found.attention_mask.equal(real), where
        assert found.tokens[real].equal(expected.tokens[real]), where
        assert found.examples == expected.examples, where
        assert found.index.equal(expected.index), where
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(
            found, expected, rtol=tolerance, atol=tolerance, equal_nan=True, msg=where
        )
    elif is_dataclass(expected):
        for field in fields(expected):
            if field.name in ("metrics", "num_forwards"):
                continue
            one, other = getattr(found, field.name), getattr(expected, field.name)
            assert_same(one, other, f"{where}.{field.name}", tolerance)
    elif isinstance(expected, tuple):
        assert len(found) == len(expected), where
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{where}[{number}]", tolerance)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            assert_same(found[name], expected[name], f"{where}.{name}", tolerance)
    else:
        assert found == expected, where


@given(st.integers(0, 500), st.integers(1, 64))
def test_things_are_shared_out_in_order_without_gaps_and_evenly(count: int, ranks: int) -> None:
    parts = [part_of(count, rank, ranks) for rank in range(ranks)]
    assert [place for part in parts for place in part] == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_cutting_a_buffer_and_joining_its_parts_changes_nothing(
    policy: DiffusionPolicy, name: str
) -> None:
    whole = buffer_of(policy, objective_of(name))
    for cut in ([[0, 1, 2, 3, 4]], [[0, 1], [2, 3, 4]], [[3], [4, 0], [2, 1]]):
        joined = joined_buffers([chosen_groups(whole, places) for places in cut])
        assert_same(joined, whole, name, tolerance=0)
        assert named_by_objective(joined.metrics) == pytest.approx(
            named_by_objective(whole.metrics)
        )


@pytest.mark.parametrize(
    ("name", "sampler"), pairs(["dmpo", "diffu_grpo", "wd1pp", "wddo", "spg", "rldf"])
)
def test_parts_that_were_prepared_apart_are_together_what_is_prepared_at_once(
    policy: DiffusionPolicy, name: str, sampler: str
) -> None:
    objective = objective_of(name)
    whole = buffer_of(policy, objective, sampler=sampler)
    parts = [buffer_of(policy, objective, places, sampler) for places in ([3, 4], [0, 1, 2])]
    widths = [part.rollouts.prompts.tokens.shape[1] for part in parts]
    assert widths[0] < widths[1]
    assert_same(joined_buffers(parts), whole, name, tolerance=1e-4)


@pytest.mark.parametrize(("name", "sampler"), pairs(OBJECTIVES.names()))
def test_gradients_of_the_parts_are_together_that_of_the_whole(name: str, sampler: str) -> None:
    policy, objective = policy_of(), objective_of(name)
    groups = [range(5), [0, 1], [2, 3, 4]]
    whole, *parts = [buffer_of(policy, objective, places, sampler) for places in groups]
    move(policy, 1)  # so that no ratio is 1
    expected = gradient_of(policy, objective, [whole])
    size = max(float(tensor.abs().max()) for tensor in expected.values())
    assert size > 0
    for cut in (parts, [joined_buffers(parts[::-1])]):
        found = gradient_of(policy, objective, cut)
        for parameter, tensor in expected.items():
            torch.testing.assert_close(found[parameter], tensor, rtol=1e-3, atol=1e-3 * size)


@pytest.mark.parametrize("name", ["trace_rl", "egspo"])
def test_parts_with_fewer_views_get_more_that_score_nothing(name: str) -> None:
    policy, objective = policy_of(3), objective_of(name)
    cuts = ([place] for place in range(5))
    parts = [buffer_of(policy, objective, places, "threshold") for places in cuts]
    counts = [part.views[0].hidden.shape[2] for part in parts]
    assert len(set(counts)) > 1
    (views,) = joined_buffers(parts).views
    assert views.hidden.shape[2] == max(counts)
    for place, count in enumerate(counts):
        assert not views.coefficient[place, :, count:].any()
        assert not views.hidden[place, :, count:].any()


@pytest.mark.parametrize("name", ["dmpo", "diffu_grpo", "wd1pp"])
def test_groups_may_be_chosen_in_any_order(policy: DiffusionPolicy, name: str) -> None:
    whole = buffer_of(policy, objective_of(name))
    chosen = chosen_groups(whole, [4, 1])
    assert chosen.rollouts.prompts.index.tolist() == [4, 1]
    assert chosen.rollouts.texts == (whole.rollouts.texts[4], whole.rollouts.texts[1])
    assert chosen.rewards.total.equal(whole.rewards.total[[4, 1]])
    assert chosen.weights.ess.equal(whole.weights.ess[[4, 1]])
    for views, each in zip(chosen.views, whole.views, strict=True):
        assert views.hidden.equal(each.hidden[[4, 1]])
    assert_same(chosen_groups(chosen, [1, 0]), chosen_groups(whole, [1, 4]), name, tolerance=0)


def test_figures_of_joined_buffers_have_their_names_once(policy: DiffusionPolicy) -> None:
    objective = objective_of("wd1pp")
    parts = [buffer_of(policy, objective, places) for places in ([0, 1], [2, 3, 4])]
    names = {name for part in parts for name in buffer_metrics(part, TASK)}
    assert "objective/state_reward" in names
    assert buffer_metrics(joined_buffers(parts), TASK).keys() == names


def test_buffers_without_places_are_joined_as_they_come(policy: DiffusionPolicy) -> None:
    def without_places(part: Experience) -> Experience:
        prompts = replace(part.rollouts.prompts, index=None)
        return replace(part, rollouts=replace(part.rollouts, prompts=prompts))

    whole = buffer_of(policy, objective_of("dmpo"))
    parts = [without_places(chosen_groups(whole, places)) for places in ([2, 3], [0])]
    joined = joined_buffers(parts)
    assert joined.rollouts.prompts.index is None
    assert joined.rewards.total.equal(whole.rewards.total[[2, 3, 0]])


class Pair(NamedTuple):
    """Something with names that is no record of ours."""

    left: Tensor
    right: str


@pytest.mark.parametrize("move_to", [pinned, lambda value: on_device(value, torch.device("cpu"))])
def test_moving_a_record_keeps_its_values_and_types(policy: DiffusionPolicy, move_to: Any) -> None:
    for name in ("dmpo", "diffu_grpo", "wd1pp"):
        whole = buffer_of(policy, objective_of(name))
        moved = move_to(whole)
        assert_same(moved, whole, name, tolerance=0)
        assert (moved.metrics, moved.rollouts.num_forwards) == (
            whole.metrics,
            whole.rollouts.num_forwards,
        )
        assert [type(value) for value in _leaves(moved)] == [type(v) for v in _leaves(whole)]


@pytest.mark.parametrize("move_to", [pinned, lambda value: on_device(value, torch.device("cpu"))])
def test_moving_keeps_whatever_a_task_has_put_beside_a_prompt(move_to: Any) -> None:
    columns = {
        "words": ["a", "b"],
        "pair": Pair(torch.ones(2), "r"),
        "nested": {"a": ((1, 2), [None, "x", 0.5])},
        "mixed": ("text", torch.zeros(1)),
        "nothing": (),
    }
    example = Example(prompt="p", columns=columns)
    moved = move_to((example,))[0]
    assert type(moved) is Example
    assert moved.columns.keys() == columns.keys()
    for name in ("words", "nested", "nothing"):
        assert moved.columns[name] == columns[name]
    assert type(moved.columns["pair"]) is Pair
    assert moved.columns["pair"].left.equal(torch.ones(2))
    assert moved.columns["mixed"][1].equal(torch.zeros(1))


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Rollouts) or (is_dataclass(value) and not isinstance(value, type)):
        parts = [getattr(value, field.name) for field in fields(value)]
    elif isinstance(value, tuple | list):
        parts = list(value)
    elif isinstance(value, dict):
        parts = list(value.values())
    else:
        return [value]
    return [value, *(leaf for part in parts for leaf in _leaves(part))]
