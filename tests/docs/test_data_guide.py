"""The guide's commands run as typed, and its messages and options are the code's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dmpo.cli.main import main
from dmpo.tasks.file import FileConfig
from dmpo.tasks.sources import SUFFIXES
from tests.docs.fences import DOCS, fences, write_titled
from tests.docs.short_runs import type_commands

PAGE = "guides/data.md"
BROKEN = {
    "broken.jsonl": '{"prompt": "1+1=", "answer": "2"}\n' * 6 + '{"prompt": "1+1="\n',
    "p.csv": "prompt,answer,level\n1+1=,2,1\n",
    "long.jsonl": "".join(
        json.dumps({"prompt": text, "answer": "1"}) + "\n" for text in ("1", "2", "3", "1" * 600)
    ),
    "letter.jsonl": "".join(
        json.dumps({"prompt": text, "answer": "1"}) + "\n" for text in ("1", "2", "3", "é")
    ),
}
"""A file for each message of the guide, in its order."""


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which everything was typed."""
    directory = tmp_path_factory.mktemp("data")
    write_titled(PAGE, directory)
    type_commands(PAGE, directory)
    return directory


def test_commands_of_the_guide_leave_what_it_names(typed: Path) -> None:
    runs = sorted(path.name for path in (typed / "runs").iterdir())
    assert runs == ["own", "points", "sft", "sums"]
    assert all((typed / "runs" / run / "config.yaml").is_file() for run in runs)
    assert (typed / "before" / "completions.jsonl").is_file()


def test_every_row_of_the_guide_s_file_reaches_the_reward(typed: Path) -> None:
    samples = [json.loads(line) for line in (typed / "runs/points/samples.jsonl").open()]
    problems = [json.loads(line)["prompt"] for line in (typed / "problems.jsonl").open()]
    assert samples
    assert {sample["prompt"] for sample in samples} <= set(problems)
    assert {name for sample in samples for name in sample["components"]} == {"points"}


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_messages_of_the_guide_are_those_of_the_command(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    name = list(BROKEN)[number]
    Path(name).write_text(BROKEN[name], encoding="utf-8")
    shown = next(fence for fence in fences(PAGE) if fence.language == "text").text.splitlines()
    wrong = ("--task.answer_column", "anwser") if name == "p.csv" else ()
    length = ("--task.response_length", "4")
    assert main(["train", "--task", name, *length, *wrong, "--dry-run"]) == 2
    said = capsys.readouterr().err.strip()
    assert re.sub(r"1{20,}…", "1111…", said) == shown[number]


def test_guide_lists_every_ending_and_option_of_a_file() -> None:
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    assert [suffix for suffix in SUFFIXES if f"| `{suffix}`" not in text] == []
    named = set(re.findall(r"(?:--)?task\.(\w+)", text))
    assert set(FileConfig.model_fields) <= named
    others = {"format", "parameters", "train_source", "largest"}
    assert named - set(FileConfig.model_fields) <= others
