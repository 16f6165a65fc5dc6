"""The packages of the plugin guides are what `dmpo plugins new` writes, and work as said there."""

from __future__ import annotations

import os
import subprocess
import textwrap
from pathlib import Path

import pytest

from dmpo.plugins.kinds import KINDS
from dmpo.plugins.scaffold import scaffold
from tests.docs.fences import DOCS, fences
from tests.docs.short_runs import environment
from tests.plugins.installed import PIP

NEW = scaffold("objective", "hold_on")


def prepared(directory: Path) -> dict[str, str]:
    """Return an environment whose ``pip install -e`` leaves what pip would leave."""
    found = environment(directory)
    pip, site = directory / "bin" / "pip", directory / "site"
    pip.write_text(PIP)
    pip.chmod(0o755)
    path = os.pathsep.join([str(site), found["PYTHONPATH"]])
    return {**found, "PYTHONPATH": path, "SITE": str(site)}


def type_page(page: str, directory: Path) -> tuple[str, dict[str, str]]:
    """Type a page's bash blocks; return what they printed, and the environment."""
    typed = prepared(directory)
    blocks = "".join(fence.text for fence in fences(page) if fence.language == "bash")
    run = subprocess.run(
        ["sh", "-c", f"set -eu\n{blocks}"],
        cwd=directory,
        env=typed,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return run.stdout, typed


def test_objective_of_the_guide_is_written_tested_listed_and_trained(tmp_path: Path) -> None:
    said, typed = type_page("guides/plugin.md", tmp_path)
    (line,) = [
        line for line in said.splitlines() if line.split()[:2] == ["hold_on", "dmpo-hold-on"]
    ]
    assert "0.1.0  Mean over the buffer of" in line
    assert "strength: float (≥ 0); default 0.1" in said
    config = (tmp_path / "runs" / "hold_on" / "config.yaml").read_text()
    assert "name: hold_on" in config
    assert "strength: 0.1" in config
    misspelt = ("--objective", "hold_on", "--objective.strenght", "0.5", "--dry-run")
    refused = subprocess.run(
        ["dmpo", "train", *misspelt], cwd=tmp_path, env=typed, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "strength" in refused.stderr


@pytest.mark.parametrize("number", range(3))
def test_code_of_the_guide_is_the_code_that_is_written(number: int) -> None:
    shown = [fence.text for fence in fences("guides/plugin.md") if fence.language == "python"]
    assert len(shown) == 3
    methods = textwrap.indent(shown[number].replace("\n\n\n", "\n\n"), "    ")  # of a class
    forms = (shown[number], methods)
    assert any(form in text for text in NEW.files.values() for form in forms)


def test_guide_has_a_row_for_every_kind() -> None:
    page = (DOCS / "guides" / "plugin.md").read_text()
    assert [kind for kind in KINDS if f"\n| `{kind}` | [`" not in page] == []


def test_backbone_of_the_guide_is_written_tested_and_trained(tmp_path: Path) -> None:
    said, _ = type_page("guides/backbone.md", tmp_path)
    assert "llada" in said
    config = (tmp_path / "runs" / "small_llama" / "config.yaml").read_text()
    assert "name: small_llama" in config
    assert "num_layers: 1" in config
