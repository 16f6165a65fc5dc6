from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dmpo.errors import CheckpointError, OutputError
from dmpo.training.checkpoint import verify_checkpoint
from dmpo.training.settings import TrainingSettings
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


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def _truncated(content: bytes) -> bytes:
    return content[:-1]


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_checkpoint_lies_where_the_step_says_and_holds_no_pickle(saved: Path) -> None:
    assert saved.name == "step-000003"
    assert {path.suffix for path in _files(saved)} == {".json", ".safetensors"}
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    verify_checkpoint(saved)


@pytest.mark.parametrize("damage", [None, _truncated, _flipped])
def test_every_file_that_is_missing_or_damaged_is_named(
    saved: Path, damage: Callable[[bytes], bytes] | None
) -> None:
    files = _files(saved)
    assert len(files) > 6
    for file in files:
        whole = file.read_bytes()
        file.unlink()
        if damage is not None:
            file.write_bytes(damage(whole))
        with pytest.raises(CheckpointError, match=file.name):
            verify_checkpoint(saved)
        file.write_bytes(whole)
    verify_checkpoint(saved)


def test_manifest_that_lists_nothing_or_is_of_another_format_is_refused(saved: Path) -> None:
    manifest = saved / "manifest.json"
    manifest.write_text('{"format": 1, "files": {}}')
    with pytest.raises(CheckpointError, match=r"does not list state\.json"):
        verify_checkpoint(saved)
    manifest.write_text('{"format": 99, "files": {}}')
    with pytest.raises(CheckpointError, match="of format 99; this version of dmpo reads format 1"):
        verify_checkpoint(saved)


def test_checkpoint_of_another_run_is_refused(saved: Path, tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="saved with seed 0; this run has 1"):
        trainer.restore(saved)


def test_checkpoint_that_finds_no_room_leaves_those_before_it(
    saved: Path, tmp_path: Path, file_size_limit: Callable[[int], None]
) -> None:
    trainer = small_trainer(tmp_path, small_settings(num_steps=5))
    trainer.restore(saved)
    file_size_limit(16_384)
    with pytest.raises(OutputError, match=r"step-000005: cannot be written: .*too large"):
        trainer.train()
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    verify_checkpoint(saved)


def test_run_goes_on_bit_for_bit_through_its_own_directory(tmp_path: Path) -> None:
    def settings(num_steps: int) -> TrainingSettings:
        return small_settings(num_steps=num_steps, checkpoint_every=2, sample_every=1)

    small_trainer(tmp_path / "whole", settings(10)).train()
    path = small_trainer(tmp_path / "cut", settings(7)).train().checkpoint.with_name("step-000006")
    trainer = small_trainer(tmp_path / "cut", settings(10))
    trainer.restore(path)
    trainer.train()
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert _untimed(tmp_path / "cut" / name) == _untimed(tmp_path / "whole" / name)
    weights = "checkpoints/step-000010/policy/model.safetensors"
    assert (tmp_path / "cut" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def _untimed(path: Path) -> list[dict[str, object]]:
    """Return the lines of a run without what a clock decides."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    clocked = ("time/", "tokens/per_second")
    return [{k: v for k, v in line.items() if not k.startswith(clocked)} for line in lines]


def test_going_back_to_a_checkpoint_sets_later_ones_aside(tmp_path: Path) -> None:
    settings = small_settings(checkpoint_every=2, keep_checkpoints=9)
    small_trainer(tmp_path, settings).train()
    trainer = small_trainer(tmp_path, small_settings(num_steps=3, keep_checkpoints=9))
    trainer.restore(tmp_path / "checkpoints" / "step-000002")
    trainer.train()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    whole = ["step-000002", "step-000003"]
    assert names == [*whole, "step-000004.aside", "step-000006.aside"]


def test_damaged_checkpoint_is_replaced_by_the_run_that_skipped_it(tmp_path: Path) -> None:
    settings = small_settings(checkpoint_every=3)
    newest = small_trainer(tmp_path, settings).train().checkpoint
    shutil.rmtree(newest / "policy")
    trainer = small_trainer(tmp_path, settings)
    trainer.restore(newest.with_name("step-000003"))
    assert trainer.train().checkpoint == newest
    verify_checkpoint(newest)
