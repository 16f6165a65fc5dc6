"""``dmpo eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dmpo.cli.completion import registered, runs
from dmpo.cli.options import (
    ConfigFile,
    Context,
    Debug,
    Recipe,
    Seed,
    Sets,
    command_layer,
    path,
    real_number,
    settings_layers,
    whole_number,
)
from dmpo.config.places import check_writable, free_directory

__all__ = ["evaluate"]

UNFINISHED = "unfinished"
"""Folder of an evaluation's parts until all are there."""


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
            autocompletion=runs,
        ),
    ] = None,
    sets: Sets = None,
    policy: Annotated[
        str | None, typer.Option(help="Backbone family.", autocompletion=registered("policies"))
    ] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint: a directory or a hub id.")] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Where problems come from; several with commas between.",
            autocompletion=registered("tasks"),
        ),
    ] = None,
    gen_length: Annotated[
        str | None, typer.Option(help="Canvas length; several with commas between.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="test or validation.")] = None,
    num_examples: Annotated[
        int | None,
        typer.Option(
            parser=whole_number, metavar="<int>", help="The first so many problems of the split."
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            parser=whole_number,
            metavar="<int>",
            help="Completions of each problem: pass@k and majority vote.",
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="How completions are made.", autocompletion=registered("samplers")),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(parser=real_number, metavar="<float>", help="0: the likeliest tokens."),
    ] = None,
    grader: Annotated[
        str | None, typer.Option(help="default, or published: as the paper's parser has it.")
    ] = None,
    from_completions: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="<path>", help="Grade saved completions (JSONL); sample none."
        ),
    ] = None,
    seed: Seed = None,
    output: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="<path>",
            help="A new directory for tables and completions; gone on with if an evaluation "
            "stopped there. Or a .json file for the figures alone.",
        ),
    ] = None,
    debug: Debug = False,  # noqa: ARG001  (read by main)
) -> None:
    """Measure a policy on tasks: greedy accuracy, unless told otherwise.

    Other parameters are flags, too: --evaluation.sampler.block_length 8, --task.seed 1. With
    --output, tables and completions are saved.
    """
    from dmpo.config.evaluations import evaluations
    from dmpo.config.run import DEFAULT_RECIPE, PAPER_RECIPE, RunConfig
    from dmpo.errors import ConfigError

    if run is not None and (recipe or config or policy or model):
        raise ConfigError("--run: the run has its settings and its checkpoint already.")
    if from_completions is not None:
        _check_nothing_is_sampled(task, run, model, gen_length, samples, sampler, temperature)
    layer = command_layer(
        context,
        sections=tuple(RunConfig.model_fields),
        sets=sets,
        flags={
            "--policy": ("policy", policy),
            "--model": ("policy.model", model),
            "--split": ("evaluation.split", split),
            "--num-examples": ("evaluation.num_examples", num_examples),
            "--samples": ("evaluation.samples_per_prompt", samples),
            "--sampler": ("evaluation.sampler", sampler),
            "--temperature": ("evaluation.sampler.temperature", temperature),
            "--grader": ("task.grader", grader),
            "--seed": ("seed", seed),
        },
    )
    tasks = _listed(task, "--task")
    lengths = [_positive(text) for text in _listed(gen_length, "--gen-length")]
    if from_completions is not None:
        _regrade(layer, config, recipe, tasks[0], from_completions, output)
        return
    checkpoint = None
    if run is not None:
        config, checkpoint = _settings_and_checkpoint(run)
    # The packaged checkpoint has a recipe of its own; any other is measured as the paper does.
    is_other = tasks and model is not None and recipe is None and config is None
    default = PAPER_RECIPE if is_other else DEFAULT_RECIPE
    layers, _, _ = settings_layers(recipe, config, default_recipe=default)
    _evaluate(evaluations(layers, layer, tasks, lengths), checkpoint, output)


def _listed(text: str | None, flag: str) -> list[str]:
    """Return the items between commas; none if the flag was not given."""
    if text is None:
        return []
    items = [item.strip() for item in text.split(",")]
    if not all(items) or len(set(items)) < len(items):
        raise typer.BadParameter(
            f"{text!r} must be names with commas between, none twice.", param_hint=f"'{flag}'"
        )
    return items


def _positive(text: str) -> int:
    number = whole_number(text)
    if number < 1:
        raise typer.BadParameter(f"{number} is not at least 1.", param_hint="'--gen-length'")
    return number


def _check_nothing_is_sampled(task: str | None, *others: Any) -> None:
    from dmpo.errors import ConfigError

    if task is None or "," in task:
        raise ConfigError("--from-completions: needs one --task, whose grader counts.")
    if any(other is not None for other in others):
        raise ConfigError(
            "--from-completions: nothing is sampled; leave out --run, --model, --gen-length, "
            "--samples, --sampler and --temperature."
        )


def _regrade(
    layer: Any,
    config: Path | None,
    recipe: str | None,
    name: str,
    completions: Path,
    output: Path | None,
) -> None:
    """Grade saved completions."""
    from dmpo.config.assembly import build_task
    from dmpo.config.evaluations import evaluations, form_layer
    from dmpo.config.run import DEFAULT_RECIPE
    from dmpo.evaluation.saved import regraded
    from dmpo.tasks.sources import read_rows

    layers: list[Any] = []
    if recipe is not None or config is not None:
        layers, _, _ = settings_layers(recipe, config, default_recipe=DEFAULT_RECIPE)
    option = "--from-completions"
    rows = read_rows(completions, option)
    found = evaluations([*layers, form_layer(name, rows[0].values)], layer, [name], [])[0]
    origin = f"{option}: {completions}"
    result = regraded(build_task(found.config.task), rows, origin)
    typer.echo(f"{completions} on {name}")
    _show_and_save([(found, result)], output)


def _evaluate(cells: list[Any], checkpoint: Path | None, output: Path | None) -> None:
    from dmpo.config.assembly import build_evaluator, build_policy, build_task, place_on_accelerator
    from dmpo.config.preflight import canvas_length, check_task
    from dmpo.config.ranks import is_main_process, num_processes
    from dmpo.evaluation.shared import Progress, check_settings, evaluate_shared
    from dmpo.training.randomness import generator_for

    unfinished = _unfinished(output)
    tasks = [build_task(cell.config.task) for cell in cells]
    # What is wrong shows before a model loads.
    evaluators = [
        build_evaluator(cell.config.evaluation, task)
        for cell, task in zip(cells, tasks, strict=True)
    ]
    for cell, task in zip(cells, tasks, strict=True):
        task.examples(cell.config.evaluation.split)
    settings = cells[0].config
    policy = build_policy(settings.policy)
    for cell, task in zip(cells, tasks, strict=True):
        room = canvas_length(cell.config.evaluation.sampler)
        check_task(policy, task, cell.config.evaluation, room=room, name="task")
    if checkpoint is not None:
        policy.load_weights(checkpoint / "policy")
    place_on_accelerator(policy)
    rank = _join_processes(policy)
    if unfinished is not None and is_main_process():
        check_settings(unfinished, [cell.config.model_dump(mode="json") for cell in cells])
    results = []
    for cell, evaluator in zip(cells, evaluators, strict=True):
        progress = None if unfinished is None else Progress(unfinished / cell.heading, rank)
        result = evaluate_shared(
            evaluator,
            policy,
            generator_for(settings.seed, 0, 0, "evaluation"),
            rank=rank,
            num_processes=num_processes(),
            progress=progress,
        )
        results.append((cell, result))
    if is_main_process():
        shown = checkpoint or settings.policy.parameters.get("model", settings.policy.name)
        names = ", ".join(dict.fromkeys(cell.task for cell in cells))
        typer.echo(f"{settings.policy.name} {shown} on {names}")
        _show_and_save(results, output)


def _join_processes(policy: Any) -> int:
    """Return this process's rank, after the launcher's processes know each other."""
    from dmpo.config.ranks import num_processes

    if num_processes() == 1:
        return 0
    from accelerate import PartialState

    # Not told so, processes without a GPU would each be alone.
    return int(PartialState(cpu=policy.device.type == "cpu").process_index)


def _unfinished(output: Path | None) -> Path | None:
    """Return where an evaluation keeps what it has so far; None if it keeps nothing."""
    from dmpo.config.ranks import is_main_process

    if output is None or output.suffix == ".json":
        if output is not None:
            check_writable(output, "--output")
        return None
    if is_main_process() and not (output / UNFINISHED).is_dir():
        free_directory(output, "")
    return output / UNFINISHED


def _show_and_save(results: list[tuple[Any, Any]], output: Path | None) -> None:
    """Print the figures, and save them with the completions."""
    import shutil

    from rich.console import Console

    from dmpo.evaluation.grid import grid_markdown, grid_table
    from dmpo.evaluation.saved import write_completions, write_figures, write_tables
    from dmpo.evaluation.table import evaluation_table
    from dmpo.files import replace_text

    named = {cell.heading: result for cell, result in results}
    grid = {(cell.task, cell.gen_length): result for cell, result in results}
    table = evaluation_table(named) if len(named) == 1 else grid_table(grid)
    Console(highlight=False).print(table)
    if output is None:
        return
    if output.suffix == ".json":
        write_figures(output, [(cell.facts, result) for cell, result in results])
    else:
        single = len(named) == 1
        for heading, result in named.items():
            name = "completions.jsonl" if single else f"{heading}.jsonl"
            write_completions(output / name, result)
        write_tables(output, named)
        if not single:
            replace_text(output / "table.md", grid_markdown(grid))
        shutil.rmtree(output / UNFINISHED, ignore_errors=True)
    typer.echo(f"saved in {output}")


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
