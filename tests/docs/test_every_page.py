"""No page has an example that no test looks at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.fences import DOCS, fences

PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
TESTS = "".join(
    path.read_text(encoding="utf-8")
    for path in sorted(Path(__file__).parent.glob("test_*.py"))
    if path != Path(__file__)
)
RUNS = ("bash", "python")


@pytest.mark.parametrize("page", PAGES)
def test_examples_of_a_page_are_looked_at_by_a_test_that_names_it(page: str) -> None:
    languages = {fence.language for fence in fences(page)}
    if languages & set(RUNS) and not page.startswith("concepts/"):  # test_concepts has them all
        assert page in TESTS


def test_commands_that_are_not_run_here_show_a_prompt() -> None:
    for page in PAGES:
        for fence in fences(page):
            if fence.language == "console":
                first, *_ = fence.text.splitlines()
                assert first.startswith("$ "), (page, first)
