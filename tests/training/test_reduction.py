"""Figures of parts, put together, are the figures of the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.objectives.base import Objective
from dmpo.objectives.metrics import log_ratio_metrics
from dmpo.policies.base import DiffusionPolicy
from dmpo.records import LogRatio
from dmpo.registry import WEIGHTS
from dmpo.training.metrics import buffer_metrics, named_by_objective
from dmpo.training.reduction import reduced
from dmpo.training.regroup import chosen_groups, joined_buffers
from tests.training.runs import CountingTask, small_objective
from tests.training.test_regroup import buffer_of, objective_of, policy_of

TASK = CountingTask()

numbers = st.floats(-1e3, 1e3).map(lambda x: round(x, 6))
groups = st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=4)
parts = st.lists(groups, min_size=1, max_size=4)


def figures_of(rewards: Sequence[Sequence[float]]) -> dict[str, float]:
    total = torch.tensor(rewards, dtype=torch.float64)
    return {
        "reward/mean": float(total.mean()),
        "reward/std": float(total.std(correction=0)),
        "weights/max": float(total.max()),
        "weights/min": float(total.min()),
        "weights/real_max": float(total.max()),
        "weights/real_min": float(total.min()),
        "weights/ess": float(total[:, 0].mean()),
        "tokens/rollout": float(total.numel()),
        "flops/forward": float(total.numel()) ** 2,
    }


@given(parts)
def test_figures_of_groups_are_those_of_all_groups(buffers: list[list[list[float]]]) -> None:
    sizes = [float(len(each)) for each in buffers]
    found = reduced([figures_of(each) for each in buffers], sizes)
    expected = figures_of([group for each in buffers for group in each])
    expected["flops/forward"] = sum((2 * size) ** 2 for size in sizes)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(parts)
def test_the_order_of_the_processes_does_not_matter(buffers: list[list[list[float]]]) -> None:
    figures, sizes = [figures_of(each) for each in buffers], [float(len(b)) for b in buffers]
    turned = reduced(figures[::-1], sizes[::-1])
    assert turned == pytest.approx(reduced(figures, sizes), rel=1e-9, abs=1e-6)


def test_figures_of_one_process_are_what_they_are() -> None:
    figures = {**figures_of([[0.1, 0.7]]), "time/total": 0.1, "objective/x": math.nan}
    found = reduced([figures], [3.0])
    assert found.keys() == figures.keys()
    assert found == pytest.approx(figures, nan_ok=True)


def test_equal_figures_do_not_change_by_rounding() -> None:
    each = {"optimizer/learning_rate": 0.1, "weights/coefficient": 1 / 3}
    assert reduced([each] * 3, [3.0, 3.0, 1.0]) == each


@pytest.mark.parametrize("silent", [{}, {"reward/component/a": math.nan}])
def test_who_has_no_figure_has_no_say_in_it(silent: Mapping[str, float]) -> None:
    spoken = {"reward/component/a": 0.25}
    assert reduced([silent, spoken, silent], [9.0, 1.0, 9.0]) == spoken


@pytest.mark.parametrize("name", ["weights/max", "tokens/rollout", "reward/component/a"])
def test_what_nobody_knows_is_not_a_number(name: str) -> None:
    assert math.isnan(reduced([{name: math.nan}, {}])[name])


def test_a_process_without_a_reward_has_no_say_in_its_spread() -> None:
    # Rewards 0 and 2 in one part, 4 in the other: the spread about 2 is that of 0, 2, 4, 4.
    figures = [
        {"reward/mean": 1.0, "reward/std": 1.0},
        {"reward/mean": 4.0, "reward/std": 0.0},
    ]
    expected = float(torch.tensor([0.0, 2.0, 4.0, 4.0]).std(correction=0))
    for silent in ({}, {"reward/mean": math.nan, "reward/std": math.nan}):
        found = reduced([*figures, silent], [1.0, 1.0, 5.0])
        assert found["reward/std"] == pytest.approx(expected)


def test_means_over_tokens_weigh_by_tokens() -> None:
    # 2 groups of 3 tokens at 1 nat, 1 group of 12 tokens at 4 nats: 18 tokens, 54/18 nats.
    figures = [
        {"rollout/length": 3.0, "rollout/entropy": 1.0, "rollout/negative_log_prob": 1.0},
        {"rollout/length": 12.0, "rollout/entropy": 4.0, "rollout/negative_log_prob": 4.0},
    ]
    found = reduced(figures, [2.0, 1.0])
    assert found["rollout/entropy"] == found["rollout/negative_log_prob"] == pytest.approx(3)
    assert found["rollout/length"] == pytest.approx(6)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_noise_and_its_flag_are_those_of_all_rollouts(one: int, other: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.rand(one + other, 4, generator=generator)
    noise = 1.2 * torch.rand(one + other, 4, generator=generator)

    def figures(rows: slice) -> dict[str, float]:
        log_ratio = LogRatio(value=rewards[rows], standard_error=noise[rows])
        estimator = WEIGHTS.build("tilted", {"alpha": 1.0})
        return named_by_objective(log_ratio_metrics(estimator, rewards[rows], log_ratio))

    found = reduced([figures(slice(0, one)), figures(slice(one, None))], [1.0 * one, 1.0 * other])
    assert found == pytest.approx(figures(slice(None)), rel=1e-5)


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return policy_of()


@pytest.fixture(params=["dmpo", "dmpo without a reference", "wd1pp", "wddo"])
def objective(request: pytest.FixtureRequest) -> Objective:
    if request.param == "dmpo without a reference":
        return small_objective(alpha=0.0)
    return objective_of(request.param)


@pytest.mark.parametrize("sampler", ["roar", "threshold"])
@pytest.mark.parametrize("cut", [([0, 1], [2, 3, 4]), ([0], [1], [2, 3, 4])])
def test_figures_of_the_parts_of_a_buffer_are_those_of_the_whole(
    policy: DiffusionPolicy,
    objective: Objective,
    sampler: str,
    cut: Sequence[Sequence[int]],
) -> None:
    each = [buffer_of(policy, objective, places, sampler) for places in cut]
    sizes = [float(len(places)) for places in cut]
    found = reduced([buffer_metrics(part, TASK) for part in each], sizes)
    whole = buffer_metrics(buffer_of(policy, objective, sampler=sampler), TASK)
    joined = buffer_metrics(joined_buffers(each), TASK)
    assert found.keys() == whole.keys() == joined.keys()
    for name in found.keys() - {"rollout/forward_passes", "objective/state_reward"}:
        assert found[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-5), name
        assert joined[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-5), name


def test_figures_of_copies_of_a_buffer_are_its_own(policy: DiffusionPolicy) -> None:
    whole = buffer_of(policy, objective_of("dmpo"))
    figures = buffer_metrics(chosen_groups(whole, range(5)), TASK)
    found = reduced([figures, figures], [5.0, 5.0])
    assert found == pytest.approx(figures)
