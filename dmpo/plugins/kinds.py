"""What there are plugins of, under the names that people type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmpo.errors import UnknownNameError

__all__ = ["KINDS", "Kind", "kind_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """An interface that a package can be begun for."""

    name: str
    """What users type: ``objective``."""
    group: str
    """The last part of its entry-point group."""
    summary: str
    """What the example does, in one sentence."""

    @property
    def called(self) -> str:
        """The name with its article."""
        return _CALLED.get(self.name, f"a {self.name}")

    @property
    def suffix(self) -> str:
        """How its classes' names end."""
        return self.name.capitalize()


_CALLED = {"objective": "an objective", "weights": "weights"}

_KINDS = (
    Kind(
        name="policy",
        group="policies",
        summary="A small bidirectional Llama whose tokens are characters.",
    ),
    Kind(name="sampler", group="samplers", summary="A sampler that goes from left to right."),
    Kind(name="task", group="tasks", summary="Sums of two numbers."),
    Kind(name="reward", group="rewards", summary="A reward for answers of a given length."),
    Kind(
        name="likelihood",
        group="likelihoods",
        summary="A likelihood of two parts of the answer, each given the other.",
    ),
    Kind(name="weights", group="weights", summary="Weights by the rank of a reward in its group."),
    Kind(
        name="baseline", group="baselines", summary="A quantile of a group's weights as baseline."
    ),
    Kind(
        name="objective",
        group="objectives",
        summary="Weighted cross-entropy that also holds on to what the policy does already.",
    ),
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _KINDS}
"""Kinds by the name that ``dmpo plugins new`` takes."""

_ALSO = {"weight": "weights", **{kind.group: kind.name for kind in _KINDS}}
"""Other names that are understood."""


def kind_of(given: str) -> Kind:
    """Return an interface by its name; the plural is understood, too.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    found = _ALSO.get(given, given)
    if found not in KINDS:
        raise UnknownNameError("kind", given, KINDS)
    return KINDS[found]
