"""Tiny checkpoints with random weights, written by the library's own classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dmpo.policies.mdlm import MdlmConfig, MdlmPolicy
from dmpo.policies.tiny import character_tokenizer

CHARACTERS = "0123456789+= \nabcdefgh"
SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24}
SHAPE = {"num_attention_heads": 2, "max_position_embeddings": 32, **SIZES}
GROUPED = {"num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": False}
WINDOWS = {"num_hidden_layers": 4, "local_attention": 8}
DISTILLED = {
    "num_hidden_layers": "n_layers",
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_attention_heads": "n_heads",
}
"""What DistilBERT calls them."""

DECODERS = ("llama", "qwen2", "qwen3")
ENCODERS = ("bert", "distilbert", "modernbert")
FAMILIES = (*DECODERS, *ENCODERS)

_CLASSES: dict[str, Any] = {
    "llama": transformers.LlamaForCausalLM,
    "qwen2": transformers.Qwen2ForCausalLM,
    "qwen3": transformers.Qwen3ForCausalLM,
    "bert": transformers.BertForMaskedLM,
    "distilbert": transformers.DistilBertForMaskedLM,
    "modernbert": transformers.ModernBertForMaskedLM,
}


def encoder_tokenizer() -> Any:
    """Return a tokenizer of single characters that frames a text as BERT's does."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = {token: index for index, token in enumerate([*special, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in named.items()}
    )


def write_checkpoint(directory: Path, family: str, *, spread: float = 0.2, **changes: Any) -> Path:
    """Write a checkpoint of the family and return its directory.

    Args:
        directory: Where to.
        family: Its model_type.
        spread: Standard deviation of the weights, on top of the library's own.
        changes: Keys of the configuration.
    """
    encoder = family in ENCODERS
    tokenizer = encoder_tokenizer() if encoder else character_tokenizer(CHARACTERS)
    model_class = _CLASSES[family]
    shape = SHAPE | (WINDOWS if family == "modernbert" else {} if encoder else GROUPED)
    if family == "distilbert":
        shape = {DISTILLED.get(name, name): value for name, value in shape.items()}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "pad")}
    if encoder:
        ids |= {"cls_token_id": 2, "sep_token_id": 3, "eos_token_id": None}
    else:
        ids |= {"eos_token_id": tokenizer.eos_token_id}
    config = model_class.config_class(**{"vocab_size": len(tokenizer), **shape, **ids, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(spread * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def rewrite(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None deletes one."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def load(directory: Path, **settings: Any) -> MdlmPolicy:
    """Return the policy of a checkpoint."""
    return MdlmPolicy(MdlmConfig.model_validate({"model": str(directory), **settings}))
