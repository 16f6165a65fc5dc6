from __future__ import annotations

from pathlib import Path

import pytest

from dmpo.config.generation import Completed, Completer, read_prompts
from dmpo.config.overrides import command_line_layer
from dmpo.config.preflight import NamedText
from dmpo.config.resolve import resolve_generate
from dmpo.config.run import GenerateConfig
from dmpo.errors import ConfigError, DataError

SETTINGS = (
    "policy.scratch={d_model: 16, n_layers: 1, n_heads: 2, mlp_hidden_size: 24}",
    "sampler.gen_length=4",
)


FEW_CHARACTERS = "policy.scratch.characters='12'"
"""So few that EOS is drawn soon."""


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
    completer = Completer(config("sampler.temperature=1"), num_completions=2)
    prompts = [str(number) for number in range(completer.prompts_at_once)]
    completed = completer.complete(prompts)
    assert [each.prompt for each in completed] == prompts
    assert all(len(each.completions) == 2 for each in completed)
    assert completer.prompts_at_once == 16


def test_tokens_are_counted_through_the_first_eos() -> None:
    settings = (FEW_CHARACTERS, "sampler.temperature=1", "sampler.gen_length=16")
    (completed,) = Completer(config(*settings), num_completions=8).complete(["12"])
    assert min(completed.num_tokens) < 16
    # A character is a token; EOS is one more, and a mask that was drawn is not shown.
    for text, count in zip(completed.completions, completed.num_tokens, strict=True):
        assert len(text) + (count < 16) <= count


def test_stopping_at_eos_changes_no_text_of_a_single_row() -> None:
    settings = ("sampler.gen_length=32", "sampler.block_length=4", "sampler.temperature=1")
    completed, passes = [], []
    for stops in ("true", "false"):
        stop = f"sampler.stop_at_eos={stops}"
        (each,) = Completer(config(FEW_CHARACTERS, *settings, stop)).complete(["12"])
        completed.append((each.completions, each.num_tokens))
        passes.append(each.num_forwards)
    assert completed[0] == completed[1]
    assert passes[0] < passes[1] == 32


def test_sampler_stops_at_eos_unless_told_otherwise() -> None:
    assert config().sampler.parameters["stop_at_eos"] is True
    assert config("sampler.stop_at_eos=false").sampler.parameters["stop_at_eos"] is False


def test_draws_of_a_batch_follow_those_of_the_batch_before() -> None:
    completer = Completer(config("sampler.temperature=1", "sampler.gen_length=16"))
    first, second = completer.complete(["1"]), completer.complete(["1"])
    assert first != second
    again = Completer(config("sampler.temperature=1", "sampler.gen_length=16"))
    assert [again.complete(["1"]), again.complete(["1"])] == [first, second]


def test_record_says_what_a_completion_cost() -> None:
    completed = Completed(prompt="a", completions=("b", "cd"), num_tokens=(2, 4), num_forwards=2)
    assert completed.record() == {
        "prompt": "a",
        "completions": ["b", "cd"],
        "tokens": [2, 4],
        "forward_passes": 2,
        "tokens_per_forward": 1.5,  # 6 tokens, 2 rows of 2 passes
    }


def test_steps_are_told_where_they_are_asked_for() -> None:
    passes: list[int] = []
    completer = Completer(config(), is_watched=True)
    completer.complete(["1"], on_step=lambda snapshot: passes.append(snapshot.num_forwards))
    assert passes == [0, 1, 2, 3, 4]


def test_several_completions_need_a_temperature() -> None:
    with pytest.raises(ConfigError, match=r"^--n: 2 completions at temperature 0"):
        Completer(config(), num_completions=2)


def test_prompt_without_room_for_an_answer_is_named() -> None:
    with pytest.raises(DataError, match=r"^--prompt: its 510 tokens and an answer of 4 "):
        Completer(config()).check([NamedText("--prompt", "1" * 510)])
