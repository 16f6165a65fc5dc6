"""Masked diffusion on the library's own classes: converted decoders, and BERT-like encoders.

A decoder trained further to predict masked tokens (Gong et al. 2024, arXiv 2410.17891) is a
Llama, Qwen2 or Qwen3 without its causal mask, in its original layout; dLLM's ``a2d-`` types are
these three under names of their own. A masked language model has been a denoiser of one noise
level from the start (Sahoo et al. 2024, arXiv 2406.07524).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from dmpo.errors import CheckpointError, ConfigError
from dmpo.policies.adapters import LoraSettings
from dmpo.policies.decoders import DECODERS
from dmpo.policies.encoders import ENCODERS
from dmpo.policies.kernels import Compilation
from dmpo.policies.kv_cache import KeyValueCache
from dmpo.policies.loading import (
    SpecialIds,
    attend_both_ways,
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
from dmpo.policies.text import TextCodec, load_tokenizer
from dmpo.policies.transformers_backed import TransformersPolicy
from dmpo.registry import PluginConfig

__all__ = ["MdlmConfig", "MdlmPolicy"]

OTHER_POLICIES: Mapping[str, str] = {"llada": "llada", "Dream": "dream"}
"""Diffusion models by ``model_type`` that have a policy of their own."""

SIZES = (
    "hidden_size",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
    "max_position_embeddings",
)
"""What a configuration says of the model's shape, under the library's names."""


class MdlmConfig(PluginConfig):
    """Which checkpoint, in which precision, and what of it is trained."""

    model: str = Field(min_length=1, description="A directory or a hub id.")
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
    shifted: bool = Field(
        False,
        description="A decoder whose output at i − 1 still speaks for the token at i, as before "
        "its conversion.",
    )
    mask_token: str | None = Field(
        None,
        min_length=1,
        description="The token that stands for noise, where the checkpoint does not name it.",
    )

    @model_validator(mode="after")
    def _check(self) -> MdlmConfig:
        if self.quantization is not None and self.lora is None:
            raise ValueError("quantization: weights in 4 bits do not train; add adapters (lora)")
        return self


@final
class MdlmPolicy(TransformersPolicy):
    """A Llama, Qwen2 or Qwen3 turned into a denoiser, or a BERT, DistilBERT or ModernBERT.

    Files are read and written in the layout of the library's own classes. Decoders are saved
    with ``is_causal: false``, by which the library, too, builds them bidirectional.

    An encoder's prompt gets the special tokens its tokenizer puts around a text, and the canvas
    follows: ``[CLS] prompt [SEP] answer [SEP] …``, the order of a sentence pair, in which
    ``[SEP]`` is the token that ends an answer. Positions are counted over real tokens, so
    padding on the left changes nothing. An encoder keeps no keys and values: ``sampler.cache``
    must be none. Dropout in training is what the checkpoint's config.json says (0.1 in BERT).
    """

    Config = MdlmConfig

    def __init__(self, config: MdlmConfig, *, has_weights: bool = True) -> None:
        """Load model and tokenizer; without weights, their outline (:meth:`outline`).

        Raises:
            CheckpointError: If files are missing, unreadable or of another family, or no mask
                token can be found.
            ConfigError: If a setting does not fit the checkpoint.
        """
        self.config = config
        if has_weights:  # checked before anything is fetched
            check_attention(config.attention, dtype=config.dtype)
            check_quantization(config.quantization)
        directory = model_directory(config.model, config.revision, needs_weights=has_weights)
        content = _read_config(directory, needs_weights=has_weights)
        model = _load_model(directory, content, config, has_weights=has_weights)
        tokenizer = load_tokenizer(directory)
        rows = model.get_input_embeddings().weight.shape[0]
        ids = _special_ids(directory, content, tokenizer, config.mask_token, num_rows=rows)
        check_vocabulary(tokenizer, num_rows=rows, directory=directory)
        _train_every_row(model, ids)
        self._model_type = content["model_type"]
        self._mask_token = tokenizer.convert_ids_to_tokens(ids.mask)
        self._is_windowed = "sliding_attention" in (
            getattr(model.config, "layer_types", None) or []
        )
        codec = TextCodec(
            tokenizer,
            eos_token_id=ids.eos,
            pad_token_id=ids.pad,
            max_length=model.config.max_position_embeddings,
        )
        with placing(has_weights=has_weights):
            self._assemble(
                model,
                codec,
                mask_token_id=ids.mask,
                lora=config.lora,
                base_name=config.model,
                gradient_checkpointing=config.gradient_checkpointing,
                logits_chunk=config.logits_chunk,
                fused_projection=config.fused_projection,
                compilation=config.compilation,
                shifted=config.shifted,
            )

    @classmethod
    def outline(cls, config: MdlmConfig) -> MdlmPolicy:
        """Return the policy without weights: sizes and a tokenizer, for planning; it cannot run.

        Raises:
            CheckpointError: If config.json or the tokenizer's files are missing or unreadable.
        """
        return cls(config, has_weights=False)

    def describe(self) -> str:
        """Return one line that says which checkpoint this is."""
        text = (
            f"{self._model_type} {self.config.model}, {self.num_parameters:,} parameters, "
            f"mask {self._mask_token!r}"
        )
        if self.config.shifted:
            text += ", shifted"
        if self.config.lora is not None:
            trained, targets = self.num_trainable_parameters, self.config.lora.targets
            text += f"; trains {trained:,} in adapters ({targets} targets)"
        return text

    def new_cache(self) -> KeyValueCache:
        """Return an empty cache, to be used for one block.

        Raises:
            ConfigError: If the model is an encoder, or attends within windows.
        """
        reason = "keeps no keys and values" if self._model_type in ENCODERS else ""
        if self._is_windowed:
            reason = reason or "attends within windows, which a cache does not know"
        if reason:
            raise ConfigError(f"sampler.cache: {self._model_type} {reason}; 'none' is accepted.")
        return super().new_cache()

    def attended_logits(
        self,
        tokens: Int[Tensor, "S X"],
        at: Int[Tensor, "S K"],
        *,
        position_ids: Int[Tensor, "S X"],
        visible: Bool[Tensor, "S X X"],
    ) -> Float[Tensor, "S K V"]:
        """Return logits where each token sees what it is told to see.

        Raises:
            ConfigError: If the model attends within windows, or cannot be told.
        """
        if self._is_windowed:
            raise ConfigError(
                f"sampler: {self._model_type} attends within windows and cannot be told which "
                "token sees which; choose a sampler other than wino."
            )
        return super().attended_logits(tokens, at, position_ids=position_ids, visible=visible)

    def _read_state(self, directory: Path) -> Mapping[str, Tensor]:
        state: dict[str, Tensor] = _load_model(
            directory, _read_config(directory), self.config
        ).state_dict()
        return state


def _read_config(directory: Path, *, needs_weights: bool = True) -> dict[str, Any]:
    """Return the content of ``config.json``.

    Raises:
        CheckpointError: If it cannot be read or is of a family that is not accepted.
    """
    try:
        found = json.loads((directory / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        found = None  # what is wrong is said below
    accepted = (*DECODERS, *ENCODERS)
    if isinstance(found, str) and found not in accepted:
        other = OTHER_POLICIES.get(found)
        hint = f" Choose --policy {other}." if other else ""
        raise CheckpointError(
            f"{directory}: its model_type is {found!r}; the mdlm policy accepts "
            f"{', '.join(accepted)}.{hint}"
        )
    return read_model_config(
        directory, model_type=found or "llama", family="mdlm", needs_weights=needs_weights
    )


def _load_model(
    directory: Path, content: Mapping[str, Any], config: MdlmConfig, *, has_weights: bool = True
) -> Any:
    """Return the model in a directory, bidirectional, every tensor accounted for."""
    model_type = content["model_type"]
    is_encoder = model_type in ENCODERS
    if is_encoder and config.shifted:
        raise ConfigError(
            f"policy.shifted: {model_type} predicts each token at its own place; only decoders "
            f"may be shifted ({', '.join(DECODERS)})."
        )
    model_class = (ENCODERS if is_encoder else DECODERS)[model_type]
    try:
        built = model_class.config_class(**content)
        sizes = {name: getattr(built, name) for name in SIZES}
    except Exception as error:  # the library checks keys of its own, and raises as it likes
        raise CheckpointError(
            f"{directory}: config.json cannot be used: {error_line(error)}"
        ) from error
    check_sizes({**content, **sizes}, SIZES, directory)
    # What the library asks when it makes its masks.
    if not is_encoder:
        built.is_causal = False
    elif getattr(built, "is_decoder", False):
        built.is_decoder = False
    if not has_weights:
        return outline_model(model_class, built).to(getattr(torch, config.dtype))
    model = load_model(
        model_class,
        directory,
        built,
        dtype=config.dtype,
        attention=config.attention,
        quantization=config.quantization,
    )
    attend_both_ways(model)
    return model


def _special_ids(
    directory: Path,
    content: Mapping[str, Any],
    tokenizer: Any,
    mask_token: str | None,
    *,
    num_rows: int,
) -> SpecialIds:
    """Return the ids of mask, EOS and pad, and tell the tokenizer its mask token.

    What the settings name comes first, then the tokenizer's own tokens, then config.json's.
    """
    ids = {f"{name}_token_id": content.get(f"{name}_token_id") for name in SpecialIds._fields}
    vocabulary = tokenizer.get_vocab()
    if content["model_type"] in ENCODERS:
        # BERT's published tokenizers leave it to their class to say which tokens are special.
        if tokenizer.mask_token is None and "[MASK]" in vocabulary:
            mask_token = mask_token or "[MASK]"
        ids["eos_token_id"] = tokenizer.sep_token_id or vocabulary.get("[SEP]")
    if mask_token is not None:
        _name_mask_token(tokenizer, mask_token)
        ids["mask_token_id"] = None
    elif tokenizer.mask_token_id is None and ids["mask_token_id"] is None:
        raise CheckpointError(
            f"{directory}: neither the tokenizer nor config.json names a mask token; name the one "
            "the model was trained with, for example --policy.mask_token '<|mask|>'; "
            f"{_likely_masks(tokenizer, '<|mask|>')}."
        )
    for name, known in (("eos", tokenizer.eos_token_id), ("pad", tokenizer.pad_token_id)):
        ids[f"{name}_token_id"] = ids[f"{name}_token_id"] if known is None else known
    return special_ids(SimpleNamespace(**ids), tokenizer, num_rows=num_rows, directory=directory)


def _name_mask_token(tokenizer: Any, token: str) -> None:
    if token not in tokenizer.get_vocab():
        raise ConfigError(
            f"policy.mask_token: the tokenizer has no token {token!r}; "
            f"{_likely_masks(tokenizer, token)}."
        )
    tokenizer.add_special_tokens({"mask_token": token})


def _likely_masks(tokenizer: Any, named: str) -> str:
    """Return a clause with the special tokens that look most like ``named``."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    special.update(tokenizer.all_special_tokens)
    near = difflib.get_close_matches(named, sorted(special), n=5, cutoff=0.0)
    return f"its nearest special tokens: {', '.join(map(repr, near))}" if near else "it has none"


def _train_every_row(model: Any, ids: SpecialIds) -> None:
    """Let the embedding train the row of pad where pad is a token that must train."""
    embedding = model.get_input_embeddings()
    if embedding.padding_idx in (ids.eos, ids.mask):
        embedding.padding_idx = None
