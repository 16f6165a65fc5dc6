from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dmpo.config.assembly import build_light_parts, build_sampler
from dmpo.config.memory_sizes import llama_sizes, with_adapters
from dmpo.config.overrides import command_line_layer
from dmpo.config.recipes import recipe_chain
from dmpo.config.rehearsal import Rehearsal, num_candidates, policy_sizes, rehearse, run_workload
from dmpo.config.resolve import resolve_run
from dmpo.config.run import PluginSection, RunConfig
from dmpo.policies.llada import LladaConfig, LladaPolicy
from dmpo.policies.locate import packaged_directory
from dmpo.policies.mdlm import MdlmConfig, MdlmPolicy
from tests.cli.command import dmpo
from tests.policies.builders import SHAPE, small_policy
from tests.policies.mdlm_checkpoints import FAMILIES, write_checkpoint

SCRATCH = "policy.scratch={d_model: 16, n_layers: 1, n_heads: 2, mlp_hidden_size: 24}"
LARGE = {"d_model": 4096, "n_layers": 32, "n_heads": 32, "mlp_hidden_size": 12288}


def config(*sets: str, recipe: str = "sudoku") -> RunConfig:
    return resolve_run([*recipe_chain(recipe).layers, command_line_layer(sets)]).config


def rehearsed(*sets: str, recipe: str = "sudoku") -> Rehearsal:
    settings = config(*sets, recipe=recipe)
    return rehearse(settings, build_light_parts(settings))


def without_weights(directory: Path, **changes: object) -> Path:
    """Write config and tokenizer of the packaged checkpoint, resized, and return the folder."""
    directory.mkdir()
    for file in packaged_directory("tiny_llada").glob("*.json"):
        shutil.copy(file, directory)
    content = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps({**content, "n_kv_heads": None}))
    return directory


def test_rehearsal_counts_what_a_run_would_use() -> None:
    found = rehearsed(SCRATCH, recipe="sudoku_paper")
    assert found.num_trained == found.num_parameters > 0
    assert found.num_views == 4
    assert found.rollout is not None
    assert found.rollout.sequence_length == found.work.sequence_length == 17 + 16
    assert set(found.num_examples) == {"train", "validation", "test"}
    held = found.plans["ddp"].held
    assert held["optimizer"] == 2 * held["weights"]
    assert held["reference"] == held["weights"]


def test_more_views_take_more_activations() -> None:
    one, two = (
        rehearsed(
            SCRATCH,
            f"likelihood.num_views={n}",
            "likelihood.name=elbo",
            "likelihood.antithetic=false",
        )
        for n in (1, 2)
    )
    assert two.work.step_views == 2 * one.work.step_views


def test_processes_share_prompts_and_whole_groups() -> None:
    settings = config(
        SCRATCH,
        "training.prompts_per_buffer=16",
        "training.rollouts_per_prompt=8",
        "training.micro_batch_rows=4",
        "training.rows_per_forward=20",
    )
    work = run_workload(
        settings,
        build_sampler(settings.sampler),
        num_processes=8,
        prompt_length=17,
        num_views=2,
        num_ratio_views=3,
        needs_reference=False,
    )
    assert (work.step_views, work.num_micro_batches) == (4 * 2, 4)
    assert (work.rollout_rows, work.likelihood_views) == (16, 16 * 3)


def test_longest_prompt_is_found_among_thousands(tmp_path: Path) -> None:
    problems = tmp_path / "sums.jsonl"
    rows = [
        {"prompt": "1+" * (40 if n == 700 else n % 9) + "1=", "answer": "2"} for n in range(900)
    ]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = f"task={{name: file, path: {problems}, response_length: 4}}"
    assert rehearsed(SCRATCH, file).work.sequence_length == 2 * 40 + 2 + 4


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [
        ("low_confidence", {"block_length": 8}, 8),
        ("low_confidence", {}, 32),
        ("roar", {"tokens_per_step": 2}, 2),
    ],
)
def test_candidates_are_what_a_rule_asks_for(
    name: str, settings: dict[str, int], count: int
) -> None:
    section = PluginSection(name=name, gen_length=32, **settings)
    assert num_candidates(build_sampler(section), 32) == count


def test_sizes_read_from_a_policy_are_those_of_its_shape() -> None:
    policy = small_policy(lora={"rank": 4, "dropout": 0.1}, gradient_checkpointing=True)
    bare = llama_sizes(
        num_layers=SHAPE["n_layers"],
        width=SHAPE["d_model"],
        num_heads=SHAPE["n_heads"],
        num_kv_heads=SHAPE["n_heads"],
        mlp_width=SHAPE["mlp_hidden_size"],
        vocab_size=policy.vocab_size,
        itemsize=4,
    )
    found = policy_sizes(policy)
    assert found is not None
    # The last norm is no end of the model: it counts to the blocks, a share to each.
    assert replace(found, block_weights=bare.block_weights) == with_adapters(bare, rank=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_outlines_have_the_sizes_of_the_loaded_model(tmp_path: Path, family: str) -> None:
    model = write_checkpoint(tmp_path / family, family)
    settings = MdlmConfig.model_validate({"model": str(model), "lora": {"rank": 2}})
    loaded, outline = MdlmPolicy(settings), MdlmPolicy.outline(settings)
    assert outline.device == torch.device("meta")
    assert policy_sizes(outline) == policy_sizes(loaded) is not None


def test_outline_of_eight_billion_parameters_needs_config_and_tokenizer_alone(
    tmp_path: Path,
) -> None:
    folder = without_weights(tmp_path / "model", embedding_size=126464, **LARGE)
    lora = {"rank": 128}
    settings = {"model": str(folder), "dtype": "bfloat16", "lora": lora}
    policy = LladaPolicy.outline(LladaConfig.model_validate(settings))
    assert policy.num_parameters == 8_015_581_184 + 167_772_160


def test_dry_run_of_a_config_without_weights_prints_the_table_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = without_weights(tmp_path / "model")
    before = sorted(path.name for path in folder.iterdir())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    said = dmpo(capsys, "train", "--model", str(folder), "--dry-run", "--processes", "8")
    assert (said.code, said.err) == (0, "")
    for text in ("left out: the weights of", "optimizer", "fsdp2", "each of 8 processes"):
        assert text in said.out
    assert list(Path().iterdir()) == []
    assert sorted(path.name for path in folder.iterdir()) == before


def test_dry_run_does_not_load_what_this_machine_cannot_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {**LARGE, "d_model": 16384, "n_layers": 200, "n_heads": 128}
    folder = without_weights(tmp_path / "model", embedding_size=126464, **sizes)
    (folder / "model.safetensors").touch()  # not looked into
    said = dmpo(capsys, "train", "--model", str(folder), "--dry-run")
    assert (said.code, said.err) == (0, "")
    assert "left out: the weights take" in said.out


def test_dry_run_still_refuses_what_is_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = dmpo(capsys, "train", "--model", str(tmp_path), "--dry-run")
    assert said.code != 0
    assert "no config.json there" in said.err
