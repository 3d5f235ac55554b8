"""A kept report as csv or as a LaTeX table, for a paper: of estimates, or of an
evaluation.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

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


REPORT_FORMATS = {
    "csv": ("text/csv", "csv"),
    "json": ("application/json", "json"),
    "latex": ("application/x-tex", "tex"),
}
"""Each with its media type and the ending of a file's name."""


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


def written(report: dict[str, Any], file_format: str) -> str:
    """The whole file. file_format: one of REPORT_FORMATS."""
    match file_format:
        case "csv":
            return as_csv(report)
        case "latex":
            return as_latex(report)
        case _:
            return json.dumps(report, indent=2, allow_nan=False) + "\n"


def written_evaluation(kept: dict[str, Any], file_format: str) -> str:
    """As `written`, of what the vault has of an evaluation; the counts behind it stay
    there.
    """
    match file_format:
        case "csv":
            return evaluation_as_csv(kept["report"])
        case "latex":
            return evaluation_as_latex(kept["report"])
        case _:
            shown = {name: value for name, value in kept.items() if name != "counts"}
            return json.dumps(shown, indent=2, allow_nan=False) + "\n"


def as_csv(report: dict[str, Any]) -> str:
    """A line for each term, numbers as Python writes them, nothing where there is none."""
    text = io.StringIO()
    names = columns_of(report)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for term in report["terms"]:
        writer.writerow([term.get(name) for name in names])
    return text.getvalue()


def as_latex(report: dict[str, Any]) -> str:
    """A tabular with one line for each term, numbers to 4 digits."""
    names = columns_of(report)
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}", r"\hline"]
    lines.append(" & ".join(_escaped(name) for name in names) + r" \\")
    lines.append(r"\hline")
    for term in report["terms"]:
        cells = [_escaped(term["term"])]
        cells.extend(_number(term.get(name)) for name in names[1:])
        lines.append(" & ".join(cells) + r" \\")
    lines.extend([r"\hline", r"\end{tabular}"])
    return "\n".join(lines) + "\n"


def evaluation_as_csv(report: dict[str, Any]) -> str:
    """A line for each number: in which table it stands, at which of its lines, its name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "line", "name", "value"])
    for name, value in _figures(report).items():
        writer.writerow(["metrics", "", name, value])
    for table in ("roc", "calibration"):
        for line, cells in enumerate(report.get(table, []), start=1):
            for name, value in cells.items():
                writer.writerow([table, line, name, value])
    return text.getvalue()


def evaluation_as_latex(report: dict[str, Any]) -> str:
    """A tabular with one line for each number, to 4 digits, without curves."""
    lines = [r"\begin{tabular}{lr}", r"\hline"]
    for name, value in _figures(report).items():
        cell = str(value) if isinstance(value, int) else _number(value)
        lines.append(f"{_escaped(name)} & {cell}" + r" \\")
    lines.extend([r"\hline", r"\end{tabular}"])
    return "\n".join(lines) + "\n"


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    """Single numbers; counts of many classes are for JSON."""
    found = {"n": report["n"], "n_left_out": report["n_left_out"]}
    for name, value in report["metrics"].items():
        if not isinstance(value, list):
            found[name] = value
    return found


def columns_of(report: Mapping[str, Any]) -> list[str]:
    """The fields of a term, in the order in which people read them."""
    names = list(_COLUMNS)
    for ratio in RATIOS:
        if any(ratio in term for term in report["terms"]):
            names += [ratio, f"{ratio}_low", f"{ratio}_high"]
    return names


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
