"""What CI's own scripts say: an audit that checked nothing is not one that found nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CI = Path(__file__).resolve().parents[1] / ".ci"
FINE = {"name": "fine", "version": "1", "vulns": []}
UNKNOWN = {"name": "unknown", "skip_reason": "not found on PyPI"}
WEAK = {
    "name": "weak",
    "version": "2",
    "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}, {"id": "CVE-2", "fix_versions": []}],
}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_pins", CI / "audit_pins.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_vulnerabilities_are_named_with_what_mends_them(audit: ModuleType) -> None:
    assert audit.verdict([FINE, WEAK, UNKNOWN]) == (
        "audit: 2 known vulnerabilities in 2 pins:\n"
        "weak 2: CVE-1, mended in 3\n"
        "weak 2: CVE-2, mended in no version yet"
    )


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ([FINE, UNKNOWN], "1 pins without known vulnerabilities, 1 are not known to the service"),
        ([UNKNOWN, UNKNOWN], "LEFT OUT, nothing was checked: the service knows no package"),
        ([], "LEFT OUT, nothing was checked"),
    ],
)
def test_what_was_not_checked_is_said(
    audit: ModuleType,
    capsys: pytest.CaptureFixture[str],
    packages: list[dict[str, Any]],
    said: str,
) -> None:
    assert audit.verdict(packages) is None
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "is_left_out"),
    [
        ("ERROR: Could not connect to PyPI's vulnerability feed", True),
        ("ERROR: invalid requirements input: constraints.txt", False),
    ],
)
def test_network_that_is_not_there_is_no_failure_and_anything_else_is(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, error: str, is_left_out: bool
) -> None:
    broken = audit.subprocess.CompletedProcess([], 1, stdout="", stderr=error)
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: broken)
    assert (audit.main() is None) == is_left_out
