from __future__ import annotations

import concurrent.futures
import multiprocessing
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.tasks.mathematics import MathVerifier, equivalent

# (answer, reference) that are decided without algebra
EXACT = [
    ("5", "5"),
    ("5.", "5"),
    (r"\frac12", r"\dfrac{1}{2}"),
    (r"\frac{3}{24}", r"\frac{1}{8}"),
    ("15.975", r"\frac{639}{40}"),
    ("36.00", r"\$36"),
    (r"10,\!080", "10080"),
    ("50", r"50\%"),
    ("0.5", r"50\%"),
    (r"90^\circ", "90"),
    ("4210_5", "4210_{5}"),
    ("40", "40_9"),
    ("East", r"\text{east}"),
    ("C", r"\text{(C)}"),
    (r"\left(1, 2\right)", "(1,2)"),
]
UNEQUAL = [
    ("5", "6"),
    ("0.333333333", r"\frac{1}{3}"),
    ("40_8", "40_9"),
    ("neve", r"\text{even}"),
    (r"\text{odd}", r"\text{even}"),
    ("", "5"),
    (" ", "5"),
    ("²", "2"),
    ("٣", "3"),
]
ALGEBRA = [
    ("7i - 2", "-2 + 7i", True),
    ("3, 7, 5", "3, 5, 7", True),
    ("(1,2)", "(2,1)", False),
    (r"\sqrt{3}/3", r"\frac{\sqrt{3}}{3}", True),
    ("(x+1)^2", "x^2+2x+1", True),
    ("[-2, 7]", r"x \in [-2,7]", True),
    (r"-2 \le x \le 7", "[-2,7]", True),
    ("x = 5", "5", True),
    ("5x", "5", False),
    ("12 cm", "12", True),
    (r"7! \times 2!", "10080", True),
    ("[1,2]", "(1,2)", False),
]


@pytest.mark.parametrize(("answer", "reference"), EXACT)
def test_equal_writings_words_and_numbers_are_equal(answer: str, reference: str) -> None:
    assert equivalent(answer, reference, seconds=0.001)


@pytest.mark.parametrize(("answer", "reference"), UNEQUAL)
def test_other_words_and_numbers_are_not(answer: str, reference: str) -> None:
    assert not equivalent(answer, reference, seconds=0.001)


def test_algebra_is_decided_by_math_verify() -> None:
    verdicts = [equivalent(answer, reference, seconds=60.0) for answer, reference, _ in ALGEBRA]
    assert verdicts == [right for _, _, right in ALGEBRA]


@pytest.mark.parametrize("bomb", ["9^{9^{9^{9}}}", "((((" * 200 + "1"])
def test_a_comparison_ends_at_its_time_limit(bomb: str) -> None:
    verifier = MathVerifier()
    try:
        assert verifier.equivalent("x+1", "1+x", seconds=60.0)  # the process has started
        start = time.monotonic()
        assert not verifier.equivalent(bomb, "x+7", seconds=0.5)
        assert time.monotonic() - start < 3
        assert verifier.equivalent("x+1", "1+x", seconds=60.0)
    finally:
        verifier.close()


def test_the_time_limit_holds_in_threads() -> None:
    pairs = [("9^{9^{9^{8}}}", "x+7"), ("x+2", "2+x"), ("9^{9^{8^{9}}}", "x+7")]
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        limits = [1.0, 60.0, 1.0]
        verdicts = threads.map(lambda pair, s: equivalent(*pair, seconds=s), pairs, limits)
        assert list(verdicts) == [False, True, False]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_daemonic_process_may_ask(method: str) -> None:
    assert equivalent("x+1", "1+x", seconds=60.0)  # this process has a verifier already
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    child = context.Process(target=_ask, args=(queue,), daemon=True)
    child.start()
    child.join(120)
    assert child.exitcode == 0
    assert queue.get() == [True, False]
    assert equivalent("x+3", "3+x", seconds=60.0)


def test_a_text_beyond_the_bound_equals_nothing_but_itself() -> None:
    start = time.monotonic()
    assert not equivalent("1+" * 5_000_000 + "1", "5000001")
    assert equivalent("x" * 2000, "x" * 2000)
    assert time.monotonic() - start < 1


@given(st.fractions(max_denominator=999).map(str), st.sampled_from(["{}", "${}$", r"{}\%", "{} "]))
def test_a_number_equals_itself_with_any_sign(number: str, written: str) -> None:
    assert equivalent(written.format(number), number, seconds=0.001)


def _ask(queue: multiprocessing.SimpleQueue[list[bool]]) -> None:
    queue.put(
        [
            equivalent("2+y", "y+2", seconds=60.0),
            equivalent("9^{9^{9^{7}}}", "x+7", seconds=1.0),
        ]
    )
