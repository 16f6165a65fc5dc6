"""The files beside the code say what is so."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import dmpo

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FORMS = [path for path in TEMPLATES if path.name != "config.yml"]


def targets() -> set[str]:
    text = (ROOT / "Makefile").read_text()
    (names,) = re.findall(r"^\.PHONY: (.+)$", text, re.M)
    return set(names.split())


def test_every_target_that_is_named_exists() -> None:
    wanted = {"format", "lint", "types", "test", "docs", "bench", "wheels", "demo", "check"}
    assert wanted <= targets()
    for name in ("CONTRIBUTING.md", "RELEASING.md", "README.md", ".ci/run"):
        said = re.findall(r"(?:^|[`\n])make ([a-z ]+?)(?=[`\n ]|$)", (ROOT / name).read_text())
        assert {word for words in said for word in words.split()} <= targets(), name


def test_make_knows_how_to_do_all_of_it() -> None:
    done = subprocess.run(
        ["make", "-n", *sorted(targets() - {"demo"})], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_benchmarks_that_make_runs_are_there() -> None:
    (names,) = re.findall(r"^BENCH \?= (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert [name for name in names.split() if not (ROOT / f"benchmarks/{name}.py").exists()] == []


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_form_asks_something_and_has_what_a_form_needs(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= content.keys()
    parts = [part for part in content["body"] if part["type"] != "markdown"]
    assert any(part.get("validations", {}).get("required") for part in parts)
    assert len({part["id"] for part in parts}) == len(parts)
    assert all(part["attributes"]["label"] for part in parts)


def test_hooks_before_a_commit_use_tools_of_the_environment() -> None:
    content = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in content["repos"] for hook in repo["hooks"]]
    programs = {hook["entry"].split()[0] for hook in hooks}
    assert programs <= {f".venv/bin/{name}" for name in ("ruff", "mypy", "lint-imports", "python")}


def test_changelog_and_plugins_know_the_version() -> None:
    assert f"## {dmpo.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    for file in (ROOT / "plugins").glob("*/pyproject.toml"):
        needed = tomllib.loads(file.read_text())["project"]["dependencies"]
        (ours,) = [each for each in map(Requirement, needed) if each.name == "dmpo-dllm"]
        assert ours.specifier.contains(dmpo.__version__), file


def test_commands_of_the_changelog_exist() -> None:
    import typer

    from dmpo.cli.main import app

    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = (ROOT / "CHANGELOG.md").read_text()
    (line,) = re.findall(r"^- `dmpo train`, (.+?) from Python", text, re.M | re.S)
    named = set(re.findall(r"`(\w+)`", line))
    assert named <= known
    assert known - named <= {"train", "version", "recipes"}
