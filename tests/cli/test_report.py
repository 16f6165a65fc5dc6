from __future__ import annotations

from pathlib import Path

import pytest

from dmpo.cli.report import say_report
from tests.cli.command import SMALL, assert_one_line, dmpo
from tests.reporting.test_run_page import run


def test_report_of_a_run_lies_in_its_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = run(tmp_path / "first")
    said = dmpo(capsys, "report", str(place))
    assert (said.code, said.out) == (0, f"page        {place}/report.html\n")
    assert "<h1>first</h1>" in (place / "report.html").read_text()


def test_report_of_several_runs_lies_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "runs" / "a")
    run(tmp_path / "runs" / "b")
    monkeypatch.chdir(tmp_path)
    said = dmpo(capsys, "report", "runs")
    assert said.out == "runs        2\npage        report.html\n"
    dmpo(capsys, "report", "runs/a", "runs/b", "--output", "new/both.html")
    assert Path("new/both.html").read_text() == Path("report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "RUN: nowhere: there is no such directory"),
        (("first", "--output", "first/metrics.jsonl"), "--output: must end in .html"),
        (("first", "--output", "folder.html"), "--output: folder.html is a directory"),
        (("first", "--output", "file/page.html"), "file is not a directory"),
        (("first", "--output", ""), "it is empty; give a path"),
        (("damaged",), "damaged/config.yaml: cannot be read: it is not YAML"),
        ((), "Missing argument 'RUN...'"),
    ],
)
def test_bad_input_is_named_in_a_line_and_nothing_is_written(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(tmp_path / "first")
    (run(tmp_path / "damaged") / "config.yaml").write_text("{")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").touch()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.chdir(tmp_path)
    assert_one_line(dmpo(capsys, "report", *arguments), 2, message)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_train_writes_the_page_at_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "run")
    said = dmpo(capsys, "train", *SMALL, "--steps", "1", "--output", output)
    assert said.code == 0
    assert f"report      {output}/report.html\n" in said.out
    page = (tmp_path / "run" / "report.html").read_text()
    assert '"commit_steps":' in page


def test_a_page_that_cannot_be_written_is_said_and_fails_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say_report(tmp_path / "nowhere")
    place = run(tmp_path / "first")
    (place / "report.html").mkdir()
    say_report(place)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("report      not written: RUN: ")
    assert second.startswith(f"report      not written: {place}/report.html: cannot be written")
