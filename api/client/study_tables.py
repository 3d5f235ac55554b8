"""A paper's first table, of the frame of a question `describe`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pandas as pd

QUARTILES = ("q1", "median", "q3")
QUANTITIES = (
    "missing",
    "n",
    "share",
    "mean",
    "sd",
    *QUARTILES,
    "smd",
)
MEDIAN = "median [Q1, Q3]"
"""The level of the line that has a column's quartiles, below its mean."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{letter: f"\\{letter}" for letter in "%_&#${}"},
}


class FirstTable(pd.DataFrame):
    """A table of texts, a line for each number and each level."""

    @property
    def _constructor(self) -> type[FirstTable]:
        # Some of its columns are a table that is printed the same way.
        return FirstTable

    def to_latex(self, buf: str | Path | None = None) -> str | None:  # type: ignore[override]
        r"""A tabular, for which LaTeX needs no package, or nothing where it is written to
        a file (buf). pandas' own one needs jinja2, which the client has not.

        What LaTeX reads as a command is escaped: %, _, &, #, $, {, }, ~, ^ and \.

        >>> lines = pd.MultiIndex.from_tuples([("stage_x", "II")])
        >>> print(FirstTable({"all": ["80 (25.0 %)"]}, index=lines).to_latex().splitlines()[4])
        stage\_x & II & 80 (25.0 \%) \\
        """
        n_names = self.index.nlevels
        name_layout = "l" * n_names
        column_layout = "r" * len(self.columns)
        layout = name_layout + column_layout
        heads = []
        for index_name in self.index.names:
            if index_name is None:
                index_name = ""
            heads.append(str(index_name))
        heads.extend(self.columns)
        lines = [rf"\begin{{tabular}}{{{layout}}}"]
        lines.append(r"\hline")
        lines.append(_latex_row(heads))
        lines.append(r"\hline")
        rows = self.to_numpy().tolist()
        for label, cells in zip(
            self.index,
            rows,
            strict=True,
        ):
            labels = label if n_names > 1 else (label,)
            labelled_cells = [*labels, *cells]
            lines.append(_latex_row(labelled_cells))
        lines.append(r"\hline")
        lines.append(r"\end{tabular}")
        latex_text = "\n".join(lines) + "\n"
        if buf is None:
            return latex_text
        Path(buf).write_text(latex_text, "utf-8")
        return None


def _latex_row(cells: list[Any]) -> str:
    cell_texts = [_escaped(str(cell)) for cell in cells]
    line = " & ".join(cell_texts)
    return line + r" \\"


def _escaped(text: str) -> str:
    # Letter by letter, so that the backslash of an escape is not escaped again.
    letters = [_LATEX.get(letter, letter) for letter in text]
    return "".join(letters)


def first_table(
    described: pd.DataFrame,
    value: str | None = None,
) -> FirstTable:
    """A paper's first table, of the frame of a question `describe`: a line for each
    number and each level, a column for each group.

    Numbers are "mean (sd)" and, where the question asks for `quartiles`, "median [Q1,
    Q3]" in a line below; levels "n (share %)"; what is withheld is "-". `.to_html()`,
    `.to_latex()` and `.to_csv()` print it; `first_table_numbers` has every digit. value:
    the column of values, else the one behind `quantity`.
    """
    cells = _cells(described, value)
    group_names = _group_columns(cells)
    table = {}
    for (column, level), by_group in cells.items():
        of_groups = [by_group.get(group_name, {}) for group_name in group_names]
        table[column, level] = [_cell(quantities) for quantities in of_groups]
        if any("median" in quantities for quantities in by_group.values()):
            table[column, MEDIAN] = [_median(quantities) for quantities in of_groups]
    row_index = pd.MultiIndex.from_tuples(
        table,
        names=["", "level"],
    )
    rows = list(table.values())
    return FirstTable(rows, index=row_index, columns=group_names)


def first_table_numbers(
    described: pd.DataFrame, value: str | None = None
) -> pd.DataFrame:
    """The numbers that `first_table` rounds, as the answer has them: a row for each of
    its cells, by column, level and group; null where it is withheld or does not apply.
    """
    cells = _cells(described, value)
    group_names = _group_columns(cells)
    rows = []
    row_keys: set[str] = set()
    for (column, level), by_group in cells.items():
        for group_name in group_names:
            if group_name not in by_group:
                continue
            row = {
                "column": column,
                "level": level,
                "group": group_name,
                **by_group[group_name],
            }
            rows.append(row)
            row_keys.update(row)
    index_columns = ["column", "level", "group"]
    quantities = [quantity for quantity in QUANTITIES if quantity in row_keys]
    frame = pd.DataFrame(rows, columns=[*index_columns, *quantities])
    return frame.set_index(index_columns)


# By column and level: by the name of a group, its quantities.
Cells = dict[tuple[str, str], dict[str, dict[str, Any]]]


def _cells(described: pd.DataFrame, value: str | None) -> Cells:
    columns = list(described.columns)
    value = value or _column_after(columns, "quantity")
    group_column = _group_column(columns)
    cells: Cells = {}
    has_mean = described["quantity"] == "mean"
    numbers = set(described.loc[has_mean, "column"])
    for described_row in described.to_dict("records"):
        column = described_row["column"]
        level = ""
        if not pd.isna(described_row["level"]):
            level = str(described_row["level"])
        # The bins of a histogram: a paper's table has none.
        if level and column in numbers:
            continue
        row_place = (str(column), level)
        by_group = cells.setdefault(row_place, {})
        group_name = _column_name(described_row, group_column)
        quantities = by_group.setdefault(group_name, {})
        quantity = described_row["quantity"]
        quantities[quantity] = described_row[value]
    return cells


def _group_columns(cells: Cells) -> list[str]:
    """All groups in one order: everyone, the groups, their difference."""
    group_names: set[str] = set()
    for by_group in cells.values():
        group_names |= set(by_group)
    return sorted(group_names, key=_order)


def _group_column(columns: list[str]) -> str | None:
    if "over" not in columns:
        return None
    return _column_after(columns, "over")


def _column_after(columns: list[str], name: str) -> str:
    column_place = columns.index(name)
    return columns[column_place + 1]


def _column_name(
    row: dict[Any, Any],
    group: str | None,
) -> str:
    if group is None or row["over"] == "all":
        return "all"
    if row["over"] == "groups":
        return "SMD"
    return f"{group} {row[group]}"


def _order(name: str) -> tuple[int, str]:
    if name == "all":
        return 0, name
    if name == "SMD":
        return 2, name
    return 1, name


def _number(
    quantities: dict[str, Any],
    name: str,
) -> float | None:
    quantity = quantities.get(name)
    if quantity is None or pd.isna(quantity):
        return None
    return float(quantity)


def _median(quantities: dict[str, Any]) -> str:
    """60.5 [54, 67.25]; nothing beside a group's difference."""
    if "median" not in quantities:
        return ""
    quartiles = [_number(quantities, quartile) for quartile in QUARTILES]
    first, middle, third = quartiles
    if first is None or middle is None or third is None:
        return "-"
    return f"{middle:.4g} [{first:.4g}, {third:.4g}]"


def _cell(quantities: dict[str, Any]) -> str:
    number = functools.partial(_number, quantities)

    if "smd" in quantities:
        smd = number("smd")
        if smd is None:
            return "-"
        return f"{smd:.3f}"
    if "mean" in quantities:
        mean = number("mean")
        sd = number("sd")
        spread = "-" if sd is None else f"{sd:.3g}"
        if mean is None:
            return "-"
        return f"{mean:.4g} ({spread})"
    n = number("n")
    share = number("share")
    if n is None:
        return "-" if quantities else ""
    if share is None:
        return f"{n:.0f}"
    percent = 100 * share
    return f"{n:.0f} ({percent:.1f} %)"
