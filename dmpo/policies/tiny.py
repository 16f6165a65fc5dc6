"""A small LLaDA made from nothing: random weights and a tokenizer of single characters."""

from __future__ import annotations

import math
import string
from typing import Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dmpo.policies.llada_backbone import LLaDAConfig, LLaDAModelLM
from dmpo.policies.outline import outline_model
from dmpo.settings import Settings

__all__ = ["EOS_TOKEN", "MASK_TOKEN", "LladaShape", "character_tokenizer", "new_llada"]

EOS_TOKEN = "<|endoftext|>"
"""The token that ends an answer, spelt as LLaDA's."""
MASK_TOKEN = "<|mdm_mask|>"
"""The token that hides another, spelt as LLaDA's."""


class LladaShape(Settings):
    """Size of a LLaDA with random weights."""

    d_model: PositiveInt = Field(128, description="Width.")
    n_layers: PositiveInt = Field(4, description="Blocks.")
    n_heads: PositiveInt = Field(4, description="Attention heads; they divide the width.")
    mlp_hidden_size: PositiveInt = Field(256, description="Width inside a block's MLP.")
    rope_theta: PositiveFloat = Field(10000.0, description="Base of the rotary embedding.")
    max_sequence_length: PositiveInt = Field(512, description="Context, in tokens.")
    characters: str = Field(
        "\n" + string.digits + string.ascii_letters + string.punctuation + " ",
        min_length=1,
        description="The vocabulary: each character is one token.",
    )
    seed: int = Field(0, ge=0, description="Seed of the weights.")

    @model_validator(mode="after")
    def _check(self) -> LladaShape:
        if self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"d_model {self.d_model} is no multiple of twice n_heads {self.n_heads} (rotary "
                "pairs)"
            )
        repeated = [c for c in dict.fromkeys(self.characters) if self.characters.count(c) > 1]
        if repeated:
            raise ValueError(f"characters: {repeated[0]!r} is there more than once")
        return self


def character_tokenizer(characters: str) -> Any:
    """Return a tokenizer whose tokens are single characters, EOS (which also pads) and mask.

    Token i is ``characters[i]``; then EOS, then the mask. A character outside is an error.
    """
    vocabulary = [*characters, EOS_TOKEN, MASK_TOKEN]
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        pad_token=EOS_TOKEN,
        mask_token=MASK_TOKEN,
        clean_up_tokenization_spaces=False,
    )


def new_llada(
    shape: LladaShape, *, attention: str, has_weights: bool = True
) -> tuple[LLaDAModelLM, Any]:
    """Return a LLaDA with random weights, and its tokenizer.

    Weights are drawn as LLaDA's ``init_fn: mitchell`` draws them: normal with standard
    deviation 1/√fan-in cut at three of them, the projections that write into the residual
    stream of block l (from 0) divided by √(2(l + 1)). Without weights it lies on PyTorch's meta
    device, where tensors have a shape and no numbers.
    """
    tokenizer = character_tokenizer(shape.characters)
    config = LLaDAConfig(
        d_model=shape.d_model,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        mlp_hidden_size=shape.mlp_hidden_size,
        rope_theta=shape.rope_theta,
        max_sequence_length=shape.max_sequence_length,
        vocab_size=len(tokenizer),
        embedding_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        attn_implementation=attention,
    )
    if not has_weights:
        return outline_model(LLaDAModelLM, config), tokenizer
    with torch.random.fork_rng(devices=[]):  # the library draws weights too: not to be seen
        model = LLaDAModelLM(config)
    _draw_weights(model, torch.Generator().manual_seed(shape.seed))
    return model, tokenizer


@torch.no_grad()
def _draw_weights(model: LLaDAModelLM, generator: torch.Generator) -> None:
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            weight.fill_(1.0)
            continue
        std = 1 / math.sqrt(weight.shape[1])
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std /= math.sqrt(2 * (int(name.split(".")[2]) + 1))
        torch.nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std, generator=generator)
