"""A kept report as csv or as a LaTeX table, for a paper."""

from __future__ import annotations

import csv
import io
from typing import Any

from analytics.training.cox_report import HAZARD_RATIO
from analytics.training.newton_report import RATIOS
from protocol.errors import NotFound

_COLUMNS = ("term", "estimate", "se", "statistic", "p", "low", "high")
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def report_of(stored: dict[str, Any]) -> dict[str, Any]:
    """The report of a vault's entry. NotFound (code no_report) where it has none."""
    found: dict[str, Any] | None = stored.get("report")
    if found is None:
        raise NotFound(
            f"Model {stored['model_id']} was not trained by newton, so it has no report.",
            remedy="Order glm or cox, or lr or linear with optimizer newton.",
            code="no_report",
        )
    return found


def as_csv(report: dict[str, Any]) -> str:
    """A line for each term, numbers as Python writes them, nothing where there is none."""
    text = io.StringIO()
    names = _names(report)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for term in report["terms"]:
        writer.writerow([term.get(name) for name in names])
    return text.getvalue()


def as_latex(report: dict[str, Any]) -> str:
    """A tabular with one line for each term, numbers to 4 digits."""
    names = _names(report)
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}", r"\hline"]
    lines.append(" & ".join(_escaped(name) for name in names) + r" \\")
    lines.append(r"\hline")
    for term in report["terms"]:
        cells = [_escaped(term["term"])]
        cells.extend(_number(term.get(name)) for name in names[1:])
        lines.append(" & ".join(cells) + r" \\")
    lines.extend([r"\hline", r"\end{tabular}"])
    return "\n".join(lines) + "\n"


def _names(report: dict[str, Any]) -> list[str]:
    names = list(_COLUMNS)
    for ratio in (*RATIOS, HAZARD_RATIO):
        if any(ratio in term for term in report["terms"]):
            names += [ratio, f"{ratio}_low", f"{ratio}_high"]
    return names


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
