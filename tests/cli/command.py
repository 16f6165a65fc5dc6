"""The command line in this process, with what it says."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from dmpo.cli.main import main

SCRATCH = "policy.scratch={d_model: 16, n_layers: 1, n_heads: 2, mlp_hidden_size: 24}"
SMALL = (
    *("--set", SCRATCH),
    *("--training.prompts_per_buffer", "2"),
    *("--training.rollouts_per_prompt", "2"),
    *("--training.warmup_steps", "0"),
    *("--evaluation.num_examples", "4"),
)
"""A run of seconds: a random policy and a buffer of four rollouts."""


class Said(NamedTuple):
    """Exit code and streams of a command."""

    code: int
    out: str
    err: str


def dmpo(capsys: pytest.CaptureFixture[str], *arguments: str) -> Said:
    """Run ``dmpo`` with these arguments."""
    capsys.readouterr()
    code = main(arguments)
    return Said(code, *capsys.readouterr())


def assert_one_line(said: Said, code: int, text: str) -> None:
    """Assert that the command failed as it should: one line, no traceback."""
    assert said.code == code
    assert said.err.startswith("dmpo: error: ")
    assert said.err.count("\n") == 1
    assert text in said.err
