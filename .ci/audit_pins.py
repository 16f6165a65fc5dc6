"""Ask PyPI which of the pinned versions have known vulnerabilities (pip-audit).

Exits with 1 where some have. Where the service cannot be reached, or knows none of the packages,
nothing was audited: that is said, and is no failure, so that CI runs without a network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PINS = "constraints.txt"
SECONDS = 120
LEFT_OUT = "audit: LEFT OUT, nothing was checked: {}. Run `make audit` where PyPI can be reached.\n"
UNREACHABLE = ("connect", "timed out", "timeout", "max retries", "proxy", "resolve", "ssl")
"""Words of an error of the network, in lower case."""


def main() -> str | None:
    """Return what is to be said where there are vulnerabilities, or the pins cannot be read."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", PINS, "--disable-pip"]
    options = ["--no-deps", "--progress-spinner", "off", "--format", "json", "--timeout", "10"]
    try:
        run = subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        sys.stdout.write(LEFT_OUT.format(f"no answer in {SECONDS} seconds"))
        return None
    try:
        packages: list[dict[str, Any]] = json.loads(run.stdout)["dependencies"]
    except (ValueError, LookupError):
        reason = (run.stderr.strip().splitlines() or ["no answer"])[-1]
        if not any(word in reason.lower() for word in UNREACHABLE):
            return f"audit: {PINS} cannot be audited: {reason}"
        sys.stdout.write(LEFT_OUT.format(reason))
        return None
    return verdict(packages)


def verdict(packages: list[dict[str, Any]]) -> str | None:
    """Return the vulnerabilities in an answer of pip-audit, a line each; None if there are none.

    Args:
        packages: With ``vulns`` where the service knows the package, else a ``skip_reason``.
    """
    known = [package for package in packages if "vulns" in package]
    if not known:
        reason = packages[0]["skip_reason"] if packages else f"{PINS} is empty"
        sys.stdout.write(LEFT_OUT.format(f"the service knows no package ({reason})"))
        return None
    lines = [
        f"{package['name']} {package['version']}: {each['id']}, mended in "
        f"{', '.join(each.get('fix_versions') or ['no version yet'])}"
        for package in known
        for each in package["vulns"]
    ]
    unknown = len(packages) - len(known)
    note = f", {unknown} are not known to the service" if unknown else ""
    if not lines:
        sys.stdout.write(f"audit: {len(known)} pins without known vulnerabilities{note}\n")
        return None
    return "\n".join([f"audit: {len(lines)} known vulnerabilities in {len(known)} pins:", *lines])


if __name__ == "__main__":
    sys.exit(main())
