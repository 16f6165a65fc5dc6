"""`dmpo export`, from runs that the command line itself has made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from peft import PeftModel
from safetensors.torch import load_file

from dmpo.cli.main import main
from dmpo.policies.llada import LladaConfig, LladaPolicy
from dmpo.policies.tiny import LladaShape
from dmpo.registry import POLICIES
from tests.cli.command import SCRATCH, SMALL, assert_one_line, dmpo
from tests.policies import mdlm_checkpoints
from tests.policies.builders import random_sequences

Capture = pytest.CaptureFixture[str]
SHAPE = {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 24}
LORA = {"rank": 2, "alpha": 8, "dropout": 0.0, "targets": "all"}
TWO_STEPS = ("--steps", "2", "--training.checkpoint_every", "1", "--training.keep_checkpoints", "2")
REWARD = """
def sevenths(completions, **_):
    return [sum(map(ord, text)) % 7 / 7 for text in completions]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model and three runs: of all weights, of adapters, of sft."""
    folder = tmp_path_factory.mktemp("runs")
    base = LladaPolicy(LladaConfig.model_validate({"scratch": SHAPE}))
    base.save(folder / "base")
    (folder / "reward.py").write_text(REWARD)
    reward = ("--reward", f"{folder / 'reward.py'}:sevenths")  # a random policy is never right
    quick = (*SMALL[2:], *TWO_STEPS, "--training.learning_rate", "0.01", *reward)
    model = ("--model", str(folder / "base"))
    lora = ("--set", f"policy.lora={json.dumps(LORA)}")
    sft = ("--steps", "2", "--training.batch_rows", "4", "--training.warmup_steps", "0")
    tasks = ("--evaluation.num_examples", "2", "--set", "tasks=[digit_sum]")
    for name, arguments in {
        "full": ("train", "--task", "digit_sum", *quick, "--set", SCRATCH),
        "lora": ("train", "--task", "digit_sum", *quick, *model, *lora),
        "sft": ("sft", *sft, *tasks, *model, *lora),
    }.items():
        assert main([*arguments, "--output", str(folder / name)]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def export(capsys: Capture, *arguments: object) -> str:
    said = dmpo(capsys, "export", *map(str, arguments))
    assert (said.code, said.err) == (0, "")
    return said.out


def card(directory: str | Path) -> tuple[dict[str, object], str]:
    """Return the front matter and the text of a card."""
    _, head, text = (Path(directory) / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def adapted(runs: Path, weights: Path) -> LladaPolicy:
    policy = LladaPolicy(LladaConfig.model_validate({"model": str(runs / "base"), "lora": LORA}))
    policy.load_weights(weights)
    return policy


def newest(run: Path) -> Path:
    return run / "checkpoints" / "step-000002" / "policy"


@pytest.mark.parametrize("merge", [(), ("--merge",)])
def test_weights_of_full_fine_tuning_are_those_of_the_checkpoint(
    capsys: Capture, runs: Path, merge: tuple[str, ...]
) -> None:
    export(capsys, runs / "full", "--output", "out", *merge)
    names = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert {path.name for path in Path("out").iterdir()} == names | {"tokenizer_config.json"}
    for path in newest(runs / "full").iterdir():
        assert (Path("out") / path.name).read_bytes() == path.read_bytes()
    assert (
        dmpo(capsys, "generate", "--model", "out", "--prompt", "1", "--gen-length", "2").code == 0
    )


def test_adapter_is_exported_alone_in_pefts_format(capsys: Capture, runs: Path) -> None:
    export(capsys, runs / "lora", "--output", "out")
    assert {path.name for path in Path("out").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    base = POLICIES.build("llada", {"model": str(runs / "base")})
    model = PeftModel.from_pretrained(base.module.causal_lm, "out").eval()
    policy = adapted(runs, newest(runs / "lora"))
    tokens = random_sequences(policy, padded=False).noisy
    with policy.evaluating():
        expected = policy.module.causal_lm(input_ids=tokens).logits
    torch.testing.assert_close(model(input_ids=tokens).logits, expected)


def test_merged_model_answers_as_the_adapted_one(capsys: Capture, runs: Path) -> None:
    export(capsys, runs / "lora", "--merge", "--output", "out")
    policy = adapted(runs, newest(runs / "lora"))
    merged = LladaPolicy(LladaConfig(model="out"))
    base = LladaPolicy(LladaConfig(model=str(runs / "base")))
    batch = random_sequences(policy)
    with policy.evaluating(), merged.evaluating(), base.evaluating():
        expected = policy.token_logprobs(*batch)
        torch.testing.assert_close(merged.token_logprobs(*batch), expected, atol=1e-4, rtol=0)
        assert (base.token_logprobs(*batch) - expected).abs().max() > 1e-3


def test_merged_weights_have_the_official_names_and_the_bases_precision(
    capsys: Capture, runs: Path
) -> None:
    export(capsys, runs / "lora", "--merge", "--output", "out")
    base = load_file(runs / "base" / "model.safetensors")
    merged = load_file("out/model.safetensors")
    assert {name: (t.shape, t.dtype) for name, t in merged.items()} == {
        name: (t.shape, t.dtype) for name, t in base.items()
    }
    assert all(name.startswith("model.transformer.") for name in merged)
    assert json.loads(Path("out/config.json").read_text())["model_type"] == "llada"
    assert Path("out/model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    Path("probe").touch()
    return 0o666 & ~(Path("probe").stat().st_mode & 0o777)


def test_merging_needs_neither_the_kernel_nor_the_quantisation_of_the_run(
    capsys: Capture, runs: Path
) -> None:
    shutil.copytree(runs / "lora", "run")
    checkpoint = Path("run/checkpoints/step-000002")
    text = (checkpoint / "config.yaml").read_text()
    changed = text.replace("attention: sdpa", "attention: flash_attention_2")
    changed = changed.replace("quantization: null", "quantization: nf4")
    assert len(changed) == len(text) + len("flash_attention_2") - len("sdpa") - 1
    (checkpoint / "config.yaml").write_text(changed)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["files"]["config.yaml"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    export(capsys, "run", "--merge", "--output", "out")
    assert Path("out/model.safetensors").is_file()


def test_policy_of_supervised_fine_tuning_is_exported(capsys: Capture, runs: Path) -> None:
    export(capsys, runs / "sft", "--merge", "--output", "out")
    policy, merged = adapted(runs, runs / "sft"), LladaPolicy(LladaConfig(model="out"))
    batch = random_sequences(policy)
    with policy.evaluating(), merged.evaluating():
        torch.testing.assert_close(
            merged.token_logprobs(*batch), policy.token_logprobs(*batch), atol=1e-4, rtol=0
        )
    assert "supervised fine-tuning" in card("out")[1]
    export(capsys, runs / "sft", "--output", "adapter")
    assert {path.suffix for path in Path("adapter").iterdir()} == {".md", ".json", ".safetensors"}
    assert len(list(Path("adapter").iterdir())) == 3


def test_card_says_what_was_trained_how_and_with_what_result(capsys: Capture, runs: Path) -> None:
    export(capsys, runs / "lora", "--output", "out")
    about, text = card("out")
    assert about["base_model"] == str(runs / "base")
    assert (about["library_name"], about["pipeline_tag"]) == ("peft", "text-generation")
    assert {"dmpo", "llada", "digit_sum"} <= set(about["tags"])  # type: ignore[call-overload]
    for row in ("objective | dmpo", "task | digit_sum", "gradient steps | 2", "seed | 0"):
        assert f"| {row} |" in text
    assert "rank 2, alpha 8, dropout 0, targets all" in text
    assert (runs / "lora" / "evaluation.md").read_text() in text


def test_card_of_a_plain_model_says_how_to_load_it(capsys: Capture, runs: Path) -> None:
    export(capsys, runs / "full", "--output", "out")
    about, text = card("out")
    assert about["library_name"] == "transformers"
    assert "base_model" not in about
    assert "dmpo generate --policy llada --model DIRECTORY" in text


@pytest.mark.parametrize("name", ["1", "000001", "step-000001", "{run}/checkpoints/step-000001"])
def test_checkpoint_is_named_by_step_or_path(capsys: Capture, runs: Path, name: str) -> None:
    checkpoint = name.format(run=runs / "full")
    export(capsys, runs / "full", "--checkpoint", checkpoint, "--output", "out")
    assert "| gradient steps | 1 |" in card("out")[1]


def test_checkpoint_may_stand_for_its_run(capsys: Capture, runs: Path) -> None:
    export(capsys, runs / "full" / "checkpoints" / "step-000001", "--output", "out")
    assert "| gradient steps | 1 |" in card("out")[1]


def test_output_lies_beside_the_run_unless_it_is_named(
    capsys: Capture, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs / "full", "a/run")
    assert "saved in    a/run-export" in export(capsys, "a/run")
    monkeypatch.chdir("a/run")
    shutil.rmtree("../run-export")
    export(capsys, ".")
    assert Path("../run-export/model.safetensors").is_file()


def test_damaged_newest_checkpoint_is_skipped_by_name(capsys: Capture, runs: Path) -> None:
    shutil.copytree(runs / "full", "run")
    Path("run/checkpoints/step-000002/policy/model.safetensors").write_bytes(b"x")
    said = export(capsys, "run", "--output", "out")
    assert "skipped     run/checkpoints/step-000002: policy/model.safetensors differs" in said
    assert "| gradient steps | 1 |" in card("out")[1]


def test_damaged_checkpoint_that_was_named_is_refused(capsys: Capture, runs: Path) -> None:
    shutil.copytree(runs / "full", "run")
    Path("run/checkpoints/step-000002/policy/model.safetensors").write_bytes(b"x")
    said = dmpo(capsys, "export", "run", "--checkpoint", "2", "--output", "out")
    assert_one_line(said, 2, "policy/model.safetensors differs from the manifest")
    assert not Path("out").exists()


def test_run_of_damaged_checkpoints_alone_is_refused(capsys: Capture, runs: Path) -> None:
    shutil.copytree(runs / "full", "run")
    for state in Path("run").rglob("state.json"):
        state.unlink()
    assert_one_line(dmpo(capsys, "export", "run"), 2, "no checkpoint is whole")


def test_run_without_a_checkpoint_is_refused(capsys: Capture, runs: Path) -> None:
    shutil.copytree(runs / "full", "run")
    shutil.rmtree("run/checkpoints")
    assert_one_line(dmpo(capsys, "export", "run"), 2, "run has not saved a checkpoint yet")
    named = dmpo(capsys, "export", "run", "--checkpoint", "1")
    assert_one_line(named, 2, "it has none yet")


def test_sft_run_without_a_policy_is_refused(capsys: Capture, runs: Path) -> None:
    shutil.copytree(runs / "sft", "run")
    Path("run/adapter_model.safetensors").unlink()
    assert_one_line(dmpo(capsys, "export", "run"), 2, "run has not saved its policy yet")


@pytest.mark.parametrize("extra", [(), ("--checkpoint", "1")])
def test_what_is_no_run_is_refused(capsys: Capture, extra: tuple[str, ...]) -> None:
    Path("empty").mkdir()
    for name in ("gone", "empty"):
        said = dmpo(capsys, "export", name, *extra)
        assert_one_line(said, 2, f"{name} is n")
        assert "config.yaml" in said.err


@pytest.mark.parametrize("name", ["7", "x", "", "²", "9" * 5000])
def test_checkpoint_that_is_not_there_is_refused(capsys: Capture, runs: Path, name: str) -> None:
    said = dmpo(capsys, "export", str(runs / "full"), "--checkpoint", name, "--output", "out")
    assert_one_line(said, 2, "there are those of steps 1, 2")
    assert not Path("out").exists()


def test_base_model_that_is_gone_is_named(capsys: Capture, runs: Path) -> None:
    shutil.copytree(runs / "lora", "run")
    base = runs / "base"
    base.rename(runs / "elsewhere")
    try:
        said = dmpo(capsys, "export", "run", "--merge", "--output", "out")
        export(capsys, "run", "--output", "adapter")
    finally:
        (runs / "elsewhere").rename(base)
    assert_one_line(said, 2, f"policy.model: {base} is neither a directory nor")
    assert not Path("out").exists()


def test_output_that_is_taken_is_refused(capsys: Capture, runs: Path) -> None:
    Path("out").mkdir()
    Path("out/notes").touch()
    Path("file").touch()
    run = str(runs / "full")
    assert_one_line(dmpo(capsys, "export", run, "--output", "out"), 2, "out exists already")
    assert_one_line(dmpo(capsys, "export", run, "--output", "file"), 2, "file exists already")
    assert_one_line(dmpo(capsys, "export", run, "--output", "file/x"), 2, "not a directory")
    assert [path.name for path in Path("out").iterdir()] == ["notes"]


def test_export_that_cannot_be_written_leaves_nothing(
    capsys: Capture, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dmpo.config.export.shutil.copyfile", full)
    said = dmpo(capsys, "export", str(runs / "full"), "--output", "a/out")
    assert_one_line(said, 1, "out: cannot be written: No space left on device")
    assert not Path("a").exists()


def test_run_is_asked_for(capsys: Capture) -> None:
    assert_one_line(dmpo(capsys, "export"), 2, "RUN")
    assert_one_line(dmpo(capsys, "export", "run", "--merg"), 2, "--merg")


@pytest.mark.parametrize("family", ["qwen3", "bert"])
def test_merged_model_of_the_librarys_own_family_loads_in_its_own_class(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(mdlm_checkpoints, "CHARACTERS", LladaShape().characters)
    mdlm_checkpoints.write_checkpoint(Path("base"), family)
    policy = ("--policy", "mdlm", "--model", "base", "--set", f"policy.lora={json.dumps(LORA)}")
    quick = (*SMALL[2:], "--steps", "1", "--task", "digit_sum", "--output", "run")
    assert dmpo(capsys, "train", *policy, *quick).code == 0
    export(capsys, "run", "--merge", "--output", "out")
    (name,) = json.loads(Path("out/config.json").read_text())["architectures"]
    model_class = getattr(transformers, name)
    _, report = model_class.from_pretrained("out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert load_file("base/model.safetensors").keys() == load_file("out/model.safetensors").keys()
