"""Where tests find data that the project itself does not carry."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
FIXTURES = SHARED / "fixtures"
DATA = SHARED / "data"

needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="the official implementations' numbers are not at hand"
)
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published data sets are not at hand")
