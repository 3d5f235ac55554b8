"""What the page shows of a model's report: the picture, the table of terms, and how well it
fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.page import forest
from agents.training.report_text import REPORT_FORMATS, columns_of

_BESIDE = ("terms", "notes", "converged")
"""What of a report stands elsewhere than in the list of its facts."""


def shown_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """By name, what the template needs."""
    facts: dict[str, Any] = {}
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, value in report.items():
        if name not in _BESIDE:
            _add(name, value, facts, tables)
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


def _add(
    name: str,
    value: Any,
    facts: dict[str, Any],
    tables: dict[str, list[dict[str, Any]]],
) -> None:
    """A single number or word is a fact, a list of rows a table; what has a name of its
    own within another is named by both.
    """
    if isinstance(value, dict):
        for inner, of_inner in value.items():
            _add(f"{name}.{inner}", of_inner, facts, tables)
    elif isinstance(value, list):
        tables[name] = value
    elif value is not None:
        facts[name] = value


def number_text(value: Any) -> str:
    """A number to five digits, nothing where there is none, words as they are."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)
