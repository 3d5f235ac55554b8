"""A kept report as csv or as a LaTeX table, for a paper: of estimates, or of an
evaluation.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from analytics.training.newton_report import RATIOS
from protocol.errors import NotFound

_COLUMNS = ("term", "estimate", "se", "statistic", "p", "low", "high")
# What the terms of a meta-analysis have beside.
_OF_META = (
    "prediction_low",
    "prediction_high",
    "tau2",
    "q",
    "q_p",
    "i2",
    "fixed",
    "fixed_se",
    "fixed_low",
    "fixed_high",
)
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


EXPORT_FORMATS = ("json", "sklearn")
"""Of a model, which `agents.training.export` writes: here, where it needs no rows."""
REPORT_FORMATS = {
    "csv": ("text/csv", "csv"),
    "json": ("application/json", "json"),
    "latex": ("application/x-tex", "tex"),
}
"""Each with its media type and the ending of a file's name."""


def report_of(stored: dict[str, Any]) -> dict[str, Any]:
    """The report of a vault's entry. NotFound (code no_report) where it has none."""
    report: dict[str, Any] | None = stored.get("report")
    if report is None:
        raise NotFound(
            f"Model {stored['model_id']} was not trained by newton, so it has no report.",
            remedy="Order glm or cox, or lr or linear with optimizer newton.",
            code="no_report",
        )
    return report


def readable_report(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader is told of a vault's entry: the report, and what it is of."""
    field_names = (
        "model_id",
        "model_type",
        "label_name",
        "attributes",
        "n_rounds",
        "converged",
        "stopped_by",
        "warnings",
        "report",
    )
    return {name: stored[name] for name in field_names if name in stored}


def readable_evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation without the counts behind it, which stay in the vault."""
    return {name: value for name, value in evaluation.items() if name != "counts"}


def written(report: dict[str, Any], file_format: str) -> str:
    """The whole file. file_format: one of REPORT_FORMATS."""
    match file_format:
        case "csv":
            return as_csv(report)
        case "latex":
            return as_latex(report)
        case _:
            return _as_json(report)


def written_evaluation(evaluation: dict[str, Any], file_format: str) -> str:
    """As `written`, of what the vault has of an evaluation; the counts behind it stay
    there.
    """
    match file_format:
        case "csv":
            return evaluation_as_csv(evaluation["report"])
        case "latex":
            return evaluation_as_latex(evaluation["report"])
        case _:
            return _as_json(readable_evaluation(evaluation))


def _as_json(content: dict[str, Any]) -> str:
    json_text = json.dumps(
        content,
        indent=2,
        # Python would write NaN, which other programs do not take for JSON.
        allow_nan=False,
    )
    return json_text + "\n"


def as_csv(report: dict[str, Any]) -> str:
    """A line for each term, numbers as Python writes them, nothing where there is none."""
    csv_text = io.StringIO()
    column_names = columns_of(report)
    writer = csv.writer(csv_text, lineterminator="\n")
    writer.writerow(column_names)
    for term in report["terms"]:
        term_values = [term.get(column_name) for column_name in column_names]
        writer.writerow(term_values)
    return csv_text.getvalue()


def as_latex(report: dict[str, Any]) -> str:
    """A tabular with one line for each term, numbers to 4 digits."""
    column_names = columns_of(report)
    tabular_lines = _head(column_names)
    for term in report["terms"]:
        cells = [_escaped(term["term"])]
        for column_name in column_names[1:]:
            term_value = term.get(column_name)
            cells.append(_number(term_value))
        tabular_lines.append(_line(cells))
    return _whole(tabular_lines)


def _head(columns: Sequence[str]) -> list[str]:
    """The lines before the first row: of texts, and of numbers behind them."""
    numbers = "r" * (len(columns) - 1)
    headings = [_escaped(column) for column in columns]
    return [
        rf"\begin{{tabular}}{{l{numbers}}}",
        r"\hline",
        _line(headings),
        r"\hline",
    ]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _whole(lines: list[str]) -> str:
    """The tabular of these lines with its end."""
    lines.extend([r"\hline", r"\end{tabular}"])
    return "\n".join(lines) + "\n"


def evaluation_as_csv(report: dict[str, Any]) -> str:
    """A line for each number: in which table it stands, at which of its lines, its name."""
    csv_text = io.StringIO()
    writer = csv.writer(csv_text, lineterminator="\n")
    writer.writerow(["table", "line", "name", "value"])
    for figure_name, figure in _figures(report).items():
        writer.writerow(["metrics", "", figure_name, figure])
    for table_name in ("cutoffs", "roc", "decision", "calibration"):
        table_lines = report.get(table_name, [])
        for line_number, cells in enumerate(table_lines, start=1):
            for figure_name, figure in cells.items():
                writer.writerow([table_name, line_number, figure_name, figure])
    for group in report.get("groups", []):
        column = report["group_by"]
        level = f"{column}={group['level']}"
        figures = {"n": group["n"], **group["metrics"]}
        for figure_name, figure in figures.items():
            if not isinstance(figure, list):
                writer.writerow(["groups", level, figure_name, figure])
    return csv_text.getvalue()


def evaluation_as_latex(report: dict[str, Any]) -> str:
    """A tabular with one line for each number, to 4 digits, without curves."""
    tabular_lines = [r"\begin{tabular}{lr}", r"\hline"]
    for figure_name, figure in _figures(report).items():
        if isinstance(figure, int | str):
            cell = str(figure)
        else:
            cell = _number(figure)
        tabular_lines.append(_line([_escaped(figure_name), cell]))
    return _whole(tabular_lines)


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    """Single numbers; counts of many classes are for JSON."""
    figures = {"n": report["n"], "n_left_out": report["n_left_out"]}
    for figure_name, figure in report["metrics"].items():
        if not isinstance(figure, list):
            figures[figure_name] = figure
    pairs = report.get("pairs", {})
    for figure_name, figure in pairs.items():
        figures[f"pairs_{figure_name}"] = figure
    return figures


def columns_of(report: Mapping[str, Any]) -> list[str]:
    """The fields of a term, in the order in which people read them."""
    terms = report["terms"]
    field_names = list(_COLUMNS)
    for field_name in _OF_META:
        if any(field_name in term for term in terms):
            field_names.append(field_name)
    for ratio in RATIOS:
        if any(ratio in term for term in terms):
            field_names += [
                ratio,
                f"{ratio}_low",
                f"{ratio}_high",
            ]
    return field_names


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}"


def _escaped(text: str) -> str:
    letters = [_SPECIAL.get(letter, letter) for letter in text]
    return "".join(letters)


def grid_as_latex(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> str:
    """A tabular of texts as they are."""
    tabular_lines = _head(columns)
    for row in rows:
        cells = [_escaped(cell) for cell in row]
        tabular_lines.append(_line(cells))
    return _whole(tabular_lines)
