"""The official implementations' numbers, and the tiny LLaDA they were computed on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from torch import Tensor

from dmpo.policies.llada import LladaConfig, LladaPolicy
from dmpo.records import Rollouts
from tests.oracles.records import rollouts_of
from tests.paths import FIXTURES

WEIGHTS = {"theta": "model", "old": "old", "ref": "ref"}


def numbers(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the description and the tensors of ``losses/dmpo`` and its kin."""
    description = json.loads((FIXTURES / f"{name}.json").read_text())
    return description, load_file(FIXTURES / f"{name}.safetensors")


def checkpoint(directory: Path, weights: str) -> Path:
    """Lay out one of the three weight sets as a checkpoint of its own."""
    target = directory / weights
    target.mkdir(parents=True, exist_ok=True)
    source = FIXTURES / "llada_tiny"
    shutil.copyfile(source / "config.json", target / "config.json")
    shutil.copyfile(source / f"{WEIGHTS[weights]}.safetensors", target / "model.safetensors")
    vocabulary = {f"<{index}>": index for index in range(160)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="<0>")).save(str(target / "tokenizer.json"))
    return target


class OfficialPolicies:
    """One policy that has been π_ref and may become π_v or π_θ."""

    def __init__(self, directory: Path) -> None:
        self._paths = {name: checkpoint(directory, name) for name in WEIGHTS}
        self.policy = LladaPolicy(LladaConfig(model=str(self._paths["ref"])))
        self.policy.freeze_reference()

    def become(self, weights: str) -> LladaPolicy:
        """Load ``theta``, ``old`` or ``ref`` in place; π_ref stays the reference."""
        self.policy.load_weights(self._paths[weights])
        return self.policy


def group_rollouts(tensors: dict[str, Tensor], rows: slice, group: int = 4) -> Rollouts:
    """Return rows of a fixture as whole groups, each row's prompt its group's."""
    prompts = tensors["prompt_ids"][rows].unflatten(0, (-1, group))
    assert (prompts == prompts[:, :1]).all()
    return rollouts_of(
        prompts[:, 0],
        tensors["completion_ids"][rows].unflatten(0, (-1, group)),
        answer_mask=tensors["completion_mask"][rows].bool().unflatten(0, (-1, group)),
    )


def row_rollouts(prompt_ids: Tensor, completion_ids: Tensor, **fields: Tensor) -> Rollouts:
    """Return rows of a fixture as one rollout per prompt."""
    grouped = {
        name: value if name == "prompt_mask" else value.unsqueeze(1)
        for name, value in fields.items()
    }
    return rollouts_of(prompt_ids, completion_ids.unsqueeze(1), **grouped)


def laid_out(masks: Tensor, group: int = 4) -> Tensor:
    """Turn [R, B·N, D] of the fixtures into [B, N, R, D]."""
    return torch.as_tensor(masks).movedim(0, 1).unflatten(0, (-1, group))


_PARTS = {
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "model.embed_tokens": "wte",
    "model.norm": "ln_f",
    "lm_head": "ff_out",
}


def official_name(name: str) -> str:
    """Return the official name of one of the policy's parameters."""
    words = name.removeprefix("model.").removesuffix(".weight")
    prefix = "model.transformer."
    if words.startswith("model.layers."):
        layer, words = words.removeprefix("model.layers.").split(".", 1)
        prefix += f"blocks.{layer}."
    return f"{prefix}{_PARTS[words]}.weight"
