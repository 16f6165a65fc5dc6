"""Shapes in the types are checked at run time while tests run."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

install_import_hook("dmpo", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)

settings.register_profile(
    "dmpo", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("dmpo")


FILE_SIZE = resource.getrlimit(resource.RLIMIT_FSIZE)


@pytest.fixture
def file_size_limit() -> Callable[[int], None]:
    """Let no file grow beyond some bytes from now on: what writing to a full disk looks like.

    The limit ends with the test. (Python ignores the signal that comes with it.)
    """
    return lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, FILE_SIZE[1]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Take the limit back before pytest says how the test ended: its output may be a file."""
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, FILE_SIZE)


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which tasks that read their problems find some."""
    monkeypatch.chdir(tmp_path)
    for file, numbers in (("words.jsonl", range(40)), ("held_out.jsonl", range(40, 50))):
        rows = [
            {
                "question": f"{n} and 1?",
                "answer": f"#### {n + 1}",
                "solution": f"\\boxed{{{n + 1}}}",
            }
            for n in numbers
        ]
        (tmp_path / file).write_text("\n".join(map(json.dumps, rows)))
    lines = [json.dumps({"prompt": f"{n}+1=", "answer": str(n + 1)}) for n in range(40)]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines))
    return tmp_path
