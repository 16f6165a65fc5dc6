"""Settings, names, and what is particular about each tracker.

The packages are not installed here. What stands in for them has the calls that Accelerate and this
library make of them; the same calls were tried with the packages themselves.
"""

from __future__ import annotations

import importlib.machinery
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from dmpo.errors import ConfigError, RewardError, UnknownNameError
from dmpo.records import Rewards, Rollouts
from dmpo.rewards.base import RewardModel
from dmpo.tasks.base import Task
from dmpo.training import tracker_kinds
from dmpo.training.interruption import Interruption
from dmpo.training.tracker_kinds import TrackingSettings, check_trackers, flat_settings
from tests.training.runs import small_settings, small_trainer
from tests.training.test_interruption import Sender, at_step

HERE = "tests.training.own_trackers"


def module(name: str, **content: Any) -> ModuleType:
    made = ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="stand-in")
    vars(made).update(content)
    return made


class Wandb:
    """Stands in for wandb: one run, and what was said of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inits: list[dict[str, Any]] = []
        self.lines: list[tuple[int, list[str]]] = []
        self.exits: list[int] = []
        self.config: dict[str, Any] = {}
        self.run = SimpleNamespace(id="abc", step=0, disabled=False, resumed=False)
        self.run.log = self.log
        self.run.finish = lambda exit_code: self.exits.append(exit_code)
        kept = SimpleNamespace(update=lambda values, **_: self.config.update(values))
        monkeypatch.setitem(sys.modules, "wandb", module("wandb", init=self.init, config=kept))

    def init(self, **kwargs: Any) -> Any:
        self.inits.append(kwargs)
        return self.run

    def log(self, values: dict[str, float], step: int) -> None:
        assert step >= self.run.step
        self.run.step = step
        self.lines.append((step, sorted(values)))


class Broken(RewardModel):
    """Fails at the first buffer."""

    def score(self, rollouts: Rollouts, task: Task) -> Rewards:
        raise RewardError("reward: no more")


def settings(*trackers: str, **others: Any) -> TrackingSettings:
    return TrackingSettings(trackers=trackers, **others)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("wandb", ("wandb",)),
        (["wandb", "mlflow", "wandb"], ("wandb", "mlflow")),
        (["none"], ()),
        ("none", ()),
        ([], ()),
    ],
)
def test_trackers_are_a_list_without_repetitions(given: Any, kept: tuple[str, ...]) -> None:
    assert TrackingSettings(trackers=given).trackers == kept


@pytest.mark.parametrize("given", [["none", "wandb"], 3, [3]])
def test_list_of_other_things_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        TrackingSettings(trackers=given)


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"tracking\.trackers.*Did you mean 'wandb'\?"):
        check_trackers(settings("wandbb"))


def test_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"mlflow is not installed; pip install mlflow\."):
        check_trackers(settings("tensorboard", "mlflow"))


def test_folder_that_a_tracker_has_left_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tracker_kinds, "TRACKERS", ("left_behind",))
    with pytest.raises(ConfigError, match="not installed"):
        check_trackers(settings("left_behind"))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (f"{HERE}:Notes", "Did you mean 'Noted'"),
        ("json:JSONDecoder", "no subclass of accelerate.tracking.GeneralTracker"),
        (f"{HERE}:Nameless", "lacks name, requires_logging_directory, tracker"),
        ("nowhere.py:Tracker", "no file nowhere.py"),
    ],
)
def test_class_that_is_no_tracker_is_refused(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_trackers(settings(target))


def test_settings_are_told_by_their_dotted_paths() -> None:
    text = "a: {b: 1.5, c: null}\nd: [x, {e: true}]\nf: []\n"
    assert flat_settings(text) == {"a.b": 1.5, "a.c": None, "d.0": "x", "d.1.e": True}
    assert flat_settings("") == {}


def test_wandb_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Wandb(monkeypatch)
    tracking = settings("wandb", project="digits", tags=("a",))
    options = {"tracking": tracking, "config_text": "seed: 0\n"}
    path = small_trainer(tmp_path / "first", small_settings(num_steps=3), **options).train()
    wandb.config["seed"] = "kept"
    trainer = small_trainer(tmp_path / "first", small_settings(num_steps=5), **options)
    trainer.restore(path.checkpoint)
    trainer.train()
    begun, resumed = wandb.inits
    assert (begun["project"], begun["name"], begun["tags"]) == ("digits", "first", ["a"])
    assert begun["dir"] == str(tmp_path / "first")
    assert "id" not in begun
    assert (resumed["id"], resumed["resume"]) == ("abc", "allow")
    assert [step for step, names in wandb.lines if "reward/mean" in names] == [1, 2, 3, 4, 5]
    assert wandb.config == {"seed": "kept"}
    assert wandb.exits == [0, 0]


def test_wandb_learns_how_the_run_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Wandb(monkeypatch)
    with pytest.raises(RewardError):
        small_trainer(tmp_path / "a", reward=Broken(), tracking=settings("wandb")).train()
    with Interruption() as interruption:
        small_trainer(
            tmp_path / "b",
            tracking=settings("wandb"),
            observers=[Sender(at_step(2), (signal.SIGINT,))],
            interruption=interruption,
        ).train()
    assert wandb.exits == [1, 130]


def test_evaluation_that_wandb_would_drop_goes_into_the_next_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wandb = Wandb(monkeypatch)
    tracker = tracker_kinds.build_tracker("wandb", settings("wandb"), Path("run"))
    tracker.start()
    wandb.run.step = 5  # where a resumed run stands that has been told of step 4
    tracker_kinds.log_values(tracker, {"evaluation/right": 1.0}, 4)
    assert wandb.lines == [(5, ["evaluation/right"])]


def test_step_that_wandb_was_not_sent_before_a_kill_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Wandb(monkeypatch)
    options = {"tracking": settings("wandb")}
    numbers = small_settings(num_steps=4, checkpoint_every=2)
    small_trainer(tmp_path, numbers, **options).train()
    wandb.lines.clear()
    wandb.run.resumed, wandb.run.step = True, 3 + 1  # the server has steps up to 3
    trainer = small_trainer(tmp_path, numbers, **options)
    trainer.restore(tmp_path / "checkpoints" / "step-000002")
    trainer.train()
    assert [step for step, _ in wandb.lines] == [4]


def test_mlflow_goes_on_with_its_run_and_learns_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, list[Any]] = {"start": [], "params": [], "metrics": [], "end": []}
    info = SimpleNamespace(info=SimpleNamespace(run_id="r1"))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    stand_in = module(
        "mlflow",
        search_experiments=lambda **_: [],
        create_experiment=lambda **_: "e1",
        start_run=lambda **kwargs: told["start"].append(kwargs["run_id"]) or info,
        log_params=told["params"].append,
        log_metrics=lambda values, step: told["metrics"].append((step, sorted(values))),
        end_run=lambda status: told["end"].append(status),
        utils=SimpleNamespace(
            validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
        ),
    )
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    options = {"tracking": settings("mlflow"), "config_text": "seed: 0\n"}
    done = small_trainer(tmp_path / "run", small_settings(num_steps=2), **options).train()
    again = small_trainer(tmp_path / "run", small_settings(num_steps=3), **options)
    again.restore(done.checkpoint)
    again.train()
    with pytest.raises(RewardError):
        small_trainer(tmp_path / "other", reward=Broken(), **options).train()
    assert told["start"] == [None, "r1", None]
    assert told["params"] == [{"seed": 0}, {"seed": 0}]
    assert [step for step, _ in told["metrics"]] == [1, 2, 3]
    assert told["end"] == ["FINISHED", "FINISHED", "FAILED"]


def test_mlflow_gets_names_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, float]] = []
    stand_in = module("mlflow", log_metrics=lambda values, **_: told.append(values))
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    tracker = tracker_kinds.build_tracker("mlflow", settings("mlflow"), Path("run"))
    tracker_kinds.log_values(tracker, {"evaluation/pass@4": 1.0, "a b/c-d.e": 2.0}, 1)
    assert told == [{"evaluation/pass_4": 1.0, "a b/c-d.e": 2.0}]


def test_trackio_is_told_the_settings_as_it_opens_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inits: list[dict[str, Any]] = []
    run = SimpleNamespace(name="run", log=lambda *_, **__: None, finish=lambda: None)
    stand_in = module("trackio", init=lambda **kwargs: inits.append(kwargs) or run)
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    options = {"tracking": settings("trackio"), "config_text": "seed: 0\n"}
    done = small_trainer(tmp_path / "run", small_settings(num_steps=2), **options).train()
    again = small_trainer(tmp_path / "run", small_settings(num_steps=3), **options)
    again.restore(done.checkpoint)
    again.train()
    assert [init["resume"] for init in inits] == ["never", "allow"]
    assert [init["name"] for init in inits] == ["run", "run"]
    assert [init["config"] for init in inits] == [{"seed": 0}, {"seed": 0}]
