"""``dmpo doctor`` as a user starts it: once in full, then where torch is broken."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import dmpo

BROKEN = "raise ImportError('libcudnn.so.9: no such file')"
CRASHING = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


def examined(
    folder: Path, *arguments: str, torch: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run ``dmpo doctor`` in a folder, with another torch in place of the real one."""
    environment = {**os.environ, **variables}
    if torch is not None:
        (folder / "torch.py").write_text(torch)
        environment["PYTHONPATH"] = str(folder)
    return subprocess.run(
        [sys.executable, "-m", "dmpo", "doctor", "--no-network", *arguments],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("doctor")
    return folder, examined(folder, "--json", HF_TOKEN="hf_never_shown", OMP_NUM_THREADS="1")


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_this_machine_can_train(whole: tuple[Path, Any]) -> None:
    folder, done = whole
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["can_train"] is True
    assert report["verdict"].startswith("Training can run here, on ")
    areas = {check["area"] for check in report["checks"]}
    assert areas == {"packages", "devices", "kernels", "network", "system"}
    assert list(folder.iterdir()) == []


def test_what_is_tried_here_works_as_eager_attention_does(whole: tuple[Path, Any]) -> None:
    found = checks(whole[1])
    for name in (
        "attention sdpa",
        "attention eager",
        "mixed precision bf16",
        "processes over gloo",
    ):
        assert found[name]["state"] == "ok", found[name]
    assert "from eager (float32)" in found["attention sdpa"]["detail"]
    assert found["sandbox of code tasks"]["state"] in ("ok", "warning")


def test_a_kernel_that_is_not_here_says_why(whole: tuple[Path, Any]) -> None:
    found = checks(whole[1])
    for name in ("attention flash_attention_3", "weights in 4 bits (nf4)"):
        assert found[name]["state"] != "absent" or "needs " in found[name]["detail"]


def test_a_token_is_yes_or_no(whole: tuple[Path, Any]) -> None:
    _, done = whole
    assert checks(done)["hub token"]["detail"] == "yes"
    assert "hf_never_shown" not in done.stdout + done.stderr


def test_torch_that_cannot_be_imported_is_the_verdict(tmp_path: Path) -> None:
    done = examined(tmp_path, torch=BROKEN)
    assert done.returncode == 1
    reason = "import torch: ImportError: libcudnn.so.9: no such file"
    assert done.stdout.splitlines()[-1] == f"Training cannot run here: {reason}."
    assert "pip install --force-reinstall torch" in done.stdout
    assert done.stderr == ""


def test_torch_that_crashes_takes_only_its_own_process_along(tmp_path: Path) -> None:
    done = examined(tmp_path, torch=CRASHING)
    assert done.returncode == 1
    assert "import torch: the process was ended by SIGSEGV" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    states = {words[1]: words[0] for words in lines}
    assert states["encoding"] == "ok"
    assert states["transformers"] == "ok"


def test_a_terminal_is_given_a_table_in_colour(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(BROKEN)
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "dmpo", "doctor", "--no-network"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "60", "TERM": "xterm"},
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(theirs)
        text = ""
        # At the end of the other side Linux gives an error in place of an empty answer.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                text += part.decode()
    os.close(ours)
    assert process.returncode == 1
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in text.splitlines()]
    assert "FAILED  import torch                   ImportError:" in lines
    assert max(map(len, lines)) <= 60
    assert "\x1b[31mFAILED" in text


def test_the_hub_is_not_asked_where_the_environment_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmpo.doctor.examination import trial_names

    assert "hub" not in trial_names(asks_network=False, is_thorough=False, has_gpu=False)
    assert "hub" in trial_names(asks_network=True, is_thorough=False, has_gpu=False)
    assert dmpo(capsys, "doctor", "--no-netwrk").err.startswith("dmpo: error: No such option")
