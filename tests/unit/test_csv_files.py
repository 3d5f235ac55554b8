"""What is wrong with a csv file is said by its line, its column and a remedy, and no
sentence holds what stands in a row.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.rows.csv_files import MAX_LINE_BYTES, check_lines, csv_fault, csv_header
from agents.rows.file_rows import read_file
from agents.rows.files import open_data_file
from protocol.errors import BadRequest, ConsiliumError, TooLarge

SECRET = "4711"


def fault(folder: Path, content: str | bytes, column: str = "x") -> ConsiliumError:
    """What is said of a file of which a column is asked for."""
    raw = content.encode() if isinstance(content, str) else content
    (folder / "a.csv").write_bytes(raw)
    with (
        open_data_file(folder, "a.csv", patterns=["*"]) as file,
        duckdb.connect() as connection,
        pytest.raises(ConsiliumError) as caught,
    ):
        read_file(connection, file, "csv", columns=[column], unique_id=None)
    assert SECRET not in str(caught.value)
    assert caught.value.remedy
    return caught.value


LINES = [
    (f"id,x\n1,{SECRET}\r\n2,5\n", "Line 2", "ends with CR LF", "one kind of line"),
    (f"id,x\r\n1,{SECRET}\r\n2,5\n", "Line 3", "ends with line feed", "one kind"),
    (f"id,x\n1,{SECRET}\n2,5\r3,6\n", "Line 3", "ends with CR,", "one kind"),
    (f"id,x\r\r\n1,{SECRET}\r\r\n", "Line 2", "the first one with CR", "one kind"),
    (f'id,x\n1,"{SECRET}\n2,3\n', "line 2", "is not closed", "Close every quote"),
    (
        f'id,x\n1,"a\nb"\n2,"{SECRET}"0\n',
        "line 4",
        "follows its last quote",
        "Close every",
    ),
    (f"id,x\n1,{SECRET}\n2\n", "Line 3", "1 field, its header 2", "in quotes"),
    (f'id,x\n1,"a\nb"\n\n2,{SECRET},5\n', "Line 5", "3 fields, its header 2", "delete"),
    (f"id,x,\n1,{SECRET}\n", "Line 2", "2 fields, its header 3", "Correct"),
    (f"id,x\n1;{SECRET}\n", "Line 2", "1 field, its header 2", "Correct"),
    (f"id,x\n1,{SECRET}\n(1 row)\n", "Line 3", "1 field", "delete"),
    (f"id,x\n1,{SECRET}\n2,5\0\n", "Line 3", "NUL", "damaged"),
    (f"id,x\n1,{SECRET}\n2,é\n".encode("latin-1"), "line 3", "UTF-8", "UTF-8"),
]


def test_a_fault_of_a_line_names_it(tmp_path: Path) -> None:
    for content, where, problem, remedy in LINES:
        error = fault(tmp_path, content)
        assert isinstance(error, BadRequest)
        assert error.code in ("csv", "encoding")
        assert where in error.sentence, content
        assert problem in error.sentence, content
        assert remedy in error.remedy, content


def test_a_line_that_duckdb_cannot_read_is_refused_wherever_it_stands(
    tmp_path: Path,
) -> None:
    """DuckDB leaves a last line out without a word that is longer than its buffer of 32
    MB: sixteen of the longest lines that it reads.
    """
    rows = f"id,x\r\n1,{SECRET}\r\n"
    for n in (MAX_LINE_BYTES - 2, MAX_LINE_BYTES - 1, 16 * MAX_LINE_BYTES):
        (tmp_path / "a.csv").write_text(f"{rows}2,{'9' * n}")
        with open_data_file(tmp_path, "a.csv", patterns=["*"]) as file:
            if n + 2 <= MAX_LINE_BYTES:
                check_lines(file)
                continue
            with pytest.raises(BadRequest, match=r"^Line 3 .* longer than 2,000,000"):
                check_lines(file)
    inside = fault(tmp_path, f'{rows}2,"{"9999 " * 300_000}\n{"9999 " * 300_000}"\r\n')
    assert "row that begins in line 3" in inside.sentence


HEADERS = [
    ('id,"x\ny"\n1,4711\n', "csv", "line break, in the name of column 2"),
    ('id,"x\n1,4711\n2,5\n', "csv", "in line 1"),
    (
        "\ufeff\ufeffx,id\n4711,1\n",
        "missing_column",
        "column 1 (U+FEFF BYTE ORDER MARK)",
    ),
    ("id,x\u200b\n1,4711\n", "missing_column", "column 2 (U+200B ZERO WIDTH SPACE)"),
    ("id,x\u00a0y\n1,4711\n", "missing_column", "column 2 (U+00A0 NO-BREAK SPACE)"),
    (
        "id,x\ty,x\x01\n1,4,7\n",
        "missing_column",
        "column 2 (U+0009 TAB), column 3 (U+0001",
    ),
    ("id,'x'\n1,'4711'\n", "csv", "other quotes"),
    ("id,“x”\n1,“4711”\n", "csv", "other quotes"),
    (f"id,x{'y' * 1_000_000}\n1,2\n", "csv", "longer than 1,000,000 bytes"),
    (f"id,x{'y' * 200_000}\n1,2\n", "csv", "longer than 131,072 characters"),
    ("\n\nid,x\n1,4711\n", "no_header", "is empty"),
    ("sep=;\nid;x\n1;4711\n", "no_header", "names a delimiter"),
    ("Export,\nid,x\n1,4711\n", "no_header", "1 field, the second one has 2"),
    ("2024-05-06,Li\n2024-05-07,4711\n", "no_header", "numbers or dates"),
    ('{"id": 1, "x": 4711}\n', "no_header", "begins as json"),
    ("<table><tr><td>4711\n", "no_header", "web page"),
    ("Wang,4711-A,f\nLi,4712-B,m\n", "missing_column", "first line has 3 fields"),
    ("Wang-4711,NA,f\nLi,1,m\n", "missing_column", "first line has 3 fields"),
    ("id,X\n1,4711\n", "missing_column", "they have id, X"),
    ("\ufeff\n", "empty_file", "empty"),
    (b"PK\x03\x04\x14\0", "encoding", "Excel workbook"),
    ("id,x\n1,4711\n".encode("utf-16-le"), "encoding", "UTF-16"),
    ("id,x\n1,4711\n".encode("utf-32"), "encoding", "UTF-16"),
]


def test_a_header_that_nobody_can_ask_by_is_explained(tmp_path: Path) -> None:
    for content, code, problem in HEADERS:
        error = fault(tmp_path, content)
        assert (error.code, problem in error.sentence) == (code, True), error.sentence


def test_columns_without_a_name_are_left_out_and_others_are_not_looked_at(
    tmp_path: Path,
) -> None:
    for content, columns, found in (
        (",id,x,\n0,1,4,\n", None, ["id", "x"]),
        ('id\u200b,"y\nz", "x"\n1,2, "4"\n', ["x"], ["x"]),
    ):
        (tmp_path / "a.csv").write_text(content)
        with (
            open_data_file(tmp_path, "a.csv", patterns=["*"]) as file,
            duckdb.connect() as connection,
        ):
            read_file(connection, file, "csv", columns=columns, unique_id=None)
            described = connection.execute("DESCRIBE identified_rows").fetchall()
            assert [row[0] for row in described[:-1]] == found


def test_too_many_columns_for_a_digest_of_the_row(tmp_path: Path) -> None:
    names = ",".join(f"c{i}" for i in range(901))
    error = fault(tmp_path, f"{names}\n", column="c1")
    assert isinstance(error, TooLarge)
    assert "unique_ids" in error.remedy
    missing = fault(tmp_path, f"{names}\n{names.replace('c', '')}\n", column="d")
    assert "c29 and 871 more" in missing.sentence


TOKENS = ["1", "a", ",", ",", "\n", "\n", '"', '"', '""', " ", "\r\n", "\r", "é"]


@pytest.mark.thorough
@given(st.lists(st.sampled_from(TOKENS), max_size=14))
def test_whatever_duckdb_does_not_read_has_its_place(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.csv").write_bytes(("a,b\n" + "".join(tokens)).encode())
    with (
        open_data_file(folder, "any.csv", patterns=["*"]) as file,
        duckdb.connect() as connection,
    ):
        try:
            read_file(connection, file, "csv", columns=["b"], unique_id=None)
            return
        except BadRequest as error:
            found = error.sentence
    assert "ine " in found


def test_the_delimiter_is_that_of_the_needed_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id;x;"a,b,c,d"\n1;2;3\n')
    with open_data_file(tmp_path, "a.csv", patterns=["*"]) as file:
        assert csv_header(file, ["x"]) == (";", ["id", "x", "a,b,c,d"])
        assert csv_fault(file, ";", 3).sentence == "The csv file cannot be read."
