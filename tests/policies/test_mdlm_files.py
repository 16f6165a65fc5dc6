"""What is wrong with a checkpoint is one line, whatever it is."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from dmpo.errors import CheckpointError, ConfigError
from tests.policies.mdlm_checkpoints import ENCODERS, load, rewrite, write_checkpoint


def refusal(error, directory, **settings):
    """Return the one line that a checkpoint is refused with."""
    with pytest.raises(error) as caught:
        load(directory, **settings)
    line = str(caught.value)
    assert "\n" not in line
    return line


def edit_tensors(directory, **changes):
    """Rewrite tensors of model.safetensors; None takes one away."""
    file = directory / "model.safetensors"
    tensors = load_file(file) | changes
    save_file({k: v for k, v in tensors.items() if v is not None}, file, {"format": "pt"})


def without_mask_token(directory):
    """Make a tokenizer that has the token and does not say that it is the mask."""
    rewrite(directory / "tokenizer_config.json", mask_token=None)
    return directory


@pytest.mark.parametrize(
    ("model_type", "hint"),
    [("llada", " Choose --policy llada."), ("Dream", " Choose --policy dream."), ("gpt2", "")],
)
def test_mdlm_of_another_family_is_told_what_is_accepted(model_type, hint, tmp_path):
    rewrite(write_checkpoint(tmp_path, "llama") / "config.json", model_type=model_type)
    line = refusal(CheckpointError, tmp_path)
    assert f"its model_type is '{model_type}'; the mdlm policy accepts llama, qwen2, qwen3" in line
    assert line.endswith(f"bert, distilbert, modernbert.{hint}")


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"model_type": None}, "model_type is None"),
        ("llama", {"hidden_size": "x"}, "config.json cannot be used"),
        ("llama", {"num_attention_heads": 0}, "config.json cannot be used"),
        ("qwen2", {"vocab_size": 0}, "vocab_size must be a whole number above 0; given 0"),
        ("bert", {"hidden_size": 15}, "not a multiple"),
        ("bert", {"max_position_embeddings": -1}, "must be a whole number above 0; given -1"),
        ("llama", {"num_hidden_layers": 3}, "9 missing tensors"),
        ("bert", {"num_hidden_layers": 1}, "16 unexpected tensors"),
        ("modernbert", {"intermediate_size": 20}, "by config.json it has"),
        ("distilbert", {"dim": 15}, "config"),
    ],
)
def test_mdlm_config_of_another_model_is_one_clear_line(family, changes, message, tmp_path):
    rewrite(write_checkpoint(tmp_path, family) / "config.json", **changes)
    assert message in refusal(CheckpointError, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "broken", "short"])
@pytest.mark.parametrize("family", ["qwen2", "bert"])
def test_mdlm_damaged_file_is_named(family, damage, name, tmp_path):
    file = write_checkpoint(tmp_path, family) / name
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"{ not this" if damage == "broken" else file.read_bytes()[:-40])
    assert name in refusal(CheckpointError, tmp_path)


def test_mdlm_missing_shard_is_named(tmp_path):
    write_checkpoint(tmp_path / "whole", "llama")
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "shards" / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    assert load(tmp_path / "shards").num_parameters == load(tmp_path / "whole").num_parameters
    shard = max((tmp_path / "shards").glob("*.safetensors"))
    shard.unlink()
    assert f"{shard.name} is missing" in refusal(CheckpointError, tmp_path / "shards")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model.norm.weight": None}, "1 missing tensors, first model.norm.weight"),
        ({"model.extra.weight": torch.ones(2)}, "1 unexpected tensors, first model.extra.weight"),
        ({"model.norm.weight": torch.ones(4)}, "model.norm.weight has shape [4]"),
        ({"model.norm.weight": torch.full((16,), torch.nan)}, "model.norm.weight holds values"),
    ],
)
def test_mdlm_wrong_tensor_is_named(tensors, message, tmp_path):
    edit_tensors(write_checkpoint(tmp_path, "qwen3"), **tensors)
    assert message in refusal(CheckpointError, tmp_path)


def test_mdlm_weights_of_another_shape_are_not_read_in_place(tmp_path):
    policy = load(write_checkpoint(tmp_path / "one", "bert"))
    write_checkpoint(tmp_path / "other", "bert", hidden_size=8)
    with pytest.raises(CheckpointError, match="of shape"):
        policy.load_weights(tmp_path / "other")


def test_mdlm_tokenizer_of_another_model_is_refused(tmp_path):
    file = write_checkpoint(tmp_path, "llama") / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["a"] = 5000
    file.write_text(json.dumps(content))
    assert "it has token 5000; the model has 24 rows" in refusal(CheckpointError, tmp_path)


def test_mdlm_special_token_without_a_row_is_refused(tmp_path):
    write_checkpoint(tmp_path, "bert", vocab_size=4)
    assert "mask_token_id is outside the vocabulary" in refusal(CheckpointError, tmp_path)


def test_mdlm_without_a_mask_token_says_how_to_name_one(tmp_path):
    without_mask_token(write_checkpoint(tmp_path, "qwen2"))
    line = refusal(CheckpointError, tmp_path)
    assert "--policy.mask_token '<|mask|>'; its nearest special tokens: '<|mdm_mask|>'" in line


def test_mdlm_mask_token_that_is_not_there_names_the_nearest(tmp_path):
    without_mask_token(write_checkpoint(tmp_path, "qwen2"))
    line = refusal(ConfigError, tmp_path, mask_token="<|mdm_msk|>")
    assert "policy.mask_token: the tokenizer has no token '<|mdm_msk|>'" in line
    assert "nearest special tokens: '<|mdm_mask|>'" in line


def test_mdlm_named_mask_token_is_written_with_the_checkpoint(tmp_path):
    without_mask_token(write_checkpoint(tmp_path / "one", "qwen2"))
    policy = load(tmp_path / "one", mask_token="<|mdm_mask|>")
    assert policy.decode(torch.tensor([[policy.mask_token_id, 1]])) == ["1"]
    policy.save(tmp_path / "two")
    assert load(tmp_path / "two").mask_token_id == policy.mask_token_id == 23


def test_mdlm_mask_token_may_be_told_by_the_config(tmp_path):
    without_mask_token(write_checkpoint(tmp_path, "qwen3", mask_token_id=23))
    assert load(tmp_path).mask_token_id == 23


def test_mdlm_mask_token_of_the_settings_comes_first(tmp_path):
    write_checkpoint(tmp_path, "qwen3", mask_token_id=23)
    assert load(tmp_path, mask_token="h").mask_token_id == 21


def test_mdlm_mask_token_that_ends_answers_is_refused(tmp_path):
    write_checkpoint(tmp_path, "qwen3")
    assert "are both 22" in refusal(CheckpointError, tmp_path, mask_token="<|endoftext|>")


@pytest.mark.parametrize("family", ENCODERS)
def test_mdlm_encoder_knows_berts_special_tokens(family, tmp_path):
    write_checkpoint(tmp_path, family)
    rewrite(
        tmp_path / "tokenizer_config.json",
        **dict.fromkeys(("mask_token", "sep_token", "cls_token", "pad_token", "unk_token")),
    )
    policy = load(tmp_path)
    assert (policy.mask_token_id, policy.eos_token_id, policy.pad_token_id) == (4, 3, 0)


def test_mdlm_shifted_encoder_is_refused(tmp_path):
    write_checkpoint(tmp_path, "bert")
    line = refusal(ConfigError, tmp_path, shifted=True)
    assert line.startswith("policy.shifted: bert predicts each token at its own place")


def test_mdlm_attention_kernel_that_is_not_here_is_refused(tmp_path):
    write_checkpoint(tmp_path, "llama")
    assert "policy.attention" in refusal(ConfigError, tmp_path, attention="flash_attention_2")
