"""Ten items of every data set: the reference answer is right, other texts are less so, in time."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from dmpo_reasoning_gym.library import build_dataset, dataset_names
from dmpo_reasoning_gym.task import ReasoningGymConfig, ReasoningGymTask

from dmpo.errors import DataError
from dmpo.records import Example

SPLITS = ("train", "validation", "test")
NAMES = [name for name in dataset_names() if name != "composite"]
NUM_ITEMS = 10
SECONDS_PER_GRADE = 5.0  # a guard against explosions: grades take milliseconds
SMALL: Mapping[str, Mapping[str, Any]] = {
    "futoshiki": {"max_board_size": 5},
    "knight_swap": {"min_nodes": 9, "min_pieces": 1, "max_pieces": 1, "min_steps": 1},
    "puzzle24": {"max_value": 6},
    "sokoban": {"max_w": 6, "max_h": 6, "max_boxes": 4},
    "zebra_puzzles": {"num_people": 3, "num_characteristics": 3},
}
"""Parameters of the data sets that are slow to draw from by default."""
SOLUTIONS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "graph_color": lambda metadata: json.dumps(metadata["possible_answer"]),
    "propositional_logic": lambda metadata: str(metadata["example_answer"]),
    "rubiks_cube": lambda metadata: str(metadata["example_correct_answer"]),
}
"""Where a right answer stands in data sets without a reference answer, two of which tell none."""
WITHOUT_SOLUTIONS = {"boxnet", "rush_hour"}
EVERY_TEXT_SCORES = {"game_of_life_halting"}
"""The library asks there whether the text is as empty as the answer, which never is."""
SCORES_WITHOUT_SOLVING = {"coin_flip": "0", "game_of_life_halting": "no idea"}
"""Wrong texts that the library calls right."""

RANDOM = random.Random(0)
GARBAGE = {
    "empty": "",
    "white space": " \n\t",
    "random ASCII": "".join(
        RANDOM.choice("abc XYZ 0129()[]{},.+-*/=<>\\\n\"'") for _ in range(200)
    ),
    "random Unicode": "".join(chr(RANDOM.randrange(32, 0xD7FF)) for _ in range(200)),
    "lone surrogate": "12 \ud800",
    "digits": "7" * 10_240,
    "fewer digits": "7" * 4_000,
    "unclosed brackets": "[" * 4_000,
    "many unclosed brackets": "(" * 100_000,
    "unclosed list": "[[[1, 2",
    "unclosed object": '{"a": [1,',
    "unclosed quote": "'abc",
    "unclosed LaTeX": "\\boxed{\\frac{1}{",
    "tower of powers": "9**9**9**9",
    "huge exponent": "1e999999999",
    "no number": "nan",
    "infinity": "-inf",
    "other digits": "½ ٣ ²",
    "NUL": "\x00",
    "division by zero": "1/0",
    "many rows": "1 1\n" * 900,
    "a megabyte": "x" * 1_000_000,
}

pytestmark = pytest.mark.filterwarnings("ignore:reasoning_gym/.*PYTHONHASHSEED")


def reference(task: ReasoningGymTask, example: Example) -> str | None:
    """Return an answer that is right, None where the data set tells none."""
    variant = task.config.variant
    if isinstance(example.columns["answer"], str):
        return task.demonstrate(example, random.Random(0))
    with pytest.raises(DataError, match="knows no answers"):
        task.demonstrate(example, random.Random(0))
    assert variant in SOLUTIONS.keys() | WITHOUT_SOLUTIONS
    return SOLUTIONS[variant](example.columns["metadata"]) if variant in SOLUTIONS else None


def timed_score(task: ReasoningGymTask, example: Example, text: str) -> float:
    start = time.process_time()
    score = task.grade(example, text)["score"]
    assert time.process_time() - start < SECONDS_PER_GRADE
    assert math.isfinite(score)
    assert 0 <= score <= 1
    return score


@pytest.mark.parametrize("name", NAMES)
def test_reference_answers_score_one_and_garbage_scores_less(name: str, tmp_path: Path) -> None:
    sizes = {"train_size": 1, "validation_size": 1, "test_size": NUM_ITEMS}
    task = ReasoningGymTask(ReasoningGymConfig(variant=name, params=SMALL.get(name, {}), **sizes))
    examples = [example for split in SPLITS for example in task.examples(split)]
    assert len({example.prompt for example in examples}) == NUM_ITEMS + 2
    canary = tmp_path / "canary"
    attack = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    texts = [*GARBAGE.values(), attack, f"[{attack}]"]
    for example in examples:
        right = reference(task, example)
        if right is not None:
            assert timed_score(task, example, right) == 1
        scores = [timed_score(task, example, text) for text in texts]
        assert name in EVERY_TEXT_SCORES or max(scores) < 1
        assert min(scores) < 1
    assert not canary.exists()


@pytest.mark.parametrize("name", SCORES_WITHOUT_SOLVING)
def test_wrong_text_that_scores_is_right_to_the_library_itself(name: str) -> None:
    dataset = build_dataset(name, {}, seed=1, size=NUM_ITEMS)
    task = ReasoningGymTask(ReasoningGymConfig(variant=name, train_size=1, validation_size=1))
    text = SCORES_WITHOUT_SOLVING[name]
    for index in range(NUM_ITEMS):
        entry = dataset[index]
        columns = {"answer": entry["answer"], "metadata": entry["metadata"]}
        example = Example(prompt=entry["question"], columns=columns)
        assert task.grade(example, text)["score"] == dataset.score_answer(text, entry)


def test_puzzle_that_needs_no_answer_is_left_out() -> None:
    sizes = {"train_size": 1, "validation_size": 1, "test_size": 60}
    params = {"min_scramble_steps": 3, "max_scramble_steps": 4}
    task = ReasoningGymTask(ReasoningGymConfig(variant="rubiks_cube", params=params, **sizes))
    assert all(task.grade(example, "")["score"] < 1 for example in task.examples("test"))
