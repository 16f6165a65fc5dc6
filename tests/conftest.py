"""Shapes in the types are checked at run time while tests run."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

install_import_hook("dmpo", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)

settings.register_profile(
    "dmpo", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("dmpo")
