from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dmpo.evaluation.evaluator import EvaluationSettings, Evaluator
from dmpo.registry import SAMPLERS
from dmpo.training.tracking import environment_record
from dmpo.training.trainer import Trainer
from tests.training.runs import CountingTask, small_parts, small_settings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    sampler = SAMPLERS.build("roar", {"gen_length": 4})
    Trainer(
        small_parts(),
        small_settings(num_steps=5, sample_every=2),
        seed=3,
        run_directory=directory,
        evaluator=Evaluator(CountingTask(), sampler, EvaluationSettings()),
        config_text="seed: 3\n",
        command=["dmpo", "train"],
    ).train()
    return directory


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_run_directory_holds_what_the_architecture_names(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl"}
    assert names >= {"tensorboard", "checkpoints", "evaluation.json", "evaluation.md"}
    assert list((run / "tensorboard").rglob("events.out.tfevents.*"))
    assert (run / "config.yaml").read_text(encoding="utf-8") == "seed: 3\n"


def test_samples_show_rollouts_with_rewards_of_each_buffer(run: Path) -> None:
    samples = _lines(run / "samples.jsonl")
    assert [sample["step"] for sample in samples] == [0] * 6 + [4] * 6
    assert samples[0].keys() >= {"prompt", "completion", "reward", "components", "weight"}


def test_evaluations_before_and_after_stand_side_by_side(run: Path) -> None:
    record = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert list(record) == ["step 0", "step 5"]
    assert len(_lines(run / "evaluations" / "step-000005.jsonl")) == 9
    assert (run / "evaluation.md").read_text(encoding="utf-8").startswith("| | step 0 | step 5 |")


def test_environment_names_versions_seed_and_command() -> None:
    record = environment_record(7, ["dmpo", "train"], torch.device("cpu"), 1)
    assert (record["seed"], record["command"]) == (7, ["dmpo", "train"])
    assert torch.__version__.startswith(record["packages"]["torch"].split("+")[0])
    assert json.loads(json.dumps(record)) == record
