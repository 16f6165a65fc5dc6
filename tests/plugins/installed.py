"""What ``pip install -e`` leaves behind, without pip: an entry in a folder on the path.

Building a package takes hatchling from an index, which tests do without.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def install(package: Path, site: Path) -> None:
    """Make a package's modules and entry points known to who has ``site`` on the path."""
    site.mkdir(parents=True, exist_ok=True)
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    identity = f"Name: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\n{identity}")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for module in package.glob("dmpo_*"):
        (site / module.name).symlink_to(module.absolute(), target_is_directory=True)


PIP = f"""#!/bin/sh
test "$1 $2" = "install -e" && exec "{sys.executable}" "{Path(__file__)}" "$3" "$SITE"
"""
"""A ``pip`` that does no more than this."""

if __name__ == "__main__":
    install(Path(sys.argv[1].partition("[")[0]), Path(sys.argv[2]))  # an extra is asked for
