"""Names in archives and settings cannot lead out of their folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dmpo.config.comparison import ComparisonConfig, planned_runs, read_comparison
from dmpo.config.evaluations import evaluations
from dmpo.config.export import find_source, write_export
from dmpo.config.recipes import recipe_chain
from dmpo.errors import CheckpointError, ConfigError
from dmpo.training.checkpoint import verify_checkpoint
from tests.training.runs import small_settings, small_trainer

ARMS = ["../x", "..", ".", "a/b", "/etc", "", "a\\b", "a\x00", "~", "-x", "a\n"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return small_trainer(tmp_path / "run", small_settings(num_steps=1)).train().checkpoint


def list_in_manifest(checkpoint: Path, name: str, content: bytes) -> None:
    """Let a checkpoint's manifest list a file, with the right size and checksum."""
    file = checkpoint / "manifest.json"
    manifest = json.loads(file.read_text())
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][name] = {"size": len(content), "sha256": digest}
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize("form", ["relative", "absolute", "nested", "dot"])
def test_manifest_cannot_name_a_file_outside_of_its_checkpoint(saved: Path, form: str) -> None:
    outside = saved.parents[1] / "secret"
    outside.write_text("mine")
    name = {
        "relative": "../../secret",
        "absolute": str(outside),
        "nested": "policy/../../../secret",
        "dot": "./state.json",
    }[form]
    content = b"mine" if form != "dot" else (saved / "state.json").read_bytes()
    list_in_manifest(saved, name, content)
    with pytest.raises(CheckpointError) as caught:
        verify_checkpoint(saved)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("is_folder", [False, True])
def test_link_in_a_checkpoint_cannot_lead_out_of_it(saved: Path, is_folder: bool) -> None:
    victim = saved / "policy" if is_folder else saved / "policy" / "model.safetensors"
    outside = saved.parents[1] / "moved"
    victim.rename(outside)
    victim.symlink_to(outside)
    with pytest.raises(CheckpointError, match=r"policy/\S+ .*leads out of"):
        verify_checkpoint(saved)


def test_export_copies_no_file_that_a_link_brings_in(saved: Path, tmp_path: Path) -> None:
    run = saved.parents[1]
    (run / "config.yaml").write_text("extends: digit_sum\n")
    (tmp_path / "secret").write_text("mine")
    (saved / "policy" / "notes").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"notes: it is a link to .*secret, outside of"):
        write_export(find_source(run), tmp_path / "out", merge=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ARMS)
def test_arm_of_a_comparison_cannot_be_called_what_is_no_folder(tmp_path: Path, name: str) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"arms: {json.dumps({name: {}})}\n")
    with pytest.raises(ConfigError, match="cannot be the name of a folder"):
        read_comparison(spec)


@pytest.mark.parametrize("value", ["../../x", "/etc/passwd", "..", "a\\b"])
@pytest.mark.parametrize("arms", [{}, {"a": {}}])
def test_value_of_a_grid_names_a_folder_inside(value: str, arms: dict[str, object]) -> None:
    grid = {"policy.model": [value]}
    spec = {"base": {"recipe": "digit_sum"}, "seeds": [0], "arms": arms, "grid": grid}
    (run,) = planned_runs(ComparisonConfig.model_validate(spec))
    assert run.place.parent.parent == Path("runs")
    assert ".." not in run.place.parts


@pytest.mark.parametrize("task", ["../../x.jsonl", "/etc/x.jsonl", "../mine.py:Task"])
def test_name_of_a_task_is_no_path_in_the_output_of_an_evaluation(task: str) -> None:
    layers = recipe_chain("digit_sum").layers
    (cell,) = evaluations(layers, {}, [], [])
    heading = replace(cell, task=task).heading
    assert Path(heading).name == heading
