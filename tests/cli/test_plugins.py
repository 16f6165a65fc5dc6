from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import assert_one_line, dmpo

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_new_says_what_it_wrote_and_what_to_type_next(capsys: Capture, elsewhere: Path) -> None:
    said = dmpo(capsys, "plugins", "new", "objective", "hold_on")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        "wrote dmpo-hold-on: an objective that works, and its tests",
        "  .gitignore",
        "  README.md",
        "  dmpo_hold_on/__init__.py",
        "  dmpo_hold_on/objective.py",
        "  dmpo_hold_on/py.typed",
        "  pyproject.toml",
        "  tests/test_hold_on.py",
        "next:",
        "  pip install -e 'dmpo-hold-on[dev]'",
        "  pytest dmpo-hold-on",
        "  dmpo train --objective hold_on --steps 4",
    ]
    assert (elsewhere / "dmpo-hold-on" / "pyproject.toml").is_file()


def test_new_writes_where_it_is_told_to(capsys: Capture, elsewhere: Path) -> None:
    said = dmpo(capsys, "plugins", "new", "weight", "mine", "--output", "my folder")
    assert said.code == 0
    assert "  pip install -e 'my folder[dev]'" in said.out.splitlines()
    assert "  dmpo train --weights mine --steps 4" in said.out.splitlines()
    assert (elsewhere / "my folder" / "dmpo_mine" / "weights.py").is_file()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("objectve", "x"), "kind: unknown name 'objectve'"),
        (("objective", "dmpo"), "name: objective 'dmpo' is registered by dmpo-dllm"),
        (("objective", "X"), "name: 'X' cannot be typed"),
        (("objective", "x", "--output", "full"), "full exists already and is not empty"),
        (("objective", "x", "--output", "full/file"), "file exists already"),
    ],
)
def test_new_refuses_in_one_line_and_writes_nothing(
    capsys: Capture, elsewhere: Path, arguments: tuple[str, ...], text: str
) -> None:
    (elsewhere / "full").mkdir()
    (elsewhere / "full" / "file").write_text("")
    assert_one_line(dmpo(capsys, "plugins", "new", *arguments), 2, text)
    assert sorted(path.name for path in elsewhere.rglob("*")) == ["file", "full"]


def test_list_prints_json_for_programs(capsys: Capture) -> None:
    said = dmpo(capsys, "plugins", "list", "--kind", "baseline", "--json")
    assert [each["name"] for each in json.loads(said.out)["plugins"]] == [
        "individual",
        "mean",
        "model",
        "none",
    ]


def test_list_names_the_nearest_kind(capsys: Capture) -> None:
    said = dmpo(capsys, "plugins", "list", "--kind", "sampelr")
    assert_one_line(said, 2, "Did you mean 'sampler'?")
