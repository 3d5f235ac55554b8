"""SQL Server and Oracle behind stand-ins of their drivers: what they are told before
anything is read, what is made of their answers, and how their faults are told apart.

No server of either was there: docs/hospital-it.md says so, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import oracledb
import pymssql
import pytest
import sqlalchemy as sa
from oracledb.errors import _Error

from agents.rows.allowed_sql import CheckedQuery
from agents.rows.canonical_text import canonical_sql
from agents.rows.database import Source, open_source
from agents.rows.faults import database_fault
from agents.rows.reading import open_dataset, open_query
from agents.site.policy import parse_policy
from protocol.errors import BadRequest, TooLarge, Unavailable
from tests.fake_servers import URLS, Answer, columns, serve
from tests.made_rows import site_at

POLICY = parse_policy("""
[orders]
initiators = [2, 4]
methods = ["Mask"]
model_types = ["lr"]
sign = true
[tables."HIS.T"]
columns = ["*"]
unique_id = "ID"
[statistics]
methods = ["describe"]
""")
SECRET = "Zhang San"


def query(dialect: str, text: str = "SELECT x, ID FROM T") -> CheckedQuery:
    return CheckedQuery(("HIS.T",), text, dialect, 100)


def oracle_type(name: str, digits: int = 0, after_point: int = 0) -> tuple[Any, ...]:
    kind = getattr(oracledb, f"DB_TYPE_{name}")
    return (name, kind, None, None, digits, after_point, True)


def oracle_error(message: str) -> _Error:
    code = message.partition(":")[0]
    number = int(code[4:]) if code.startswith("ORA-") else 0
    return _Error(message=message, code=number)


def described_as(dialect: str, *kinds: Any) -> tuple[str, Answer]:
    """What a server answers when it is asked for a query's columns."""
    if dialect == "oracle":
        return "^parse", ([*kinds, ("ID", *oracle_type("VARCHAR")[1:])], ())
    rows = [(f"x{i}", kind, None, None) for i, kind in enumerate(kinds)]
    found = [*rows, ("ID", "varchar(9)", None, None)]
    return "describe_first_result_set", (columns("n", "t", "e", "m"), found)


# --- sessions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "isolation"), [(1, "SNAPSHOT"), (0, "READ COMMITTED")]
)
def test_what_sql_server_is_told_before_anything_is_read(
    state: int, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [
        ("snapshot_isolation_state", (columns("s"), [[state]])),
        ("INFORMATION_SCHEMA", (columns("a", "b", "c"), [["HIS", "T", "X"]])),
    ]
    server = serve(monkeypatch, "tsql", answers)
    source = open_source(URLS["tsql"], statement_timeout_seconds=7.2)
    assert [table.name for table in source.describe()] == ["HIS.T"]
    # The probe reads, and a transaction that has read can be made no snapshot.
    assert server.after("snapshot_isolation_state") == [
        "rollback",
        "SET LOCK_TIMEOUT 5000",
        "SET DEADLOCK_PRIORITY LOW",
        "SET LANGUAGE us_english",
        "SET DATEFORMAT ymd",
        "SET TEXTSIZE 2147483647",
        f"SET TRANSACTION ISOLATION LEVEL {isolation}",
        "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME FROM INFORMATION_SCHEMA.COLUMNS"
        " ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION",
        "rollback",
    ]
    assert server.arguments["read_only"] is True
    assert server.arguments["timeout"] == 8  # whole seconds, and never none
    assert server.arguments["login_timeout"] == 10
    assert "commit" not in server.sent
    assert all(connection.is_closed for connection in server.connections)


def test_what_oracle_is_told_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[Any] = [
        ("all_tab_columns", (columns("a", "b", "c"), [["HIS", "T", "X"]]))
    ]
    server = serve(monkeypatch, "oracle", answers)
    source = open_source(URLS["oracle"], statement_timeout_seconds=7.2)
    assert [table.name for table in source.describe()] == ["HIS.T"]
    *told, catalogue, end = server.after("1.1")
    assert told == [
        "rollback",
        "call_timeout 7200",
        "ALTER SESSION SET NLS_NUMERIC_CHARACTERS = '.,'",
        "ALTER SESSION SET NLS_DATE_FORMAT = 'YYYY-MM-DD HH24:MI:SS'",
        "ALTER SESSION SET NLS_TIMESTAMP_FORMAT = 'YYYY-MM-DD HH24:MI:SS.FF'",
        "ALTER SESSION SET NLS_COMP = BINARY",
        "ALTER SESSION SET NLS_SORT = BINARY",
        "ALTER SESSION SET TIME_ZONE = '+00:00'",
        "SET TRANSACTION READ ONLY",
    ]
    assert catalogue.startswith(
        "SELECT owner, table_name, column_name FROM all_tab_columns"
    )
    assert end == "rollback"
    assert "commit" not in server.sent


# --- descriptions -----------------------------------------------------------------------


def test_a_query_is_described_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "SELECT x FROM T WHERE a = 'O''Brien 女' ORDER BY x;"
    server = serve(monkeypatch, "tsql", [described_as("tsql", "int")])
    open_source(URLS["tsql"]).described(query("tsql", text))
    (asked,) = [sent for sent in server.sent if "first_result_set" in sent]
    inner = "SELECT x FROM T WHERE a = ''O''''Brien 女'' ORDER BY x"
    assert f"(N'{inner}', NULL, 0)" in asked
    assert not any(sent.startswith(("SELECT x", "WITH")) for sent in server.sent)
    server = serve(monkeypatch, "oracle", [described_as("oracle")])
    open_source(URLS["oracle"]).described(query("oracle", text))
    assert f"parse {text[:-1]}" in server.sent
    assert not any(sent.startswith(("SELECT x", "WITH")) for sent in server.sent)


@pytest.mark.parametrize(
    ("number", "message", "code", "words"),
    [
        (207, "Invalid column name 'x9'.", "missing_column", "no column x9"),
        (208, "对象名 'his.t9' 无效。", "missing_table", "no table his.t9"),
        (11529, f"The metadata could not be determined {SECRET}", "sql", "error 11529"),
    ],
)
def test_sql_server_tells_in_a_row_what_is_wrong(
    number: int, message: str, code: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (columns("n", "t", "e", "m"), [(None, None, number, message)])
    serve(monkeypatch, "tsql", [("first_result_set", found)])
    with pytest.raises(BadRequest, match=words) as caught:
        open_source(URLS["tsql"]).described(query("tsql"))
    assert caught.value.code == code
    assert SECRET not in str(caught.value)


def test_oracle_tells_while_it_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    error = oracledb.DatabaseError(
        oracle_error('ORA-00904: "T"."X9": invalid identifier')
    )
    serve(monkeypatch, "oracle", [("^parse", error)])
    with pytest.raises(BadRequest, match=r"no column T\.X9") as caught:
        open_source(URLS["oracle"]).described(query("oracle"))
    assert caught.value.code == "missing_column"


# --- values -----------------------------------------------------------------------------

# As its driver gives what the SELECT asks for: type, value, type and text of a dataset
VALUES: dict[str, list[tuple[Any, Any, str, str | None]]] = {
    "tsql": [
        ("bigint", 9007199254740993, "HUGEINT", "9007199254740993"),
        ("bit", 1, "BOOLEAN", "1"),
        ("decimal(8,2)", "-12.50", "DECIMAL(8,2)", "-12.5"),
        (
            "decimal(38,38)",
            "0." + 37 * "0" + "1",
            "DECIMAL(38,38)",
            "0." + 37 * "0" + "1",
        ),
        ("money", "922337203685477.5807", "DECIMAL(19,4)", "922337203685477.5807"),
        ("float", 0.1, "DOUBLE", "0.1"),
        ("float", 1e16, "DOUBLE", "10000000000000000"),
        # 0.1 of 32 bits, as Python has it
        ("real", 0.10000000149011612, "FLOAT", "0.1"),
        ("date", "2024-05-06", "VARCHAR", "2024-05-06"),
        ("datetime", "2024-05-06 00:00:00.000", "VARCHAR", "2024-05-06"),
        (
            "datetime2(7)",
            "2024-05-06 07:08:09.5000000",
            "VARCHAR",
            "2024-05-06 07:08:09.5",
        ),
        (
            "datetimeoffset(7)",
            "2024-05-05 23:00:00.0000000+00",
            "VARCHAR",
            "2024-05-05 23:00:00+00",
        ),
        ("time(7)", "08:30:00.0000000", "VARCHAR", "08:30:00"),
        ("char(3)", "A  ", "VARCHAR", "A"),
        ("nvarchar(9)", "女", "VARCHAR", "女"),
        ("nvarchar(9)", "", "VARCHAR", None),
        ("varbinary(2)", b"\x00a", "VARCHAR", r"\x00a"),
        ("int", None, "HUGEINT", None),
    ],
    "oracle": [
        (oracle_type("NUMBER", 38, 0), 38 * "9", "DECIMAL(38,0)", 38 * "9"),
        (oracle_type("NUMBER", 8, 2), "-.5", "DECIMAL(8,2)", "-0.5"),
        (oracle_type("NUMBER", 5, -2), "12300", "VARCHAR", "12300"),
        (oracle_type("NUMBER", 0, -127), ".000125", "VARCHAR", "0.000125"),
        (oracle_type("NUMBER", 126, -127), "1.5E+65", "VARCHAR", "15" + 64 * "0"),
        (oracle_type("BINARY_DOUBLE"), 0.1, "DOUBLE", "0.1"),
        (oracle_type("BINARY_FLOAT"), 0.10000000149011612, "FLOAT", "0.1"),
        (oracle_type("BOOLEAN"), True, "BOOLEAN", "1"),
        (oracle_type("DATE"), "2024-05-06 00:00:00", "VARCHAR", "2024-05-06"),
        (
            oracle_type("TIMESTAMP"),
            "2024-05-06 07:08:09.500000000",
            "VARCHAR",
            "2024-05-06 07:08:09.5",
        ),
        (
            oracle_type("TIMESTAMP_TZ"),
            "2024-05-05 23:00:00.000000000+00",
            "VARCHAR",
            "2024-05-05 23:00:00+00",
        ),
        (oracle_type("CHAR"), "A  ", "VARCHAR", "A"),
        (oracle_type("CLOB"), "女", "VARCHAR", "女"),
        (oracle_type("RAW"), b"\x00a", "VARCHAR", r"\x00a"),
        # Oracle has no empty text
        (oracle_type("VARCHAR"), None, "VARCHAR", None),
    ],
}


@pytest.mark.parametrize("dialect", VALUES)
def test_a_value_has_the_type_and_text_of_every_other_database(
    dialect: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cases = VALUES[dialect]
    kinds = [case[0] for case in cases]
    if dialect == "oracle":
        kinds = [(f"x{i}", *kind[1:]) for i, kind in enumerate(kinds)]
    names = [f"x{i}" for i in range(len(cases))]
    row = [*(case[1] for case in cases), "7"]
    answers = [
        described_as(dialect, *kinds),
        ("^WITH", (columns(*names, "id"), [row])),
    ]
    serve(monkeypatch, dialect, answers)
    with open_query(
        site_at(URLS[dialect], tmp_path),
        query(dialect),
        unique_id="ID",
        columns=names,
    ) as rows:
        types = rows.columns
        texts = [canonical_sql(name, types[name]) for name in names]
        (found,) = rows.query(f"SELECT {', '.join(texts)} FROM rows")
    assert list(types.values()) == [case[2] for case in cases]
    assert list(found) == [case[3] for case in cases]


@pytest.mark.parametrize(
    ("dialect", "kind", "word"),
    [
        ("tsql", "xml", "xml"),
        ("tsql", "geography", "geography"),
        ("tsql", None, "unknown"),
        ("oracle", oracle_type("INTERVAL_DS"), "interval_ds"),
        ("oracle", oracle_type("JSON"), "json"),
        ("oracle", oracle_type("OBJECT"), "object"),
    ],
)
def test_what_has_no_one_text_is_refused_by_its_name(
    dialect: str, kind: Any, word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve(monkeypatch, dialect, [described_as(dialect, kind)])
    name = kind[0] if dialect == "oracle" else "x0"
    with pytest.raises(BadRequest, match=word) as caught:
        n_rows(open_source(URLS[dialect]), [name], tmp_path)
    assert caught.value.code == "column_type"


def n_rows(source: Source, names: list[str], folder: Path) -> int:
    settings = site_at(URLS[source.dialect], folder)
    asked = query(source.dialect)
    with open_query(settings, asked, unique_id="ID", columns=names) as rows:
        return rows.n_rows


@pytest.mark.parametrize("dialect", URLS)
def test_rows_come_in_batches_and_not_one_too_many(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "int" if dialect == "tsql" else oracle_type("NUMBER")
    rows = [[i, str(i)] for i in range(40)]
    server = serve(
        monkeypatch,
        dialect,
        [described_as(dialect, kind), ("^WITH", (columns("c0", "c1"), rows))],
    )
    for max_rows, fits in ((39, False), (40, True), (41, True)):
        source = open_source(URLS[dialect], max_rows=max_rows)
        described = source.described(query(dialect))
        batches = source.stream(described, [0, 1], batch_rows=16)
        if not fits:
            with pytest.raises(TooLarge, match="39"):
                list(batches)
            continue
        assert [len(batch) for batch in batches] == [16, 16, 8]
        (sent,) = [
            text for text in server.after("READ ONLY|ISOLATION") if "WITH" in text
        ]
        limit = (
            f"TOP ({max_rows + 1})"
            if dialect == "tsql"
            else f"ROWNUM <= {max_rows + 1}"
        )
        assert limit in sent


def test_a_column_that_oracle_writes_in_capitals_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever orders names x1 of a table whose columns the policy does not list."""
    parsed = [
        ("X1", oracledb.DB_TYPE_NUMBER, None, None, 5, 0, True),
        ("ID", oracledb.DB_TYPE_NUMBER, None, None, 5, 0, True),
        ("consilium unique id", oracledb.DB_TYPE_NUMBER, None, None, 5, 0, True),
    ]
    rows = [[str(i), str(i)] for i in range(12)]
    server = serve(
        monkeypatch,
        "oracle",
        [("^parse", (parsed, ())), ("^WITH", (columns("c0", "c2"), rows))],
    )
    with open_dataset(
        site_at(URLS["oracle"], tmp_path),
        POLICY,
        data_path="his.t",
        data_type="table",
        requester=4,
        columns=["x1"],
    ) as data:
        assert (data.n_rows, data.columns) == (12, {"x1": "DECIMAL(5,0)"})
    (sent,) = [text for text in server.sent if text.startswith("parse")]
    assert sent == (
        'parse SELECT "HIS"."T".*, "ID" AS "consilium unique id" FROM "HIS"."T"'
    )


# --- faults -----------------------------------------------------------------------------


def sql_server(number: int, message: str) -> Exception:
    text = (
        f"{message}DB-Lib error message 20018, severity 16:\nGeneral SQL Server error"
    )
    return pymssql.OperationalError(number, text.encode())


def oracle(message: str) -> Exception:
    error = oracle_error(message)
    return error.exc_type(error)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (pymssql.ProgrammingError(207, b"Invalid column name 'x9'."), "missing_column", "no column x9"),
        (pymssql.ProgrammingError(207, "列名 'x9' 无效。".encode()), "missing_column", "no column x9"),
        (sql_server(4104, 'The multi-part identifier "p.x9" could not be bound.'), "missing_column", "p.x9"),
        (pymssql.ProgrammingError(208, b"Invalid object name 'his.t9'."), "missing_table", "his.t9"),
        (pymssql.ProgrammingError(208, f"Invalid object name '{SECRET}; x'.".encode()), "missing_table", "that does"),
        (sql_server(20003, "Adaptive Server connection timed out"), "statement_timeout", "longer than 5 seconds"),
        (sql_server(1222, "Lock request time out period exceeded."), "database", "Other programs"),
        (sql_server(1205, "was deadlocked on lock resources"), "database", "Other programs"),
        (sql_server(1105, "Could not allocate space"), "disk", "is full"),
        (sql_server(20047, "DBPROCESS is dead or not enabled"), "database", "does not answer"),
        (pymssql.OperationalError((18456, f"Login failed for '{SECRET}'".encode())), "database", "does not answer"),
        (pymssql.InterfaceError("Connection is closed."), "database", "does not answer"),
        # DiskFull and a doubled column of MySQL and MariaDB are other things here.
        (sql_server(1021, SECRET), "sql", "OperationalError"),
        (sql_server(1060, SECRET), "sql", "OperationalError"),
        (sql_server(245, f"Conversion failed when converting '{SECRET}'"), "sql", "did not accept"),
        (sql_server(8134, "Divide by zero error encountered."), "sql", "did not accept"),
        (oracle('ORA-00904: "X9": invalid identifier'), "missing_column", "no column X9"),
        (oracle('ORA-00904: "X9": 标识符无效'), "missing_column", "no column X9"),
        (oracle("ORA-00942: table or view does not exist"), "missing_table", "that does"),
        (oracle('ORA-00942: table or view "HIS"."T9" does not exist'), "missing_table", "no table HIS.T9"),
        (oracle("DPY-4024: call timeout of 5000 ms exceeded"), "statement_timeout", "longer than 5 seconds"),
        (oracle("ORA-01013: user requested cancel"), "statement_timeout", "longer than"),
        (oracle("ORA-01652: unable to extend temp segment"), "disk", "is full"),
        (oracle("ORA-01555: snapshot too old"), "database", "Other programs"),
        (oracle("ORA-01017: invalid username/password"), "database", "does not answer"),
        (oracle("ORA-12514: TNS:listener does not know"), "database", "does not answer"),
        (oracle("DPY-6005: cannot connect to database"), "database", "does not answer"),
        (oracle("ORA-03113: end-of-file on communication channel"), "database", "does not answer"),
        (oracle(f"ORA-01722: unable to convert '{SECRET}'"), "sql", "did not accept"),
        (oracle("ORA-00918: column ambiguously defined"), "sql", "did not accept"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_servers_error_by_its_number(error: Exception, code: str, words: str) -> None:
    wrapped = sa.exc.DBAPIError.instance("SELECT 1", {}, error, Exception)
    for fault in (database_fault(error, 5.0), database_fault(wrapped, 5.0)):
        assert fault.code == code
        assert words in fault.sentence
        assert SECRET not in str(fault)


@pytest.mark.parametrize("dialect", URLS)
def test_a_fault_between_two_batches_holds_no_value(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "int" if dialect == "tsql" else oracle_type("NUMBER")
    error = (
        sql_server(245, f"Conversion failed when converting '{SECRET}'")
        if dialect == "tsql"
        else oracle(f"ORA-01722: unable to convert '{SECRET}'")
    )
    rows: list[Any] = [[1, "1"], [2, "2"], error]
    server = serve(
        monkeypatch,
        dialect,
        [described_as(dialect, kind), ("^WITH", (columns("c0", "c1"), rows))],
    )
    source = open_source(URLS[dialect])
    described = source.described(query(dialect))
    batches = source.stream(described, [0, 1], batch_rows=2)
    assert next(batches) == [["1", "1"], ["2", "2"]]
    with pytest.raises(BadRequest) as caught:
        next(batches)
    assert caught.value.code == "sql"
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__
    assert server.connections[-1].is_closed


@pytest.mark.parametrize(
    "url",
    [
        "mssql+pymssql://reader:hush@127.0.0.1:1/his",
        "oracle+oracledb://reader:hush@127.0.0.1:1/?service_name=his",
        "oracle+oracledb://reader:hush@127.0.0.1:1/HIS?protocol=tcps",
    ],
)
def test_a_server_that_is_not_there_is_told_by_the_real_driver(url: str) -> None:
    with pytest.raises(Unavailable, match="does not answer") as caught:
        open_source(url).describe()
    assert caught.value.code == "database"
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("dialect", URLS)
def test_a_wrong_password_is_no_wrong_sql(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = (
        pymssql.OperationalError((18456, b"Login failed for user 'hush'."))
        if dialect == "tsql"
        else oracle("ORA-28009: connection as hush is not allowed")
    )

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    serve(monkeypatch, dialect, connect=refuse)
    with pytest.raises(Unavailable, match="user and password") as caught:
        open_source(URLS[dialect]).describe()
    assert "hush" not in str(caught.value)
