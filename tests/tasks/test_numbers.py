from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.tasks.numbers import exact_number, format_number, number_in

fractions = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**4)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", 18),
        ("18.", 18),
        ("18.00", 18),
        (".5", "1/2"),
        ("$1,234.50", "1234.5"),
        (r"\$1{,}000", 1000),
        (r"10,\!080", 10080),
        (r"11,\! 111,\! 100", 11111100),
        ("1 000", 1000),
        ("1,000,000", 1000000),
        ("-5", -5),
        ("- 5", -5),
        ("−7", -7),
        (r"50\%", 50),
        (r"90^\circ", 90),
        ("3/4", "3/4"),
        (r"\frac{3}{4}", "3/4"),
        (r"-\dfrac{3}{4}", "-3/4"),
        (r"\frac34", "3/4"),
        ("1 1/2", "3/2"),
        (r"1\frac{1}{2}", "3/2"),
        ("1e5", 100000),
        (r"1.5 \times 10^{3}", 1500),
        ("**18**", 18),
    ],
)
def test_a_number_alone_is_read_exactly(text: str, number: int | str) -> None:
    assert exact_number(text) == number_in(text) == Fraction(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18 dollars", 18),
        (r"12 \text{ m}^2", 12),
        (r"5\text{ apples}", 5),
        ("x = 5", 5),
        ("5 + 3 = 8", 8),
        (r"\frac{10}{4} \approx 2.5", "5/2"),
        ("18 = x", 18),
        ("3 + 4", 7),
        (r"2 \times 9", 18),
        ("The 3 friends get 5 cookies each.", 5),
        ("2:00 pm", 2),
        ("10-20", -10),
    ],
)
def test_the_number_of_an_answer_with_words_or_signs(text: str, number: int | str) -> None:
    assert number_in(text) == Fraction(number)
    assert exact_number(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "86, 42",
        "86 and 42",
        "10:30",
        "3.14.15",
        "1,23",
        "5/0",
        "10^6",
        "9**9**9**9",
        "²",
        "٣",
        "１２",
        "Ⅷ",
        "\0",
        "\ud800",
        "9" * 61,
        "9" * 100_000,
        "1e999",
    ],
)
def test_what_gives_no_number_or_more_than_one(text: str) -> None:
    assert exact_number(text) is number_in(text) is None


@given(fractions)
def test_the_shortest_writing_is_read_back(number: Fraction) -> None:
    assert exact_number(format_number(number)) == number


@given(st.integers(-(10**12), 10**12))
def test_thousands_separators_change_nothing(number: int) -> None:
    assert exact_number(f"{number:,}") == exact_number(f"${number:,}.00") == number


@pytest.mark.parametrize(
    ("number", "text"),
    [("18", "18"), ("33/2", "16.5"), ("-1/8", "-0.125"), ("2/3", "2/3"), ("0", "0")],
)
def test_shortest_writing_of_hand_checked_numbers(number: str, text: str) -> None:
    assert format_number(Fraction(number)) == text


@given(st.text(max_size=1200) | st.text(alphabet="0123,./-+ %$\\frac{}=e^*", max_size=60))
def test_any_text_gives_a_fraction_or_none(text: str) -> None:
    for number in (number_in(text), exact_number(text)):
        assert number is None or isinstance(number, Fraction)
