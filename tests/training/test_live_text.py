from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from dmpo.training.events import UnmaskedSample
from dmpo.training.live_text import (
    ASCII,
    UNICODE,
    clock,
    folded_pieces,
    glyphs_for,
    histogram,
    revealed,
    sample_pieces,
    sparkline,
    writable,
)

SAMPLE = UnmaskedSample(prompt="12!34=", tokens=("5", "é", "7"), commit_steps=(2, 0, 1), reward=0.5)
SOME = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


def test_tokens_are_hidden_until_their_step() -> None:
    assert [revealed(SAMPLE, step, "_") for step in range(4)] == ["___", "_é_", "_é7", "5é7"]


def test_tokens_of_the_last_step_are_marked() -> None:
    assert [style for _, style in sample_pieces(SAMPLE, 2, "_")] == ["dim", "", "bold green"]


def test_glyphs_are_ascii_where_the_encoding_is() -> None:
    assert glyphs_for("utf-8") is UNICODE
    assert glyphs_for("ascii") is glyphs_for("latin-1") is glyphs_for(None) is ASCII
    assert glyphs_for("no such encoding") is ASCII


@given(values=SOME, width=st.integers(1, 60))
def test_sparkline_shows_the_last_values_between_their_extremes(
    values: list[float], width: int
) -> None:
    shown = values[-width:]
    line = sparkline(values, width, UNICODE.levels)
    assert len(line) == len(shown)
    if max(shown) > min(shown):
        assert line[shown.index(max(shown))] == "█"
        assert line[shown.index(min(shown))] == "▁"


@given(values=SOME, width=st.integers(1, 60))
def test_histogram_has_a_bar_wherever_there_is_a_value(values: list[float], width: int) -> None:
    line = histogram(values, width, UNICODE.levels)
    assert len(line) == (width if max(values) > min(values) else 1)
    assert "█" in line
    assert line[0] != " "
    assert line[-1] != " "


def test_histogram_counts() -> None:
    assert histogram([0.0, 0.0, 0.0, 1.0, 4.0], 4, "123") == "32 2"


@given(
    pieces=st.lists(st.tuples(st.text(max_size=9), st.sampled_from(["", "bold"])), max_size=20),
    width=st.integers(2, 20),
    height=st.integers(1, 5),
)
def test_folded_text_fits(pieces: list[tuple[str, str]], width: int, height: int) -> None:
    lines = folded_pieces(pieces, width, height)
    assert 1 <= len(lines) <= height
    assert all(cell_len(line.plain) <= width and "\n" not in line.plain for line in lines)


def test_folded_text_shows_the_newest_token() -> None:
    pieces = [("aaaa", ""), ("bbbb", "bold"), ("cccc", "")]
    assert [line.plain for line in folded_pieces(pieces, 4, 1)] == ["bbbb"]
    assert [line.plain for line in folded_pieces(pieces, 4, 9)] == ["aaaa", "bbbb", "cccc"]


def test_what_a_terminal_cannot_write_becomes_a_question_mark() -> None:
    assert writable("ä\x1b[1m\n", "ascii") == "? [1m\n"


def test_clock_reads_as_people_write_time() -> None:
    assert [clock(s) for s in (-1.0, 9.0, 75.0, 3661.0)] == ["0:00", "0:09", "1:15", "1:01:01"]
