from __future__ import annotations

import inspect
import re
import time

import pytest
from dmpo_reasoning_gym.guard import GUARDS, is_safe
from hypothesis import given
from hypothesis import strategies as st
from reasoning_gym.factory import DATASETS

LITERAL = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
EVALUATING = (
    *LITERAL,
    "countdown",
    "puzzle24",
    "intermediate_integration",
    "polynomial_multiplication",
    "simple_integration",
)
EVALUATES = re.compile(r"(?<![\w.])(?:sp\.|sympy\.)?(?:eval|exec|parse_expr|sympify)\(")


def test_every_scorer_that_evaluates_text_is_guarded() -> None:
    evaluating = {
        name
        for name, (dataset, _) in DATASETS.items()
        if EVALUATES.search(inspect.getsource(dataset.score_answer))
    }
    own_answer_alone = {"number_sorting"}
    assert evaluating - own_answer_alone == set(EVALUATING)
    assert evaluating - own_answer_alone < set(GUARDS)


@pytest.mark.parametrize("name", EVALUATING)
@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "[c for c in ().__class__.__bases__]",
        "open('x','w')",
        "print(1)",
        "exit()",
        "x.diff()",
        "9**9**9**9",
        "((9**99)**99)**99",
        "x**(9**9)",
        "2**x",
        "9**99999999",
        "999999999999999999999",
        "factorial(99999)",
        "1e99999999",
        "99999!",
        "lambda: 0",
        "[0]*999999999",
        'F"{1}"',
        "[" * 5000,
    ],
)
def test_harmful_text_is_not_handed_on(name: str, text: str) -> None:
    start = time.process_time()
    literal_only = name in LITERAL
    if not (literal_only and re.fullmatch(r"[0-9]+", text)):
        assert not is_safe(name, text)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("spiral_matrix", "[1, 2, -3]"),
        ("string_insertion", "['A', \"B\"]"),
        ("n_queens", "[['Q', '_'], ['_', 'Q']]"),
        ("countdown", "19*(75 - 45) - 71"),
        ("polynomial_multiplication", "12*x**5 - 3*x + 7*y*z"),
        ("simple_integration", "x**2/2 + exp(3*x)*sin(x)/4 + C"),
        ("simple_integration", "2.5*(x + 1)**(3) - 1/(x)**2 + log(x)"),
        ("leg_counting", "anything goes: there are 12 legs"),
    ],
)
def test_harmless_text_is_handed_on(name: str, text: str) -> None:
    assert is_safe(name, text)


@given(st.text(alphabet="x9*()^ +eE.", max_size=30))
def test_formulas_that_pass_have_bounded_powers(text: str) -> None:
    if is_safe("simple_integration", text):
        assert not re.search(r"\*\*\s*\(?\s*-?\s*(?:[0-9]{3,}|x)", text)
        assert not re.search(r"\*\*\s*[0-9]+\s*\*\*", text)


def test_fraction_scorer_is_kept_from_huge_exponents() -> None:
    assert not is_safe("coin_flip", "1e999999999")


def test_complex_numbers_are_handed_on_and_nan_is_not() -> None:
    assert is_safe("complex_arithmetic", "-3.5 + 2i")
    assert not is_safe("complex_arithmetic", "nan")
