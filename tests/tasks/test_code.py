from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmpo.errors import DataError
from dmpo.tasks.code import CodeConfig, CodeTask, code_example, read_code
from dmpo.tasks.code_problems import generated_problems
from dmpo.tasks.unit_tests import unit_tests

TASK = CodeTask(CodeConfig(source="generated"))
EXAMPLE = code_example("Double x: f(x).", "assert f(1) == 2\nassert f(2) == 4")
RIGHT = "def f(x):\n    return 2 * x"
HALF = "def f(x):\n    return 2"


def answer(code: str) -> str:
    return f"\nThink.\n</reasoning>\n<answer>\n```python\n{code}\n```\n</answer>"


@pytest.mark.parametrize(
    ("completion", "figures"),
    [
        (answer(RIGHT), (1, 1, 1)),
        (answer(HALF), (0.5, 0, 1)),
        (answer("def f(x): return 0"), (0, 0, 1)),
        (answer("def f(x) return"), (0, 0, 1)),
        (f"```python\n{RIGHT}\n```", (1, 1, 0)),
        (f"```\n{RIGHT}\n```", (1, 1, 0)),
        (f"<answer>\n{RIGHT}\n</answer>", (1, 1, 1)),
        (f"<answer>{RIGHT}", (1, 1, 1)),
        (answer(RIGHT) + "<|eot_id|>" + answer(HALF), (1, 1, 1)),
        (answer(HALF) + answer(RIGHT), (1, 1, 1)),
        (f"```python\n{HALF}\n``` better: ```python\n{RIGHT}\n```", (1, 1, 0)),
        (f"```python\n{RIGHT}\n```\n```text\nf(1) = 2\n```", (1, 1, 0)),
        (f"<answer></answer>```py\n{RIGHT}", (1, 1, 0)),
        (answer(RIGHT.replace("\n", "\r\n")), (1, 1, 1)),
        (answer("    " + RIGHT.replace("\n", "\n    ")), (1, 1, 1)),
        ("", (0, 0, 0)),
        ("I do not know.", (0, 0, 0)),
        ("<answer></answer>", (0, 0, 0)),
    ],
)
def test_figures_of_a_completion(completion: str, figures: tuple[float, ...]) -> None:
    assert tuple(TASK.grade(EXAMPLE, completion).values()) == figures
    assert list(TASK.grade(EXAMPLE, completion)) == ["tests", "right", "format"]


def test_completions_are_graded_together_in_order() -> None:
    other = code_example("Halve x: g(x).", "assert g(4) == 2")
    pairs = [(EXAMPLE, answer(RIGHT)), (other, answer(RIGHT)), (EXAMPLE, ""), (EXAMPLE, RIGHT)]
    assert [grade["tests"] for grade in TASK.grade_all(pairs)] == [1, 0, 0, 0]
    assert TASK.grade_all(pairs) == [TASK.grade(*pair) for pair in pairs]


def test_prompt_is_in_the_format_of_d1() -> None:
    assert EXAMPLE.prompt == (
        "\nRespond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n"
        "</answer>\n\n\nYou are a coding expert. You will be given a coding problem to solve. "
        "Solve it step by step. \n\nDouble x: f(x)."
    )
    assert EXAMPLE.prefill == "<reasoning>"


def test_reward_is_that_of_d1() -> None:
    assert TASK.reward_weights == {"tests": 1.0, "format": 0.5}


# Sources


def source(path: Path, *rows: object) -> str:
    file = path / "problems.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return str(file)


@pytest.mark.parametrize(
    ("row", "tests"),
    [
        ({"prompt": "p", "tests": "assert f(1)"}, "assert f(1)"),
        ({"question": "p", "test": "from solution import f\ndef test_f():\n    assert f(1)"}, None),
        ({"prompt": "p", "tests": ["assert f(1)", "assert f(2)"]}, "assert f(1)\nassert f(2)"),
        (
            {"prompt": "p", "test_list": ["assert f(1)"], "test_imports": ["import math"]},
            "import math\nassert f(1)",
        ),
    ],
)
def test_rows_of_known_kinds_are_read(tmp_path: Path, row: dict[str, str], tests: str) -> None:
    task = CodeTask(CodeConfig(test_source=source(tmp_path, row)))
    (example,) = task.examples("test")
    assert example.columns["tests"] == (tests or row["test"])


def test_tests_of_mbpp_are_shown_because_they_name_the_function(tmp_path: Path) -> None:
    row = {"prompt": "Double x.", "test_list": ["assert f(1) == 2"], "test_imports": []}
    (example,) = CodeTask(CodeConfig(test_source=source(tmp_path, row))).examples("test")
    assert example.prompt.endswith(
        "Double x.\n\nYour code should pass these tests:\n\nassert f(1) == 2"
    )


def test_training_problems_that_stand_in_the_test_source_are_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "tests": f"assert f({n})"} for n in range(9)]
    test = tmp_path / "test.json"
    test.write_text(json.dumps(rows[:2]))
    config = CodeConfig(
        train_source=source(tmp_path, *rows), test_source=str(test), validation_size=3
    )
    prompts = {
        split: {example.prompt for example in CodeTask(config).examples(split)}
        for split in ("train", "validation", "test")
    }
    assert [len(prompts[split]) for split in ("train", "validation", "test")] == [4, 3, 2]
    assert not prompts["train"] & (prompts["validation"] | prompts["test"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p"}, "line 2: text under 'test' or 'tests' is needed"),
        ({"prompt": "p", "tests": "assert f("}, "line 2: the tests cannot be used: not Python"),
        ({"prompt": "p", "tests": "f(1)"}, "line 2: the tests cannot be used: no test"),
        ({"tests": "assert f(1)"}, "line 2: text under 'question' or 'prompt' or 'text'"),
        ({"prompt": "p", "tests": [1]}, "line 2: 'tests' must be a list of texts, found"),
        ({"prompt": "p", "test_list": 5}, "line 2: 'test_list' must be a list of texts, found 5"),
        (
            {"prompt": "p", "test_list": ["assert f(1)"], "test_imports": "import math"},
            "line 2: 'test_imports' must be a list of texts, found 'import math'",
        ),
    ],
)
def test_row_that_is_no_problem_is_named(tmp_path: Path, row: object, message: str) -> None:
    good = {"prompt": "p", "tests": "assert f(1)"}
    task = CodeTask(CodeConfig(test_source=source(tmp_path, good, row)))
    with pytest.raises(DataError, match=f"^task.test_source: .*{message}"):
        task.examples("test")


# Generated problems


def test_generated_splits_are_disjoint_and_full() -> None:
    questions = [
        {example.prompt for example in TASK.examples(split)}
        for split in ("train", "validation", "test")
    ]
    assert [len(each) for each in questions] == [len(generated_problems(0)) - 256, 128, 128]
    assert len(set.union(*questions)) == len(generated_problems(0))


def test_demonstrations_are_right() -> None:
    rng = random.Random(0)
    examples = list(TASK.examples("validation"))[::8]
    graded = TASK.grade_all([(each, TASK.demonstrate(each, rng)) for each in examples])
    assert all(set(figures.values()) == {1} for figures in graded)


def test_generated_tests_tell_the_solution_from_another() -> None:
    problems = generated_problems(0)
    assert all(unit_tests(problem.tests).num_tests >= 3 for problem in problems[::10])
    # No test of a family says the same for every argument.
    wanted = [{line.partition(" == ")[2] for line in each.tests.split("\n")} for each in problems]
    assert sum(len(values) > 1 for values in wanted) > 0.9 * len(problems)


def test_generated_problems_are_the_same_every_time() -> None:
    assert generated_problems(3) == generated_problems(3)


def test_demonstration_without_a_solution_is_refused() -> None:
    with pytest.raises(DataError, match="no solution"):
        TASK.demonstrate(EXAMPLE, random.Random(0))


# Any text


@settings(max_examples=20, deadline=None)
@given(st.text(st.characters(), max_size=60))
def test_any_text_gives_figures_in_their_range(text: str) -> None:
    for completion in (text, answer(text)):
        grade = TASK.grade(EXAMPLE, completion)
        assert all(0 <= value <= 1 for value in grade.values())


@pytest.mark.parametrize("text", ["```python\n", "<answer>", "```", "<answer>```python\n", "x\n"])
def test_reading_a_long_text_takes_linear_time(text: str) -> None:
    begin = time.monotonic()
    read_code(text * (10**6 // len(text)))
    assert time.monotonic() - begin < 5
