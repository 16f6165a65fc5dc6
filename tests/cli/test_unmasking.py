from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dmpo.cli.unmasking import (
    Piece,
    Role,
    canvas_pieces,
    canvas_roles,
    folded,
    num_answered,
)
from dmpo.policies.text import TextCodec

EOS = 256
ROLES: dict[str, Role] = {"h": "hidden", "n": "new", "o": "old", "i": "ignored"}


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    """A tokenizer of 256 bytes, so that a character may be several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    return TextCodec(fast, eos_token_id=EOS, pad_token_id=EOS, max_length=64)


def pieces(codec: TextCodec, text: str, roles: str) -> list[tuple[str, str]]:
    """Return text and role (by its letter) of each piece of a canvas."""
    tokens = codec.tokenizer(text)["input_ids"]
    drawn = canvas_pieces(
        tokens,
        [ROLES[letter] for letter in roles],
        decode=codec.decode,
        eos_token_id=EOS,
        hidden="?",
        end="$",
    )
    return [(piece.text, piece.role[0]) for piece in drawn]


def test_pieces_are_cut_where_roles_change(codec: TextCodec) -> None:
    assert pieces(codec, "abcdef", "oonhhn") == [("ab", "o"), ("c", "n"), ("??", "h"), ("f", "n")]


def test_character_of_several_tokens_is_whole_as_soon_as_they_are_known(codec: TextCodec) -> None:
    assert pieces(codec, "aé", "ooo") == [("aé", "o")]
    assert pieces(codec, "aé", "oon") == [("a", "o"), ("é", "n")]
    assert pieces(codec, "é😀", "onoonn") == [("", "o"), ("é", "n"), ("", "o"), ("😀", "n")]


def test_part_of_a_character_is_one_replacement(codec: TextCodec) -> None:
    assert pieces(codec, "aé", "ooh") == [("a\ufffd", "o"), ("?", "h")]


def test_eos_is_a_glyph_and_what_follows_is_still_shown(codec: TextCodec) -> None:
    assert pieces(codec, "a<end>b", "oii") == [("a", "o"), ("$", "i"), ("b", "i")]


def test_roles_tell_a_step_s_tokens_from_earlier_ones() -> None:
    hidden, was_hidden = [False, True, False, False, False], [True, True, False, False, True]
    roles = canvas_roles([1, 0, 2, EOS, 3], hidden, was_hidden, eos=EOS)
    assert roles == ["new", "hidden", "old", "ignored", "new"]


def test_tokens_behind_the_first_known_eos_do_not_count() -> None:
    assert num_answered([1, EOS, 2, EOS, 3], [False, True, False, False, False], eos=EOS) == 3
    assert num_answered([1, 2], [False, False], eos=EOS) == 2


def test_lines_are_cut_at_the_edge_and_at_line_breaks() -> None:
    lines = folded([Piece("ab\ncdefg", "old"), Piece("??", "hidden")], 4, 9, "utf-8")
    assert [line.plain for line in lines] == ["ab", "cdef", "g??"]


def test_lines_around_what_was_revealed_last_are_shown() -> None:
    tall = [Piece("a\nb\nc\n", "old"), Piece("d", "new"), Piece("\ne\nf\ng", "old")]
    assert [line.plain for line in folded(tall, 9, 3, "utf-8")] == ["c", "d", "e"]
    assert [line.plain for line in folded(tall[2:], 9, 2, "utf-8")] == ["", "e"]


def test_control_codes_and_what_the_terminal_lacks_are_replaced() -> None:
    (line,) = folded([Piece("\x1b[31ma\té\u2028", "old")], 20, 9, "ascii")
    assert line.plain == " [31ma ? "


@given(text=st.text(max_size=40), width=st.integers(2, 9))
def test_no_line_is_wider_than_the_terminal(text: str, width: int) -> None:
    lines = folded([Piece(text, "old"), Piece("░░░", "hidden")], width, 99, "utf-16")
    assert max(cell_len(line.plain) for line in lines) <= width
