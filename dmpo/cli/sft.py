"""``dmpo sft``."""

from __future__ import annotations

from typing import Annotated

import typer

from dmpo.cli.completion import registered
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
    settings_layers,
)
from dmpo.config.places import run_directory

__all__ = ["sft"]


def sft(
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
    seed: Seed = None,
    steps: Steps = None,
    output: Output = None,
    debug: Debug = False,  # noqa: ARG001  (read by main)
) -> None:
    """Train a policy to answer as the demonstrations of tasks do; makes the tiny LLaDA."""
    from rich.console import Console

    from dmpo.cli.results import say, say_stopping
    from dmpo.config.assembly import build_policy, build_sft_tasks, place_on_accelerator
    from dmpo.config.overrides import SETTING_FLAGS
    from dmpo.config.preflight import check_sft_tasks
    from dmpo.config.ranks import is_main_process
    from dmpo.config.resolve import resolve_sft
    from dmpo.config.run import DEFAULT_SFT_RECIPE, SftConfig
    from dmpo.config.yaml_text import yaml_text
    from dmpo.evaluation.table import evaluation_table
    from dmpo.training.interruption import Interruption
    from dmpo.training.live import PlainView
    from dmpo.training.sft import SftTrainer

    values = {"--policy": policy, "--model": model, "--seed": seed, "--steps": steps}
    layer = command_layer(
        context,
        sections=tuple(SftConfig.model_fields),
        sets=sets,
        flags={flag: (SETTING_FLAGS[flag], value) for flag, value in values.items()},
    )
    layers, label, description = settings_layers(recipe, config, default_recipe=DEFAULT_SFT_RECIPE)
    directory = run_directory(output, label)
    resolved = resolve_sft([*layers, layer])
    settings = resolved.config
    tasks = build_sft_tasks(settings)
    if is_main_process():
        say("recipe", label + (f": {description}" if description else ""))
        say("tasks", ", ".join(task.name for task in tasks))
        say("output", str(directory))
    built = build_policy(settings.policy)
    check_sft_tasks(built, settings, tasks)
    place_on_accelerator(built)
    if is_main_process():
        say("policy", built.describe())
    console = Console(highlight=False)
    with Interruption(say_stopping) as interruption:
        trainer = SftTrainer(
            built,
            tasks,
            settings.training,
            seed=settings.seed,
            output=directory,
            observers=(PlainView(console),),
            interruption=interruption,
            config_text=yaml_text(resolved.plain()),
        )
        results = trainer.train()
    if is_main_process():
        for name, result in results.items():
            console.print(evaluation_table({name: result}))
        if interruption.signal is not None:
            say("stopped", "the policy is saved as it was; fine-tuning does not go on from it")
        say("saved in", str(directory))
