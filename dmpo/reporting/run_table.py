"""Runs as a listing: lines of a terminal, or JSON; nothing here loads torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from dmpo.errors import UnknownNameError
from dmpo.reporting.numbers import duration_text
from dmpo.reporting.run_summary import RUN_STATES, RunSummary
from dmpo.reporting.visible import visible

__all__ = ["SORTS", "chosen_summaries", "runs_json", "runs_table"]

_Key = Callable[[RunSummary], Any]

SORTS: Final[Mapping[str, _Key]] = {
    "newest": lambda run: -run.changed,
    "name": lambda run: str(run.path),
    "state": lambda run: RUN_STATES.index(run.state),
    "score": lambda run: -_or_least(run.last_score),
    "reward": lambda run: -_or_least(run.reward),
    "steps": lambda run: -run.step,
    "time": lambda run: -_or_least(run.seconds),
}
"""By what runs are sorted, the largest first; runs that are alike there: the newest first."""

GAP = "  "
ABSENT = "–"
LEFT_OUT_FIRST = ("trained", "objective", "task", "reward", "changed", "steps", "score")
"""Columns that a narrow terminal does without, in this order."""
SHORTEST_NAME = 16
"""Characters that a run's path keeps at least."""


def chosen_summaries(
    summaries: Sequence[RunSummary], *, sort: str, states: Collection[str]
) -> list[RunSummary]:
    """Return runs of some states, in an order.

    Args:
        summaries: All of them.
        sort: A key of :data:`SORTS`.
        states: Of :data:`RUN_STATES`; none: all of them.

    Raises:
        UnknownNameError: If there is no such order or state.
    """
    if sort not in SORTS:
        raise UnknownNameError("--sort", sort, SORTS)
    for state in states:
        if state not in RUN_STATES:
            raise UnknownNameError("--state", state, RUN_STATES)
    kept = [run for run in summaries if not states or run.state in states]
    return sorted(sorted(kept, key=SORTS["newest"]), key=SORTS[sort])


def runs_table(summaries: Sequence[RunSummary], *, now: float, width: int | None) -> list[str]:
    """Return a line for each run, below a line of headings; aligned, without colours.

    Args:
        summaries: In their order.
        now: Seconds since the epoch.
        width: Columns of the terminal; None: as many as are needed.
    """
    rows = [_cells(run, now) for run in summaries]
    names = list(rows[0]) if rows else []
    table = [{name: name for name in names}, *rows]
    widths = {name: max(len(row[name]) for row in table) for name in names}
    if width is not None:
        for name in LEFT_OUT_FIRST:
            if _whole_width(widths) > width and name in widths:
                del widths[name]
        if (excess := _whole_width(widths) - width) > 0:
            widths["run"] = max(SHORTEST_NAME, widths["run"] - excess)
    return [
        GAP.join(_fitted(row[name], size) for name, size in widths.items()).rstrip()
        for row in table
    ]


def runs_json(summaries: Sequence[RunSummary]) -> str:
    """Return all that is known of each run, as a JSON list."""
    records = [
        {**asdict(run), "path": visible(str(run.path)), "resume": run.resume or None}
        for run in summaries
    ]
    return json.dumps(records, indent=2, ensure_ascii=False)


def _cells(run: RunSummary, now: float) -> dict[str, str]:
    steps = f"{run.step}" + (f"/{run.num_steps}" if run.num_steps else "")
    return {
        "run": visible(str(run.path)).replace("\n", "␊"),
        "state": run.state,
        "task": visible(run.task) or ABSENT,
        "objective": visible(run.objective) or ABSENT,
        "steps": steps,
        "reward": ABSENT if run.reward is None else f"{run.reward:.3g}",
        "score": _score(run),
        "trained": ABSENT if run.seconds is None else duration_text(run.seconds),
        "changed": f"{duration_text(max(0.0, now - run.changed))} ago",
    }


def _score(run: RunSummary) -> str:
    if run.last_score is None:
        return ABSENT
    first = "" if run.first_score is None else f"{run.first_score:.3f} → "
    return f"{visible(run.headline)} {first}{run.last_score:.3f}"


def _whole_width(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + len(GAP) * (len(widths) - 1)


def _fitted(text: str, width: int) -> str:
    """Return text in so many characters; of longer text the end, which tells paths apart."""
    return text.ljust(width) if len(text) <= width else "…" + text[len(text) - width + 1 :]


def _or_least(value: float | None) -> float:
    return float("-inf") if value is None else value
