"""Objectives that are combinations of parts."""

from __future__ import annotations

import pytest

from dmpo.config.assembly import build_light_parts
from dmpo.config.describe import describe_preset
from dmpo.config.overrides import command_line_layer
from dmpo.config.recipes import recipe_chain
from dmpo.config.resolve import Resolved, resolve_run
from dmpo.config.run import RunConfig
from dmpo.errors import UnknownNameError
from dmpo.objectives.presets import PRESETS
from dmpo.registry import OBJECTIVES


def resolved(*sets: str) -> Resolved[RunConfig]:
    return resolve_run([*recipe_chain("sudoku").layers, command_line_layer(sets)])


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_another_objective_with_parts_of_its_own(name: str) -> None:
    preset, config = PRESETS[name], resolved(f"objective={name}").config
    assert config.objective.name == preset.objective
    assert config.likelihood.name == preset.parts["likelihood"]["name"]
    assert preset.parts["weights"].items() <= config.weights.model_dump().items()
    assert build_light_parts(config)


def test_no_preset_hides_an_objective() -> None:
    assert not PRESETS.keys() & set(OBJECTIVES.names())


def test_what_was_chosen_beside_a_preset_stays() -> None:
    found = resolved("objective=wd1", "likelihood=elbo", "weights.eta=2", "baseline.strength=0.5")
    config = found.config
    assert config.likelihood.name == "elbo"
    assert config.weights.parameters["eta"] == 2
    assert config.baseline.model_dump() == {"name": "individual", "strength": 0.5}
    assert found.provenance["baseline.name"] == "preset wd1"


def test_settings_of_a_preset_can_be_overridden() -> None:
    config = resolved("objective.name=wd1", "objective.normalisation=response").config
    assert config.objective.parameters["normalisation"] == "response"


def test_dmpo_takes_small_steps_without_a_baseline_and_the_paper_s_form_is_one_word_away() -> None:
    usual, paper = (
        resolve_run([command_line_layer(["task=sudoku", f"objective={name}"])]).config
        for name in ("dmpo", "dmpo_paper")
    )
    assert usual.weights.parameters == {"alpha": 0.02, "eta": None, "coefficient": None}
    assert usual.baseline.name == "none"
    assert paper.weights.parameters == {"alpha": 0.04, "eta": None, "coefficient": 1.0}
    assert paper.baseline.name == "model"
    assert usual.likelihood == paper.likelihood


def test_config_that_a_run_keeps_resolves_to_itself() -> None:
    config = resolved("objective=wd1").config
    again = resolve_run([command_line_layer([f"{k}={v}" for k, v in _leaves(config)])]).config
    assert again.objective == config.objective
    assert again.weights == config.weights


def _leaves(config: RunConfig) -> list[tuple[str, str]]:
    plain = config.model_dump(mode="json")
    return [("task", config.task.name)] + [
        (section, str(plain[section]).replace("'", "").replace("None", "null"))
        for section in ("likelihood", "weights", "baseline", "objective")
    ]


def test_unknown_objective_is_told_presets_and_objectives() -> None:
    with pytest.raises(UnknownNameError, match=r"accepted: .*dmpo.*wd1.*Did you mean 'wd1'"):
        resolved("objective=wd11")


@pytest.mark.parametrize("name", PRESETS)
def test_description_names_every_part(name: str) -> None:
    text = describe_preset(name)
    assert PRESETS[name].summary in text
    assert all(part in text for part in ("likelihood", "weights", "baseline", "objective"))
