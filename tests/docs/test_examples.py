"""The scripts in examples/ run, and show what they say they show."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def printed(name: str, **shorter: str) -> str:
    """Run an example, some of its text replaced, and return what it prints."""
    code = (EXAMPLES / name).read_text(encoding="utf-8")
    for long, short in shorter.items():
        assert long in code
        code = code.replace(long, short)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, name, "exec"), {"__name__": "__main__"})
    return out.getvalue()


@pytest.fixture(scope="module")
def curves() -> dict[tuple[str, str, int], list[float]]:
    """Return the divergences of each line of the exact testbed, after a fifth of its steps."""
    out = printed("exact_testbed.py", **{"steps: int = 400": "steps: int = 80"})
    lines = re.findall(r"^(\w+) +(\w+) +N = (\d+) +(.*)$", out, flags=re.MULTILINE)
    return {(a, b, int(n)): [float(x) for x in rest.split()] for a, b, n, rest in lines}


def test_exact_testbed_comes_near_the_target_with_a_large_group(curves) -> None:
    assert len(curves) == 8
    for baseline in ("mean", "model"):
        first, *_, last = curves["path", baseline, 256]
        assert last < 0.25 * first


def test_exact_testbed_shows_that_small_groups_need_a_baseline(curves) -> None:
    assert curves["path", "mean", 8][-1] < 0.9 * curves["path", "none", 8][-1]
