from __future__ import annotations

import contextlib
import io
import re
from dataclasses import replace
from typing import Any

import pytest
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
from dmpo.training.live import LiveView, PlainView
from dmpo.training.live_layout import column_count
from tests.training.runs import Recorder, small_trainer

SAMPLE = UnmaskedSample(prompt="12!34=", tokens=("5", "é", "7"), commit_steps=(2, 0, 1), reward=0.5)
SIZES = [(160, 50), (100, 24), (80, 24), (60, 40), (40, 24), (40, 12), (20, 6), (20, 2)]


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def evaluation(step: int, right: float) -> EvaluationDone:
    result = EvaluationResult(
        split="test",
        headline="right",
        accuracy=right,
        accuracy_interval=(0.0, 1.0),
        figures={"right": summarize([[right], [right]])},
        num_examples=2,
        samples_per_prompt=1,
        response_length=4.0,
        distinct_right=None,
        num_forwards=4,
        seconds=1.0,
        tokens_per_second=8.0,
        completions=(),
    )
    return EvaluationDone(step=step, result=result)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    recorder = Recorder()
    small_trainer(tmp_path_factory.mktemp("run"), observers=[recorder]).train()
    return [*recorder.events, evaluation(6, 0.5)]


def _console(encoding: str = "utf-8", **options: Any) -> tuple[Console, io.BytesIO]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    return Console(file=file, **options), raw


def _drawn(view: LiveView, console: Console) -> list[str]:
    with console.capture() as captured:
        console.print(view.render())
    captured.get().encode(console.encoding)
    return captured.get().splitlines()


def _view(events: list[Event], *, encoding: str = "utf-8", width: int = 120, height: int = 50):
    console, raw = _console(
        encoding, width=width, height=height, force_terminal=True, color_system=None
    )
    view = LiveView(console, now=Clock())
    for event in events:
        view.notify(event)
    return view, console, raw


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
    assert re.fullmatch(
        r"step 1/6  reward \S+  ESS \S+  entropy \S+  loss \S+  tokens/s \S+  0:\d\d left", lines[0]
    )
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


def test_time_left_counts_evaluations_once_one_was_made(events: list[Event]) -> None:
    step = next(event for event in events if isinstance(event, StepDone))
    known = replace(step, seconds_left=60.0, evaluation_seconds_left=30.0)
    for event, said in (
        (known, "about 1:30 left, evaluations included"),
        (replace(known, evaluation_seconds_left=None), "about 1:00 left to train"),
    ):
        view, console, _ = _view([event])
        assert said in _drawn(view, console)[1]


def test_plain_view_survives_a_line_that_the_console_cannot_write(events: list[Event]) -> None:
    console, raw = _console("ascii")
    filled = next(event for event in events if isinstance(event, BufferFilled))
    PlainView(console).notify(replace(filled, warnings=("läuft",)))
    assert b"l?uft" in raw.getvalue()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("num_events", [0, 2, 99])
def test_live_view_fits_the_terminal(
    events: list[Event], size: tuple[int, int], encoding: str, num_events: int
) -> None:
    width, height = size
    view, console, _ = _view(events[:num_events], encoding=encoding, width=width, height=height)
    lines = _drawn(view, console)
    assert 1 <= len(lines) < height
    assert max(map(cell_len, lines)) <= width
    view.__exit__()
    lines = _drawn(view, console)
    assert 1 <= len(lines) < height
    assert max(map(cell_len, lines)) <= width


def test_wide_terminal_shows_everything_in_columns(events: list[Event]) -> None:
    told = [events[0], evaluation(0, 0.25), *events[1:-2], events[-1]]
    view, console, raw = _view(told)
    lines = _drawn(view, console)
    text = "\n".join(lines)
    assert lines[1].startswith("step 6/6 · ")
    assert "Ctrl-C saves and stops" in lines[-1]
    for title in ("reward", "weights", "rollouts", "optimizer", "time", "a rollout · reward"):
        assert f"╭─ {title}" in text
    for name in ("total", "ESS", "real weight", "noise, spread", "entropy", "distinct right"):
        assert f"│ {name}" in text
    for name in ("pass@4", "loss", "gradient norm", "KL, reference", "rollout ", "test right"):
        assert f"│ {name}" in text
    assert "+0.250 from step 0 to 6" in text
    assert b"step 6  test right 0.500" in raw.getvalue()  # it stays above
    assert [column_count(width) for width in (40, 100, 160)] == [1, 2, 3]


def test_narrow_terminal_stacks_what_it_has_room_for(events: list[Event]) -> None:
    view, console, _ = _view(events, width=40, height=24)
    titles = [line.split()[0] for line in _drawn(view, console) if "───" in line]
    assert titles == ["reward", "weights", "rollouts", "optimizer", "time", "a"]


def test_each_reward_has_a_line_of_its_own(events: list[Event]) -> None:
    filled = next(event for event in events if isinstance(event, BufferFilled))
    named = {f"reward/component/{name}": 0.25 for name in ("format", "length")}
    told = replace(filled, metrics={**filled.metrics, **named})
    view, console, _ = _view([told, told])
    text = "\n".join(_drawn(view, console))
    assert re.search(r"format +0\.25 +▁▁", text)
    assert re.search(r"length +0\.25 +▁▁", text)


def test_noise_that_wins_over_the_reward_is_marked(events: list[Event]) -> None:
    filled = next(event for event in events if isinstance(event, BufferFilled))
    noise = {"log_ratio/standard_error": 2.0, "log_ratio/reward_spread": 0.5}
    view, console, _ = _view([replace(filled, metrics={**filled.metrics, **noise})])
    assert "2 > 0.5 nats  NOISE WINS" in "\n".join(_drawn(view, console))
    noise["log_ratio/standard_error"] = 0.1
    view, console, _ = _view([replace(filled, metrics={**filled.metrics, **noise})])
    assert "0.1 < 0.5 nats" in "\n".join(_drawn(view, console))
    assert "NOISE" not in "\n".join(_drawn(view, console))


def test_live_view_leaves_a_tidy_terminal_after_an_exception(events: list[Event]) -> None:
    console, raw = _console(width=80, force_terminal=True)
    with contextlib.suppress(KeyboardInterrupt), LiveView(console) as view:
        for event in events[:3]:
            view.notify(event)
        raise KeyboardInterrupt
    text = raw.getvalue().decode()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is back
    assert "ended after step 1" in text


def test_screen_appears_with_the_first_event(events: list[Event]) -> None:
    console, raw = _console(width=80, force_terminal=True)
    with LiveView(console) as view:
        assert raw.getvalue() == b""  # a tracker may ask for a key before
        view.notify(events[0])
        assert b"\x1b[?25l" in raw.getvalue()


def test_summary_stays_in_the_end(events: list[Event]) -> None:
    console, raw = _console(width=80, height=30, force_terminal=True, color_system=None)
    with LiveView(console) as view:
        for event in events[:-1]:
            view.notify(event)
    last = raw.getvalue().decode().rpartition("╭")[2]
    assert "finished: 6 steps in 0:0" in last
    assert re.search(r"reward +\S+ → \S+ ", last)
    assert "Ctrl-C" not in last


def test_signal_is_answered_at_the_foot_of_the_screen(events: list[Event]) -> None:
    view, console, _ = _view(events[:3])
    view.say_stopping("SIGINT")
    assert _drawn(view, console)[-1].startswith("SIGINT: finishing this step, then saving; Ctrl-C")


def test_colours_need_a_terminal_that_wants_them(
    events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def written() -> str:
        console, raw = _console(width=80, height=30, force_terminal=True)
        view = LiveView(console)
        for event in events[:3]:
            view.notify(event)
        console.print(view.render())
        return raw.getvalue().decode()

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert re.search(r"\x1b\[[0-9;]*3[0-9]m", written())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", written())


def test_live_view_unmasks_a_rollout_step_by_step(events: list[Event]) -> None:
    now = Clock()
    console, _ = _console(width=40, height=40)
    view = LiveView(console, now=now)
    filled = next(event for event in events if isinstance(event, BufferFilled))
    view.notify(replace(filled, sample=SAMPLE))
    frames = []
    for now.now in (0.1, 0.3, 0.6, 0.9, 1.2):
        frames.append(_drawn(view, console)[-3].strip("│ "))
    assert frames == ["░░░", "░é░", "░é7", "5é7", "5é7"]


def test_same_screen_is_not_drawn_twice(events: list[Event]) -> None:
    view, _, _ = _view(events[:3])
    drawn = view.render()
    assert view.render() is drawn
    view.notify(events[3])
    assert view.render() is not drawn


def test_view_takes_every_event(events: list[Event]) -> None:
    assert {type(event) for event in events} >= {Started, BufferFilled, StepDone, Finished}
