"""One HTML file with everything in it: text, tables, and charts that need no network.

Tables and text are plain HTML; charts are drawn by a short script, as SVG, from the numbers
beside them.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib import resources
from string import Template

from dmpo.reporting.charts import Chart, chart_record

__all__ = ["chart_section", "notes_section", "page", "table_section"]


def page(title: str, lead: str, sections: Sequence[str]) -> str:
    """Return a whole HTML document.

    Args:
        title: Its heading, plain text.
        lead: A paragraph below it, plain text; may be empty.
        sections: HTML, from the functions below.
    """
    paragraph = f'<p class="lead">{html.escape(lead)}</p>' if lead else ""
    return Template(_asset("page.html")).substitute(
        title=html.escape(title),
        lead=paragraph,
        sections="\n".join(sections),
        style=_asset("page.css"),
        script=_asset("page.js"),
    )


def chart_section(heading: str, chart: Chart, note: str = "") -> str:
    """Return a chart with its controls, legend and a line of explanation."""
    # Inside a script only `</` could end it, and `<!--` change how it is read.
    numbers = json.dumps(chart_record(chart), ensure_ascii=False).replace("<", "\\u003c")
    return (
        f"<section><h2>{html.escape(heading)}</h2>\n"
        '<figure class="chart">\n'
        f'<script type="application/json">{numbers}</script>\n'
        "<noscript><p>Curves are drawn by a script; the tables below need none.</p></noscript>\n"
        f"<figcaption>{html.escape(note)}</figcaption>\n</figure></section>"
    )


def table_section(
    heading: str,
    headings: Sequence[str],
    rows: Sequence[tuple[str, list[str]]],
    note: str = "",
    *,
    is_numeric: bool = True,
) -> str:
    """Return a table that scrolls sideways where the screen is narrow.

    Args:
        heading: Of the section, plain text.
        headings: Of all columns, the first one too.
        rows: The first column's text, and the other cells; plain text.
        note: A line below; may be empty.
        is_numeric: Whether cells are numbers, which are set to the right.
    """
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in headings)
    body = "\n".join(
        f'<tr><th scope="row">{html.escape(label)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for label, cells in rows
    )
    below = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return (
        f'<section><h2>{html.escape(heading)}</h2>\n<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{html.escape(heading)}">'
        f'<table class="{"numbers" if is_numeric else "words"}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>{below}</section>"
    )


def notes_section(heading: str, notes: Sequence[str]) -> str:
    """Return a list of remarks; nothing if there are none."""
    if not notes:
        return ""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<section><h2>{html.escape(heading)}</h2>\n<ul class="notes">{items}</ul></section>'


def _asset(name: str) -> str:
    return (resources.files("dmpo.reporting") / "assets" / name).read_text(encoding="utf-8")
