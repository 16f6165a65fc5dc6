"""Every command that takes a model takes one of the hub, at a revision."""

from __future__ import annotations

import pytest

from tests.cli.command import assert_one_line, dmpo


@pytest.mark.parametrize(
    "command", [("train",), ("sft",), ("eval",), ("generate", "--prompt", "1")]
)
@pytest.mark.parametrize("revision", ["--policy.revision", "--set"])
def test_revision_of_a_model_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str],
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    revision: str,
) -> None:
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    given = ("v1",) if revision != "--set" else ("policy.revision=v1",)
    said = dmpo(capsys, *command, "--model", "owner/name", revision, *given)
    assert_one_line(said, 2, "policy.model: owner/name (revision v1) is not a directory here")
