"""What the package promises as a package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dmpo
from dmpo.registry import REGISTRIES

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
VERSIONS = ("3.11", "3.12", "3.13")


def test_version_is_the_same_everywhere() -> None:
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert citation is not None
    assert dmpo.__version__ == PROJECT["version"] == citation[1]


@pytest.mark.parametrize("python", VERSIONS)
def test_constraints_pin_each_package_once_on_every_python(python: str) -> None:
    environment = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    pins = [pin for pin in PINS if pin.marker is None or pin.marker.evaluate(environment)]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(set(names)) == len(names)
    assert all(str(pin.specifier).startswith("==") for pin in pins)


def test_constraints_satisfy_what_the_package_asks_for() -> None:
    extras = PROJECT["optional-dependencies"].values()
    asked = [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]
    pinned = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in PINS}
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


def test_torch_is_pinned_without_a_local_version() -> None:
    (torch,) = [pin for pin in PINS if pin.name == "torch"]
    assert "+" not in str(torch.specifier)
    assert torch.marker is None


def test_installed_entry_points_are_those_of_the_project() -> None:
    groups = PROJECT["entry-points"]
    for group, declared in groups.items():
        points = metadata.entry_points(group=group)
        installed = {p.name: p.value for p in points if p.dist and p.dist.name == "dmpo-dllm"}
        assert installed == declared, "run `touch pyproject.toml` and make again"
    assert {f"dmpo.{name}" for name in REGISTRIES} == set(groups)


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=list(REGISTRIES))
def test_every_registered_plugin_can_be_imported(registry: object) -> None:
    assert registry.broken() == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize("arguments", [["-c", "import dmpo"], ["-m", "dmpo", "--help"]])
def test_import_and_help_load_no_torch(arguments: list[str]) -> None:
    seen = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True
    )
    assert seen.returncode == 0, seen.stderr
    imported = re.findall(r"\|\s+([\w.]+)$", seen.stderr, re.M)
    assert "dmpo" in imported
    assert "torch" not in imported


def test_wheel_carries_recipes_assets_and_the_type_marker() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "dmpo"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert "dmpo/py.typed" in listed
    assert any(name.startswith("dmpo/recipes/") and name.endswith(".yaml") for name in listed)
    assets = [ROOT / name for name in listed if name.startswith("dmpo/assets/")]
    assert sum(path.suffix == ".safetensors" for path in assets) >= 1
    assert sum(path.stat().st_size for path in assets) <= 4 * 2**20


def test_make_refuses_an_unsuitable_python_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.1" && exit\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    run = subprocess.run(
        ["make", "demo", f"PYTHON={old}"],
        cwd=tmp_path,
        env=outside,
        capture_output=True,
        text=True,
    )
    first, *_ = run.stderr.splitlines()
    assert run.returncode != 0
    assert first.startswith("dmpo needs Python 3.11, 3.12 or 3.13;")
    assert "is Python 3.9.1. Name another: make demo PYTHON=python3.12" in first
    assert not (tmp_path / ".venv").exists()
