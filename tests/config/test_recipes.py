from __future__ import annotations

from pathlib import Path

import pytest

from dmpo.config.layers import leaf_sources, plain
from dmpo.config.recipes import file_chain, recipe_chain, recipe_names, recipe_path
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


@pytest.mark.parametrize("text", ["extends: 3\n", "description: [a]\n"])
def test_extends_and_description_are_text(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="expected text"):
        file_chain(write(tmp_path / "mine.yaml", text))


def test_file_that_only_extends_changes_nothing(tmp_path: Path) -> None:
    chain = file_chain(write(tmp_path / "mine.yaml", "extends: sudoku\n"))
    assert plain(chain.layers[-1]) == {}
