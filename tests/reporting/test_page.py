from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dmpo.reporting.charts import Chart, Line, chart_record
from dmpo.reporting.history import read_history
from dmpo.reporting.numbers import duration_text, short_number
from dmpo.reporting.page import chart_section, notes_section, page, section, table_section
from tests.reporting.runs import write_run

EVIL = "</script><b>&\"'"


@pytest.fixture
def chart(tmp_path: Path) -> Chart:
    runs = {
        f"seed {n}": read_history(
            write_run(tmp_path / str(n), {1: 0.1, 2: 0.3 + n}, {}, tokens_per_step=100 + n)
        )
        for n in range(2)
    }
    return Chart(
        axes={"steps": "steps", "model_tokens": "model tokens"},
        metrics={"reward/mean": EVIL},
        lines=[Line(name=EVIL, runs=runs)],
    )


class Checker(HTMLParser):
    """Keeps which elements are open, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)


def document(chart: Chart) -> str:
    table = table_section("T", ["arm", EVIL], [(EVIL, [EVIL])], EVIL)
    return page(EVIL, EVIL, [chart_section("C", chart, EVIL), table, notes_section("N", [EVIL])])


def test_page_is_well_formed_and_asks_no_network(chart: Chart) -> None:
    checker = Checker()
    checker.feed(document(chart))
    assert (checker.open, checker.addresses) == ([], [])
    style = document(chart).split("</style>")[0]
    assert not re.search(r"@import|url\(", style)


def test_page_carries_the_numbers_that_are_drawn(chart: Chart) -> None:
    checker = Checker()
    checker.feed(document(chart))
    assert json.loads(checker.scripts[0]) == json.loads(json.dumps(chart_record(chart)))


def test_text_of_others_stays_text(chart: Chart) -> None:
    assert "<b>" not in document(chart)


def test_chart_has_the_mean_of_a_line_on_every_axis(chart: Chart) -> None:
    steps, tokens = chart_record(chart)["bands"]["reward/mean"].values()
    assert steps[0] == {"x": [1, 2], "mean": [0.1, 0.8], "low": [0.1, 0.3], "high": [0.1, 1.3]}
    assert tokens[0]["x"] == [101, 200]


def test_chart_has_the_values_of_a_run_once_and_its_positions_on_every_axis(chart: Chart) -> None:
    second = chart_record(chart)["runs"][1]
    assert (second["line"], second["name"]) == (0, "seed 1")
    assert second["values"] == {"reward/mean": [0, [0.1, 1.3]]}
    assert second["grids"] == [{"steps": [1, 2], "model_tokens": [101, 202]}]


def test_metrics_of_the_same_steps_share_a_grid(tmp_path: Path) -> None:
    history = read_history(write_run(tmp_path, {1: 0.1, 2: 0.3}, {0: 0.2, 2: 0.4}))
    names = ("reward/mean", "loss/total", "headline", "nothing")
    record = chart_record(
        Chart(
            axes={"steps": "steps", "seconds": "seconds"},
            metrics=dict(zip(names, names, strict=True)),
            lines=[Line(name="a", runs={"": history})],
        )
    )
    (run,) = record["runs"]
    assert {name: grid for name, (grid, _) in run["values"].items()} == {
        "reward/mean": 0,
        "loss/total": 0,
        "headline": 1,
    }
    assert run["grids"][1] == {"steps": [0, 2], "seconds": [0, 0.2]}
    assert record["bands"] == {}  # a line of one run is that run


def test_a_position_that_was_not_logged_is_null(tmp_path: Path) -> None:
    run = write_run(tmp_path, {1: 0.1, 2: 0.3}, {})
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(lines[0] + '\n{"step": 2, "reward/mean": 0.3}\n')
    line = Line(name="a", runs={"": read_history(run)})
    axes, metrics = {"steps": "", "model_tokens": ""}, {"reward/mean": ""}
    record = chart_record(Chart(axes=axes, metrics=metrics, lines=[line]))
    assert record["runs"][0]["grids"] == [{"steps": [1, 2], "model_tokens": [100, None]}]


def test_no_notes_leave_no_section() -> None:
    assert notes_section("N", []) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (999.0, "999"), (999.7, "1 k"), (1_234_567, "1.23 M"), (2.5e18, "2.5 E")],
)
def test_short_number_keeps_three_digits(value: float, text: str) -> None:
    assert short_number(float(value)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (9.99, "10 s"),
        (99.0, "99 s"),
        (120.0, "2 min"),
        (7200.0, "2.0 h"),
        (2e5, "2 d"),
    ],
)
def test_a_duration_has_the_unit_of_its_size(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_links_lead_to_sections_of_the_page() -> None:
    text = page("t", "", [section("S", "<p>b</p>", name="s")], links={"s": EVIL})
    assert '<section id="s">' in text
    assert '<a href="#s">&lt;/script&gt;' in text
