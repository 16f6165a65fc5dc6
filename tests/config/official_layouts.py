"""LLaDA-8B as published, without its weights, and problems as long as the published ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LLADA_8B: Mapping[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        "AutoModel": "modeling_llada.LLaDAModelLM",
    },
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "layer_norm_type": "rms",
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "model_type": "llada",
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_theta": 500000.0,
    "use_cache": False,
    "vocab_size": 126464,
    "weight_tying": False,
}
"""Of LLaDA-8B-Instruct; LLaDA-1.5 has the same."""

LLADA_IDS: Mapping[str, int] = {"<|endoftext|>": 126081, "<|mdm_mask|>": 126336}
"""LLaDA's special tokens."""

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
GSM8K_WORDS, MATH_WORDS = 300, 1024
"""Words of the longest problem: more than GSM8K's longest, about MATH-500's."""


def word_tokenizer(ids: Mapping[str, int]) -> Any:
    """Return a tokenizer with these ids of EOS and mask, to which every word is the same token.

    Of a text it makes about as many tokens as a real one does: words, digits and signs.
    """
    tokenizer = Tokenizer(models.WordLevel({"word": 0, **ids}, unk_token="word"))
    pattern = Regex(r"\d|\p{L}+|[^\p{L}\d\s]|\n")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    tokenizer.add_special_tokens([*ids])
    eos, mask = ids
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token=eos, mask_token=mask
    )
    fast.chat_template = TEMPLATE
    return fast


def write_layout(directory: Path, config: Mapping[str, Any], tokenizer: Any) -> Path:
    """Write a model's folder as it is published, but for its weights."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(directory)
    return directory


def write_problems(directory: Path) -> Mapping[str, Mapping[str, object]]:
    """Write small sources in the published formats, the longest problem as long as there.

    Returns:
        By task the settings that name them, and make few of those that are made here.
    """
    apples, terms = "apples ", "x + "
    rows: Mapping[str, Sequence[Mapping[str, Any]]] = {
        "gsm8k": [
            {"question": f"{n} {(30 if n else GSM8K_WORDS) * apples}?", "answer": f"So #### {n}"}
            for n in range(300)
        ],
        "math500": [
            {"problem": f"{n} {(30 if n else MATH_WORDS // 2) * terms}1", "answer": f"{n}"}
            for n in range(300)
        ],
        "countdown": [{"nums": [n, 2, 3], "target": n + 5} for n in range(1, 301)],
    }
    found: dict[str, dict[str, object]] = {"sudoku": {"task.train_size": 64}}
    for task, all_rows in rows.items():
        found[task] = {}
        for split, part in (("train", all_rows), ("test", all_rows[-2:])):
            file = directory / f"{task}_{split}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in part))
            found[task][f"task.{split}_source"] = str(file)
    return found
