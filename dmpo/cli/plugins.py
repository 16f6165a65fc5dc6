"""``dmpo plugins``: what is registered, by which package, and with which parameters."""

from __future__ import annotations

from typing import Annotated

import typer

from dmpo.cli.options import show_help

__all__ = ["app"]

app = typer.Typer(help="List and describe plugins.")
app.callback(invoke_without_command=True)(show_help)


@app.command("list")
def list_plugins() -> None:
    """Print every plugin by interface, with its package; broken ones with the reason."""
    from dmpo.objectives.presets import PRESETS
    from dmpo.registry import REGISTRIES

    for group, registry in REGISTRIES.items():
        typer.echo(group)
        broken = registry.broken()
        width = max((len(name) for name in registry.names()), default=0)
        for name, entry in registry.entries().items():
            reason = f"  BROKEN: {' '.join(broken[name].split())}" if name in broken else ""
            typer.echo(f"  {name:<{width}}  {entry.distribution}{reason}")
    typer.echo("presets of objectives")
    for name, preset in PRESETS.items():
        typer.echo(f"  {name:<{max(map(len, PRESETS))}}  {preset.objective} with parts of its own")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A registered name, in any group.")],
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
