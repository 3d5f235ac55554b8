"""Sums at a provider against rational arithmetic over its rows, from every kind of
source.
"""

from __future__ import annotations

import csv
import json
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from agents.rows import row_groups
from agents.rows.column_text import is_whole
from agents.rows.dataset import Dataset
from agents.rows.exact_totals import joint_moments, moments
from agents.rows.pivot_counts import counts_below, whole_counts_below
from agents.rows.reading import open_dataset
from agents.rows.row_groups import counts
from agents.rows.row_sketches import sketch
from agents.site.settings import SiteSettings
from analytics.statistics import exact_arrays
from protocol.errors import BadRequest, TooLarge
from protocol.policy import CohortRules, OrderRules, Policy, StatisticsRules, TableRules
from tests.examples import few
from tests.made_moments import joint_moments_of, moments_of
from tests.pairwise import pairwise

OWN, OTHER = 2, 4
SCHEMA = f"consilium_sums_{os.getpid()}"
POSTGRES = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
MARIADB = "mysql+pymysql://root@127.0.0.1:3306/"
DOUBLES = ("normal", "offset", "bits", "lognormal", "tiny", "extremes", "whole", "zero")


def site(folder: Path, data_url: str | None = None) -> SiteSettings:
    state = folder / "state"
    (state / "data").mkdir(parents=True, exist_ok=True)
    url = data_url or f"duckdb:///{state}/hospital.duckdb"
    return SiteSettings(
        folder,
        OWN,
        "here",
        coordinator_url="",
        data_url=url,
        state=state,
    )


def policy(*, unique_id: str = "id") -> Policy:
    return Policy(
        orders=OrderRules(
            initiators=(OWN,), methods=("Mask",), model_types=("lr",), sign=True
        ),
        cohort=CohortRules(),
        tables={
            f"{SCHEMA}.t": TableRules(columns=("*",), unique_id="i"),
            "data.t": TableRules(columns=("*",), unique_id=unique_id),
        },
        statistics=StatisticsRules(methods=("sum",), files=("*",)),
    )


@contextmanager
def opened(
    folder: Path,
    path: str,
    kind: str,
    *,
    requester: int = OWN,
    url: str | None = None,
    unique_id: str = "id",
) -> Iterator[Dataset]:
    options = {"data_path": path, "data_type": kind, "requester": requester}
    rules = policy(unique_id=unique_id)
    with open_dataset(site(folder, url), rules, **options) as dataset:  # type: ignore[arg-type]
        yield dataset


@contextmanager
def table_of(
    folder: Path, columns: dict[str, Sequence[Any]], kind: str = "parquet"
) -> Iterator[Dataset]:
    """The columns as a file; numbers in csv and json as Python writes them."""
    path = site(folder).data_folder / f"t.{kind}"
    if kind == "parquet":
        frame = pd.DataFrame(columns)
        with duckdb.connect() as connection:
            connection.register("frame", frame)
            connection.execute(f"COPY frame TO '{path}' (FORMAT parquet)")
    else:
        rows = [
            dict(zip(columns, row, strict=True))
            for row in zip(*columns.values(), strict=True)
        ]
        with path.open("w", newline="") as file:
            if kind == "json":
                file.writelines(json.dumps(row) + "\n" for row in rows)
            else:
                writer = csv.DictWriter(file, list(columns))
                writer.writeheader()
                writer.writerows(rows)
    with opened(folder, path.name, kind) as dataset:
        yield dataset


def doubles(kind: str, n: int, rng: np.random.Generator) -> list[float]:
    if kind == "bits":
        found = np.frombuffer(rng.bytes(8 * n))
        return [float(x) for x in found if np.isfinite(x)]
    made = {
        "normal": lambda: rng.normal(0, 1, n),
        "offset": lambda: 1e15 + rng.normal(0, 1, n),
        "lognormal": lambda: np.exp(rng.normal(0, 150, n)),
        "tiny": lambda: rng.integers(-1000, 1000, n) * 5e-324,
        "extremes": lambda: np.concatenate(
            [rng.normal(0, 1e-300, n), rng.normal(0, 1, n), [1.7e308, -1.7e308, 5e-324]]
        ),
        "whole": lambda: rng.integers(-(2**40), 2**40, n).astype(float),
        "zero": lambda: np.zeros(n),
    }[kind]()
    return [float(x) for x in made]


# --- sums ------------------------------------------------------------------------------------------------------------


@pairwise(n_quick=8, kind=["parquet", "csv", "json"], numbers=list(DOUBLES))
def test_sums_are_exact(
    tmp_path: Path, numbers: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_arrays, "BLOCK_ROWS", 20)
    rng = np.random.default_rng(len(numbers))
    x = doubles(numbers, 300, rng)
    y = doubles("normal", len(x), rng)
    written: Any = (lambda v: v) if kind == "parquet" else repr
    exact_x, exact_y = [written(v) for v in x], [written(v) for v in y]
    with table_of(
        tmp_path, {"x": x, "y": y, "g": [f"w{i % 3}" for i in range(len(x))]}, kind
    ) as dataset:
        assert moments(dataset, "x")[()].moments == moments_of(exact_x)
        joint = joint_moments(dataset, "x", "y")[()].moments
        assert joint == joint_moments_of(zip(exact_x, exact_y, strict=True))
        grouped = moments(dataset, "x", group_by=["g"])
        assert {label: part.moments for label, part in grouped.items()} == {
            (f"w{i}",): moments_of(exact_x[i::3]) for i in range(3)
        }


@few
@given(
    rows=st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
            st.sampled_from("ab"),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_any_doubles_with_and_without_nulls(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any]
) -> None:
    x, g = zip(*rows, strict=True)
    frame = {"x": pd.array(list(x), dtype="Float64"), "g": list(g)}
    with table_of(tmp_path_factory.mktemp("t"), frame) as dataset:
        for label, part in moments(dataset, "x", group_by=["g"]).items():
            own = [value for value, group in rows if group == label[0]]
            assert part.moments == moments_of(
                value for value in own if value is not None
            )
            assert (part.n_rows, part.n_null) == (len(own), own.count(None))


@pytest.mark.parametrize(
    "kind",
    [
        *("TINYINT", "UBIGINT", "BIGINT", "HUGEINT", "UHUGEINT", "BOOLEAN", "FLOAT"),
        *(
            "DECIMAL(4,1)",
            "DECIMAL(15,15)",
            "DECIMAL(18,6)",
            "DECIMAL(38,0)",
            "DECIMAL(38,10)",
            "DECIMAL(38,38)",
        ),
    ],
)
def test_every_type_of_number(tmp_path: Path, kind: str) -> None:
    path = site(tmp_path).data_folder / "t.parquet"
    with duckdb.connect() as connection:
        if "DECIMAL" in kind:
            whole, digits = (int(n) for n in kind[8:-1].split(","))
            numbers = [
                format(Decimal(f"{sign * (10**whole - i)}E-{digits}"), "f")
                for i in (1, 7, 123)
                for sign in (1, -1)
            ]
        else:
            edges = {"BOOLEAN": ["true", "false"], "FLOAT": ["0.1", "-3e38", "1e-45"]}
            numbers = edges.get(kind) or [
                str(connection.execute(f"SELECT {end}::{kind}").fetchall()[0][0])
                for end in ends(kind)
            ]
        values = ", ".join(f"('{number}'::{kind})" for number in numbers)
        connection.execute(
            f"COPY (SELECT * FROM (VALUES {values}, (NULL)) AS t (x)) TO '{path}' (FORMAT parquet)"
        )
        stored = [
            row[0]
            for row in connection.execute(
                f"SELECT x FROM '{path}' WHERE x IS NOT NULL"
            ).fetchall()
        ]
    exact = [Fraction(value) for value in stored]
    with opened(tmp_path, "t.parquet", "parquet") as dataset:
        part = moments(dataset, "x")[()]
        assert part.moments == moments_of(exact)
        assert part.n_null == 1


def ends(kind: str) -> list[str]:
    bits = {"TINYINT": 7, "BIGINT": 63, "UBIGINT": 64, "HUGEINT": 127, "UHUGEINT": 128}[
        kind
    ]
    least = 0 if kind.startswith("U") else -(2**bits)
    return [f"'{n}'" for n in (least, 2**bits - 1, 2 ** (bits - 1) + 1, 5)]


def test_decimals_in_text_are_the_decimals_that_are_written(tmp_path: Path) -> None:
    texts = [
        "0.1",
        " 0.2 ",
        "+3",
        "-.5",
        "5.",
        "1e-3",
        "1E+20",
        "0.1234567890123456789012",
        "9999999999999999.5",
        "7" * 40,
    ]
    texts += ["0." + "1" * 400, "00012.50", "-0"]
    with table_of(
        tmp_path, {"x": [*texts, "", "  "], "id": list(range(len(texts) + 2))}, "csv"
    ) as dataset:
        part = moments(dataset, "x")[()]
    assert part.moments == moments_of(texts)
    assert part.n_null == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("abc", "not_numeric"),
        ("1,5", "not_numeric"),
        ("1_000", "not_numeric"),
        ("0x10", "not_numeric"),
        ("٣", "not_numeric"),
        ("NaN", "not_finite"),
        ("-inf", "not_finite"),
        ("1e400", "digits"),
        ("0." + "1" * 401, "digits"),
        ("1e-401", "digits"),
    ],
)
@pytest.mark.parametrize("n_bad", [9, 10, 11])
def test_texts_that_cannot_be_added(
    tmp_path: Path, text: str, code: str, n_bad: int
) -> None:
    with table_of(
        tmp_path, {"x": ["1.5"] * 20 + [text] * n_bad, "y": ["2"] * (20 + n_bad)}, "csv"
    ) as dataset:
        foreign = Dataset(**{**vars(dataset), "min_rows": 10})
        with pytest.raises(BadRequest) as caught:
            moments(foreign, "x")
    assert caught.value.code == code
    assert text == "NaN" or text not in str(caught.value)
    if code == "not_numeric":
        assert (
            "fewer than 10 rows" if n_bad < 10 else f"{n_bad} rows"
        ) in caught.value.sentence


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_infinite_doubles_are_refused(tmp_path: Path, value: float) -> None:
    path = site(tmp_path).data_folder / "t.parquet"
    duckdb.sql(f"SELECT unnest([1.0::DOUBLE, '{value}'::DOUBLE]) AS x").write_parquet(
        str(path)
    )
    with (
        opened(tmp_path, path.name, "parquet") as dataset,
        pytest.raises(BadRequest) as caught,
    ):
        moments(dataset, "x")
    assert caught.value.code == "not_finite"


def test_a_missing_column_and_dates(tmp_path: Path) -> None:
    path = site(tmp_path).data_folder / "t.parquet"
    duckdb.sql("SELECT DATE '2024-01-01' AS day, 1 AS x").write_parquet(str(path))
    with opened(tmp_path, path.name, "parquet") as dataset:
        for column, code in (("none", "missing_column"), ("day", "not_numeric")):
            with pytest.raises(BadRequest) as caught:
                moments(dataset, column)
            assert caught.value.code == code


def test_more_rows_than_an_int64_can_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = doubles("normal", 1000, np.random.default_rng(1))
    monkeypatch.setattr(exact_arrays, "BLOCK_ROWS", 20)
    monkeypatch.setattr(exact_arrays, "CARRY_BLOCKS", 5)
    with table_of(tmp_path, {"x": x}) as dataset:
        assert moments(dataset, "x")[()].moments == moments_of(x)


# --- from databases --------------------------------------------------------------------------------------------------


def rows_of_a_table() -> tuple[list[int], list[float], list[str], list[str | None]]:
    n = 60
    big = [2**53 + i for i in range(n)]
    return (
        big,
        [i / 7 for i in range(n)],
        [f"{i}.{i:02d}" for i in range(n)],
        [None, "a", "b"] * (n // 3),
    )


def fill(execute: Any, double: str) -> None:
    execute(
        f"CREATE TABLE {SCHEMA}.t (i BIGINT, x {double}, f REAL, d DECIMAL(20, 2), g VARCHAR(5), b BOOLEAN)"
    )
    rows = zip(*rows_of_a_table(), strict=True)
    values = ", ".join(
        f"({i}, {x!r}, 0.1, {d}, {'NULL' if g is None else repr(g)}, {'true' if g else 'false'})"
        for i, x, d, g in rows
    )
    execute(f"INSERT INTO {SCHEMA}.t VALUES {values}")


def check_table(folder: Path, url: str | None) -> None:
    i, x, d, g = rows_of_a_table()
    with opened(folder, f"{SCHEMA}.t", "table", url=url) as dataset:
        assert moments(dataset, "i")[()].moments == moments_of(i)
        assert moments(dataset, "x")[()].moments == moments_of(x)
        assert moments(dataset, "d")[()].moments == moments_of(d)
        assert moments(dataset, "f")[()].moments == moments_of(
            [float(np.float32(0.1))] * 60
        )
        assert moments(dataset, "b")[()].moments.total == moments_of([1] * 40).total
        assert joint_moments(dataset, "x", "d")[()].moments == joint_moments_of(
            zip(x, d, strict=True)
        )
        grouped = moments(dataset, "d", group_by=["g"])
        own = {
            label: [v for v, group in zip(d, g, strict=True) if group == label[0]]
            for label in grouped
        }
        assert {label: part.moments for label, part in grouped.items()} == {
            k: moments_of(v) for k, v in own.items()
        }
        assert set(own) == {(None,), ("a",), ("b",)}
        assert counts(dataset, ["b"]) in (
            {("true",): 40, ("false",): 20},
            {("1",): 40, ("0",): 20},
        )


def test_a_duckdb_table(tmp_path: Path) -> None:
    with duckdb.connect(str(site(tmp_path).state / "hospital.duckdb")) as connection:
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
        fill(connection.execute, "DOUBLE")
    check_table(tmp_path, None)


@pytest.mark.slow
@pytest.mark.parametrize("address", [POSTGRES, MARIADB], ids=["postgres", "mariadb"])
def test_a_table_of_a_server(tmp_path: Path, address: str) -> None:
    engine = sa.create_engine(address, poolclass=sa.pool.NullPool)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
    except sa.exc.OperationalError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no such server here ({type(error.orig).__name__})")
    try:
        with engine.begin() as connection:
            real = "FLOAT" if address == MARIADB else "REAL"
            fill(
                lambda sql: connection.exec_driver_sql(
                    sql.replace(" REAL", f" {real}")
                ),
                "DOUBLE PRECISION",
            )
        check_table(tmp_path, address)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"DROP SCHEMA {SCHEMA}" + ("" if address == MARIADB else " CASCADE")
            )


# --- groups and shares -----------------------------------------------------------------------------------------------


def test_labels_are_the_same_from_every_source(tmp_path: Path) -> None:
    path = site(tmp_path).data_folder / "n.parquet"
    duckdb.sql(
        "SELECT unnest([5, 5.5, NULL])::DOUBLE AS a, unnest([5, 5.5, NULL])::DECIMAL(9,3) AS b"
    ).write_parquet(str(path))
    with opened(tmp_path, path.name, "parquet") as dataset:
        expected = {("5",): 1, ("5.5",): 1, (None,): 1}
        assert counts(dataset, ["a"]) == counts(dataset, ["b"]) == expected
    texts = ["5", " 5.0\u3000", "5.5", "", "   ", "e\u0301", "\u00e9", "005"]
    with table_of(tmp_path, {"a": texts, "b": texts}, "csv") as dataset:
        assert counts(dataset, ["a"]) == {
            ("5",): 2,
            ("5.5",): 1,
            (None,): 2,
            ("\u00e9",): 2,
            ("005",): 1,
        }
        assert counts(dataset, ["a", "b"])[("5", "5")] == 2


def test_whole_numbers_have_one_label_whatever_type_holds_them(tmp_path: Path) -> None:
    """DuckDB itself writes 1e+16 for a double, and 0.5 with one digit or with three."""
    path = site(tmp_path).data_folder / "n.parquet"
    numbers = [10**16, 110105194912310000, 2**100, -(10**16), 5]
    kinds = ("DOUBLE", "DECIMAL(38, 2)", "DECIMAL(38, 0)")
    cells = ", ".join(
        f"unnest({numbers}::{kind}[]) AS c{i}" for i, kind in enumerate(kinds)
    )
    duckdb.sql(
        f"SELECT {cells}, unnest({[float(n) for n in numbers]}::FLOAT[]) AS f"
    ).write_parquet(str(path))
    with opened(tmp_path, path.name, "parquet") as dataset:
        for i in range(len(kinds)):
            expected = {(str(number),) for number in numbers}
            if kinds[i] == "DOUBLE":
                # Of 17 digits at most, as the shortest decimal that reads as it
                expected ^= {(str(2**100),), ("1267650600228229400000000000000",)}
            assert set(counts(dataset, [f"c{i}"])) == expected
        assert (str(10**16),) in counts(dataset, ["f"])


def test_values_below_pivots_are_compared_as_their_nearest_doubles(
    tmp_path: Path,
) -> None:
    """DuckDB's own cast of wide numbers is one double off now and then, and would move
    a quantile.
    """
    rng = np.random.default_rng(4)
    numbers = [int.from_bytes(rng.bytes(15), "little") for _ in range(500)]
    with duckdb.connect(str(site(tmp_path).state / "hospital.duckdb")) as connection:
        connection.execute("CREATE SCHEMA data")
        connection.execute("CREATE TABLE data.t (h HUGEINT, d DECIMAL(38, 24))")
        connection.executemany(
            "INSERT INTO data.t VALUES (?, CAST(? AS DECIMAL(38, 24)))",
            [(number, str(Decimal(number).scaleb(-24))) for number in numbers],
        )
    with opened(tmp_path, "data.t", "table", unique_id="h") as dataset:
        for column, exact in (
            ("h", map(float, numbers)),
            ("d", (float(Fraction(n, 10**24)) for n in numbers)),
        ):
            pivots = np.unique([*exact])
            (below,) = counts_below(dataset, column, {(): pivots}).values()
            assert below.tolist() == list(range(len(pivots)))


def test_a_column_may_have_the_name_that_a_label_has_in_the_query(
    tmp_path: Path,
) -> None:
    columns: dict[str, Any] = {
        "g0": [1.5, 2.5, 4.0],
        "code": ["a", "a", "b"],
        "c0": [1, 1, 2],
    }
    with table_of(tmp_path, columns) as dataset:
        parts = moments(dataset, "g0", group_by=["code", "c0"])
        assert {label: part.moments for label, part in parts.items()} == {
            ("a", "1"): moments_of([1.5, 2.5]),
            ("b", "2"): moments_of([4.0]),
        }


def test_too_many_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "MAX_GROUPS", 10)
    for n, fits in ((9, True), (10, True), (11, False)):
        with table_of(tmp_path, {"x": [1.0] * n, "g": list(range(n))}) as dataset:
            if fits:
                assert len(moments(dataset, "x", group_by=["g"])) == n
            else:
                with pytest.raises(TooLarge):
                    moments(dataset, "x", group_by=["g"])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
@few
def test_the_largest_share_is_never_told_too_small(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    sizes = sorted((abs(Fraction(v)) for v in values), reverse=True)
    share = sum(sizes[:2]) / sum(sizes) if any(sizes) else Fraction(0)
    folder = tmp_path_factory.mktemp("t")
    with table_of(folder, {"x": values, "g": ["a"] * len(values)}) as dataset:
        for parts in (moments(dataset, "x"), moments(dataset, "x", group_by=["g"])):
            (told,) = (part.largest_share for part in parts.values())
            assert told >= share - Fraction(1, 10**11)
            assert told <= Fraction(1, 10) or abs(told - share) < Fraction(1, 10**11)


def test_shares_of_numbers_of_any_size(tmp_path: Path) -> None:
    x = [1.5e308, 1.5e308, 1e-300, 3e-300, 0.0, 0.0]
    with table_of(tmp_path, {"x": x, "g": list("aabbcc")}) as dataset:
        shares = {
            label: part.largest_share
            for label, part in moments(dataset, "x", group_by=["g"]).items()
        }
    assert shares == {("a",): 1, ("b",): 1, ("c",): 0}


# --- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_counts_below(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(3)
    x = np.round(rng.normal(0, 1, 500), 2)
    pivots = np.unique(np.round(rng.normal(0, 1, 40), 2))
    with table_of(
        tmp_path, {"x": x.tolist(), "g": [f"w{i % 2}" for i in range(500)]}, kind
    ) as dataset:
        (found,) = counts_below(dataset, "x", {(): pivots}).values()
        assert found.tolist() == [(x < p).sum() for p in pivots]
        grouped = counts_below(
            dataset, "x", {("w1",): pivots, ("none",): pivots[:2]}, group_by=["g"]
        )
        assert grouped[("w1",)].tolist() == [(x[1::2] < p).sum() for p in pivots]
        assert grouped[("none",)].tolist() == [0, 0]


LEAST, MOST = -(2**63), 2**64 - 1
EDGES = [
    LEAST,
    LEAST + 1,
    -1,
    0,
    5,
    2**53,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**63 + 1,
    MOST - 1,
    MOST,
]


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_whole_numbers_below_pivots_are_counted_by_all_their_digits(
    tmp_path: Path, kind: str
) -> None:
    """Signed and unsigned ones side by side: neither a double nor an int64 holds all of
    them.
    """
    texts = [str(edge) for edge in EDGES]
    columns: dict[str, list[Any]] = {"x": [*texts, None, "5.0"], "g": ["a", "b"] * 7}
    if kind == "parquet":
        path = site(tmp_path).data_folder / "t.parquet"
        cells = f"unnest({columns['x']}::DECIMAL(38, 1)[]) AS x, unnest({columns['g']}) AS g"
        duckdb.sql(f"SELECT {cells.replace('None', 'NULL')}").write_parquet(str(path))
        data = opened(tmp_path, path.name, kind)
    else:
        data = table_of(tmp_path, columns, kind)
    pivots = [pivot for pivot in EDGES if pivot > LEAST]
    of_all, of_b = [*EDGES, 5], [*EDGES[1::2], 5]
    with data as dataset:
        assert is_whole(dataset, "x")
        (found,) = whole_counts_below(dataset, "x", {(): pivots}).values()
        assert found.tolist() == [
            sum(value < pivot for value in of_all) for pivot in pivots
        ]
        grouped = whole_counts_below(
            dataset, "x", {("b",): pivots, ("none",): pivots[:2]}, group_by=["g"]
        )
        assert grouped[("b",)].tolist() == [
            sum(value < pivot for value in of_b) for pivot in pivots
        ]
        assert grouped[("none",)].tolist() == [0, 0]


def test_what_is_a_column_of_whole_numbers(tmp_path: Path) -> None:
    kinds = {
        "BIGINT": True,
        "UBIGINT": True,
        "BOOLEAN": True,
        "DECIMAL(38, 0)": True,
        "DECIMAL(38, 3)": True,
        "DOUBLE": False,
        "FLOAT": False,
    }
    path = site(tmp_path).data_folder / "t.parquet"
    cells = ", ".join(
        f"unnest([1, NULL, 0])::{kind} AS c{i}" for i, kind in enumerate(kinds)
    )
    duckdb.sql(f"SELECT {cells}").write_parquet(str(path))
    with opened(tmp_path, path.name, "parquet") as dataset:
        assert [is_whole(dataset, f"c{i}") for i in range(len(kinds))] == list(
            kinds.values()
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(
            (text, True)
            for text in (
                "5",
                "-5",
                "+5",
                "5.0",
                "5.",
                "007",
                "-0",
                str(LEAST),
                str(MOST),
                "",
            )
        ),
        *(
            (text, False)
            for text in (
                "5.5",
                "1e3",
                ".5",
                str(LEAST - 1),
                str(MOST + 1),
                "9" * 60,
                f"{MOST}.5",
            )
        ),
    ],
)
def test_what_is_a_text_of_a_whole_number(
    tmp_path: Path, text: str, expected: bool
) -> None:
    with table_of(tmp_path, {"x": ["1", text], "y": ["1", "1"]}, "csv") as dataset:
        assert is_whole(dataset, "x") == expected
        assert is_whole(dataset, "y")


def test_whole_numbers_wider_than_64_bits_are_none_that_are_searched_among(
    tmp_path: Path,
) -> None:
    with duckdb.connect(str(site(tmp_path).state / "hospital.duckdb")) as connection:
        connection.execute("CREATE SCHEMA data")
        connection.execute(
            "CREATE TABLE data.t (a HUGEINT, b HUGEINT, c UHUGEINT, d UHUGEINT, e DECIMAL(38, 0))"
        )
        connection.execute(
            f"INSERT INTO data.t VALUES ({MOST}, {MOST + 1}, {MOST}, {2**128 - 1}, {LEAST - 1})"
        )
    with opened(tmp_path, "data.t", "table", unique_id="a") as dataset:
        assert [is_whole(dataset, name) for name in "abcde"] == [
            True,
            False,
            True,
            False,
            False,
        ]


# --- sketches --------------------------------------------------------------------------------------------------------


def test_sketches_show_how_many_rows_differ_at_most(tmp_path: Path) -> None:
    rows = {"x": [i / 3 for i in range(200)], "g": [f"w{i}" for i in range(200)]}
    with table_of(tmp_path, rows) as dataset:
        first = sketch(dataset, ["x", "g"])[0]
        assert (first == sketch(dataset, ["x", "g"])[0]).all()
    shuffled = {name: values[::-1] for name, values in rows.items()}
    with table_of(tmp_path, shuffled) as dataset:
        assert (first == sketch(dataset, ["x", "g"])[0]).all()
    for d in (1, 9, 10, 11):
        fewer = {name: values[d:] for name, values in rows.items()}
        with table_of(tmp_path, fewer) as dataset:
            assert 1 <= (first != sketch(dataset, ["x", "g"])[0]).sum() <= d


def test_sketches_tell_columns_and_nulls_apart(tmp_path: Path) -> None:
    for a, b in ((["ab", "c"], ["a", "bc"]), (["a", ""], ["", "a"])):
        found = []
        for row in (a, b):
            with table_of(tmp_path, {"x": [row[0]], "y": [row[1]]}, "csv") as dataset:
                found.append(sketch(dataset, ["x", "y"])[0])
        assert (found[0] != found[1]).any()


def test_a_double_is_read_bit_for_bit(tmp_path: Path) -> None:
    bits = [0x3FB999999999999A, 0x0000000000000001, 0xFFEFFFFFFFFFFFFF]
    x = [struct.unpack("<d", struct.pack("<Q", b))[0] for b in bits]
    with table_of(tmp_path, {"x": x}) as dataset:
        assert moments(dataset, "x")[()].moments == moments_of(x)


def test_the_hash_of_rows_has_not_changed() -> None:
    """Sketches of earlier orders are years old: with another hash every row would look
    new.
    """
    row = "hash('6b', 0.1::DOUBLE, 5::BIGINT, 'a', NULL, 1.50::DECIMAL(9, 2), true)"
    assert duckdb.sql(f"SELECT {row}").fetchall() == [(1875492204120718868,)]
