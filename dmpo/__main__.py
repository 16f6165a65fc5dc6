"""``python -m dmpo``: the same as the ``dmpo`` command; what launchers start."""

from __future__ import annotations

import sys

from dmpo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
