"""What the page shows of a result of joint statistics: its rows, a picture where its
method has one, and of a `describe` the table that a paper takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from agents.page import curves
from agents.page.table_one import TableOne, table_one
from agents.statistics.results import Result
from agents.training.report_text import grid_as_latex

Rows = list[dict[str, Any]]

MOST_RESULT_ROWS = 500
TABLE_FORMATS = {"csv": "text/csv", "tex": "application/x-tex"}


def shown_result(result: Result) -> dict[str, Any]:
    """By name, what the template needs.

    Disclosure: its values, to this hospital's own people.
    """
    rows = result.rows()
    # Each once, in the order in which they come up.
    columns: dict[str, None] = {}
    for row in rows[:MOST_RESULT_ROWS]:
        columns |= dict.fromkeys(row)
    method = str(result.notes.get("method"))
    charts = curves.of_result(
        rows,
        method=method,
        alias=result.alias,
    )
    return {
        "result": result,
        "notes": lines_of(result.notes),
        "columns": list(columns),
        "rows": rows,
        "charts": charts,
        "table_one": _table_of(result, rows),
        "table_formats": list(TABLE_FORMATS),
    }


_IN_TITLE = ("order_id", "result_alias", "type", "n_rows")
"""Notes that stand above the table already."""


def lines_of(notes: Mapping[str, Any]) -> dict[str, list[str]]:
    """The notes of a result as people read them: by name, a line for each thing that is
    said. What says nothing is left out.

    >>> lines_of({"expression": None, "providers": [2, 3], "rows": {"2": 20}})
    {'providers': ['2, 3'], 'rows': ['2: 20']}
    >>> lines_of({"withheld": [{"group": ["old"], "reason": "Few."}]})
    {'withheld': ['old: Few.']}
    """
    lines_by_name = {}
    for note_name, note_value in notes.items():
        if note_name in _IN_TITLE:
            continue
        if note_name == "withheld":
            note_lines = _withheld(note_value)
        else:
            note_lines = _lines(note_value)
        if note_lines:
            lines_by_name[note_name] = note_lines
    return lines_by_name


def _lines(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, dict):
        lines = []
        for name, inner in value.items():
            inner_text = _text(inner)
            lines.append(f"{name}: {inner_text}")
        return lines
    if not isinstance(value, list):
        return [_text(value)]
    # Sentences have a line each, and hospitals one together.
    if all(isinstance(element, str) for element in value):
        return list(value)
    element_texts = [_text(element) for element in value]
    return [", ".join(element_texts)]


def _withheld(value: Any) -> list[str]:
    """Each group with its reason; of those that have no name, how many."""
    if not isinstance(value, list):
        return _lines(value)
    n_of: dict[str, int] = {}
    for withheld_group in value:
        if not isinstance(withheld_group, dict):
            return _lines(value)
        reason = str(withheld_group.get("reason", ""))
        group = withheld_group.get("group")
        if isinstance(group, list):
            levels = [_text(level) for level in group]
            group_name = ", ".join(levels)
            reason = f"{group_name}: {reason}"
        n_before = n_of.get(reason, 0)
        n_of[reason] = n_before + 1
    lines = []
    for reason, n_groups in n_of.items():
        reason_line = reason
        if n_groups > 1:
            reason_line = f"{n_groups} × {reason}"
        lines.append(reason_line)
    return lines


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _table_of(result: Result, rows: Rows) -> TableOne | None:
    if result.notes.get("method") != "describe":
        return None
    return table_one(rows, alias=result.alias)


def table_file(result: Result, file_format: str) -> str:
    """The table for a paper. An error of HTTP, 404, where the result has none."""
    table = _table_of(result, result.rows())
    if table is None or file_format not in TABLE_FORMATS:
        raise HTTPException(404)
    if file_format == "csv":
        return table.to_csv()
    return grid_as_latex(table.columns, table.rows)
