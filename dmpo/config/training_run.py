"""Training from Python: the settings of ``dmpo train`` as arguments, and a run to look at.

``run = dmpo.train("sudoku", objective="dmpo", baseline="mean", output="runs/first")``, and then
``run.evaluations[96].score``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dmpo.config.assembly import LightParts, build_light_parts, build_training_parts
from dmpo.config.layers import Tree, assigned, merged
from dmpo.config.overrides import SETTING_FLAGS
from dmpo.config.places import run_directory
from dmpo.config.ranks import is_main_process
from dmpo.config.recipes import recipe_chain
from dmpo.config.resolve import Resolved, resolve_run
from dmpo.config.run import DEFAULT_RECIPE, RunConfig
from dmpo.config.runs import check_changes, find_resumption, saved_config, settings_changes
from dmpo.config.yaml_text import yaml_text
from dmpo.errors import ConfigError
from dmpo.evaluation.saved import read_tables
from dmpo.evaluation.summary import EvaluationResult
from dmpo.policies.base import DiffusionPolicy
from dmpo.training.events import Finished, Observer
from dmpo.training.interruption import Interruption
from dmpo.training.live import LiveView, PlainView
from dmpo.training.trainer import Trainer, TrainingParts

__all__ = ["TrainedRun", "build_trainer", "train", "view_for"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedRun:
    """A run that has ended, in memory and on disk."""

    directory: Path
    """Where everything was written; ``dmpo report`` and ``dmpo eval --run`` take it."""
    config: RunConfig
    """Its settings, every default written out."""
    finished: Finished
    """How many steps it took, and why it ended."""
    evaluations: Mapping[int, EvaluationResult]
    """By gradient step; the first is that of the policy before training. Completions are in
    the run directory, not here."""
    policy: DiffusionPolicy
    """What was trained, as it is now."""


def train(
    recipe: str | Path | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    progress: bool = True,
    **settings: Any,
) -> TrainedRun:
    """Train a policy by reinforcement learning, as ``dmpo train`` does.

    Args:
        recipe: A shipped recipe's name or a settings file; None: the demonstration on Sudoku.
        output: Run directory, which must not hold a run yet; None: a new one under ``runs``.
        resume: Go on with the run in ``output`` if there is one.
        observers: Told of everything that happens, in order (:mod:`dmpo.training.events`).
        progress: Show how it goes on standard output.
        settings: Any section of the settings, as in YAML: ``baseline="mean"``,
            ``weights={"name": "tilted", "alpha": 0.05}``; and the flags of ``dmpo train`` that
            stand for one setting: ``model``, ``reward``, ``steps``, ``max_seconds``. Where a name
            is expected, a class or function of one's own may stand (``reward=["task",
            my_reward]``); it has to lie at the top of a module or notebook, so that config.yaml
            can say where.

    Returns:
        The run; a signal that asks to stop ends it early, saved and resumable.

    Raises:
        ConfigError: If a setting is unknown, wrong or contradicts another one, or ``output``
            holds a run; nothing is written then.
        DmpoError: As training itself (:class:`~dmpo.training.trainer.Trainer`).
    """
    label = str(recipe or DEFAULT_RECIPE)
    resolved = resolve_run([*recipe_chain(label).layers, _layer(settings)])
    directory = None if output is None else Path(output)
    if resume and directory is not None and (directory / "config.yaml").is_file():
        checkpoint = _checkpoint(directory, resolved.config)
    else:
        directory, checkpoint = run_directory(directory, label), None
    light = build_light_parts(resolved.config)
    parts = build_training_parts(resolved.config, light)
    view = view_for(Console(highlight=False)) if progress else nullcontext()
    with Interruption(view.say_stopping if isinstance(view, LiveView) else None) as interruption:
        trainer = build_trainer(
            resolved,
            light,
            parts,
            directory,
            observers=(view, *observers) if isinstance(view, Observer) else observers,
            interruption=interruption,
        )
        if checkpoint is not None:
            trainer.restore(checkpoint)
        with view:
            finished = trainer.train()
    return TrainedRun(
        directory=directory,
        config=resolved.config,
        finished=finished,
        evaluations={
            int(heading.removeprefix("step ")): result
            for heading, result in read_tables(directory).items()
        },
        policy=parts.policy,
    )


def build_trainer(
    resolved: Resolved[RunConfig],
    light: LightParts,
    parts: TrainingParts,
    directory: Path,
    *,
    observers: Sequence[Observer] = (),
    interruption: Interruption | None = None,
) -> Trainer:
    """Return the loop of a run, ready to start or to be restored.

    Args:
        resolved: Its settings; config.yaml is written from them.
        light: Its parts but the policy.
        parts: All of its parts.
        directory: The run directory.
        observers: Told of everything that happens.
        interruption: Asked between two steps whether to stop.
    """
    config = resolved.config
    return Trainer(
        parts,
        config.training,
        seed=config.seed,
        run_directory=directory,
        evaluator=light.evaluator,
        observers=observers,
        interruption=interruption,
        config_text=yaml_text(resolved.plain()),
        command=sys.argv,
        tracking=config.tracking,
    )


def view_for(console: Console, *, plain: bool = False) -> LiveView | PlainView:
    """Return what shows a run on a console: the live screen on a terminal, else lines.

    Args:
        console: Where.
        plain: Lines on a terminal, too.
    """
    is_watched = console.is_terminal and not console.is_dumb_terminal and is_main_process()
    return LiveView(console) if is_watched and not plain else PlainView(console)


def _layer(settings: Mapping[str, Any]) -> Tree:
    """Return keyword arguments as a layer of settings."""
    layer: Tree = {}
    for name, value in settings.items():
        path = SETTING_FLAGS.get(f"--{name.replace('_', '-')}", name)
        layer = merged(layer, assigned(path, _plain(value, name), f"argument {name}"))
    return layer


def _plain(value: Any, field: str) -> Any:
    """Return settings as YAML would hold them: classes and functions by where they stand."""
    if isinstance(value, Mapping):
        return {key: _plain(item, f"{field}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{field}.{n}") for n, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return _target(value, field)


def _target(value: Any, field: str) -> str:
    """Return ``module:name`` of a class or function.

    Raises:
        ConfigError: If it is neither, or not found under its name at the top of its module.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module is None or name is None:
        raise ConfigError(
            f"{field}: a value of type {type(value).__name__} cannot be written to config.yaml; "
            "give text, a number, or a class or function at the top of a module."
        )
    if getattr(sys.modules.get(module), name, None) is not value:
        raise ConfigError(
            f"{field}: {name} is not found at the top of {module}, where config.yaml would look "
            "for it; define it there."
        )
    return f"{module}:{name}"


def _checkpoint(directory: Path, config: RunConfig) -> Path | None:
    """Return where a run goes on; None: at its beginning."""
    resumption = find_resumption(directory, "output")
    before = saved_config(resumption)
    check_changes(settings_changes(before, config), before)
    return resumption.checkpoint
