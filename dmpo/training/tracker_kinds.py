"""Which experiment trackers there are, and what is particular about each of them.

They are Accelerate's; another one is named by its class.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from accelerate.tracking import (
    GeneralTracker,
    MLflowTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandBTracker,
)
from pydantic import Field, field_validator
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter, SummaryWriter

from dmpo.errors import ConfigError, UnknownNameError
from dmpo.settings import Settings, flattened
from dmpo.user_code import load_object

__all__ = [
    "NO_TRACKER",
    "TRACKERS",
    "EndState",
    "TrackingSettings",
    "build_tracker",
    "check_tracker_names",
    "check_trackers",
    "finish_tracker",
    "flat_settings",
    "last_step_told",
    "log_values",
    "remote_id",
    "store_settings",
    "takes_back_steps",
]

EndState = Literal["finished", "failed", "killed"]
"""How a run ended: by a limit, by an error, by a signal."""

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")
"""Known by name; each is the package that it needs."""
NO_TRACKER = "none"
"""The name that stands for no tracker at all."""

FIELD = "tracking.trackers"


class TrackingSettings(Settings):
    """Where the figures go beside metrics.jsonl, and what a run is called there."""

    trackers: tuple[str, ...] = Field(
        ("tensorboard",),
        description="tensorboard, wandb, trackio, mlflow, or a tracker of one's own as "
        "module:Class or file.py:Class; none: only the files.",
    )
    project: str = Field(
        "dmpo", min_length=1, description="Project (MLflow: experiment) that the run belongs to."
    )
    run_name: str | None = Field(
        None, min_length=1, description="Name of the run; null: its directory's."
    )
    tags: tuple[str, ...] = Field((), description="Labels of the run, where a tracker has them.")

    @field_validator("trackers", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list | tuple) and NO_TRACKER in names:
            if len(names) > 1:
                raise ValueError(f"`{NO_TRACKER}` stands alone")
            return ()
        # Each once, in the order given.
        return tuple(dict.fromkeys(names)) if _are_texts(names) else names


def _are_texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


def check_tracker_names(settings: TrackingSettings) -> None:
    """Refuse a name that is none of :data:`TRACKERS`; classes are not looked for yet.

    Raises:
        UnknownNameError: Naming the nearest one.
    """
    for name in settings.trackers:
        if name not in TRACKERS and ":" not in name:
            raise UnknownNameError(FIELD, name, (*TRACKERS, NO_TRACKER, "module:Class"))


def check_trackers(settings: TrackingSettings) -> None:
    """Find out before anything is written whether every tracker can be made.

    Raises:
        ConfigError: If one is unknown, its package is not installed, or a class of one's own is
            no tracker.
    """
    check_tracker_names(settings)
    for name in settings.trackers:
        if ":" in name:
            _own_class(name)
        elif not _is_installed(name):
            raise ConfigError(f"{FIELD}: {name} is not installed; pip install {name}.")


def _is_installed(package: str) -> bool:
    # A folder of this name, which some trackers make where they run, is a package without a file.
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def _own_class(target: str) -> type[GeneralTracker]:
    found = load_object(target, FIELD, "tracker")
    if not (isinstance(found, type) and issubclass(found, GeneralTracker)):
        raise ConfigError(
            f"{FIELD}: {target} is no subclass of accelerate.tracking.GeneralTracker."
        )
    needed = ("name", "requires_logging_directory", "tracker")
    missing = [name for name in needed if not hasattr(found, name)]
    if missing:
        raise ConfigError(f"{FIELD}: {target} lacks {', '.join(missing)}.")
    return found


def flat_settings(config_text: str) -> dict[str, Any]:
    r"""Return resolved settings by dotted path, as trackers take them.

    Args:
        config_text: The resolved configuration, as YAML.

    Example:
        >>> flat_settings("seed: 3\nrewards: [{name: task}]")
        {'seed': 3, 'rewards.0.name': 'task'}
    """
    return {
        path: value if isinstance(value, bool | int | float | str | None) else str(value)
        for path, value in flattened(yaml.safe_load(config_text) or {}).items()
        if value not in ({}, [])
    }


def build_tracker(
    name: str,
    settings: TrackingSettings,
    run_directory: Path,
    *,
    config: Mapping[str, Any] | None = None,
    remote: str | None = None,
    first_step: int = 0,
) -> GeneralTracker:
    """Return a tracker that is not open yet.

    What a person has set up for it counts as ever: WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR.

    Args:
        name: One of :data:`TRACKERS`, or where a class is.
        settings: What the run is called.
        run_directory: Where a tracker writes that keeps files.
        config: The run's settings by dotted path, for a tracker that takes them as it opens.
        remote: The remote run to go on with; None: a new one.
        first_step: Steps taken already.
    """
    project = settings.project
    run_name = settings.run_name or run_directory.absolute().name
    if name == "tensorboard":
        # Events of later steps, which a resume takes again, count as if they were not there.
        return TensorBoardTracker(name, str(run_directory), purge_step=first_step + 1)
    if name == "wandb":
        return WandBTracker(
            project,
            name=run_name,
            tags=list(settings.tags) or None,
            dir=str(run_directory),
            # The live view redraws the terminal all the time, which is no log.
            settings={"console": "off"},
            **({} if remote is None else {"id": remote, "resume": "allow"}),
        )
    if name == "trackio":
        return TrackioTracker(
            project,
            name=remote or run_name,
            config=dict(config or {}),
            resume="never" if remote is None else "allow",
        )
    if name == "mlflow":
        tags = dict.fromkeys(settings.tags, "true") or None
        return MLflowTracker(project, run_id=remote, run_name=run_name, tags=tags)
    own = _own_class(name)
    return own(project, str(run_directory)) if own.requires_logging_directory else own(project)


def takes_back_steps(tracker: GeneralTracker) -> bool:
    """Return whether steps that a resume takes again replace those before; else they are once."""
    return isinstance(tracker, TensorBoardTracker)


def remote_id(tracker: GeneralTracker) -> str | None:
    """Return what an open tracker's run can be gone on with by another process; None: nothing."""
    if isinstance(tracker, WandBTracker):
        return None if getattr(tracker.run, "disabled", False) else str(tracker.run.id)
    if isinstance(tracker, TrackioTracker):
        return str(tracker.run.name)
    if isinstance(tracker, MLflowTracker):
        return str(tracker.active_run.info.run_id)
    return None


def last_step_told(tracker: GeneralTracker) -> int | None:
    """Return the last step that an open tracker's run has; None: it does not say.

    A process that was killed may have written steps that it had not sent yet.
    """
    if isinstance(tracker, WandBTracker) and getattr(tracker.run, "resumed", False):
        return int(tracker.run.step) - 1
    return None


def store_settings(tracker: GeneralTracker, config: Mapping[str, Any], *, is_new: bool) -> None:
    """Have an open tracker keep the run's settings: once, since some refuse another value later.

    Args:
        tracker: Which.
        config: By dotted path.
        is_new: Whether its remote run has just begun.
    """
    # Trackio writes them with the first figures of each process, and was told as it opened.
    if is_new and not isinstance(tracker, TrackioTracker):
        tracker.store_init_configuration(_accepted_values(tracker, config))


def _accepted_values(tracker: GeneralTracker, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values under names that the tracker takes: MLflow refuses `pass@4`."""
    if not isinstance(tracker, MLflowTracker):
        return dict(values)
    return {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in values.items()}


def log_values(tracker: GeneralTracker, values: Mapping[str, float], step: int) -> None:
    """Have an open tracker take the figures of a step."""
    if isinstance(tracker, TensorBoardTracker):
        _add_event(tracker.writer, values, step)
        return
    if isinstance(tracker, WandBTracker):
        # Its steps only rise. An evaluation that is made up for after a resume comes too late for
        # the line of its own step and goes into the next.
        step = max(step, int(tracker.run.step))
    tracker.log(_accepted_values(tracker, values), step=step)


def _add_event(writer: SummaryWriter, values: Mapping[str, float], step: int) -> None:
    """Write all values of a step as one event.

    Accelerate's own log makes an event of each, which its writing thread takes one by one.
    """
    summary = Summary(
        value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    )
    events: FileWriter | None = writer.file_writer
    if events is not None:  # None once closed
        events.add_summary(summary, step)
        events.flush()


def finish_tracker(tracker: GeneralTracker, state: EndState) -> None:
    """Close a tracker, and say how the run ended where it wants to know."""
    if isinstance(tracker, WandBTracker):
        tracker.run.finish(exit_code={"finished": 0, "failed": 1, "killed": 130}[state])
    elif isinstance(tracker, MLflowTracker):
        importlib.import_module("mlflow").end_run(status=state.upper())
    else:
        tracker.finish()
