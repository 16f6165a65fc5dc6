from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from dmpo.settings import Settings, first_validation_message


class Inner(Settings):
    rate: float = Field(0.5, gt=0)


class Outer(Settings):
    count: int = 1
    flag: bool = False
    kind: Literal["mean", "model"] | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    inner: Inner | None = None

    @model_validator(mode="after")
    def _check(self) -> Outer:
        if self.count > 10 and self.flag:
            raise ValueError(f"count {self.count} is too much with flag.")
        return self


def message(values: dict[str, Any], owner: str = "") -> str:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return first_validation_message(caught.value, Outer, prefix="part", owner=owner)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"count": "x"}, "part.count: must be a whole number; given 'x'."),
        ({"count": 1.5}, "part.count: must be a whole number; given 1.5."),
        ({"count": True}, "part.count: must not be true or false; given true."),
        ({"count": None}, "part.count: must be a whole number; given null."),
        ({"count": {"a": 1}}, "part.count: must be a whole number; given {'a': 1}."),
        ({"kind": "maen"}, "part.kind: must be 'mean' or 'model'; given 'maen'. Did you mean"),
        ({"pair": 3}, "part.pair: must be a list; given 3."),
        ({"pair": [1.0]}, "part.pair.1: required and not given."),
        ({"pair": [0.0, float("nan")]}, "part.pair.1: must be a finite number; given nan."),
        ({"inner": 3}, "part.inner: must be `key: value` pairs; given 3."),
        ({"inner": {"rate": 0}}, "part.inner.rate: must be greater than 0; given 0."),
        ({"inner": {"rate": "inf"}}, "part.inner.rate: must be a finite number; given 'inf'."),
        ({"inner": {"rat": 1}}, "part.inner.rat: unknown key; accepted: rate. Did you mean"),
        ({"": 1}, "part.'': unknown key; accepted: count, flag, inner, kind, pair."),
        ({"count": 11, "flag": True}, "part: count 11 is too much with flag."),
        ({"count": "x" * 200}, f"part.count: must be a whole number; given '{'x' * 78}…."),
    ],
)
def test_message_names_field_and_what_was_given(values: dict[str, Any], text: str) -> None:
    assert message(values).startswith(text)


def test_message_names_whose_key_is_unknown() -> None:
    assert message({"x": 1}, "task 'a'").startswith("part.x: unknown key of task 'a'; accepted:")
    assert "of task" not in message({"inner": {"x": 1}}, "task 'a'")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Outer().count = 3  # type: ignore[misc]
