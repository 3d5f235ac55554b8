"""Each type of value has one canonical text, from DuckDB, PostgreSQL, MariaDB, csv, parquet
and json alike; and only the columns that are needed are read.

One table has a column of each type; what each of its values is written as stands once,
in GOLDEN.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest

from agents.rows.canonical import members_of
from agents.rows.cohort import build_cohort
from agents.rows.column_text import label_sql
from agents.rows.reading import open_dataset
from agents.site.policy import parse_policy
from agents.site.settings import SiteSettings
from protocol.errors import BadRequest
from protocol.policy import Policy
from tests.made_databases import create_schema, drop_schema, run
from tests.made_rows import opened_rows, site_at
from tests.pairwise import quick

pytestmark = pytest.mark.slow

SCHEMA = f"consilium_form_{os.getpid()}"
TABLE = f"{SCHEMA}.people"
URLS = {
    "postgres": "postgresql+psycopg://postgres@127.0.0.1:5432/postgres",
    "mysql": "mysql+pymysql://root@127.0.0.1:3306/?charset=utf8mb4",
}
KEY = b"a key of this hospital, 32 bytes"


@dataclass(frozen=True)
class Golden:
    """A column: how a database declares it, and two values as each writes them.

    literals: in SQL, by dialect; one for all where they agree. texts: what they are
    canonically. files: what stands in a csv file; the values of another column of the
    same type serve parquet and json.
    """

    kinds: dict[str, str]
    literals: list[str] | dict[str, list[str]]
    texts: list[str | None]
    csv: list[str]
    is_number: bool = False

    def of(self, dialect: str) -> list[str]:
        if isinstance(self.literals, dict):
            return self.literals[dialect]
        return self.literals


def same(kind: str) -> dict[str, str]:
    return {"duckdb": kind, "postgres": kind, "mysql": kind}


def kinds(duckdb: str, postgres: str, mysql: str) -> dict[str, str]:
    return {"duckdb": duckdb, "postgres": postgres, "mysql": mysql}


GOLDEN: dict[str, Golden] = {
    "small": Golden(
        same("SMALLINT"), ["7", "-32768"], ["7", "-32768"], ["7", "-32768.0"], True
    ),
    "large": Golden(
        same("BIGINT"),
        ["110105194912310001", "-9223372036854775808"],
        ["110105194912310001", "-9223372036854775808"],
        ["110105194912310001", "-9223372036854775808"],
        True,
    ),
    "wide": Golden(
        kinds("UBIGINT", "NUMERIC(20, 0)", "BIGINT UNSIGNED"),
        ["18446744073709551615", "0"],
        ["18446744073709551615", "0"],
        ["18446744073709551615", "0"],
        True,
    ),
    "widest": Golden(
        kinds("HUGEINT", "NUMERIC(38, 0)", "DECIMAL(38, 0)"),
        ["110105194912310000110105194912310001", "5"],
        ["110105194912310000110105194912310001", "5"],
        ["110105194912310000110105194912310001", "5."],
        True,
    ),
    "rate": Golden(
        same("DECIMAL(5, 2)"), ["0.5", "7"], ["0.5", "7"], [".50", "7.00"], True
    ),
    "price": Golden(
        kinds("DECIMAL(20, 2)", "MONEY", "DECIMAL(20, 2)"),
        ["1234.50", "-0.05"],
        ["1234.5", "-0.05"],
        ["1234.50", "-.05"],
        True,
    ),
    "ratio": Golden(
        kinds("FLOAT", "REAL", "FLOAT"),
        ["0.1", "1234567"],
        ["0.1", "1234567"],
        ["0.1", "1234567"],
        True,
    ),
    "cost": Golden(
        same("DOUBLE PRECISION"),
        ["1e16", "0.1"],
        ["10000000000000000", "0.1"],
        ["1e16", "0.10"],
        True,
    ),
    "tiny": Golden(
        same("DOUBLE PRECISION"),
        ["1e-7", "-1.25e20"],
        ["0.0000001", "-125000000000000000000"],
        ["1e-7", "-1.25e+20"],
        True,
    ),
    "smokes": Golden(
        kinds("BOOLEAN", "BOOLEAN", "BOOLEAN"),
        ["true", "false"],
        ["1", "0"],
        ["True", "false"],
        True,
    ),
    "flag": Golden(
        kinds("BIT", "BIT(1)", "BIT(1)"),
        {
            "duckdb": ["'1'::BIT", "'0'::BIT"],
            "postgres": ["B'1'", "B'0'"],
            "mysql": ["b'1'", "b'0'"],
        },
        ["1", "0"],
        ["1", "0"],
    ),
    "bits": Golden(
        kinds("BIT", "BIT(8)", "BIT(8)"),
        {
            "duckdb": ["'00000101'::BIT", "'10000000'::BIT"],
            "postgres": ["B'00000101'", "B'10000000'"],
            "mysql": ["b'101'", "b'10000000'"],
        },
        ["00000101", "10000000"],
        ["00000101", "10000000"],
    ),
    "born": Golden(
        same("DATE"),
        ["'1949-12-31'", "'9999-01-01'"],
        ["1949-12-31", "9999-01-01"],
        ["1949-12-31", "9999-01-01 00:00:00"],
    ),
    "seen": Golden(
        kinds("TIMESTAMP", "TIMESTAMP", "DATETIME(6)"),
        ["'2024-05-06 07:08:09.500'", "'2024-05-06 00:00:00'"],
        ["2024-05-06 07:08:09.5", "2024-05-06"],
        ["2024-05-06T07:08:09.500", "2024-05-06 00:00:00.000"],
    ),
    "moment": Golden(
        kinds("TIMESTAMPTZ", "TIMESTAMPTZ", "TIMESTAMP(6) NULL"),
        {
            "duckdb": ["'2024-05-06 07:08:09.25+08'", "'2024-05-05 23:00:00+00'"],
            "postgres": ["'2024-05-06 07:08:09.25+08'", "'2024-05-06 07:00:00+08'"],
            # of the session's zone, which is that of the server
            "mysql": [
                "FROM_UNIXTIME(1714950489.25)",
                "FROM_UNIXTIME(1714950000)",
            ],
        },
        ["2024-05-05 23:08:09.25+00", "2024-05-05 23:00:00+00"],
        ["2024-05-06 07:08:09.250+0800", "2024-05-05T23:00:00Z"],
    ),
    "clock": Golden(
        kinds("TIME", "TIME", "TIME(3)"),
        ["'08:30:00'", "'23:59:59.250'"],
        ["08:30:00", "23:59:59.25"],
        ["8:30:00", "23:59:59.250"],
    ),
    "ward": Golden(
        same("CHAR(5)"), ["'A'", "'b'"], ["A", "b"], ["A    ", '"b "'], False
    ),
    "note": Golden(
        same("VARCHAR(40)"),
        ["'cafe\u0301 '", "' 007'"],
        ["caf\u00e9", "007"],
        ["cafe\u0301", "007"],
    ),
    "long_text": Golden(
        same("TEXT"),
        ["'\u540d\u5b57'", "''"],
        ["\u540d\u5b57", None],
        ["\u540d\u5b57", ""],
    ),
    "half": Golden(
        same("VARCHAR(9)"), ["'0.50'", "'1e3'"], ["0.5", "1000"], [".5", "1e3"]
    ),
    "stage": Golden(
        kinds("ENUM('I', 'II')", f"{SCHEMA}.stage", "ENUM('I', 'II')"),
        ["'II'", "'I'"],
        ["II", "I"],
        ["II", "I"],
    ),
    "person": Golden(
        kinds("UUID", "UUID", "UUID"),
        [
            "'A0000000-0000-0000-0000-000000000001'",
            "'00000000-0000-0000-0000-0000000000ff'",
        ],
        [
            "a0000000-0000-0000-0000-000000000001",
            "00000000-0000-0000-0000-0000000000ff",
        ],
        [
            "a0000000-0000-0000-0000-000000000001",
            "00000000-0000-0000-0000-0000000000ff",
        ],
    ),
    "scan": Golden(
        kinds("BLOB", "BYTEA", "VARBINARY(8)"),
        {
            "duckdb": [r"'\x00\xFF'::BLOB", "'ab'::BLOB"],
            "postgres": [r"'\x00ff'", "'ab'"],
            "mysql": ["X'00FF'", "X'6162'"],
        },
        [r"\x00\xFF", "ab"],
        [r"\x00\xFF", "ab"],
    ),
    "address": Golden(
        kinds("VARCHAR", "INET", "INET6"),
        ["'::1'", "'2001:db8::1'"],
        ["::1", "2001:db8::1"],
        ["::1", "2001:db8::1"],
    ),
    "year_of": Golden(
        kinds("SMALLINT", "SMALLINT", "YEAR"),
        ["2024", "1999"],
        ["2024", "1999"],
        ["2024", "1999"],
        True,
    ),
    "several": Golden(
        kinds("VARCHAR", "VARCHAR(9)", "SET('a', 'b')"),
        ["'a,b'", "'b'"],
        ["a,b", "b"],
        ['"a,b"', "b"],
    ),
}

# Columns that no order names: what a driver cannot read, or has no one text.
UNREAD: dict[str, dict[str, str]] = {
    "duckdb": {
        "endless": "DATE 'infinity'",
        "early": "DATE '0044-03-15 (BC)'",
        "late": "TIME '24:00:00'",
        "zoned": "TIMETZ '08:30:00+08'",
        "huge": "340282366920938463463374607431768211455::UHUGEINT",
        "tags": "['a', 'b']",
        "pair": "{'a': 1}",
        "span": "INTERVAL 1 DAY",
        "doc": "'{}'::JSON",
    },
    "postgres": {
        "endless": "DATE 'infinity'",
        "early": "DATE '0044-03-15 BC'",
        "late": "TIME '24:00:00'",
        "zoned": "TIMETZ '08:30:00+08'",
        "huge": "NUMERIC '340282366920938463463374607431768211455'",
        "tags": "ARRAY['a', 'b']",
        "pair": "point(1, 2)",
        "span": "INTERVAL '1 day'",
        "doc": "'{}'::jsonb",
    },
    "mysql": {
        "endless": "CAST('0000-00-00' AS DATE)",
        "early": "CAST('0044-03-15' AS DATE)",
        "late": "CAST('24:00:00' AS TIME)",
        "zoned": "CAST('838:59:59' AS TIME)",
        "huge": "CAST('340282366920938463463374607431' AS DECIMAL(38, 0))",
        "pair": "POINT(1, 2)",
    },
}
NO_FORM = {
    "duckdb": ["tags", "pair", "span", "doc"],
    "postgres": ["tags", "pair", "span", "doc"],
    "mysql": ["pair"],
}
READ_ALL_THE_SAME = {
    "duckdb": ["infinity", "0044-03-15 BC", "24:00:00", "08:30:00+08"],
    "postgres": ["infinity", "0044-03-15 BC", "24:00:00", "08:30:00+08"],
    "mysql": ["0000-00-00", "0044-03-15", "24:00:00", "838:59:59"],
}


@dataclass
class Sites:
    """A site for each database; that of DuckDB has the files, too."""

    folder: Path
    settings: dict[str, SiteSettings] = field(default_factory=dict)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    made = Sites(tmp_path_factory.mktemp("sites"))
    urls = {"duckdb": f"duckdb:///{made.folder}/hospital.duckdb", **URLS}
    filled = []
    try:
        for dialect, url in urls.items():
            fill(url, dialect)
            filled.append(dialect)
            made.settings[dialect] = site_at(url, made.folder / dialect)
        write_files(made)
        yield made
    finally:
        for dialect in filled:
            drop_schema(urls[dialect], SCHEMA)


def fill(url: str, dialect: str) -> None:
    create_schema(url, SCHEMA)
    typed = [f"{name} {one.kinds[dialect]}" for name, one in GOLDEN.items()]
    created = [f"CREATE TABLE {TABLE} (pid INTEGER, {', '.join(typed)})"]
    if dialect == "postgres":
        created.insert(0, f"CREATE TYPE {SCHEMA}.stage AS ENUM ('I', 'II')")
    for i in range(2):
        cells = [str(i), *(one.of(dialect)[i] for one in GOLDEN.values())]
        created.append(f"INSERT INTO {TABLE} VALUES ({', '.join(cells)})")
    extra = [f"{sql} AS {name}" for name, sql in UNREAD[dialect].items()]
    created.append(
        f"CREATE TABLE {SCHEMA}.strange AS SELECT pid, small, {', '.join(extra)} FROM {TABLE}"
    )
    run(url, created)


def write_files(made: Sites) -> None:
    """A csv file as a person would write it; parquet and json as DuckDB does."""
    folder = made.settings["duckdb"].data_folder
    folder.mkdir(parents=True)
    lines = [",".join(["pid", *GOLDEN])]
    for i in range(2):
        lines.append(",".join([str(i), *(one.csv[i] for one in GOLDEN.values())]))
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    with duckdb.connect(f"{made.folder}/hospital.duckdb") as connection:
        for name in ("parquet", "json"):
            # What the format itself would change
            written = {
                "parquet": "widest::DECIMAL(38, 0) AS widest",
                "json": "ratio::VARCHAR AS ratio",
            }[name]
            connection.execute(
                f"COPY (SELECT * REPLACE ({written}) FROM {TABLE})"
                f" TO '{folder}/people.{name}' (FORMAT {name})"
            )


def policy() -> Policy:
    return parse_policy(f"""
[orders]
initiators = [2, 4]
methods = ["Mask"]
model_types = ["lr"]
sign = true
[tables."{TABLE}"]
columns = ["*"]
unique_id = "pid"
[tables."{SCHEMA}.strange"]
columns = ["*"]
unique_id = "pid"
[statistics]
methods = ["sum"]
files = ["*"]
unique_ids = {{"*" = "pid"}}
""")


def labels_of(
    settings: SiteSettings, data_path: str, data_type: str, names: list[str]
) -> dict[str, list[str | None]]:
    """The labels of each column, in the order of the unique id."""
    with open_dataset(
        settings,
        policy(),
        data_path=data_path,
        data_type=data_type,
        requester=4,
        columns=[*names, "pid"],
    ) as dataset:
        texts = ", ".join(label_sql(dataset, name) for name in names)
        rows = dataset.query(f"SELECT {texts} FROM rows ORDER BY pid")
    columns = zip(*rows, strict=True)
    return {name: list(column) for name, column in zip(names, columns, strict=True)}


SOURCES = ["duckdb", "postgres", "mysql", "csv", "parquet", "json"]


@pytest.mark.parametrize("source", SOURCES)
def test_each_value_has_one_text_wherever_it_is(sites: Sites, source: str) -> None:
    is_file = source not in sites.settings
    settings = sites.settings["duckdb" if is_file else source]
    path = f"people.{source}" if is_file else TABLE
    data_type = source if is_file else "table"
    found = labels_of(settings, path, data_type, list(GOLDEN))
    assert found == {name: one.texts for name, one in GOLDEN.items()}


@pytest.mark.thorough
def test_the_same_members_wherever_they_are_and_whoever_reads(sites: Sites) -> None:
    """Statistics of tables and files, and training."""
    names = list(GOLDEN)
    found = {}
    for source in SOURCES:
        is_file = source not in sites.settings
        settings = sites.settings["duckdb" if is_file else source]
        with open_dataset(
            settings,
            policy(),
            data_path=f"people.{source}" if is_file else TABLE,
            data_type=source if is_file else "table",
            requester=4,
            columns=names,
        ) as dataset:
            found[source] = pairs_of(members_of(dataset, names, key=KEY))
        if not is_file:
            sql = f"SELECT * FROM {TABLE}"
            with opened_rows(
                settings, sql, dialect=source, unique_id="pid", columns=names
            ) as dataset:
                found[f"{source} trained"] = pairs_of(
                    members_of(dataset, names, key=KEY)
                )
    for source, pairs in found.items():
        assert pairs == found["duckdb"], source


def pairs_of(members: Any) -> dict[str, list[tuple[int, int]]]:
    return {
        name: sorted(zip(members.ids.tolist(), values.tolist(), strict=True))
        for name, values in members.values.items()
    }


@pytest.mark.parametrize("dialect", quick(["duckdb", "postgres", "mysql"], 1))
def test_a_snapshot_has_the_texts_of_what_it_is_of(
    sites: Sites, dialect: str, tmp_path: Path
) -> None:
    names = list(GOLDEN)
    kinds_of = []
    for snapshot in (None, tmp_path / "rows.parquet", tmp_path / "rows.parquet"):
        with open_dataset(
            sites.settings[dialect],
            policy(),
            data_path=TABLE,
            data_type="table",
            requester=2,
            columns=[*names, "pid"],
            snapshot=snapshot,
        ) as dataset:
            texts = ", ".join(label_sql(dataset, name) for name in names)
            rows = dataset.query(f"SELECT {texts} FROM rows ORDER BY pid")
            kinds_of.append((dataset.columns, dataset.numbers, rows))
    assert kinds_of == [kinds_of[0]] * 3


@pytest.mark.parametrize("dialect", ["duckdb", "postgres", "mysql"])
def test_numbers_are_features_and_classes_whatever_their_type(
    sites: Sites, dialect: str
) -> None:
    numbers = [name for name, one in GOLDEN.items() if one.is_number]
    if dialect != "duckdb":
        # a type of its own there; DuckDB has bit strings of any length only
        numbers.append("flag")
    sql = f"SELECT * FROM {TABLE}"
    with opened_rows(
        sites.settings[dialect],
        sql,
        dialect=dialect,
        unique_id="pid",
        columns=[*numbers, "ward"],
    ) as rows:
        cohort = build_cohort(
            rows,
            unique_id="pid",
            attributes=numbers,
            label_name="ward",
            model_type="softmax",
        )
    for name, column in zip(numbers, cohort.X.T.tolist(), strict=True):
        texts = GOLDEN[name].texts
        expected = [float(str(text)) for text in texts]
        if name == "ratio":
            # a float of 32 bits is not the double of its text
            expected = [0.10000000149011612, 1234567.0]
        assert column == expected, name
    assert cohort.labels == ["A", "b"]


def test_decimals_have_the_digits_of_their_declared_type(sites: Sites) -> None:
    expected = {
        "duckdb": ["DECIMAL(5,2)", "HUGEINT"],
        "postgres": ["DECIMAL(5,2)", "DECIMAL(38,0)"],
        # one digit more, as the width has a place for a sign
        "mysql": ["DECIMAL(6,2)", "VARCHAR"],
    }
    for dialect, settings in sites.settings.items():
        with opened_rows(
            settings,
            f"SELECT * FROM {TABLE}",
            dialect=dialect,
            unique_id="pid",
            columns=["rate", "widest"],
        ) as rows:
            assert list(rows.columns.values()) == expected[dialect]
            assert rows.is_number("widest")


@pytest.mark.parametrize("dialect", quick(["duckdb", "postgres", "mysql"], 1))
@pytest.mark.parametrize("label", ["smokes", "rate", "large", "stage", "note"])
def test_classes_are_canonical(sites: Sites, dialect: str, label: str) -> None:
    sql = f"SELECT * FROM {TABLE}"
    with opened_rows(
        sites.settings[dialect],
        sql,
        dialect=dialect,
        unique_id="pid",
        columns=["small", label],
    ) as rows:
        options: dict[str, Any] = {"unique_id": "pid", "attributes": ["small"]}
        options |= {"label_name": label, "model_type": "softmax"}
        if label == "rate":
            with pytest.raises(BadRequest) as caught:
                build_cohort(rows, **options)
            assert caught.value.code == "label"
            return
        labels = build_cohort(rows, **options).labels
    texts = GOLDEN[label].texts
    expected: list[Any] = [int(str(text)) for text in texts if GOLDEN[label].is_number]
    assert labels == sorted(expected or texts)  # type: ignore[type-var]


@pytest.mark.parametrize("dialect", quick(["duckdb", "postgres", "mysql"], 1))
@pytest.mark.parametrize("data_type", ["table", "sql"])
@pytest.mark.parametrize("requester", [2, 4])
def test_columns_that_an_order_does_not_name_are_not_read(
    sites: Sites, dialect: str, data_type: str, requester: int
) -> None:
    path = f"{SCHEMA}.strange"
    text = path if data_type == "table" else f"SELECT * FROM {path}"
    options: dict[str, Any] = {"data_type": data_type, "requester": requester}
    with open_dataset(
        sites.settings[dialect],
        policy(),
        data_path=text,
        columns=["small"],
        **options,
    ) as dataset:
        found = dataset.query("SELECT CAST(small AS VARCHAR) FROM rows ORDER BY 1")
        assert found == [("-32768",), ("7",)]
        assert not dataset.is_whole_row


@pytest.mark.parametrize("dialect", quick(["duckdb", "postgres", "mysql"], 1))
@pytest.mark.parametrize("requester", [2, 4])
def test_of_a_column_of_numbers_that_is_not_named_no_text_is_read(
    sites: Sites, dialect: str, requester: int
) -> None:
    with open_dataset(
        sites.settings[dialect],
        policy(),
        data_path=TABLE,
        data_type="table",
        columns=["ward"],
        and_numbers=True,
        requester=requester,
    ) as dataset:
        found = set(dataset.columns)
        assert {"ward", "pid", "small", "rate", "cost"} <= found
        assert not found & {"note", "long_text", "scan", "born"}


@pytest.mark.parametrize("dialect", quick(["duckdb", "postgres", "mysql"], 1))
def test_training_reads_no_other_columns_either(sites: Sites, dialect: str) -> None:
    sql = f"SELECT * FROM {SCHEMA}.strange"
    settings = sites.settings[dialect]
    with opened_rows(
        settings, sql, dialect=dialect, unique_id="pid", columns=["small"]
    ) as rows:
        assert list(rows.columns) == ["small"]
        assert rows.n_rows == 2


@pytest.mark.parametrize("dialect", ["duckdb", "postgres", "mysql"])
def test_what_has_no_one_text_is_refused_by_the_name_of_its_column(
    sites: Sites, dialect: str
) -> None:
    settings = sites.settings[dialect]
    sql = f"SELECT * FROM {SCHEMA}.strange"
    for name in NO_FORM[dialect]:
        with (
            pytest.raises(BadRequest) as caught,
            opened_rows(
                settings, sql, dialect=dialect, unique_id="pid", columns=[name]
            ),
        ):
            pass
        assert caught.value.code == "column_type"
        assert f"Column {name} holds" in caught.value.sentence
    with opened_rows(settings, sql, dialect=dialect, unique_id="pid") as rows:
        assert not set(NO_FORM[dialect]) & set(rows.columns)


@pytest.mark.parametrize("dialect", ["duckdb", "postgres", "mysql"])
def test_what_no_driver_can_hold_is_read_where_it_is_needed(
    sites: Sites, dialect: str
) -> None:
    names = ["endless", "early", "late", "zoned"]
    settings = sites.settings[dialect]
    found = labels_of(settings, f"{SCHEMA}.strange", "table", [*names, "huge"])
    assert [found[name][0] for name in names] == READ_ALL_THE_SAME[dialect]
    assert str(found["huge"][0]).startswith("340282366920938463463374607431")


@pytest.mark.parametrize("dialect", ["duckdb", "postgres"])
def test_a_needed_column_that_cannot_be_read_is_named_and_no_value_is(
    sites: Sites, dialect: str
) -> None:
    settings = sites.settings[dialect]
    sql = f"SELECT pid, small, CAST(ward AS INTEGER) AS ward_number FROM {TABLE}"
    options = {"dialect": dialect, "unique_id": "pid"}
    with (
        pytest.raises(BadRequest) as caught,
        opened_rows(settings, sql, columns=["small", "ward_number"], **options),  # type: ignore[arg-type]
    ):
        pass
    assert caught.value.code == "sql"
    assert "of ward_number." in caught.value.sentence
    assert "'A'" not in str(caught.value)
    with opened_rows(settings, sql, columns=["small"], **options) as rows:  # type: ignore[arg-type]
        assert rows.n_rows == 2


@pytest.mark.parametrize("dialect", ["duckdb", "postgres", "mysql"])
def test_a_column_of_nothing_has_no_value(sites: Sites, dialect: str) -> None:
    sql = f"SELECT pid, NULL AS nothing FROM {TABLE}"
    settings = sites.settings[dialect]
    with opened_rows(settings, sql, dialect=dialect, unique_id="pid") as rows:
        assert rows.query("SELECT DISTINCT nothing FROM rows") == [(None,)]


def test_json_arrays_are_refused_by_the_name_of_their_column(sites: Sites) -> None:
    settings = sites.settings["duckdb"]
    lines = [json.dumps({"pid": i, "x": i, "tags": ["a"]}) for i in range(3)]
    (settings.data_folder / "tags.json").write_text("\n".join(lines))
    assert labels_of(settings, "tags.json", "json", ["x"]) == {"x": ["0", "1", "2"]}
    with pytest.raises(BadRequest) as caught:
        labels_of(settings, "tags.json", "json", ["tags"])
    assert caught.value.code == "column_type"
    assert "Column tags " in caught.value.sentence
