"""Files that run code where somebody is careless; whoever ran them is found out."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any


class _Touch:
    """Whose pickle makes a file when it is read."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._canary,)


def trapped_pickle(canary: Path) -> bytes:
    """Return a pickle that makes the file ``canary`` where it is loaded."""
    return pickle.dumps({"weight": _Touch(canary)})


def trapped_module(canary: Path) -> str:
    """Return Python that makes the file ``canary`` where it is imported."""
    names = "Config = Model = Tokenizer = object"
    return f"from pathlib import Path\nPath({str(canary)!r}).touch()\n{names}\n"
