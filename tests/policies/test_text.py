from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.errors import CheckpointError, DataError
from dmpo.policies.text import TextCodec, load_tokenizer, save_tokenizer
from dmpo.policies.tiny import LladaShape, character_tokenizer
from dmpo.records import Example
from tests.oracles.policies import first_eos

CHARACTERS = LladaShape().characters
EOS = len(CHARACTERS)
CPU = torch.device("cpu")

texts = st.text(alphabet=CHARACTERS, max_size=20).filter(lambda text: "<|" not in text)


def codec(**changes):
    tokenizer = changes.pop("tokenizer", None) or character_tokenizer(CHARACTERS)
    return TextCodec(
        tokenizer, **{"eos_token_id": EOS, "pad_token_id": EOS, "max_length": 12, **changes}
    )


CODEC = codec()


@given(st.lists(texts, min_size=1, max_size=4))
def test_answers_survive_the_canvas(answers):
    canvas = CODEC.encode_completions(answers, 20, CPU)
    assert canvas.shape == (len(answers), 20)
    assert CODEC.decode(canvas) == answers


@given(st.lists(texts.filter(lambda text: 0 < len(text) <= 12), min_size=1, max_size=4))
def test_prompts_are_padded_on_the_left(prompts):
    encoded = CODEC.encode([Example(prompt=prompt) for prompt in prompts], CPU)
    for row, mask, prompt in zip(encoded.tokens, encoded.attention_mask, prompts, strict=True):
        assert mask.sum() == len(prompt)
        assert mask.tolist() == sorted(mask.tolist())
        assert row[mask].tolist() == [CHARACTERS.index(character) for character in prompt]
        assert (row[~mask] == EOS).all()


@given(st.lists(st.integers(0, EOS + 1), min_size=8, max_size=8))
def test_decoding_stops_at_the_first_eos_and_drops_masks(row):
    expected = "".join(CHARACTERS[token] for token in first_eos(row, EOS) if token < EOS)
    assert CODEC.decode(torch.tensor([row])) == [expected]


def test_each_character_is_one_token():
    ids = character_tokenizer(CHARACTERS)(CHARACTERS)["input_ids"]
    assert ids == list(range(len(CHARACTERS)))


def test_answer_that_exactly_fills_the_canvas_is_accepted():
    assert (CODEC.encode_completions(["12345"], 5, CPU) != EOS).all()


def test_answer_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match="completion 1: 6 tokens do not fit a canvas of 5"):
        CODEC.encode_completions(["1", "123456"], 5, CPU)


def test_empty_prompt_is_refused():
    with pytest.raises(DataError, match="prompt 1: it is empty"):
        CODEC.encode([Example(prompt="1"), Example(prompt="")], CPU)


def test_no_prompts_are_refused():
    with pytest.raises(DataError, match="none given"):
        CODEC.encode([], CPU)


def test_prompt_beyond_the_context_is_refused():
    with pytest.raises(DataError, match="13 tokens, longer than the model's context of 12"):
        CODEC.encode([Example(prompt="1" * 13)], CPU)


def test_character_without_a_token_is_named():
    with pytest.raises(DataError, match="prompt 0: the tokenizer has no token for 'é'"):
        CODEC.encode([Example(prompt="café")], CPU)


def test_chat_template_is_applied_where_there_is_one():
    tokenizer = character_tokenizer(CHARACTERS)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    encoded = codec(tokenizer=tokenizer).encode([Example(prompt="1+1=")], CPU)
    assert CODEC.decode(encoded.tokens) == ["[user]1+1=>"]


def test_chat_template_that_fails_is_named():
    tokenizer = character_tokenizer(CHARACTERS)
    tokenizer.chat_template = "{{ raise_exception('no system') }}"
    with pytest.raises(CheckpointError, match=r"chat template fails .*TemplateError: no system"):
        codec(tokenizer=tokenizer).encode([Example(prompt="a")], CPU)


def test_tokenizer_is_written_as_transformers_4_reads_it(tmp_path):
    tokenizer = character_tokenizer(CHARACTERS)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = "<|turn|>{{ messages[0].content }}"
    save_tokenizer(tokenizer, tmp_path)
    content = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert content["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert content["chat_template"] == tokenizer.chat_template
    assert content["additional_special_tokens"] == ["<|turn|>"]
    assert not (tmp_path / "chat_template.jinja").exists()
    again = load_tokenizer(tmp_path)
    assert again.chat_template == tokenizer.chat_template
    assert again.all_special_tokens == tokenizer.all_special_tokens
