from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from dmpo_dream.backbone import DreamConfig, DreamModel
from safetensors.torch import load_file
from torch import Tensor

from dmpo.errors import CheckpointError

ATOL, RTOL = 2e-4, 1e-4
DREAM_7B = {
    "architectures": ["DreamModel"],
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "Dream",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "pad_token_id": 151643,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}


@pytest.fixture(scope="module")
def model(official_files: Path) -> DreamModel:
    return DreamModel.from_pretrained(str(official_files), local_files_only=True).eval()


@pytest.fixture(scope="module")
def numbers(official_files: Path) -> Mapping[str, Tensor]:
    return load_file(official_files / "forward.safetensors")


@torch.no_grad()
def test_logits_equal_the_official_code(model, numbers):
    logits = model(input_ids=numbers["input_ids"]).logits
    torch.testing.assert_close(logits, numbers["logits"], atol=ATOL, rtol=RTOL)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("name", "positions"), [("logits", None), ("logits_with_position_ids", "padded.position_ids")]
)
def test_padded_logits_equal_the_official_code(model, numbers, name, positions, attention):
    model.set_attn_implementation(attention)
    mask = numbers["padded.attention_mask"]
    logits = model(
        input_ids=numbers["padded.input_ids"],
        attention_mask=mask,
        position_ids=None if positions is None else numbers[positions],
    ).logits
    real, expected = mask.bool(), numbers[f"padded.{name}"]
    torch.testing.assert_close(logits[real], expected[real], atol=ATOL, rtol=RTOL)


@torch.no_grad()
def test_padding_on_the_left_changes_nothing_but_the_rounding(official_files, numbers):
    model = DreamModel.from_pretrained(str(official_files), dtype=torch.float64).eval()
    tokens, mask = numbers["padded.input_ids"], numbers["padded.attention_mask"]
    logits = model(
        input_ids=tokens, attention_mask=mask, position_ids=numbers["padded.position_ids"]
    ).logits
    for row, is_real in enumerate(mask.bool()):
        alone = model(input_ids=tokens[row : row + 1, is_real]).logits[0]
        torch.testing.assert_close(logits[row, is_real], alone, atol=1e-12, rtol=0)


def test_file_of_tensors_survives_a_round_trip_to_the_byte(model, official_files, tmp_path):
    model.save_pretrained(str(tmp_path))
    before, after = (d / "model.safetensors" for d in (official_files, tmp_path))
    assert before.read_bytes() == after.read_bytes()


def test_tensors_and_names_survive_sharding(model, official_files, tmp_path):
    model.save_pretrained(str(tmp_path), max_shard_size="100KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 1
    before = load_file(official_files / "model.safetensors")
    after = {name: t for file in files for name, t in load_file(tmp_path / file).items()}
    assert before.keys() == after.keys() == index["weight_map"].keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = DreamModel.from_pretrained(str(tmp_path), local_files_only=True).state_dict()
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_written_config_is_the_official_one(model, official_files, tmp_path):
    model.save_pretrained(str(tmp_path))
    before, after = (
        json.loads((d / "config.json").read_text()) for d in (official_files, tmp_path)
    )
    del before["transformers_version"], after["transformers_version"]
    assert after == before


def test_generation_config_that_the_official_loader_asks_for_is_written(model, tmp_path):
    model.save_pretrained(str(tmp_path))
    content = json.loads((tmp_path / "generation_config.json").read_text())
    assert (content["eos_token_id"], content["pad_token_id"]) == (155, 155)
    assert {"alg", "alg_temp", "eps", "output_history", "steps"} <= content.keys()


def test_precision_is_written_in_the_official_spelling(tmp_path):
    shape = DreamConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=8)
    shape.intermediate_size = 8
    DreamModel(shape).to(torch.bfloat16).save_pretrained(str(tmp_path))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["torch_dtype"] == "bfloat16"
    assert {"dtype", "is_causal", "layer_types", "rope_parameters"}.isdisjoint(written)
    assert written["auto_map"]["AutoModel"] == "modeling_dream.DreamModel"
    assert "mask_token_id" not in written


def test_what_the_official_config_leaves_out_has_its_defaults():
    config = DreamConfig(hidden_size=64, num_attention_heads=4, rope_theta=5.0)
    assert (config.num_key_value_heads, config.rms_norm_eps) == (4, 1e-6)
    assert (config.max_position_embeddings, config.tie_word_embeddings) == (32768, False)
    assert config.rope_parameters["rope_theta"] == 5.0
    assert DreamConfig(hidden_size=64).rope_parameters["rope_theta"] == 10000.0


def test_rope_scaling_is_written_back():
    scaling = {"rope_type": "linear", "factor": 2.0}
    config = DreamConfig(hidden_size=64, rope_scaling=dict(scaling), rope_theta=7.0)
    written = config.to_diff_dict()
    assert (written["rope_scaling"], written["rope_theta"]) == (scaling, 7.0)


def test_sliding_window_is_refused():
    with pytest.raises(CheckpointError, match="use_sliding_window is True"):
        DreamConfig(use_sliding_window=True)


def test_published_shape_gives_the_official_names_shapes_and_count():
    with torch.device("meta"):
        model = DreamModel(DreamConfig(**DREAM_7B))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == published_shapes()
    assert sum(p.numel() for p in model.parameters()) == 7_615_616_512
    assert model.config.to_diff_dict().keys() >= DREAM_7B.keys() - {"architectures", "torch_dtype"}


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Return Dream-7B's tensors: those of Qwen2.5-7B, with biases on q, k and v alone."""
    width, kv_width, mlp, rows = 3584, 512, 18944, 152064
    block = {
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
        "self_attn.o_proj.weight": (width, width),
        "mlp.gate_proj.weight": (mlp, width),
        "mlp.up_proj.weight": (mlp, width),
        "mlp.down_proj.weight": (width, mlp),
    }
    for name, out in (("q", width), ("k", kv_width), ("v", kv_width)):
        block |= {
            f"self_attn.{name}_proj.weight": (out, width),
            f"self_attn.{name}_proj.bias": (out,),
        }
    ends = {"model.embed_tokens.weight": (rows, width), "lm_head.weight": (rows, width)}
    ends["model.norm.weight"] = (width,)
    return ends | {f"model.layers.{i}.{n}": s for i in range(28) for n, s in block.items()}
