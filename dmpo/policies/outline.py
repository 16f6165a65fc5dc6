"""Models without weights, on PyTorch's meta device: shapes and settings, for planning a run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["outline_model", "placing"]


def outline_model(model_class: Any, config: Any) -> Any:
    """Return a model of a configuration whose tensors have a shape and no numbers.

    Args:
        model_class: A class of transformers' kind, built of a configuration.
        config: An instance of the class's own; the attention kernel becomes PyTorch's, as others
            may not be installed where a run is only planned.
    """
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        return model_class(config)


def placing(*, has_weights: bool) -> AbstractContextManager[Any]:
    """Context in which what is added to a model lies on the meta device, too, if it does."""
    return nullcontext() if has_weights else torch.device("meta")
