"""STUB (signatures are final): what a person sees while a run goes on."""

from __future__ import annotations

from typing import final

from rich.console import Console

from dmpo.training.events import Event

__all__ = ["LiveView", "PlainView"]


@final
class LiveView:
    """For terminals; use as a context manager so that an exception leaves the screen tidy."""

    def __init__(self, console: Console) -> None: ...
    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, *exception: object) -> None: ...
    def notify(self, event: Event) -> None: ...


@final
class PlainView:
    """For logs and pipes: one short line per buffer."""

    def __init__(self, console: Console) -> None: ...
    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *exception: object) -> None: ...
    def notify(self, event: Event) -> None: ...
