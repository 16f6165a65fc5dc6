"""What every result file says about where it came from."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = ("dmpo-dllm", "torch", "transformers", "accelerate", "peft")


def versions() -> Mapping[str, str]:
    """Return Python's version and those of the packages that decide a figure."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in PACKAGES
    }


def provenance() -> list[str]:
    """Return command, machine, versions and date as lines of a Markdown list."""
    script = Path(sys.argv[0]).name
    command = " ".join(["python", f"benchmarks/{script}", *sys.argv[1:]])
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    return [
        f"- command: `{command}`",
        f"- machine: {platform.machine()}, {os.cpu_count()} cores, {platform.system()}, "
        f"OMP_NUM_THREADS={threads}",
        "- versions: " + ", ".join(f"{name} {number}" for name, number in versions().items()),
        f"- date: {datetime.date.today().isoformat()}",
    ]
