from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers.integrations.flash_attention import flash_attention_forward

from dmpo.errors import CheckpointError, ConfigError
from dmpo.policies import loading
from dmpo.policies.llada import PUBLISHED, LladaConfig, LladaPolicy
from dmpo.policies.loading import (
    PublishedIds,
    check_attention,
    check_vocabulary,
    check_weight_files,
    special_ids,
)
from dmpo.policies.locate import INDEX
from dmpo.policies.tiny import character_tokenizer
from tests.policies.builders import random_sequences, small_policy

EOS, MASK = 3, 4  # of the tokenizer of "abc"


@pytest.fixture
def sharded(tmp_path, monkeypatch):
    """A small checkpoint in several files."""
    monkeypatch.setattr("dmpo.policies.transformers_backed.SHARD_SIZE", "30KB")
    small_policy().save(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    return tmp_path


def refusal(directory):
    with pytest.raises(CheckpointError) as caught:
        LladaPolicy(LladaConfig(model=str(directory)))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def ids(config=None, tokenizer=None, *, num_rows=5, published=None):
    return special_ids(
        SimpleNamespace(**(config or {})),
        tokenizer or character_tokenizer("abc"),
        num_rows=num_rows,
        directory="here",
        published=published,
    )


def undeclared():
    """A tokenizer that has the mask token and does not say that it is one."""
    tokenizer = character_tokenizer("abc")
    tokenizer.mask_token = None
    return tokenizer


def test_shards_are_read_back_exactly(sharded):
    policy, again = small_policy(), LladaPolicy(LladaConfig(model=str(sharded)))
    batch = random_sequences(policy)
    assert torch.equal(policy.token_logprobs(*batch), again.token_logprobs(*batch))
    again.load_weights(sharded)


def test_shards_are_marked_as_transformers_4_wants_them(sharded):
    for file in sharded.glob("model-*.safetensors"):
        with safe_open(file, framework="pt") as shard:
            assert shard.metadata()["format"] == "pt"


def test_missing_shard_is_named(sharded):
    victim = sorted(sharded.glob("model-*.safetensors"))[1]
    victim.unlink()
    said = refusal(sharded)
    assert victim.name in said
    assert "fetch the model again" in said


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_truncated_shard_is_named(sharded, keep):
    victim = sorted(sharded.glob("model-*.safetensors"))[1]
    victim.write_bytes(victim.read_bytes()[:keep])
    said = refusal(sharded)
    assert said.startswith(f"{victim}: the model cannot be loaded: SafetensorError: ")
    assert "the file is cut short or damaged, fetch it again" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read: Expecting property name"),
        ("\xff", "cannot be read"),
        ("[]", "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": {"x": 3}}', "x must lie in a file of this folder; given 3"),
        ('{"weight_map": {"x": "../x.safetensors"}}', "given '../x.safetensors'"),
        ('{"weight_map": {"x": "/etc/passwd"}}', "given '/etc/passwd'"),
        ('{"weight_map": {"x": ".."}}', "given '..'"),
        ('{"weight_map": {"x": "gone.safetensors"}}', "gone.safetensors is missing"),
    ],
)
def test_index_that_cannot_be_followed_is_refused(sharded, text, message):
    (sharded / INDEX).write_text(text, encoding="latin-1")
    said = refusal(sharded)
    assert message in said
    assert INDEX in said


def test_index_that_leaves_tensors_out_is_refused(sharded):
    content = json.loads((sharded / INDEX).read_text())
    first = content["weight_map"][next(iter(content["weight_map"]))]
    kept = {name: file for name, file in content["weight_map"].items() if file != first}
    (sharded / INDEX).write_text(json.dumps({**content, "weight_map": kept}))
    assert "missing tensors, first" in refusal(sharded)


def test_directory_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no model\.safetensors there"):
        check_weight_files(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of mapped files")
def test_weights_of_the_right_precision_are_not_copied(tmp_path):
    small_policy(dtype="bfloat16").save(tmp_path)
    policy = LladaPolicy(LladaConfig(model=str(tmp_path), dtype="bfloat16"))
    weights = [weight.data_ptr() for weight in policy.module.parameters()]
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = [line.split()[0].split("-") for line in maps if str(tmp_path) in line]
    ranges = [(int(low, 16), int(high, 16)) for low, high in mapped]
    assert all(any(low <= at < high for low, high in ranges) for at in weights)


@pytest.mark.parametrize("saved", ["float32", "bfloat16"])
@pytest.mark.parametrize("loaded", ["float32", "bfloat16", "float16"])
def test_weights_are_saved_in_the_precision_they_are_held_in(tmp_path, saved, loaded):
    small_policy(dtype=saved).save(tmp_path / "one")
    LladaPolicy(LladaConfig(model=str(tmp_path / "one"), dtype=loaded)).save(tmp_path / "two")
    tensors = load_file(tmp_path / "two" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, loaded)}
    assert json.loads((tmp_path / "two" / "config.json").read_text())["torch_dtype"] == loaded


def test_ids_are_the_configs_before_the_tokenizers():
    config = {"mask_token_id": 4, "eos_token_id": 3, "pad_token_id": 0}
    assert ids(config) == (4, 3, 0)
    assert ids() == (MASK, EOS, EOS)
    assert ids({"eos_token_id": [3, 4]}) == (MASK, EOS, EOS)


def test_pad_is_eos_where_nobody_names_one():
    tokenizer = character_tokenizer("abc")
    tokenizer.pad_token = None
    assert ids(tokenizer=tokenizer).pad == EOS


def test_published_ids_hold_for_the_published_vocabulary_alone():
    published = PublishedIds(num_rows=5, mask=MASK, eos=EOS)
    assert ids(tokenizer=undeclared(), published=published).mask == MASK
    with pytest.raises(
        CheckpointError, match="mask_token_id is missing, and the tokenizer declares"
    ):
        ids(tokenizer=undeclared(), num_rows=6, published=published)
    assert (PUBLISHED.num_rows, PUBLISHED.mask, PUBLISHED.eos) == (126464, 126336, 126081)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mask_token_id": 9}, r"mask_token_id is outside the vocabulary \(9 of 5 rows\)"),
        ({"eos_token_id": -1}, "eos_token_id is outside"),
        ({"pad_token_id": 5}, "pad_token_id is outside"),
        ({"eos_token_id": 4}, "mask_token_id and eos_token_id are both 4"),
        ({"mask_token_id": 2}, "mask_token_id is 2, but the tokenizer's mask token .* is 4"),
    ],
)
def test_wrong_ids_are_refused(config, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        ids(config)
    assert str(caught.value).startswith("here: config.json: ")


def test_mask_beyond_the_tokenizer_is_taken_at_its_word():
    assert ids({"mask_token_id": 7}, undeclared(), num_rows=8).mask == 7


def test_tokenizer_that_is_too_large_is_refused():
    check_vocabulary(character_tokenizer("abc"), num_rows=5, directory="here")
    with pytest.raises(CheckpointError, match=r"here: tokenizer.json: it has token 4; .* 4 rows"):
        check_vocabulary(character_tokenizer("abc"), num_rows=4, directory="here")


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3"])
@pytest.mark.parametrize(
    ("cuda", "installed", "dtype", "reason"),
    [
        (False, True, "bfloat16", "needs a CUDA device"),
        (True, False, "bfloat16", "needs the package flash-attn"),
        (True, True, "float32", "half precision alone; set policy.dtype to bfloat16"),
    ],
)
def test_flash_attention_that_cannot_run_is_refused(
    monkeypatch, name, cuda, installed, dtype, reason
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    package, _ = loading.FLASH_ATTENTION[name]
    monkeypatch.setitem(loading.FLASH_ATTENTION, name, (package, lambda: installed))
    with pytest.raises(ConfigError, match=f"policy.attention: {name} .*{reason}") as caught:
        check_attention(name, dtype=dtype)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_flash_attention_is_refused_before_anything_is_fetched():
    config = LladaConfig(model="owner/name", attention="flash_attention_2", dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"policy\.attention"):
        LladaPolicy(config)


@pytest.mark.parametrize(
    "attention", ["eager", pytest.param("flex_attention", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("padded", [True, False])
def test_attention_kernels_agree(attention, padded):
    policy, other = small_policy(), small_policy(attention=attention)
    batch = random_sequences(policy, padded=padded)
    with policy.evaluating(), other.evaluating():
        torch.testing.assert_close(
            other.token_logprobs(*batch), policy.token_logprobs(*batch), atol=1e-4, rtol=1e-4
        )


def test_flash_attention_is_told_to_look_both_ways(monkeypatch):
    asked = []

    def kernel(query, *_, is_causal, **__):
        asked.append(is_causal)
        return torch.zeros_like(query)

    monkeypatch.setitem(flash_attention_forward.__globals__, "_flash_attention_forward", kernel)
    policy = small_policy()
    monkeypatch.setattr(policy.module.causal_lm.config, "_attn_implementation", "flash_attention_2")
    with policy.evaluating():
        policy.token_logprobs(*random_sequences(policy))
    assert asked
    assert not any(asked)
