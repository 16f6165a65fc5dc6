"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314): a base in 4 bits under adapters in float32."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from dmpo.errors import ConfigError

__all__ = ["check_quantization", "quantized_loading"]


def quantized_loading(quantization: str | None) -> dict[str, Any]:
    """Return what ``from_pretrained`` is told beside the rest; nothing for None.

    4-bit NormalFloat with its scales quantised once more (§3 of the paper); products are taken
    in bfloat16. The weights are quantised as they are read, so they go to this process's device
    at once. Embedding, projection onto the vocabulary and norms stay as they are.

    Args:
        quantization: ``nf4``, or None.
    """
    if quantization is None:
        return {}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {
        "quantization_config": config,
        "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))},
    }


def check_quantization(quantization: str | None) -> None:
    """Refuse quantised weights where they cannot run, before any weight is read.

    Raises:
        ConfigError: If bitsandbytes is not installed, or there is no CUDA device.
    """
    if quantization is None:
        return
    if not is_bitsandbytes_available():
        problem = "it is not installed here (the extra 'cuda' has it)"
    elif not torch.cuda.is_available():
        problem = "it runs on a CUDA device, and there is none here"
    else:
        return
    raise ConfigError(
        f"policy.quantization: {quantization} needs bitsandbytes: {problem}; leave it out to keep "
        "the weights in policy.dtype."
    )
