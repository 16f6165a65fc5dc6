"""One HTML file with everything in it: text, tables, and charts that need no network.

Tables and text are plain HTML; charts are drawn by a short script, as SVG, from the numbers
beside them.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from dmpo.reporting.charts import Chart, chart_record
from dmpo.reporting.visible import visible

__all__ = [
    "chart_section",
    "data_script",
    "html_text",
    "notes_section",
    "page",
    "section",
    "table",
    "table_section",
]


def page(
    title: str,
    lead: str,
    sections: Sequence[str],
    *,
    links: Mapping[str, str] | None = None,
    parts: Sequence[str] = (),
) -> str:
    """Return a whole HTML document.

    Args:
        title: Its heading, plain text.
        lead: A paragraph below it, plain text; may be empty.
        sections: HTML, from the functions below.
        links: Names in words of sections that have an id, by the id.
        parts: Assets beside the page's own: ``report`` adds report.css and report.js.
    """
    paragraph = f'<p class="lead">{html_text(lead)}</p>' if lead else ""
    items = [f'<a href="#{name}">{html_text(text)}</a>' for name, text in (links or {}).items()]
    return Template(_asset("page.html")).substitute(
        title=html_text(title),
        lead=paragraph,
        links=f'<nav aria-label="sections">{"".join(items)}</nav>' if items else "",
        sections="\n".join(sections),
        style="".join(_asset(f"{name}.css") for name in ("page", *parts)),
        script="".join(_asset(f"{name}.js") for name in ("page", *parts)),
    )


def html_text(text: str) -> str:
    """Return plain text, whoever wrote it, as HTML that shows it and does nothing else."""
    return html.escape(visible(text))


def data_script(record: Mapping[str, Any]) -> str:
    """Return JSON values as an element that a page's script reads.

    Texts in them are shown by the script as text; whoever puts some in that may hold control codes
    makes them :func:`dmpo.reporting.visible.visible` first.
    """
    # Inside a script only `</` could end it, and `<!--` change how it is read.
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def section(heading: str, body: str, *, note: str = "", name: str = "") -> str:
    """Return a part of the page.

    Args:
        heading: Plain text.
        body: HTML.
        note: A line below, plain text; may be empty.
        name: Its id, which links lead to; may be empty.
    """
    target = f' id="{name}"' if name else ""
    below = f'<p class="note">{html_text(note)}</p>' if note else ""
    return f"<section{target}><h2>{html_text(heading)}</h2>\n{body}{below}</section>"


def chart_section(heading: str, chart: Chart, note: str = "", *, name: str = "") -> str:
    """Return charts with their controls, legend and a line of explanation."""
    body = (
        f'<div class="charts">\n{data_script(chart_record(chart))}\n'
        "<noscript><p>Curves are drawn by a script; the tables below need none.</p></noscript>\n"
        "</div>"
    )
    return section(heading, body, note=note, name=name)


def table_section(
    heading: str,
    headings: Sequence[str],
    rows: Sequence[tuple[str, list[str]]],
    note: str = "",
    *,
    is_numeric: bool = True,
) -> str:
    """Return a table with a heading; see :func:`table`."""
    body = table(heading, headings, rows, is_numeric=is_numeric)
    return section(heading, body, note=note)


def table(
    label: str,
    headings: Sequence[str],
    rows: Sequence[tuple[str, list[str]]],
    *,
    is_numeric: bool = True,
) -> str:
    """Return a table that scrolls sideways where the screen is narrow.

    Args:
        label: What it is called where it is read aloud, plain text.
        headings: Of all columns, the first one too.
        rows: The first column's text, and the other cells; plain text.
        is_numeric: Whether cells are numbers, which are set to the right.
    """
    head = "".join(f'<th scope="col">{html_text(text)}</th>' for text in headings)
    body = "\n".join(
        f'<tr><th scope="row">{_breakable(first)}</th>'
        + "".join(f"<td>{html_text(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html_text(label)}">'
        f'<table class="{"numbers" if is_numeric else "words"}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _breakable(text: str) -> str:
    """Return text that may go on in a new line behind a dot or an underscore: names of settings."""
    return re.sub(r"([._])(?=\w)", r"\1<wbr>", html_text(text))


def notes_section(heading: str, notes: Sequence[str], *, name: str = "") -> str:
    """Return a list of remarks; nothing if there are none."""
    if not notes:
        return ""
    items = "".join(f"<li>{html_text(note)}</li>" for note in notes)
    return section(heading, f'<ul class="notes">{items}</ul>', name=name)


def _asset(name: str) -> str:
    return (resources.files("dmpo.reporting") / "assets" / name).read_text(encoding="utf-8")
