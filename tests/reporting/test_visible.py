from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.reporting.visible import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b\x1b[31m", "a␀b␛[31m"),
        ("\u202eevil\u2066", "⟨U+202E⟩evil⟨U+2066⟩"),
        ("half \ud83d of a pair", "half ⟨U+D83D⟩ of a pair"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("שלום 数独 👩‍👧 é", "שלום 数独 👩‍👧 é"),
    ],
)
def test_what_works_unseen_is_shown_and_letters_stay(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(codec=None)))
def test_visible_text_is_utf8_without_control_codes(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not any(unicodedata.category(c) == "Cc" and c not in "\t\n" for c in shown)
    assert visible(shown) == shown


def test_long_text_is_cut_with_a_note() -> None:
    assert visible("x" * 1_000_000, 10) == "xxxxxxxxxx … (cut: 1,000,000 characters in all)"
    assert visible("x" * 10, 10) == "x" * 10
