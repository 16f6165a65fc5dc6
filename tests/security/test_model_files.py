"""Files of a model are data: no pickle is loaded, and no code that lies beside them is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmpo.errors import CheckpointError, ConfigError, DataError
from dmpo.policies.llada import LladaConfig, LladaPolicy
from dmpo.policies.locate import INDEX
from dmpo.policies.mdlm import MdlmConfig, MdlmPolicy
from dmpo.rewards.classifier import ClassifierReward, ClassifierRewardConfig
from dmpo.tasks.sources import read_source
from tests.policies.builders import random_sequences, small_policy, trained_lora_policy
from tests.policies.mdlm_checkpoints import write_checkpoint
from tests.rewards.test_classifier import saved
from tests.security.canary import trapped_module, trapped_pickle

FAMILIES: dict[str, tuple[Callable[[Path], Any], Callable[[str], Any]]] = {
    "llada": (
        lambda path: small_policy().save(path),
        lambda model: LladaPolicy(LladaConfig(model=model)),
    ),
    "decoder": (
        lambda path: write_checkpoint(path, "qwen3"),
        lambda model: MdlmPolicy(MdlmConfig(model=model)),
    ),
    "encoder": (
        lambda path: write_checkpoint(path, "bert"),
        lambda model: MdlmPolicy(MdlmConfig(model=model)),
    ),
    "classifier": (
        lambda path: saved(path, 1),
        lambda model: ClassifierReward(ClassifierRewardConfig(model=model)),
    ),
}


@pytest.fixture(params=FAMILIES)
def model(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Callable[[], Any]]:
    """A small model's folder, and what loads it; nobody is there to be asked."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))
    write, load = FAMILIES[request.param]
    path = tmp_path / "model"
    write(path)
    return path, lambda: load(str(path))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that is not there, unless something that must not run has run."""
    return tmp_path / "canary"


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_trap_works(canary: Path) -> None:
    exec(trapped_module(canary))
    assert canary.exists()
    canary.unlink()
    import pickle

    pickle.loads(trapped_pickle(canary))
    assert canary.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_and_it_is_said_why(
    model: tuple[Path, Callable[[], Any]], canary: Path, name: str
) -> None:
    path, load = model
    (path / "model.safetensors").unlink()
    (path / name).write_bytes(trapped_pickle(canary))
    with pytest.raises((CheckpointError, ConfigError), match=r"safetensors.*pickle") as caught:
        load()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ConfigError) or name in str(caught.value)
    assert not canary.exists()


def test_pickle_that_is_called_safetensors_is_refused(
    model: tuple[Path, Callable[[], Any]], canary: Path
) -> None:
    path, load = model
    (path / "model.safetensors").write_bytes(trapped_pickle(canary))
    with pytest.raises((CheckpointError, ConfigError), match=r"can(not)? be loaded"):
        load()
    assert not canary.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../model.safetensors"])
def test_index_cannot_name_a_pickle_or_leave_the_folder(
    tmp_path: Path, canary: Path, name: str
) -> None:
    path = tmp_path / "model"
    small_policy().save(path)
    (path / "model.safetensors").rename(tmp_path / "model.safetensors")
    (path / "pytorch_model.bin").write_bytes(trapped_pickle(canary))
    (path / INDEX).write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(CheckpointError, match=name):
        LladaPolicy(LladaConfig(model=str(path)))
    assert not canary.exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "../model.safetensors", "other.safetensors"])
def test_configuration_cannot_name_other_weights(tmp_path: Path, canary: Path, name: str) -> None:
    small_policy().save(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(trapped_pickle(canary))
    edit(tmp_path / "config.json", transformers_weights=name)
    with pytest.raises(CheckpointError, match=f"transformers_weights names '{name}'"):
        LladaPolicy(LladaConfig(model=str(tmp_path)))
    assert not canary.exists()


def test_adapter_beside_a_model_is_refused(tmp_path: Path, canary: Path) -> None:
    trained_lora_policy().save(tmp_path)
    small_policy().save(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(trapped_pickle(canary))
    with pytest.raises(CheckpointError, match=r"adapter \(adapter_config.json\) lies beside"):
        LladaPolicy(LladaConfig(model=str(tmp_path)))
    assert not canary.exists()


def test_pickled_adapter_is_refused(tmp_path: Path, canary: Path) -> None:
    policy = trained_lora_policy()
    policy.save(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(trapped_pickle(canary))
    with pytest.raises(CheckpointError, match=r"no adapter there \(adapter_model.safetensors\)"):
        policy.load_weights(tmp_path)
    (tmp_path / "adapter_model.bin").rename(tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        policy.load_weights(tmp_path)
    assert not canary.exists()


AUTO = ("Config", "Model", "ModelForCausalLM", "ModelForMaskedLM", "ModelForSequenceClassification")


def booby_trap(path: Path, canary: Path) -> None:
    """Put code beside a model that its files name in every place where the library looks."""
    for name in ("modeling", "configuration", "tokenization", "__init__"):
        (path / f"{name}.py").write_text(trapped_module(canary))
    classes = {f"Auto{name}": "modeling.Model" for name in AUTO}
    tokenizer = {"AutoTokenizer": ["tokenization.Tokenizer", "tokenization.Tokenizer"]}
    edit(path / "config.json", auto_map={**classes, **tokenizer})
    edit(path / "tokenizer_config.json", auto_map=tokenizer, tokenizer_class="Tokenizer")


def test_code_in_a_models_folder_is_never_imported(
    model: tuple[Path, Callable[[], Any]], canary: Path
) -> None:
    path, load = model
    booby_trap(path, canary)
    loaded = load()
    if isinstance(loaded, LladaPolicy):
        loaded.token_logprobs(*random_sequences(loaded))
        loaded.load_weights(path)
    assert not canary.exists()


def test_model_of_a_type_that_its_own_code_would_define_is_refused(
    model: tuple[Path, Callable[[], Any]], canary: Path
) -> None:
    path, load = model
    booby_trap(path, canary)
    edit(path / "config.json", model_type="evil", architectures=["Model"])
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert not canary.exists()


def test_script_of_a_data_set_is_never_run(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    folder = tmp_path / "problems"
    folder.mkdir()
    (folder / "problems.py").write_text(trapped_module(canary))
    with pytest.raises(DataError, match="cannot be had from the hub"):
        list(read_source(str(folder), split="test", option="task.test_source"))
    assert not canary.exists()
