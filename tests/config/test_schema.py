from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from dmpo.config.schema import run_schema
from dmpo.objectives.presets import PRESETS
from dmpo.registry import REGISTRIES


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads(json.dumps(run_schema()))


def test_schema_is_a_valid_schema(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    references = set(re.findall(r'"#/\$defs/([^"]+)"', json.dumps(schema)))
    assert references
    assert references <= schema["$defs"].keys()


@pytest.mark.parametrize("group", REGISTRIES)
def test_every_plugin_is_a_choice_of_its_section(schema: dict[str, Any], group: str) -> None:
    names, *plugins = schema["$defs"][f"section.{group}"]["anyOf"]
    titles = {plugin["title"] for plugin in plugins if "title" in plugin}
    usable = set(REGISTRIES[group].names()) - REGISTRIES[group].broken().keys()
    if group == "objectives":
        usable |= PRESETS.keys()
    assert set(names["enum"]) == titles == usable


def test_parameters_carry_their_descriptions(schema: dict[str, Any]) -> None:
    plugins = schema["$defs"]["section.likelihoods"]["anyOf"][1:]
    elbo = next(plugin for plugin in plugins if plugin["title"] == "elbo")
    assert elbo["properties"]["num_views"]["description"]
    assert elbo["additionalProperties"] is False


def test_gen_length_is_filled_in_and_not_required(schema: dict[str, Any]) -> None:
    plugins = schema["$defs"]["section.samplers"]["anyOf"][1:]
    assert all("gen_length" not in plugin["required"] for plugin in plugins)
