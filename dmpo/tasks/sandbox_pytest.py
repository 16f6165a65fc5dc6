"""What the sandbox gives to tests that import pytest: the little of it that test texts use.

Its text is run inside the sandbox as a module of that name; nothing here imports it.
"""

# ruff: noqa: N801 - the names are pytest's

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def fail(reason: str = "", *_: object, **__: object) -> None:
    """Fail the test."""
    raise AssertionError(reason)


def fixture(function: Any = None, **_: object) -> Any:
    """Mark what a test asks for by the name of a parameter."""
    if function is None:
        return fixture
    function.__testfixture__ = True
    return function


class Marks:
    """``pytest.mark``: parametrize is honoured, every other mark changes nothing."""

    def __getattr__(self, name: str) -> Any:
        """Return a mark."""
        return self._parametrize if name == "parametrize" else self._ignored

    @staticmethod
    def _parametrize(names: Any, rows: Iterable[Any], **_: object) -> Callable[[Any], Any]:
        keys = (
            [each.strip() for each in names.split(",")] if isinstance(names, str) else list(names)
        )

        def mark(function: Any) -> Any:
            cases = [dict(zip(keys, row if len(keys) > 1 else (row,), strict=True)) for row in rows]
            before = getattr(function, "__test_cases__", None) or [{}]
            function.__test_cases__ = [{**old, **new} for old in before for new in cases]
            return function

        return mark

    @staticmethod
    def _ignored(*arguments: Any, **options: Any) -> Any:
        if len(arguments) == 1 and callable(arguments[0]) and not options:
            return arguments[0]
        return lambda function: function


class raises:
    """``with raises(ValueError, match="…")``; or ``raises(ValueError, function, *arguments)``."""

    def __init__(self, expected: Any, *call: Any, match: Any = None, **options: Any) -> None:
        """Keep what is expected; run the function if there is one."""
        self.expected = expected
        self.match = match
        self.value: BaseException | None = None
        if call:
            with self:
                call[0](*call[1:], **options)

    def __enter__(self) -> raises:
        """Wait for the error."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> bool:
        """Swallow the error that was expected."""
        if kind is None:
            raise AssertionError("did not raise")
        if not issubclass(kind, self.expected):
            return False
        self.value = error
        if self.match is not None:
            import re

            if not re.search(self.match, str(error)):
                raise AssertionError("raised with another message")
        return True


class approx:
    """``approx``: numbers within 1e-6 of the expected one's size, or 1e-12; and lists of them."""

    def __init__(self, expected: Any, rel: Any = None, abs: Any = None, **_: object) -> None:  # noqa: A002
        """Keep what is expected and how close."""
        self.expected = expected
        self.relative = rel
        self.absolute = abs

    def __eq__(self, actual: object) -> bool:
        """Return whether every number is close."""
        return self._close(actual, self.expected)

    __hash__ = None  # type: ignore[assignment]

    def _close(self, actual: Any, expected: Any) -> bool:
        if isinstance(expected, dict):
            if not isinstance(actual, dict) or actual.keys() != expected.keys():
                return False
            return all(self._close(actual[key], expected[key]) for key in expected)
        if isinstance(expected, list | tuple):
            if not isinstance(actual, list | tuple) or len(actual) != len(expected):
                return False
            return all(self._close(a, e) for a, e in zip(actual, expected, strict=True))
        if actual == expected:
            return True
        if not isinstance(actual, int | float | complex):
            return False
        relative = 1e-6 if self.relative is None else self.relative
        if self.relative is None and self.absolute is not None:
            relative = 0.0
        absolute = 1e-12 if self.absolute is None else self.absolute
        return bool(abs(actual - expected) <= max(relative * abs(expected), absolute))


mark = Marks()
