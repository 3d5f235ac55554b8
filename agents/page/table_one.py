"""The first table of a paper, made of the rows of a `describe`: a line for each column or
level, a column for each group.

Numbers stand as mean (SD), where quartiles were asked for as median [Q1, Q3] below it,
categories as n (share in percent), as papers print them; the result's own file has all
digits. Pure: rows to texts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.page.curves import Row, number

WITHHELD = "withheld"
ALL = ("all", "")
QUARTILES = ("q1", "median", "q3")
_NEEDED = ("column", "level", "quantity")

# What a spreadsheet takes for the beginning of something to compute.
_FORMULA = ("=", "+", "-", "@")


@dataclass
class TableOne:
    """Texts, the names of the columns first."""

    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def to_csv(self) -> str:
        csv_file = io.StringIO()
        writer = csv.writer(csv_file, lineterminator="\n")
        for row in (self.columns, *self.rows):
            cells = [_no_formula(cell) for cell in row]
            writer.writerow(cells)
        return csv_file.getvalue()


Over = tuple[str, str]
"""Of whom a number is: all, or a group by name."""

Quantities = dict[str, dict[Over, str]]
"""Of one level, by quantity, the text of each group."""


def table_one(rows: Sequence[Row], *, alias: str) -> TableOne | None:
    """The table; None for rows that are of no `describe`. Values may be texts, as a csv
    has them.
    """
    if not rows:
        return None
    needed_columns = {*_NEEDED, alias}
    if not needed_columns <= rows[0].keys():
        return None
    by_column: dict[str, dict[str, Quantities]] = {}
    overs: dict[Over, None] = {}
    differences: dict[str, str] = {}
    for row in rows:
        column = str(row["column"])
        level = _text(row["level"])
        quantity = str(row["quantity"])
        quantity_text = _shown(row, alias)
        if quantity == "smd":
            differences[column] = quantity_text
            continue
        over = _over(row)
        overs[over] = None
        of_column = by_column.setdefault(column, {})
        of_level = of_column.setdefault(level, {})
        of_quantity = of_level.setdefault(quantity, {})
        of_quantity[over] = quantity_text
    table = TableOne([""])
    for over_kind, group in overs:
        column_title = group if over_kind == "group" else "All"
        table.columns.append(column_title)
    if differences:
        table.columns.append("SMD")
    for column, by_level in by_column.items():
        column_lines = _lines(column, by_level, list(overs))
        if differences:
            # A column's difference stands in its first line.
            first_line, *other_lines = column_lines
            first_line.append(differences.get(column, ""))
            for other_line in other_lines:
                other_line.append("")
        table.rows += column_lines
    return table


def _lines(
    column: str,
    by_level: Mapping[str, Quantities],
    overs: Sequence[Over],
) -> list[list[str]]:
    """Those of one column: of a number its mean and its median, of a category one for
    each level.
    """
    column_quantities = by_level.get("", {})
    column_lines = []
    if "mean" in column_quantities:
        cells = _pairs(column_quantities, "mean", "sd", overs)
        column_lines.append([f"{column}, mean (SD)", *cells])
        if "median" in column_quantities:
            cells = [_median(column_quantities, over) for over in overs]
            column_lines.append([f"{column}, median [Q1, Q3]", *cells])
    else:
        empty = [""] * len(overs)
        column_lines.append([f"{column}, n (%)", *empty])
        for level, quantities in by_level.items():
            if not level:
                continue
            cells = _pairs(quantities, "n", "share", overs)
            column_lines.append([f"  {level}", *cells])
    missing = [_told(column_quantities, "missing", over) for over in overs]
    if not set(missing) <= {"", "0"}:
        column_lines.append(["  missing", *missing])
    return column_lines


def _told(
    quantities: Quantities,
    quantity: str,
    over: Over,
) -> str:
    """Nothing where the result has none."""
    of_quantity = quantities.get(quantity, {})
    return of_quantity.get(over, "")


def _pairs(
    quantities: Quantities,
    first: str,
    second: str,
    overs: Sequence[Over],
) -> list[str]:
    """Of all and of each group two quantities, one beside the other."""
    is_share = second == "share"
    pairs = []
    for over in overs:
        first_text = _told(quantities, first, over)
        second_text = _told(quantities, second, over)
        pairs.append(_pair(first_text, second_text, is_share=is_share))
    return pairs


def _pair(first_text: str, second_text: str, *, is_share: bool) -> str:
    """61.2 (10.4), or 112 (51.0 %)."""
    first_value = number(first_text)
    beside = number(second_text)
    if first_value is None:
        return first_text
    if beside is None:
        if not second_text:
            return _short(first_value)
        return f"{_short(first_value)} ({second_text})"
    if is_share:
        percent = 100 * beside
        return f"{first_value:.0f} ({percent:.1f} %)"
    return f"{_short(first_value)} ({_short(beside)})"


def _median(quantities: Quantities, over: Over) -> str:
    """61.5 [54, 68.25]; what a rule withholds is said once."""
    quartile_texts = [_told(quantities, quartile, over) for quartile in QUARTILES]
    quartiles = []
    for quartile_text in quartile_texts:
        quartile_value = number(quartile_text)
        if quartile_value is not None:
            quartiles.append(_short(quartile_value))
    if len(quartiles) < len(quartile_texts):
        _, median, _ = quartile_texts
        return median
    first, middle, third = quartiles
    return f"{middle} [{first}, {third}]"


def _over(row: Row) -> Over:
    """Without groups there is no column `over`; the group's own column follows it."""
    over_kind = row.get("over")
    if over_kind is None or over_kind == "all":
        return ALL
    column_names = list(row)
    group_place = column_names.index("over") + 1
    group = _text(row[column_names[group_place]])
    return ("group", group or "no value")


def _shown(row: Row, alias: str) -> str:
    if _text(row.get("withheld")):
        return WITHHELD
    quantity_text = _text(row[alias])
    if row["quantity"] != "smd":
        return quantity_text
    value = number(quantity_text)
    if value is None:
        return quantity_text
    return f"{value:.3f}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value)


def _short(value: float) -> str:
    """Four digits, as many as a paper prints; a whole number as it is."""
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.4g}"


def _no_formula(cell: str) -> str:
    """Names of levels are others' texts: a spreadsheet would compute some."""
    begin = cell.lstrip()
    if begin.startswith(_FORMULA):
        return f"'{cell}"
    return cell
