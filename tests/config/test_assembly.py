from __future__ import annotations

from typing import Any

import pytest

from dmpo.config.assembly import (
    build_light_parts,
    build_reward,
    build_sft_tasks,
)
from dmpo.config.layers import sourced
from dmpo.config.overrides import command_line_layer
from dmpo.config.recipes import recipe_chain
from dmpo.config.resolve import resolve_run, resolve_sft
from dmpo.config.run import RewardSection, RunConfig
from dmpo.errors import ConfigError
from dmpo.rewards.composite import CompositeReward
from dmpo.rewards.guarded import GuardedReward
from dmpo.rewards.task import TaskReward

SCRATCH = "policy.scratch={d_model: 16, n_layers: 1, n_heads: 2, mlp_hidden_size: 24}"


def config(*sets: str, recipe: str = "sudoku") -> RunConfig:
    return resolve_run([*recipe_chain(recipe).layers, command_line_layer(sets)]).config


@pytest.mark.parametrize("recipe", ["sudoku", "sudoku_paper", "digit_sum"])
def test_shipped_recipe_builds_parts_that_go_together(recipe: str) -> None:
    light = build_light_parts(config(recipe=recipe))
    assert light.objective.needs_reference == (recipe != "sudoku")


@pytest.mark.parametrize(
    "sampler", ["low_confidence", "{name: roar, temperature: 0}", "{name: random, cfg_scale: 1}"]
)
def test_path_likelihood_is_refused_where_no_path_is_recorded(sampler: str) -> None:
    with pytest.raises(ConfigError, match=r"^likelihood: 'path' needs the path"):
        build_light_parts(config("likelihood=path", f"sampler={sampler}"))


def test_path_in_the_ratio_alone_is_refused_as_well() -> None:
    settings = ("ratio_likelihood=path", "sampler=low_confidence")
    with pytest.raises(ConfigError, match=r"^ratio_likelihood: 'path'"):
        build_light_parts(config(*settings, recipe="sudoku_paper"))


@pytest.mark.parametrize("sampler", ["low_confidence", "peaked", "entropy_bound", "wino"])
def test_equal_rollouts_and_equal_samples_are_refused(sampler: str) -> None:
    greedy = f"{{name: {sampler}, temperature: 0}}"
    with pytest.raises(ConfigError, match=rf"^sampler: the 8 rollouts .* by '{sampler}'"):
        build_light_parts(config(f"sampler={greedy}"))
    sampled = ("evaluation.samples_per_prompt=4", f"evaluation.sampler={greedy}")
    with pytest.raises(ConfigError, match=r"^evaluation.samples_per_prompt: 4 samples"):
        build_light_parts(config(*sampled))
    build_light_parts(config(sampled[1]))


@pytest.mark.parametrize("sampler", ["roar", "random"])
def test_orders_that_are_drawn_make_samples_differ_even_without_temperature(sampler: str) -> None:
    greedy = f"{{name: {sampler}, temperature: 0}}"
    many = "evaluation.samples_per_prompt=4"
    build_light_parts(config(f"sampler={greedy}", many, f"evaluation.sampler={greedy}"))


def test_baseline_without_a_link_to_go_through_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^baseline: 'mean' goes through the link"):
        build_light_parts(config("weights=advantage", "baseline=mean"))


def test_no_baseline_goes_with_weights_without_a_link() -> None:
    build_light_parts(config("weights=advantage", "baseline=none"))


def test_single_reward_stands_for_itself() -> None:
    assert isinstance(build_reward([RewardSection(name="task")]), TaskReward)


def test_rewards_are_summed_under_distinct_names() -> None:
    function: dict[str, Any] = {"name": "function", "target": "tests.rewards.functions:lengths"}
    sections = [RewardSection(name="task", weight=0.5), RewardSection(**function)]
    reward = build_reward([*sections, RewardSection(**function, weight=2)])
    assert isinstance(reward, CompositeReward)
    assert [(name, weight) for name, weight, _ in reward.parts] == [
        ("task", 0.5),
        ("lengths", 1.0),
        ("lengths_2", 2.0),
    ]


def test_sft_tasks_of_one_kind_have_distinct_names() -> None:
    tasks = ["sudoku", {"name": "sudoku", "seed": 1, "weight": 2}]
    built = build_sft_tasks(resolve_sft([sourced({"tasks": tasks}, "file")]).config)
    assert [(task.name, task.weight) for task in built] == [("sudoku", 1.0), ("sudoku_2", 2.0)]


@pytest.mark.parametrize(
    ("sets", "field"),
    [
        (("objective=espo", "training.skip_below=0.1"), "training.skip_below"),
        (("objective=gdsd", "training.skip_below=0.1"), "training.skip_below"),
        (("objective=coupled_grpo", "training.micro_batch_views=1"), "training.micro_batch_views"),
        (("likelihood=eubo", "training.micro_batch_views=1"), "training.micro_batch_views"),
    ],
)
def test_rows_and_views_that_a_loss_needs_together_are_not_taken_apart(
    sets: tuple[str, ...], field: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: "):
        build_light_parts(config(*sets))


def test_rows_without_weight_may_be_skipped_where_nothing_pulls_elsewhere() -> None:
    sets = ("objective=espo", "objective.beta=0", "training.skip_below=0.1")
    assert build_light_parts(config(*sets)).objective.ignores_weightless_rows


def test_reward_with_a_time_limit_or_a_rule_for_errors_is_guarded() -> None:
    for settings in ({"timeout": 2.0}, {"on_error": "missing"}):
        reward = build_reward([RewardSection(name="task", **settings)])
        assert isinstance(reward, GuardedReward)
        assert isinstance(reward.reward, TaskReward)


@pytest.mark.parametrize(
    ("setting", "message"),
    [("{name: task, timeout: 0}", "timeout"), ("{name: task, on_error: skip}", "on_error")],
)
def test_rule_for_errors_is_checked(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^rewards\.0\.{message}"):
        config(f"rewards=[{setting}]")
