"""Experiment trackers beside metrics.jsonl: TensorBoard, Weights & Biases, Trackio, MLflow, others.

They are Accelerate's. What is added here: a tracker that is not installed is named before anything
is written, one that cannot be reached does not end the run, a resume goes on with the same remote
run and logs no step twice, and each is told how the run ended.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

from accelerate.tracking import GeneralTracker

from dmpo.errors import ConfigError
from dmpo.files import read_lines, replace_text
from dmpo.training.tracker_kinds import (
    FIELD,
    EndState,
    TrackingSettings,
    build_tracker,
    finish_tracker,
    flat_settings,
    last_step_told,
    log_values,
    remote_id,
    store_settings,
    takes_back_steps,
)

__all__ = ["Trackers"]

RECORD = "trackers.json"
"""Which remote runs a run directory belongs to, and what they have been told."""
SECONDS_TO_RETRY = 30.0
"""After a first failure; twice as long after each further one."""
MOST_SECONDS_TO_RETRY = 1800.0
LONGEST_REASON = 120
TRIES = 3
"""How often a line is tried before it is given up for the next."""
MOST_WAITING = 5000
"""Lines that wait for a tracker that cannot be reached, at most; older ones are given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What a tracker's remote run has been told by earlier processes."""

    project: str
    """Where the remote run is."""
    id: str | None = None
    """What the tracker finds it by; None: it cannot be gone on with."""
    steps: int = -1
    """Steps up to this one are there."""
    evaluations: tuple[int, ...] = ()
    """And the evaluations of these."""


@final
class Trackers:
    """The trackers of one run; only the main process has any.

    Args:
        settings: Which, and what the run is called there.
        run_directory: Read for what earlier processes of the run have logged, so this comes
            before anything in it is taken back.
        warn: Told, in a sentence, of what goes wrong; the run goes on.
        now: Clock in seconds.
    """

    def __init__(
        self,
        settings: TrackingSettings,
        run_directory: Path,
        *,
        warn: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start none yet."""
        self._settings = settings
        self._directory = run_directory
        self._warn = warn
        self._now = now
        self._told = _read_record(run_directory)
        self._outboxes: list[_Outbox] = []

    def start(self, *, first_step: int, config_text: str) -> None:
        """Open every tracker; one that has a run of this directory goes on with it.

        Args:
            first_step: Steps taken already.
            config_text: The resolved configuration, which a new remote run is told.

        Raises:
            ConfigError: If one cannot be opened for a run that begins; a resume goes on without it.
        """
        record, config = dict(self._told), flat_settings(config_text)
        try:
            for name in self._settings.trackers:
                try:
                    told = self._open(name, first_step, config)
                except Exception as error:
                    reason = f"{name} cannot be opened: {_one_line(error)}"
                    if not first_step:
                        raise ConfigError(f"{FIELD}: {reason}.") from error
                    self._warn(f"{reason}; the run goes on without it")
                else:
                    if told is not None:
                        record[name] = told
        except BaseException:
            self.close("failed")
            raise
        if record:
            values = {name: asdict(each) for name, each in record.items()}
            replace_text(self._directory / RECORD, json.dumps(values, indent=2) + "\n")

    def _open(self, name: str, first_step: int, config: Mapping[str, Any]) -> _Told | None:
        """Open a tracker and return what is to be remembered of it."""
        settings, told = self._settings, self._told.get(name)
        is_new = told is None or told.project != settings.project
        if told is None or is_new:
            told = _Told(project=settings.project)
        tracker = build_tracker(
            name,
            settings,
            self._directory,
            config=config,
            remote=told.id,
            first_step=first_step,
        )
        tracker.start()
        if takes_back_steps(tracker):
            self._outboxes.append(_Outbox(name, tracker, told, self._now))
            return None
        store_settings(tracker, config, is_new=is_new)
        if (last := last_step_told(tracker)) is not None:
            told = replace(told, steps=last)
        self._outboxes.append(_Outbox(name, tracker, told, self._now))
        return replace(told, id=remote_id(tracker))

    def log(self, values: Mapping[str, float], step: int, *, is_evaluation: bool = False) -> None:
        """Hand figures to every tracker that has not been told them before.

        Args:
            values: By name.
            step: Gradient steps taken.
            is_evaluation: Whether they are those of an evaluation.
        """
        for outbox in self._outboxes:
            if outbox.wants(step, is_evaluation=is_evaluation):
                outbox.put(values, step)
                self._send(outbox)

    def close(self, state: EndState) -> None:
        """Have the trackers write what they hold back, and tell them how the run ended."""
        outboxes, self._outboxes = self._outboxes, []
        for outbox in outboxes:
            self._send(outbox, is_last=True)
            if outbox.num_waiting or outbox.num_lost:
                count = outbox.num_waiting + outbox.num_lost
                self._warn(
                    f"{outbox.name} did not take {count} lines of figures; metrics.jsonl has them"
                )
            try:
                finish_tracker(outbox.tracker, state)
            except Exception as error:
                self._warn(f"{outbox.name} did not close: {_one_line(error)}")

    def _send(self, outbox: _Outbox, *, is_last: bool = False) -> None:
        error = outbox.send(is_last=is_last)
        if error is not None and not outbox.is_known_to_fail:
            outbox.is_known_to_fail = True
            self._warn(
                f"{outbox.name} does not take figures: {_one_line(error)}; the run goes on, and "
                "they are offered again"
            )


@final
class _Outbox:
    """One open tracker, and the lines that it has not taken yet."""

    def __init__(
        self, name: str, tracker: GeneralTracker, told: _Told, now: Callable[[], float]
    ) -> None:
        self.name = name
        self.tracker = tracker
        self.is_known_to_fail = False
        self.num_lost = 0
        self._told = told
        self._now = now
        self._waiting: deque[tuple[dict[str, float], int]] = deque()
        self._num_failures = 0
        self._num_tries = 0
        self._not_before = float("-inf")

    @property
    def num_waiting(self) -> int:
        """Lines that are still here."""
        return len(self._waiting)

    def wants(self, step: int, *, is_evaluation: bool) -> bool:
        """Return whether the remote run has not been told this before."""
        if is_evaluation:
            return step not in self._told.evaluations
        return step > self._told.steps

    def put(self, values: Mapping[str, float], step: int) -> None:
        """Add a line."""
        self._waiting.append((dict(values), step))
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self.num_lost += 1

    def send(self, *, is_last: bool = False) -> Exception | None:
        """Offer the lines in their order, unless it is too early to try again."""
        if not is_last and self._now() < self._not_before:
            return None
        while self._waiting:
            values, step = self._waiting[0]
            try:
                log_values(self.tracker, values, step)
            except Exception as error:
                self._num_failures += 1
                self._num_tries += 1
                pause = SECONDS_TO_RETRY * 2 ** min(10, self._num_failures - 1)
                self._not_before = self._now() + min(MOST_SECONDS_TO_RETRY, pause)
                if self._num_tries == TRIES:
                    # Something in this line may be what the tracker does not take.
                    self._waiting.popleft()
                    self.num_lost += 1
                    self._num_tries = 0
                return error
            self._waiting.popleft()
            self._num_failures = self._num_tries = 0
        return None


def _read_record(run_directory: Path) -> dict[str, _Told]:
    """Return what each tracker has been told; nothing of a record that is damaged."""
    try:
        values = json.loads((run_directory / RECORD).read_text(encoding="utf-8"))
        record = {
            name: _Told(**{**each, "evaluations": tuple(each["evaluations"])})
            for name, each in values.items()
        }
        steps, evaluations = _logged(run_directory)
        return {
            name: replace(
                each,
                steps=max(each.steps, steps),
                evaluations=tuple(sorted({*each.evaluations, *evaluations})),
            )
            for name, each in record.items()
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}


def _logged(run_directory: Path) -> tuple[int, set[int]]:
    """Return the last step of metrics.jsonl (−1: none), and the steps that were evaluated."""
    path, last = run_directory / "metrics.jsonl", -1
    for line in reversed(read_lines(path) if path.exists() else []):
        try:
            last = int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue  # a last line that a kill has cut
        break
    found = (run_directory / "evaluations").glob("step-*.jsonl")
    return last, {int(path.stem.removeprefix("step-")) for path in found}


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    text = text or type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"
