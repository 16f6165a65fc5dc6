from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from dmpo.errors import DataError
from dmpo.reporting.run_contents import chosen_runs, distinct_names, flattened, read_run
from dmpo.reporting.run_notes import run_notes
from dmpo.reporting.run_page import report_place, write_report
from tests.reporting.runs import write_run

EVIL = '</script><img src=x onerror="x()"><!--<script>\x00\u202e\ud800'
SETTINGS = {
    "policy": {"name": "llada"},
    "task": {"name": "sudoku"},
    "objective": {"name": "dmpo"},
    "baseline": {"name": "mean", "strength": 1.0},
    "training": {"num_steps": 4, "updates_per_buffer": 2},
}
SAMPLE = {
    "step": 2,
    "prompt": "1+1=",
    "completion": "2",
    "reward": 1.0,
    "components": {},
    "weight": 1.5,
    "baseline_weight": 0.5,
    "tokens": ["2"],
    "commit_steps": [0],
}


def run(path: Path, lines: dict[str, Any] | None = None, **settings: Any) -> Path:
    """Write a run of four steps with everything that a page shows."""
    place = write_run(path, {1: 0.1, 2: 0.3, 3: 0.3, 4: 0.5}, {0: 0.1, 4: 0.7})
    records = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    (place / "metrics.jsonl").write_text(
        "".join(
            json.dumps({**record, "time/loss": 2.0, "time/rollout": 1.0, **(lines or {})}) + "\n"
            for record in records
        )
    )
    (place / "config.yaml").write_text(yaml.safe_dump({**SETTINGS, **settings}))
    (place / "samples.jsonl").write_text(json.dumps(SAMPLE) + "\n")
    (place / "environment.json").write_text(json.dumps({"device": "cpu", "packages": {"a": "1"}}))
    return place


class Reader(HTMLParser):
    """Keeps the page's elements, its data and what it asks the network for."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.data: list[dict[str, Any]] = []
        self.words = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "img", "br", "wbr"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.words += " " if tag in ("td", "th", "dd") else ""

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"] and data.startswith("{"):
            self.data.append(json.loads(data))
        elif self.open[-1:] not in (["script"], ["style"]):
            self.words += data


def test_page_of_a_run_is_whole_and_asks_no_network(tmp_path: Path) -> None:
    place = run(tmp_path / "first")
    page = write_report([place])
    reader = Reader(page)
    assert page == place / "report.html"
    assert reader.open == []
    assert all(address.startswith("#") for address in reader.addresses)
    assert "img" not in reader.tags
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp", page.read_text())


def test_page_says_how_a_run_began_and_ended(tmp_path: Path) -> None:
    words = Reader(write_report([run(tmp_path / "first")])).words
    for text in ("first", "finished", "0.100", "0.700", "4 of 4", "sudoku", "step 4", "cpu"):
        assert text in words


def test_page_carries_curves_rollouts_and_shares_of_time(tmp_path: Path) -> None:
    page = write_report([run(tmp_path)])
    curves, rollouts = Reader(page).data
    assert [panel["title"] for panel in curves["panels"]][:2] == ["Reward", "Right (evaluation)"]
    assert curves["metrics"]["headline"] == "right (evaluation)"
    assert curves["descriptions"]["time/loss"] == "Seconds of a phase since the last line."
    (sample,) = rollouts["samples"]
    assert (sample["tokens"], sample["real_weight"]) == (["2"], 1.0)
    assert "loss: 66.7%, 8.0 s" in page.read_text()


def test_page_of_several_runs_tells_them_apart(tmp_path: Path) -> None:
    other = {"objective": {"name": "grpo"}}
    page = write_report([run(tmp_path / "a"), run(tmp_path / "b", **other)], tmp_path / "p.html")
    reader = Reader(page)
    assert reader.data[0]["lines"] == ["a", "b"]
    differing = reader.words.split("Settings that differ")[1].split("Packages")[0].split()
    assert differing == ["setting", "a", "b", "objective.name", "dmpo", "grpo"]


def test_nothing_that_a_model_or_a_user_wrote_is_more_than_text(tmp_path: Path) -> None:
    place = run(tmp_path / "evil<img src=x>", lines={f"reward/component/{EVIL[:20]}": 0.5})
    sample = {**SAMPLE, "prompt": EVIL, "components": {EVIL: 1.0}, "completion": EVIL}
    lines = [sample, {**sample, "tokens": [EVIL]}]
    (place / "samples.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (place / "environment.json").write_text(json.dumps({"device": EVIL, "command": [EVIL]}))
    (place / "config.yaml").write_text(f"a: {json.dumps(EVIL[:-1])}\n")
    (place / "evaluations").mkdir()
    graded = {"index": 0, "prompt": EVIL, "completion": EVIL, "grades": {EVIL: 1.0}}
    (place / "evaluations" / "step-000004.jsonl").write_text(json.dumps(graded) + "\n")
    page = write_report([place])
    reader = Reader(page)
    assert "img" not in reader.tags
    assert reader.tags.count("script") == 3  # two of data, one of code
    assert "⟨U+202E⟩" in reader.words
    assert not re.search("[\x00\u202e]", page.read_text())


def test_long_completions_and_many_steps_leave_a_small_page(tmp_path: Path) -> None:
    place = run(tmp_path)
    long = json.dumps({**SAMPLE, "completion": "x" * 100_000})
    (place / "samples.jsonl").write_text(f"{long}\n" * 50)
    steps = [{"step": n, **{f"a/{m}": n * 1.1 for m in range(60)}} for n in range(1, 3001)]
    (place / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in steps))
    assert write_report([place]).stat().st_size < 1_500_000


def test_notes_tell_what_curves_do_not(tmp_path: Path) -> None:
    lines = {
        "log_ratio/noise_exceeds_reward": 0.5,
        "reward/missing": 0.125,
        "optimizer/skipped_steps": 3,
        "reward/flat_groups": 0.6,
    }
    place = run(tmp_path, lines, training={"num_steps": 9})
    with (place / "metrics.jsonl").open("a") as file:
        file.write("nonsense\n\xff\n" + '{"step": 5}\n')
    (place / "checkpoints" / "step-000004").mkdir(parents=True)
    notes = " ".join(run_notes(read_run(place, "a", sample_characters=10**6)))
    for text in (
        f"not finished: 5 of 9 steps. Go on with: dmpo train --resume {place}",
        "In 50% of the buffers the noise of the log-ratio exceeded",
        "12.5% of the rollouts had no reward",
        "3 steps were skipped",
        "60% of the groups had one reward",
        "metrics.jsonl has 2 damaged lines",
    ):
        assert text in notes


def test_a_run_of_an_earlier_version_still_makes_a_page(tmp_path: Path) -> None:
    place = run(tmp_path)
    for name in ("samples.jsonl", "environment.json", "config.yaml", "evaluation.json"):
        (place / name).unlink()
    words = Reader(write_report([place])).words
    assert "no evaluation" in words
    assert "There is no config.yaml" in words


@pytest.mark.parametrize("name", ["environment.json", "evaluation.json"])
def test_a_damaged_file_beside_the_curves_is_told_of(tmp_path: Path, name: str) -> None:
    place = run(tmp_path)
    (place / name).write_text("{")
    assert name in Reader(write_report([place])).words


def test_a_supervised_run_has_a_page(tmp_path: Path) -> None:
    place = run(tmp_path, tasks=[{"name": "sudoku"}])
    text = (place / "evaluation.json").read_text()
    (place / "evaluation.json").write_text(text.replace('"step 4"', '"sudoku"'))
    assert "sft" in Reader(write_report([place])).words


def test_runs_are_chosen_by_directory_or_by_a_folder_above(tmp_path: Path) -> None:
    a, b = run(tmp_path / "c" / "runs" / "a"), run(tmp_path / "c" / "runs" / "b")
    assert chosen_runs([tmp_path / "c"]) == [a, b]
    assert chosen_runs([a, tmp_path, a]) == [a, b]
    assert distinct_names([a, b]) == ["a", "b"]
    assert distinct_names([a, run(tmp_path / "d")]) == ["c/runs/a", "d"]
    assert report_place([a]) == a / "report.html"
    assert report_place([a, b]) == Path("report.html")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("firts", r"there is no such directory\. Did you mean .*first\?"),
        ("first/config.yaml", "is a file"),
        ("none", r"holds no metrics\.jsonl, and there is no run below: it is no run's directory"),
        ("begun", r"no run in .*begun has taken a step \(no metrics\.jsonl\): .*begun/a"),
        ("begun/a", r"the run has not taken a step yet"),
        ("first/checkpoints", r"It lies inside of a run: .*first"),
    ],
)
def test_what_is_no_run_is_refused_with_what_is_missing(
    tmp_path: Path, path: str, message: str
) -> None:
    run(tmp_path / "first")
    for folder in ("none", "begun/a", "first/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "begun" / "a" / "environment.json").touch()
    with pytest.raises(DataError, match=message):
        chosen_runs([tmp_path / path])


def test_settings_are_flattened_to_dotted_paths() -> None:
    tree = {"a": {"b": 1, "c": [2, {"d": 3}]}, "e": {}, "f": []}
    assert flattened(tree) == {"a.b": 1, "a.c.0": 2, "a.c.1.d": 3, "e": {}, "f": []}
