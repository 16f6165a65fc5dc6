"""``dmpo plugins``: what is registered and by whom, its parameters, and a package to begin with."""

from __future__ import annotations

import shlex
import shutil
import sys
from typing import Annotated

import typer

from dmpo.cli.completion import plugins
from dmpo.cli.options import Output, show_help

__all__ = ["app"]

app = typer.Typer(help="List and describe plugins, and begin one.")
app.callback(invoke_without_command=True)(show_help)


@app.command("list")
def list_plugins(
    kind: Annotated[
        str | None,
        typer.Option(
            help="One interface alone: policy, sampler, task, reward, likelihood, weights, "
            "baseline or objective."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Print every plugin by interface: name, package and what it is; below, what cannot be used.

    Every installed plugin is imported to find out.
    """
    from dmpo.plugins.listing import listed_plugins, listing_json, listing_text

    listing = listed_plugins(kind)
    if as_json:
        typer.echo(listing_json(listing))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in listing_text(listing, width=width):
        typer.echo(line)


@app.command("show")
def show(
    name: Annotated[
        str, typer.Argument(help="A registered name, in any group.", autocompletion=plugins)
    ],
) -> None:
    """Print a plugin's parameters: type, default and meaning."""
    from dmpo.config.describe import describe_plugin, describe_preset
    from dmpo.errors import UnknownNameError
    from dmpo.objectives.presets import PRESETS
    from dmpo.registry import REGISTRIES

    found = [registry for registry in REGISTRIES.values() if name in registry.names()]
    if name in PRESETS:
        typer.echo(describe_preset(name))
        return
    if not found:
        names = {name for registry in REGISTRIES.values() for name in registry.names()} | {*PRESETS}
        raise UnknownNameError("plugin", name, names)
    typer.echo("\n\n".join(describe_plugin(registry, name) for registry in found))


@app.command("new")
def new(
    kind: Annotated[
        str,
        typer.Argument(
            help="policy, sampler, task, reward, likelihood, weights, baseline or objective."
        ),
    ],
    name: Annotated[str, typer.Argument(help="What users are to type: my_reward.")],
    output: Output = None,
) -> None:
    """Write a package with a small working plugin and its tests, to change into your own.

    It lies in dmpo-NAME, or in --output.
    """
    from pathlib import Path

    from dmpo.plugins.scaffold import scaffold, write_scaffold

    made = scaffold(kind, name)
    directory = Path(made.package) if output is None else output
    write_scaffold(made, directory)
    typer.echo(f"wrote {directory}: {made.kind.called} that works, and its tests")
    for path in sorted(made.files):
        typer.echo(f"  {path}")
    typer.echo("next:")
    place = shlex.quote(str(directory))
    for command in (
        f"pip install -e {shlex.quote(f'{directory}[dev]')}",
        f"pytest {place}",
        f"dmpo train {made.flag} {made.name} --steps 4",
    ):
        typer.echo(f"  {command}")
