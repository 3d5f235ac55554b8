"""Tables of a hospital, made of columns of Python values, and read as the product does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from agents.rows.allowed_sql import CheckedQuery
from agents.rows.dataset import Dataset
from agents.rows.reading import open_query
from agents.rows.relation import quoted
from agents.site.settings import SiteSettings

KINDS: list[tuple[type, str]] = [
    (bool, "BOOLEAN"),
    (int, "HUGEINT"),
    (float, "DOUBLE"),
    (Decimal, "DECIMAL(38, 4)"),
    (date, "DATE"),
    (str, "VARCHAR"),
]


def site_at(url: str, folder: Path, **changes: Any) -> SiteSettings:
    """The settings of a hospital with this database."""
    return SiteSettings(
        **{
            "site": folder,
            "user_id": 2,
            "name": "here",
            "coordinator_url": "",
            "data_url": url,
            "state": folder / "state",
            **changes,
        }
    )


def fill_table(path: Path, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Makes a DuckDB file with one table, of types that the values have."""
    kinds = {name: _kind(values) for name, values in columns.items()}
    named = ", ".join(f"{quoted(name)} {kind}" for name, kind in kinds.items())
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS data")
        connection.execute(f"CREATE OR REPLACE TABLE {table} ({named})")
        for row in zip(*columns.values(), strict=True):
            texts = [None if value is None else str(value) for value in row]
            places = ", ".join("?" for _ in texts)
            connection.execute(f"INSERT INTO {table} VALUES ({places})", texts)


def _kind(values: Sequence[Any]) -> str:
    for value in values:
        for kind, name in KINDS:
            if isinstance(value, kind):
                return name
    return "DOUBLE"


@contextmanager
def opened_rows(
    site: SiteSettings,
    sql: str,
    *,
    dialect: str = "duckdb",
    unique_id: str = "id",
    columns: Sequence[str] | None = None,
    **options: Any,
) -> Iterator[Dataset]:
    """The rows of a SELECT that was checked elsewhere."""
    most = options.pop("max_rows", 1_000_000)
    query = CheckedQuery(("data.t",), sql, dialect, most)
    with open_query(
        site, query, unique_id=unique_id, columns=columns, **options
    ) as rows:
        yield rows
