"""Text to tokens and back, for a tokenizer in transformers' ``tokenizer.json`` form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from dmpo.errors import CheckpointError, DataError
from dmpo.files import replace_text
from dmpo.records import Example, Prompts

__all__ = ["TextCodec", "load_tokenizer", "save_tokenizer"]


def load_tokenizer(directory: Path) -> Any:
    """Return the tokenizer stored in a model's directory.

    Raises:
        CheckpointError: If there is none, or it cannot be read.
    """
    if not (directory / "tokenizer.json").is_file():
        raise CheckpointError(f"{directory}: no tokenizer.json there.")
    try:
        return PreTrainedTokenizerFast.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the reader raises whatever its backend does
        raise CheckpointError(
            f"{directory}: the tokenizer (tokenizer.json, tokenizer_config.json) cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def save_tokenizer(tokenizer: Any, directory: Path) -> None:
    """Write a tokenizer so that transformers 4, which the official code runs on, reads it too."""
    # Early ones read no chat template from a file of its own, and none a list of extra tokens
    # under the name that transformers 5 gives it.
    tokenizer.save_pretrained(str(directory), save_jinja_files=False)
    file = directory / "tokenizer_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["tokenizer_class"] = "PreTrainedTokenizerFast"
    if extra := content.pop("extra_special_tokens", None):
        content["additional_special_tokens"] = extra
    replace_text(file, json.dumps(content, indent=2) + "\n")


@final
class TextCodec:
    """Encodes prompts (padded on the left) and answers (filled up with EOS); decodes canvases.

    Args:
        tokenizer: A fast tokenizer; its chat template is used on prompts if it has one.
        eos_token_id: Ends an answer and fills the canvas.
        pad_token_id: Fills prompts on the left.
        max_length: Longest prompt, in tokens.
    """

    def __init__(
        self, tokenizer: Any, *, eos_token_id: int, pad_token_id: int, max_length: int
    ) -> None:
        """Keep the tokenizer and the ids."""
        self.tokenizer = tokenizer
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.max_length = max_length

    def encode(self, examples: Sequence[Example], device: torch.device) -> Prompts:
        """Return prompts padded on the left to the longest.

        Raises:
            DataError: If there is no prompt, one is empty, too long, or not expressible.
        """
        if not examples:
            raise DataError("prompts: none given; at least one is needed.")
        rows = [self._prompt_ids(index, example) for index, example in enumerate(examples)]
        width = max(map(len, rows))
        tokens = torch.tensor([[self.pad_token_id] * (width - len(row)) + row for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(width) >= (width - lengths).unsqueeze(1)
        return Prompts(
            examples=tuple(examples), tokens=tokens.to(device), attention_mask=mask.to(device)
        )

    def encode_completions(
        self, texts: Sequence[str], length: int, device: torch.device
    ) -> Int[Tensor, "S D"]:
        """Return answers on a canvas of ``length``, filled up with EOS.

        Raises:
            DataError: If an answer does not fit or is not expressible.
        """
        canvas = torch.full((len(texts), length), self.eos_token_id, dtype=torch.long)
        for index, text in enumerate(texts):
            ids = self._ids(f"completion {index}", text, add_special_tokens=False)
            if len(ids) > length:
                raise DataError(
                    f"completion {index}: {len(ids)} tokens do not fit a canvas of {length}; "
                    f"given {_short(text)}."
                )
            canvas[index, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        return canvas.to(device)

    def decode(self, completions: Int[Tensor, "S D"]) -> list[str]:
        """Return the text of each canvas up to its first EOS, special tokens left out."""
        rows = []
        for row in completions.tolist():
            end = row.index(self.eos_token_id) if self.eos_token_id in row else len(row)
            rows.append(row[:end])
        return [
            str(text)
            for text in self.tokenizer.batch_decode(
                rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        ]

    def _prompt_ids(self, index: int, example: Example) -> list[int]:
        name, prompt = f"prompt {index}", example.prompt
        if not prompt:
            raise DataError(f"{name}: it is empty.")
        if self.tokenizer.chat_template:
            text = self._templated(prompt) + example.prefill
            ids = self._ids(name, text, add_special_tokens=False)
        else:
            ids = self._ids(name, prompt + example.prefill, add_special_tokens=True)
        if not ids:
            raise DataError(f"{name}: no tokens are left of {_short(prompt)}.")
        if len(ids) > self.max_length:
            raise DataError(
                f"{name}: {len(ids)} tokens, longer than the model's context of "
                f"{self.max_length}; given {_short(prompt)}."
            )
        return ids

    def _templated(self, prompt: str) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # a template is a program, and raises whatever it likes
            raise CheckpointError(
                "tokenizer_config.json: its chat template fails on a user's message: "
                f"{type(error).__name__}: {error}"
            ) from error
        return text

    def _ids(self, name: str, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            return list(self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
        except Exception as error:  # a vocabulary without an unknown token raises plainly
            known = self.tokenizer.get_vocab()
            unknown = sorted({character for character in text if character not in known})
            raise DataError(
                f"{name}: the tokenizer has no token for {', '.join(map(repr, unknown[:5]))}; "
                f"given {_short(text)}."
            ) from error


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
