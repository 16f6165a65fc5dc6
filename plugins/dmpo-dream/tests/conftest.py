"""Checkpoints in Dream's official layout: the fixtures' and one of a character vocabulary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dmpo_dream.backbone import DreamConfig, DreamModel
from dmpo_dream.policy import DreamPolicy, DreamPolicyConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from dmpo.policies.text import save_tokenizer
from dmpo.policies.tiny import character_tokenizer

torch.set_num_threads(1)

FIXTURES = Path(__file__).resolve().parents[4] / "shared" / "fixtures" / "dream_tiny"
CHARACTERS = (
    "\n0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ +-*/=()[]{}<>.,:;!?'\"|_"
)


@pytest.fixture(scope="session")
def official_files() -> Path:
    """The folder of what the official code computed."""
    if not FIXTURES.is_dir():
        pytest.skip("the official implementation's numbers are not at hand")
    return FIXTURES


@pytest.fixture(scope="session")
def official_directory(official_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixtures' model with a tokenizer of words t0, t1, … and its mask."""
    directory = tmp_path_factory.mktemp("official")
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(official_files / file, directory / file)
    tokenizer = Tokenizer(WordLevel({f"t{token}": token for token in range(150)}, unk_token="t0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="session")
def official(official_directory: Path) -> DreamPolicy:
    """The fixtures' model as a policy; not to be changed."""
    return DreamPolicy(DreamPolicyConfig(model=str(official_directory)))


@pytest.fixture(scope="session")
def small_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Dream of two blocks whose tokens are characters; not to be changed."""
    directory = tmp_path_factory.mktemp("small")
    tokenizer = character_tokenizer(CHARACTERS)
    shape = DreamConfig(
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=256,
        vocab_size=len(tokenizer) + 5,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = DreamModel(shape)
        for parameter in model.parameters():  # biases and norms too, which start at 0 and 1
            parameter.data += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(str(directory))
    save_tokenizer(tokenizer, directory)
    return directory


@pytest.fixture
def small(small_directory: Path) -> Callable[..., DreamPolicy]:
    """Build the small policy with other settings."""
    return lambda **settings: DreamPolicy(
        DreamPolicyConfig.model_validate({"model": str(small_directory), **settings})
    )


@pytest.fixture
def broken(small_directory: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the small checkpoint and rewrite keys of its config.json; None deletes one."""

    def copy(**changes: Any) -> Path:
        shutil.copytree(small_directory, tmp_path, dirs_exist_ok=True)
        file = tmp_path / "config.json"
        content = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
        return tmp_path

    return copy
