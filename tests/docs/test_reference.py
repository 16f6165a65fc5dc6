"""The reference knows every public name, plugin, command and metric."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from dmpo.registry import REGISTRIES
from dmpo.training.metrics import METRICS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted((DOCS / "reference" / "api").glob("*.md"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "dmpo").rglob("*.py"))
}


@cache
def generated() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated", DOCS / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_names(path: Path) -> list[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def documented_names(path: Path) -> set[str]:
    """Return classes and functions with a docstring, values with a string below or a help."""
    body = ast.parse(path.read_text()).body
    found = set()
    for node, below in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            found.add(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(below, ast.Expr) or "help=" in ast.unparse(node):
                found.add(ast.unparse(target))
    return found


def shown_modules() -> list[str]:
    return [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)]


PUBLIC = {name: names for name, path in MODULES.items() if (names := public_names(path))}
SHORT_CUTS = [name for name in PUBLIC.pop("dmpo") if name != "__version__"]


@pytest.mark.parametrize("module", PUBLIC)
def test_module_with_public_names_is_on_exactly_one_page(module: str) -> None:
    above = [shown for shown in shown_modules() if f"{module}.".startswith(f"{shown}.")]
    assert len(above) == 1


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_say_what_they_are(module: str) -> None:
    assert set(PUBLIC[module]) <= documented_names(MODULES[module])


def test_short_cut_leads_to_a_public_name() -> None:
    rows = generated().names_markdown().splitlines()[2:]
    shown = [re.fullmatch(r"\| `(\w+)` \| \[`(.+)`\]\[(.+)\] \|", row) for row in rows]
    assert [found and found[1] for found in shown] == SHORT_CUTS
    assert all(found and found[1] in PUBLIC[found[2]] for found in shown)


def test_pages_show_only_what_exists_and_are_in_the_navigation() -> None:
    assert set(shown_modules()) <= set(MODULES)
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")]
    assert [page for page in pages if page not in navigation] == []


@pytest.mark.parametrize("group", REGISTRIES)
def test_every_registered_plugin_is_described(group: str) -> None:
    text = generated().plugins_markdown()
    section = text.split(f"## {group.capitalize()}\n")[1].split("\n## ")[0]
    for name in REGISTRIES[group].names():
        assert f"### `{name}`\n" in section


def test_every_metric_is_in_the_table() -> None:
    rows = generated().metrics_markdown().splitlines()[2:]
    assert len(rows) == len(METRICS)
    for row, meaning in zip(rows, METRICS.values(), strict=True):
        assert meaning.split("|")[0] in row


def test_every_command_and_flag_is_described() -> None:
    text = generated().cli_markdown()
    commands = ("train", "sft", "eval", "generate", "config show", "plugins list", "version")
    for command in commands:
        assert f"## `dmpo {command}`\n" in text
    assert "`--recipe`" in text


def test_measured_sections_are_those_of_the_results() -> None:
    pattern = re.compile(r"<!-- results: (\w+), (.+?) -->")
    shown = [found for page in DOCS.rglob("*.md") for found in pattern.findall(page.read_text())]
    assert len(shown) >= 3
    for name, section in shown:
        text = generated().results_markdown(name, section)
        assert "| --- |" in text
        assert "](paper" not in text
    with pytest.raises(LookupError, match="no section 'Atlantis'"):
        generated().results_markdown("noise", "Atlantis")


def test_every_setting_of_the_loop_is_in_a_table() -> None:
    from dmpo.training.settings import TrainingSettings

    text = generated().settings_markdown()
    assert [name for name in TrainingSettings.model_fields if f"| `{name}` |" not in text] == []


def test_pages_mention_no_name_of_a_part_that_is_not_registered() -> None:
    tables = (DOCS / "method").glob("*.md")
    flags = {name: f"--{name.removesuffix('s')}" for name in REGISTRIES} | {"weights": "--weights"}
    for page in tables:
        text = page.read_text()
        for group, flag in flags.items():
            for table in re.findall(rf"^\| `{flag}` \|.*\n\|.*\n((?:\|.*\n)+)", text, re.M):
                names = re.findall(r"^\| `(\w+)`", table, re.M)
                assert names
                assert set(names) == set(REGISTRIES[group].names())


def test_settings_named_in_the_guides_exist() -> None:
    from dmpo.config.schema import run_schema

    schema = json.dumps(run_schema())
    for page in (DOCS / "quickstart.md", DOCS / "reference" / "settings.md"):
        for key in re.findall(r"--\w+\.([a-z_]+)|--set \w+\.([a-z_]+)=", page.read_text()):
            assert f'"{"".join(key)}"' in schema
