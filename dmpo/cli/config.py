"""``dmpo config``: look at settings without running anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dmpo.cli.commands import LightCommand
from dmpo.cli.options import (
    SETTINGS_CONTEXT,
    ConfigFile,
    Context,
    Recipe,
    Sets,
    command_layer,
    path,
    settings_layers,
    show_help,
)
from dmpo.config.layers import Tree

__all__ = ["app"]

app = typer.Typer(help="Show, describe and check settings.")
app.callback(invoke_without_command=True)(show_help)


@app.command("show", cls=LightCommand, context_settings=SETTINGS_CONTEXT)
def show(
    context: Context,
    recipe: Recipe = None,
    config: ConfigFile = None,
    sets: Sets = None,
) -> None:
    """Print the complete settings as YAML, with where each value came from.

    Takes every settings flag of `dmpo train`.
    """
    from dmpo.config.overrides import SETTING_FLAGS
    from dmpo.config.run import DEFAULT_RECIPE, RunConfig, SftConfig
    from dmpo.config.yaml_text import yaml_with_comments

    layers, _, _ = settings_layers(recipe, config, default_recipe=DEFAULT_RECIPE)
    sections = (*RunConfig.model_fields, *SftConfig.model_fields)
    layers.append(command_layer(context, sections=sections, sets=sets, named=SETTING_FLAGS))
    resolved = _resolve(layers)
    typer.echo(yaml_with_comments(resolved.plain(), resolved.provenance), nl=False)


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of `dmpo train`'s settings, every plugin's parameters included."""
    from dmpo.config.schema import run_schema

    typer.echo(json.dumps(run_schema(), indent=2, ensure_ascii=False))


@app.command("validate")
def validate(
    file: Annotated[
        Path, typer.Argument(parser=path, metavar="FILE", help="A YAML file of settings.")
    ],
) -> None:
    """Check a settings file, with what it extends."""
    from dmpo.config.recipes import file_chain

    _resolve(list(file_chain(file).layers))
    typer.echo(f"{file}: valid")


def _resolve(layers: list[Tree]) -> Any:
    """Read settings with `tasks` as those of `dmpo sft`, others as those of `dmpo train`."""
    from dmpo.config.resolve import resolve_run, resolve_sft

    is_sft = any(isinstance(layer, dict) and "tasks" in layer for layer in layers)
    return resolve_sft(layers) if is_sft else resolve_run(layers)
