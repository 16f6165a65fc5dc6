from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from dmpo.config.layers import assigned
from dmpo.config.recipes import recipe_chain
from dmpo.config.resolve import resolve_run
from dmpo.config.run import RunConfig
from dmpo.config.runs import (
    FREE_SETTINGS,
    check_changes,
    find_resumption,
    saved_config,
    settings_changes,
)
from dmpo.config.yaml_text import yaml_text
from dmpo.errors import CheckpointError, ConfigError
from tests.training.test_run_directory import checkpoint


def config(**settings: object) -> RunConfig:
    layers = [assigned(path.replace("__", "."), v, "test") for path, v in settings.items()]
    return resolve_run([*recipe_chain("sudoku").layers, *layers]).config


@pytest.fixture
def run(tmp_path: Path) -> Path:
    text = yaml_text(resolve_run(recipe_chain("sudoku").layers).plain())
    (tmp_path / "config.yaml").write_text(text)
    return tmp_path


def test_run_goes_on_from_its_newest_whole_checkpoint(run: Path) -> None:
    older = checkpoint(run, 5)
    checkpoint(run, 10, "not json")
    found = find_resumption(run)
    assert (found.run, found.checkpoint) == (run, older)
    assert "step-000010" in found.skipped[0]


def test_run_goes_on_from_the_checkpoint_that_is_named(run: Path) -> None:
    older, _ = checkpoint(run, 5), checkpoint(run, 10)
    found = find_resumption(older)
    assert (found.run, found.checkpoint, found.skipped) == (run, older, ())


def test_named_checkpoint_that_is_damaged_is_not_replaced_by_another(run: Path) -> None:
    checkpoint(run, 5)
    with pytest.raises(CheckpointError, match=r"step-000010: manifest\.json is unreadable"):
        find_resumption(checkpoint(run, 10, "{"))


def test_checkpoint_set_aside_is_not_gone_on_from(run: Path) -> None:
    path = checkpoint(run, 5)
    aside = path.rename(path.with_name("step-000005.aside"))
    with pytest.raises(ConfigError, match="nor a checkpoint"):
        find_resumption(aside)


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a run directory"):
        find_resumption(tmp_path)


def test_settings_of_a_run_read_back_unchanged(run: Path) -> None:
    assert settings_changes(saved_config(find_resumption(run)), config()) == []


def test_settings_are_those_of_the_checkpoint_where_the_runs_were_edited(run: Path) -> None:
    path = checkpoint(run, 5)
    (path / "config.yaml").write_text((run / "config.yaml").read_text())
    with (run / "config.yaml").open("a") as file:
        file.write("seed: 7\n")
    found = find_resumption(run)
    assert saved_config(found).seed == 0


def test_changes_name_path_and_both_values() -> None:
    (change,) = settings_changes(config(), config(training__learning_rate=1e-5))
    assert str(change) == f"training.learning_rate: {config().training.learning_rate}, now 1e-05"


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 1},
        {"training__learning_rate": 1e-5},
        {"training__updates_per_buffer": 2},
        {"weights__eta": 3.0},
        {"baseline": "mean"},
        {"task": "digit_sum"},
        {"rewards__0__weight": 2.0},
        {"sampler__temperature": 0.7},
    ],
)
def test_resume_with_other_mathematics_is_refused(settings: dict[str, object]) -> None:
    changes = settings_changes(config(), config(**settings))
    with pytest.raises(ConfigError, match="other mathematics") as raised:
        check_changes(changes, config())
    assert next(iter(settings)).replace("__", ".").removesuffix(".temperature") in str(raised.value)


def test_resume_may_go_on_for_longer_and_report_otherwise() -> None:
    settings = {"training__num_steps": 999, "training__checkpoint_every": 5}
    changes = settings_changes(config(), config(**settings, evaluation__num_examples=7))
    assert len(changes) == 3
    check_changes(changes, config())


def test_number_of_steps_is_fixed_where_the_learning_rate_falls_with_it() -> None:
    falling = {"training__schedule": "cosine"}
    before, after = config(**falling), config(**falling, training__num_steps=999)
    with pytest.raises(ConfigError, match=r"training\.num_steps"):
        check_changes(settings_changes(before, after), before)


def test_free_settings_exist() -> None:
    for path in FREE_SETTINGS:
        model: type[BaseModel] = RunConfig
        for part in path.split("."):
            field = model.model_fields[part]
            annotation = field.annotation
            model = annotation if isinstance(annotation, type) else model
