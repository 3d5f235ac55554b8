"""The committed text that SQL Server and Oracle are sent, as no server of either runs
where the tests run: what changes in it, somebody has to read who has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import duckdb
import pytest
import sqlglot
from make_server_sql import FILES, FOREIGN, PATH_OF, checked, file_text
from sqlglot import exp

BLOCKS = {
    dialect: re.findall(r"^-- (.*)\n((?:(?!-- ).+\n)+)", file_text(dialect), re.M)
    for dialect in FILES
}
CASES = [(dialect, name, text) for dialect in FILES for name, text in BLOCKS[dialect]]


@pytest.mark.parametrize("dialect", FILES)
def test_the_script_still_writes_these_texts(dialect: str) -> None:
    assert PATH_OF[dialect].read_text("utf-8") == file_text(dialect)


@pytest.mark.parametrize(("dialect", "name", "text"), CASES)
def test_a_text_is_one_select_of_its_dialect(
    dialect: str, name: str, text: str
) -> None:
    (statement,) = sqlglot.parse(text, read=dialect)
    assert isinstance(statement, exp.Select | exp.Union), name
    tables = {table.name.upper() for table in statement.find_all(exp.Table)}
    assert tables <= {"VISITS", "LAB RESULTS", "A", "CONSILIUM_ROWS"}


@pytest.fixture(scope="module")
def visits() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA HIS")
        connection.execute(
            "CREATE TABLE HIS.VISITS AS SELECT i AS ID, i % 7 AS AGE, CASE WHEN i % 3 = 0 THEN NULL WHEN i % 3 = 1"
            " THEN 'f' ELSE 'O''Brien 50%' END AS SEX, TIMESTAMP '2024-05-06 07:00:00' + INTERVAL (i) MINUTE AS SEEN,"
            " i % 2 AS ALIVE, CASE WHEN i % 5 = 0 THEN 'A[1-3]x9' ELSE 'b' END AS WARD FROM range(40) r(i)"
        )
        yield connection


# What DuckDB has no word for, or reads in another way
ELSEWHERE = {
    "tsql": ("listed columns", "a text beyond ASCII", "patterns", "truth"),
    "oracle": (
        "all columns",
        "listed columns",
        "a text beyond ASCII",
        "truth",
        "moments",
    ),
}
COMPARED = [
    (dialect, name)
    for dialect in FILES
    for name in FOREIGN
    if name not in ELSEWHERE[dialect]
]


@pytest.mark.parametrize(("dialect", "name"), COMPARED)
def test_a_filter_means_the_same_as_in_duckdb(
    dialect: str, name: str, visits: duckdb.DuckDBPyConnection
) -> None:
    """As sqlglot reads the text, which has no part in writing it."""
    ours = checked(FOREIGN[name], dialect, requester=4).sql
    (translated,) = sqlglot.transpile(ours, read=dialect, write="duckdb")
    expected = checked(FOREIGN[name], "duckdb", requester=4).sql
    rows = visits.execute(translated).fetchall()
    assert rows == visits.execute(expected).fetchall()
    assert rows
