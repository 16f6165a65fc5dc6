from __future__ import annotations

import contextlib
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.tasks.expressions import (
    Expression,
    ExpressionError,
    Negation,
    Number,
    Operation,
    evaluate,
    format_expression,
    numbers_in,
    parse_expression,
)
from tests.oracles.tasks import python_value

trees = st.recursive(
    st.builds(Number, st.integers(0, 99)),
    lambda inner: (
        st.builds(Negation, inner) | st.builds(Operation, st.sampled_from("+-*/"), inner, inner)
    ),
    max_leaves=8,
)


def value_or_none(tree: Expression) -> Fraction | None:
    try:
        return evaluate(tree)
    except ExpressionError:
        return None


@given(trees)
def test_text_of_a_tree_parses_to_the_tree(tree: Expression) -> None:
    assert parse_expression(format_expression(tree)) == tree


@given(trees)
def test_value_is_pythons_value(tree: Expression) -> None:
    assert value_or_none(tree) == python_value(format_expression(tree))


@given(st.text(alphabet="0123456789+-*/() ", max_size=12))
def test_what_parses_has_pythons_value_with_needless_zeros_left_out(text: str) -> None:
    try:
        tree = parse_expression(text)
    except ExpressionError:
        return
    assert value_or_none(tree) == python_value(format_expression(tree))


@given(st.text(max_size=300) | st.text(alphabet="12+-*/×÷−()٣² ", max_size=300))
def test_any_text_parses_or_raises_the_modules_own_error(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        assert isinstance(evaluate(parse_expression(text)), Fraction)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2+3*4", 14),
        ("(2+3)*4", 20),
        ("10-3-2", 5),
        ("12/4/3", 1),
        ("7/2", Fraction(7, 2)),
        ("-3 - -5", 2),
        ("2×3−8÷4", 4),
        ("--+1", 1),
        (" 25 * 3\n- 7 ", 68),
    ],
)
def test_value_of_hand_checked_expressions(text: str, value: Fraction) -> None:
    assert evaluate(parse_expression(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9**9",
        "__import__('os')",
        "1e9",
        "0x10",
        "1_000",
        "2(3)",
        "(2)(3)",
        "1 2",
        "1.5",
        "2^3",
        "7//2",
        "1,2",
        "٣+٤",
        "１+２",
        "²",
        "",
        " ",
        "()",
        "(1",
        "1)",
        "+",
        "1+",
        "*1",
        "1=1",
        "9" * 13,
        "(" * 40 + "1" + ")" * 40,
        "-" * 40 + "1",
        "1+" * 200 + "1",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(text)


@pytest.mark.parametrize("text", ["(" * 100_000, "1+" * 100_000, "-" * 100_000, " " * 100_000])
def test_long_text_is_refused_at_once(text: str) -> None:
    start = time.process_time()
    with pytest.raises(ExpressionError, match="longer than 256"):
        parse_expression(text)
    assert time.process_time() - start < 0.1


def test_longest_accepted_product_stays_small() -> None:
    text = "*".join(["999999999999"] * 19)
    assert evaluate(parse_expression(text)) == 999999999999**19


def test_division_by_zero_has_no_value() -> None:
    with pytest.raises(ExpressionError, match="divides by zero"):
        evaluate(parse_expression("1/(2-2)"))


def test_numbers_are_those_written_from_left_to_right() -> None:
    assert numbers_in(parse_expression("-(25*3)-07+25")) == (25, 3, 7, 25)
