"""``dmpo doctor``: what this machine can do, and what would help."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dmpo.cli.options import Debug

if TYPE_CHECKING:
    from dmpo.doctor.base import Advice, Check, Report, State

__all__ = ["doctor"]

AREAS = {
    "packages": "Packages",
    "devices": "Devices",
    "kernels": "Kernels and back ends",
    "network": "Hub",
    "system": "System",
}
MARKS: dict[State, str] = {"ok": "ok", "absent": "-", "warning": "!", "failed": "FAILED"}
STYLES: dict[State, str] = {"ok": "green", "absent": "dim", "warning": "yellow", "failed": "red"}
"""A state is a word as well as a colour."""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    no_network: Annotated[
        bool, typer.Option("--no-network", help="Do not ask whether the hub answers.")
    ] = False,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough", help="Also compile a layer, and rehearse `dmpo train`: minutes."
        ),
    ] = False,
    debug: Debug = False,  # noqa: ARG001  (read by main)
) -> None:
    """Try out what training needs on this machine: packages, devices, kernels, hub, system.

    Attention kernels, 4 bits, mixed precision and back ends are tried, each in a process that
    may crash. Says what is wrong with a command that mends it, and what would make training
    faster. Nothing is written. Exits with 0 if training can run here, with 1 if not.
    """
    from dataclasses import asdict

    from rich.console import Console

    from dmpo.doctor.examination import examine

    console = Console(stderr=True)
    with console.status("examining") as status:
        report = examine(
            asks_network=not no_network,
            is_thorough=thorough,
            on_begin=lambda name: status.update(f"trying {name}"),
        )
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        _print_table(report)
    else:
        _print_lines(report)
    if not report.can_train:
        raise typer.Exit(1)


def _print_table(report: Report) -> None:
    """Print a table for each area, in colour, as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for title, checks in _areas(report):
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        width = max((len(c.name) for c in report.checks), default=0)
        table.add_column(width=max(map(len, MARKS.values())))
        table.add_column(width=width, no_wrap=True)
        table.add_column(overflow="fold")
        for check in checks:
            mark = Text(MARKS[check.state], style=STYLES[check.state])
            table.add_row(mark, Text(check.name), Text(check.detail))
        console.print(Text(title, style="bold"))
        console.print(table)
        console.print()
    for title, advice in _advice(report):
        console.print(Text(title, style="bold"))
        for each in advice:
            console.print(Text(f"- {each.text}"))
            if each.command:
                console.print(Text(f"    {each.command}", style="cyan"), soft_wrap=True)
        console.print()
    style = "bold green" if report.can_train else "bold red"
    console.print(Text(report.verdict, style=style))


def _print_lines(report: Report) -> None:
    """Print a line for each check, for a pipe or a file."""
    width = max((len(check.name) for check in report.checks), default=0)
    marks = max(map(len, MARKS.values()))
    for title, checks in _areas(report):
        typer.echo(title)
        for check in checks:
            name = f"{check.name:<{width}}"
            typer.echo(f"  {MARKS[check.state]:<{marks}}  {name}  {check.detail}")
        typer.echo()
    for title, advice in _advice(report):
        typer.echo(title)
        for each in advice:
            typer.echo(f"  - {each.text}")
            if each.command:
                typer.echo(f"      {each.command}")
        typer.echo()
    typer.echo(report.verdict)


def _areas(report: Report) -> list[tuple[str, list[Check]]]:
    """Return the areas in which something was looked at, with their titles."""
    by_area = [
        (title, [check for check in report.checks if check.area == area])
        for area, title in AREAS.items()
    ]
    return [(title, checks) for title, checks in by_area if checks]


def _advice(report: Report) -> list[tuple[str, tuple[Advice, ...]]]:
    """Return the lists of advice that are not empty, with their titles."""
    titled = [("What is wrong", report.wrong), ("What would make it faster", report.faster)]
    return [(title, advice) for title, advice in titled if advice]
