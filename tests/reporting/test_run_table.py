from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dmpo.errors import UnknownNameError
from dmpo.reporting.run_summary import RunSummary
from dmpo.reporting.run_table import chosen_summaries, runs_json, runs_table

RUN = RunSummary(
    path=Path("runs/first"),
    state="finished",
    stopped_by="num_steps",
    task="sudoku",
    objective="dmpo",
    policy="llada tiny",
    seed=0,
    step=96,
    num_steps=96,
    reward=0.9,
    headline="cells",
    first_score=0.57,
    last_score=0.938,
    model_tokens=5e5,
    seconds=23.0,
    changed=100.0,
)


def run(name: str, **changes: Any) -> RunSummary:
    return replace(RUN, path=Path(name), **changes)


def names(runs: list[RunSummary]) -> list[str]:
    return [str(each.path) for each in runs]


def test_table_is_aligned_plain_text() -> None:
    other = run("b", state="empty", step=0, reward=None, last_score=None, seconds=None, changed=0.0)
    assert runs_table([RUN, other], now=160.0, width=None) == [
        "run         state     task    objective  steps  reward  score                trained  "
        "changed",
        "runs/first  finished  sudoku  dmpo       96/96  0.9     cells 0.570 → 0.938  23 s     "
        "60 s ago",
        "b           empty     sudoku  dmpo       0/96   –       –                    –        "
        "3 min ago",
    ]


@pytest.mark.parametrize("width", [100, 80, 60, 40, 30])
def test_table_fits_the_terminal(width: int) -> None:
    lines = runs_table([RUN, run("a/very/long/path/" * 3 + "seed-0")], now=160.0, width=width)
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("run ")
    assert all("finished" in line for line in lines[1:])
    assert "seed-0 " in lines[2]


def test_names_cannot_break_the_table() -> None:
    lines = runs_table([run("a\nb\x1b[31m\u202e")], now=0.0, width=None)
    assert len(lines) == 2
    assert lines[1].startswith("a␊b␛[31m⟨U+202E⟩")


def test_runs_are_sorted_and_those_alike_by_age() -> None:
    runs = [
        run("old", changed=1.0, last_score=0.5),
        run("new", changed=3.0, last_score=0.5, state="stopped"),
        run("none", changed=2.0, last_score=None),
    ]
    assert names(chosen_summaries(runs, sort="newest", states=())) == ["new", "none", "old"]
    assert names(chosen_summaries(runs, sort="score", states=())) == ["new", "old", "none"]
    assert names(chosen_summaries(runs, sort="name", states=["finished"])) == ["none", "old"]


@pytest.mark.parametrize(
    ("sort", "states", "message"),
    [("scores", [], "--sort: .*Did you mean 'score'"), ("name", ["stop"], "--state: .*'stopped'")],
)
def test_unknown_orders_and_states_are_refused(sort: str, states: list[str], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        chosen_summaries([RUN], sort=sort, states=states)


def test_json_says_everything_and_what_to_type() -> None:
    (first, second) = json.loads(runs_json([RUN, run("a b", state="stopped")]))
    assert (first["path"], first["state"], first["resume"]) == ("runs/first", "finished", None)
    assert second["resume"] == "dmpo train --resume 'a b'"
