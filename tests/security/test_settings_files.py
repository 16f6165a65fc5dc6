"""Recipes and settings are data: whatever stands in them, reading them runs nothing and ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmpo.config.comparison import read_comparison
from dmpo.config.recipes import file_chain, recipe_names, recipe_path
from dmpo.config.yaml_text import read_yaml_file
from dmpo.errors import ConfigError

TAGS = [
    "!!python/object/apply:os.system ['touch {canary}']",
    "!!python/object/new:os.system ['touch {canary}']",
    "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{canary}']]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:dmpo.config.run.RunConfig {{}}",
    "!!python/tuple [1, 2]",
    "!custom 1",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("read", [read_yaml_file, file_chain, read_comparison])
def test_tags_of_python_are_refused_in_one_line(tmp_path: Path, tag: str, read: object) -> None:
    canary, path = tmp_path / "canary", tmp_path / "recipe.yaml"
    path.write_text(f"seed: 1\ndescription: {tag.format(canary=canary)}\n")
    with pytest.raises(ConfigError, match="line 2: not YAML: could not determine") as caught:
        read(path)  # type: ignore[operator]
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not canary.exists()


def laughs(first: str, again: str, *, levels: int = 12) -> str:
    """Return a short document of which each line stands for ten of the one before."""
    tens = (", ".join([f"*a{n - 1}"] * 10) for n in range(1, levels))
    return "\n".join(
        [first, *(f"a{n}: &a{n} {again.format(ten)}" for n, ten in enumerate(tens, 1))]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs("a0: &a0 [ha]", "[{}]"), "more than 32 levels or 100,000 values"),
        (laughs("a0: &a0 [ha]", "[{}]", levels=40), "more than 32 levels or 100,000 values"),
        (laughs(f"a0: &a0 [{'ha' * 5000}]", "[{}]", levels=5), "more than 10,000,000 characters"),
        (laughs("a0: &a0 {k: v}", "{{!!merge <<: [{}]}}"), "not YAML: could not determine"),
        ("a: &a {b: *a}", "more than 32 levels"),
        ("[" * 50_000, "more than 32 levels"),
    ],
)
def test_documents_that_stand_for_billions_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml_file(path)
    assert "\n" not in str(caught.value)


def test_merge_keys_merge_nothing(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("a: &a {b: 1}\nc: {<<: *a}\n")
    assert read_yaml_file(path) == {"a": {"b": 1}, "c": {"<<": {"b": 1}}}


@pytest.mark.parametrize("name", ["../recipes/sudoku", "../../pyproject.toml", "../assets/x.yaml"])
def test_name_of_a_recipe_cannot_leave_the_folder_of_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)  # what has a slash is a path of the user's, from here
    with pytest.raises(ConfigError, match=f"recipe: no file {name}; shipped: "):
        recipe_path(name)


@pytest.mark.parametrize("name", ["..", ".", "", "sudoku\x00", "sudoku.yaml/.."])
def test_what_is_no_name_of_a_recipe_is_refused(name: str) -> None:
    assert name not in recipe_names()
    with pytest.raises(ConfigError):
        recipe_path(name)
