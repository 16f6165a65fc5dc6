from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dmpo.reporting.charts import Chart, Line, chart_record
from dmpo.reporting.history import read_history
from dmpo.reporting.numbers import short_number
from dmpo.reporting.page import chart_section, notes_section, page, table_section
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


def test_chart_has_mean_and_runs_on_every_axis(chart: Chart) -> None:
    steps, tokens = chart_record(chart)["panels"]["reward/mean"].values()
    assert steps[0]["mean"] == {
        "x": [1, 2],
        "mean": [0.1, 0.8],
        "low": [0.1, 0.3],
        "high": [0.1, 1.3],
    }
    assert steps[0]["runs"]["seed 1"] == {"x": [1, 2], "y": [0.1, 1.3]}
    assert tokens[0]["mean"]["x"] == [101, 200]


def test_no_notes_leave_no_section() -> None:
    assert notes_section("N", []) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (999.0, "999"), (999.7, "1 k"), (1_234_567, "1.23 M"), (2.5e18, "2.5 E")],
)
def test_short_number_keeps_three_digits(value: float, text: str) -> None:
    assert short_number(float(value)) == text
