from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmpo.config.preflight import NamedText, check_answers, check_prompts, named_prompts
from dmpo.errors import DataError
from dmpo.policies.llada import LladaConfig, LladaPolicy
from dmpo.tasks.file import FileConfig, FileTask

SHAPE = {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 24}


@pytest.fixture(scope="module")
def policy() -> LladaPolicy:
    shape = {**SHAPE, "max_sequence_length": 300}
    return LladaPolicy(LladaConfig.model_validate({"scratch": shape}))


def prompts(*texts: str) -> list[NamedText]:
    return [NamedText(f"line {number}", text) for number, text in enumerate(texts)]


def test_prompts_that_fit_pass(policy: LladaPolicy) -> None:
    check_prompts(policy, prompts("1", "1" * 292, "23"), room=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "^line 2: it is empty"),
        ("1ü", "^line 2: the tokenizer has no token for 'ü'"),
        ("1" * 301, "^line 2: 301 tokens, longer than the model's context of 300"),
        ("1" * 293, r"^line 2: its 293 tokens and an answer of 8 .* 300, which leaves 7"),
    ],
)
def test_first_prompt_that_does_not_fit_is_named(
    policy: LladaPolicy, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_prompts(policy, prompts("1", "2", text, ""), room=8)


def test_task_without_problems_is_refused() -> None:
    with pytest.raises(DataError, match=r"^task, test problems: there are none"):
        named_prompts([], "task, test problem")


def test_answer_that_does_not_fit_its_canvas_is_named(policy: LladaPolicy, tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    rows = [{"prompt": str(n), "answer": "12345" if n == 7 else "1"} for n in range(40)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = FileTask(FileConfig(path=path, response_length=4))
    number = [example.prompt for example in task.examples("train")].index("7")
    with pytest.raises(DataError, match=f"^mine, answer to train problem {number}: 5 tokens do"):
        check_answers(policy, task, seed=0, name="mine")
