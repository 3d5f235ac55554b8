"""A driver's error is told apart by its class or number, in whatever language the
server speaks.
"""

from __future__ import annotations

import duckdb
import psycopg
import pymysql
import pytest
import sqlalchemy as sa

from agents.rows.faults import database_fault, reading_fault

SECRET = "Zhang San"


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (
            psycopg.errors.UndefinedColumn('column "x9" does not exist'),
            "missing_column",
            "x9",
        ),
        (
            psycopg.errors.UndefinedColumn("column t.x9 does not exist"),
            "missing_column",
            "t.x9",
        ),
        (psycopg.errors.UndefinedColumn('字段 "x9" 不存在'), "missing_column", "x9"),
        (
            psycopg.errors.UndefinedColumn("字段不存在"),
            "missing_column",
            "does not exist",
        ),
        (
            psycopg.errors.UndefinedColumn('column "a-b" of relation "t"'),
            "missing_column",
            "does not exist",
        ),
        (
            pymysql.err.OperationalError(
                1054, "Unknown column 'blood-type' in 'field list'"
            ),
            "missing_column",
            "that does",
        ),
        (
            pymysql.err.ProgrammingError(1146, "Table 'his-db.visits' doesn't exist"),
            "missing_table",
            "that does",
        ),
        (
            duckdb.OutOfMemoryException("Out of Memory Error: could not allocate"),
            "memory",
            "more memory",
        ),
        (
            psycopg.errors.UndefinedTable('关系 "data.visits" 不存在'),
            "missing_table",
            "data.visits",
        ),
        (
            psycopg.errors.UndefinedTable("la relation « data.visits » n’existe pas"),
            "missing_table",
            "data.visits",
        ),
        (
            psycopg.errors.QueryCanceled("由于语句执行超时, 正在取消查询命令"),
            "statement_timeout",
            "longer than",
        ),
        (
            psycopg.errors.InvalidTextRepresentation(f'invalid input "{SECRET}"'),
            "sql",
            "InvalidText",
        ),
        (
            pymysql.err.OperationalError(1054, "Champ 'x9' inconnu dans field list"),
            "missing_column",
            "x9",
        ),
        (
            pymysql.err.ProgrammingError(1146, "Table 'data.visits' doesn't exist"),
            "missing_table",
            "data.visits",
        ),
        (
            pymysql.err.OperationalError(3024, "Query execution was interrupted"),
            "statement_timeout",
            "longer",
        ),
        (
            pymysql.err.OperationalError(1969, "Query execution was interrupted"),
            "statement_timeout",
            "longer",
        ),
        (
            pymysql.err.DataError(1366, f"Incorrect value: '{SECRET}'"),
            "sql",
            "DataError",
        ),
        (
            duckdb.BinderException('Referenced column "x9" not found in FROM clause!'),
            "missing_column",
            "x9",
        ),
        (
            duckdb.CatalogException(
                "Catalog Error: Table with name visits does not exist!"
            ),
            "missing_table",
            "visits",
        ),
        (
            duckdb.ConversionException(f"Could not convert string '{SECRET}' to INT32"),
            "sql",
            "Conversion",
        ),
        (
            duckdb.InterruptException("INTERRUPT Error: Interrupted!"),
            "statement_timeout",
            "longer than",
        ),
        (
            duckdb.IOException("Could not set lock: Conflicting lock is held (PID 71)"),
            "database_locked",
            "PID 71",
        ),
        (
            duckdb.IOException('Cannot open file "/srv/x.duckdb"'),
            "database",
            "does not answer",
        ),
    ],
)
def test_a_database_s_error_by_its_class(
    error: Exception, code: str, name: str
) -> None:
    wrapped = sa.exc.DBAPIError.instance("SELECT 1", {}, error, Exception)
    for fault in (database_fault(error, 5.0), database_fault(wrapped, 5.0)):
        assert fault.code == code
        assert name in fault.sentence
        assert SECRET not in str(fault)
        assert "/srv" not in str(fault)


def test_a_server_that_does_not_answer() -> None:
    error = sa.exc.OperationalError(
        "SELECT 1", {}, psycopg.OperationalError("connection refused")
    )
    assert database_fault(error, 5.0).code == "database"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            duckdb.InterruptException("INTERRUPT Error: Interrupted!"),
            "statement_timeout",
        ),
        (
            duckdb.OutOfMemoryException("Out of Memory Error: could not allocate"),
            "memory",
        ),
        (duckdb.IOException("IO Error: No space left on device"), "disk"),
        (
            duckdb.PermissionException(
                "Permission Error: file system operations are disabled"
            ),
            "changed",
        ),
        (duckdb.IOException('IO Error: Cannot open file "/srv/x.csv"'), "changed"),
        (
            duckdb.InvalidInputException(
                f"CSV Error on Line: 7 Expected Number of Columns: 2 {SECRET}"
            ),
            "unreadable",  # the file's own lines say more: agents.rows.csv_files
        ),
        (
            duckdb.InvalidInputException(
                f"Invalid unicode (byte sequence mismatch) {SECRET}"
            ),
            "encoding",
        ),
        (
            duckdb.InvalidInputException("No magic bytes found at end of file"),
            "unreadable",
        ),
    ],
)
def test_an_error_of_reading_by_its_class(error: duckdb.Error, code: str) -> None:
    fault = reading_fault(error, 5.0, "csv")
    assert fault.code == code
    assert SECRET not in str(fault)
    assert "/srv" not in str(fault)
