"""``dmpo train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from dmpo.cli.completion import registered, resumable
from dmpo.cli.launching import (
    TRY_AGAIN,
    check_processes,
    is_launched,
    is_time_up,
    launch,
    without_options,
)
from dmpo.cli.options import (
    ConfigFile,
    Context,
    Debug,
    Output,
    Recipe,
    Seed,
    Sets,
    Steps,
    command_layer,
    real_number,
    settings_layers,
    whole_number,
)
from dmpo.config.places import free_directory, run_directory

__all__ = ["train"]


def train(
    context: Context,
    recipe: Recipe = None,
    config: ConfigFile = None,
    sets: Sets = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Backbone family: what is trained.", autocompletion=registered("policies")
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint: a directory or a hub id.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Where prompts come from.", autocompletion=registered("tasks")),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="How rollouts are made.", autocompletion=registered("samplers")),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="A registered reward, module:function or file.py:function; repeatable.",
            autocompletion=registered("rewards"),
        ),
    ] = None,
    likelihood: Annotated[
        str | None,
        typer.Option(
            help="Whose views the loss is taken on.", autocompletion=registered("likelihoods")
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="How rewards become weights.", autocompletion=registered("weights")),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="What is subtracted from them.", autocompletion=registered("baselines")),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="What is minimised.", autocompletion=registered("objectives"))
    ] = None,
    seed: Seed = None,
    steps: Steps = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(parser=real_number, metavar="<float>", help="Stop after so long."),
    ] = None,
    output: Output = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Go on with a run: its directory, a checkpoint in it, or auto: the run in "
            "--output, which starts if it is not there yet.",
            metavar="auto|PATH",
            autocompletion=resumable,
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            parser=whole_number,
            metavar="<int>",
            help="Run on so many processes of this machine: one for each GPU, or on its cores.",
        ),
    ] = None,
    sharding: Annotated[
        str | None,
        typer.Option(
            help="How weights lie on the processes: ddp (whole on each), fsdp2, zero2 or zero3.",
            metavar="ddp|fsdp2|zero2|zero3",
        ),
    ] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            help="Where figures go beside metrics.jsonl: tensorboard (the default), wandb, "
            "trackio, mlflow, module:Class or file.py:Class; repeatable. none: nowhere else.",
            metavar="NAME",
        ),
    ] = None,
    auto_micro_batch: Annotated[
        bool,
        typer.Option(
            "--auto-micro-batch", help="Find out how many rollouts fit into memory at once."
        ),
    ] = False,
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
        "--auto-micro-batch": auto_micro_batch or None,
        "--tracker": tracker,
    }
    check_processes(processes, sharding, is_dry=dry_run)
    launches = (processes or 1) > 1 and not is_launched() and not dry_run
    layer = command_layer(
        context,
        sections=tuple(RunConfig.model_fields),
        sets=sets,
        flags={flag: (SETTING_FLAGS[flag], value) for flag, value in values.items()},
    )
    resumption = _resumption(resume, recipe, config, output)
    if resumption is not None and resume != "auto":
        config = resumption.run / "config.yaml"
    layers, label, description = settings_layers(recipe, config, default_recipe=DEFAULT_RECIPE)
    resolved = resolve_run([*layers, layer])
    if resumption is not None:
        directory = resumption.run
        _say_changes(resumption, resolved.config, is_silent=launches)
    elif resume == "auto" and output is not None:
        directory = output
    else:
        directory = run_directory(output, label, is_written=not dry_run)
    resolved.config.training.check_shared_by(processes or 1)
    light = _checked_parts(resolved.config)
    if dry_run:
        _dry_run(resolved, light, processes=processes, sharding=sharding)
    elif launches:
        arguments = without_options(context.obj, ("--processes", "--sharding"))
        if output is None and resume is None:
            arguments += ["--output", str(directory)]
        raise typer.Exit(launch(processes or 1, sharding or "ddp", arguments))
    else:
        _announce(resolved.config, label, description, directory)
        _run(resolved, light, directory, resumption=resumption, plain=plain)


def _resumption(
    resume: str | None, recipe: str | None, config: Path | None, output: Path | None
) -> Any:
    """Return where to go on; None: at the beginning."""
    from dmpo.config.runs import find_resumption
    from dmpo.errors import ConfigError

    if resume is None:
        return None
    if resume != "auto":
        if recipe or config or output:
            raise ConfigError("--resume: the run has its settings and its place already.")
        return find_resumption(Path(resume))
    if output is None:
        raise ConfigError("--resume: auto needs --output, the run's directory.")
    if (output / "config.yaml").is_file():
        return find_resumption(output)
    free_directory(output, "")
    return None


def _say_changes(resumption: Any, config: Any, *, is_silent: bool) -> None:
    """Say what a resume changes, or refuse it."""
    from dmpo.cli.results import say
    from dmpo.config.ranks import is_main_process
    from dmpo.config.runs import check_changes, saved_config, settings_changes

    before = saved_config(resumption)
    changes = settings_changes(before, config)
    check_changes(changes, before)
    if is_main_process() and not is_silent:
        for reason in resumption.skipped:
            say("skipped", reason)
        for change in changes:
            say("changed", str(change))
        say("resume", str(resumption.checkpoint or "no checkpoint yet: from the beginning"))


def _checked_parts(config: Any) -> Any:
    """Build every part but the policy and read the problems, before anything is said."""
    from dmpo.config.assembly import build_light_parts
    from dmpo.training.tracker_kinds import check_trackers

    check_trackers(config.tracking)
    light = build_light_parts(config)
    light.task.examples("train")
    return light


def _announce(config: Any, label: str, description: str, directory: Path) -> None:
    """Say in a few lines what runs."""
    from dmpo.cli.results import say
    from dmpo.config.ranks import is_main_process

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


def _run(resolved: Any, light: Any, directory: Path, *, resumption: Any, plain: bool) -> None:
    from rich.console import Console

    from dmpo.cli.report import say_report
    from dmpo.cli.results import print_evaluations, say, say_stopping
    from dmpo.config.assembly import build_training_parts
    from dmpo.config.ranks import is_main_process
    from dmpo.config.training_run import build_trainer, view_for
    from dmpo.training.interruption import Interruption
    from dmpo.training.live import LiveView

    config = resolved.config
    parts = build_training_parts(config, light)
    if is_main_process():
        say("policy", parts.policy.describe())
    console = Console(highlight=False)
    view = view_for(console, plain=plain)
    notify = view.say_stopping if isinstance(view, LiveView) else say_stopping
    with Interruption(notify) as interruption:
        trainer = build_trainer(
            resolved, light, parts, directory, observers=(view,), interruption=interruption
        )
        if resumption is not None and resumption.checkpoint is not None:
            trainer.restore(resumption.checkpoint)
        with view:
            finished = trainer.train()
    if is_main_process() and finished.reason == "interrupted":
        say("saved in", str(finished.checkpoint))
        say("go on with", f"dmpo train --resume {shlex.quote(str(directory))}")
    if finished.reason == "interrupted" and is_time_up(interruption.signal):
        raise typer.Exit(TRY_AGAIN)
    if finished.reason == "interrupted" or not is_main_process():
        return
    print_evaluations(console, directory)
    say_report(directory)
    say("saved in", str(directory))
    say("evaluate", f"dmpo eval --run {directory}")
    if "tensorboard" in config.tracking.trackers:
        say("curves", f"tensorboard --logdir {directory}")


def _dry_run(
    resolved: Any, light: Any, *, processes: int | None = None, sharding: str | None = None
) -> None:
    """Print settings, counts and the memory of each process, after a rollout through every part."""
    from dmpo.cli.results import say
    from dmpo.config.ranks import num_processes
    from dmpo.config.rehearsal import rehearse
    from dmpo.config.yaml_text import yaml_with_comments

    config, count = resolved.config, processes or num_processes()
    # Of several processes all ways to divide a run are shown: which one fits is the question.
    ways: Any = {"ddp": None} | ({"zero2": None, "fsdp2": None} if count > 1 else {})
    ways |= {sharding or "ddp": None}
    found = rehearse(config, light, num_processes=count, shardings=tuple(ways))
    typer.echo(yaml_with_comments(resolved.plain(), resolved.provenance))
    sizes = ", ".join(f"{count:,} {split}" for split, count in found.num_examples.items())
    say("parameters", f"{found.num_parameters:,}, trained {found.num_trained:,}")
    say("problems", sizes)
    if found.rollout is None:
        say("rehearsal", f"left out: {found.left_out}; {found.num_views} views of a rollout")
    else:
        say(
            "rehearsal",
            f"one rollout of {found.rollout.sequence_length} positions: reward "
            f"{found.rollout.reward:g}, {found.num_views} views",
        )
    _say_memory(found, count, sharding)
    typer.echo("nothing was written")


def _say_memory(found: Any, count: int, sharding: str | None) -> None:
    """Print what each process needs, by use."""
    import torch

    from dmpo.cli.results import say
    from dmpo.config.memory_table import fitting, memory_table, readable_size

    if not found.plans:
        say("memory", "not computed: the policy does not show the sizes of its model")
        return
    work, each = found.work, "the process" if count == 1 else f"each of {count} processes"
    say(
        "memory",
        f"of {each}, an estimate, computed and not measured: {work.step_views} views of "
        f"{work.sequence_length} positions at most in a forward and backward pass, "
        f"{work.num_micro_batches} of them in a step; {work.rollout_rows} rollouts sampled at "
        f"once, {work.candidates} positions of each looked at",
    )
    has_gpu = torch.cuda.is_available()
    capacity = torch.cuda.get_device_properties(0).total_memory if has_gpu else None
    for line in memory_table(found.plans, capacity):
        typer.echo(f"  {line}")
    chosen = sharding or "ddp"
    step, other = (
        plans[chosen].peaks["gradient step"] for plans in (found.plans, found.other_checkpointing)
    )
    if other != step:
        state = "off" if found.recomputes_blocks else "on"
        say("instead", f"{readable_size(other)}: with gradient_checkpointing {state} ({chosen})")
    if not has_gpu:
        say("fits into", fitting(found.plans) + " (a tenth left free)")
