"""The concept pages: their pictures are what the code draws, their code prints what they show."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.docs.fences import DOCS

PAGES = sorted(page.stem for page in (DOCS / "concepts").glob("*.md"))
FOLDER = DOCS / "images" / "concepts"
COMMITTED = sorted(picture.stem for picture in FOLDER.glob("*.svg"))

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
_EXAMPLE = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.M | re.S)
_PICTURE = re.compile(r"!\[([^\]]*)\]\(\.\./images/concepts/(\w+)\.svg\)")
_MEASURED = re.compile(r"\d+\.\d+ ± \d+\.\d+")


@pytest.fixture(scope="module")
def pictures() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DOCS))
    try:
        yield importlib.import_module("pictures")
    finally:
        sys.path.remove(str(DOCS))


def differences(shown: str, made: str) -> list[tuple[str, str]]:
    """Return where two texts differ by more than the last digit of a number with decimals."""
    ours, theirs = _NUMBER.split(shown), _NUMBER.split(made)
    if len(ours) != len(theirs):
        return [(shown[:200], made[:200])]
    return [pair for pair in zip(ours, theirs, strict=True) if not _alike(*pair)]


def _alike(shown: str, made: str) -> bool:
    decimals = max(len(text.partition(".")[2]) for text in (shown, made))
    if shown == made or not (_NUMBER.fullmatch(shown) and _NUMBER.fullmatch(made) and decimals):
        return shown == made
    return abs(float(shown) - float(made)) < 1.5 * 10**-decimals


def text_of(page: str) -> str:
    return (DOCS / "concepts" / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMITTED)
def test_picture_is_what_the_code_draws(name: str, pictures: ModuleType) -> None:
    shown = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert differences(shown, pictures.PICTURES[name]()) == []
    assert len(shown) < 40_000


def test_every_picture_is_committed_and_shown_with_words_for_who_cannot_see_it(
    pictures: ModuleType,
) -> None:
    pages = [text_of(page) for page in PAGES]
    pages.append((DOCS / "guides" / "metrics.md").read_text(encoding="utf-8"))
    shown = [found for page in pages for found in _PICTURE.findall(page)]
    assert sorted(name for _, name in shown) == COMMITTED == sorted(pictures.PICTURES)
    assert [name for words, name in shown if len(words) < 40] == []


@pytest.mark.parametrize("page", PAGES)
def test_examples_print_what_the_page_shows(page: str) -> None:
    names: dict[str, Any] = {}
    examples = _EXAMPLE.findall(text_of(page))
    assert examples
    for code, shown in examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page, "exec"), names)
        assert differences(shown, printed.getvalue()) == []


@pytest.mark.parametrize("page", [*(f"concepts/{page}" for page in PAGES), "guides/choose"])
def test_measured_figures_stand_in_the_results(page: str) -> None:
    files = (DOCS.parent / "benchmarks" / "results").glob("*.md")
    results = "\n".join(file.read_text(encoding="utf-8") for file in files)
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert [figure for figure in _MEASURED.findall(text) if figure not in results] == []


def test_the_last_digit_of_a_number_with_decimals_is_all_that_may_differ() -> None:
    assert differences("x 12.3, 0.45, 7", "x 12.4, 0.46, 7") == []
    assert differences('height="12"', 'height="12.1"') == []
    assert differences("digit 3", "digit 4") == [("3", "4")]
    assert differences("0.45", "0.47") == [("0.45", "0.47")]
    assert differences("1 2", "1 2 3") != []
