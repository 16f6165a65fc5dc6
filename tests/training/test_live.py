from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from dmpo.evaluation.figures import summarize
from dmpo.evaluation.summary import EvaluationResult
from dmpo.training.events import (
    BufferFilled,
    EvaluationDone,
    Event,
    Finished,
    Started,
    StepDone,
    UnmaskedSample,
)
from dmpo.training.live import (
    ASCII,
    UNICODE,
    LiveView,
    PlainView,
    clock,
    glyphs_for,
    revealed,
    sparkline,
)
from tests.training.runs import Recorder, small_trainer

SAMPLE = UnmaskedSample(prompt="12!34=", tokens=("5", "é", "7"), commit_steps=(2, 0, 1), reward=0.5)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    recorder = Recorder()
    small_trainer(tmp_path_factory.mktemp("run"), observers=[recorder]).train()
    result = EvaluationResult(
        split="test",
        headline="right",
        accuracy=0.5,
        accuracy_interval=(0.0, 1.0),
        figures={"right": summarize([[1.0], [0.0]])},
        num_examples=2,
        samples_per_prompt=1,
        response_length=4.0,
        distinct_right=None,
        num_forwards=4,
        seconds=1.0,
        tokens_per_second=8.0,
        completions=(),
    )
    return [*recorder.events, EvaluationDone(step=6, result=result)]


def _console(encoding: str = "utf-8", **options: object) -> tuple[Console, io.BytesIO]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    return Console(file=file, **options), raw  # type: ignore[arg-type]


def test_plain_view_prints_short_lines_without_control_codes(events: list[Event]) -> None:
    console, raw = _console("ascii", width=200)
    with PlainView(console) as view:
        for event in events:
            view.notify(event)
    text = raw.getvalue().decode("ascii")
    lines = [line for line in text.splitlines() if line.startswith("step")]
    assert text.replace("\n", "").isprintable()
    assert [line.split()[1] for line in lines] == ["1/6", "5/6", "6"]
    assert all(len(line) <= 100 for line in lines)
    assert "left" in lines[0]
    assert lines[-1].startswith("step 6  test right 0.500 [")


def test_plain_view_prints_steps_where_there_are_no_buffers() -> None:
    console, raw = _console()
    view = PlainView(console)
    for step in (1, 2):
        metrics = {"loss/total": 0.5}
        view.notify(
            StepDone(step=step, num_steps=2, metrics=metrics, seconds=1.0, seconds_left=61.0)
        )
    assert raw.getvalue().decode().splitlines()[0] == "step 1/2  loss 0.5  1:01 left"
    assert len(raw.getvalue().splitlines()) == 2


def test_plain_view_survives_a_line_that_the_console_cannot_write(events: list[Event]) -> None:
    console, raw = _console("ascii")
    filled = next(event for event in events if isinstance(event, BufferFilled))
    PlainView(console).notify(replace(filled, warnings=("läuft",)))
    assert b"l?uft" in raw.getvalue()


@pytest.mark.parametrize("width", [20, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_live_view_fits_the_terminal(events: list[Event], width: int, encoding: str) -> None:
    console, raw = _console(encoding, width=width, force_terminal=True, color_system=None)
    view = LiveView(console, now=Clock())
    for event in events:
        if not isinstance(event, Started | Finished):
            view.notify(event)
    with console.capture() as captured:
        console.print(view.render())
    lines = captured.get().splitlines()
    captured.get().encode(encoding)
    assert len(lines) > 5
    assert all(cell_len(line) <= width for line in lines)
    assert any(line.startswith("step 6/6") for line in lines)
    assert any(line.startswith("reward") for line in lines)
    assert raw.getvalue()  # the evaluation stays above


def test_live_view_leaves_a_tidy_terminal_after_an_exception(events: list[Event]) -> None:
    console, raw = _console(width=80, force_terminal=True)
    with contextlib.suppress(KeyboardInterrupt), LiveView(console) as view:
        view.notify(events[1])
        raise KeyboardInterrupt
    text = raw.getvalue().decode()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is back


def test_live_view_unmasks_a_rollout_step_by_step(events: list[Event]) -> None:
    now = Clock()
    console, _ = _console(width=40)
    view = LiveView(console, now=now)
    filled = next(event for event in events if isinstance(event, BufferFilled))
    view.notify(
        BufferFilled(step=0, experience=filled.experience, metrics=filled.metrics, sample=SAMPLE)
    )
    frames = []
    for now.now in (0.1, 0.3, 0.6, 0.9):
        with console.capture() as captured:
            console.print(view.render())
        frames.append(captured.get().splitlines()[-2])
    assert frames == ["░░░", "░é░", "░é7", "5é7"]


def test_tokens_are_hidden_until_their_step() -> None:
    assert [revealed(SAMPLE, step, "_") for step in range(4)] == ["___", "_é_", "_é7", "5é7"]


def test_glyphs_are_ascii_where_the_encoding_is() -> None:
    assert glyphs_for("utf-8") is UNICODE
    assert glyphs_for("ascii") is glyphs_for("latin-1") is glyphs_for(None) is ASCII
    assert glyphs_for("no such encoding") is ASCII


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), width=st.integers(1, 60))
def test_sparkline_shows_the_last_values_between_their_extremes(
    values: list[float], width: int
) -> None:
    shown = values[-width:]
    line = sparkline(values, width, UNICODE.levels)
    assert len(line) == len(shown)
    if max(shown) > min(shown):
        assert line[shown.index(max(shown))] == "█"
        assert line[shown.index(min(shown))] == "▁"


def test_clock_reads_as_people_write_time() -> None:
    assert [clock(s) for s in (-1.0, 9.0, 75.0, 3661.0)] == ["0:00", "0:09", "1:15", "1:01:01"]
