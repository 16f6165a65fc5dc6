"""Dream on transformers' Qwen2: the official configuration keys and tensor names, both ways.

Dream (Ye et al. 2025, arXiv 2508.15487) is Qwen2.5 trained on as a diffusion model: its layers
without the causal mask, its tensors under the same names. What it predicts is still shifted by
one position, of which this file knows nothing: a policy says so (``shifted``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from transformers import Qwen2Config, Qwen2ForCausalLM

from dmpo.errors import CheckpointError
from dmpo.files import replace_text
from dmpo.policies.loading import attend_both_ways

__all__ = ["DreamConfig", "DreamModel"]

_KEYS = (
    "attention_dropout",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "max_window_layers",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "sliding_window",
    "tie_word_embeddings",
    "use_cache",
    "use_sliding_window",
    "vocab_size",
)
"""Keys of the official ``config.json``, written even where they hold the library's default."""

_IDS = ("bos_token_id", "eos_token_id", "mask_token_id", "pad_token_id")
"""Keys whose absence means more than null: the official code has defaults for some of them."""

_AUTO_MAP: Mapping[str, str] = {
    "AutoConfig": "configuration_dream.DreamConfig",
    "AutoModel": "modeling_dream.DreamModel",
}
"""Where the official code finds its classes."""

_QWEN_ONLY = frozenset({"dtype", "is_causal", "layer_types", "rope_parameters"})
"""Keys of the library's configuration that the official one does not know."""

_GENERATION: Mapping[str, Any] = {
    "_from_model_config": True,
    "alg": "origin",
    "alg_temp": None,
    "eps": 0.001,
    "output_history": False,
    "steps": 512,
    "temperature": 0.0,
    "top_k": None,
    "top_p": None,
}
"""The published ``generation_config.json``, without which the official code loads no model."""


class DreamConfig(Qwen2Config):  # type: ignore[misc]
    """Qwen2's configuration that reads and writes the keys of Dream's ``config.json``."""

    model_type = "Dream"

    # A configuration takes any key of a config.json, which checkers of a dataclass's own
    # arguments (the tests' import hook) do not expect.
    __no_type_check__: ClassVar[bool] = True

    is_causal: ClassVar[bool] = False
    """What makes the library's attention masks bidirectional."""

    num_key_value_heads: int | None = None
    """Unset: as many as heads, as in the official code."""
    mask_token_id: int | None = None
    """The token that stands for noise."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse the one option that the official code builds and this library does not."""
        if self.use_sliding_window:
            raise CheckpointError(
                "config.json: use_sliding_window is True; a Dream of this library has False."
            )
        kwargs["auto_map"] = kwargs.get("auto_map") or dict(_AUTO_MAP)
        super().__post_init__(**kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what ``config.json`` holds: the official keys, whatever the library adds."""
        written: dict[str, Any] = super().to_diff_dict()
        # The official code runs on transformers 4, which spells two things otherwise.
        if "dtype" in written:
            written["torch_dtype"] = written["dtype"]
        rope = dict(self.rope_parameters)
        written["rope_theta"] = rope.pop("rope_theta")
        written["rope_scaling"] = None if rope == {"rope_type": "default"} else rope
        written |= {name: getattr(self, name) for name in (*_KEYS, "auto_map")}
        written |= {name: getattr(self, name) for name in _IDS}
        absent = {name for name in _IDS if written[name] is None}
        return {k: v for k, v in sorted(written.items()) if k not in _QWEN_ONLY | absent}


class DreamModel(Qwen2ForCausalLM):  # type: ignore[misc]
    """Qwen2 whose attention looks both ways.

    The class bears the official name, which ``save_pretrained`` writes as the architecture.
    """

    config_class = DreamConfig

    def __init__(self, config: DreamConfig) -> None:
        """Build Qwen2, then tell its layers what its masks know."""
        super().__init__(config)
        attend_both_ways(self)

    def can_generate(self) -> bool:
        """Return False: the library's autoregressive generation does not apply."""
        return False

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the model, and the ``generation_config.json`` that the official code asks for."""
        super().save_pretrained(save_directory, **kwargs)
        ids = {name: getattr(self.config, name) for name in _IDS}
        content = {**_GENERATION, **ids, "mask_token_id": None}
        file = Path(save_directory) / "generation_config.json"
        replace_text(file, json.dumps(dict(sorted(content.items())), indent=2) + "\n")
