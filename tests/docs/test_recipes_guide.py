"""The pages about recipes, GPUs and clusters: their commands run, their figures are computed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from dmpo.config.assembly import build_sampler
from dmpo.config.layers import sourced
from dmpo.config.memory import MemoryPlan, plan_memory
from dmpo.config.memory_table import GIGABYTE
from dmpo.config.recipes import recipe_chain, recipe_names, recipe_path, recipe_summaries
from dmpo.config.rehearsal import policy_sizes, run_workload
from dmpo.config.resolve import resolve_run
from dmpo.policies.llada import LladaConfig, LladaPolicy
from tests.config.official_layouts import LLADA_8B, LLADA_IDS, word_tokenizer, write_layout
from tests.docs.fences import DOCS, write_titled
from tests.docs.short_runs import type_commands
from tests.docs.test_reference import generated

PAGES = ("guides/recipes.md", "guides/llada_gsm8k.md", "start/gpu.md", "start/cluster.md")


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_page_run(page: str, tmp_path: Path) -> None:
    write_titled(page, tmp_path)
    said = type_commands(page, tmp_path)
    expected = {
        "guides/recipes.md": "my_task.yaml: valid",
        "guides/llada_gsm8k.md": "adapter_model.safetensors",
        "start/gpu.md": "finished: 1 steps",
        "start/cluster.md": "each of 8 processes",
    }
    assert expected[page] in said or list(tmp_path.rglob(expected[page]))


@pytest.mark.parametrize("page", PAGES)
def test_recipes_parts_and_files_that_the_page_names_exist(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    recipes = set(re.findall(r"--recipe (\w+)(?![\w.])", text))
    parts = set(re.findall(r"\bparts/\w+", text))
    assert recipes or parts
    assert recipes <= set(recipe_names())
    assert all(recipe_path(part).is_file() for part in parts)
    files = re.findall(r"`(benchmarks/[\w/.]+)`|(examples/cluster/[\w.]+)", text)
    assert all((DOCS.parent / (one or other)).exists() for one, other in files)


def test_table_of_recipes_has_every_one() -> None:
    _, _, *rows = generated().recipes_markdown().splitlines()
    assert [row.split("`")[1] for row in rows] == [found.name for found in recipe_summaries()]
    assert "<!-- generated: recipes -->" in (DOCS / "guides/recipes.md").read_text()


def test_parts_are_all_named_in_the_guide() -> None:
    text = (DOCS / "guides/recipes.md").read_text(encoding="utf-8")
    shipped = recipe_path("sudoku").parent / "parts"
    assert [file for file in shipped.glob("*.yaml") if f"`parts/{file.stem}`" not in text] == []


def test_longest_prompt_without_a_cache_is_more_on_a_small_card(tmp_path: Path) -> None:
    model = write_layout(tmp_path / "model", LLADA_8B, word_tokenizer(LLADA_IDS))
    for name, fits in (("prefix", False), ("none", True)):
        plan = planned("llada_gsm8k_24gb", model, 1024, 1, {"sampler": {"cache": name}})
        assert (plan.peak <= 0.9 * 24 * GIGABYTE) == fits


def planned(
    recipe: str,
    model: Path,
    prompt_length: int,
    num_processes: int,
    changes: Mapping[str, object] | None = None,
) -> MemoryPlan:
    """Return what ``--dry-run`` computes of a recipe for prompts of a length."""
    own = {"policy": {"model": str(model)}, **(changes or {})}
    layers = [*recipe_chain(recipe).layers, sourced(own, "test")]
    config = resolve_run(layers).config
    outline = LladaPolicy.outline(LladaConfig.model_validate(config.policy.parameters))
    work = run_workload(
        config,
        build_sampler(config.sampler),
        num_processes=num_processes,
        prompt_length=prompt_length,
        num_views=4,
        num_ratio_views=4,
        needs_reference=True,
    )
    sizes = policy_sizes(outline, casts_weights=True)
    assert sizes is not None
    return plan_memory(sizes, work, num_processes=num_processes)


def test_memory_of_the_cards_is_what_the_plan_computes(tmp_path: Path) -> None:
    model = write_layout(tmp_path / "model", LLADA_8B, word_tokenizer(LLADA_IDS))
    text = (DOCS / "start/gpu.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:(8) of )?(\d+) GB \| `(\w+)` \| ([^|]+) \| (.+) \|$", text, re.M)
    assert len(rows) == 4
    results = DOCS.parent / "benchmarks/results/recipes_gpu.json"
    cards = json.loads(results.read_text(encoding="utf-8"))
    for number, gigabytes, recipe, _, figures in rows:
        *shown, longest = figures.split(" | ")
        plan = planned(recipe, model, 400, int(number or 1))
        computed = [f"{each / GIGABYTE:.1f}" for each in plan.peaks.values()]
        assert [each.split()[0] for each in shown] == computed
        length, room = int(longest.replace(",", "")), 0.9 * int(gigabytes) * GIGABYTE
        assert planned(recipe, model, length, int(number or 1)).peak <= room
        assert planned(recipe, model, length + 50, int(number or 1)).peak > room
        if number:
            continue  # not measured
        phases = next(c for c in cards if c["card GB"] == int(gigabytes))["phases"].values()
        measured = [f"({phase['measured GB']:.1f})" for phase in phases]
        assert [each.split()[1] for each in shown] == measured
