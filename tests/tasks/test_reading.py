from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.tasks.reading import (
    answer_blocks,
    answer_candidates,
    boxed_contents,
    has_box,
    is_placeholder,
    until_end_of_turn,
)

PIECES = [
    "\\boxed{",
    "{",
    "}",
    "\\{",
    "\\",
    "<answer>",
    "</answer>",
    "</reasoning>",
    "\n",
    "5",
    " x ",
]
markup = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


@pytest.mark.parametrize("token", ["<|eot_id|>", "<|endoftext|>", "<|im_end|>", "</s>"])
def test_text_ends_at_the_first_end_token(token: str) -> None:
    assert until_end_of_turn(f"a{token}b<|eot_id|>") == "a"


def test_text_without_an_end_token_is_whole() -> None:
    assert until_end_of_turn("a <| b </answer>") == "a <| b </answer>"


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("<answer>5</answer>", ["5"]),
        ("<answer>\n5\n", ["5"]),
        ("<answer>5</answer> <answer>6</answer>", ["5", "6"]),
        ("<answer><answer>5</answer></answer>", ["", "5"]),
        ("<answer>5</answer}", ["5"]),
        ("<<answer\\boxed{14}", ["\\boxed{14}"]),
        ("<>answer>5</answer>", ["5"]),
        ("</answer>5", []),
        ("the answers", []),
        ("", []),
    ],
)
def test_answer_blocks_of_hand_checked_texts(text: str, blocks: list[str]) -> None:
    assert answer_blocks(text) == blocks


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        (r"\boxed{5} and \boxed{6}", ["5", "6"]),
        (r"\boxed{\frac{1}{2}}", [r"\frac{1}{2}"]),
        (r"\boxed {5} \fbox{6}", ["5", "6"]),
        (r"\boxed{\{1, 2\}}", [r"\{1, 2\}"]),
        (r"\boxed{\left\{1 \right.}", [r"\left\{1 \right."]),
        (r"\boxed{a\\{b}}", [r"a\\{b}"]),
        (r"\\boxed{5}", ["5"]),
        ("boxed{5}", ["5"]),
        (r"\boxed{\boxed{\boxed{4}}}", ["4"]),
        (r"\boxed{\boxed{4}+1}", [r"\boxed{4}+1"]),
        ("\\boxed{5\n6", ["5"]),
        ("\\boxed{5</answer>", ["5"]),
        ("\\boxed{60\\%\n</answer}", [r"60\%"]),
        (r"\boxed{5 and \boxed{7}", ["7"]),
        (r"} \boxed{5}} {\boxed{6}", ["5", "6"]),
        (r"\boxed{}", [""]),
        (r"\boxed 5", []),
    ],
)
def test_boxes_of_hand_checked_texts(text: str, contents: list[str]) -> None:
    assert boxed_contents(text) == contents


@given(st.text(alphabet="ab{}", max_size=10).filter(lambda t: _is_balanced(t)), markup)
def test_a_balanced_box_behind_anything_complete_is_read_last(inside: str, before: str) -> None:
    text = f"{before.replace('{', '').replace('<', '')}x\n\\boxed{{{inside}}}"
    assert boxed_contents(text)[-1] == inside


@given(markup)
def test_what_is_read_stands_in_the_text(text: str) -> None:
    for read in (*answer_blocks(text), *boxed_contents(text), *answer_candidates(text)):
        assert read in text or read.replace(" ", "") in text.replace(" ", "")
        assert read == read.strip()
    assert has_box(text) >= bool(boxed_contents(text))


@pytest.mark.parametrize("text", ["", " ", "...", " … ", "Your answer here", "."])
def test_dots_and_nothing_are_placeholders(text: str) -> None:
    assert is_placeholder(text)
    assert not is_placeholder(text + "5")


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (r"\boxed{4}</reasoning><answer>\boxed{5}</answer>", "5"),
        (r"\boxed{4}</reasoning><answer>5</answer>", "5"),
        (r"<answer>\boxed{5}</answer><answer>\boxed{6}</answer>", "6"),
        (r"<answer>\boxed{5}</answer><answer>\boxed{...}</answer>", "5"),
        (r"<answer>5</answer><answer></answer>", "5"),
        (r"<answer>\boxed{}32</answer>", "32"),
        (r"<answer>a long way </answer>\boxed{6}", "6"),
        (r"\boxed{4} then \boxed{...}", "4"),
        ("</reasoning>\nit is 5", "it is 5"),
        ("so</answer>\n120 calls", "120 calls"),
        ("no answer at all", None),
        (r"</reasoning>\boxed{\boxed{...}", None),
        ("", None),
    ],
)
def test_likeliest_answer_of_hand_checked_texts(text: str, first: str | None) -> None:
    assert next(answer_candidates(text), None) == first


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0
