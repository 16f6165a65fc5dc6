"""``dmpo eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dmpo.cli.options import (
    ConfigFile,
    Context,
    Debug,
    Output,
    Recipe,
    Seed,
    Sets,
    command_layer,
    free_directory,
    path,
    settings_layers,
    whole_number,
)

__all__ = ["evaluate"]


def evaluate(
    context: Context,
    recipe: Recipe = None,
    config: ConfigFile = None,
    run: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="<path>",
            help="A run directory, or a checkpoint in it: its settings and weights.",
        ),
    ] = None,
    sets: Sets = None,
    policy: Annotated[str | None, typer.Option(help="Backbone family.")] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint: a directory or a hub id.")] = None,
    task: Annotated[str | None, typer.Option(help="Where problems come from.")] = None,
    split: Annotated[str | None, typer.Option(help="test or validation.")] = None,
    num_examples: Annotated[
        int | None,
        typer.Option(
            parser=whole_number, metavar="<int>", help="The first so many problems of the split."
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(parser=whole_number, metavar="<int>", help="Completions of each problem."),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="How completions are made.")] = None,
    seed: Seed = None,
    output: Output = None,
    debug: Debug = False,  # noqa: ARG001  (read by main)
) -> None:
    """Measure a policy on a task: greedy accuracy, unless told otherwise.

    Other parameters are flags, too: --evaluation.sampler.temperature 0.7, --task.seed 1. With
    --output, table and completions are saved.
    """
    from dmpo.config.resolve import resolve_run
    from dmpo.config.run import DEFAULT_RECIPE, RunConfig
    from dmpo.errors import ConfigError

    if run is not None and (recipe or config or policy or model):
        raise ConfigError("--run: the run has its settings and its checkpoint already.")
    layer = command_layer(
        context,
        sections=tuple(RunConfig.model_fields),
        sets=sets,
        flags={
            "--policy": ("policy", policy),
            "--model": ("policy.model", model),
            "--task": ("task", task),
            "--split": ("evaluation.split", split),
            "--num-examples": ("evaluation.num_examples", num_examples),
            "--samples": ("evaluation.samples_per_prompt", samples),
            "--sampler": ("evaluation.sampler", sampler),
            "--seed": ("seed", seed),
        },
    )
    checkpoint = None
    if run is not None:
        config, checkpoint = _settings_and_checkpoint(run)
    layers, _, _ = settings_layers(recipe, config, default_recipe=DEFAULT_RECIPE)
    settings = resolve_run([*layers, layer]).config
    directory = None if output is None else free_directory(output, "")
    _evaluate(settings, checkpoint, directory)


def _evaluate(settings: Any, checkpoint: Path | None, directory: Path | None) -> None:
    from rich.console import Console

    from dmpo.config.assembly import (
        build_evaluator,
        build_policy,
        build_task,
        place_on_accelerator,
    )
    from dmpo.config.preflight import canvas_length, check_task
    from dmpo.evaluation.saved import write_completions, write_tables
    from dmpo.evaluation.table import evaluation_table
    from dmpo.files import filling
    from dmpo.training.randomness import generator_for

    task = build_task(settings.task)
    evaluator = build_evaluator(settings.evaluation, task)
    task.examples(settings.evaluation.split)  # what is wrong with them shows before a model loads
    policy = build_policy(settings.policy)
    room = canvas_length(settings.evaluation.sampler)
    check_task(policy, task, settings.evaluation, room=room, name="task")
    if checkpoint is not None:
        policy.load_weights(checkpoint / "policy")
    place_on_accelerator(policy)
    result = evaluator.evaluate(policy, generator_for(settings.seed, 0, 0, "evaluation"))
    shown = checkpoint or settings.policy.parameters.get("model", settings.policy.name)
    results = {str(shown): result}
    typer.echo(f"{settings.policy.name} {shown} on {settings.task.name}")
    Console(highlight=False).print(evaluation_table(results))
    if directory is not None:
        with filling(directory) as folder:
            write_completions(folder / "completions.jsonl", result)
            write_tables(folder, results)
        typer.echo(f"saved in {directory}")


def _settings_and_checkpoint(run: Path) -> tuple[Path, Path]:
    """Return a run's settings file and newest whole checkpoint, naming those that are skipped."""
    from dmpo.cli.results import say
    from dmpo.config.runs import find_resumption
    from dmpo.errors import ConfigError

    found = find_resumption(run, "--run")
    for reason in found.skipped:
        say("skipped", reason)
    if found.checkpoint is None:
        raise ConfigError(f"--run: {run} has not saved a checkpoint yet.")
    return found.run / "config.yaml", found.checkpoint
