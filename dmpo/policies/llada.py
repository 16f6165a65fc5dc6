"""LLaDA (Nie et al. 2025, arXiv 2502.09992): a bidirectional Llama that predicts masked tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from dmpo.errors import CheckpointError
from dmpo.policies.adapters import LoraSettings
from dmpo.policies.llada_backbone import LLaDAConfig, LLaDAModelLM
from dmpo.policies.locate import (
    model_directory,
    packaged_directory,
    quiet_library,
    read_model_config,
)
from dmpo.policies.text import TextCodec, load_tokenizer
from dmpo.policies.tiny import LladaShape, new_llada
from dmpo.policies.transformers_backed import TransformersPolicy
from dmpo.registry import PluginConfig

__all__ = ["LladaConfig", "LladaPolicy"]

TINY = "tiny"
"""The name of the checkpoint inside the package."""

SIZES = ("d_model", "n_heads", "n_layers", "vocab_size", "max_sequence_length")
"""What config.json must say of the model's shape."""

_PUBLISHED_MASK_ID = 126336
_PUBLISHED_EOS_ID = 126081


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
    attention: Literal["sdpa", "eager", "flex_attention"] = Field(
        "sdpa", description="Attention kernel of the library."
    )
    logits_chunk: PositiveInt = Field(
        1024, description="Positions projected onto the vocabulary at a time."
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
        return self


@final
class LladaPolicy(TransformersPolicy):
    """LLaDA in the official layout: config keys, tensor names, tokenizer."""

    Config = LladaConfig

    def __init__(self, config: LladaConfig) -> None:
        """Load, or build, model and tokenizer.

        Raises:
            CheckpointError: If files are missing, unreadable or of another family.
        """
        self.config = config
        if config.scratch is None:
            model, tokenizer = _load(config)
        else:
            model, tokenizer = new_llada(config.scratch, attention=config.attention)
            model = model.to(getattr(torch, config.dtype))
        mask, eos, pad = _special_ids(model.config, tokenizer)
        _check_vocabulary(tokenizer, model.config)
        self._assemble(
            model,
            TextCodec(
                tokenizer,
                eos_token_id=eos,
                pad_token_id=pad,
                max_length=model.config.max_position_embeddings,
            ),
            mask_token_id=mask,
            lora=config.lora,
            base_name=config.model,
            gradient_checkpointing=config.gradient_checkpointing,
            logits_chunk=config.logits_chunk,
        )

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
        if self.config.lora is not None:
            trained, targets = self.num_trainable_parameters, self.config.lora.targets
            text += f"; trains {_readable(trained)} in adapters ({targets} targets)"
        return text

    def _read_state(self, directory: Path) -> Mapping[str, Tensor]:
        state: dict[str, Tensor] = _load_model(directory, self.config).state_dict()
        return state


def _load(config: LladaConfig) -> tuple[LLaDAModelLM, Any]:
    if config.model == TINY:
        directory = packaged_directory("tiny_llada")
        if not directory.is_dir():
            raise CheckpointError(
                f"policy.model: the package's own checkpoint is missing ({directory}); name "
                "another model."
            )
    else:
        directory = model_directory(config.model, config.revision)
    return _load_model(directory, config), load_tokenizer(directory)


def _load_model(directory: Path, config: LladaConfig) -> LLaDAModelLM:
    """Return the model in a directory of the official layout, every tensor accounted for."""
    content = read_model_config(directory, model_type="llada", family="llada")
    _check_sizes(content, directory)
    try:
        with quiet_library():
            loaded: tuple[LLaDAModelLM, dict[str, Any]] = LLaDAModelLM.from_pretrained(
                str(directory),
                config=LLaDAConfig(**content),
                dtype=getattr(torch, config.dtype),
                attn_implementation=config.attention,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, each by name
            )
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}") from error
    except Exception as error:  # the library raises whatever its readers do
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise CheckpointError(
            f"{directory}: the model cannot be loaded: {type(error).__name__}: {reason}"
        ) from error
    model, report = loaded
    _check_tensors(model, report, directory)
    return model


def _check_sizes(content: Mapping[str, Any], directory: Path) -> None:
    """Refuse a config.json whose sizes would only fail inside the library, or much later."""
    for name in SIZES:
        size = content.get(name)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise CheckpointError(
                f"{directory}: config.json: {name} must be a whole number above 0; "
                f"{f'given {size!r}' if name in content else 'it is missing'}."
            )
    if content["d_model"] % content["n_heads"]:
        raise CheckpointError(
            f"{directory}: config.json: d_model {content['d_model']} is no multiple of n_heads "
            f"{content['n_heads']}."
        )
    theta = content.get("rope_theta", 1.0)
    if not (isinstance(theta, int | float) and 0 < theta < math.inf):
        raise CheckpointError(
            f"{directory}: config.json: rope_theta must be a finite number above 0; "
            f"given {theta!r}."
        )
    for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
        if not isinstance(content.get(name), int | list | None):
            raise CheckpointError(
                f"{directory}: config.json: {name} must be a token's number; "
                f"given {content[name]!r}."
            )


def _check_tensors(model: LLaDAModelLM, report: Mapping[str, Any], directory: Path) -> None:
    """Refuse weights that are not all there, of other shapes, or not finite."""
    for name, saved, built in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"{directory}: {name} has shape {list(saved)}; by config.json it has {list(built)}."
        )
    for kind in ("missing", "unexpected"):
        wrong = sorted(map(str, report[f"{kind}_keys"]))
        if wrong:
            raise CheckpointError(f"{directory}: {len(wrong)} {kind} tensors, first {wrong[0]}.")
    for name, weight in model.named_parameters():
        if not math.isfinite(weight.detach().sum(dtype=torch.float32)):
            raise CheckpointError(f"{directory}: {name} holds values that are not finite.")


def _special_ids(config: LLaDAConfig, tokenizer: Any) -> tuple[int, int, int]:
    """Return the ids of mask, EOS and pad: the config's, the tokenizer's, or the published."""
    mask = _first_id(config.mask_token_id, tokenizer.mask_token_id, _PUBLISHED_MASK_ID)
    eos = _first_id(config.eos_token_id, tokenizer.eos_token_id, _PUBLISHED_EOS_ID)
    pad = _first_id(config.pad_token_id, tokenizer.pad_token_id, eos)
    for name, value in (("mask", mask), ("eos", eos), ("pad", pad)):
        if not 0 <= value < config.num_rows:
            raise CheckpointError(
                f"config.json: {name}_token_id is missing or outside the vocabulary "
                f"({value} of {config.num_rows} rows); add it."
            )
    if mask == eos:
        raise CheckpointError(f"config.json: mask_token_id and eos_token_id are both {mask}.")
    return mask, eos, pad


def _check_vocabulary(tokenizer: Any, config: LLaDAConfig) -> None:
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= config.num_rows:
        raise CheckpointError(
            f"tokenizer.json: it has token {largest}; the model has {config.num_rows} rows of "
            "embedding, from 0. The tokenizer belongs to another model."
        )


def _first_id(*candidates: int | list[int] | None) -> int:
    for candidate in candidates:
        if isinstance(candidate, list) and candidate:
            return candidate[0]
        if isinstance(candidate, int):
            return candidate
    raise CheckpointError("config.json: a special token's id is missing.")


def _readable(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
