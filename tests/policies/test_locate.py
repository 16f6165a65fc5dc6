from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from transformers.utils import logging as library_logging

from dmpo.errors import CheckpointError
from dmpo.policies.llada import LladaConfig, LladaPolicy
from dmpo.policies.locate import INDEX, has_weights, model_directory, quiet_library
from tests.policies.builders import small_policy


def test_directory_is_taken_as_it_is(tmp_path):
    assert model_directory(str(tmp_path), None) == tmp_path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a hub that nobody can reach; what asks for it is listed."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def unreachable(*_, **__):
        asked.append(1)
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setattr("socket.socket.connect", unreachable)
    return SimpleNamespace(path=tmp_path, asked=asked)


def cached(cache, *files, commit="abc", reference="main"):
    """Lay a model into the cache as the hub's client does; return its snapshot."""
    model = cache.path / "models--owner--name"
    snapshot = model / "snapshots" / commit
    for file in files:
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).touch()
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / reference).write_text(commit)
    return snapshot


def test_cached_model_is_found_without_the_network(cache):
    snapshot = cached(cache, "config.json", "model.safetensors")
    assert model_directory("owner/name", None) == snapshot
    assert cache.asked == []


def test_cached_revision_is_found_by_name_and_by_commit(cache):
    first = cached(cache, "model.safetensors", commit="a" * 40)
    other = cached(cache, "model.safetensors", commit="b" * 40, reference="v1.5")
    assert model_directory("owner/name", None) == first
    assert model_directory("owner/name", "v1.5") == other
    assert model_directory("owner/name", "b" * 40) == other
    assert cache.asked == []


def test_cached_model_is_loaded_by_its_name_alone(cache):
    small_policy().save(cached(cache, "config.json"))
    policy = LladaPolicy(LladaConfig(model="owner/name"))
    assert policy.describe() == "LLaDA owner/name, 23.8k parameters"
    assert cache.asked == []


def test_model_that_is_not_cached_fails_at_once_without_a_network(cache):
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"owner/name .* could not be fetched") as caught:
        model_directory("owner/name", None)
    assert time.monotonic() - began < 5
    assert "\n" not in str(caught.value)
    assert cache.asked


def test_revision_that_is_not_cached_is_asked_of_the_hub(cache):
    cached(cache, "model.safetensors")
    with pytest.raises(CheckpointError, match=r"owner/name \(revision v2\) .* not be fetched"):
        model_directory("owner/name", "v2")
    assert cache.asked


@pytest.mark.parametrize("files", [("config.json",), (INDEX,)])
def test_download_that_broke_off_is_gone_on_with(cache, files):
    snapshot = cached(cache, *files)
    if INDEX in files:
        (snapshot / INDEX).write_text('{"weight_map": {"x": "model-1.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"owner/name .* could not be fetched"):
        model_directory("owner/name", None)
    assert cache.asked


def test_model_that_is_not_cached_is_one_clear_line_offline(cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"owner/name .* could not be fetched") as caught:
        model_directory("owner/name", None)
    assert "\n" not in str(caught.value)
    assert cache.asked == []


@pytest.mark.parametrize("name", ["name", "../owner/name", "a/b/c", "/nowhere"])
def test_what_is_neither_path_nor_hub_id_is_refused(name):
    with pytest.raises(CheckpointError, match="neither a directory nor"):
        model_directory(name, None)


def test_sharded_weights_count_as_weights(tmp_path):
    assert not has_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").touch()
    assert has_weights(tmp_path)


def test_quiet_library_restores_what_it_found():
    library_logging.enable_progress_bar()
    library_logging.set_verbosity_info()
    with quiet_library():
        assert not library_logging.is_progress_bar_enabled()
    assert library_logging.is_progress_bar_enabled()
    assert library_logging.get_verbosity() == library_logging.INFO
    library_logging.set_verbosity_warning()
