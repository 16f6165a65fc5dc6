from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmpo.config.yaml_text import read_yaml_file, yaml_text, yaml_value, yaml_with_comments
from dmpo.errors import ConfigError

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8)
    | st.sampled_from(["1e-3", "off", "yes", "true", "null", "~", "12:30", "010", "", "a: b", "#"])
)
KEYS = st.text("abcxyz_-0", min_size=1, max_size=5)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("off", "off"), ("12:30", "12:30"), ("010", 10), ("true", True)],
)
def test_yaml_value_reads_the_core_schema(text: str, value: Any) -> None:
    assert yaml_value(text, "here") == value


@given(TREES)
def test_yaml_text_reads_back_unchanged(values: dict[str, Any]) -> None:
    assert yaml_value(yaml_text(values), "here") == values


@given(TREES)
def test_yaml_with_comments_reads_back_unchanged(values: dict[str, Any]) -> None:
    comments = dict.fromkeys(values, "where it came from")
    read = yaml_value(yaml_with_comments(values, comments), "here")
    assert (read or {}) == values


def test_yaml_with_comments_comments_leaves_by_dotted_path() -> None:
    text = yaml_with_comments({"a": [{"b": 1}]}, {"a.0.b": "file x"})
    assert "b: 1  # file x" in text


def test_repeated_key_is_an_error_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"^here: line 3: key 'a' is given twice"):
        yaml_value("a: 1\nb: 2\na: 3\n", "here")


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\x00", "1: x", "a: &x\n  - *y", "!!python/x"])
def test_bad_yaml_is_an_error_of_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^here: ") as caught:
        yaml_value(text, "here")
    assert "\n" not in str(caught.value)


def test_file_without_a_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="found a list"):
        read_yaml_file(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file"):
        read_yaml_file(tmp_path / "gone.yaml")
