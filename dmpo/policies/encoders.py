"""Masked-language-model encoders of transformers, with a decoder's two names for their parts.

A :class:`dmpo.policies.denoiser.Denoiser` runs ``.model`` on the tokens and ``.lm_head`` on the
hidden states it wants projected. An encoder calls its body otherwise, and its head is a small
network in front of the projection. The classes here add the two names and nothing else: no
weight moves, and what ``save_pretrained`` writes is the library's own checkpoint. They bear the
library's class names, which it writes as the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import transformers
from torch import Tensor, nn

__all__ = ["ENCODERS", "BertForMaskedLM", "DistilBertForMaskedLM", "ModernBertForMaskedLM"]


class BertForMaskedLM(transformers.BertForMaskedLM):  # type: ignore[misc]
    """BERT (Devlin et al. 2018, arXiv 1810.04805); every token is of segment 0."""

    lora_targets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "paper": ("query", "key", "value", "intermediate.dense"),
        "all": ("query", "key", "value", "intermediate.dense", "output.dense"),
    }
    """``output.dense`` is the last projection of attention and of the MLP alike."""

    # What the published checkpoints hold beside masked prediction: their sentence-pair task.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        r"bert\.pooler",
        r"cls\.seq_relationship",
        r"position_ids",
    ]

    @property
    def model(self) -> nn.Module:
        """The body, without the pooler, which masked prediction does not use."""
        return cast("nn.Module", self.bert)

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of hidden states [..., H]: a dense layer, then the projection."""
        return cast("Tensor", self.cls(hidden))


class DistilBertForMaskedLM(transformers.DistilBertForMaskedLM):  # type: ignore[misc]
    """DistilBERT (Sanh et al. 2019, arXiv 1910.01108)."""

    lora_targets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "paper": ("q_lin", "k_lin", "v_lin", "lin1"),
        "all": ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    }

    @property
    def model(self) -> nn.Module:
        """The body."""
        return cast("nn.Module", self.distilbert)

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of hidden states [..., H]: a dense layer, then the projection."""
        dense = self.activation(self.vocab_transform(hidden))
        return cast("Tensor", self.vocab_projector(self.vocab_layer_norm(dense)))


class ModernBertForMaskedLM(transformers.ModernBertForMaskedLM):  # type: ignore[misc]
    """ModernBERT (Warner et al. 2024, arXiv 2412.13663); its body is called ``model`` already.

    Most layers attend within a window only, which the library measures in places of the padded
    row: padding on the left moves all of a row's tokens alike.
    """

    lora_targets: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "paper": ("Wqkv", "Wi"),
        "all": ("Wqkv", "attn.Wo", "Wi", "mlp.Wo"),
    }
    """``Wi`` holds the MLP's gate beside its up-projection; the two are not adapted apart."""

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of hidden states [..., H]: a dense layer, then the projection."""
        return cast("Tensor", self.decoder(self.head(hidden)))


ENCODERS: Mapping[str, Any] = {
    "bert": BertForMaskedLM,
    "distilbert": DistilBertForMaskedLM,
    "modernbert": ModernBertForMaskedLM,
}
"""The classes by ``model_type``."""
