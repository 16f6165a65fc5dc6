"""LLaDA (Nie et al. 2025, arXiv 2502.09992): a bidirectional Llama that predicts masked tokens."""

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
from dmpo.policies.llada_backbone import LLaDAConfig, LLaDAModelLM
from dmpo.policies.loading import (
    PublishedIds,
    check_attention,
    check_sizes,
    check_vocabulary,
    error_line,
    load_model,
    special_ids,
)
from dmpo.policies.locate import model_directory, packaged_directory, read_model_config
from dmpo.policies.outline import outline_model, placing
from dmpo.policies.quantization import check_quantization
from dmpo.policies.text import TextCodec, load_tokenizer
from dmpo.policies.tiny import LladaShape, new_llada
from dmpo.policies.transformers_backed import TransformersPolicy
from dmpo.registry import PluginConfig

__all__ = ["LladaConfig", "LladaPolicy"]

TINY = "tiny"
"""The name of the checkpoint inside the package."""

SIZES = ("d_model", "n_heads", "n_layers", "vocab_size", "max_sequence_length")
"""What config.json must say of the model's shape."""

PUBLISHED = PublishedIds(num_rows=126464, mask=126336, eos=126081)
"""Of LLaDA-8B-Base, LLaDA-8B-Instruct and LLaDA-1.5."""


class LladaConfig(PluginConfig):
    """Which LLaDA, in which precision, and what of it is trained."""

    model: str = Field(
        TINY,
        min_length=1,
        description="A directory or a hub id; 'tiny' is the checkpoint inside the package.",
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
    scratch: LladaShape | None = Field(
        None, description="Build a LLaDA of this size with random weights; nothing is loaded."
    )

    @model_validator(mode="after")
    def _check(self) -> LladaConfig:
        if self.scratch is not None and self.model != TINY:
            raise ValueError("give either model or scratch: scratch loads nothing")
        if self.revision is not None and (self.scratch is not None or self.model == TINY):
            raise ValueError("revision is for a model on the hub; name one with model")
        if self.quantization is not None and self.lora is None:
            raise ValueError("quantization: weights in 4 bits do not train; add adapters (lora)")
        if self.quantization is not None and self.scratch is not None:
            raise ValueError("quantization is for a model that is loaded; scratch loads nothing")
        return self


@final
class LladaPolicy(TransformersPolicy):
    """LLaDA in the official layout: config keys, tensor names, tokenizer."""

    Config = LladaConfig

    def __init__(self, config: LladaConfig, *, has_weights: bool = True) -> None:
        """Load, or build, model and tokenizer; without weights, their outline (:meth:`outline`).

        Raises:
            ConfigError: If the attention kernel or the quantisation is not usable here.
            CheckpointError: If files are missing, unreadable or of another family.
        """
        self.config = config
        if has_weights:  # checked before anything is fetched
            check_attention(config.attention, dtype=config.dtype)
            check_quantization(config.quantization)
        if config.scratch is None:
            model, tokenizer = _load(config, has_weights=has_weights)
        else:
            model, tokenizer = new_llada(
                config.scratch, attention=config.attention, has_weights=has_weights
            )
            model = model.to(getattr(torch, config.dtype))
        rows = model.config.num_rows
        mask, eos, pad = special_ids(
            model.config, tokenizer, num_rows=rows, directory=config.model, published=PUBLISHED
        )
        check_vocabulary(tokenizer, num_rows=rows, directory=config.model)
        codec = TextCodec(
            tokenizer,
            eos_token_id=eos,
            pad_token_id=pad,
            max_length=model.config.max_position_embeddings,
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
                fused_projection=config.fused_projection,
                compilation=config.compilation,
            )

    @classmethod
    def outline(cls, config: LladaConfig) -> LladaPolicy:
        """Return the policy without weights: sizes and a tokenizer, for planning; it cannot run.

        Raises:
            CheckpointError: If config.json or the tokenizer's files are missing or unreadable.
        """
        return cls(config, has_weights=False)

    def describe(self) -> str:
        """Return one line that says which checkpoint this is."""
        size = _readable(self.num_parameters)
        if self.config.scratch is not None:
            text = f"new LLaDA, {size} parameters, random weights"
        elif self.config.model == TINY:
            text = (
                f"tiny LLaDA, {size} parameters, checkpoint inside the package; "
                "name another with --model"
            )
        else:
            text = f"LLaDA {self.config.model}, {size} parameters"
        if self.config.quantization is not None:
            text += f" in {self.config.quantization}"
        if self.config.lora is not None:
            trained, targets = self.num_trainable_parameters, self.config.lora.targets
            text += f"; trains {_readable(trained)} in adapters ({targets} targets)"
        return text

    def _read_state(self, directory: Path) -> Mapping[str, Tensor]:
        state: dict[str, Tensor] = _load_model(directory, self.config).state_dict()
        return state


def _load(config: LladaConfig, *, has_weights: bool) -> tuple[LLaDAModelLM, Any]:
    if config.model == TINY:
        directory = packaged_directory("tiny_llada")
        if not directory.is_dir():
            raise CheckpointError(
                f"policy.model: the package's own checkpoint is missing ({directory}); name "
                "another model."
            )
    else:
        directory = model_directory(config.model, config.revision, needs_weights=has_weights)
    return _load_model(directory, config, has_weights=has_weights), load_tokenizer(directory)


def _load_model(directory: Path, config: LladaConfig, *, has_weights: bool = True) -> LLaDAModelLM:
    """Return the model in a directory of the official layout, every tensor accounted for."""
    content = read_model_config(
        directory, model_type="llada", family="llada", needs_weights=has_weights
    )
    check_sizes(content, SIZES, directory)
    if content["d_model"] % content["n_heads"]:
        raise CheckpointError(
            f"{directory}: config.json: d_model {content['d_model']} is no multiple of n_heads "
            f"{content['n_heads']}."
        )
    try:
        built = LLaDAConfig(**content)
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}") from error
    except Exception as error:  # the library checks keys of its own, and raises as it likes
        raise CheckpointError(
            f"{directory}: config.json cannot be used: {error_line(error)}"
        ) from error
    if not has_weights:
        outlined = outline_model(LLaDAModelLM, built)
        return cast("LLaDAModelLM", outlined.to(getattr(torch, config.dtype)))
    model: LLaDAModelLM = load_model(
        LLaDAModelLM,
        directory,
        built,
        dtype=config.dtype,
        attention=config.attention,
        quantization=config.quantization,
    )
    return model


def _readable(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
