"""``dmpo train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dmpo.cli.options import (
    ConfigFile,
    Context,
    Debug,
    Output,
    Recipe,
    Sets,
    command_layer,
    free_directory,
    settings_layers,
)

__all__ = ["train"]


def train(
    context: Context,
    recipe: Recipe = None,
    config: ConfigFile = None,
    sets: Sets = None,
    policy: Annotated[str | None, typer.Option(help="Backbone family: what is trained.")] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint: a directory or a hub id.")] = None,
    task: Annotated[str | None, typer.Option(help="Where prompts come from.")] = None,
    sampler: Annotated[str | None, typer.Option(help="How rollouts are made.")] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(help="A registered reward, module:function or file.py:function; repeatable."),
    ] = None,
    likelihood: Annotated[
        str | None, typer.Option(help="Whose views the loss is taken on.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="How rewards become weights.")] = None,
    baseline: Annotated[str | None, typer.Option(help="What is subtracted from them.")] = None,
    objective: Annotated[str | None, typer.Option(help="What is minimised.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    steps: Annotated[int | None, typer.Option(help="Gradient steps in all.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after so long.")] = None,
    output: Output = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this directory.", metavar="RUN")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build and check everything, write nothing.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of the live view.")] = False,
    debug: Debug = False,  # noqa: ARG001  (read by main)
) -> None:
    """Train a policy by reinforcement learning; without options, a demonstration on Sudoku.

    Any parameter of any part is a flag, too: --likelihood.eos answer, --weights.alpha 0.05,
    --training.learning_rate 1e-4. `dmpo config show` prints them all, `dmpo plugins list` the
    names that are accepted.
    """
    from dmpo.config.overrides import SETTING_FLAGS
    from dmpo.config.resolve import resolve_run
    from dmpo.config.run import DEFAULT_RECIPE, RunConfig
    from dmpo.errors import ConfigError

    values = {
        "--policy": policy,
        "--model": model,
        "--task": task,
        "--sampler": sampler,
        "--reward": reward,
        "--likelihood": likelihood,
        "--weights": weights,
        "--baseline": baseline,
        "--objective": objective,
        "--seed": seed,
        "--steps": steps,
        "--max-seconds": max_seconds,
    }
    layer = command_layer(
        context,
        sections=tuple(RunConfig.model_fields),
        sets=sets,
        flags={flag: (SETTING_FLAGS[flag], value) for flag, value in values.items()},
    )
    if resume is not None and (recipe or config or output):
        raise ConfigError("--resume: the run has its settings and its place already.")
    if resume is not None:
        config = _settings_of(resume)
    layers, label, description = settings_layers(recipe, config, default_recipe=DEFAULT_RECIPE)
    directory = resume or _directory(output, label, dry_run=dry_run)
    resolved = resolve_run([*layers, layer])
    light = _checked_parts(resolved.config)
    if dry_run:
        _dry_run(resolved, light)
    else:
        _announce(resolved.config, label, description, directory)
        _run(resolved, light, directory, resume=resume is not None, plain=plain)


def _settings_of(run: Path) -> Path:
    from dmpo.errors import ConfigError

    path = run / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"--resume: {run} is no run directory: it has no config.yaml.")
    return path


def _directory(output: Path | None, label: str, *, dry_run: bool) -> Path:
    from dmpo.cli.results import is_main_process, num_processes
    from dmpo.errors import ConfigError

    if num_processes() > 1 and output is None and not dry_run:
        raise ConfigError("--output: several processes need one place; name it.")
    if output is not None and not is_main_process():
        return output
    return free_directory(output, label)


def _checked_parts(config: Any) -> Any:
    """Build every part but the policy and read the problems, before anything is said."""
    from dmpo.config.assembly import build_light_parts

    light = build_light_parts(config)
    light.task.examples("train")
    return light


def _announce(config: Any, label: str, description: str, directory: Path) -> None:
    """Say in a few lines what runs."""
    from dmpo.cli.results import is_main_process, say

    if not is_main_process():
        return
    say("recipe", label + (f": {description}" if description else ""))
    say("task", config.task.name)
    say(
        "objective",
        f"{config.objective.name} (likelihood {config.likelihood.name}, weights "
        f"{config.weights.name}, baseline {config.baseline.name})",
    )
    say("output", str(directory))


def _run(resolved: Any, light: Any, directory: Path, *, resume: bool, plain: bool) -> None:
    from rich.console import Console

    from dmpo.cli.results import Results, is_main_process, say
    from dmpo.config.assembly import build_training_parts
    from dmpo.config.runs import newest_checkpoint
    from dmpo.config.yaml_text import yaml_text
    from dmpo.training.live import LiveView, PlainView
    from dmpo.training.trainer import Trainer

    config = resolved.config
    parts = build_training_parts(config, light)
    if is_main_process():
        say("policy", parts.policy.describe())
    console = Console(highlight=False)
    results = Results()
    view = PlainView(console) if plain or not console.is_terminal else LiveView(console)
    trainer = Trainer(
        parts,
        config.training,
        seed=config.seed,
        run_directory=directory,
        evaluator=light.evaluator,
        observers=(view, results),
        config_text=yaml_text(resolved.plain()),
        command=sys.argv,
    )
    if resume:
        checkpoint, skipped = newest_checkpoint(directory)
        for reason in skipped:
            say("skipped", reason)
        trainer.restore(checkpoint)
    with view:
        trainer.train()
    if is_main_process():
        results.print_table(console)
        say("saved in", str(directory))
        say("evaluate", f"dmpo eval --run {directory}")
        say("curves", f"tensorboard --logdir {directory}")


def _dry_run(resolved: Any, light: Any) -> None:
    """Print settings, counts and an estimate of memory, after a rollout through every part."""
    from dmpo.cli.results import say
    from dmpo.config.assembly import build_training_parts
    from dmpo.config.rehearsal import rehearse
    from dmpo.config.yaml_text import yaml_with_comments

    config = resolved.config
    found = rehearse(build_training_parts(config, light), config)
    typer.echo(yaml_with_comments(resolved.plain(), resolved.provenance))
    sizes = ", ".join(f"{count:,} {split}" for split, count in found.num_examples.items())
    say("parameters", f"{found.num_parameters:,}, trained {found.num_trained:,}")
    say("problems", sizes)
    say(
        "rehearsal",
        f"one rollout of {found.sequence_length} positions: reward {found.reward:g}, "
        f"{found.num_views} views",
    )
    parts = ", ".join(f"{use} {_size(count)}" for use, count in found.memory.items())
    total = sum(found.memory.values())
    say("memory", f"about {_size(total)} on {found.device}, an estimate: {parts}")
    typer.echo("nothing was written")


def _size(num_bytes: int) -> str:
    for power, unit in enumerate(("B", "KiB", "MiB")):
        if num_bytes < 1024 ** (power + 1):
            return f"{num_bytes / 1024**power:.0f} {unit}"
    return f"{num_bytes / 1024**3:.1f} GiB"
