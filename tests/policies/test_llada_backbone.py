from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.core_model_loading import revert_weight_conversion

from dmpo.errors import CheckpointError
from dmpo.policies.llada import LladaConfig, LladaPolicy
from dmpo.policies.llada_backbone import LLaDAConfig, LLaDAModelLM
from tests.paths import FIXTURES, needs_fixtures
from tests.policies.builders import small_policy

TINY = FIXTURES / "llada_tiny"
ATOL, RTOL = 2e-4, 1e-4
OFFICIAL_8B = {
    "d_model": 4096,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "mlp_ratio": 4,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "max_sequence_length": 4096,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-05,
    "mask_token_id": 126336,
    "eos_token_id": 126081,
    "pad_token_id": 126081,
    "weight_tying": False,
    "init_std": 0.02,
    "activation_type": "silu",
}
"""What the published config.json says of LLaDA-8B's shape."""


@pytest.fixture(scope="module")
def official():
    return LLaDAModelLM.from_pretrained(str(TINY), local_files_only=True).eval()


@pytest.fixture(scope="module")
def numbers():
    return load_file(TINY / "forward.safetensors")


@needs_fixtures
def test_logits_equal_the_official_code(official, numbers):
    logits = official(input_ids=numbers["input_ids"]).logits
    torch.testing.assert_close(logits, numbers["logits"], atol=ATOL, rtol=RTOL)


@needs_fixtures
def test_padded_logits_equal_the_official_code_with_its_mask(official, numbers):
    mask = numbers["padded.attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = official(
        input_ids=numbers["padded.input_ids"], attention_mask=mask, position_ids=positions
    ).logits
    real = mask.bool()
    torch.testing.assert_close(logits[real], numbers["padded.logits"][real], atol=ATOL, rtol=RTOL)
    ignored = numbers["padded.logits_mask_ignored"]
    assert (logits[real] - ignored[real]).abs().max() > 0.1


@needs_fixtures
def test_tensors_and_names_survive_a_round_trip_to_the_byte(official, tmp_path):
    official.save_pretrained(str(tmp_path))
    before, after = load_file(TINY / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@needs_fixtures
def test_official_names_survive_sharding(official, tmp_path):
    official.save_pretrained(str(tmp_path), max_shard_size="100KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(load_file(TINY / "model.safetensors"))
    again = LLaDAModelLM.from_pretrained(str(tmp_path), local_files_only=True)
    assert all(
        torch.equal(one, other)
        for one, other in zip(official.parameters(), again.parameters(), strict=True)
    )


@needs_fixtures
def test_written_config_is_the_official_one(official, tmp_path):
    official.save_pretrained(str(tmp_path))
    before = json.loads((TINY / "config.json").read_text())
    after = json.loads((tmp_path / "config.json").read_text())
    del before["transformers_version"], after["transformers_version"]
    assert after == before


def test_new_models_write_every_official_key(tmp_path):
    small_policy().save(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert {"d_model", "n_heads", "mlp_hidden_size", "embedding_size", "block_type"} <= set(written)
    assert {"hidden_size", "intermediate_size", "dtype", "is_causal"}.isdisjoint(written)
    assert written["architectures"] == ["LLaDAModelLM"]
    assert written["auto_map"]["AutoModel"] == "modeling_llada.LLaDAModelLM"


def test_sizes_that_the_official_config_leaves_out_are_derived():
    config = LLaDAConfig(d_model=64, n_heads=4, n_layers=1, vocab_size=50, mlp_ratio=3)
    assert config.intermediate_size == 192
    assert config.num_key_value_heads == 4
    assert config.head_dim == 16
    assert config.num_rows == 50


def test_published_shape_is_read():
    config = LLaDAConfig(**OFFICIAL_8B)
    assert (config.hidden_size, config.intermediate_size) == (4096, 12288)
    assert config.rope_parameters["rope_theta"] == 500000.0
    assert config.rms_norm_eps == 1e-5


def test_embedding_may_have_more_rows_than_the_vocabulary():
    config = LLaDAConfig(
        d_model=16, n_heads=2, n_layers=1, mlp_hidden_size=8, vocab_size=50, embedding_size=64
    )
    model = LLaDAModelLM(config)
    assert model.model.embed_tokens.weight.shape == (64, 16)
    assert model(input_ids=torch.tensor([[63, 1]])).logits.shape == (1, 2, 64)


def test_pad_row_of_the_embedding_trains():
    policy = small_policy()
    tokens = torch.tensor([[3, policy.mask_token_id, policy.eos_token_id]])
    where = torch.tensor([[False, True, False]])
    policy.token_logprobs(tokens, torch.ones_like(where), tokens, where).sum().backward()
    gradient = policy.module.causal_lm.model.embed_tokens.weight.grad
    assert gradient[policy.pad_token_id].abs().max() > 0


def test_unsupported_official_option_is_named():
    with pytest.raises(CheckpointError, match="alibi is True"):
        LLaDAConfig(d_model=16, n_heads=2, n_layers=1, vocab_size=50, alibi=True)


def test_tied_weights_are_saved_once_and_read_back(tmp_path: Path):
    config = LLaDAConfig(
        d_model=16, n_heads=2, n_layers=1, mlp_hidden_size=8, vocab_size=50, weight_tying=True
    )
    model = LLaDAModelLM(config)
    model.save_pretrained(str(tmp_path))
    assert "model.transformer.ff_out.weight" not in load_file(tmp_path / "model.safetensors")
    again = LLaDAModelLM.from_pretrained(str(tmp_path), local_files_only=True)
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(input_ids=tokens).logits, again(input_ids=tokens).logits)


def test_published_model_has_the_official_tensors():
    with torch.device("meta"):
        model = LLaDAModelLM(LLaDAConfig(**OFFICIAL_8B))
    tensors = revert_weight_conversion(model, model.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == official_8b_shapes()
    assert sum(map(math.prod, shapes.values())) == 8_015_581_184
    assert model.num_parameters() == 8_015_581_184


def official_8b_shapes():
    """The tensors of LLaDA-8B, written down from its modelling code."""
    outer = {"wte.weight": (126464, 4096), "ln_f.weight": (4096,), "ff_out.weight": (126464, 4096)}
    square = ("q_proj", "k_proj", "v_proj", "attn_out")
    block = {f"{name}.weight": (4096, 4096) for name in square}
    block |= {"attn_norm.weight": (4096,), "ff_norm.weight": (4096,)}
    block |= {"ff_proj.weight": (12288, 4096), "up_proj.weight": (12288, 4096)}
    block |= {"ff_out.weight": (4096, 12288)}
    blocks = {f"blocks.{i}.{name}": shape for i in range(32) for name, shape in block.items()}
    return {f"model.transformer.{name}": shape for name, shape in (outer | blocks).items()}


def test_published_shape_survives_its_config(tmp_path):
    LLaDAConfig(**OFFICIAL_8B).save_pretrained(str(tmp_path))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written.items() >= OFFICIAL_8B.items()
    assert LLaDAConfig(**written).to_diff_dict() == LLaDAConfig(**OFFICIAL_8B).to_diff_dict()


@needs_fixtures
@pytest.mark.parametrize("shard", ["5GB", "100KB"])
def test_bfloat16_checkpoint_survives_a_round_trip_to_the_byte(tmp_path, shard):
    official = {n: t.bfloat16() for n, t in load_file(TINY / "model.safetensors").items()}
    one, two = tmp_path / "official", tmp_path / "ours"
    one.mkdir()
    save_file(official, one / "model.safetensors", {"format": "pt"})
    content = json.loads((TINY / "config.json").read_text())
    del content["torch_dtype"]  # the official files of some sizes do not say it
    (one / "config.json").write_text(json.dumps(content))
    model = LLaDAModelLM.from_pretrained(str(one), dtype=torch.bfloat16, local_files_only=True)
    model.save_pretrained(str(two), max_shard_size=shard)
    files = sorted(two.glob("*.safetensors"))
    assert len(files) == 1 if shard == "5GB" else len(files) > 2
    ours = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert ours.keys() == official.keys()
    assert all(as_bytes(ours[name]) == as_bytes(official[name]) for name in ours)
    assert json.loads((two / "config.json").read_text())["torch_dtype"] == "bfloat16"


def as_bytes(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@needs_fixtures
def test_sharded_official_checkpoint_is_read(official, tmp_path):
    """Shards and index as the official files have them, put together by hand."""
    tensors = load_file(TINY / "model.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:9], names[9:20], names[20:]), start=1):
        file = f"model-{number:05d}-of-00003.safetensors"
        save_file({name: tensors[name] for name in part}, tmp_path / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copyfile(TINY / "config.json", tmp_path / "config.json")
    again = LLaDAModelLM.from_pretrained(str(tmp_path), local_files_only=True).eval()
    tokens = torch.tensor([[5, 159, 7]])
    assert torch.equal(again(input_ids=tokens).logits, official(input_ids=tokens).logits)


def test_official_config_may_leave_out_what_is_derived(tmp_path):
    small_policy().save(tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    for name in ("n_kv_heads", "embedding_size", "mlp_ratio", "torch_dtype", "auto_map"):
        del content[name]
    file.write_text(json.dumps(content))
    LladaPolicy(LladaConfig(model=str(tmp_path)))
