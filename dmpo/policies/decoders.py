"""Decoders of transformers that were trained further to predict masked tokens.

They are the library's own classes, built without a causal mask: ``config.is_causal`` must be
False before they are. dLLM's converted checkpoints have the same tensors under a ``model_type``
and an architecture of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

__all__ = ["DECODERS"]


def _bidirectional(base: Any, *, model_type: str | None = None, name: str | None = None) -> Any:
    """Return a decoder's class without generation, which the causal mask went with.

    Args:
        base: A causal-LM class of the library.
        model_type: What ``config.json`` says instead of the base's, for a family that renamed it.
        name: The class name that goes with it, written as the architecture.
    """
    config_class = base.config_class
    if model_type is not None:
        config_class = type(f"{name}Config", (config_class,), {"model_type": model_type})
    body = {"config_class": config_class, "can_generate": classmethod(lambda _: False)}
    return type(name or base.__name__, (base,), body)


DECODERS: Mapping[str, Any] = {
    "llama": _bidirectional(transformers.LlamaForCausalLM),
    "qwen2": _bidirectional(transformers.Qwen2ForCausalLM),
    "qwen3": _bidirectional(transformers.Qwen3ForCausalLM),
    "a2d-llama": _bidirectional(
        transformers.LlamaForCausalLM, model_type="a2d-llama", name="A2DLlamaLMHeadModel"
    ),
    "a2d-qwen2": _bidirectional(
        transformers.Qwen2ForCausalLM, model_type="a2d-qwen2", name="A2DQwen2LMHeadModel"
    ),
    "a2d-qwen3": _bidirectional(
        transformers.Qwen3ForCausalLM, model_type="a2d-qwen3", name="A2DQwen3LMHeadModel"
    ),
}
"""The classes of decoders by ``model_type``."""
