"""What ``benchmarks/recipes_gpu.py`` does, on a CPU with a tiny model: all but reading memory."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = ["--size", "tiny", "--device", "cpu"]


@pytest.fixture
def recipes_gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("recipes_gpu")


@pytest.mark.parametrize("card", [24, 80])
def test_two_steps_are_taken_by_the_recipe_of_a_card(recipes_gpu, card):
    found = recipes_gpu.child(card, recipes_gpu.parse(TINY))
    assert found["recipe"] == recipes_gpu.RECIPES[card]
    assert {name: len(times) for name, times in found["seconds"].items()} == {
        "rollouts": 1,
        "likelihoods": 1,
        "gradient step": 2,
    }
    assert set(found["phases"]) == set(recipes_gpu.PHASES)
    assert found["longest prompt"] > 300
    assert found["warnings"] == []


@pytest.mark.parametrize("card", [24, 40, 80])
def test_what_is_measured_has_the_sizes_of_the_recipe(recipes_gpu, card, tmp_path):
    config = recipes_gpu.recipe_config(
        recipes_gpu.RECIPES[card], recipes_gpu.SIZES["8b"], 2, tmp_path
    )
    training = config.training
    assert (training.num_steps, training.updates_per_buffer) == (2, 8)
    assert training.prompts_per_buffer * training.rollouts_per_prompt >= training.rows_per_forward
    assert config.sampler.parameters["gen_length"] == 256
    assert config.policy.parameters["quantization"] == ("nf4" if card == 24 else None)


def test_card_that_takes_too_long_says_so_and_the_others_go_on(recipes_gpu, tmp_path, capsys):
    line = [*TINY, "--memory", "80,40", "--seconds", "0.01", "--output", str(tmp_path)]
    recipes_gpu.main(line)
    said = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert said == json.loads((tmp_path / "recipes_gpu.json").read_text())
    assert [each["card GB"] for each in said] == [80, 40]
    assert all(each["failed"] == "not done after 0.01 seconds" for each in said)
