"""``dmpo train --processes K``: several processes of this machine, started and told by one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo.cli.launching import SHARDINGS, TRY_AGAIN, check_processes, without_options
from dmpo.errors import ConfigError
from dmpo.training.checkpoint import verify_checkpoint
from dmpo.training.run_directory import newest_checkpoint
from tests.cli.command import assert_one_line, dmpo

TINY = (
    *("--set", "policy.scratch={d_model: 16, n_layers: 1, n_heads: 2, mlp_hidden_size: 32}"),
    *("--training.prompts_per_buffer", "2", "--training.rollouts_per_prompt", "2"),
    *("--evaluation.num_examples", "4", "--plain"),
)
ENDLESS = "1000000"
OURS = ("--processes", "--sharding")

words = st.sampled_from(["train", "--steps", "2", "--plain", "--output=a", "--processed", "-p"])
ours = st.sampled_from(
    [["--processes", "2"], ["--processes=2"], ["--sharding", "ddp"], ["--sharding=fsdp2"]]
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Launchers of a test; whatever they leave behind ends with it."""
    launchers: list[subprocess.Popen[str]] = []
    yield launchers
    for launcher in launchers:
        if launcher.poll() is None:
            for process in (*psutil.Process(launcher.pid).children(recursive=True), launcher):
                process.kill()
            launcher.wait()


def start(started: list[subprocess.Popen[str]], *arguments: str) -> subprocess.Popen[str]:
    launcher = subprocess.Popen(
        [sys.executable, "-m", "dmpo", "train", *TINY, "--output", "out", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.append(launcher)
    return launcher


def lines_of(run: Path) -> list[int]:
    path = run / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line)["step"] for line in text.splitlines() if line.endswith("}")]


def wait_for_steps(launcher: subprocess.Popen[str], count: int) -> None:
    end = time.monotonic() + 120
    while len(lines_of(Path("out"))) < count:
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def workers_of(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    (agent,) = psutil.Process(launcher.pid).children()
    return [child for child in agent.children() if "dmpo" in child.cmdline()]


@pytest.mark.parametrize(
    ("given_line", "kept"),
    [
        ("train --processes 2 --steps 3", "train --steps 3"),
        ("train --steps 3 --sharding=zero3 --processes=2", "train --steps 3"),
        ("train --processes 2 --sharding fsdp2", "train"),
        ("train --processes", "train"),
        ("train --output --processes-2", "train --output --processes-2"),
    ],
)
def test_options_go_with_their_values(given_line: str, kept: str) -> None:
    assert without_options(given_line.split(), OURS) == kept.split()


@given(st.lists(st.one_of(words.map(lambda word: [word]), ours)))
def test_everything_else_stays_in_its_order(parts: Sequence[Sequence[str]]) -> None:
    line = [word for part in parts for word in part]
    kept = [w for part in parts for w in part if part[0].partition("=")[0] not in OURS]
    assert without_options(line, OURS) == kept
    assert without_options(kept, OURS) == kept


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--processes", "0"), "--processes: 0 given; at least 1 is accepted"),
        (("--processes", "-2"), "--processes: -2 given; at least 1 is accepted"),
        (("--processes", "two"), "--processes"),
        (("--processes", "2", "--sharding", "fsdp"), "'fsdp' given; ddp, fsdp2, zero2, zero3 are"),
        (("--processes", "2", "--sharding", "zero"), "Did you mean 'zero"),
        (("--processes", "2", "--sharding", "fsdp", "--dry-run"), "Did you mean 'fsdp2'?"),
        (("--sharding", "fsdp"), "Did you mean 'fsdp2'?"),
        (("--sharding", "fsdp", "--dry-run"), "Did you mean 'fsdp2'?"),
    ],
)
def test_what_cannot_be_started_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[str], text: str
) -> None:
    said = dmpo(capsys, "train", *TINY, "--steps", "1", *arguments)
    assert_one_line(said, 2, text)
    assert said.out == ""
    assert list(Path().iterdir()) == []


def test_a_name_that_is_like_none_gets_no_proposal() -> None:
    with pytest.raises(ConfigError, match=r"are accepted\.$"):
        check_processes(2, "qqqqqq", is_dry=False)


@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_deepspeed_that_is_missing_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, sharding: str
) -> None:
    monkeypatch.setattr("accelerate.utils.is_deepspeed_available", lambda: False)
    with pytest.raises(ConfigError, match=f"--sharding: {sharding} is DeepSpeed's, .* fsdp2"):
        check_processes(2, sharding, is_dry=False)
    check_processes(2, sharding, is_dry=True)


def test_more_processes_than_gpus_are_refused_unless_the_run_is_only_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    check_processes(4, "fsdp2", is_dry=False)
    with pytest.raises(ConfigError, match="--processes: 5 given, and this machine has 4 GPUs"):
        check_processes(5, "fsdp2", is_dry=False)
    check_processes(64, "fsdp2", is_dry=True)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_without_gpus_any_number_may_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, sharding: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_processes(64, sharding, is_dry=False)


def test_every_sharding_is_one_that_the_launcher_knows() -> None:
    from accelerate.commands.launch import launch_command_parser

    for options in SHARDINGS.values():
        launch_command_parser().parse_args([*options, "-m", "dmpo"])


def test_an_error_that_all_processes_find_is_said_once(
    started: list[subprocess.Popen[str]],
) -> None:
    launcher = start(started, "--processes", "3", "--steps", "2")
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 2
    assert err.startswith("dmpo: error: training.prompts_per_buffer: 2 prompts are fewer than 3")
    assert err.count("\n") == 1
    assert out == ""
    assert not Path("out").exists()


def test_time_that_is_up_saves_the_run_and_another_start_goes_on(
    started: list[subprocess.Popen[str]],
) -> None:
    launcher = start(started, "--processes", "2", "--steps", ENDLESS)
    wait_for_steps(launcher, 2)
    launcher.send_signal(signal.SIGUSR1)
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == TRY_AGAIN
    assert err.strip().startswith("dmpo: SIGTERM: finishing this step, then saving")
    assert err.strip().count("\n") == 0
    assert out.count("go on with  dmpo train --resume out") == 1
    path, skipped = newest_checkpoint(Path("out"))
    assert path is not None
    assert skipped == []
    verify_checkpoint(path)
    step = int(path.name.removeprefix("step-"))
    assert lines_of(Path("out")) == list(range(1, step + 1))

    more = ("--resume", "auto", "--processes", "2", "--steps", str(step + 2))
    again = start(started, *more)
    out, err = again.communicate(timeout=120)
    assert (again.returncode, err) == (0, "")
    assert out.count(f"resume      {path}") == 1
    assert out.count(f"finished: {step + 2} steps") == 1
    assert lines_of(Path("out")) == list(range(1, step + 3))


def test_a_process_that_is_killed_is_named_with_its_signal(
    started: list[subprocess.Popen[str]],
) -> None:
    launcher = start(started, "--processes", "2", "--steps", ENDLESS)
    wait_for_steps(launcher, 2)
    workers = workers_of(launcher)
    assert len(workers) == 2
    victim = next(each for each in workers if each.environ()["RANK"] == "1")
    os.kill(victim.pid, signal.SIGKILL)
    _, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 1
    text = f"dmpo: error: process 1 (pid {victim.pid}) was ended by SIGKILL."
    assert err.splitlines().count(text) == 1
    assert "Traceback" not in err
    assert not any(worker.is_running() for worker in workers)
