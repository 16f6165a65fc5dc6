"""``dmpo recipes``: ready-made settings, by name."""

from __future__ import annotations

from typing import Annotated

import typer

from dmpo.cli.completion import recipes
from dmpo.cli.options import Context

__all__ = ["app"]

app = typer.Typer(help="List and show ready-made settings, which --recipe takes by name.")


@app.callback(invoke_without_command=True)
def _list(context: Context) -> None:
    if context.invoked_subcommand is not None:
        return
    from dmpo.config.recipes import recipe_summaries

    found = recipe_summaries()
    rows = [(r.name, r.policy, r.task, r.hardware or "any", r.purpose) for r in found]
    for row in _aligned([("name", "policy", "task", "made for", "what it is"), *rows]):
        typer.echo(row)


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A recipe's name, or a part's: parts/task_gsm8k.", autocompletion=recipes
        ),
    ],
) -> None:
    """Print a recipe as its file has it.

    `dmpo config show --recipe NAME` prints the settings that come of it, defaults included.
    """
    from dmpo.config.recipes import recipe_path

    typer.echo(recipe_path(name).read_text(encoding="utf-8"), nl=False)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
