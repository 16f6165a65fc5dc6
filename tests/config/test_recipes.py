from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmpo.config.layers import leaf_sources, plain, stacked
from dmpo.config.recipes import (
    file_chain,
    recipe_chain,
    recipe_names,
    recipe_path,
    recipe_summaries,
)
from dmpo.errors import ConfigError, UnknownNameError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_package_carries_recipes_with_descriptions() -> None:
    assert {"sudoku", "sudoku_paper", "digit_sum", "tiny_llada"} <= set(recipe_names())
    assert all(recipe_chain(name).description for name in recipe_names())


def test_chain_puts_what_is_extended_first(tmp_path: Path) -> None:
    write(tmp_path / "low.yaml", "seed: 1\ndescription: low\n")
    chain = file_chain(write(tmp_path / "high.yaml", "extends: low.yaml\nseed: 2\n"))
    assert [plain(layer) for layer in chain.layers] == [{"seed": 1}, {"seed": 2}]
    assert chain.description == "low"


def test_file_may_extend_a_shipped_recipe_by_name(tmp_path: Path) -> None:
    chain = file_chain(write(tmp_path / "mine.yaml", "extends: sudoku_paper\nseed: 2\n"))
    sources = [set(leaf_sources(layer).values()) for layer in chain.layers]
    assert sources == [
        {"recipe sudoku"},
        {"recipe sudoku_paper"},
        {f"file {tmp_path / 'mine.yaml'}"},
    ]


def test_unknown_recipe_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"recipe: unknown name 'sudko'.*'sudoku'"):
        recipe_path("sudko")


def test_missing_recipe_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no file gone/x\.yaml"):
        recipe_path("gone/x.yaml")


def test_wrong_extends_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", "extends: sudko\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: extends: recipe: .*Did you mean 'sudoku'"):
        file_chain(path)


def test_extending_in_a_circle_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: ./a.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml → .*b\.yaml → .*a\.yaml goes in a circle"):
        file_chain(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "text", ["extends: 3\n", "extends: [a, 3]\n", "description: [a]\n", "hardware: {}\n"]
)
def test_extends_and_description_are_text(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected (text|a list of names), given"):
        file_chain(write(tmp_path / "mine.yaml", text))


def test_file_that_only_extends_changes_nothing(tmp_path: Path) -> None:
    chain = file_chain(write(tmp_path / "mine.yaml", "extends: sudoku\n"))
    assert plain(chain.layers[-1]) == {}


def test_of_several_that_are_extended_the_later_wins(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "seed: 1\ntask: sudoku\nhardware: 1 x 80 GB\n")
    write(tmp_path / "b.yaml", "seed: 2\ndescription: b\nhardware: 8 x 40 GB\n")
    chain = file_chain(write(tmp_path / "mine.yaml", "extends: [a.yaml, b.yaml]\n"))
    settings = plain(functools.reduce(stacked, chain.layers))
    assert settings == {"seed": 2, "task": {"name": "sudoku"}}
    assert (chain.description, chain.hardware) == ("b", "8 x 40 GB")


def test_what_two_stand_on_is_laid_once_below_both(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "seed: 1\n")
    write(tmp_path / "left.yaml", "extends: base.yaml\nseed: 2\n")
    write(tmp_path / "right.yaml", "extends: base.yaml\ntask: sudoku\n")
    chain = file_chain(write(tmp_path / "mine.yaml", "extends: [left.yaml, right.yaml]\n"))
    assert [sorted(plain(layer)) for layer in chain.layers] == [["seed"], ["seed"], ["task"], []]
    assert plain(functools.reduce(stacked, chain.layers))["seed"] == 2


def test_parts_are_named_with_their_folder_and_are_no_recipes(tmp_path: Path) -> None:
    assert not any("/" in name for name in recipe_names())
    chain = file_chain(write(tmp_path / "mine.yaml", "extends: [sudoku, parts/gpu_24gb]\n"))
    assert chain.hardware == "1 x 24 GB"
    assert set(leaf_sources(chain.layers[1]).values()) == {"recipe parts/gpu_24gb"}
    with pytest.raises(ConfigError, match="no file parts/gpu_23gb"):
        recipe_path("parts/gpu_23gb")


def test_every_recipe_is_summed_up_in_a_few_words() -> None:
    found = {summary.name: summary for summary in recipe_summaries()}
    assert set(found) == set(recipe_names())
    assert all(0 < len(summary.purpose) < 80 for summary in found.values())
    mixture = found["tiny_llada"]
    assert (mixture.policy, mixture.task) == ("llada", "sudoku, digit_sum, countdown")
    assert (mixture.package, mixture.hardware) == ("dmpo-dllm", "")


def test_recipe_of_a_package_that_is_not_here_says_which_that_is() -> None:
    message = r"^recipe: unknown name 'reasoning_gym_sums'; .*: plugins/dmpo-reasoning-gym in the "
    with pytest.raises(UnknownNameError, match=message):
        recipe_path("reasoning_gym_sums")
    said = str(UnknownNameError("policy", "dream", ["llada", "mdlm"]))
    wanted = "accepted: llada, mdlm. It comes with the package dmpo-dream: plugins/dmpo-dream"
    assert said == f"policy: unknown name 'dream'; {wanted} in the repository."
    said = str(UnknownNameError("recipe", "dream_gsm9k", ["dream_gsm8k", "sudoku"]))
    assert said.endswith("Did you mean 'dream_gsm8k'?")


def other_package(directory: Path, **recipes: str) -> Path:
    """Write an installed package with recipes of its own."""
    folder, facts = directory / "other/recipes", directory / "other-1.0.dist-info"
    folder.mkdir(parents=True)
    facts.mkdir()
    for module in ("other/__init__.py", "other/recipes/__init__.py"):
        write(directory / module, "")
    for name, text in recipes.items():
        write(folder / f"{name}.yaml", text)
    write(facts / "METADATA", "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    points = "other = other.recipes", "gone = nothing.recipes"
    write(facts / "entry_points.txt", "\n".join(["[dmpo.recipes]", *points, ""]))
    return directory


def recipes_beside(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``dmpo recipes`` where the package is installed."""
    return subprocess.run(
        [sys.executable, "-m", "dmpo", "recipes", *arguments],
        env=os.environ | {"PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
    )


def test_name_that_two_packages_ship_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    directory = other_package(tmp_path, sudoku_paper="seed: 1\n")
    assert recipes_beside(directory, "show", "sudoku").returncode == 0
    assert recipes_beside(directory).stdout.count("sudoku_paper") == 2
    said = recipes_beside(directory, "show", "sudoku_paper")
    assert said.returncode == 2
    assert "'sudoku_paper' is shipped by dmpo-dllm and by other" in said.stderr


def test_recipes_of_another_package_stand_beside_ours(tmp_path: Path) -> None:
    text = "extends: [sudoku, parts/gpu_24gb]\ndescription: theirs\n"
    directory = other_package(tmp_path, theirs=text)
    assert recipes_beside(directory, "show", "theirs").stdout == text
    (line,) = (x for x in recipes_beside(directory).stdout.splitlines() if x.startswith("theirs"))
    assert line.split() == ["theirs", "llada", "sudoku", "1", "x", "24", "GB", "theirs"]
