"""``dmpo version``."""

from __future__ import annotations

import platform
from importlib import metadata

import typer

__all__ = ["version"]


def version() -> None:
    """Print the versions of dmpo and what it stands on."""
    typer.echo(f"dmpo {metadata.version('dmpo-dllm')}")
    typer.echo(f"python {platform.python_version()}")
    for package in ("torch", "transformers"):
        try:
            typer.echo(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            typer.echo(f"{package} not installed")
