from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmpo.config.candidates import (
    PLUGIN_GROUPS,
    field_names,
    recipe_files,
    registered_names,
    run_places,
    setting_flags,
)
from dmpo.config.recipes import recipe_names
from dmpo.config.run import GenerateConfig, RunConfig, SftConfig
from dmpo.objectives.presets import PRESETS
from dmpo.registry import REGISTRIES
from dmpo.training.settings import TrainingSettings

RUN = "dmpo.config.run:RunConfig"
SECTIONS = {
    "policies": "policy",
    "samplers": "sampler",
    "tasks": "task",
    "likelihoods": "likelihood",
    "weights": "weights",
    "baselines": "baseline",
    "objectives": "objective",
}


@pytest.mark.parametrize("model", [RunConfig, SftConfig, GenerateConfig])
def test_fields_read_from_the_text_are_those_of_the_class(model: type[RunConfig]) -> None:
    assert field_names(f"dmpo.config.run:{model.__name__}") == tuple(model.model_fields)


def test_inherited_fields_come_first() -> None:
    found = field_names("dmpo.training.settings:TrainingSettings")
    assert found == tuple(TrainingSettings.model_fields)


@pytest.mark.parametrize("group", SECTIONS)
def test_every_plugin_has_its_own_parameters_as_flags(group: str) -> None:
    section = SECTIONS[group]
    for name in REGISTRIES[group].names():
        config = REGISTRIES[group].load(name).Config
        flags = setting_flags(RUN, {section: name}, f"--{section}.")
        assert set(flags) == {f"--{section}.{field}" for field in config.model_fields}, name


def test_a_section_without_a_named_plugin_offers_the_parameters_of_all() -> None:
    flags = setting_flags(RUN, {}, "--sampler.s")
    assert {"--sampler.steps", "--sampler.stop_at_eos"} <= set(flags)
    assert all(flag.startswith("--sampler.s") for flag in flags)


def test_a_name_with_a_variant_is_its_familys() -> None:
    assert setting_flags(RUN, {"likelihood": "elbo/x"}, "--likelihood.") == setting_flags(
        RUN, {"likelihood": "elbo"}, "--likelihood."
    )


@pytest.mark.parametrize("typed", ["", "--", "--t", "training.", "--nothing.", "--seed."])
def test_what_begins_no_setting_offers_none(typed: str) -> None:
    assert setting_flags(RUN, {}, typed) == ()


@pytest.mark.parametrize("target", ["dmpo.nowhere:X", "nowhere:X", "dmpo.config.run:X"])
def test_what_cannot_be_found_has_no_fields(target: str) -> None:
    assert field_names(target) == ()


def test_names_are_those_of_the_registries() -> None:
    assert set(PLUGIN_GROUPS) == set(REGISTRIES)
    for group, registry in REGISTRIES.items():
        presets = set(PRESETS) if group == "objectives" else set()
        assert set(registered_names(group)) == {*registry.names()} | presets


def test_recipes_are_those_that_can_be_named() -> None:
    assert recipe_files() == recipe_names()


def test_runs_are_folders_with_settings_the_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(["runs/new", "runs/old", "elsewhere/run"]):
        Path(name).mkdir(parents=True)
        Path(name, "config.yaml").touch()
        os.utime(name, (1e9 - age, 1e9 - age))
    Path("runs/no_run").mkdir()
    assert run_places("") == ("runs/new", "runs/old")
    assert run_places("runs/n") == ("runs/new", "runs/old")
    assert run_places("elsewhere/") == ("elsewhere/run",)
    assert run_places("gone/") == ()
