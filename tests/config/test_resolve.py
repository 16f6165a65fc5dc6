from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmpo.config.layers import leaf_sources, sourced
from dmpo.config.overrides import command_line_layer
from dmpo.config.recipes import file_chain, recipe_chain
from dmpo.config.resolve import Resolved, resolve_generate, resolve_run, resolve_sft
from dmpo.config.run import RunConfig
from dmpo.config.yaml_text import yaml_text
from dmpo.errors import ConfigError, UnknownNameError


def resolved(*sets: str, recipe: str = "sudoku", **flags: Any) -> Resolved[RunConfig]:
    layer = command_line_layer(sets, [(f"--{name}", name, value) for name, value in flags.items()])
    return resolve_run([*recipe_chain(recipe).layers, layer])


def value(config: Resolved[RunConfig], path: str) -> Any:
    found: Any = config.plain()
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("seed", "default"),
        ("sampler.gen_length", "task sudoku"),
        ("evaluation.sampler.gen_length", "sampler.gen_length"),
        ("weights.eta", "recipe sudoku"),
        ("baseline.name", "--baseline"),
        ("training.num_steps", "--set"),
        ("training.betas.1", "recipe sudoku"),
        ("likelihood.prompt_mask", "default of likelihood mean_field"),
        ("rewards.0.weight", "default of reward task"),
        ("evaluation.sampler.temperature", "default"),
    ],
)
def test_provenance_names_the_layer_of_each_value(path: str, source: str) -> None:
    assert resolved("training.num_steps=9", baseline="mean").provenance[path] == source


def test_every_leaf_has_a_source() -> None:
    config = resolved()
    flat = sourced(config.plain(), "")
    assert leaf_sources(flat).keys() == config.provenance.keys()


def test_derived_recipe_wins_over_its_base() -> None:
    config = resolved(recipe="sudoku_paper")
    assert value(config, "weights.alpha") == 0.05
    assert config.provenance["weights.alpha"] == "recipe sudoku_paper"
    assert value(config, "training.num_steps") == value(resolved(), "training.num_steps")


def test_file_wins_over_recipe_and_command_line_over_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 5\ntraining: {num_steps: 50}\n")
    layers = [*recipe_chain("sudoku").layers, *file_chain(path).layers]
    config = resolve_run([*layers, command_line_layer(["seed=6"])])
    assert (config.config.seed, config.config.training.num_steps) == (6, 50)


def test_other_objective_brings_its_own_parts() -> None:
    config = resolved(objective="diffu_grpo")
    assert value(config, "weights.name") == "advantage"
    assert value(config, "baseline.name") == "none"
    assert config.provenance["likelihood.name"] == "default of objective diffu_grpo"


def test_other_objective_keeps_parts_named_beside_it() -> None:
    config = resolved(objective="diffu_grpo", likelihood="elbo")
    assert value(config, "likelihood.name") == "elbo"


def test_other_task_brings_its_own_length() -> None:
    config = resolved(recipe="sudoku", task="digit_sum")
    assert config.provenance["sampler.gen_length"] == "task digit_sum"
    assert value(config, "sampler.gen_length") < value(resolved(), "sampler.gen_length")


def test_other_alpha_takes_the_place_of_eta() -> None:
    assert value(resolved("weights.alpha=0.05"), "weights.eta") is None


def test_model_takes_the_place_of_scratch() -> None:
    layers = [sourced({"task": "sudoku", "policy": {"scratch": {"d_model": 16}}}, "file")]
    config = resolve_run([*layers, command_line_layer(["policy.model=some/where"])])
    assert value(config, "policy.scratch") is None


def test_function_reward_is_named_by_its_target() -> None:
    config = resolved(rewards="rewards.py:short")
    assert value(config, "rewards.0.name") == "function"
    assert value(config, "rewards.0.target") == "rewards.py:short"
    assert config.provenance["rewards.0.target"] == "--rewards"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trainin.num_steps=1", r"^trainin: unknown key; .*Did you mean 'training'\? \(from"),
        ("training.num_step=1", r"^training\.num_step: unknown key; .*'num_steps'\? \(from --set"),
        ("evaluation.splitt=a", r"^evaluation\.splitt: unknown key; .*'split'"),
        (
            "weights.alpa=1",
            r"^weights\.alpa: unknown key of weights 'tilted'; .*'alpha'\? \(from --set\)",
        ),
        (
            "evaluation.sampler.temprature=1",
            r"^evaluation\.sampler\.temprature: unk.*'temperature'",
        ),
        ("rewards.0.wheight=1", r"^rewards\.0\.wheight: unknown key"),
        ("policy.lora={rnk: 2}", r"^policy\.lora\.rnk: unknown key; .*'rank'"),
        ("baseline.name=medn", r"^baseline: unknown name 'medn'; .*'mean'"),
        ("training.num_steps=-1", r"^training\.num_steps: .*; given -1\. \(from --set\)"),
        ("training.warmup_steps=999", r"^training: warmup_steps 999 exceeds [^{]*\(from .*--set"),
        ("likelihood=3", r"^likelihood: "),
        ("task=null", r"^task: "),
    ],
)
def test_wrong_setting_is_one_line_with_its_path(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolved(setting)
    assert "\n" not in str(caught.value)


def test_settings_without_a_task_ask_for_one() -> None:
    with pytest.raises(ConfigError, match=r"^task: required and not given"):
        resolve_run([])


def test_unknown_section_name_says_which_section() -> None:
    with pytest.raises(UnknownNameError, match=r"^evaluation\.sampler: unknown name 'roarr'"):
        resolved("evaluation.sampler=roarr")


@pytest.mark.parametrize("recipe", ["sudoku", "sudoku_paper", "digit_sum"])
def test_resolved_config_written_out_resolves_to_itself(recipe: str, tmp_path: Path) -> None:
    config = resolved(recipe=recipe)
    path = tmp_path / "config.yaml"
    path.write_text(yaml_text(config.plain()))
    assert resolve_run(file_chain(path).layers).config == config.config


def test_sft_canvas_is_the_longest_of_its_tasks() -> None:
    config = resolve_sft([sourced({"tasks": ["digit_sum", "sudoku"]}, "file")])
    assert config.plain()["evaluation"]["sampler"]["gen_length"] == 16
    assert config.provenance["evaluation.sampler.gen_length"] == "task sudoku"


def test_sft_refuses_one_canvas_for_all_tasks() -> None:
    layer = sourced({"tasks": ["sudoku"], "evaluation": {"sampler": {"gen_length": 4}}}, "file")
    with pytest.raises(ConfigError, match=r"gen_length: each task .*given 4"):
        resolve_sft([layer])


def test_sft_recipe_resolves() -> None:
    assert resolve_sft(recipe_chain("tiny_llada").layers).config.policy.parameters["scratch"]


def test_generate_keeps_a_given_length() -> None:
    config = resolve_generate([command_line_layer(["sampler.gen_length=7"])])
    assert config.config.sampler.parameters["gen_length"] == 7
    assert resolve_generate([]).config.sampler.parameters["gen_length"] == 128
