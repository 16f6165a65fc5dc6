"""LLaDA on transformers' Llama: the official configuration keys and tensor names, both ways.

LLaDA (Nie et al. 2025, arXiv 2502.09992) is a Llama decoder without the causal mask. So the
layers are the library's; this file only says how the official files spell their names, and
undoes the one thing that differs: Llama's embedding never trains the row of the pad token,
while in LLaDA pad is EOS, which must train.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from dmpo.errors import CheckpointError
from dmpo.policies.loading import attend_both_ways

__all__ = ["LLaDAConfig", "LLaDAModelLM"]

_LLAMA_NAMES: Mapping[str, str] = {
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_layers": "num_hidden_layers",
    "n_kv_heads": "num_key_value_heads",
    "mlp_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "weight_tying": "tie_word_embeddings",
    "activation_type": "hidden_act",
    "init_std": "initializer_range",
}
"""The official configuration's names for what Llama's calls otherwise."""

_FIXED: Mapping[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "embedding_dropout": 0.0,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "residual_dropout": 0.0,
    "rope": True,
    "scale_logits": False,
}
"""Official options of which every published LLaDA uses this value, the only one built here."""

_WRITTEN: Mapping[str, Any] = {
    "alibi_bias_max": 8.0,
    "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        "AutoModel": "modeling_llada.LLaDAModelLM",
    },
    "flash_attention": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "layer_norm_with_affine": True,
    "mlp_ratio": 4,
    "multi_query_attention": None,
    "precision": "amp_bf16",
    "rope_full_precision": True,
    "use_cache": False,
}
"""Official options that change nothing here, written so that the official code can read us."""

_LLAMA_ONLY = frozenset(
    {
        "attention_bias",
        "bos_token_id",
        "dtype",
        "head_dim",
        "is_causal",
        "mlp_bias",
        "pretraining_tp",
        "rope_parameters",
    }
)
"""Keys of Llama's configuration that the official one does not know."""

_LAYER_NAMES: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
"""The official names of a block's tensors and Llama's."""


class LLaDAConfig(LlamaConfig):  # type: ignore[misc]
    """Llama's configuration that reads and writes the keys of LLaDA's ``config.json``."""

    model_type = "llada"
    attribute_map: ClassVar[dict[str, str]] = dict(_LLAMA_NAMES)

    # A configuration takes any key of a config.json, which checkers of a dataclass's own
    # arguments (the tests' import hook) do not expect.
    __no_type_check__: ClassVar[bool] = True

    is_causal: ClassVar[bool] = False
    """What makes the library's attention masks bidirectional."""

    embedding_size: int | None = None
    """Rows of the embedding and of the output projection; at least ``vocab_size``."""
    mask_token_id: int | None = None
    """The token that stands for noise."""
    rms_norm_eps: float = 1e-5
    use_cache: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pretraining_tp: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Take the official keys before Llama derives sizes from its own."""
        if "d_model" in kwargs:
            d_model, n_heads = kwargs["d_model"], kwargs.get("n_heads")
            self.head_dim = None
            self.num_key_value_heads = kwargs.pop("n_kv_heads", None) or n_heads
            mlp_ratio = kwargs.get("mlp_ratio", _WRITTEN["mlp_ratio"])
            self.intermediate_size = kwargs.pop("mlp_hidden_size", None) or mlp_ratio * d_model
        for official, name in _LLAMA_NAMES.items():
            if official in kwargs:
                setattr(self, name, kwargs.pop(official))
        super().__post_init__(**{**_FIXED, **_WRITTEN, **kwargs})
        for name, accepted in _FIXED.items():
            if getattr(self, name) != accepted:
                raise CheckpointError(
                    f"config.json: {name} is {getattr(self, name)!r}; a LLaDA of this library "
                    f"has {accepted!r}."
                )

    @property
    def num_rows(self) -> int:
        """V: rows of the embedding and of the output projection."""
        return int(self.embedding_size or self.vocab_size)

    def to_diff_dict(self) -> dict[str, Any]:
        """Return what ``config.json`` holds: the official keys in place of Llama's."""
        native = super().to_diff_dict()
        official = {llama: name for name, llama in _LLAMA_NAMES.items()}
        official["dtype"] = "torch_dtype"  # the official code runs on transformers 4
        written = {name: getattr(self, name) for name in (*_FIXED, *_WRITTEN, *_LLAMA_NAMES)}
        written |= {official.get(name, name): value for name, value in native.items()}
        written["rope_theta"] = self.rope_parameters["rope_theta"]
        written["embedding_size"] = self.num_rows
        return {k: v for k, v in sorted(written.items()) if k not in _LLAMA_ONLY}


class LLaDAModelLM(LlamaForCausalLM):  # type: ignore[misc]
    """Llama with LLaDA's embedding.

    The class bears the official name, which ``save_pretrained`` writes as the architecture.
    """

    config_class = LLaDAConfig

    def __init__(self, config: LLaDAConfig) -> None:
        """Build Llama, then give embedding and projection the official number of rows."""
        super().__init__(config)
        self.vocab_size = config.num_rows
        self.model.vocab_size = config.num_rows
        self.model.padding_idx = None
        self.model.embed_tokens = nn.Embedding(config.num_rows, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.num_rows, bias=False)
        attend_both_ways(self)
        self.post_init()

    def can_generate(self) -> bool:
        """Return False: the library's autoregressive generation does not apply."""
        return False


def _renamings() -> list[WeightRenaming]:
    """Return the rules from official tensor names to Llama's; the library inverts them."""
    outer = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
    return [
        WeightRenaming(rf"model.transformer.{official}.", f"{name}.")
        for official, name in outer.items()
    ] + [
        WeightRenaming(rf"model.transformer.blocks.(\d+).{official}.", rf"model.layers.\1.{name}.")
        for official, name in _LAYER_NAMES.items()
    ]


register_checkpoint_conversion_mapping("LLaDAModelLM", _renamings(), overwrite=True)
