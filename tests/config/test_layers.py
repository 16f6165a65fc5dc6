from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.config.layers import assigned, leaf_sources, merged, plain, sourced, stacked
from dmpo.errors import ConfigError

PARTS = st.dictionaries(st.sampled_from("xyz"), st.integers(), max_size=2)
VALUES = st.fixed_dictionaries(
    {}, optional={"a": st.integers(), "b": st.none() | st.integers(), "c": PARTS, "d": PARTS}
)


def over(lower: dict[str, Any], upper: dict[str, Any]) -> Any:
    return plain(stacked(sourced(lower, "low"), sourced(upper, "high")))


@given(VALUES)
def test_plain_undoes_sourced(values: dict[str, Any]) -> None:
    assert plain(sourced(values, "s")) == values


@given(VALUES, VALUES)
def test_upper_layer_wins_leaf_by_leaf(lower: dict[str, Any], upper: dict[str, Any]) -> None:
    tree = stacked(sourced(lower, "low"), sourced(upper, "high"))
    high = leaf_sources(sourced(upper, "high"))
    sources = leaf_sources(tree)
    assert all(sources[path] == "high" for path in high if path)
    assert plain(stacked(tree, sourced(upper, "high"))) == plain(tree)


def test_parts_of_a_plain_value_cannot_be_set() -> None:
    with pytest.raises(ConfigError, match=r"a\.x: a has no parts, it is 3 \(from low\)"):
        over({"a": 3}, {"a": {"x": 1}})
    assert over({"a": None}, {"a": {"x": 1}}) == {"a": {"x": 1}}


def test_list_over_a_section_replaces_it() -> None:
    assert over({"task": "sudoku"}, {"task": [1]}) == {"task": [1]}


def test_shorthand_is_a_section_with_a_name() -> None:
    assert plain(sourced({"rewards": {"name": "task"}}, "s")) == {"rewards": [{"name": "task"}]}
    assert plain(sourced({"baseline": "model"}, "s")) == {"baseline": {"name": "model"}}
    assert plain(sourced({"rewards": "task"}, "s")) == {"rewards": [{"name": "task"}]}
    assert plain(sourced({"policy": {"model": "x"}}, "s")) == {"policy": {"model": "x"}}


def test_same_name_keeps_the_lower_layers_keys() -> None:
    low = {"sampler": {"name": "roar", "temperature": 0.5}}
    assert over(low, {"sampler": "roar"}) == low


def test_other_name_drops_the_lower_layers_keys() -> None:
    low = {"evaluation": {"sampler": {"name": "roar", "temperature": 0.5}, "num_examples": 8}}
    assert over(low, {"evaluation": {"sampler": "random"}}) == {
        "evaluation": {"sampler": {"name": "random"}, "num_examples": 8}
    }


def test_other_objective_drops_the_parts_of_lower_layers_alone() -> None:
    low = {
        "objective": "dmpo",
        "likelihood": {"name": "elbo", "num_views": 4},
        "ratio_likelihood": "path",
        "weights": "tilted",
        "baseline": "model",
        "seed": 3,
    }
    high = {"objective": "diffu_grpo", "baseline": "none"}
    assert over(low, high) == {
        "objective": {"name": "diffu_grpo"},
        "baseline": {"name": "none"},
        "seed": 3,
    }


def test_same_objective_drops_nothing() -> None:
    low = {"objective": {"name": "dmpo"}, "weights": {"name": "tilted", "alpha": 0.1}}
    assert over(low, {"objective": "dmpo"}) == low


def test_other_task_drops_the_lengths_of_lower_layers_alone() -> None:
    low = {
        "task": "sudoku",
        "sampler": {"name": "roar", "gen_length": 16, "block_length": 16, "temperature": 0.5},
    }
    high = {"task": "countdown", "sampler": {"block_length": 8}}
    assert over(low, high) == {
        "task": {"name": "countdown"},
        "sampler": {"name": "roar", "temperature": 0.5, "block_length": 8},
    }


def test_run_shorter_than_its_warmup_has_none() -> None:
    low = {"training": {"num_steps": 100, "warmup_steps": 5}}
    assert over(low, {"training": {"num_steps": 4}}) == {"training": {"num_steps": 4}}
    assert over(low, {"training": {"num_steps": 5}})["training"]["warmup_steps"] == 5
    high = {"training": {"num_steps": 4, "warmup_steps": 9}}
    assert over(low, high) == high


def test_setting_takes_the_place_of_what_it_excludes() -> None:
    low = {"weights": {"name": "tilted", "alpha": 0, "eta": 10}}
    assert over(low, {"weights": {"alpha": 0.1}})["weights"] == {"name": "tilted", "alpha": 0.1}
    assert over(low, {"weights": {"alpha": 0}}) == low
    model = {"policy": {"scratch": {"d_model": 16}}}
    assert over(model, {"policy": {"model": "x"}}) == {"policy": {"model": "x"}}


def test_list_is_replaced_as_a_whole() -> None:
    assert over({"rewards": ["a", "b"]}, {"rewards": ["c"]}) == {"rewards": [{"name": "c"}]}


def test_number_in_a_path_names_an_element() -> None:
    low = sourced({"rewards": [{"name": "a", "weight": 1}, "b"]}, "low")
    tree = stacked(low, assigned("rewards.0.weight", 2, "--set"))
    assert plain(tree) == {"rewards": [{"name": "a", "weight": 2}, {"name": "b"}]}
    assert leaf_sources(tree)["rewards.0.weight"] == "--set"


def test_number_after_the_last_element_appends() -> None:
    tree = stacked(sourced({"rewards": ["a"]}, "low"), assigned("rewards.1", "b", "--set"))
    assert plain(tree) == {"rewards": [{"name": "a"}, {"name": "b"}]}


@pytest.mark.parametrize("path", ["rewards.3.weight", "rewards.x"])
def test_element_that_does_not_exist_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"{path.rpartition('.weight')[0] or path}: not an el"):
        stacked(sourced({"rewards": ["a"]}, "low"), assigned(path, 1, "--set"))


def test_changed_element_name_drops_its_other_keys() -> None:
    low = sourced({"rewards": [{"name": "a", "x": 1}]}, "low")
    assert plain(stacked(low, assigned("rewards.0", "b", "--set"))) == {"rewards": [{"name": "b"}]}


def test_changes_of_elements_apply_to_a_list_given_beside_them() -> None:
    change = assigned("rewards.0.weight", 2, "--set")
    tree = merged(change, sourced({"rewards": ["a"]}, "--reward"))
    assert plain(tree) == {"rewards": [{"name": "a", "weight": 2}]}


@pytest.mark.parametrize("path", ["", ".a", "a..b", "a."])
def test_malformed_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="dotted path"):
        assigned(path, 1, "--set")
