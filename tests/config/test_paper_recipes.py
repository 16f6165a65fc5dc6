"""Every recipe for LLaDA-8B is planned with the published configuration, and fits its GPUs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from dmpo.config.assembly import build_light_parts
from dmpo.config.layers import plain, sourced
from dmpo.config.memory_table import GIGABYTE
from dmpo.config.recipes import RecipeSummary, recipe_chain, recipe_summaries
from dmpo.config.rehearsal import Rehearsal, rehearse
from dmpo.config.resolve import resolve_run
from dmpo.config.run import RunConfig
from tests.cli.command import dmpo
from tests.config.official_layouts import (
    GSM8K_WORDS,
    LLADA_8B,
    LLADA_IDS,
    MATH_WORDS,
    word_tokenizer,
    write_layout,
    write_problems,
)

RECIPES = {
    recipe.name: recipe
    for recipe in recipe_summaries()
    if recipe.hardware and recipe.policy == "llada"
}
LLADA, ADAPTERS = 8_015_581_184, 167_772_160


@dataclass(frozen=True)
class Official:
    """A LLaDA-8B without weights, and problems."""

    model: Path
    sources: Mapping[str, Mapping[str, object]]

    def arguments(self, recipe: RecipeSummary, *more: str) -> list[str]:
        """Return the dry run of a recipe on this model and these problems, as it is typed."""
        number, _ = hardware(recipe)
        named = [f"--{key}={value}" for key, value in self.sources[recipe.task].items()]
        shared = ["--processes", str(number)] if number > 1 else []
        model = ["--model", str(self.model)]
        return ["train", "--recipe", recipe.name, *model, *named, *shared, *more, "--dry-run"]

    def config(self, *recipes: str, **changes: object) -> RunConfig:
        """Return the settings of recipes, one over the other, on this model and these problems."""
        layers = [layer for name in recipes for layer in recipe_chain(name).layers]
        task = next(RECIPES[name].task for name in recipes if name in RECIPES)
        values = {key.split(".")[1]: value for key, value in self.sources[task].items()}
        own = {"policy": {"model": str(self.model)}, "task": values, **changes}
        return resolve_run([*layers, sourced(own, "test")]).config

    def rehearsed(self, *recipes: str, **changes: object) -> Rehearsal:
        """Return what a dry run of these settings finds."""
        config = self.config(*recipes, **changes)
        return rehearse(config, build_light_parts(config))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Official:
    directory = tmp_path_factory.mktemp("official")
    model = write_layout(directory / "model", LLADA_8B, word_tokenizer(LLADA_IDS))
    return Official(model, write_problems(directory))


def hardware(recipe: RecipeSummary) -> tuple[int, int]:
    """Return how many GPUs a recipe is made for, and the gigabytes of each."""
    found = re.fullmatch(r"(\d+) x (\d+) GB", recipe.hardware)
    assert found is not None
    return int(found[1]), int(found[2])


def test_there_is_a_recipe_for_each_model_task_and_number_of_gpus() -> None:
    models, tasks = ("llada", "llada15"), ("gsm8k", "math500", "countdown", "sudoku")
    names = {f"{m}_{t}{gpus}" for m in models for t in tasks for gpus in ("", "_8gpu")}
    assert names | {"llada_gsm8k_24gb", "llada_gsm8k_40gb"} == set(RECIPES)
    for name, recipe in RECIPES.items():
        assert hardware(recipe)[0] == (8 if name.endswith("_8gpu") else 1)
        assert recipe.task == name.split("_")[1]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_dry_run_of_a_recipe_is_valid_and_fits_its_gpus(
    recipe: RecipeSummary, official: Official, capsys: pytest.CaptureFixture[str]
) -> None:
    said = dmpo(capsys, *official.arguments(recipe))
    assert (said.code, said.err) == (0, "")
    assert f"parameters  {LLADA + ADAPTERS:,}, trained {ADAPTERS:,}" in said.out
    assert said.out.count("left out: the weights") == 1
    number, gigabytes = hardware(recipe)
    assert f"of {f'each of {number} processes' if number > 1 else 'the process'}" in said.out
    # On a machine with a GPU of its own the line is another: what fits is computed below, too.
    fits = re.search(rf"{gigabytes} GB: ([\w, ]+)", said.out)
    assert fits is None or {"ddp", "fsdp2"}.intersection(fits[1].split(", "))


def test_plans_leave_a_tenth_of_each_card_free_in_every_phase(official: Official) -> None:
    for card in ("24gb", "40gb", "80gb"):
        name = "llada_gsm8k" if card == "80gb" else f"llada_gsm8k_{card}"
        peaks = official.rehearsed(name).plans["ddp"].peaks
        assert set(peaks) == {"rollouts", "likelihoods", "gradient step"}
        assert max(peaks.values()) <= 0.9 * hardware(RECIPES[name])[1] * GIGABYTE


def test_plans_are_for_prompts_as_long_as_the_published_ones(official: Official) -> None:
    for name, words in (("llada_gsm8k", GSM8K_WORDS), ("llada_math500", MATH_WORDS)):
        assert official.rehearsed(name).work.sequence_length > words + 256


def test_base_in_4_bits_is_counted_as_bitsandbytes_holds_it(official: Official) -> None:
    packed = official.rehearsed("llada_gsm8k_24gb").plans["ddp"]
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 12288)
    others = 2 * 126464 * 4096 + (2 * 32 + 1) * 4096
    expected = matrices * (0.5 + 1 / 64 + 4 / (64 * 256)) + 2 * others
    assert packed.held["weights"] == expected
    assert packed.phases["rollouts"].uses["one weight unpacked"] == 2 * 4096 * 12288


def test_parts_for_a_card_go_over_any_recipe(official: Official) -> None:
    changed = official.rehearsed("llada15_sudoku", "parts/gpu_24gb")
    assert changed.plans["ddp"].peak <= 0.9 * 24 * GIGABYTE
    assert changed.work.rollout_rows == 16


@pytest.mark.parametrize("name", ["llada_math500", "llada_math500_8gpu"])
def test_recipes_train_as_the_paper_does(official: Official, name: str) -> None:
    config = official.config(name)
    training = config.training
    assert training.prompts_per_buffer * training.rollouts_per_prompt == 128
    assert (training.updates_per_buffer, training.max_grad_norm) == (8, 0.2)
    assert (training.betas, training.weight_decay) == ((0.9, 0.99), 0.1)
    assert config.weights.parameters["alpha"] == 0.04
    assert (config.objective.name, config.baseline.name) == ("dmpo", "model")
    assert config.sampler.parameters["gen_length"] == 256
    assert config.sampler.parameters["block_length"] == 32
    assert (config.sampler.parameters["cache"], config.sampler.parameters["temperature"]) == (
        "prefix",
        0.2,
    )
    lora = config.policy.parameters["lora"]
    assert (lora["rank"], lora["alpha"], lora["dropout"]) == (128, 64, 0.05)


def test_recipes_decode_for_evaluation_as_paper_eval_does(official: Official) -> None:
    layers = [*recipe_chain("paper_eval").layers, sourced({"task": "gsm8k"}, "test")]
    expected = resolve_run(layers).config.evaluation
    found = official.config("llada_gsm8k").evaluation
    assert (found.sampler, found.split) == (expected.sampler, "test")


def test_hub_stays_the_source_of_what_is_published_there() -> None:
    sources = {
        name: plain(recipe_chain(f"parts/task_{name}").layers[-1])["task"].get("train_source")
        for name in ("gsm8k", "math500", "countdown", "sudoku")
    }
    assert sources["countdown"] == "Jiayi-Pan/Countdown-Tasks-3to4"
    assert [sources[name] for name in ("gsm8k", "math500", "sudoku")] == [None] * 3


def test_dry_run_as_a_program_of_its_own(official: Official, tmp_path: Path) -> None:
    arguments = official.arguments(RECIPES["llada_gsm8k_8gpu"], "--sharding", "fsdp2")
    done = subprocess.run(
        [sys.executable, "-m", "dmpo", *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("nothing was written\n")
    assert list(tmp_path.iterdir()) == []
