"""Whole orders over joined rows: a product and a threshold of 1,000,000 people at three
hospitals, beside a plain join.

Everything of an order but HTTP: reading parquet files, the gate, tags, triples, sealed
messages in vaults and in an exchange in memory, the result in the receiver's folder.
All parties share this machine's two cores. The plain join is DuckDB's over the three
files: what hospitals could do that give their rows away.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from agents.site.settings import SiteSettings, load_settings
from benchmarks.clock import timed
from deployments.local.one_process import pin_each_other, run_statistics
from protocol.memory_transport import MemoryTransport
from protocol.shares import matching

N_ROWS = 1_000_000
HOSPITALS = (2, 3, 4)
TARGET_SECONDS = {"custom": 30.0, "is_investor_accredited": 60.0}
QUESTIONS: dict[str, dict[str, Any]] = {
    "custom": {
        "expression": "df1.value * df2.value + df3.value",
        "plain": "a.value * b.value + c.value",
    },
    "is_investor_accredited": {
        "threshold": 1500,
        "plain": "a.value + b.value + c.value >= 1500",
    },
}
POLICY = """
[orders]
initiators = [2, 3, 4]
methods = ["Mask"]
model_types = ["lr"]
sign = true
[tables."data.none"]
columns = ["*"]
[statistics]
methods = ["custom", "is_investor_accredited"]
files = ["*"]
row_level = ["id", "value"]
# Made-up people: at a hospital this lets two answers tell what it alone has.
regroup = true
"""


def main(n_rows: int = N_ROWS) -> None:
    """Prints seconds, bytes and ratios."""
    _matching(n_rows)
    with tempfile.TemporaryDirectory() as folder:
        sites = _sites(Path(folder), n_rows)
        for number, (method, question) in enumerate(QUESTIONS.items(), start=1):
            _order(sites, number, method, dict(question), n_rows)


def _matching(n_rows: int) -> None:
    keys = [str(i) for i in range(n_rows)]
    seconds, tags = timed(
        lambda: [matching.tags(bytes(32), keys)[0] for _ in HOSPITALS]
    )
    both, _ = timed(lambda: matching.intersect(tags))
    print(
        f"matching {n_rows:,} keys of {len(HOSPITALS)} hospitals: tags {seconds:.1f} s, intersection {both:.1f} s,"
    )
    print(
        f"  {len(matching.encode_tags(tags[0])) / n_rows:.0f} bytes per key to the coordinator"
    )


def _sites(folder: Path, n_rows: int) -> dict[int, SiteSettings]:
    """Three hospitals, each with a parquet file of the same people in an order of its
    own.
    """
    sites = {}
    for user in HOSPITALS:
        site = folder / f"hospital-{user}"
        site.mkdir()
        (site / "settings.toml").write_text(
            f'user_id = {user}\nname = "hospital-{user}"\nstate = "{site / "state"}"\n'
        )
        (site / "policy.toml").write_text(POLICY)
        # Above what an order reads: the limit is not what is measured.
        sites[user] = replace(load_settings(site), max_rows=10 * n_rows)
        sites[user].data_folder.mkdir(parents=True, exist_ok=True)
        _write(sites[user].data_folder / "people.parquet", user, n_rows)
    return pin_each_other(sites)


def _write(path: Path, seed: int, n_rows: int) -> None:
    rng = np.random.default_rng(seed)
    columns = pd.DataFrame(
        {"id": rng.permutation(n_rows), "value": rng.integers(0, 100_000, n_rows)}
    )
    database = duckdb.connect()
    database.register("drawn", columns)
    query = f"SELECT id, CAST(value / 100 AS DECIMAL(18, 2)) AS value FROM drawn ORDER BY {seed} * id % 1009"
    database.execute(f"COPY ({query}) TO '{path}'")


def _order(
    sites: dict[int, SiteSettings],
    number: int,
    method: str,
    question: dict[str, Any],
    n_rows: int,
) -> None:
    plain = question.pop("plain")
    provider = {
        "data_path": "people.parquet",
        "data_type": "parquet",
        "key_column": "id",
    }
    named = {"value_column": "value"} if method == "is_investor_accredited" else {}
    providers = [{"name": user, **provider, **named} for user in HOSPITALS]
    body = {
        "data_providers": providers,
        "result_receivers": [2],
        "method": method,
        "result_alias": "r",
        **question,
    }
    transport = MemoryTransport()
    seconds, _ = timed(
        lambda: run_statistics(
            sites, body, initiator=2, order_id=number, transport=transport
        )
    )
    joined, _ = timed(lambda: _plain_join(sites, plain))
    n_bytes = sum(map(len, transport.traffic))
    verdict = "met" if seconds <= TARGET_SECONDS[method] else "MISSED"
    print(
        f"{method}: {seconds:.1f} s for {n_rows:,} people (target {TARGET_SECONDS[method]:.0f} s, {verdict}),"
    )
    print(
        f"  {n_bytes / n_rows:.0f} bytes per person in all messages; {seconds / joined:.0f} times a plain join"
    )


def _plain_join(sites: dict[int, SiteSettings], expression: str) -> None:
    a, b, c = (f"'{site.data_folder / 'people.parquet'}'" for site in sites.values())
    query = f"SELECT a.id, {expression} FROM {a} a JOIN {b} b USING (id) JOIN {c} c USING (id)"
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        duckdb.connect(config={"threads": 2}).execute(
            f"COPY ({query}) TO '{file.name}'"
        )
