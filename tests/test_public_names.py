from __future__ import annotations

import pytest

import dmpo


@pytest.mark.parametrize("name", dmpo.__all__)
def test_public_name_can_be_imported(name: str) -> None:
    assert getattr(dmpo, name) is not None


def test_public_names_are_what_dir_shows() -> None:
    assert dir(dmpo) == sorted(dmpo.__all__)


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dmpo.nothing  # noqa: B018
