"""The page of a comparison: curves, the table of means, and what the arms differ in."""

from __future__ import annotations

from dmpo.reporting.charts import Chart, Line
from dmpo.reporting.comparison import ComparisonReport, settings_differences
from dmpo.reporting.page import chart_section, notes_section, page, table_section

__all__ = ["comparison_page"]


def comparison_page(report: ComparisonReport) -> str:
    """Return a comparison as one self-contained HTML document."""
    chart = Chart(
        axes=report.axes,
        metrics={metric: report.label(metric) for metric in report.metrics},
        lines=[
            Line(
                name=arm.name,
                runs={f"seed {run.seed}": run.history for run in arm.runs if run.state != "failed"},
            )
            for arm in report.arms
        ],
    )
    sections = [
        chart_section(
            "Curves",
            chart,
            "Thick: mean over seeds, as far as all of them have got; band: lowest to highest seed; "
            "thin: each seed. Unfinished runs are drawn, failed ones are not.",
        ),
        table_section(
            "At the end",
            ["arm", *report.headings()],
            report.rows(),
            "Means over the seeds that finished ± half of Student's 95% interval; steps, tokens, "
            "FLOPs and seconds are means of training alone.",
        ),
        notes_section("Runs to know about", report.notes()),
    ]
    if differences := settings_differences(report.arms):
        headings = ["setting", *(arm.name for arm in report.arms)]
        sections.append(
            table_section("Settings that differ", headings, differences, is_numeric=False)
        )
    return page(report.title, report.description, sections)
