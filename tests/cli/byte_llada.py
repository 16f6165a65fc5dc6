"""A LLaDA with random weights that reads any text: 256 bytes, a chat template, official layout."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dmpo.policies.llada_backbone import LLaDAConfig, LLaDAModelLM

EOS, MASK = 256, 257
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def save_byte_llada(directory: Path) -> Path:
    """Write the checkpoint and return its directory."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|mdm_mask|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LLaDAConfig(
        d_model=16,
        n_heads=2,
        n_layers=1,
        mlp_hidden_size=24,
        vocab_size=258,
        embedding_size=258,
        max_sequence_length=2048,
        mask_token_id=MASK,
        eos_token_id=EOS,
        pad_token_id=EOS,
    )
    LLaDAModelLM(config).save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory
