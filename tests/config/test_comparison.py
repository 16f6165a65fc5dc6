from __future__ import annotations

from pathlib import Path

import pytest

from dmpo.config.comparison import (
    ComparisonConfig,
    PlannedRun,
    check_same_run,
    planned_runs,
    read_comparison,
)
from dmpo.config.layers import sourced
from dmpo.config.resolve import resolve_run
from dmpo.config.yaml_text import yaml_value
from dmpo.errors import ConfigError, DmpoError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "compare_objectives.yaml"
BASE = {"base": {"recipe": "digit_sum"}, "seeds": [0]}


def planned(**spec: object) -> list[PlannedRun]:
    return planned_runs(ComparisonConfig.model_validate({**BASE, **spec}))


def one(**spec: object) -> PlannedRun:
    (run,) = planned(**{"arms": {"a": {}}, **spec})
    return run


def test_every_arm_runs_with_every_seed_seed_by_seed() -> None:
    runs = planned(seeds=[3, 5], arms={"a": {}, "b": {"objective": "diffu_grpo"}})
    assert [(run.seed, run.arm) for run in runs] == [(3, "a"), (3, "b"), (5, "a"), (5, "b")]
    assert [run.resolved.config.seed for run in runs] == [3, 3, 5, 5]
    assert runs[1].resolved.config.objective.name == "diffu_grpo"
    assert runs[2].place == Path("runs/a/seed-5")


def test_grid_crosses_arms_and_names_what_it_sets() -> None:
    runs = planned(
        arms={"a": {}},
        grid={"baseline": ["none", "mean"], "training.updates_per_buffer": [1, 8]},
    )
    assert [run.arm for run in runs] == [
        "a-baseline=none-updates_per_buffer=1",
        "a-baseline=none-updates_per_buffer=8",
        "a-baseline=mean-updates_per_buffer=1",
        "a-baseline=mean-updates_per_buffer=8",
    ]
    assert runs[3].resolved.config.baseline.name == "mean"
    assert runs[3].resolved.config.training.updates_per_buffer == 8


def test_grid_needs_no_arms_and_takes_sections_with_parameters() -> None:
    runs = planned(grid={"weights": [{"name": "tilted", "alpha": 0.5}, "linear"]})
    assert [run.arm for run in runs] == ["weights=tilted+alpha=0.5", "weights=linear"]
    assert runs[0].resolved.config.weights.parameters["alpha"] == 0.5


def test_an_arm_with_another_objective_takes_that_objectives_parts() -> None:
    (run,) = planned(arms={"g": {"objective": "diffu_grpo"}})
    expected = resolve_run([sourced({"task": "digit_sum", "objective": "diffu_grpo"}, "test")])
    assert run.resolved.config.likelihood.name == expected.config.likelihood.name


@pytest.mark.parametrize(
    ("budget", "setting", "value"),
    [
        ({"model_tokens": 2e6}, "max_model_tokens", 2e6),
        ({"flops": 3e12}, "max_model_flops", 3e12),
        ({"steps": 7}, "num_steps", 7),
        ({"seconds": 5}, "max_seconds", 5.0),
    ],
)
def test_budget_becomes_the_limit_of_every_run(
    budget: dict[str, float], setting: str, value: float
) -> None:
    run = one(budget=budget)
    assert getattr(run.resolved.config.training, setting) == value


def test_settings_of_a_run_written_as_yaml_give_the_same_run() -> None:
    run = one(arms={"a": {"baseline": "mean", "training.learning_rate": 1e-4}})
    again = resolve_run([sourced(yaml_value(run.config_text(), "test"), "file")])
    assert again.config == run.resolved.config


def test_example_is_a_comparison() -> None:
    assert {run.arm for run in planned_runs(read_comparison(EXAMPLE))} == {
        *("dmpo", "dmpo_mean", "grpo")
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arm: {}", "arm: unknown key; accepted: arms, base, .* Did you mean 'arms'"),
        ("{}", "arms: nothing to compare"),
        ("arms: {a: }\nseeds: []", "seeds: must not be empty"),
        ("arms: {a: }\nseeds: [1, 1]", "seeds: a value is given twice"),
        ("arms: {a: }\nseeds: [-1]", "seeds.0: "),
        ("arms: {a/b: }", "arms: 'a/b' cannot be the name of a folder"),
        ("arms: {a: }\nbudget: {steps: 1, seconds: 2}", "budget: give exactly one of"),
        ("arms: {a: }\nbudget: {tokens: 1}", "budget.tokens: unknown key"),
        ("arms: {a: }\nmetrics: [reward/men]", "'reward/men'; .* Did you mean 'reward/mean'"),
        ("arms: {a: 3}", "arms.a: must be `key: value` pairs; given 3"),
    ],
)
def test_a_wrong_spec_names_the_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as found:
        read_comparison(path)
    assert str(found.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"arms": {"a": {"objective": "dmp"}}}, "arms.a: objective: unknown name 'dmp'.*'dmpo'"),
        ({"arms": {"a": {"training.sed": 1}}}, r"arms.a: training.sed: .*from arms.a"),
        ({"base": {"recipe": "nope"}}, "base.recipe: recipe: unknown name 'nope'"),
        ({"base": {"config": "nope.yaml"}}, "base.config: nope.yaml: cannot be read"),
        ({"arms": {"a": {"seed": 1}}}, "arms.a.seed: `seeds` gives it"),
        ({"base": {"set": {"seed": 1}}}, "base.set.seed: `seeds` gives it"),
        (
            {"budget": {"steps": 3}, "arms": {"a": {"training.num_steps": 4}}},
            "arms.a.training.num_steps: `budget.steps` gives it",
        ),
        (
            {"arms": {"a": {"baseline": "mean"}}, "grid": {"baseline": ["none"]}},
            "arms.a.baseline: `grid` gives it",
        ),
        ({"grid": {"baseline": ["none", "none"]}}, "two arms would both be called"),
    ],
)
def test_a_wrong_setting_names_its_arm(spec: dict[str, object], message: str) -> None:
    with pytest.raises(DmpoError, match=message):
        planned(**{"arms": {"a": {}}, **spec})


def test_a_run_with_other_settings_is_not_gone_on_with() -> None:
    before = one().resolved.config
    after = one(arms={"a": {"training.learning_rate": 1e-5, "training.betas": [0.5, 0.9]}})
    with pytest.raises(ConfigError, match=r"arms.a: .*training.learning_rate: 0.0005"):
        check_same_run(after, before)


def test_a_limit_may_be_raised_but_not_lowered() -> None:
    short, long = one(budget={"steps": 10}), one(budget={"steps": 20})
    check_same_run(long, short.resolved.config)
    with pytest.raises(ConfigError, match=r"training.num_steps: 20, now 10"):
        check_same_run(short, long.resolved.config)
