"""What the sources of the package and of its plugins may not do, found in their syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for pattern in ("dmpo/**/*.py", "plugins/*/dmpo_*/**/*.py", "docs/*.py", "benchmarks/*.py")
    for path in ROOT.glob(pattern)
)
MODULES = frozenset(
    {"cloudpickle", "cPickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve"}
)
"""What reads objects, and so runs code, from bytes."""
CALLS = frozenset(
    {
        *("eval", "exec", "compile", "__import__", "import_module", "exec_module"),
        *("torch.load", "load_module", "run_path", "run_module", "os.system", "os.popen"),
        *("read_pickle", "to_pickle", "unsafe_load", "full_load", "from_pretrained_pickle"),
    }
)
"""Functions that run what they are given, or read what runs."""
ALLOWED: Mapping[tuple[str, str], str] = {
    ("dmpo/__init__.py", "import_module"): "public names of our own, from a table in that file",
    ("dmpo/cli/commands.py", "import_module"): "commands of our own, from a table of ours",
    ("dmpo/cli/completion.py", "shell"): "the name of a shell, for typer: nothing is run",
    ("dmpo/training/tracker_kinds.py", "import_module"): "mlflow, where the run logs to it",
    ("dmpo/registry.py", "import_module"): "plugins: entry points of installed packages",
    ("dmpo/user_code.py", "import_module"): "a module that the user names for a reward or task",
    ("dmpo/user_code.py", "exec_module"): "a file that the user names for a reward or task",
    ("dmpo/tasks/code_problems.py", "eval"): "problems written in that file, nothing from outside",
    ("dmpo/tasks/sandbox.py", "marshal"): "what is sent to the sandbox's own process",
    ("dmpo/tasks/sandbox.py", "compile"): "the sandbox's worker itself",
    ("dmpo/tasks/sandbox_worker.py", "marshal"): "read in the sandbox, from its own parent",
    ("dmpo/tasks/sandbox_worker.py", "compile"): "in the sandbox: what the model wrote",
    ("dmpo/tasks/sandbox_worker.py", "exec"): "in the sandbox: what the model wrote",
    ("dmpo/config/yaml_text.py", "yaml.load"): "its loader derives from SafeLoader, tested below",
    ("docs/hooks.py", "exec_module"): "docs/generated.py, which lies beside it",
}
"""By file and name: why it is harmless there."""


def forbidden(tree: ast.AST) -> Iterator[str]:
    """Yield the name of everything in a module that may run code that came with data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from MODULES & {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            yield from MODULES & {(node.module or "").partition(".")[0]}
            yield from (
                f"{node.module}.{a.name}" for a in node.names if a.name in ("system", "popen")
            )
            yield from (a.name for a in node.names if f"{node.module}.{a.name}" in CALLS)
        elif isinstance(node, ast.Call):
            yield from _forbidden_call(node)


def _forbidden_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in CALLS or (last in CALLS and last not in ("compile", "eval", "exec")):
        yield last if last in CALLS else name
    if name in ("yaml.load", "yaml.load_all") and "yaml.SafeLoader" not in options.get(
        "Loader", ""
    ):
        yield name
    if options.get("allow_pickle", "False") != "False":
        yield "allow_pickle"
    if options.get("weights_only", "True") != "True":
        yield "weights_only"
    if options.get("shell", "False") != "False":
        yield "shell"
    if last == "from_pretrained" and options.get("trust_remote_code") != "False":
        yield "from_pretrained"
    elif options.get("trust_remote_code", "False") != "False":
        yield "trust_remote_code"


def test_sources_run_nothing_that_comes_with_data() -> None:
    assert len(SOURCES) > 150
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in SOURCES
        for name in forbidden(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import joblib.memory", "joblib"),
        ("from torch import load", "load"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=True)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("load(path, weights_only=flag)", "weights_only"),
        ("pandas.read_pickle(path)", "read_pickle"),
        ("yaml.load(text)", "yaml.load"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("yaml.unsafe_load(text)", "unsafe_load"),
        ("eval(text)", "eval"),
        ("exec(text)", "exec"),
        ("compile(text, name, 'exec')", "compile"),
        ("__import__(name)", "__import__"),
        ("importlib.import_module(name)", "import_module"),
        ("from os import system", "os.system"),
        ("subprocess.run(text, shell=True)", "shell"),
        ("AutoModel.from_pretrained(path)", "from_pretrained"),
        ("AutoModel.from_pretrained(path, trust_remote_code=True)", "from_pretrained"),
        ("load_dataset(path, trust_remote_code=flag)", "trust_remote_code"),
    ],
)
def test_search_finds_what_it_looks_for(text: str, name: str) -> None:
    assert name in set(forbidden(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "re.compile(pattern)",
        "np.load(path)",
        "load(path)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.safe_load(text)",
        "safetensors.torch.load_file(path)",
        "AutoModel.from_pretrained(path, trust_remote_code=False)",
        "subprocess.run([program])",
    ],
)
def test_search_leaves_the_harmless_alone(text: str) -> None:
    assert set(forbidden(ast.parse(text))) == set()
