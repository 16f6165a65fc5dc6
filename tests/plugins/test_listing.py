from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmpo import registry
from dmpo.errors import UnknownNameError
from dmpo.objectives.presets import PRESETS
from dmpo.plugins.listing import listed_plugins, listing_json, listing_text
from dmpo.registry import REGISTRIES, SAMPLERS


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a sampler that cannot be imported, one that is none, and a name that is taken."""
    points = "bad = broken:Sampler\nno = broken_not:THING\nroar = broken_not:THING\n"
    package = tmp_path / "broken-1.2.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.2\n")
    (package / "entry_points.txt").write_text(f"[dmpo.samplers]\n{points}")
    (tmp_path / "broken.py").write_text("raise RuntimeError('two\\nlines')\n")
    (tmp_path / "broken_not.py").write_text("THING = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._claims.cache_clear()
    yield
    registry._claims.cache_clear()


def test_every_name_is_listed_with_its_package_and_what_it_is() -> None:
    listing = listed_plugins()
    found = {(each.kind, each.name): each for each in listing.plugins}
    assert len(found) == sum(len(each.names()) for each in REGISTRIES.values()) + len(PRESETS)
    roar = found["sampler", "roar"]
    assert (roar.package, roar.version) == ("dmpo-dllm", "0.1.0")
    assert roar.target == "dmpo.samplers.roar:RoarSampler"
    assert roar.summary == "Draws tokens in random order within each block."
    assert found["preset", "wd1"].target == "dmpo"
    assert listing.failed == ()


def test_one_kind_is_listed_alone() -> None:
    assert {each.kind for each in listed_plugins("samplers").plugins} == {"sampler"}
    assert [each.name for each in listed_plugins("sampler").plugins] == list(SAMPLERS.names())
    with pytest.raises(UnknownNameError, match="Did you mean 'weights'"):
        listed_plugins("wieghts")


@pytest.mark.usefixtures("broken")
def test_what_cannot_be_used_is_told_below_with_the_reason() -> None:
    lines = listing_text(listed_plugins("sampler"), width=None)
    start = lines.index("cannot be used")
    assert lines[start + 1 :] == [
        "  BROKEN sampler bad (broken 1.2): cannot be imported from broken:Sampler: "
        "RuntimeError: two lines",
        "  BROKEN sampler no (broken 1.2): broken_not:THING does not derive from "
        "dmpo.samplers.base.Sampler.",
        next(line for line in lines if line.startswith("  BROKEN sampler roar ")),
    ]
    assert "is registered by " in lines[-1]
    assert "dmpo-dllm 0.1.0 (dmpo.samplers.roar:RoarSampler)" in lines[-1]
    assert "broken 1.2 (broken_not:THING)" in lines[-1]


def test_lines_are_aligned_and_nothing_is_cut_where_nobody_watches() -> None:
    lines = listing_text(listed_plugins("objective"), width=None)
    rows = [line for line in lines if line.startswith("  ")]
    assert len({line.index(" dmpo-dllm 0.1.0 ") for line in rows}) == 1
    assert any(line.endswith(PRESETS["agrpo"].summary) for line in rows)


@pytest.mark.parametrize("width", [60, 100])
def test_summaries_are_wrapped_to_a_terminal(width: int) -> None:
    listing = listed_plugins("objective")
    lines = listing_text(listing, width=width)
    assert all(len(line) <= max(width, 50 + 24) for line in lines)
    whole = " ".join(" ".join(lines).split())
    assert all(name in whole for name in PRESETS)
    assert " ".join(PRESETS["gdpo"].summary.split()[-3:]) in whole


@pytest.mark.usefixtures("broken")
def test_json_holds_the_same() -> None:
    listing = listed_plugins("sampler")
    read = json.loads(listing_json(listing))
    assert [each["name"] for each in read["plugins"]] == [each.name for each in listing.plugins]
    assert [each["name"] for each in read["failed"]] == ["bad", "no", "roar"]
    assert set(read["plugins"][0]) == {"kind", "name", "package", "version", "target", "summary"}
