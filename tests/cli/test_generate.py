"""`dmpo generate`: prompts in, texts or JSON lines out."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmpo import registry
from tests.cli.command import SCRATCH, assert_one_line, dmpo

Capture = pytest.CaptureFixture[str]

GENERATE = ("generate", "--set", SCRATCH, "--gen-length", "4")
STUBBORN = """
from dmpo.samplers.base import Sampler, SamplerConfig

class Stubborn(Sampler):
    Config = SamplerConfig
    records_path = False

    def __init__(self, config):
        pass

    def sample(self, policy, prompts, *, num_rollouts, generator):
        raise NotImplementedError
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stubborn_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A plugin's sampler that shows nothing of what it does."""
    package = tmp_path / "path" / "stubborn-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: stubborn\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[dmpo.samplers]\nstubborn = stubborn:Stubborn\n")
    (tmp_path / "path" / "stubborn.py").write_text(STUBBORN)
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    registry._claims.cache_clear()
    yield
    registry._claims.cache_clear()


def is_empty() -> bool:
    return list(Path().iterdir()) == []


def pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_generate_prints_completions(capsys: Capture) -> None:
    draws = ("--n", "3", "--temperature", "1", "--sampler", "random")
    said = dmpo(capsys, *GENERATE, "--prompt", "12", *draws)
    assert (said.code, said.err) == (0, "")
    assert said.out.count("\n") >= 3


def test_packaged_model_fills_in_a_sudoku_with_a_threshold_and_a_cache(capsys: Capture) -> None:
    sampler = ("--sampler", "threshold", "--sampler.threshold", "0.9", "--sampler.cache", "dual")
    puzzle = ("--prompt", "4123004002300012=", "--gen-length", "16", "--json")
    (record,) = map(json.loads, dmpo(capsys, "generate", *puzzle, *sampler).out.splitlines())
    assert record["completions"] == ["4123124312343412"]
    assert record["tokens"] == [16]
    assert record["forward_passes"] < 16
    assert record["tokens_per_forward"] == round(16 / record["forward_passes"], 4)


def test_generate_writes_json_lines(capsys: Capture) -> None:
    Path("prompts.jsonl").write_text('{"prompt": "1"}\n{"prompt": "22"}\n')
    files = ("--file", "prompts.jsonl", "--output", "made/out.jsonl")
    assert dmpo(capsys, *GENERATE, *files).code == 0
    records = [json.loads(line) for line in Path("made/out.jsonl").read_text().splitlines()]
    assert [record["prompt"] for record in records] == ["1", "22"]
    assert_one_line(dmpo(capsys, *GENERATE, *files), 2, "exists already")


def test_json_lines_on_standard_output_are_those_of_a_file(capsys: Capture) -> None:
    prompts = ("--prompt", "1", "--prompt", "22")
    said = dmpo(capsys, *GENERATE, *prompts, "--json")
    dmpo(capsys, *GENERATE, *prompts, "--output", "out.jsonl")
    assert said.out == Path("out.jsonl").read_text()


def test_watching_a_pipe_prints_texts_and_says_what_they_cost(capsys: Capture) -> None:
    prompts = ("--prompt", "1", "--prompt", "22")
    said = dmpo(capsys, *GENERATE, *prompts, "--watch")
    assert said.out == dmpo(capsys, *GENERATE, *prompts).out
    assert said.err.startswith("2 completions, ")
    assert said.err.endswith(" tokens/s\n")
    assert said.err.count("\n") == 1


def test_forced_colours_draw_no_canvas_into_a_pipe(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in dmpo(capsys, *GENERATE, "--prompt", "1", "--watch").out


def test_chat_answers_each_line_of_a_pipe(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, "1\n\n22\n/quit\n3\n")
    said = dmpo(capsys, *GENERATE, "--chat", "--json")
    assert [json.loads(line)["prompt"] for line in said.out.splitlines()] == ["1", "22"]
    assert (said.code, said.err) == (0, "")


def test_chat_without_input_ends(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, "")
    assert dmpo(capsys, *GENERATE, "--chat") == (0, "", "")


def test_chat_keeps_what_was_said(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, "1\n22")
    said = dmpo(capsys, *GENERATE, "--chat", "--watch", "--output", "made/chat.jsonl")
    records = [json.loads(line) for line in Path("made/chat.jsonl").read_text().splitlines()]
    assert [record["prompt"] for record in records] == ["1", "22"]
    assert said.out.endswith("saved in made/chat.jsonl\n")
    assert said.err.count(" tokens/s\n") == 2


def test_message_that_cannot_be_read_ends_a_pipe(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, "1\nü\n2\n")
    said = dmpo(capsys, *GENERATE, "--chat", "--json")
    assert_one_line(said, 2, "--chat: message 2: the tokenizer has no token for 'ü'")
    assert said.out.count("\n") == 1


@pytest.mark.usefixtures("stubborn_sampler")
def test_sampler_that_shows_no_steps_cannot_be_watched(capsys: Capture) -> None:
    said = dmpo(capsys, *GENERATE, "--prompt", "1", "--watch", "--sampler", "stubborn")
    assert_one_line(said, 2, "--watch: sampler 'stubborn' does not show its steps")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "nothing to complete"),
        (["--file", "gone.txt"], "gone.txt cannot be read"),
        (["--prompt", "1", "--n", "2"], "give a --temperature"),
        (["--prompt", "1", "--sampler.block_lenght", "2"], "Did you mean 'block_length'?"),
        (["--prompt", "1", "--sampler", "treshold"], "Did you mean 'threshold'?"),
        (
            ["--prompt", "1", "--sampler.block_length", "24"],
            "128; it divides 120 or 144",
        ),
        (["--prompt", "1", "--revision", "main"], "revision is for a model on the hub"),
        (["--prompt", "1" * 400], "400 tokens and an answer of 128 (gen_length) exceed the"),
        (["--chat", "--prompt", "1"], "--chat: reads its own prompts"),
        (["--chat", "--file", "prompts.txt"], "--chat: reads its own prompts"),
        (["--prompt", "1", "--json", "--output", "out"], "--output writes JSON lines already"),
    ],
)
def test_generate_refuses_in_one_line(capsys: Capture, arguments: list[str], text: str) -> None:
    assert_one_line(dmpo(capsys, "generate", *arguments), 2, text)
    assert is_empty()
