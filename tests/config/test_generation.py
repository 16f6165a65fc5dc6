from __future__ import annotations

from pathlib import Path

import pytest

from dmpo.config.generation import complete, read_prompts
from dmpo.config.overrides import command_line_layer
from dmpo.config.preflight import NamedText
from dmpo.config.resolve import resolve_generate
from dmpo.config.run import GenerateConfig
from dmpo.errors import ConfigError, DataError

SETTINGS = (
    "policy.scratch={d_model: 16, n_layers: 1, n_heads: 2, mlp_hidden_size: 24}",
    "sampler.gen_length=4",
)


def config(*sets: str) -> GenerateConfig:
    return resolve_generate([command_line_layer((*SETTINGS, *sets))]).config


def test_prompts_are_lines_of_text(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\ntwo\n")
    first, second = read_prompts(path)
    assert (first.text, second.text) == ("one", "two")
    assert second.name == f"--file: {path}, line 3"


def test_prompts_are_read_from_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('\ufeff{"prompt": "a\\nb", "answer": 1}\n{"prompt": "c\u2028d"}\n')
    assert [prompt.text for prompt in read_prompts(path)] == ["a\nb", "c\u2028d"]


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": 3}', "{}"])
def test_wrong_json_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(DataError, match=r"prompts\.jsonl, line 2: "):
        read_prompts(path)


def test_every_prompt_is_completed_in_order() -> None:
    prompts = [NamedText(f"prompt {n}", str(n)) for n in range(40)]
    records = complete(config("sampler.temperature=1"), prompts, num_completions=2)
    assert [record["prompt"] for record in records] == [prompt.text for prompt in prompts]
    assert all(len(record["completions"]) == 2 for record in records)


def test_several_completions_need_a_temperature() -> None:
    with pytest.raises(ConfigError, match=r"^--n: 2 completions at temperature 0"):
        complete(config(), [NamedText("--prompt", "a")], num_completions=2)
