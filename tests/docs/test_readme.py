"""The README's script runs, and its pages and commands are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.docs.fences import DOCS
from tests.docs.short_runs import environment

ROOT = DOCS.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_second_example_trains_in_ten_lines_of_code(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.+?)```", TEXT, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    done = subprocess.run(
        [sys.executable, "-c", "import sys; exec(sys.stdin.read())"],
        input=code,
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^step 8: 0\.[78]\d\d of the cells", done.stdout, re.M)


def test_every_link_of_the_front_pages_leads_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "RELEASING.md"):
        links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text(encoding="utf-8"))
        assert [link for link in links if not (ROOT / link).exists()] == [], name


def test_every_command_of_the_readme_exists() -> None:
    import typer

    from dmpo.cli.main import app

    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    named = set(re.findall(r"\bdmpo ([a-z]+)\b", " ".join(re.findall(r"`([^`]+)`", TEXT))))
    assert named - {"version"} <= set(known)
