"""Messages of ``dmpo generate --chat``, from a terminal or a pipe."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator

import typer

__all__ = ["is_conversation", "messages"]

PROMPT = "> "
QUIT = "/quit"


def is_conversation() -> bool:
    """Return whether somebody sits at a terminal and types."""
    return sys.stdin.isatty()


def messages() -> Iterator[str]:
    """Yield one message per line until the input ends or says ``/quit``.

    A terminal is shown where to type, and an empty line ends there, too; in a pipe it is passed
    over.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    lines = _typed() if is_conversation() else _piped()
    for line in lines:
        if line.strip() == QUIT:
            return
        yield line


def _piped() -> Iterator[str]:
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\n")


def _typed() -> Iterator[str]:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() arrow keys and a history)
    typer.echo(f"Each message stands alone. An empty line, {QUIT} or Ctrl-D ends.", err=True)
    while True:
        try:
            line = _asked()
        except EOFError:
            typer.echo(err=True)
            return
        if not line.strip():
            return
        yield line


def _asked() -> str:
    if sys.stdout.isatty():
        return input(PROMPT)
    # What is piped on holds answers alone.
    typer.echo(PROMPT, nl=False, err=True)
    return input()
