"""Shapes in the types are checked at run time while tests run."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

install_import_hook("dmpo", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)

settings.register_profile(
    "dmpo", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("dmpo")


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """Let no file grow beyond some bytes from now on: what writing to a full disk looks like.

    The limit is taken back after the test. (Python ignores the signal that comes with it.)
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
