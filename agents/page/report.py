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
    facts = {}
    for name, value in report.items():
        if name not in _BESIDE and isinstance(value, int | float | str):
            facts[name] = value
    return {
        "report": report,
        "forest": forest.draw(report),
        "left": forest.LABEL_WIDTH,
        "right": forest.LABEL_WIDTH + forest.PLOT_WIDTH,
        "columns": columns_of(report),
        "facts": facts,
        "formats": list(REPORT_FORMATS),
    }


def number_text(value: Any) -> str:
    """A number to five digits, nothing where there is none, words as they are."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)
