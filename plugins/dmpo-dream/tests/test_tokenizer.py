from __future__ import annotations

import json
from pathlib import Path

import pytest
from dmpo_dream.tokenizer import load_dream_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2TokenizerFast

from dmpo.errors import CheckpointError
from dmpo.policies.text import load_tokenizer, save_tokenizer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MESSAGES = [{"role": "user", "content": "Hello the 12+3 — it's naïve"}]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer in the published files: vocab.json, merges.txt, tokenizer_config.json."""
    directory = tmp_path_factory.mktemp("tokenizer")
    text = ["the quick brown fox", "Hello the world", "it's the assistant of the user"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(text * 3, trainer)
    model = json.loads(trained.to_str())["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) for pair in model["merges"]]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    first = len(model["vocab"])
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(first + index): {"content": token, "special": True, **flags}
            for index, token in enumerate(SPECIAL)
        },
        "additional_special_tokens": ["<|beginoftext|>", "<|mask|>"],
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "bos_token": "<|beginoftext|>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "errors": "replace",
        "mask_token": "<|mask|>",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def prompt(tokenizer):
    text = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    return text, tokenizer(text, add_special_tokens=False)["input_ids"]


def test_published_files_give_a_fast_tokenizer_with_its_special_tokens(published):
    tokenizer = load_dream_tokenizer(published)
    assert tokenizer.is_fast
    first = len(json.loads((published / "vocab.json").read_text()))
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(first, first + 5))
    assert tokenizer.mask_token_id == first + 4
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == first


def test_text_and_special_tokens_survive(published):
    tokenizer = load_dream_tokenizer(published)
    text, ids = prompt(tokenizer)
    assert text.startswith("<|im_start|>user\nHello")
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace(
        "<|im_start|>", ""
    ).replace("<|im_end|>", "")


def test_text_is_split_as_qwen_splits_it(published):
    tokens = load_dream_tokenizer(published).tokenize("the the 12 it's")
    assert tokens[:2] == ["the", "Ġthe"]
    assert tokens[2:5] == ["Ġ", "1", "2"]  # digits one by one


def test_saved_tokenizer_needs_no_code_of_its_own(published, tmp_path):
    tokenizer = load_dream_tokenizer(published)
    save_tokenizer(tokenizer, tmp_path)
    again = load_dream_tokenizer(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    assert prompt(again) == prompt(tokenizer) == prompt(load_tokenizer(tmp_path))
    assert again.mask_token_id == tokenizer.mask_token_id
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "auto_map" not in config
    assert config["chat_template"] == TEMPLATE
    assert config["additional_special_tokens"] == ["<|beginoftext|>", "<|mask|>"]


def test_special_tokens_equal_those_of_the_librarys_own_class(published):
    ours = load_dream_tokenizer(published)
    library = Qwen2TokenizerFast.from_pretrained(str(published), local_files_only=True)
    assert prompt(ours) == prompt(library)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, "{ not this"])
def test_missing_and_broken_files_are_one_clear_line(published, tmp_path, name, content):
    for file in published.iterdir():
        if file.name != name:
            (tmp_path / file.name).write_text(file.read_text())
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=name) as caught:
        load_dream_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
