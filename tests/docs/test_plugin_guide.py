"""The package of the plugin guide works as it stands there."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.docs.fences import write_titled
from tests.docs.short_runs import environment


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a folder that holds the package as an installer would have left it."""
    write_titled("guides/plugin.md", tmp_path)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    identity = f"Name: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\n{identity}")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return tmp_path


def dmpo(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["dmpo", *arguments],
        cwd=installed,
        env=environment(installed),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_plugin_of_the_guide_trains(installed: Path) -> None:
    run = dmpo(
        installed, "train", "--baseline", "median", "--baseline.strength", "0.5", "--output", "run"
    )
    assert run.returncode == 0, run.stderr
    config = (installed / "run" / "config.yaml").read_text()
    assert "name: median" in config
    assert "strength: 0.5" in config


def test_plugin_of_the_guide_is_listed_with_its_package(installed: Path) -> None:
    listed = dmpo(installed, "plugins", "list").stdout
    assert [
        line for line in listed.splitlines() if "median" in line and "dmpo-median 0.1.0" in line
    ]


def test_misspelt_setting_of_the_plugin_names_the_nearest(installed: Path) -> None:
    run = dmpo(
        installed, "train", "--baseline", "median", "--baseline.strenght", "0.5", "--dry-run"
    )
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert "strength" in run.stderr
