"""Trackers as a user might write them: subclasses of Accelerate's base class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker


class Noted(GeneralTracker):
    """Writes a line for everything it is told."""

    name = "noted"
    requires_logging_directory = True

    def __init__(self, project: str, logging_dir: str) -> None:
        super().__init__()
        self.project = project
        self.path = Path(logging_dir) / "noted.jsonl"

    @property
    def tracker(self) -> Path:
        return self.path

    def note(self, *said: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(said) + "\n")

    def start(self) -> None:
        self.note("start", self.project)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.note("config", values)

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        self.note("log", step, sorted(values))

    def finish(self) -> None:
        self.note("finish")


class Unreachable(GeneralTracker):
    """Takes nothing at all."""

    name = "unreachable"
    requires_logging_directory = False

    def __init__(self, project: str) -> None:
        super().__init__()

    @property
    def tracker(self) -> None:
        return None

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        raise ConnectionError("no route to host")

    def finish(self) -> None:
        raise ConnectionError("no route to host")


class Closed(Unreachable):
    """Does not even open."""

    def start(self) -> None:
        raise PermissionError("no key\nis known")


class Nameless(GeneralTracker):
    """Lacks what every tracker has to have."""
