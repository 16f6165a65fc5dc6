"""Dream (Ye et al. 2025, arXiv 2508.15487): Qwen2.5 trained on to predict masked tokens.

Its output at position i still speaks for the token at i + 1, as before that training. The policy
aligns it, so that nobody else knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, final

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from dmpo.errors import CheckpointError
from dmpo.policies.adapters import LoraSettings
from dmpo.policies.kernels import Compilation
from dmpo.policies.loading import (
    PublishedIds,
    check_attention,
    check_sizes,
    check_vocabulary,
    error_line,
    load_model,
    special_ids,
)
from dmpo.policies.locate import model_directory, read_model_config
from dmpo.policies.outline import outline_model, placing
from dmpo.policies.quantization import check_quantization
from dmpo.policies.text import TextCodec
from dmpo.policies.transformers_backed import TransformersPolicy
from dmpo.registry import PluginConfig
from dmpo_dream.backbone import DreamConfig, DreamModel
from dmpo_dream.tokenizer import load_dream_tokenizer

__all__ = ["DreamPolicy", "DreamPolicyConfig"]

SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
)
"""What config.json must say of the model's shape."""

OPTIONAL_SIZES = ("max_position_embeddings", "num_key_value_heads")
"""What it may say, and then in whole numbers."""

PUBLISHED = PublishedIds(num_rows=152064, mask=151666, eos=151643)
"""Of Dream-v0-Base-7B and Dream-v0-Instruct-7B."""


class DreamPolicyConfig(PluginConfig):
    """Which Dream, in which precision, and what of it is trained."""

    model: str = Field(
        min_length=1,
        description="A directory or a hub id, as Dream-org/Dream-v0-Instruct-7B.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision of the weights."
    )
    lora: LoraSettings | None = Field(
        None, description="Train low-rank adapters; absent: train every weight."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute each block in the backward pass instead of storing it."
    )
    quantization: Literal["nf4"] | None = Field(
        None,
        description="Hold the frozen weights under adapters in 4 bits (bitsandbytes, CUDA alone).",
    )
    attention: Literal[
        "sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"
    ] = Field("sdpa", description="Attention kernel of the library.")
    logits_chunk: PositiveInt = Field(
        1024, description="Positions projected onto the vocabulary at a time."
    )
    fused_projection: bool = Field(
        True,
        description="Log-probabilities by Liger's fused kernel, on CUDA where liger-kernel is "
        "installed; false: by chunks of logits_chunk, as elsewhere.",
    )
    compilation: Compilation = Field(
        "no",
        description="Blocks as they are; compiled (blocks); or compiled and replayed as CUDA "
        "graphs (graphs), for short sequences whose kernels take less than their launch.",
    )

    @model_validator(mode="after")
    def _adapters_train_over_4_bits(self) -> DreamPolicyConfig:
        if self.quantization is not None and self.lora is None:
            raise ValueError("quantization: weights in 4 bits do not train; add adapters (lora)")
        return self


@final
class DreamPolicy(TransformersPolicy):
    """Dream in the official layout: config keys, tensor names, tokenizer."""

    Config = DreamPolicyConfig

    def __init__(self, config: DreamPolicyConfig, *, has_weights: bool = True) -> None:
        """Load model and tokenizer; without weights, their outline (:meth:`outline`).

        Raises:
            CheckpointError: If files are missing, unreadable or of another family.
            ConfigError: If the attention kernel or the quantisation is not usable here.
        """
        self.config = config
        if has_weights:  # checked before anything is fetched
            check_attention(config.attention, dtype=config.dtype)
            check_quantization(config.quantization)
        directory = model_directory(config.model, config.revision, needs_weights=has_weights)
        shape = _read_config(directory, needs_weights=has_weights)
        tokenizer = load_dream_tokenizer(directory)
        mask, eos, pad = special_ids(
            shape, tokenizer, num_rows=shape.vocab_size, directory=directory, published=PUBLISHED
        )
        check_vocabulary(tokenizer, num_rows=shape.vocab_size, directory=directory)
        model = (_load_model if has_weights else _outline_model)(directory, shape, config)
        codec = TextCodec(
            tokenizer,
            eos_token_id=eos,
            pad_token_id=pad,
            max_length=shape.max_position_embeddings,
        )
        with placing(has_weights=has_weights):
            self._assemble(
                model,
                codec,
                mask_token_id=mask,
                lora=config.lora,
                base_name=config.model,
                gradient_checkpointing=config.gradient_checkpointing,
                logits_chunk=config.logits_chunk,
                shifted=True,
                fused_projection=config.fused_projection,
                compilation=config.compilation,
            )

    @classmethod
    def outline(cls, config: DreamPolicyConfig) -> DreamPolicy:
        """Return the policy without weights: sizes and a tokenizer, for planning; it cannot run.

        Raises:
            CheckpointError: If config.json or the tokenizer's files are missing or unreadable.
        """
        return cls(config, has_weights=False)

    def describe(self) -> str:
        """Return one line that says which checkpoint this is."""
        text = f"Dream {self.config.model}, {self.num_parameters:,} parameters"
        if self.config.lora is not None:
            trained, targets = self.num_trainable_parameters, self.config.lora.targets
            text += f"; trains {trained:,} in adapters ({targets} targets)"
        return text

    def _read_state(self, directory: Path) -> Mapping[str, Tensor]:
        model = _load_model(directory, _read_config(directory), self.config)
        state: dict[str, Tensor] = model.state_dict()
        return state


def _read_config(directory: Path, *, needs_weights: bool = True) -> DreamConfig:
    """Return the configuration in a directory of the official layout."""
    content = read_model_config(
        directory, model_type="Dream", family="dream", needs_weights=needs_weights
    )
    _check_shape(content, directory)
    try:
        return DreamConfig(**content)
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}") from error
    except Exception as error:  # the library checks keys of its own, and raises as it likes
        raise CheckpointError(
            f"{directory}: config.json cannot be used: {error_line(error)}"
        ) from error


def _load_model(directory: Path, shape: DreamConfig, config: DreamPolicyConfig) -> DreamModel:
    """Return the model in a directory of the official layout, every tensor accounted for."""
    model: DreamModel = load_model(
        DreamModel,
        directory,
        shape,
        dtype=config.dtype,
        attention=config.attention,
        quantization=config.quantization,
    )
    return model


def _outline_model(_: Path, shape: DreamConfig, config: DreamPolicyConfig) -> DreamModel:
    """Return the model of a configuration without numbers."""
    outlined = outline_model(DreamModel, shape)
    return cast("DreamModel", outlined.to(getattr(torch, config.dtype)))


def _check_shape(content: Mapping[str, Any], directory: Path) -> None:
    given = [name for name in OPTIONAL_SIZES if content.get(name) is not None]
    check_sizes(content, (*SIZES, *given), directory)
    heads = content["num_attention_heads"]
    for larger, smaller, divisor in (
        ("hidden_size", "num_attention_heads", heads),
        ("num_attention_heads", "num_key_value_heads", content.get("num_key_value_heads") or heads),
    ):
        if content[larger] % divisor:
            raise CheckpointError(
                f"{directory}: config.json: {larger} {content[larger]} is no multiple of "
                f"{smaller} {divisor}."
            )
