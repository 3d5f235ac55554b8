"""Who is in a reading, side by side in DuckDB, PostgreSQL and MariaDB: the same digests
of the same rows, whether a statistic or a training order reads them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.rows.allowed_sql import check_sql
from agents.rows.canonical import Members, members_of
from agents.rows.database import dialect_of
from agents.rows.reading import open_dataset, open_query
from agents.site.policy import parse_policy
from agents.site.settings import SiteSettings
from protocol.errors import BadRequest
from protocol.policy import Policy
from tests.made_databases import create_schema, drop_schema, run
from tests.pairwise import quick

pytestmark = pytest.mark.slow

SCHEMA = f"consilium_members_{os.getpid()}"
TABLE = f"{SCHEMA}.people"
KEY = b"a key of this hospital, 32 bytes"
OWN, OTHER = 2, 4
N = 24

TYPES = {
    "duckdb": {"seen": "TIMESTAMP", "scan": "BLOB", "person": "UUID", "ratio": "FLOAT"},
    "postgres": {
        "seen": "TIMESTAMP",
        "scan": "BYTEA",
        "person": "UUID",
        "ratio": "REAL",
    },
    "mysql": {
        "seen": "DATETIME(6)",
        "scan": "VARBINARY(8)",
        "person": "CHAR(36)",
        "ratio": "FLOAT",
    },
}
HEX = {
    "duckdb": r"'\x00\x{:02X}'::BLOB",
    "postgres": r"'\x00{:02x}'",
    "mysql": "X'00{:02X}'",
}


def columns(dialect: str) -> dict[str, str]:
    return {
        "pid": "BIGINT",
        "wide": "DECIMAL(20, 0)",
        "large": "BIGINT",
        "rate": "DECIMAL(5, 2)",
        "cost": "DOUBLE PRECISION",
        "born": "DATE",
        "clock": "TIME",
        "ward": "CHAR(5)",
        "note": "VARCHAR(40)",
        **TYPES[dialect],
    }


def row(i: int, dialect: str) -> dict[str, str]:
    """The cells of one row, as SQL."""
    return {
        "pid": str(110_105_194_912_310_000 + i),
        "wide": str(12_345_678_901_234_567_890 + i),
        "large": str(2**53 + i),
        "rate": f"{i}.{i % 10}0",
        "cost": f"{i}e{i - 12}",
        "born": f"'19{50 + i}-01-31'",
        "clock": f"'0{i % 10}:30:00'",
        "ward": f"'{'AB'[i % 2]}'",
        "note": "'cafe\u0301 '" if i % 3 else "NULL",
        "seen": f"'2024-01-{1 + i:02} 00:00:0{i % 10}.{i % 4}00000'",
        "scan": HEX[dialect].format(i + 1),
        "person": f"'00000000-0000-0000-0000-0000000000{i:02}'",
        "ratio": f"0.{i + 1}",
    }


def policy(unique_id: str = "pid") -> Policy:
    return parse_policy(f"""
[orders]
initiators = [2, 4]
methods = ["Mask"]
model_types = ["lr"]
sign = true
[tables."{TABLE}"]
columns = ["*"]
unique_id = "{unique_id}"
[statistics]
methods = ["sum"]
""")


@pytest.fixture(scope="module")
def sites(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, SiteSettings]]:
    folder = tmp_path_factory.mktemp("sites")
    urls = {
        "duckdb": f"duckdb:///{folder}/hospital.duckdb",
        "postgres": "postgresql+psycopg://postgres@127.0.0.1:5432/postgres",
        "mysql": "mysql+pymysql://root@127.0.0.1:3306/?charset=utf8mb4",
    }
    made: dict[str, SiteSettings] = {}
    try:
        for dialect, url in urls.items():
            fill(url, dialect)
            made[dialect] = site(folder / dialect, url)
        yield made
    finally:
        for dialect in made:
            drop_schema(urls[dialect], SCHEMA)


def site(folder: Path, url: str) -> SiteSettings:
    return SiteSettings(
        site=folder,
        user_id=OWN,
        name="here",
        coordinator_url="",
        data_url=url,
        state=folder / "state",
    )


def fill(url: str, dialect: str) -> None:
    kinds = ", ".join(f"{name} {kind}" for name, kind in columns(dialect).items())
    rows = [row(i, dialect) for i in range(N)]
    cells = ", ".join(f"({', '.join(map(one.get, columns(dialect)))})" for one in rows)  # type: ignore[arg-type]
    create_schema(url, SCHEMA)
    run(url, [f"CREATE TABLE {TABLE} ({kinds})", f"INSERT INTO {TABLE} VALUES {cells}"])


def pairs(found: Members) -> dict[str, list[tuple[int, int]]]:
    return {
        name: sorted(zip(found.ids.tolist(), values.tolist(), strict=True))
        for name, values in found.values.items()
    }


def read(settings: SiteSettings, names: list[str], **options: Any) -> Members:
    options = {"data_path": TABLE, "data_type": "table", "requester": OTHER, **options}
    with open_dataset(settings, policy(), columns=names, **options) as dataset:
        assert list(dataset.columns) == names
        assert dataset.populations == (TABLE,)
        return members_of(dataset, names, key=KEY)


def trained(settings: SiteSettings, names: list[str]) -> Members:
    """As training reads them."""
    checked = check_sql(
        f"SELECT * FROM {TABLE}",
        policy=policy(),
        requester=OTHER,
        own_user_id=OWN,
        unique_id="pid",
        label=None,
        dialect=dialect_of(settings.data_url),
    )
    with open_query(settings, checked, unique_id="pid", columns=names) as rows:
        return members_of(rows, names, key=KEY)


@pytest.mark.thorough
def test_the_same_digests_in_each_database_and_either_way(
    sites: dict[str, SiteSettings],
) -> None:
    names = [name for name in columns("duckdb") if name != "pid"]
    expected = pairs(read(sites["duckdb"], names))
    for dialect, settings in sites.items():
        for found in (read(settings, names), trained(settings, names)):
            assert not found.is_whole_row
            for name, members in pairs(found).items():
                assert members == expected[name], (dialect, name)
    for name in ("wide", "large", "cost"):
        assert len({value for _, value in expected[name]}) == N
    assert {value for _, value in expected["note"]} >= {0}
    assert len({value for _, value in expected["note"]}) == 2


@pytest.mark.parametrize("dialect", quick(["duckdb", "postgres", "mysql"], 1))
def test_another_hospitals_sql_and_the_own_one_have_the_same_ids(
    sites: dict[str, SiteSettings], dialect: str, tmp_path: Path
) -> None:
    settings = sites[dialect]
    expected = pairs(read(settings, ["rate"]))
    own: dict[str, Any] = {"data_type": "sql", "requester": OWN}
    foreign = read(
        settings, ["rate"], data_path=f"SELECT rate FROM {TABLE}", data_type="sql"
    )
    assert pairs(foreign) == expected
    assert pairs(read(settings, ["rate"], requester=OWN)) == expected
    named = read(settings, ["rate"], data_path=f"SELECT pid, rate FROM {TABLE};", **own)
    assert pairs(named) == expected
    snapshot = tmp_path / "vault" / "rows.parquet"
    for _ in range(2):
        assert pairs(read(settings, ["rate"], snapshot=snapshot)) == expected


@pytest.mark.parametrize("dialect", ["duckdb", "postgres", "mysql"])
@pytest.mark.parametrize("requester", [OWN, OTHER])
def test_a_table_without_its_unique_id_is_refused(
    sites: dict[str, SiteSettings], dialect: str, requester: int
) -> None:
    options: dict[str, Any] = {"data_path": TABLE, "data_type": "table"}
    with (
        pytest.raises(BadRequest) as caught,
        open_dataset(
            sites[dialect],
            policy("patient"),
            columns=["rate"],
            requester=requester,
            **options,
        ),
    ):
        pass
    assert caught.value.code == "missing_column"
    assert f"{TABLE} has no column patient, which" in str(caught.value)


@pytest.mark.thorough
def test_whole_rows_are_the_same_in_each_database_whatever_is_asked(
    sites: dict[str, SiteSettings],
) -> None:
    text = f"SELECT rate, cost, born, seen, scan, ratio, note FROM {TABLE}"
    found = []
    for settings in sites.values():
        for name in ("rate", "note"):
            one = read(settings, [name], data_path=text, data_type="sql", requester=OWN)
            assert one.is_whole_row
            found.append(sorted(one.ids.tolist()))
    assert len(set(found[0])) == N
    assert found == [found[0]] * 6
