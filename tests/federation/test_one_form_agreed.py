"""Hospitals with DuckDB, PostgreSQL and MariaDB side by side: the same value is one group,
one class, one key and one id, whatever type holds it and however it is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from agents.order.party import open_party
from agents.training.inference import predict
from deployments.local.one_process import run_order
from protocol.memory_transport import MemoryTransport
from tests.made_databases import create_schema, drop_schema, run
from tests.made_sites import order_body
from tests.made_statistics import Hospitals, make_hospitals, no_waiting_for_disks
from tests.pairwise import quick

pytestmark = pytest.mark.slow

SCHEMA = f"consilium_agreed_{os.getpid()}"
TABLE = f"{SCHEMA}.people"
SERVERS = {
    3: "postgresql+psycopg://postgres@127.0.0.1:5432/postgres",
    4: "mysql+pymysql://root@127.0.0.1:3306/?charset=utf8mb4",
}
N = 40

# By column: its type at hospitals 2, 3 and 4, its two values there, and their labels.
COLUMNS: dict[str, tuple[list[str], list[list[str]], list[str]]] = {
    "pid": (["HUGEINT", "CHAR(20)", "DECIMAL(20, 0)"], [], []),
    "ward": (
        ["VARCHAR", "CHAR(5)", "CHAR(5)"],
        [["'A '", "'cafe\u0301'"], ["'A'", "'caf\u00e9'"], ["'A'", "'caf\u00e9'"]],
        ["A", "caf\u00e9"],
    ),
    "rate": (
        ["DECIMAL(5, 2)", "NUMERIC", "DOUBLE"],
        [["0.5", "7"], ["0.500", "7.0"], ["0.5", "7"]],
        ["0.5", "7"],
    ),
    "flag": (
        ["BOOLEAN", "BIT(1)", "BIT(1)"],
        [["true", "false"], ["B'1'", "B'0'"], ["b'1'", "b'0'"]],
        ["1", "0"],
    ),
    "smokes": (
        ["TINYINT", "BOOLEAN", "BOOLEAN"],
        [["1", "0"], ["true", "false"], ["true", "false"]],
        ["1", "0"],
    ),
    "seen": (
        ["TIMESTAMP", "TIMESTAMP", "DATETIME(3)"],
        [["'2024-05-06 07:08:09.500'", "'2024-05-06'"]] * 3,
        ["2024-05-06 07:08:09.5", "2024-05-06"],
    ),
    "moment": (
        ["TIMESTAMPTZ", "TIMESTAMPTZ", "TIMESTAMP NULL"],
        [
            ["'2024-05-06 07:00:00+08'", "'2024-05-05 23:30:00Z'"],
            ["'2024-05-05 23:00:00+00'", "'2024-05-06 01:30:00+02'"],
            ["FROM_UNIXTIME(1714950000)", "FROM_UNIXTIME(1714951800)"],
        ],
        ["2024-05-05 23:00:00+00", "2024-05-05 23:30:00+00"],
    ),
    "scan": (
        ["BLOB", "BYTEA", "VARBINARY(8)"],
        [[r"'\x00\xFF'", "'ab'"], [r"'\x00ff'", "'ab'"], ["X'00FF'", "X'6162'"]],
        [r"\x00\xFF", "ab"],
    ),
    "cost": (
        ["DOUBLE", "DOUBLE PRECISION", "BIGINT"],
        [["1e16", "3"], ["1e16", "3"], ["10000000000000000", "3"]],
        ["10000000000000000", "3"],
    ),
    "single": (
        ["FLOAT", "REAL", "FLOAT"],
        [["0.1", "1234567"]] * 3,
        ["0.1", "1234567"],
    ),
    "sex": (
        ["VARCHAR"] * 2 + ["VARCHAR(1)"],
        [["'f'", "'m'"], ["'F'", "'M'"], ["'f'", "'m'"]],
        [],
    ),
    "x": (["INTEGER"] * 3, [], []),
}
GROUPED = [name for name, (_, _, labels) in COLUMNS.items() if labels]


def person(user: int, i: int) -> str:
    """The same ids at all three, of 18 digits."""
    return str(110_105_194_912_310_000 + i)


def cells(user: int, i: int) -> list[str]:
    row = []
    for name, (_, values, _) in COLUMNS.items():
        if name == "pid":
            row.append(f"'{person(user, i)}'" if user == 3 else person(user, i))
        elif name == "x":
            row.append(str((i * 5 + user) % 7))
        else:
            row.append(values[user - 2][i % 2])
    return row


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    made = make_hospitals(tmp_path_factory.mktemp("sites"), (2, 3, 4), min_hospitals=1)
    urls = {2: f"duckdb:///{made.sites[2].state}/hospital.duckdb", **SERVERS}
    filled = []
    try:
        for user, url in urls.items():
            made.sites[user] = replace(made.sites[user], data_url=url)
            fill(url, user)
            filled.append(url)
        opened = f'[tables."{TABLE}"]\ncolumns = ["*"]\nunique_id = "pid"\n'
        made.policies = {
            user: f"{text}{opened}" for user, text in made.policies.items()
        }
        made.allow(row_expressions=True, row_level=list(COLUMNS), max_share=1)
        with no_waiting_for_disks():
            yield made
    finally:
        for url in filled[1:]:
            drop_schema(url, SCHEMA)


def fill(url: str, user: int) -> None:
    typed = ", ".join(
        f"{name} {kinds[user - 2]}" for name, (kinds, *_) in COLUMNS.items()
    )
    rows = ", ".join(f"({', '.join(cells(user, i))})" for i in range(N))
    create_schema(url, SCHEMA)
    run(url, [f"CREATE TABLE {TABLE} ({typed})", f"INSERT INTO {TABLE} VALUES {rows}"])


def data(*users: int) -> dict[int, str]:
    return dict.fromkeys(users, TABLE)


@pytest.mark.parametrize("column", quick(GROUPED, 3))
def test_a_value_is_one_group(hospitals: Hospitals, column: str) -> None:
    counted = hospitals.ask("frequency", data(2, 3, 4), key=column)
    labels = COLUMNS[column][2]
    found = {row[column]: int(row["frequency"]) for row in counted.rows}
    assert found == dict.fromkeys(labels, 3 * N // 2)


def test_labels_that_differ_by_case_alone_are_counted(hospitals: Hospitals) -> None:
    counted = hospitals.ask("frequency", data(2, 3, 4), key="sex")
    assert {row["sex"] for row in counted.rows} == {"f", "m", "F", "M"}
    told = "4 labels differ from another one by case alone."
    assert told in counted.notes["notes"]


def test_a_person_is_one_key(hospitals: Hospitals) -> None:
    extra = {2: {"data_alias": "a"}, 3: {"data_alias": "b"}}
    joined = hospitals.ask(
        "custom", data(2, 3), key="pid", expression="a.x - b.x", extra=extra
    )
    assert [row["pid"] for row in joined.rows] == [person(2, i) for i in range(N)]


@pytest.mark.parametrize("label", quick(["ward", "smokes", "flag"], 1))
def test_a_label_is_one_class_and_ids_have_no_blanks(
    hospitals: Hospitals, label: str
) -> None:
    hospitals.forget()
    hospitals.last += 1
    sql = {str(user): f"SELECT * FROM {TABLE}" for user in hospitals.sites}
    body = order_body(
        (2, 3, 4),
        data_info=sql,
        attributes=["x", "rate"],
        unique_id="pid",
        label_name=label,
        model_type="softmax",
    )
    models = run_order(hospitals.sites, body, order_id=hospitals.last).models
    expected: list[Any] = ["A", "caf\u00e9"] if label == "ward" else [0, 1]
    for user, site in hospitals.sites.items():
        assert models[user]["classes"] == expected
        party = open_party(site, -os.getpid(), MemoryTransport())
        told = predict(party, hospitals.last, f"SELECT pid, x, rate FROM {TABLE}")
        assert [entry["id"] for entry in told] == [person(user, i) for i in range(N)]
