"""Rows: from a DuckDB file to a cohort, the gate at its thresholds, and the
snapshot.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agents.gate.cohort_gate import check_gate
from agents.rows import database as source_module
from agents.rows.allowed_sql import CheckedQuery
from agents.rows.canonical import members_of
from agents.rows.cohort import (
    Cohort,
    build_cohort,
    rows_of,
)
from agents.rows.cohort_snapshot import (
    decode_cohort,
    encode_cohort,
    load_cohort,
    save_cohort,
)
from agents.rows.database import open_source
from agents.site.settings import SiteSettings
from protocol.errors import (
    BadRequest,
    Conflict,
    NotFound,
    Refused,
    TooLarge,
    Unavailable,
)
from protocol.policy import TableRules
from tests.made_rows import fill_table, opened_rows, site_at

RULES = TableRules(columns=("*",))
KEY = bytes(range(32))


Columns = dict[str, list[Any]]


def frame(n: int = 12, **columns: list[Any]) -> Columns:
    base: Columns = {
        "id": list(range(n)),
        "y": [i % 2 for i in range(n)],
        "x1": [i * 0.5 for i in range(n)],
    }
    return {**base, **columns}


def build(columns: Columns, **changes: Any) -> Cohort:
    """The cohort of a table with these columns, as an order reads it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "hospital.duckdb"
        fill_table(path, "data.t", columns)
        site = site_at(f"duckdb:///{path}", Path(folder))
        return built(site, "SELECT * FROM data.t", **changes)


def built(site: SiteSettings, sql: str, **changes: Any) -> Cohort:
    settings: dict[str, Any] = {
        "unique_id": "id",
        "attributes": ["x1"],
        "label_name": "y",
        "model_type": "lr",
        **changes,
    }
    options = {
        name: settings.pop(name)
        for name in ("min_rows", "complete_on")
        if name in settings
    }
    needed = list(settings["attributes"])
    if settings["label_name"] is not None:
        needed.append(settings["label_name"])
    with opened_rows(
        site, sql, unique_id=settings["unique_id"], columns=needed, **options
    ) as rows:
        return build_cohort(rows, **settings)


def cohort_of(n: int, *, first: int = 0, X: Any = None) -> Cohort:
    values = (
        np.arange(n, dtype=float).reshape(-1, 1)
        if X is None
        else np.asarray(X, dtype=float).reshape(n, -1)
    )
    names = tuple(f"x{i}" for i in range(values.shape[1]))
    return Cohort([str(first + i) for i in range(n)], names, values, None)


def gate(
    cohort: Cohort,
    *,
    rules: TableRules = RULES,
    n_parameters: int = 0,
) -> None:
    check_gate(cohort, n_parameters=n_parameters, rules=rules)


def rule_refusing(cohort: Cohort, **changes: Any) -> str:
    with pytest.raises(Refused) as caught:
        gate(cohort, **changes)
    assert caught.value.remedy
    return caught.value.code


# --- building ------------------------------------------------------------------------------------------------------


def test_rows_are_sorted_by_id_as_numbers_and_all_go_together() -> None:
    rows = {"id": [10, 9, 100], "y": [0, 1, 0], "x1": [1.0, 2.0, 3.0], "x2": [4, 5, 6]}
    cohort = build(rows, attributes=["x2", "x1"])
    assert cohort.unique_ids == ["9", "10", "100"]
    assert cohort.X.tolist() == [[5, 2], [4, 1], [6, 3]]
    assert cohort.X.flags["C_CONTIGUOUS"]
    assert cohort.y is not None
    assert cohort.y.tolist() == [1, 0, 0]
    assert cohort.labels == [0, 1]
    assert "2.0" not in repr(cohort)


@pytest.mark.parametrize(
    ("ids", "canonical"),
    [
        ([2, 10, 1], ["1", "2", "10"]),
        ([2.0, 10.0, 1.0], ["1", "2", "10"]),
        ([Decimal("2.00"), Decimal(10), Decimal(1)], ["1", "2", "10"]),
        (["2", "10", "1"], ["1", "2", "10"]),
        (["b", "10", "2"], ["10", "2", "b"]),
        (["007", "7", "1"], ["1", "007", "7"]),
        ([2**63, 2**64 - 1, 1], ["1", str(2**63), str(2**64 - 1)]),
        ([10**38, 10**38 + 1, 1], ["1", str(10**38), str(10**38 + 1)]),
        (["a  ", " b", "cafe\u0301"], ["a", "b", "caf\u00e9"]),
        (
            [date(2020, 1, 2), date(2019, 1, 1), date(2021, 1, 1)],
            ["2019-01-01", "2020-01-02", "2021-01-01"],
        ),
    ],
)
def test_ids_have_one_text_whatever_their_type(
    ids: list[Any], canonical: list[str]
) -> None:
    assert build(frame(3, id=ids)).unique_ids == canonical


@pytest.mark.parametrize(
    "values",
    [
        [1, 0, 1],
        [True, False, True],
        [Decimal("1.0"), Decimal(0), Decimal(1)],
        [1.0, 0.0, 1.0],
    ],
)
def test_numbers_of_any_type_are_features_and_labels(values: list[Any]) -> None:
    cohort = build(frame(3, x1=values, y=values))
    assert cohort.X.ravel().tolist() == [1.0, 0.0, 1.0]
    assert cohort.X.dtype == np.float64
    assert cohort.y is not None
    assert cohort.y.dtype == np.float64


@pytest.mark.parametrize(
    ("changes", "columns", "code", "told"),
    [
        ({}, {"x1": [None, *range(11)]}, "null", "1 row without a value (NULL) in x1"),
        ({}, {"x1": [None, None, *range(10)]}, "null", "2 rows"),
        (
            {},
            {"x1": [math.inf, -math.inf, *range(10)]},
            "not_finite",
            "2 rows with an infinite number in x1",
        ),
        ({}, {"x1": ["7.25"] * 12}, "not_numeric", "12 rows"),
        ({}, {"x1": [date(2020, 1, 1)] * 12}, "not_numeric", "12 rows"),
        ({}, {"id": [5] * 3 + list(range(10, 19))}, "duplicate_unique_id", "2 rows"),
        ({}, {"id": [None, *range(11)]}, "null", "in id"),
        ({}, {"id": [725.5, *range(11)]}, "unique_id", "1 row"),
        ({}, {"id": [True, False] * 6}, "unique_id", "12 rows"),
        (
            {"attributes": ["x1", "x2"]},
            {"x1": [None, *range(11)], "x2": [1.0] * 12, "y": [None, None, *[1] * 10]},
            "null",
            "1 row without a value (NULL) in x1, 2 rows in y",
        ),
        ({}, {"id": ["", *map(str, range(11))]}, "null", "in id"),
        ({}, {"y": [None, *[1] * 11]}, "null", "in y"),
        ({}, {"y": [725, *[1] * 11]}, "label", "1 row with a label other than 0 and 1"),
        ({}, {"y": ["725"] * 12}, "label", "12 rows"),
        ({"model_type": "linear"}, {"y": ["725"] * 12}, "label", "12 rows"),
        ({"model_type": "linear"}, {"y": [math.inf] * 12}, "label", "12 rows"),
        ({"model_type": "softmax"}, {"y": [725.5, *[1] * 11]}, "label", "1 row"),
        ({"model_type": "tree"}, {}, "model_type", "tree"),
        (
            {"attributes": ["x1", "x9", "x8"]},
            {},
            "missing_column",
            "no column x9, x8; they have id, y, x1",
        ),
        ({"attributes": []}, {}, "attributes", ""),
        ({"attributes": ["x1", "x1"]}, {}, "attributes", ""),
        ({"attributes": ["x1", "X1"]}, {}, "attributes", ""),
        ({"attributes": ["x1", "ID"]}, {}, "attributes", ""),
        ({"attributes": ["x1", "y"]}, {}, "attributes", ""),
        ({"attributes": ["id"]}, {}, "attributes", ""),
    ],
)
def test_bad_rows_are_counted_and_never_quoted(
    changes: dict[str, Any], columns: dict[str, Any], code: str, told: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        build(frame(12, **columns), **changes)
    assert caught.value.code == code
    assert told in caught.value.sentence
    assert "725" not in str(caught.value)


def test_no_rows_is_said_for_own_rows_and_hidden_from_others() -> None:
    with pytest.raises(BadRequest) as caught:
        build(frame(0))
    assert caught.value.code == "no_rows"
    sentences = set()
    for n in (0, 1, 9):
        with pytest.raises(Refused) as refused:
            build(frame(n, x1=[None] * n), min_rows=10)
        sentences.add(str(refused.value))
    assert len(sentences) == 1


def test_small_counts_are_hidden_from_others() -> None:
    for n_null, told in ((9, "Fewer than 10 rows"), (10, "10 rows"), (11, "11 rows")):
        with pytest.raises(BadRequest) as caught:
            build(frame(30, x1=[None] * n_null + [1.0] * (30 - n_null)), min_rows=10)
        assert caught.value.sentence.startswith(told)


def test_labels_of_the_three_models() -> None:
    assert build(frame(3, y=[1, 1, 1])).labels == [1]
    assert build(frame(3, y=[1.5, -2.0, 3.0]), model_type="linear").labels == []
    whole = build(frame(3, y=[3.0, 1.0, 3.0]), model_type="softmax")
    assert (whole.labels, list(whole.y if whole.y is not None else [])) == (
        [1, 3],
        [3, 1, 3],
    )
    assert build(frame(3, y=["b", "a", "b"]), model_type="softmax").labels == ["a", "b"]
    assert build(frame(3), label_name=None).y is None


# --- the gate ------------------------------------------------------------------------------------------------------


def test_min_rows_below_at_and_above() -> None:
    assert rule_refusing(cohort_of(9)) == "min_rows"
    gate(cohort_of(10))
    gate(cohort_of(11))


@pytest.mark.parametrize(
    ("n_other", "passes"), [(0, True), (1, False), (9, False), (10, True), (11, True)]
)
def test_rows_that_differ_from_the_commonest_value(n_other: int, passes: bool) -> None:
    X = [[float(i), 1.0 if i < n_other else 0.0] for i in range(40)]
    if passes:
        gate(cohort_of(40, X=X))
        return
    with pytest.raises(Refused, match="In x1,") as caught:
        gate(cohort_of(40, X=X))
    assert caught.value.code == "min_varying"
    gate(cohort_of(40, X=X), rules=RULES.model_copy(update={"min_varying": 1}))


def test_many_rare_values_count_together() -> None:
    gate(cohort_of(40, X=[max(0, i - 29) for i in range(40)]))
    assert (
        rule_refusing(cohort_of(40, X=[max(0, i - 30) for i in range(40)]))
        == "min_varying"
    )


@pytest.mark.parametrize(
    ("n_parameters", "passes"), [(9, True), (10, True), (11, False)]
)
def test_parameters_are_at_most_a_third_of_the_rows(
    n_parameters: int, passes: bool
) -> None:
    if passes:
        gate(cohort_of(30), n_parameters=n_parameters)
    else:
        assert (
            rule_refusing(cohort_of(30), n_parameters=n_parameters)
            == "max_parameter_share"
        )
    widened = RULES.model_copy(update={"max_parameter_share": Fraction(100)})
    gate(cohort_of(30), n_parameters=n_parameters, rules=widened)


# --- the snapshot --------------------------------------------------------------------------------------------------


@given(
    X=hnp.arrays(
        np.float64, (4, 2), elements=st.floats(allow_nan=False, allow_infinity=False)
    )
)
def test_a_snapshot_gives_every_float_back_bit_for_bit(
    X: np.ndarray[Any, np.dtype[np.float64]],
) -> None:
    cohort = Cohort(["1", "2", "Ä", "名"], ("a", "b"), X, X[:, 0].copy(), [0, 1])
    again = decode_cohort(encode_cohort(cohort))
    assert again.X.tobytes() == X.tobytes()
    assert again.y is not None
    assert again.y.tobytes() == X[:, 0].tobytes()
    assert (again.unique_ids, again.attributes, again.labels) == (
        cohort.unique_ids,
        ("a", "b"),
        [0, 1],
    )


def test_a_cohort_and_its_parts_have_their_members(tmp_path: Path) -> None:
    """In the order of the rows, whatever the order was that they were read in."""
    backwards = {name: values[::-1] for name, values in frame(12).items()}
    cohort = build(backwards, key=KEY)
    save_cohort(tmp_path / "train.npz", cohort)
    kept = load_cohort(tmp_path / "train.npz")
    part = rows_of(kept, np.array([3, 5]))
    fill_table(tmp_path / "t.duckdb", "data.t", frame(12))
    site = site_at(f"duckdb:///{tmp_path}/t.duckdb", tmp_path)
    sql = "SELECT * FROM data.t WHERE id IN (3, 5)"
    with opened_rows(site, sql) as rows:
        found = members_of(rows, ["x1", "y"], key=KEY)
    assert part.members is not None
    assert part.unique_ids == ["3", "5"]
    assert part.members.ids.tolist() == found.ids.tolist()
    assert list(part.members.values) == ["x1", "y"]
    for name, values in found.values.items():
        assert part.members.values[name].tolist() == values.tolist()
    assert build(backwards).members is None


@pytest.mark.parametrize("labels", [["b", "a", "b"], [3, 1, 3], None])
def test_a_snapshot_keeps_classes_and_their_types(
    labels: list[Any] | None, tmp_path: Path
) -> None:
    name = None if labels is None else "y"
    cohort = build(
        frame(3, y=labels or [0, 1, 0]), model_type="softmax", label_name=name
    )
    save_cohort(tmp_path / "order" / "train.npz", cohort)
    again = load_cohort(tmp_path / "order" / "train.npz")
    assert again.labels == cohort.labels
    assert (None if again.y is None else again.y.tolist()) == labels


def test_a_snapshot_is_private_stays_as_it_is_and_leaves_no_other_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "train.npz"
    for n in (10, 11):
        save_cohort(path, cohort_of(n))
    assert load_cohort(path).n_rows == 10
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_missing_and_damaged_snapshots_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_cohort(tmp_path / "none.npz")
    data = encode_cohort(cohort_of(10))
    for damaged in (
        b"",
        b"x",
        data[:-30],
        data[: len(data) // 2],
        data.replace(b'"version": 2', b'"version": 9'),
    ):
        with pytest.raises(Conflict):
            decode_cohort(damaged)


# --- the source ----------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "hospital.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA data")
        connection.execute(
            "CREATE TABLE data.t AS SELECT i::BIGINT AS id, (i % 2)::TINYINT AS y, i / 8 AS x1, (i * 1.5)::DECIMAL(9,2)"
            " AS x2, CASE WHEN i < 4999 THEN i END AS x3, 'Wagner ' || i AS name FROM range(5000) r(i)"
        )
        connection.execute("CREATE VIEW data.v AS SELECT id, x1 FROM data.t")
    return path


def n_rows(
    file: Path, sql: str, of_site: int = 1_000_000, of_policy: int = 1_000_000
) -> int:
    site = site_at(f"duckdb:///{file}", file.parent, max_rows=of_site)
    with opened_rows(site, sql, max_rows=of_policy) as rows:
        return rows.n_rows


def test_a_duckdb_file_becomes_a_cohort(file: Path) -> None:
    site = site_at(f"duckdb:///{file}", file.parent)
    cohort = built(site, "SELECT * FROM data.t", attributes=["x1", "x2"])
    assert cohort.n_rows == 5000
    assert cohort.unique_ids[-1] == "4999"
    assert cohort.X[4999].tolist() == [4999 / 8, 4999 * 1.5]
    with pytest.raises(BadRequest, match=r"1 row without a value \(NULL\) in x3"):
        built(site, "SELECT * FROM data.t", attributes=["x3"])


def test_large_whole_numbers_keep_their_last_digit(file: Path) -> None:
    sql = "SELECT id + 9007199254740993 AS id, y, x1 FROM data.t"
    assert built(site_at(f"duckdb:///{file}", file.parent), sql).unique_ids[:2] == [
        "9007199254740993",
        "9007199254740994",
    ]


WIDE = [
    "DECIMAL(18, 0)",
    "DECIMAL(38, 0)",
    "DECIMAL(38, 10)",
    "HUGEINT",
    "UHUGEINT",
    "UBIGINT",
    "BIGNUM",
]


@pytest.mark.parametrize("kind", WIDE)
def test_ids_and_classes_of_wide_types_keep_every_digit(file: Path, kind: str) -> None:
    """Next to small ones, which come as doubles; DuckDB would make doubles of all, 16
    apart.
    """
    cell = f"(CASE WHEN id < 3 THEN 0 ELSE 110105194912310000 END + id)::{kind}"
    sql = f"SELECT {cell} AS id, {cell} AS y, x1 FROM data.t"
    site = site_at(f"duckdb:///{file}", file.parent)
    cohort = built(site, sql, model_type="softmax")
    expected = [i if i < 3 else 110105194912310000 + i for i in range(5000)]
    assert cohort.unique_ids == [str(number) for number in expected]
    assert cohort.labels == expected


def test_two_columns_of_one_name_are_told(file: Path) -> None:
    site = site_at(f"duckdb:///{file}", file.parent)
    with pytest.raises(BadRequest) as caught:
        built(site, "SELECT id, y, x1, x2 AS x1 FROM data.t")
    assert caught.value.code == "duplicate_column"


@pytest.mark.parametrize(
    ("sql", "is_rounded"),
    [
        ("9007199254740992::BIGINT", False),
        ("9007199254740993::BIGINT", True),
        ("18446744073709551615::UBIGINT", True),
        ("9007199254740993::HUGEINT", True),
        ("110105194912310000::HUGEINT", False),
        ("12345678901234.5::DECIMAL(38, 10)", False),
        ("0.1::DECIMAL(38, 30)", False),
        ("0.12345678901234567890::DECIMAL(38, 20)", True),
        ("0.12345678901234567890::DOUBLE", False),
        ("true", False),
    ],
)
def test_a_feature_or_numeric_label_that_loses_digits_is_named(
    file: Path, sql: str, is_rounded: bool
) -> None:
    site = site_at(f"duckdb:///{file}", file.parent)
    text = f"SELECT id, y, x1, {sql} AS z FROM data.t"
    named = ("z",) if is_rounded else ()
    for changes in (
        {"attributes": ["x1", "z"]},
        {"label_name": "z", "model_type": "linear"},
    ):
        cohort = built(site, text, **changes)
        assert cohort.rounded == named
        assert decode_cohort(encode_cohort(cohort)).rounded == named


def test_classes_lose_no_digits_and_are_not_named(file: Path) -> None:
    site = site_at(f"duckdb:///{file}", file.parent)
    sql = "SELECT id, id + 9007199254740993 AS y, x1 FROM data.t"
    assert built(site, sql, model_type="softmax").rounded == ()


def test_the_row_limit_below_at_and_above(file: Path) -> None:
    for limit, fits in ((4999, False), (5000, True), (5001, True)):
        for site, order in ((limit, 10_000), (10_000, limit)):
            if fits:
                assert n_rows(file, "SELECT id FROM data.t", site, order) == 5000
            else:
                with pytest.raises(TooLarge):
                    n_rows(file, "SELECT id FROM data.t", site, order)


def test_no_rows_keep_their_columns(file: Path) -> None:
    site = site_at(f"duckdb:///{file}", file.parent)
    with opened_rows(site, "SELECT id, x1 FROM data.t WHERE id < 0") as rows:
        assert (rows.n_rows, list(rows.columns)) == (0, ["id", "x1"])


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT nope FROM data.t", "missing_column"),
        ("SELECT * FROM data.nope", "missing_table"),
        ("SELECT CAST(name AS INTEGER) AS name FROM data.t", "sql"),
        ("SELECT * FROM read_csv('/etc/passwd')", "sql"),
        ("SELECT * FROM '/etc/passwd'", ""),
        ("COPY data.t TO '/tmp/consilium-wagner.csv'", "sql"),
        ("DELETE FROM data.t", "sql"),
        ("SET enable_external_access = true", "sql"),
        ("ATTACH '/tmp/consilium-wagner.duckdb'", "sql"),
    ],
)
def test_what_duckdb_refuses_is_told_without_values(
    sql: str, code: str, file: Path
) -> None:
    with (
        pytest.raises(BadRequest) as caught,
        opened_rows(site_at(f"duckdb:///{file}", file.parent), sql, unique_id="name"),
    ):
        pass
    assert caught.value.code == code or not code
    assert "Wagner" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_frame_in_the_caller_is_no_table(file: Path) -> None:
    hidden = pd.DataFrame({"secret": [1]})
    with pytest.raises(BadRequest):
        n_rows(file, "SELECT * FROM hidden")
    assert len(hidden) == 1


def test_a_slow_statement_is_interrupted(file: Path) -> None:
    site = site_at(f"duckdb:///{file}", file.parent, statement_timeout_seconds=0.3)
    sql = (
        "SELECT count(*) AS id FROM data.t a, data.t b, data.t c"
        " WHERE hash(a.id, b.id, c.id) = 1"
    )
    with pytest.raises(TooLarge) as caught, opened_rows(site, sql):
        pass
    assert caught.value.code == "statement_timeout"


WRITER = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(1, flush=True); sys.stdin.readline(); c.close()"


@pytest.fixture
def writer(file: Path) -> Any:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        if process.poll() is None:
            process.communicate("\n")


def test_a_writer_that_stays_is_named(
    file: Path, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "LOCK_WAIT_SECONDS", 0.2)
    with pytest.raises(Unavailable, match=str(writer.pid)) as caught:
        open_source(f"duckdb:///{file}").describe()
    assert caught.value.code == "database_locked"


def test_a_writer_that_ends_is_waited_for(file: Path, writer: Any) -> None:
    writer.stdin.write("\n")
    writer.stdin.flush()
    assert n_rows(file, "SELECT id FROM data.t") == 5000


def test_a_duckdb_file_is_described_and_read_by_one_connection(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open DuckDB takes longer than to read a small table."""
    # What is looked up once in a process is not of the reading.
    assert n_rows(file, "SELECT id FROM data.t") == 5000
    opened = []
    connect = duckdb.connect

    def counted(*args: Any, **options: Any) -> Any:
        opened.append(args)
        return connect(*args, **options)

    monkeypatch.setattr(duckdb, "connect", counted)
    assert n_rows(file, "SELECT id FROM data.t") == 5000
    assert len(opened) == 1


def test_describe_lists_tables_and_views(file: Path) -> None:
    found = {
        table.name: table.columns
        for table in open_source(f"duckdb:///{file}").describe()
    }
    assert found == {
        "data.t": ("id", "y", "x1", "x2", "x3", "name"),
        "data.v": ("id", "x1"),
    }


def test_orders_of_one_process_read_one_file_at_once(file: Path) -> None:
    """DuckDB gives all connections of a process to a file one configuration, which is
    locked.
    """

    def n_tables(_: int) -> int:
        return len(open_source(f"duckdb:///{file}").describe())

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(n_tables, range(64))) == 64 * [2]


@pytest.mark.parametrize(
    "read",
    [
        lambda file: open_source("oracle://u:hush@h/x"),
        lambda file: open_source("no url, hush"),
        lambda file: open_source("duckdb:////nowhere/hush.duckdb").describe(),
        lambda file: open_source(
            "postgresql+psycopg://u:hush@127.0.0.1:1/x"
        ).describe(),
        lambda file: open_source(f"duckdb:///{file}").described(
            CheckedQuery((), "SELECT 1", "mysql", 1)
        ),
    ],
)
def test_wrong_addresses_are_told_without_the_address(
    read: Callable[[Path], Any], file: Path
) -> None:
    with pytest.raises((BadRequest, Unavailable)) as caught:
        read(file)
    assert "hush" not in str(caught.value)


def test_the_file_is_free_between_reads(file: Path) -> None:
    assert n_rows(file, "SELECT id FROM data.t") == 5000
    with duckdb.connect(
        str(file)
    ) as connection:  # a writer, which needs the file for itself
        connection.execute("INSERT INTO data.t (id) VALUES (-1)")
    assert n_rows(file, "SELECT id FROM data.t") == 5001
    source = open_source(f"duckdb:///{file}")
    assert isinstance(source.engine.pool, sa.pool.NullPool)
