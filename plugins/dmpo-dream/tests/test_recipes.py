"""The recipes of Dream are planned with the published configuration, and fit their GPUs."""

from __future__ import annotations

import json
import re

import pytest
import torch
from dmpo_dream.policy import PUBLISHED, DreamPolicy, DreamPolicyConfig
from test_backbone import DREAM_7B
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dmpo.cli.main import main
from dmpo.config.memory_sizes import nf4_bytes
from dmpo.config.recipes import recipe_chain, recipe_summaries
from dmpo.config.rehearsal import policy_sizes
from dmpo.config.resolve import resolve_run

RECIPES = {recipe.name: recipe for recipe in recipe_summaries() if recipe.policy == "dream"}
TASKS = ("gsm8k", "math500", "countdown", "sudoku")
ADAPTERS = 28 * 128 * (2 * 3584 + 2 * (3584 + 512) + 3584 + 18944)
"""Of rank 128 on q, k, v and up."""


@pytest.fixture(scope="module")
def published_directory(tmp_path_factory):
    """Dream-7B as published without its weights; to its tokenizer every word is one token."""
    directory = tmp_path_factory.mktemp("published")
    (directory / "config.json").write_text(json.dumps(DREAM_7B))
    eos, mask = "<|endoftext|>", "<|mask|>"
    ids = {"word": 0, eos: PUBLISHED.eos, mask: PUBLISHED.mask}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="word"))
    words = Regex(r"\d|\p{L}+|[^\p{L}\d\s]|\n")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tokenizer.add_special_tokens([eos, mask])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token=eos, mask_token=mask
    ).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return by task the flags that name small sources in place of the hub's."""
    directory = tmp_path_factory.mktemp("sources")
    longest = {"gsm8k": 300, "math500": 1024, "countdown": 1}
    flags = {"sudoku": ["--task.train_size=64"]}
    for task, words in longest.items():
        text = [f"{n} " + "more " * (words if n == 0 else 1) for n in range(300)]
        rows = [
            {"question": text[n], "answer": f"#### {n}", "nums": [n, 2, 3], "target": n + 5}
            for n in range(300)
        ]
        file, test = directory / f"{task}.jsonl", directory / f"{task}_test.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        test.write_text(json.dumps(rows[-1]) + "\n")
        flags[task] = [f"--task.train_source={file}", f"--task.test_source={test}"]
    return flags


def test_there_is_a_recipe_for_each_task_and_number_of_gpus():
    assert set(RECIPES) == {f"dream_{task}{gpus}" for task in TASKS for gpus in ("", "_8gpu")}
    assert {recipe.package for recipe in RECIPES.values()} == {"dmpo-dream"}


@pytest.mark.parametrize("name", RECIPES)
def test_dry_run_of_a_recipe_is_valid_and_fits_its_gpus(name, published_directory, sources, capsys):
    number, gigabytes = re.fullmatch(r"(\d+) x (\d+) GB", RECIPES[name].hardware).groups()
    shared = ["--processes", number] if number != "1" else []
    own = ["--model", str(published_directory), *sources[RECIPES[name].task], *shared]
    assert main(["train", "--recipe", name, *own, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert f"parameters  {7_615_616_512 + ADAPTERS:,}, trained {ADAPTERS:,}" in said.out
    assert said.out.count("left out: the weights") == 1
    fits = re.search(rf"{gigabytes} GB: ([\w, ]+)", said.out)
    assert fits is None or {"ddp", "fsdp2"}.intersection(fits[1].split(", "))


def test_recipes_are_the_papers_training_on_another_model():
    dream = resolve_run(recipe_chain("dream_gsm8k").layers).config
    llada = resolve_run(recipe_chain("llada_gsm8k").layers).config
    assert dream.policy.parameters["model"] == "Dream-org/Dream-v0-Instruct-7B"
    for section in ("task", "sampler", "rewards", "objective", "training", "evaluation"):
        assert getattr(dream, section) == getattr(llada, section)


def test_outline_has_the_sizes_of_the_loaded_model(small_directory):
    settings = DreamPolicyConfig.model_validate({"model": str(small_directory), "lora": {}})
    loaded, outline = DreamPolicy(settings), DreamPolicy.outline(settings)
    assert outline.device == torch.device("meta")
    assert policy_sizes(outline) == policy_sizes(loaded) is not None
    assert outline.num_parameters == loaded.num_parameters


def test_outline_in_4_bits_leaves_biases_norms_and_ends_as_they_are(published_directory):
    settings = {"model": str(published_directory), "dtype": "bfloat16", "lora": {}}
    packed = settings | {"quantization": "nf4"}
    plain, four = (
        policy_sizes(DreamPolicy.outline(DreamPolicyConfig.model_validate(each)))
        for each in (settings, packed)
    )
    widths = (3584 * 3584, 3584 * 512, 3584 * 512, 3584 * 3584, *(3 * [3584 * 18944]))
    saved = 28 * sum(2 * count - nf4_bytes(count) for count in widths)
    assert plain.weights - four.weights == saved
    assert (plain.unpacked, four.unpacked) == (0, 2 * 3584 * 18944)


@pytest.mark.parametrize("compilation", ["no", "blocks"])
def test_projection_and_compilation_are_passed_on(small, compilation):
    policy = small(fused_projection=False, compilation=compilation)
    assert policy.module.fuses is False
    blocks = policy.module.causal_lm.model.layers
    assert all(
        (block._compiled_call_impl is not None) == (compilation == "blocks") for block in blocks
    )
