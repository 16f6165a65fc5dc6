from __future__ import annotations

import pytest
from transformers.utils import logging as library_logging

from dmpo.errors import CheckpointError
from dmpo.policies.locate import has_weights, model_directory, quiet_library


def test_directory_is_taken_as_it_is(tmp_path):
    assert model_directory(str(tmp_path), None) == tmp_path


def test_cached_model_is_found_without_the_network(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    refs = tmp_path / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_directory("owner/name", None) == snapshot


def test_model_that_cannot_be_fetched_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"owner/name .* could not be fetched") as caught:
        model_directory("owner/name", None)
    assert "\n" not in str(caught.value)


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
