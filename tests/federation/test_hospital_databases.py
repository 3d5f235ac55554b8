"""A hospital's rows on a real PostgreSQL and a real MariaDB: read-only, limited, no
values in errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import sqlalchemy as sa

from agents.rows.allowed_sql import CheckedQuery, check_sql
from agents.rows.cohort import build_cohort
from agents.rows.database import Source, open_source
from agents.rows.reading import open_query
from agents.site.policy import parse_policy
from agents.site.settings import SiteSettings
from protocol.errors import BadRequest, TooLarge, Unavailable
from protocol.policy import Policy
from tests.made_databases import MARIADB, POSTGRES, create_schema, drop_schema
from tests.made_rows import site_at

pytestmark = pytest.mark.slow

SCHEMA = f"consilium_test_{os.getpid()}"


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


def site(url: str, **changes: Any) -> SiteSettings:
    return site_at(url, Path(gettempdir()) / SCHEMA, **changes)


def n_rows(url: str, query: CheckedQuery, unique_id: str, **changes: Any) -> int:
    with open_query(
        site(url, **changes), query, unique_id=unique_id, columns=[unique_id]
    ) as rows:
        return rows.n_rows


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
    create_schema(address, SCHEMA)
    try:
        _fill(sa.create_engine(address, poolclass=sa.pool.NullPool))
        yield address
    finally:
        drop_schema(address, SCHEMA)


def _fill(engine: sa.Engine) -> None:
    table = f"{SCHEMA}.patients"
    rows = [
        (
            i,
            i % 2,
            i * 1.25,
            f"{i}.5",
            "f" if i % 3 else "m",
            20 + i,
            "50%" if i % 2 else "O'Brien",
        )
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
    query = checked(f"SELECT * FROM {SCHEMA}.patients;", source)
    options = {"unique_id": "id", "columns": ["x1", "x2", "y"]}
    with open_query(site(url), query, **options) as rows:  # type: ignore[arg-type]
        cohort = build_cohort(
            rows,
            unique_id="id",
            attributes=["x1", "x2"],
            label_name="y",
            model_type="lr",
        )
    assert cohort.unique_ids == [str(i) for i in range(40)]
    assert cohort.X.tolist() == [[i * 1.25, i + 0.5] for i in range(40)]
    assert cohort.y is not None
    assert cohort.y.tolist() == [i % 2 for i in range(40)]


def test_whole_numbers_beside_a_null_are_no_floats(url: str) -> None:
    source = open_source(url)
    cells = "CASE WHEN id > 0 THEN 9007199254740993 + id END AS n, CASE WHEN id > 0 THEN x1 END AS x"
    query = checked(f"SELECT {cells} FROM {SCHEMA}.patients", source, requester=2)
    with open_query(site(url), query, unique_id="n", columns=["n", "x"]) as rows:
        assert list(rows.columns.values()) == ["HUGEINT", "DOUBLE"]
        found = rows.query("SELECT CAST(n AS VARCHAR) FROM rows ORDER BY n")
    assert found[:39] == [(str(2**53 + 1 + i),) for i in range(1, 40)]
    assert found[39:] == [(None,)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("sex = 'm'", 14),
        ("NOT (sex = 'm' OR age BETWEEN 30 AND 100)", 6),
        ("note LIKE '50%'", 20),
        ("note IN ('O''Brien', 'x') AND age IS NOT NULL", 20),
        ("age >= -1.5e2", 40),
    ],
)
def test_filters_of_another_hospital_mean_what_they_say(
    url: str, where: str, expected: int
) -> None:
    source = open_source(url)
    query = checked(f"SELECT x1 FROM {SCHEMA}.patients WHERE {where}", source)
    assert n_rows(url, query, "x1") == expected


def test_own_user_may_join_and_compute(url: str) -> None:
    source = open_source(url)
    text = (
        f"WITH a AS (SELECT id, x1 - avg(x1) OVER () AS z FROM {SCHEMA}.patients) SELECT a.z, coalesce(p.x2, 0) AS c"
        f" FROM a JOIN {SCHEMA}.patients p ON a.id = p.id WHERE p.note = '50%'"
    )
    query = checked(text, source, requester=2)
    with open_query(site(url), query, unique_id="z", columns=None) as rows:
        assert (rows.n_rows, list(rows.columns)) == (20, ["z", "c"])


def test_two_columns_of_one_name_are_told_where_they_matter(url: str) -> None:
    source = open_source(url)
    text = f"SELECT p.*, q.id FROM {SCHEMA}.patients p JOIN {SCHEMA}.patients q ON p.id = q.id"
    query = checked(text, source, requester=2)
    with pytest.raises(BadRequest, match="more than one column id") as caught:
        n_rows(url, query, "id")
    assert caught.value.code == "duplicate_column"
    if source.dialect == "postgres":
        assert n_rows(url, query, "note") == 40


def test_row_limit_at_below_and_above(url: str) -> None:
    for max_rows, fits in ((39, False), (40, True), (41, True)):
        query = checked(f"SELECT x1 FROM {SCHEMA}.patients", open_source(url))
        if fits:
            assert n_rows(url, query, "x1", max_rows=max_rows) == 40
        else:
            with pytest.raises(TooLarge, match="39"):
                n_rows(url, query, "x1", max_rows=max_rows)


def test_missing_names_are_named_and_nothing_else_is(url: str) -> None:
    source = open_source(url)
    with pytest.raises(BadRequest, match="no column nope") as caught:
        source.described(checked(f"SELECT nope FROM {SCHEMA}.patients", source))
    assert caught.value.code == "missing_column"
    with pytest.raises(BadRequest) as caught:
        source.described(
            CheckedQuery((), f"SELECT 1 FROM {SCHEMA}.nothing", source.dialect, 10)
        )
    assert caught.value.code == "missing_table"


def test_writes_are_refused_by_the_connection_itself(url: str) -> None:
    source = open_source(url)
    for text in (
        f"DELETE FROM {SCHEMA}.patients",
        f"UPDATE {SCHEMA}.patients SET y = 0",
    ):
        # As it is: within a SELECT it would be none that a database reads.
        with pytest.raises(sa.exc.DBAPIError), source._connection() as connection:
            connection.exec_driver_sql(text)
    assert n_rows(url, checked(f"SELECT id FROM {SCHEMA}.patients", source), "id") == 40


def test_a_slow_statement_is_stopped(url: str) -> None:
    source = open_source(url)
    tables = ", ".join(f"{SCHEMA}.patients t{i}" for i in range(8))
    total = " + ".join(f"t{i}.x1" for i in range(8))
    query = CheckedQuery(
        (), f"SELECT count(*) AS n FROM {tables} WHERE {total} < -1", source.dialect, 10
    )
    with pytest.raises(TooLarge) as caught:
        n_rows(url, query, "n", statement_timeout_seconds=0.5)
    assert caught.value.code == "statement_timeout"


def test_a_value_in_the_drivers_error_is_dropped(url: str) -> None:
    source = open_source(url)
    with pytest.raises((BadRequest, Unavailable)) as caught:
        n_rows(
            url,
            CheckedQuery(
                (),
                f"SELECT x1 FROM {SCHEMA}.patients WHERE age = DATE 'O-Brien'",
                source.dialect,
                9,
            ),
            "x1",
        )
    assert "Brien" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_describe_lists_the_table(url: str) -> None:
    found = {table.name: table.columns for table in open_source(url).describe()}
    assert found[f"{SCHEMA}.patients"] == ("id", "y", "x1", "x2", "sex", "age", "note")
