"""Bad input of every kind to every command: one line that names it, and nothing left behind."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dmpo import registry
from dmpo.policies.llada import LladaConfig, LladaPolicy
from tests.cli.command import SCRATCH, SMALL, Said, assert_one_line, dmpo

Capture = pytest.CaptureFixture[str]

FILES: dict[str, str | bytes] = {
    "empty.yaml": "",
    "list.yaml": "- a\n",
    "text.yaml": "hello\n",
    "binary.yaml": b"\xff\xfe\x00",
    "open.yaml": "task: [1\n",
    "twice.yaml": "seed: 1\nseed: 2\n",
    "number_key.yaml": "1: 2\n",
    "endless.yaml": "task: &a [*a]\n",
    "laughs.yaml": "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
    ),
    "deep.yaml": "task: " + "{a: " * 100,
    "huge.yaml": f"extends: sudoku\nseed: {'9' * 5000}\n",
    "object.yaml": "seed: !!python/object/apply:os.system [ls]\n",
    "itself.yaml": "extends: ./itself.yaml\n",
    "circle.yaml": "extends: ./elcric.yaml\n",
    "elcric.yaml": "extends: ./circle.yaml\n",
    "orphan.yaml": "extends: ./gone.yaml\n",
    "misspelt.yaml": "extends: sudko\n",
    "numbered.yaml": "extends: 3\n",
    "unknown.yaml": "extends: sudoku\nbaselin: mean\n",
    "inner.yaml": "extends: sudoku\ntraining: {num_step: 3}\n",
    "nothing.yaml": "extends: sudoku\ntraining:\n",
    "plain.yaml": "extends: sudoku\ntraining: 3\n",
    "truth.yaml": "extends: sudoku\nseed: true\n",
    "infinite.yaml": "extends: sudoku\ntraining: {learning_rate: 1e999}\n",
    "number.yaml": "extends: sudoku\nobjective: 3\n",
    "rewards.yaml": "extends: sudoku\nrewards: [null]\n",
    "file": "x",
    "blank.txt": "\n \n",
    "binary.txt": b"\xff\xfe\x00",
    "long.txt": "1\n" + "2" * 600 + "\n",
    "foreign.txt": "1\n2ü\n",
    "cut.jsonl": '{"prompt": "1"}\n\n{"prompt":\n',
    "keyless.jsonl": '{"promt": "1"}\n',
    "hollow.jsonl": '{"prompt": "1"}\n{"prompt": ""}\n',
    "deep.jsonl": "[" * 100_000,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds ``FILES``; no test may change it."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, content in FILES.items():
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    return folder


@pytest.fixture
def among_the_inputs(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inputs)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which is empty unless a test is among the inputs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def everything() -> set[str]:
    return {str(path) for path in Path().rglob("*") if "__pycache__" not in path.parts}


def refuse(capsys: Capture, *arguments: str, code: int, text: str) -> Said:
    """Assert one line with ``text``, the exit code, and that no file came or went."""
    before = everything()
    said = dmpo(capsys, *arguments)
    assert_one_line(said, code, text)
    assert "Traceback" not in said.err
    assert everything() == before
    return said


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("nope=1", "nope: unknown key; accepted: baseline, evaluation,"),
        ("seed", "--set: expected KEY=VALUE, given 'seed'"),
        ("=1", "--set: expected KEY=VALUE, given '=1'"),
        ("a..b=1", "'a..b' is not a dotted path"),
        ("seed=[1", "--set seed: line 1: not YAML"),
        ("seed=-1", "seed: must be greater than or equal to 0; given -1. (from --set)"),
        ("seed=1.5", "seed: must be a whole number; given 1.5"),
        ("seed=true", "seed: must not be true or false; given true"),
        ("seed=9999999999999999999", "has 19 digits; whole numbers of at most 18"),
        ("seed.x=3", "seed: must be a whole number; given {'x': 3}"),
        ("training=3", "training: must be `key: value` pairs; given 3"),
        ("training.num_steps.x=3", "training.num_steps has no parts, it is 96 (from recipe"),
        ("training.num_steps=0", "training.num_steps: must be greater than 0; given 0"),
        ("training.num_steps=null", "training.num_steps: must be a whole number; given null"),
        ("training.learning_rate=nan", "learning_rate: must be a finite number; given 'nan'"),
        ("training.learning_rate=1e999", "learning_rate: must be a finite number; given inf"),
        ("training.max_grad_norm=.inf", "max_grad_norm: must be a finite number; given inf"),
        ("training.betas=[.nan, .9]", "training.betas.0: must be a finite number"),
        ("training.betas=0.9", "training.betas: must be a list; given 0.9"),
        ("training.schedule=linaer", "Did you mean 'linear'?"),
        ("training.warmup_steps=1000", "warmup_steps 1000 exceeds num_steps 96"),
        ("training.rows_per_forward=1", "rows_per_forward 1 is less than rollouts_per_prompt 8"),
        ("evaluation.split=tset", "must be 'test' or 'validation'; given 'tset'. Did you mean"),
        ("evaluation.sampler=null", "evaluation.sampler: must be a name, or a mapping"),
        ("task=[1]", "task: must be a name, or a mapping with a `name`; given [1]"),
        ("task=''", "task: unknown name ''; accepted: code, countdown,"),
        ("task.sed=1", "unknown key of task 'sudoku'; accepted: format, grader, lazy_fraction"),
        ("policy.model=''", "policy.model: must not be empty"),
        ("policy.scratch.d_model=15", "d_model 15 is no multiple of twice n_heads 4"),
        ("policy.scratch.characters=aa", "characters: 'a' is there more than once"),
        ("policy.scratch.rope_theta=.inf", "rope_theta: must be a finite number"),
        ("policy.lora.rnak=3", "Did you mean 'rank'?"),
        ("policy.lora.dropout=.nan", "policy.lora.dropout: must be a finite number"),
        ("policy.revision=main", "revision is for a model on the hub"),
        ("rewards=[]", "rewards: must not be empty; given []"),
        ("rewards=3", "rewards: must be a list; given 3"),
        ("rewards.5=task", "rewards.5: not an element of the list; accepted: 0 to 1"),
        (
            "rewards=[tsak]",
            "unknown name 'tsak'; accepted: classifier, function, given_order, task. Did you",
        ),
        ("rewards.0.weight=.nan", "rewards.0.weight: must be a finite number; given nan"),
        ("rewards=['mine.py:']", "must be module:function or file.py:function; given 'mine.py:'"),
        ("sampler.temperature=.inf", "sampler.temperature: must be a finite number"),
        ("sampler.gen_length=9999999", "must be less than or equal to 1000000; given 9999999"),
        ("sampler.block_length=3", "block_length 3 does not divide gen_length 16"),
        ("weights.alpha=.nan", "weights.alpha: must be a finite number"),
        ("baseline.strength=-1", "baseline.strength: must be greater than or equal to 0"),
        ("objective=dpmo", "objective: unknown name 'dpmo'; accepted: agrpo, bgpo,"),
    ],
)
def test_wrong_settings_are_refused(capsys: Capture, setting: str, text: str) -> None:
    refuse(capsys, "config", "show", "--set", setting, code=2, text=text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("train x", "unexpected argument 'x'; settings are given as --name value"),
        ("train -s", "unknown option '-s'"),
        ("train --baselin mean", "unknown option '--baselin'. Did you mean '--baseline'?"),
        ("train --traning.betas 1", "Did you mean '--training.betas'?"),
        ("train --training x", "its parts are options: --training.NAME VALUE"),
        ("train --training. x", "'training.' is not a dotted path"),
        ("train --training.num_steps", "needs a value"),
        ("train --training.num_steps --plain", "needs a value"),
        ("train --baseline", "'--baseline' requires an argument"),
        ("train --baseline mean --baseline nope", "baseline: unknown name 'nope'"),
        ("train --set training=3 --steps 3", "training has no parts, it is 3 (from --set)"),
        ("train --seed 1.5", "'--seed': '1.5' is not a whole number"),
        ("train --seed 9999999999999999999999", "has 22 digits; at most 18 are accepted"),
        ("train --steps -3", "training.num_steps: must be greater than 0; given -3. (from --st"),
        ("train --max-seconds x", "'--max-seconds': 'x' is not a number"),
        ("train --max-seconds 1e999", "training.max_seconds: must be a finite number; given inf"),
        ("train --recipe ''", "recipe: unknown name ''; `dmpo recipes` lists"),
        ("train --recipe gone.yaml", "recipe: no file gone.yaml; shipped: `dmpo recipes` lists"),
        ("train --config ''", "'--config': it is empty; give a path"),
        ("train --config gone.yaml", "gone.yaml: cannot be read: No such file or directory"),
        ("train --config full", "full: cannot be read: Is a directory"),
        ("train --output ''", "'--output': it is empty; give a path"),
        ("train --output full", "--output: full exists already"),
        ("train --output file", "--output: file exists already"),
        ("train --output file/out", "file is not a directory"),
        ("train --output /dev/null/out", "/dev/null is not a directory"),
        (f"train --output {'a' * 300}", "cannot be made: File name too long"),
        ("train --reward gone.py:f", "reward.target: no file gone.py"),
        ("train --reward json:dmups", "json has no function 'dmups'; it has dump"),
        ("train --reward no_such_module:f", "no module 'no_such_module'; a file is named by"),
        ("train --likelihood path --sampler.temperature 0", "'path' needs the path of each"),
        ("train --baseline mean --weights advantage", "'mean' goes through the link"),
        ("train --model gone", "gone is neither a directory nor a model's name on the hub"),
        ("train --model a/b", "a/b is not a directory here and could not be fetched"),
        ("train --model a --policy.scratch.d_model 16", "give either model or scratch"),
        ("eval --task file --task.path gone --task.response_length 4", "task.path: gone cannot be"),
        ("eval --task digit_sum --task.test_size 999", "leave nothing to train on: there are 765"),
        ("eval --run ''", "'--run': it is empty"),
        ("eval --run full", "--run: full is neither a run directory"),
        ("eval --run x --recipe y", "--run: the run has its settings and its checkpoint already"),
        ("eval --recipe tiny_llada", "task: required and not given"),
        ("eval --samples 0", "evaluation.samples_per_prompt: must be greater than 0; given 0"),
        ("eval --num-examples x", "'--num-examples': 'x' is not a whole number"),
        ("eval --output file/out", "file is not a directory"),
        ("generate", "--prompt or --file: nothing to complete"),
        ("generate --file ''", "'--file': it is empty"),
        ("generate --file gone", "--file: gone cannot be read: No such file"),
        ("generate --file full", "--file: full cannot be read: Is a directory"),
        ("generate --file blank.txt", "--file: blank.txt holds no prompt"),
        ("generate --file binary.txt", "it is not UTF-8 text (byte 1 is 0xff)"),
        ("generate --file cut.jsonl", "cut.jsonl, line 3: not JSON: Expecting value at column 11"),
        ("generate --file keyless.jsonl", "line 1: expected an object with a text `prompt`"),
        ("generate --file deep.jsonl", "line 1: not JSON: too many lists"),
        ("generate --prompt 1 --n 0", "--n: must be at least 1; given 0"),
        ("generate --prompt 1 --n 2", "--n: 2 completions at temperature 0 would be alike"),
        ("generate --prompt 1 --temperature nan", "sampler.temperature: must be a finite number"),
        ("generate --prompt 1 --gen-length 0", "sampler.gen_length: must be greater than 0"),
        ("generate --prompt 1 --sampler raor", "Did you mean 'roar'?"),
        ("generate --prompt 1 --output file", "--output: file exists already; name a file that"),
        ("generate --prompt 1 --output file/x", "file is not a directory"),
        ("sft --steps 0", "training.num_steps: must be greater than 0; given 0"),
        ("sft --set tasks=[]", "tasks: must not be empty; given []"),
        ("sft --set tasks=[sudoku,3]", "tasks.1: must be a name, or a mapping"),
        ("sft --set tasks.0.weight=.inf", "tasks.0.weight: must be a finite number"),
        ("sft --training.batch_rows 1", "stratified spreads over the rows of a batch"),
        ("sft --recipe sudoku", "tasks: required and not given"),
        ("sft --output file/x", "file is not a directory"),
        ("config shwo", "No such command 'shwo'. Did you mean 'show'?"),
        ("config validate", "Missing argument 'FILE'"),
        ("config validate ''", "'FILE': it is empty; give a path"),
        ("config validate full", "full: cannot be read: Is a directory"),
        ("config schema x", "unexpected extra argument(s) (x)"),
        ("plugins lst", "No such command 'lst'. Did you mean 'list'?"),
        ("plugins show elbow", "Did you mean 'elbo'?"),
        ("plugins show ''", "plugin: unknown name ''; accepted: advantage,"),
        ("version x", "unexpected extra argument(s) (x)"),
        ("version --loud", "No such option: --loud"),
    ],
)
@pytest.mark.usefixtures("among_the_inputs")
def test_wrong_arguments_are_refused(capsys: Capture, arguments: str, text: str) -> None:
    refuse(capsys, *shlex.split(arguments), code=2, text=text)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("empty", "task: required and not given"),
        ("list", "list.yaml: expected `key: value` lines, found a list"),
        ("text", "text.yaml: expected `key: value` lines, found 'hello'"),
        ("binary", "binary.yaml: cannot be read: it is not UTF-8 text (byte 1 is 0xff)"),
        ("open", "open.yaml: line 2: not YAML"),
        ("twice", "twice.yaml: line 2: key 'seed' is given twice"),
        ("number_key", "number_key.yaml: line 1: key 1 is not text"),
        ("endless", "endless.yaml: more than 32 levels"),
        ("laughs", "laughs.yaml: more than 32 levels or 100,000 values"),
        ("deep", "deep.yaml: "),
        ("huge", "huge.yaml: line 2: 999999999999999999… has 5000 digits"),
        ("object", "object.yaml: line 1: not YAML"),
        ("itself", "itself.yaml goes in a circle"),
        ("circle", "circle.yaml goes in a circle"),
        ("orphan", "orphan.yaml: extends: recipe: no file gone.yaml"),
        ("misspelt", "misspelt.yaml: extends: recipe: unknown name 'sudko'; `dmpo recipes` lists"),
        ("numbered", "numbered.yaml: extends: expected text, given 3"),
        ("unknown", "Did you mean 'baseline'? (from file unknown.yaml)"),
        ("inner", "Did you mean 'num_steps'? (from file inner.yaml)"),
        ("nothing", "training: must be `key: value` pairs; given null. (from file nothing.yaml)"),
        ("plain", "training: must be `key: value` pairs; given 3. (from file plain.yaml)"),
        ("truth", "seed: must not be true or false; given true. (from file truth.yaml)"),
        ("infinite", "training.learning_rate: must be a finite number; given inf. (from file"),
        ("number", "objective: must be a name, or a mapping with a `name`; given 3"),
        ("rewards", "rewards.0: must be a name, or a mapping with a `name`; given null"),
    ],
)
@pytest.mark.usefixtures("among_the_inputs")
def test_wrong_settings_files_are_refused(capsys: Capture, file: str, text: str) -> None:
    refuse(capsys, "config", "validate", f"{file}.yaml", code=2, text=text)


GENERATE = ("generate", "--set", SCRATCH, "--gen-length", "4")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--prompt", ""), "--prompt: it is empty"),
        (("--prompt", "ü"), "--prompt: the tokenizer has no token for 'ü'"),
        (("--prompt", "1" * 600), "--prompt: 600 tokens, longer than the model's context of 512"),
        (("--prompt", "1" * 511), "its 511 tokens and an answer of 4 (gen_length) exceed the"),
        (("--file", "long.txt"), "--file: long.txt, line 2: 600 tokens, longer than"),
        (("--file", "foreign.txt"), "--file: foreign.txt, line 2: the tokenizer has no token"),
        (("--file", "hollow.jsonl"), "--file: hollow.jsonl, line 2: it is empty"),
    ],
)
@pytest.mark.usefixtures("among_the_inputs")
def test_prompts_that_do_not_fit_are_refused(
    capsys: Capture, arguments: tuple[str, ...], text: str
) -> None:
    refuse(capsys, *GENERATE, *arguments, "--output", "new/out.jsonl", code=2, text=text)


def problems(count: int, prompt: str = "{}+1=", answer: str = "2") -> str:
    rows = ({"prompt": prompt.format(n), "answer": answer} for n in range(count))
    return "".join(f"{json.dumps(row)}\n" for row in rows)


SFT = ("sft", "--set", SCRATCH, "--steps", "1", "--training.warmup_steps", "0", "--output", "out")
TRAIN = ("train", *SMALL, "--set", SCRATCH, "--steps", "1", "--output", "out")
DATA = (
    ("", "holds no problems"),
    ("\n \n", "holds no problems"),
    (b"\xff\xfe\x00", "cannot be read: it is not UTF-8 text"),
    (problems(3) + "{\n", "line 4: not JSON"),
    ('{"prompt": "1"}\n', "line 1: no column 'answer' (answer_column); it has 'prompt'"),
    ('{"prompt": NaN, "answer": "1"}\n', "column 'prompt' must be text"),
    (problems(2), "has 2 different prompts; 1 for test and 1 for validation leave nothing"),
    (problems(9, "{}" + "1" * 600), "problem 0: 601 tokens, longer than the model's context"),
    (problems(9, "{}" + "1" * 508), "problem 0: its 509 tokens and an answer of 4 (gen_length)"),
    (problems(9, "{}ü"), "problem 0: the tokenizer has no token for 'ü'"),
)


@pytest.mark.parametrize(("content", "text"), DATA)
def test_data_that_cannot_be_used_are_refused(
    capsys: Capture, folder: Path, content: str | bytes, text: str
) -> None:
    path = folder / "problems.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    task = ("--task", "file", "--task.path", str(path), "--task.response_length", "4")
    refuse(capsys, *TRAIN, *task, code=2, text=text)


@pytest.mark.parametrize(("content", "text"), [DATA[0], DATA[-2], DATA[-1]])
def test_data_are_checked_by_every_command(
    capsys: Capture, folder: Path, content: str, text: str
) -> None:
    path = folder / "problems.jsonl"
    path.write_text(content)
    task = ("--task", "file", "--task.path", str(path), "--task.response_length", "4")
    evaluate = ("eval", "--set", SCRATCH, *task, "--output", "out")
    refuse(capsys, *evaluate, code=2, text=text)
    tasks = f"tasks=[{{name: file, path: '{path}', response_length: 4}}]"
    refuse(capsys, *SFT, "--set", tasks, code=2, text=text)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("123456", "task file, answer to train problem 0: 6 tokens do not fit a canvas of 4"),
        ("ü", "task file, answer to train problem 0: the tokenizer has no token for 'ü'"),
    ],
)
def test_demonstrations_that_do_not_fit_are_refused(
    capsys: Capture, folder: Path, answer: str, text: str
) -> None:
    (folder / "problems.jsonl").write_text(problems(9, answer=answer))
    tasks = f"tasks=[{{name: file, path: '{folder / 'problems.jsonl'}', response_length: 4}}]"
    refuse(capsys, *SFT, "--set", tasks, code=2, text=text)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (
            "raise ValueError('a\\nb')",
            "reward function mine.py:f, row 0 (prompt 0, rollout 0): ValueError: a b",
        ),
        (
            "import sys; sys.exit(3)",
            "reward function mine.py:f, row 0 (prompt 0, rollout 0): SystemExit: 3",
        ),
        ("return [1.0]", "returned 1 values for 4 rollouts"),
        ("return (1.0 for _ in completions)", "returned generator, not a list of 4 numbers"),
        ("return ['1'] * 4", "row 0 (prompt 0, rollout 0): '1' is not a finite number"),
        ("return [1, float('nan'), 1, 1]", "row 1 (prompt 0, rollout 1): nan is not a finite"),
    ],
)
def test_rewards_that_misbehave_end_the_run_without_a_trace(
    capsys: Capture, code: str, text: str
) -> None:
    Path("mine.py").write_text(f"def f(completions, **columns):\n    {code}\n")
    refuse(capsys, *TRAIN, "--reward", "mine.py:f", code=1, text=text)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("def f(:", "mine.py cannot be imported: SyntaxError"),
        ("import no_such", "mine.py cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit('bye')", "mine.py cannot be imported: SystemExit: bye"),
        ("f = 3", "f of mine.py is no function, but of type int"),
        ("def g(): ...", "mine.py has no function 'f'; it has g"),
        ("class f: ...", "f of mine.py is no function, but a class"),
        ("def f(x, /): ...", "takes 'x' by position alone"),
    ],
)
def test_rewards_that_cannot_be_loaded_are_refused(capsys: Capture, code: str, text: str) -> None:
    Path("mine.py").write_text(f"{code}\n")
    refuse(capsys, *TRAIN, "--reward", "mine.py:f", code=2, text=text)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    shape = {"d_model": 16, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 24}
    LladaPolicy(LladaConfig.model_validate({"scratch": shape})).save(folder)
    return folder


def edit(file: str, **changes: object) -> Callable[[Path], object]:
    def _edit(model: Path) -> None:
        content = json.loads((model / file).read_text())
        (model / file).write_text(json.dumps({**content, **changes}))

    return _edit


def overwrite(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda model: (model / file).write_bytes(content)


def cut(model: Path) -> None:
    os.truncate(model / "model.safetensors", 3000)


def flip(model: Path) -> None:
    content = bytearray((model / "model.safetensors").read_bytes())
    content[12] ^= 0xFF
    (model / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda model: (model / "config.json").unlink(), "model: no config.json there"),
        (overwrite("config.json", b"{"), "model/config.json: it cannot be read"),
        (overwrite("config.json", b"[]"), "model/config.json: it holds no object"),
        (edit("config.json", model_type="llama"), "its model_type is 'llama'"),
        (edit("config.json", d_model="x"), "d_model must be a whole number above 0; given 'x'"),
        (edit("config.json", d_model=32), "has shape [98, 16]; by config.json it has [98, 32]"),
        (lambda model: (model / "model.safetensors").unlink(), "no model.safetensors there"),
        (overwrite("model.safetensors", b""), "the model cannot be loaded: SafetensorError"),
        (cut, "the model cannot be loaded: SafetensorError"),
        (flip, "the model cannot be loaded: SafetensorError"),
        (lambda model: (model / "tokenizer.json").unlink(), "no tokenizer.json there"),
        (overwrite("tokenizer.json", b"{}"), "the tokenizer (tokenizer.json, tokenizer_config"),
    ],
)
def test_damaged_models_are_refused(
    capsys: Capture, saved_model: Path, damage: Callable[[Path], object], text: str
) -> None:
    shutil.copytree(saved_model, "model")
    damage(Path("model"))
    chosen = ("--model", "model", "--output", "out")
    refuse(capsys, "generate", "--prompt", "1", *chosen, code=2, text=text)


def test_damaged_model_is_refused_by_every_command(capsys: Capture, saved_model: Path) -> None:
    shutil.copytree(saved_model, "model")
    cut(Path("model"))
    for command in ("eval", "train", "sft"):
        chosen = ("--model", "model", "--output", "out")
        refuse(capsys, command, *chosen, code=2, text="the model cannot be loaded")


def test_full_disk_leaves_no_output_behind(
    capsys: Capture, file_size_limit: Callable[[int], None]
) -> None:
    few = ("--num-examples", "2", "--output", "new/out")
    file_size_limit(8)
    text = "new/out: cannot be written: File too large."
    refuse(capsys, *GENERATE, "--prompt", "1", "--output", "new/out", code=1, text=text)
    text = "new/out/unfinished/settings.json: cannot be written: File too large."
    refuse(capsys, "eval", "--set", SCRATCH, *few, code=1, text=text)
    text = "out/config.yaml: cannot be written: File too large."
    refuse(capsys, *TRAIN, code=1, text=text)
    refuse(capsys, *SFT, "--set", "tasks=[sudoku]", code=1, text=text)


def test_plugin_that_fails_at_import_leaves_the_others_usable(
    capsys: Capture, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = folder / "path" / "broken-1.2.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.2\n")
    (package / "entry_points.txt").write_text("[dmpo.samplers]\nbad = broken:Sampler\n")
    (folder / "path" / "broken.py").write_text("raise RuntimeError('two\\nlines')\n")
    monkeypatch.syspath_prepend(str(folder / "path"))
    registry._claims.cache_clear()
    try:
        said = dmpo(capsys, "plugins", "list")
        (line,) = [line for line in said.out.splitlines() if "BROKEN" in line]
        assert line.endswith("from broken:Sampler: RuntimeError: two lines")
        assert said.code == 0
        assert dmpo(capsys, "config", "show").code == 0
        text = "sampler 'bad' of broken 1.2 cannot be imported"
        refuse(capsys, "plugins", "show", "bad", code=1, text=text)
        refuse(capsys, *TRAIN, "--sampler", "bad", code=1, text=text)
        refuse(capsys, *TRAIN, "--sampler", "bda", code=2, text="Did you mean 'bad'?")
    finally:
        registry._claims.cache_clear()


def test_debug_shows_where_bad_input_was_found(capsys: Capture) -> None:
    said = dmpo(capsys, "train", "--seed", "-1", "--debug")
    assert said.code == 2
    assert said.err.startswith("Traceback")
    assert said.err.splitlines()[-1].startswith("dmpo: error: seed: must be greater than")


@pytest.mark.parametrize("group", ["config", "plugins"])
def test_group_alone_shows_help(capsys: Capture, group: str) -> None:
    said = dmpo(capsys, group)
    assert (said.code, said.err) == (0, "")
    assert "show" in said.out
