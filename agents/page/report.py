"""What the page shows of a model's report: the picture, the table of terms, and how well it
fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.page import curves, forest
from agents.training.report_text import REPORT_FORMATS, columns_of

Tables = dict[str, list[dict[str, Any]]]
"""By name the lines of each."""

_BESIDE = ("terms", "notes", "converged")
"""What of a report stands elsewhere than in the list of its facts."""


def shown_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """By name, what the template needs."""
    facts: dict[str, Any] = {}
    tables: Tables = {}
    for field_name, field_value in report.items():
        if field_name not in _BESIDE:
            _add(
                field_name,
                field_value,
                facts,
                tables,
            )
    return {
        "report": report,
        "forest": forest.draw(report),
        "left": forest.LABEL_WIDTH,
        "right": forest.LABEL_WIDTH + forest.PLOT_WIDTH,
        "columns": columns_of(report),
        "facts": facts,
        "tables": tables,
        "formats": list(REPORT_FORMATS),
    }


def shown_evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """By name, what the template of an evaluation needs: no counts, which stay in the
    vault.
    """
    report = evaluation["report"]
    facts: dict[str, Any] = {}
    possible_tables: Tables = {}
    for field_name, field_value in report.items():
        if field_name == "groups":
            possible_tables[field_name] = [
                _metrics_of_group(group) for group in field_value
            ]
        else:
            _add(
                field_name,
                field_value,
                facts,
                possible_tables,
            )
    possible_charts = [curves.roc(report), curves.calibration(report)]
    charts = []
    for chart in possible_charts:
        if chart is not None:
            charts.append(chart)
    tables = {}
    for field_name, rows in possible_tables.items():
        if _is_table(rows):
            tables[field_name] = rows
    return {
        "model_id": evaluation["model_id"],
        "charts": charts,
        "facts": facts,
        "tables": tables,
        "formats": list(REPORT_FORMATS),
    }


def _metrics_of_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """A subgroup in one line; its curves are in the file."""
    group_line = {
        "level": group["level"],
        "n": group["n"],
    }
    for metric, metric_value in group["metrics"].items():
        if not isinstance(metric_value, list | dict):
            group_line[metric] = metric_value
    return group_line


def _is_table(rows: list[Any]) -> bool:
    return bool(rows) and isinstance(rows[0], dict)


def _add(
    name: str,
    value: Any,
    facts: dict[str, Any],
    tables: Tables,
) -> None:
    """A single number or word is a fact, a list of rows a table; what has a name of its
    own within another is named by both.
    """
    if isinstance(value, dict):
        for inner, of_inner in value.items():
            _add(
                f"{name}.{inner}",
                of_inner,
                facts,
                tables,
            )
    elif isinstance(value, list):
        tables[name] = [_named_first(row) for row in value]
    elif value is not None:
        facts[name] = value


_FIRST = ("term", "low", "high", "threshold", "n")
"""Of a line the names by which people find it; the vault has all of them by letter."""


def _named_first(row: Any) -> Any:
    """What a line is of comes before its numbers."""
    if not isinstance(row, dict):
        return row
    first_fields = {}
    for field_name in _FIRST:
        if field_name in row:
            first_fields[field_name] = row[field_name]
    return first_fields | row


def number_text(value: Any) -> str:
    """A number to five digits, nothing where there is none, words as they are."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)
