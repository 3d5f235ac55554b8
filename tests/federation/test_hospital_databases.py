"""A hospital's rows on a real PostgreSQL and a real MariaDB: read-only, limited, no values in errors."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from agents.rows.allowed_sql import CheckedQuery, check_sql
from agents.rows.cohort import build_cohort
from agents.rows.database import Source, open_source
from agents.site.policy import parse_policy
from protocol.errors import BadRequest, TooLarge, Unavailable
from protocol.policy import Policy

pytestmark = pytest.mark.slow

SCHEMA = f"consilium_test_{os.getpid()}"
POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
MARIADB = "mysql+pymysql://root@127.0.0.1:3306/"


def policy() -> Policy:
    return parse_policy(f"""
[orders]
initiators = [2, 4]
methods = ["Mask"]
model_types = ["lr"]
sign = true
[tables."{SCHEMA}.patients"]
columns = ["*"]
filter_columns = ["sex", "age", "note"]
""")


def checked(text: str, source: Source, *, requester: int = 4) -> CheckedQuery:
    return check_sql(
        text,
        policy=policy(),
        requester=requester,
        own_user_id=2,
        unique_id="id",
        label="y",
        dialect=source.dialect,
    )


@pytest.fixture(scope="module", params=["postgres", "mariadb"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    address = POSTGRES if request.param == "postgres" else MARIADB
    engine = sa.create_engine(address, poolclass=sa.pool.NullPool)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
    except sa.exc.OperationalError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no {request.param} here ({type(error.orig).__name__})")
    try:
        _fill(engine)
        yield address
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"DROP SCHEMA {SCHEMA}" + (" CASCADE" if request.param == "postgres" else "")
            )


def _fill(engine: sa.Engine) -> None:
    table = f"{SCHEMA}.patients"
    rows = [
        (i, i % 2, i * 1.25, f"{i}.5", "f" if i % 3 else "m", 20 + i, "50%" if i % 2 else "O'Brien")
        for i in range(40)
    ]
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE {table} (id INTEGER, y SMALLINT, x1 DOUBLE PRECISION, x2 DECIMAL(8, 2), sex VARCHAR(1),"
            " age INTEGER, note VARCHAR(20))"
        )
        connection.execute(
            sa.text(f"INSERT INTO {table} VALUES (:a, :b, :c, :d, :e, :f, :g)"),
            [dict(zip("abcdefg", row, strict=True)) for row in rows],
        )


def test_cohort_is_what_the_table_holds(url: str) -> None:
    source = open_source(url, statement_timeout_seconds=10, max_rows=1000)
    frame = source.read(checked(f"SELECT * FROM {SCHEMA}.patients;", source))
    cohort = build_cohort(frame, unique_id="id", attributes=["x1", "x2"], label_name="y", model_type="lr")
    assert cohort.unique_ids == [str(i) for i in range(40)]
    assert cohort.X.tolist() == [[i * 1.25, i + 0.5] for i in range(40)]
    assert cohort.y is not None
    assert cohort.y.tolist() == [i % 2 for i in range(40)]


def test_whole_numbers_beside_a_null_are_no_floats(url: str) -> None:
    source = open_source(url)
    cells = "CASE WHEN id > 0 THEN 9007199254740993 + id END AS n, CASE WHEN id > 0 THEN x1 END AS x"
    text = f"SELECT {cells} FROM {SCHEMA}.patients"
    frame = source.read(checked(text, source, requester=2)).sort_values("n")
    assert frame["n"].tolist()[:39] == [2**53 + 1 + i for i in range(1, 40)]
    assert frame["n"].isna().sum() == 1
    assert frame["x"].dtype == "float64"


@pytest.mark.parametrize(
    ("where", "n_rows"),
    [
        ("sex = 'm'", 14),
        ("NOT (sex = 'm' OR age BETWEEN 30 AND 100)", 6),
        ("note LIKE '50%'", 20),
        ("note IN ('O''Brien', 'x') AND age IS NOT NULL", 20),
        ("age >= -1.5e2", 40),
    ],
)
def test_filters_of_another_hospital_mean_what_they_say(url: str, where: str, n_rows: int) -> None:
    source = open_source(url)
    assert len(source.read(checked(f"SELECT x1 FROM {SCHEMA}.patients WHERE {where}", source))) == n_rows


def test_own_user_may_join_and_compute(url: str) -> None:
    source = open_source(url)
    text = (
        f"WITH a AS (SELECT id, x1 - avg(x1) OVER () AS z FROM {SCHEMA}.patients) SELECT a.z, coalesce(p.x2, 0) AS c"
        f" FROM a JOIN {SCHEMA}.patients p ON a.id = p.id WHERE p.note = '50%'"
    )
    assert source.read(checked(text, source, requester=2)).shape == (20, 2)


def test_row_limit_at_below_and_above(url: str) -> None:
    for max_rows, fits in ((39, False), (40, True), (41, True)):
        source = open_source(url, max_rows=max_rows)
        query = checked(f"SELECT x1 FROM {SCHEMA}.patients", source)
        if fits:
            assert len(source.read(query)) == 40
        else:
            with pytest.raises(TooLarge, match="39"):
                source.read(query)


def test_missing_names_are_named_and_nothing_else_is(url: str) -> None:
    source = open_source(url)
    with pytest.raises(BadRequest, match="no column nope") as caught:
        source.read(checked(f"SELECT nope FROM {SCHEMA}.patients", source))
    assert caught.value.code == "missing_column"
    with pytest.raises(BadRequest) as caught:
        source.read(CheckedQuery((), f"SELECT 1 FROM {SCHEMA}.nothing", source.dialect, 10))
    assert caught.value.code == "missing_table"


def test_writes_are_refused_by_the_connection_itself(url: str) -> None:
    source = open_source(url)
    for text in (f"DELETE FROM {SCHEMA}.patients", f"UPDATE {SCHEMA}.patients SET y = 0"):
        with pytest.raises((BadRequest, Unavailable)):
            source.read(CheckedQuery((), text, source.dialect, 10))
    assert len(source.read(checked(f"SELECT id FROM {SCHEMA}.patients", source))) == 40


def test_a_slow_statement_is_stopped(url: str) -> None:
    source = open_source(url, statement_timeout_seconds=0.5)
    tables = ", ".join(f"{SCHEMA}.patients t{i}" for i in range(8))
    total = " + ".join(f"t{i}.x1" for i in range(8))
    query = CheckedQuery((), f"SELECT count(*) FROM {tables} WHERE {total} < -1", source.dialect, 10)
    with pytest.raises(TooLarge) as caught:
        source.read(query)
    assert caught.value.code == "statement_timeout"


def test_a_value_in_the_drivers_error_is_dropped(url: str) -> None:
    source = open_source(url)
    with pytest.raises((BadRequest, Unavailable)) as caught:
        source.read(
            CheckedQuery(
                (), f"SELECT x1 FROM {SCHEMA}.patients WHERE age = DATE 'O-Brien'", source.dialect, 9
            )
        )
    assert "Brien" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_describe_lists_the_table(url: str) -> None:
    found = {table.name: table.columns for table in open_source(url).describe()}
    assert found[f"{SCHEMA}.patients"] == ("id", "y", "x1", "x2", "sex", "age", "note")
