"""Search the repository's files for secrets: passwords, tokens, keys (detect-secrets, offline).

``.secrets.baseline`` holds the settings and what was looked at and is no secret. After a false
alarm: ``.venv/bin/detect-secrets scan --baseline .secrets.baseline``, and look at what it adds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from detect_secrets import SecretsCollection
from detect_secrets.core import baseline
from detect_secrets.settings import transient_settings

BASELINE = ".secrets.baseline"


def main() -> str | None:
    """Return what is to be said where there are secrets that the baseline does not list."""
    known = json.loads(Path(BASELINE).read_text(encoding="utf-8"))
    # Files that are not committed yet are those that a secret can still be kept out of.
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    files = [name for name in listed if name != BASELINE and Path(name).is_file()]
    with transient_settings(known):
        found = SecretsCollection()
        found.scan_files(*files, num_processors=min(2, os.cpu_count() or 1))
        new = found - baseline.load(known)
    lines = [f"{name}, line {each.line_number}: {each.type}" for name, each in new]
    if not lines:
        sys.stdout.write(f"secrets: none in {len(files)} files\n")
        return None
    return "\n".join(["secrets: these look like secrets and are not in the baseline:", *lines])


if __name__ == "__main__":
    sys.exit(main())
