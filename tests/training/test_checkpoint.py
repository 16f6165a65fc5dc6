from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dmpo.errors import CheckpointError
from dmpo.training.checkpoint import (
    checkpoint_path,
    list_checkpoints,
    verify_checkpoint,
)
from tests.training.runs import (
    small_objective,
    small_policy,
    small_settings,
    small_trainer,
    weights_of,
)

LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.2}


@pytest.mark.parametrize("stop", [3, 4])
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("baseline", ["mean", "model"])
def test_resumed_run_ends_with_the_very_same_weights(
    tmp_path: Path, stop: int, lora: dict[str, float] | None, baseline: str
) -> None:
    def start(directory: Path, num_steps: int):
        torch.manual_seed(0)  # PEFT draws its first matrices from the global stream
        policy = small_policy(lora=lora)
        options = {"schedule": "constant", "warmup_steps": 2, "num_steps": num_steps}
        objective = small_objective(baseline=baseline)
        trainer = small_trainer(
            directory, small_settings(**options), policy=policy, objective=objective
        )
        return policy, trainer

    whole, trainer = start(tmp_path / "whole", 6)
    trainer.train()
    _, trainer = start(tmp_path / "first", stop)
    path = trainer.train().checkpoint
    resumed, trainer = start(tmp_path / "second", 6)
    trainer.restore(path)
    assert trainer.train().step == 6
    expected, found = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return small_trainer(tmp_path, small_settings(num_steps=3)).train().checkpoint


def test_checkpoint_lies_where_the_step_says_and_holds_no_pickle(saved: Path) -> None:
    assert saved.name == "step-000003"
    assert {path.suffix for path in saved.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    verify_checkpoint(saved)


def test_flipped_byte_is_noticed_in_every_file(saved: Path) -> None:
    files = [path for path in saved.rglob("*") if path.is_file() and path.name != "manifest.json"]
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(CheckpointError, match=f"{file.name} differs from the manifest"):
            verify_checkpoint(saved)
        file.write_bytes(whole)


def test_missing_file_and_missing_manifest_are_noticed(saved: Path) -> None:
    (saved / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        verify_checkpoint(saved)
    (saved / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"it has no manifest\.json"):
        verify_checkpoint(saved)


def test_checkpoint_of_another_run_is_refused(saved: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="saved with seed 0; this run has 1"):
        trainer.restore(saved)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    settings = small_settings(checkpoint_every=1, keep_checkpoints=2)
    small_trainer(tmp_path, settings).train()
    assert list_checkpoints(tmp_path) == [checkpoint_path(tmp_path, step) for step in (5, 6)]


def test_unfinished_checkpoint_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".step-000009.partial").mkdir(parents=True)
    assert list_checkpoints(tmp_path) == []
