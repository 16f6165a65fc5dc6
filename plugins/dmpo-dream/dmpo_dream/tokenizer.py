"""Dream's tokenizer without its own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Qwen2TokenizerFast

from dmpo.errors import CheckpointError
from dmpo.policies.loading import error_line
from dmpo.policies.locate import quiet_library
from dmpo.policies.text import load_tokenizer

__all__ = ["load_dream_tokenizer"]

_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")


def load_dream_tokenizer(directory: Path) -> Any:
    """Return the tokenizer in a model's directory.

    The published checkpoints hold no ``tokenizer.json`` but Qwen2's vocabulary and merges, and
    name a class of their own, which splits text as Qwen2's does. Special tokens and chat template
    are those of ``tokenizer_config.json``.

    Raises:
        CheckpointError: If files are missing or cannot be read.
    """
    has_json = (directory / "tokenizer.json").is_file()
    tokenizer = load_tokenizer(directory) if has_json else _from_vocabulary(directory)
    # It would be saved too, and nothing we save has code of its own beside it.
    tokenizer.init_kwargs.pop("auto_map", None)
    return tokenizer


def _from_vocabulary(directory: Path) -> Any:
    for name in _FILES:
        if not (directory / name).is_file():
            raise CheckpointError(
                f"{directory}: no tokenizer there: neither tokenizer.json nor {name}."
            )
    try:
        with quiet_library():
            return Qwen2TokenizerFast.from_pretrained(
                str(directory), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the reader raises whatever its backend does
        raise CheckpointError(
            f"{directory}: the tokenizer ({', '.join(_FILES)}) cannot be read: {error_line(error)}"
        ) from error
