"""Columns that an order does not name cost no memory: measured in fresh processes, at each
database.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.made_databases import create_schema, drop_schema, run

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

ROWS = 200_000
TEXTS = 25
MOST_MORE = 60
"""Megabytes. The texts are 25 MB in each column."""
SCHEMA = f"consilium_memory_{os.getpid()}"
ROOT = Path(__file__).parents[2]

URLS = {
    "duckdb": "duckdb:///{folder}/hospital.duckdb",
    "postgres": "postgresql+psycopg://postgres@127.0.0.1:5432/postgres",
    "mysql": "mysql+pymysql://root@127.0.0.1:3306/",
}
NUMBERS = {
    "duckdb": f"range({ROWS}) t(i)",
    "postgres": f"generate_series(0, {ROWS - 1}) t(i)",
    "mysql": f"(SELECT seq AS i FROM {SCHEMA}.seq_0_to_{ROWS - 1}) t",
}
NARROW = "i AS id, i % 2 AS y, i / 7.0 AS x1, i % 11 AS x2, i * 0.5 AS x3"

READ = """
import sys
from pathlib import Path
from agents.rows.cohort import build_cohort
from tests.made_rows import opened_rows, site_at
url, folder, table, dialect = sys.argv[1:]
names = ["x1", "x2", "x3"]
sql = f"SELECT * FROM {table}"
site = site_at(url, Path(folder))
with opened_rows(site, sql, dialect=dialect, columns=[*names, "y"]) as rows:
    cohort = build_cohort(rows, unique_id="id", attributes=names, label_name="y",
                          model_type="lr", key=bytes(32))
status = Path("/proc/self/status").read_text()
(most,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
print(cohort.n_rows, most)
"""


def peak(url: str, folder: Path, table: str, dialect: str) -> float:
    """The most memory that a process took which read a cohort, in megabytes."""
    found = subprocess.run(
        [sys.executable, "-c", READ, url, str(folder), f"{SCHEMA}.{table}", dialect],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    n_rows, kilobytes = found.stdout.split()
    assert int(n_rows) == ROWS
    return int(kilobytes) / 1024


@pytest.fixture(params=["duckdb", "postgres", "mysql"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[str, str]]:
    dialect = request.param
    url = URLS[dialect].format(folder=tmp_path)
    note = "CONCAT(REPEAT('note', 30), i)"
    notes = ", ".join(f"{note} AS note_{i}" for i in range(TEXTS))
    create_schema(url, SCHEMA)
    try:
        for table, columns in (("narrow", NARROW), ("wide", f"{NARROW}, {notes}")):
            selected = f"SELECT {columns} FROM {NUMBERS[dialect]}"
            run(url, [f"CREATE TABLE {SCHEMA}.{table} AS {selected}"])
        yield url, dialect
    finally:
        drop_schema(url, SCHEMA)


def test_unused_columns_cost_no_memory(
    database: tuple[str, str], tmp_path: Path
) -> None:
    url, dialect = database
    narrow = peak(url, tmp_path, "narrow", dialect)
    wide = peak(url, tmp_path, "wide", dialect)
    assert wide < narrow + MOST_MORE, (narrow, wide)
