"""From the files of a checkpoint to a model: what every policy on transformers needs.

Everything here is the same for every family: which files there must be, how the library is
called, what is checked of the tensors it read, and which tokens are special. A family adds its
model class, its configuration and what it knows of its published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import nn
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from dmpo.errors import CheckpointError, ConfigError
from dmpo.policies.locate import ADAPTER, INDEX, WEIGHTS, quiet_library, shard_names
from dmpo.policies.quantization import check_quantization, quantized_loading

__all__ = [
    "PublishedIds",
    "SpecialIds",
    "attend_both_ways",
    "check_attention",
    "check_sizes",
    "check_vocabulary",
    "check_weight_files",
    "error_line",
    "load_model",
    "special_ids",
]

FLASH_ATTENTION = {
    "flash_attention_2": ("flash-attn", is_flash_attn_2_available),
    "flash_attention_3": ("flash-attn-3", is_flash_attn_3_available),
}
"""Kernels that are packages of their own: the package, and whether it is installed."""


class SpecialIds(NamedTuple):
    """The tokens that are not text."""

    mask: int
    """Stands for noise."""
    eos: int
    """Ends an answer."""
    pad: int
    """Fills prompts on the left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedIds:
    """What a family's published checkpoints use, for files that do not say it."""

    num_rows: int
    """Rows of the published embedding; the ids below hold for that vocabulary alone."""
    mask: int
    """Id of the mask token."""
    eos: int
    """Id of the token that ends an answer."""


def load_model(
    model_class: Any,
    directory: Path,
    config: Any,
    *,
    dtype: str,
    attention: str,
    quantization: str | None = None,
) -> Any:
    """Return the model in a directory, every tensor accounted for.

    Weights are converted to ``dtype`` one at a time as they are read.

    Args:
        model_class: A class with transformers' ``from_pretrained``.
        directory: A model's directory, of safetensors.
        config: The model's configuration, an instance of the class's own.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        attention: Attention kernel, by the library's name.
        quantization: ``nf4``, or None.

    Raises:
        ConfigError: If the attention kernel or the quantisation is not usable here.
        CheckpointError: If files are missing, unreadable or of another family, or tensors are
            missing, unknown, of other shapes or not finite.
    """
    check_attention(attention, dtype=dtype)
    check_quantization(quantization)
    check_weight_files(directory)
    _check_one_model(directory, config)
    try:
        with quiet_library():
            model, report = model_class.from_pretrained(
                str(directory),
                config=config,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, each by name
                **quantized_loading(quantization),
            )
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}") from error
    except Exception as error:  # the library raises whatever its readers do
        raise CheckpointError(
            f"{directory}: the model cannot be loaded: {error_line(error)}"
        ) from error
    _check_tensors(model, report, directory)
    return model


def attend_both_ways(model: nn.Module) -> None:
    """Let every attention layer of a decoder look both ways, whatever its kernel.

    ``config.is_causal = False`` makes the library's masks bidirectional; flash attention takes
    no such mask and asks the layer instead.
    """
    layers: Iterable[Any] = model.modules()
    for layer in layers:
        if hasattr(layer, "is_causal"):
            layer.is_causal = False


def check_attention(attention: str, *, dtype: str) -> None:
    """Refuse an attention kernel that cannot run here, before any weight is read.

    Raises:
        ConfigError: If its package is not installed, there is no CUDA device, or the precision
            is not one it computes in.
    """
    if attention not in FLASH_ATTENTION:
        return
    package, is_installed = FLASH_ATTENTION[attention]
    if not torch.cuda.is_available():
        problem = f"({package}) needs a CUDA device, and there is none here"
    elif not is_installed():
        problem = f"needs the package {package}, which is not installed"
    elif dtype == "float32":
        problem = "computes in half precision alone; set policy.dtype to bfloat16"
    else:
        return
    raise ConfigError(f"policy.attention: {attention} {problem}; sdpa runs everywhere.")


def check_weight_files(directory: Path) -> None:
    """Refuse weights of which a file is missing, cut short or not where the index may point.

    Raises:
        CheckpointError: If so; the message names the file.
    """
    for name in [WEIGHTS] if (directory / WEIGHTS).is_file() else shard_names(directory):
        file = directory / name
        if not file.is_file():
            raise CheckpointError(
                f"{directory}: {name} is missing, which {INDEX} lists; fetch the model again."
            )
        try:
            with safe_open(str(file), framework="pt"):
                pass
        except Exception as error:  # the reader has an exception type of its own
            raise CheckpointError(
                f"{file}: the model cannot be loaded: {error_line(error)}; the file is cut short "
                "or damaged, fetch it again."
            ) from error


def _check_one_model(directory: Path, config: Any) -> None:
    """Refuse what would have the library read other weights than those that were checked."""
    named = getattr(config, "transformers_weights", None)
    if named is not None:
        raise CheckpointError(
            f"{directory}: config.json: transformers_weights names {named!r} in place of "
            f"{WEIGHTS}; take the key out."
        )
    if (directory / ADAPTER).is_file():
        raise CheckpointError(
            f"{directory}: an adapter ({ADAPTER}) lies beside the model and would be added to it "
            "unseen; move it to a folder of its own, or merge it first."
        )


def _check_tensors(model: nn.Module, report: Mapping[str, Any], directory: Path) -> None:
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
        smallest, largest = torch.aminmax(weight.detach())  # no copy, as isfinite would make
        if not (math.isfinite(smallest) and math.isfinite(largest)):
            raise CheckpointError(f"{directory}: {name} holds values that are not finite.")


def check_sizes(content: Mapping[str, Any], names: Iterable[str], directory: Path) -> None:
    """Refuse a config.json whose numbers would only fail inside the library, or much later.

    Args:
        content: What ``config.json`` holds.
        names: The keys that must be whole numbers above 0.
        directory: For the message.

    Raises:
        CheckpointError: If one is missing or no such number, ``rope_theta`` is no finite number
            above 0, or a special token's id is no number.
    """
    for name in names:
        size = content.get(name)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise CheckpointError(
                f"{directory}: config.json: {name} must be a whole number above 0; "
                f"{f'given {size!r}' if name in content else 'it is missing'}."
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


def special_ids(
    config: Any,
    tokenizer: Any,
    *,
    num_rows: int,
    directory: str | Path,
    published: PublishedIds | None = None,
) -> SpecialIds:
    """Return the ids of mask, EOS and pad: the config's, the tokenizer's, or the published.

    Pad is EOS where nobody names one.

    Args:
        config: The model's configuration; ids it does not have are not asked for.
        tokenizer: The checkpoint's tokenizer.
        num_rows: V, rows of the embedding.
        directory: What messages name.
        published: Ids for a checkpoint of the published vocabulary that names none.

    Raises:
        CheckpointError: If an id is missing, outside the embedding, contradicted by the
            tokenizer, or mask and EOS are one token.
    """
    holds = published is not None and published.num_rows == num_rows
    known = (published.mask, published.eos) if published and holds else (None, None)
    declared = tokenizer.mask_token_id
    found = {
        "mask": _first_id(getattr(config, "mask_token_id", None), declared, known[0]),
        "eos": _first_id(getattr(config, "eos_token_id", None), tokenizer.eos_token_id, known[1]),
    }
    found["pad"] = _first_id(
        getattr(config, "pad_token_id", None), tokenizer.pad_token_id, found["eos"]
    )
    mask, eos, pad = (
        _row(value, f"{directory}: config.json: {name}_token_id", num_rows=num_rows)
        for name, value in found.items()
    )
    if mask == eos:
        raise CheckpointError(
            f"{directory}: config.json: mask_token_id and eos_token_id are both {mask}; the mask "
            "must be a token of its own."
        )
    if declared is not None and declared != mask:
        raise CheckpointError(
            f"{directory}: config.json: mask_token_id is {mask}, but the tokenizer's mask token "
            f"{tokenizer.mask_token!r} is {declared}; correct the wrong one."
        )
    return SpecialIds(mask, eos, pad)


def _row(value: int | None, name: str, *, num_rows: int) -> int:
    if value is None:
        raise CheckpointError(
            f"{name} is missing, and the tokenizer declares no such token; add the id to "
            "config.json."
        )
    if not 0 <= value < num_rows:
        raise CheckpointError(
            f"{name} is outside the vocabulary ({value} of {num_rows} rows); correct it."
        )
    return value


def check_vocabulary(tokenizer: Any, *, num_rows: int, directory: str | Path) -> None:
    """Refuse a tokenizer with tokens that the embedding has no row for.

    Raises:
        CheckpointError: If so.
    """
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= num_rows:
        raise CheckpointError(
            f"{directory}: tokenizer.json: it has token {largest}; the model has {num_rows} rows "
            "of embedding, from 0. The tokenizer belongs to another model."
        )


def error_line(error: Exception) -> str:
    """Return one line for what a library raised: its kind and the last line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def _first_id(*candidates: int | list[int] | None) -> int | None:
    for candidate in candidates:
        if isinstance(candidate, list) and candidate:
            return candidate[0]
        if isinstance(candidate, int):
            return candidate
    return None
