from __future__ import annotations

import pytest

from dmpo.config.describe import describe_plugin
from dmpo.registry import LIKELIHOODS, OBJECTIVES, POLICIES, REGISTRIES, SAMPLERS


def test_description_names_type_default_and_meaning() -> None:
    text = describe_plugin(LIKELIHOODS, "elbo")
    assert "likelihood elbo (dmpo-dllm" in text
    assert "num_views: int (> 0); default 4\n      R, random subsets" in text
    assert "estimator: exact | reference; default exact" in text


def test_description_goes_into_nested_settings() -> None:
    text = describe_plugin(POLICIES, "llada")
    assert "lora: mapping | null; default null" in text
    assert "lora.rank: int (> 0); default 128" in text


def test_description_marks_what_is_required() -> None:
    assert "gen_length: int (> 0, ≤ 1000000); required" in describe_plugin(SAMPLERS, "roar")


def test_description_of_an_objective_shows_its_default_parts() -> None:
    described = describe_plugin(OBJECTIVES, "dmpo")
    assert "default weights: {'name': 'tilted', 'alpha': 0.02" in described


@pytest.mark.parametrize("group", REGISTRIES)
def test_every_plugin_can_be_described(group: str) -> None:
    registry = REGISTRIES[group]
    assert all(describe_plugin(registry, name) for name in registry.names())
