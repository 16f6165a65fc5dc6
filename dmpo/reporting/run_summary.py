"""How a run stands, from a few of its bytes: fit for listing hundreds of runs in a moment.

Nothing here loads torch or reads a whole metrics.jsonl, and nothing disturbs a run that goes on.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import yaml

from dmpo.errors import DataError, reading_failure
from dmpo.reporting.locks import is_locked
from dmpo.training.limits import reached_limit

if TYPE_CHECKING:
    from dmpo.training.events import StopReason

__all__ = [
    "RUN_STATES",
    "RunStanding",
    "RunSummary",
    "find_runs",
    "is_run",
    "last_record",
    "read_settings",
    "run_summary",
]

RunStanding = Literal["running", "finished", "stopped", "failed", "empty"]
"""Held by a process; at its limit; to be gone on with; begun, with nothing to go on from; not
begun."""
RUN_STATES: tuple[RunStanding, ...] = get_args(RunStanding)
"""All of them."""

DEPTH = 4
"""Levels below a folder on which runs are looked for: those of a comparison lie on the fourth."""
NOT_LOOKED_INTO = frozenset({"checkpoints", "evaluations", "tensorboard", "policy"})
TAILS = (1 << 16, 1 << 20, 1 << 24)
"""Bytes of a file's end that are looked at until there is a whole line."""
_STEP = re.compile(r"step (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What a listing says of a run."""

    path: Path
    """Its directory."""
    state: RunStanding
    """How it stands."""
    stopped_by: StopReason | None
    """The limit that it reached; None: none yet."""
    task: str
    """Name of its task; of a supervised run, all of them. Empty where it is not known."""
    objective: str
    """Name of its objective; ``sft`` for a supervised run."""
    policy: str
    """Backbone and checkpoint."""
    seed: int | None
    """Seed of everything random in it."""
    step: int
    """Gradient steps taken."""
    num_steps: int | None
    """Gradient steps in all."""
    reward: float | None
    """Mean reward of the last step."""
    headline: str
    """Name of the evaluations' first figure; empty without an evaluation."""
    first_score: float | None
    """Its value in the first evaluation."""
    last_score: float | None
    """Its value in the last one."""
    model_tokens: float | None
    """Model tokens so far."""
    seconds: float | None
    """Seconds of training so far."""
    changed: float
    """When it last wrote something, in seconds since the epoch."""

    @property
    def resume(self) -> str:
        """What to type to go on with it; empty unless it is stopped."""
        if self.state != "stopped":
            return ""
        return f"dmpo train --resume {shlex.quote(str(self.path))}"


def is_run(directory: Path) -> bool:
    """Return whether a folder is a run's, even if it was killed at its very start."""
    if any((directory / name).is_file() for name in ("metrics.jsonl", "environment.json")):
        return True
    # A comparison has a lock as well, and its spec beside it.
    return (directory / ".lock").is_file() and not (directory / "spec.yaml").exists()


def find_runs(folder: Path, depth: int = DEPTH) -> list[Path]:
    """Return the runs in and below a folder, in the order of their names.

    Folders inside of a run, hidden ones and those that may not be read are left out.

    Args:
        folder: Where to look.
        depth: Levels below it.
    """
    found: dict[str, Path] = {}
    for path in _runs_below(folder, depth):
        found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
        return
    if depth == 0:
        return
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return
    for name in names:
        if name not in NOT_LOOKED_INTO and not name.startswith("."):
            yield from _runs_below(folder / name, depth - 1)


def run_summary(run: Path) -> RunSummary:
    """Return how a run stands; what cannot be read is left open.

    Args:
        run: Its directory.
    """
    try:
        settings = read_settings(run)
    except DataError:
        settings = {}
    training = _section(settings, "training")
    last = last_record(run / "metrics.jsonl") or {}
    step = _whole(last.get("step")) or 0
    scores, headline = _scores(run)
    is_supervised = "tasks" in settings
    stopped_by = _limit(last, training, is_measured=is_supervised or step in scores)
    ordered = [scores[at] for at in sorted(scores)]
    return RunSummary(
        path=run,
        state="finished" if stopped_by else _standing(run, step),
        stopped_by=stopped_by,
        task=_tasks(settings),
        objective="sft" if is_supervised else str(_section(settings, "objective").get("name", "")),
        policy=_policy(_section(settings, "policy")),
        seed=_whole(settings.get("seed")),
        step=step,
        num_steps=_whole(training.get("num_steps")),
        reward=_number(last.get("reward/mean")),
        headline=headline,
        first_score=ordered[0] if len(ordered) > 1 else None,
        last_score=ordered[-1] if ordered else None,
        model_tokens=_number(last.get("tokens/model_total")),
        seconds=_number(last.get("time/total")),
        changed=_changed(run),
    )


def read_settings(run: Path) -> dict[str, Any]:
    """Return a run's settings as config.yaml holds them; nothing if there is no such file.

    Raises:
        DataError: If it cannot be read or is no mapping.
    """
    path = run / "config.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {reading_failure(error)}.") from None
    try:
        settings = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "no settings"
        raise DataError(f"{path}: cannot be read: it is not YAML ({problem}{place}).") from None
    if not isinstance(settings, dict):
        raise DataError(f"{path}: cannot be read: it holds no settings.")
    return settings


def last_record(path: Path) -> dict[str, Any] | None:
    """Return the last whole line of a JSON-lines file, however long the file is.

    Args:
        path: Of the file; may be missing.
    """
    try:
        with path.open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            for size in TAILS:
                start = file.seek(max(0, length - size))
                # A block that begins inside the file begins inside a line.
                lines = file.read(size).split(b"\n")[1 if start else 0 :]
                found = (record for line in reversed(lines) if (record := _record(line)))
                if (record := next(found, None)) or start == 0:
                    return record
    except OSError:
        return None
    return None


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _scores(run: Path) -> tuple[dict[int, float], str]:
    """Return the headline of each evaluation by step, −1 where none is told, and its name."""
    try:
        tables = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
        scores: dict[int, float] = {}
        headline = ""
        for heading, table in tables.items():
            match = _STEP.fullmatch(heading)
            headline = headline or str(table["headline"])
            figure = table["figures"][table["headline"]]["mean"]
            scores.setdefault(int(match[1]) if match else -1, float(figure))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}, ""
    return scores, headline


def _limit(
    last: Mapping[str, Any], training: Mapping[str, Any], *, is_measured: bool
) -> StopReason | None:
    """Return the limit that a run has reached, if what comes behind the last step is done too."""
    step, num_steps = _whole(last.get("step")), _whole(training.get("num_steps"))
    if not step or num_steps is None or not is_measured:
        return None
    return reached_limit(
        step,
        num_steps=num_steps,
        updates_per_buffer=_whole(training.get("updates_per_buffer")) or 1,
        used={
            "max_model_tokens": _number(last.get("tokens/model_total")),
            "max_model_flops": _number(last.get("flops/total")),
            "max_seconds": _number(last.get("time/total")),
        },
        limits={
            "max_model_tokens": _number(training.get("max_model_tokens")),
            "max_model_flops": _number(training.get("max_model_flops")),
            "max_seconds": _number(training.get("max_seconds")),
        },
    )


def _standing(run: Path, step: int) -> RunStanding:
    if is_locked(run / ".lock"):
        return "running"
    if _has_checkpoint(run):
        return "stopped"
    has_begun = step > 0 or (run / "environment.json").is_file()
    return "failed" if has_begun else "empty"


def _has_checkpoint(run: Path) -> bool:
    try:
        names = os.listdir(run / "checkpoints")
    except OSError:
        return False
    return any(re.fullmatch(r"step-\d+", name) for name in names)


def _changed(run: Path) -> float:
    for name in ("metrics.jsonl", "environment.json", ".lock", "."):
        try:
            return (run / name).stat().st_mtime
        except OSError:
            continue
    return 0.0


def _tasks(settings: Mapping[str, Any]) -> str:
    several = settings.get("tasks")
    sections = several if isinstance(several, list) else [settings.get("task")]
    names = [section.get("name", "") for section in sections if isinstance(section, dict)]
    return ", ".join(map(str, names))


def _policy(section: Mapping[str, Any]) -> str:
    return " ".join(str(section[key]) for key in ("name", "model") if section.get(key))


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = settings.get(name)
    return section if isinstance(section, dict) else {}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
