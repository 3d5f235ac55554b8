"""One text for each value whatever it is read from, and who is in a reading."""

from __future__ import annotations

import functools
import math
import random
import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents.rows import canonical as canonical_digests
from agents.rows.canonical import FORM, Members, members_of
from agents.rows.canonical_text import (
    canonical_sql,
    canonical_text,
    row_sql,
    row_text,
    text_of_bytes,
)
from agents.rows.column_text import label_sql
from agents.rows.reading import open_dataset
from agents.rows.relation import UNIQUE_ID, quoted
from agents.site.settings import SiteSettings
from protocol.errors import BadRequest, ConsiliumError, Refused
from protocol.policy import CohortRules, OrderRules, Policy, StatisticsRules, TableRules
from tests.made_rows import opened_rows

OWN, OTHER = 2, 4
KEY = b"a key of this hospital, 32 bytes"
CHINA = timezone(timedelta(hours=8))

GOLDEN: list[tuple[object, str | None]] = [
    (7, "7"),
    (7.0, "7"),
    (Decimal("7.00"), "7"),
    ("7.", "7"),
    ("+7.0", "7"),
    (-0.0, "0"),
    ("-0.00", "0"),
    (Decimal("-0.0"), "0"),
    (0.1, "0.1"),
    (np.float32(0.1), "0.1"),
    (Decimal("0.10"), "0.1"),
    (".1", "0.1"),
    ("-.50", "-0.5"),
    (1e300, "1" + "0" * 300),
    ("1e300", "1" + "0" * 300),
    (Decimal("1e300"), "1" + "0" * 300),
    (1e-7, "0.0000001"),
    (Decimal("0.00000010"), "0.0000001"),
    (1.25e20, "125000000000000000000"),
    (10**40 + 1, "1" + "0" * 39 + "1"),
    (np.int64(2**53 + 1), "9007199254740993"),
    (Decimal("12345678901234567890.50"), "12345678901234567890.5"),
    (math.inf, "inf"),
    (True, "1"),
    (np.bool_(False), "0"),
    ("true", "1"),
    ("False", "0"),
    ("truer", "truer"),
    ("007", "007"),
    ("100e9", "100e9"),
    ("2E03", "2E03"),
    (date(2024, 5, 6), "2024-05-06"),
    (datetime(2024, 5, 6), "2024-05-06"),
    (pd.Timestamp("2024-05-06"), "2024-05-06"),
    (datetime(2024, 5, 6, 7, 8, 9, 500_000), "2024-05-06 07:08:09.5"),
    ("2024-05-06T07:08:09.500", "2024-05-06 07:08:09.5"),
    (datetime(2024, 5, 6, 7, tzinfo=CHINA), "2024-05-05 23:00:00+00"),
    (datetime(2024, 5, 5, 23, tzinfo=UTC), "2024-05-05 23:00:00+00"),
    ("2024-05-06 07:00:00+08", "2024-05-05 23:00:00+00"),
    ("2024-02-30 07:00:00Z", "2024-02-30 07:00:00Z"),
    (time(8, 30), "08:30:00"),
    (timedelta(hours=8, minutes=30), "08:30:00"),
    (pd.Timedelta(hours=8, minutes=30), "08:30:00"),
    (timedelta(days=1, hours=1), "1 day, 1:00:00"),
    ("08:30:00.250", "08:30:00.25"),
    (UUID(int=255), "00000000-0000-0000-0000-0000000000ff"),
    (b"ab'\x00", "ab\\x27\\x00"),
    (" cafe\u0301\u3000", "caf\u00e9"),
    ("Cafe", "Cafe"),
    ("", None),
    (" \t", None),
    (None, None),
    (math.nan, None),
    (np.float32("nan"), None),
    (pd.NA, None),
    (pd.NaT, None),
]


def written(value: object) -> str | None:
    """A value of Python as a database writes it."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, float | np.floating):
        # of a float of 32 bits the shortest of its own digits
        is_single = isinstance(value, np.floating) and not isinstance(value, float)
        shortest = str(value) if is_single else float.__repr__(value)
        return None if value != value else shortest
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return text_of_bytes(value)
    if isinstance(value, timedelta):
        return str(timedelta(value.days, value.seconds, value.microseconds))
    return str(value)


def canonical(value: object) -> str | None:
    text = written(value)
    return None if text is None else canonical_text(text)


@pytest.mark.parametrize(("value", "text"), GOLDEN, ids=lambda value: repr(value)[:40])
def test_each_value_has_one_text(value: object, text: str | None) -> None:
    assert canonical(value) == text


@functools.cache
def in_memory() -> duckdb.DuckDBPyConnection:
    """To open one takes longer than most of what is asked here."""
    return duckdb.connect()


def in_duckdb(values: Sequence[object], kind: str) -> list[str | None]:
    with in_memory().cursor() as connection:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE t (v {kind})")
        frame = pd.DataFrame({"v": pd.Series(values, dtype=object)})
        if kind in ("DOUBLE", "FLOAT"):
            dtype = np.float64 if kind == "DOUBLE" else np.float32
            frame = pd.DataFrame({"v": np.array(values, dtype=dtype)})
        connection.register("frame", frame)
        connection.execute("INSERT INTO t SELECT * FROM frame")
        found = connection.execute(f"SELECT {canonical_sql('v', kind)} FROM t")
        return [row[0] for row in found.fetchall()]


TEXTS = [value for value, _ in GOLDEN if isinstance(value, str) and value.strip()]


def test_sql_writes_texts_as_python_does() -> None:
    texts = [text.strip(" \t\u3000") for text in TEXTS]
    assert in_duckdb(texts, "VARCHAR") == [canonical_text(text) for text in texts]


@given(
    st.lists(
        st.from_regex(r"\A[+-]?[0-9]{0,4}\.?[0-9]{0,3}([eE][+-]?[0-9]{1,3})?\Z")
        | st.from_regex(
            r"\A[0-9]{4}-[01][0-9]-[0-3][0-9][ T][0-2][0-9]:[0-5][0-9]:[0-5][0-9]"
            r"(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:?[0-9]{2})?\Z"
        )
        | st.from_regex(
            r"\A[0-9]{1,2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,3})?([+-][0-9]{2})?\Z"
        )
        | st.text(
            st.characters(codec="utf-8", exclude_characters="\0", max_codepoint=0x4FF)
        ),
        min_size=1,
        max_size=20,
    )
)
@example(
    ["1000-01-01 00:00:00+23:59", "2999-12-31 23:59:59-23:59", "0000-00-00 00:00:00"]
)
def test_sql_and_python_write_any_text_alike(texts: list[str]) -> None:
    stripped = [text for text in texts if canonical_text(text) and text == text.strip()]
    found = in_duckdb(stripped, "VARCHAR") if stripped else []
    assert found == [canonical_text(text) for text in stripped]
    # what is written in the form already is not changed
    assert [canonical_text(text) for text in found] == found


@pytest.mark.parametrize("kind", ["DOUBLE", "FLOAT"])
def test_a_double_is_the_shortest_decimal_in_both(kind: str) -> None:
    draw = random.Random(kind)
    values: list[float] = [0.0, -0.0, 1e16, 1e22, 5e-324, 1.7e308, math.inf, -math.inf]
    for _ in range(2000):
        (value,) = struct.unpack("d", draw.randbytes(8))
        values += [value, draw.random() * 10 ** draw.randint(-6, 18)]
    dtype = np.float64 if kind == "DOUBLE" else np.float32
    with np.errstate(over="ignore"):
        numbers = [dtype(value) for value in values if not math.isnan(value)]
    assert in_duckdb(numbers, kind) == [canonical(value) for value in numbers]


KINDS: dict[str, list[object]] = {
    "BIGINT": [-(2**63), 2**53 + 1, 0],
    "HUGEINT": ["-170141183460469231731687303715884105728", "0"],
    "UHUGEINT": ["340282366920938463463374607431768211455"],
    "DECIMAL(5,2)": ["0.10", "-0.50", "100.00", "0.00", "123.45"],
    "DECIMAL(2,2)": ["0.10", "-0.10", "0.00"],
    "DECIMAL(20,0)": ["12345678901234567890", "100"],
    "DECIMAL(38,38)": ["0.00000000000000000000000000000000000001"],
    "BOOLEAN": [True, False],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_of_any_type_is_written_as_its_values_are(kind: str) -> None:
    expected = [canonical(value) for value in KINDS[kind]]
    assert in_duckdb(KINDS[kind], kind) == expected


# --- members ------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> SiteSettings:
    state = tmp_path / "state"
    (state / "data").mkdir(parents=True)
    return SiteSettings(
        site=tmp_path,
        user_id=OWN,
        name="here",
        coordinator_url="",
        data_url=f"duckdb:///{state}/hospital.duckdb",
        state=state,
    )


def policy(
    *, columns: tuple[str, ...] = ("*",), unique_ids: dict[str, str] | None = None
) -> Policy:
    def table() -> TableRules:
        return TableRules(columns=columns, filter_columns=("sex",), unique_id="pid")

    return Policy(
        orders=OrderRules(
            initiators=(OWN, OTHER), methods=("Mask",), model_types=("lr",), sign=True
        ),
        cohort=CohortRules(),
        tables={"Data.People": table(), "data.others": table()},
        statistics=StatisticsRules(
            methods=("sum",), files=("*",), unique_ids=unique_ids or {}
        ),
    )


N = 30
COLUMNS = ("whole", "wide", "rate", "double", "tiny", "born", "seen", "clock", "sex")
SELECT = f"""SELECT 110105194912310000 + i AS pid, i - 5 AS whole,
    12345678901234567890::DECIMAL(20, 0) + i AS wide, (i / 100)::DECIMAL(5, 2) AS rate,
    i / 7 AS double, i * 1e-9 AS tiny, DATE '1950-01-01' + i::INTEGER AS born,
    TIMESTAMP '2024-01-01 00:00:00' + to_milliseconds(i * 250) AS seen,
    TIME '08:00:00' + to_seconds(i) AS clock, CASE WHEN i % 2 = 0 THEN 'F' ELSE 'm ' END AS sex
    FROM range({N}) t(i)"""


@pytest.fixture
def people(settings: SiteSettings) -> SiteSettings:
    """The same rows as a table, csv, parquet and json."""
    with duckdb.connect(str(settings.state / "hospital.duckdb")) as connection:
        connection.execute("CREATE SCHEMA data")
        connection.execute(f"CREATE TABLE data.people AS {SELECT}")
        connection.execute("CREATE TABLE data.others AS SELECT 1 AS pid, 2 AS y")
        for name, options in (
            ("people.csv", "FORMAT csv"),
            ("people.parquet", "FORMAT parquet"),
            ("people.json", "FORMAT json"),
        ):
            path = settings.data_folder / name
            connection.execute(f"COPY data.people TO '{path}' ({options})")
    return settings


def members(
    settings: SiteSettings,
    data_path: str,
    data_type: str,
    columns: Sequence[str] = COLUMNS,
    **options: Any,
) -> Members:
    rules = options.pop("policy", policy())
    key = options.pop("key", KEY)
    options = {"requester": OWN, "columns": list(columns), **options}
    with open_dataset(
        settings, rules, data_path=data_path, data_type=data_type, **options
    ) as dataset:
        return members_of(dataset, columns, key=key)


def pairs(found: Members) -> dict[str, list[tuple[int, int]]]:
    """By column, what is compared: ids with values, in no particular order."""
    return {
        name: sorted(zip(found.ids.tolist(), values.tolist(), strict=True))
        for name, values in found.values.items()
    }


def trained(
    settings: SiteSettings,
    columns: Sequence[str],
    sql: str = "SELECT * FROM data.people",
) -> Members:
    """As a training order reads them."""
    with opened_rows(settings, sql, unique_id="pid", columns=columns) as rows:
        return members_of(rows, columns, key=KEY)


def test_the_same_rows_have_the_same_members_whatever_they_are_read_from(
    people: SiteSettings,
) -> None:
    named = policy(unique_ids={"people.*": "pid"})
    table = members(people, "data.people", "table")
    assert (table.form, table.is_whole_row, len(table.ids)) == (FORM, False, N)
    assert len(set(table.ids.tolist())) == N
    expected = pairs(table)
    assert pairs(trained(people, COLUMNS)) == expected
    for kind in ("csv", "parquet", "json"):
        found = members(people, f"people.{kind}", kind, policy=named)
        assert pairs(found) == expected, kind
        assert not found.is_whole_row


def test_every_digit_counts_in_both_ways(settings: SiteSettings) -> None:
    """Neighbours of 20 digits and beyond 2^53, of which doubles hold one only."""
    with duckdb.connect(str(settings.state / "hospital.duckdb")) as connection:
        connection.execute("CREATE SCHEMA data")
        connection.execute(
            "CREATE TABLE data.people AS SELECT 9007199254740992 + i AS pid,"
            " 12345678901234567890::DECIMAL(20, 0) + i AS wide,"
            " 9007199254740992 + i AS large FROM range(20) t(i)"
        )
        connection.execute(
            "INSERT INTO data.people VALUES (9007199254741992, NULL, NULL)"
        )
    columns = ("wide", "large")
    found = members(settings, "data.people", "table", columns)
    framed = trained(settings, columns)
    assert pairs(found) == pairs(framed)
    for digests in (found.ids, *found.values.values()):
        assert len(set(digests.tolist())) == 21
    assert found.values["wide"].tolist().count(0) == 1


def test_a_missing_value_is_zero_and_a_column_of_none_too(
    settings: SiteSettings,
) -> None:
    with duckdb.connect(str(settings.state / "hospital.duckdb")) as connection:
        connection.execute("CREATE SCHEMA data")
        connection.execute(
            "CREATE TABLE data.people AS SELECT * FROM (VALUES"
            " (1, NULL, 'NaN'::DOUBLE, NULL::DATE, 1), (2, ' ', 1.5, NULL, NULL))"
            " t(pid, x, y, z, w)"
        )
    found = trained(settings, ["x", "y", "z", "w"])
    is_missing = {name: (values == 0).tolist() for name, values in found.values.items()}
    assert is_missing == {
        "x": [True, True],
        "y": [True, False],
        "z": [True, True],
        "w": [False, True],
    }


def test_few_rows_have_the_members_that_many_would_have(
    settings: SiteSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns of every type, of the names too that the query's own parts have."""
    names = ("id", "v", "t", "c0", "l0", "c2")
    values = (
        "(i - 5)::BIGINT, i / 7, (i / 3)::FLOAT, (i / 100)::DECIMAL(5, 2),"
        " CASE WHEN i % 3 = 0 THEN NULL ELSE i / 9 END, i % 2 = 0"
    )
    made = ", ".join(f'"{name}"' for name in names)
    with duckdb.connect(str(settings.state / "hospital.duckdb")) as connection:
        connection.execute("CREATE SCHEMA data")
        connection.execute(
            f"CREATE TABLE data.people AS SELECT * FROM (SELECT i, {values},"
            f" 'text ' || i FROM range(40) r(i)) t(pid, {made}, sex)"
        )
    columns = (*names, "sex")
    few = members(settings, "data.people", "table", columns)
    monkeypatch.setattr(canonical_digests, "FEW_ROWS", 0)
    many = members(settings, "data.people", "table", columns)
    assert pairs(few) == pairs(many)
    for name in columns:
        assert len(set(few.values[name].tolist())) >= 2


def test_a_digest_is_of_the_key(people: SiteSettings) -> None:
    first = members(people, "data.people", "table", ["sex"])
    other = members(people, "data.people", "table", ["sex"], key=KEY[::-1])
    assert not set(first.ids.tolist()) & set(other.ids.tolist())
    assert "array" not in repr(first)


def test_the_key_is_in_no_error(people: SiteSettings) -> None:
    with open_dataset(
        people, policy(), data_path="data.people", data_type="table", requester=OWN
    ) as dataset:
        dataset.connection.execute("DROP VIEW rows")
        dataset.connection.execute("DROP TABLE identified_rows")
        with pytest.raises(ConsiliumError) as caught:
            members_of(dataset, ["sex"], key=KEY)
    told = f"{caught.value} {caught.value.detail} {caught.value.remedy}"
    assert caught.value.__cause__ is None
    assert KEY.decode() not in told
    assert KEY.hex() not in told


# --- whose rows they are ------------------------------------------------------------------


def test_the_unique_id_is_read_whatever_was_asked_and_seen_by_nobody(
    people: SiteSettings,
) -> None:
    """Another hospital may not read the column; its rows are known by it all the same."""
    closed = policy(columns=("whole", "sex"))
    whole = pairs(members(people, "data.people", "table", ["whole"]))
    for text, kind in (
        ("DATA.people", "table"),
        ("SELECT whole FROM data.people", "sql"),
    ):
        options = {"data_path": text, "data_type": kind, "requester": OTHER}
        with open_dataset(people, closed, columns=["whole"], **options) as dataset:
            assert list(dataset.columns) == ["whole"]
            assert dataset.population == "data.people"
            assert len(dataset.query("SELECT * FROM rows")[0]) == 1
            assert pairs(members_of(dataset, ["whole"], key=KEY)) == whole
            with pytest.raises(BadRequest):
                dataset.check_column(UNIQUE_ID)
        with open_dataset(people, closed, **options) as dataset:
            assert UNIQUE_ID not in dataset.columns
    with pytest.raises(Refused):
        members(people, "data.people", "table", ["pid"], policy=closed, requester=OTHER)


@pytest.mark.parametrize("requester", [OWN, OTHER])
@pytest.mark.parametrize("kind", ["table", "sql"])
def test_no_order_can_ask_for_it(
    people: SiteSettings, kind: str, requester: int
) -> None:
    text = "data.people" if kind == "table" else "SELECT * FROM data.people"
    for name in (UNIQUE_ID, UNIQUE_ID.upper()):
        with pytest.raises(ConsiliumError):
            members(people, text, kind, [name], requester=requester)


def test_no_data_may_have_a_column_of_that_name(people: SiteSettings) -> None:
    for name in (UNIQUE_ID, UNIQUE_ID.upper()):
        (people.data_folder / "a.csv").write_text(f"x,{name}\n1,2\n")
        with pytest.raises(BadRequest) as caught:
            members(people, "a.csv", "csv", [name])
        assert caught.value.code == "duplicate_column"
        sql = f'SELECT whole, pid AS "{name}" FROM data.people'
        with pytest.raises(ConsiliumError):
            members(people, sql, "sql", ["whole"])


def test_the_own_users_select_is_known_by_its_unique_id_or_by_its_whole_rows(
    people: SiteSettings,
) -> None:
    named = members(
        people,
        "SELECT whole + 0 AS whole, pid FROM data.people WHERE sex = 'F'",
        "sql",
        ["whole"],
    )
    assert not named.is_whole_row
    all_of_them = pairs(members(people, "data.people", "table", ["whole"]))["whole"]
    assert set(pairs(named)["whole"]) < set(all_of_them)
    for text, columns, n in (
        ("SELECT whole, sex FROM data.people", ["whole"], N),
        ("SELECT sex, count(*) AS n FROM data.people GROUP BY sex", ["n"], 2),
        (
            "SELECT a.pid, b.pid, a.whole FROM data.people a JOIN data.others b ON a.pid > b.pid",
            ["whole"],
            N,
        ),
    ):
        with open_dataset(
            people,
            policy(),
            data_path=text,
            data_type="sql",
            requester=OWN,
            columns=columns,
        ) as dataset:
            found = members_of(dataset, columns, key=KEY)
            assert list(dataset.columns) == columns
            expected = (
                ("data.people", "data.others") if "JOIN" in text else ("data.people",)
            )
            assert dataset.populations == expected
        assert found.is_whole_row
        assert len(set(found.ids.tolist())) == n


def test_a_file_is_known_by_the_column_that_the_policy_names_else_by_its_whole_rows(
    people: SiteSettings,
) -> None:
    rules = policy(unique_ids={"peo*.csv": "pid", "*": "whole"})
    with open_dataset(
        people,
        rules,
        data_path="people.csv",
        data_type="csv",
        requester=OTHER,
        columns=["sex"],
    ) as dataset:
        assert dataset.population == "file people.csv"
        assert not dataset.is_whole_row
    whole = {}
    for kind in ("csv", "parquet", "json"):
        path = f"people.{kind}"
        one, two = (members(people, path, kind, [name]) for name in ("sex", "born"))
        assert one.is_whole_row
        assert len(set(one.ids.tolist())) == N
        # of all columns, so the same whichever is asked for
        assert sorted(one.ids.tolist()) == sorted(two.ids.tolist())
        whole[kind] = sorted(one.ids.tolist())
    assert whole["csv"] == whole["parquet"] == whole["json"]


def test_a_row_without_the_named_column_or_id_is_refused(people: SiteSettings) -> None:
    rules = policy(unique_ids={"*": "patient"})
    for kind in ("csv", "parquet", "json"):
        with pytest.raises(BadRequest) as caught:
            members(people, f"people.{kind}", kind, ["sex"], policy=rules)
        assert caught.value.code == "missing_column"
        assert "patient" in str(caught.value)
    (people.data_folder / "a.csv").write_text("patient,x\n1,2\n,3\n")
    with pytest.raises(BadRequest) as caught:
        members(people, "a.csv", "csv", ["x"], policy=rules, requester=OTHER)
    assert caught.value.code == "null"
    assert "Fewer than 10 rows" in str(caught.value)


def test_several_rows_of_a_person_stay_several(people: SiteSettings) -> None:
    (people.data_folder / "a.csv").write_text("pid,x\n1,2\n1.0,3\n2,3\n")
    found = members(
        people, "a.csv", "csv", ["x"], policy=policy(unique_ids={"*": "pid"})
    )
    assert len(found.ids) == 3
    assert len(set(found.ids.tolist())) == 2


@pytest.mark.parametrize("kind", ["table", "csv", "parquet", "json", "sql"])
def test_a_snapshot_keeps_whose_the_rows_are(people: SiteSettings, kind: str) -> None:
    path = {"table": "data.people", "sql": "SELECT whole, sex FROM data.people"}
    text = path.get(kind, f"people.{kind}")
    snapshot = people.state / "vault" / "rows.parquet"
    first = members(people, text, kind, ["whole"])
    again = [
        members(people, text, kind, ["whole"], snapshot=snapshot) for _ in range(2)
    ]
    (people.state / "hospital.duckdb").unlink()
    for name in ("csv", "parquet", "json"):
        (people.data_folder / f"people.{name}").unlink()
    again.append(members(people, text, kind, ["whole"], snapshot=snapshot))
    assert [pairs(found) for found in again] == [pairs(first)] * 3
    assert {found.is_whole_row for found in again} == {first.is_whole_row}
    with open_dataset(
        people,
        policy(),
        data_path=text,
        data_type=kind,
        requester=OWN,
        snapshot=snapshot,
    ) as dataset:
        assert list(dataset.columns) == ["whole"]
        in_database = kind in ("table", "sql")
        assert dataset.populations == (
            "data.people" if in_database else f"file {text}",
        )


@given(
    st.dictionaries(
        st.text(st.sampled_from("ab:'1 "), min_size=1, max_size=3),
        st.none() | st.text(st.sampled_from("ab:1"), min_size=1, max_size=3),
        max_size=4,
    )
)
def test_a_whole_row_has_one_text_that_no_other_row_has(
    row: dict[str, str | None],
) -> None:
    texts = {name: f"t{i}" for i, name in enumerate(row)}
    written = [f"{canonical_sql(f'c{i}', 'VARCHAR')} AS t{i}" for i in range(len(row))]
    columns = ", ".join(f"$v{i}::VARCHAR AS c{i}" for i in range(len(row))) or "1"
    with in_memory().cursor() as connection:
        found = connection.execute(
            f"SELECT {row_sql(texts)}, sha256($text)"
            f" FROM (SELECT {', '.join(written) or '1'} FROM (SELECT {columns}))",
            {"text": row_text(row), **{f"v{i}": v for i, v in enumerate(row.values())}},
        ).fetchall()
    assert found[0][0] == found[0][1]
    # it can be read back
    text, read = row_text(row), {}
    while text:
        for kind in ("name", "value"):
            n, _, rest = text.partition(":")
            part, text = rest[: int(n)], rest[int(n) :]
            if kind == "name":
                name = part
            else:
                read[name] = part
    assert read == {
        name: canonical(value) for name, value in row.items() if canonical(value)
    }


def test_labels_are_written_in_the_canonical_form(people: SiteSettings) -> None:
    """A reading of labels agrees with the canonical text where its form is the same."""
    with open_dataset(
        people, policy(), data_path="data.people", data_type="table", requester=OWN
    ) as dataset:
        for name in ("pid", "whole", "wide", "rate", "sex"):
            kind = dataset.columns[name]
            sql = f"SELECT {label_sql(dataset, name)}, {canonical_sql(quoted(name), kind)} FROM rows"
            assert all(label == text for label, text in dataset.query(sql)), name


def test_members_are_of_the_complete_rows_only(people: SiteSettings) -> None:
    (people.data_folder / "a.csv").write_text("pid,x,y\n1,2,3\n2,,3\n3,4,\n4,5,6\n")
    rules = policy(unique_ids={"*": "pid"})
    both = ["x", "y"]
    complete = members(people, "a.csv", "csv", both, policy=rules, complete_on=both)
    everybody = members(people, "a.csv", "csv", ["x"], policy=rules)
    assert len(complete.ids) == 2
    assert set(pairs(complete)["x"]) < set(pairs(everybody)["x"])
