"""Build hooks of the documentation: puts generated parts in place of their markers."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

_MARKER = re.compile(r"<!-- generated: (\w+) -->")


def _generators() -> Any:
    spec = importlib.util.spec_from_file_location(
        "dmpo_docs_generated", Path(__file__).with_name("generated.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.GENERATORS


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each ``<!-- generated: NAME -->`` by what NAME's generator says."""
    if not _MARKER.search(markdown):
        return markdown
    generators = _generators()
    return _MARKER.sub(lambda match: generators[match[1]](), markdown)
