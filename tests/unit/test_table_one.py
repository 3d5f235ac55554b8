"""A paper's first table, of the rows of a `describe` as its csv has them."""

from __future__ import annotations

from typing import Any

import pytest

from agents.page.table_one import table_one
from agents.training.report_text import grid_as_latex


def row(
    column: str, over: str, arm: str, level: str, what: str, value: str, why: str = ""
) -> dict[str, str]:
    return {
        "column": column,
        "over": over,
        "arm": arm,
        "level": level,
        "quantity": what,
        "t1": value,
        "withheld": why,
    }


ROWS = [
    row("age", "all", "", "", "missing", "0"),
    row("age", "all", "", "", "mean", "61.23456"),
    row("age", "all", "", "", "sd", "10.4"),
    row("age", "group", "a", "", "mean", "60"),
    row("age", "group", "a", "", "sd", "", "min_rows 10"),
    # Of a histogram, which no paper's table has.
    row("age", "all", "", "[50, 60)", "n", "31"),
    row("age", "groups", "", "", "smd", "0.05234"),
    row("sex", "all", "", "", "missing", "12"),
    row("sex", "all", "", "=F", "n", "112"),
    row("sex", "all", "", "=F", "share", "0.51"),
    row("sex", "group", "a", "=F", "n", "", "min_rows 10"),
    row("sex", "group", "a", "=F", "share", "", "min_rows 10"),
]


def test_numbers_are_means_and_categories_are_shares() -> None:
    table = table_one(ROWS, alias="t1")
    assert table is not None
    assert table.columns == ["", "All", "a", "SMD"]
    assert table.rows == [
        ["age, mean (SD)", "61.23 (10.4)", "60 (withheld)", "0.052"],
        ["sex, n (%)", "", "", ""],
        ["  =F", "112 (51.0 %)", "withheld", ""],
        ["  missing", "12", "", ""],
    ]


def test_medians_stand_between_their_quartiles() -> None:
    rows = [
        *ROWS,
        row("age", "all", "", "", "q1", "54"),
        row("age", "all", "", "", "median", "61.5"),
        row("age", "all", "", "", "q3", "68.25"),
        row("age", "group", "a", "", "q1", "", "min_rows 10"),
        row("age", "group", "a", "", "median", "", "min_rows 10"),
        row("age", "group", "a", "", "q3", "", "min_rows 10"),
    ]
    table = table_one(rows, alias="t1")
    assert table is not None
    assert table.rows[:2] == [
        ["age, mean (SD)", "61.23 (10.4)", "60 (withheld)", "0.052"],
        ["age, median [Q1, Q3]", "61.5 [54, 68.25]", "withheld", ""],
    ]


def test_its_files_run_nothing() -> None:
    table = table_one(ROWS, alias="t1")
    assert table is not None
    assert "'  =F,112 (51.0 %),withheld," in table.to_csv()
    latex = grid_as_latex(table.columns, table.rows)
    assert r"=F & 112 (51.0 \%) & withheld" in latex


def test_without_groups_there_is_one_column() -> None:
    rows = [
        {
            "column": "age",
            "level": None,
            "quantity": "mean",
            "t1": 61.5,
            "withheld": None,
        },
        {"column": "age", "level": None, "quantity": "sd", "t1": 2, "withheld": None},
    ]
    table = table_one(rows, alias="t1")
    assert table is not None
    assert (table.columns, table.rows) == (
        ["", "All"],
        [["age, mean (SD)", "61.5 (2)"]],
    )


@pytest.mark.parametrize("rows", [[], [{"x": 1}], [{"column": "a", "quantity": "n"}]])
def test_other_answers_are_no_such_table(rows: list[dict[str, Any]]) -> None:
    assert table_one(rows, alias="t1") is None
