"""A typed, tidy door to reasoning-gym: data sets without side effects on the process."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from reasoning_gym.composite import DatasetSpec  # type: ignore[import-untyped]
from reasoning_gym.factory import DATASETS, create_dataset  # type: ignore[import-untyped]

__all__ = ["HASH_DEPENDENT", "Dataset", "build_dataset", "dataset_names", "undisturbed"]

HASH_DEPENDENT = frozenset(
    {
        "isomorphic_strings",
        "knight_swap",
        "polynomial_multiplication",
        "ransom_note",
        "word_ladder",
    }
)
"""Data sets that iterate over sets: their items depend on PYTHONHASHSEED."""


class Dataset(Protocol):
    """What this package uses of reasoning-gym's ``ProceduralDataset``."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the item of an index: ``question``, ``answer``, ``metadata``."""

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """Return the score of an answer."""


def dataset_names() -> tuple[str, ...]:
    """Return the names of all data sets of the installed library, sorted."""
    return tuple(sorted(DATASETS))


def build_dataset(name: str, params: Mapping[str, Any], *, seed: int, size: int) -> Dataset:
    """Build a data set.

    Args:
        name: One of :func:`dataset_names`.
        params: Fields of the data set's config; ``datasets`` of ``composite`` as mappings.
        seed: The library's seed: the item of index i is drawn from seed + i.
        size: The library's size: indices are below it.

    Returns:
        The data set.
    """
    given = dict(params)
    if name == "composite":
        specs = given.get("datasets") or []
        given["datasets"] = [DatasetSpec(**{"weight": 1.0, "config": {}} | spec) for spec in specs]
    with undisturbed(seed):
        dataset: Dataset = create_dataset(name, seed=seed, size=size, **given)
    return dataset


@contextlib.contextmanager
def undisturbed(seed: int) -> Iterator[None]:
    """Run library code with its own global random streams, and without its prints.

    Some data sets draw from the global streams of ``random`` and numpy, and one prints while
    it compiles. Inside, the streams are seeded; afterwards they are as they were.
    """
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
