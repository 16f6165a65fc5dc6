from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import dmpo
from dmpo.errors import ConfigError, OutputError, UnknownNameError
from dmpo.plugins.kinds import KINDS
from dmpo.plugins.scaffold import scaffold, write_scaffold
from dmpo.registry import REGISTRIES
from tests.plugins.installed import install

SHORT = (
    *("--steps", "1"),
    *("--training.warmup_steps", "0"),
    *("--training.prompts_per_buffer", "2"),
    *("--training.rollouts_per_prompt", "2"),
    *("--training.updates_per_buffer", "1"),
    *("--evaluation.num_examples", "2"),
)


def written(kind: str, name: str, parent: Path) -> Path:
    made = scaffold(kind, name)
    write_scaffold(made, parent / made.package)
    return parent / made.package


def run(*arguments: str, cwd: Path, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = [str(site)] if site else []
    already = [text] if (text := os.environ.get("PYTHONPATH")) else []
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([*path, *already]),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """Return a package of every kind, and the folder that they are installed in."""
    parent = tmp_path_factory.mktemp("packages")
    made = [written(kind, f"my-{kind}", parent) for kind in KINDS]
    for package in made:
        install(package, parent / "site")
    return made, parent / "site"


def test_every_registry_has_a_kind() -> None:
    assert {kind.group for kind in KINDS.values()} == set(REGISTRIES)


def test_tests_of_every_new_package_pass(packages: tuple[list[Path], Path]) -> None:
    made, site = packages
    # All in one process: a start of its own for each would take longer than the tests.
    tests = [str(path) for package in made for path in (package / "tests").glob("test_*.py")]
    assert len(tests) == len(KINDS)
    done = run("pytest", "-q", "-p", "no:cacheprovider", *tests, cwd=site, site=site)
    assert done.returncode == 0, done.stdout[-3000:]


def test_new_plugins_are_listed_with_their_packages(packages: tuple[list[Path], Path]) -> None:
    listed = run("dmpo", "plugins", "list", cwd=packages[1], site=packages[1])
    assert (listed.returncode, listed.stderr) == (0, "")
    lines = [line.split() for line in listed.stdout.splitlines()]
    for kind in KINDS:
        assert [f"my-{kind}", f"dmpo-my-{kind}", "0.1.0"] in [line[:3] for line in lines]
    assert "cannot be used" not in listed.stdout


def test_new_objective_trains_with_its_setting(packages: tuple[list[Path], Path]) -> None:
    site, output = packages[1], packages[1] / "run"
    chosen = ("--objective", "my-objective", "--objective.strength", "0.5")
    done = run("dmpo", "train", *chosen, *SHORT, "--output", str(output), cwd=site, site=site)
    assert done.returncode == 0, done.stderr
    config = (output / "config.yaml").read_text()
    assert "name: my-objective" in config
    assert "strength: 0.5" in config


@pytest.mark.parametrize("name", ["x", "my_own", "a_name_as_long_as_one_can_be_x"])
def test_new_files_are_formatted_and_pass_the_linter(name: str, tmp_path: Path) -> None:
    made = [written(kind, name, tmp_path / kind) for kind in KINDS]
    for command in (("check", "--no-cache"), ("format", "--check", "--no-cache")):
        for package in made:
            done = run("ruff", *command, ".", cwd=package)
            assert done.returncode == 0, done.stdout


def test_package_asks_for_this_version_and_names_its_entry_point(tmp_path: Path) -> None:
    package = written("weight", "by-rank", tmp_path)
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert package.name == project["name"] == "dmpo-by-rank"
    major, minor = dmpo.__version__.split(".")[:2]
    below = f"0.{int(minor) + 1}" if major == "0" else str(int(major) + 1)
    assert project["dependencies"] == [f"dmpo-dllm>={major}.{minor},<{below}"]
    target = "dmpo_by_rank.weights:ByRankWeights"
    assert project["entry-points"] == {"dmpo.weights": {"by-rank": target}}
    assert (package / "dmpo_by_rank" / "py.typed").is_file()
    assert (package / ".gitignore").is_file()


def test_name_that_ends_in_its_kind_is_not_doubled() -> None:
    assert (
        "class MyReward(RewardModel)"
        in scaffold("reward", "my_reward").files["dmpo_my_reward/reward.py"]
    )
    assert (
        "class RewardReward(RewardModel)"
        in scaffold("reward", "reward").files["dmpo_reward/reward.py"]
    )


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("sampler", "1st", "cannot be typed as a sampler's name"),
        ("sampler", "My", "small letters"),
        ("sampler", "a b", "small letters"),
        ("sampler", "../x", "small letters"),
        ("sampler", "", "small letters"),
        ("sampler", "x-", "no '_' or '-' last"),
        ("sampler", "x" * 31, "31 characters; at most 30"),
        ("sampler", "lambda", "a word of Python's own"),
        ("sampler", "roar", "sampler 'roar' is registered by dmpo-dllm"),
        ("sampler", "low-confidence", "sampler 'low_confidence' is registered"),
        ("objective", "wd1", "objective 'wd1' is a preset"),
        ("policy", "dream", r"'dream' is registered by dmpo-dream|module dmpo_dream already"),
    ],
)
def test_name_that_cannot_be_one_is_refused(kind: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scaffold(kind, name)


def test_name_of_a_module_that_exists_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dmpo_taken.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="there is a module dmpo_taken already"):
        scaffold("task", "taken")


def test_misspelt_kind_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'objective'"):
        scaffold("objectve", "mine")


@pytest.mark.parametrize("kind", ["weight", "weights", "policies", "policy"])
def test_plural_and_singular_are_understood(kind: str) -> None:
    assert scaffold(kind, "mine").kind.name in ("weights", "policy")


def test_folder_with_something_in_it_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="exists already and is not empty"):
        write_scaffold(scaffold("reward", "mine"), tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes"]


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write_scaffold(scaffold("reward", "mine"), tmp_path / "mine")
    assert (tmp_path / "mine" / "pyproject.toml").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_full_disk_leaves_nothing_behind(
    tmp_path: Path, file_size_limit: Callable[[int], None]
) -> None:
    made = scaffold("reward", "mine")
    file_size_limit(700)
    with pytest.raises(OutputError, match="cannot be written: File too large"):
        write_scaffold(made, tmp_path / "below" / "mine")
    assert list(tmp_path.rglob("*")) == []
