"""Build hooks of the documentation: generated parts for their markers, pictures of benchmarks."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_ROOT = Path(__file__).resolve().parents[1]
_MARKER = re.compile(r"<!-- generated: (\w+) -->")
_FILE = re.compile(r"<!-- file: ([\w.]+) -->")
_MEASURED = re.compile(r"<!-- results: (\w+), (.+?) -->")


def _generated() -> Any:
    spec = importlib.util.spec_from_file_location(
        "dmpo_docs_generated", Path(__file__).with_name("generated.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_files(files: Any, *, config: Any) -> Any:
    """Put the pictures of benchmarks into the site as ``images/results/NAME.svg``."""
    for picture in sorted(_generated().RESULTS.glob("*.svg")):
        name = f"images/results/{picture.name}"
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace markers: ``<!-- generated: NAME -->`` by what NAME's generator says.

    ``<!-- results: NAME, SECTION -->`` by that section of a page of the benchmarks, and
    ``<!-- file: NAME -->`` by a page that lies at the top of the repository.
    """
    markdown = _FILE.sub(lambda match: (_ROOT / match[1]).read_text("utf-8"), markdown)
    if not (_MARKER.search(markdown) or _MEASURED.search(markdown)):
        return markdown
    generated = _generated()
    markdown = _MEASURED.sub(lambda match: generated.results_markdown(*match.groups()), markdown)
    return _MARKER.sub(lambda match: generated.GENERATORS[match[1]](), markdown)
