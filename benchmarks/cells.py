"""Thresholds on the sum: a cross table of 1,000 cells at five hospitals, beside the same
with each hospital's own thresholds.

Everything of an order but HTTP, in one process and an exchange in memory, and the
comparison of the cells by itself, with and without earlier answers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from agents.site.settings import SiteSettings, load_settings
from analytics.statistics.rowwise import Column
from benchmarks.clock import timed
from deployments.local.one_process import pin_each_other, run_statistics
from protocol.memory_transport import MemoryTransport
from protocol.shares.cells import MOST_EARLIER, Limits, earlier_of
from protocol.shares.shared_expression import reveal
from protocol.statistics_plan import (
    cell_columns,
    cells_plan,
    changed_columns,
    person,
)
from tests.made_providers import hall_of, shares_of

HOSPITALS = (2, 3, 4, 5, 6)
N_CELLS = 1_000
ROWS_OF_EACH = 20_000
POLICY = """
[orders]
initiators = [2, 3, 4, 5, 6]
methods = ["Mask"]
model_types = ["lr"]
sign = true
[tables."data.none"]
columns = ["*"]
[statistics]
methods = ["crosstab"]
files = ["*"]
cells = "{cells}"
# Made-up people: at a hospital this lets two answers tell what it alone has.
regroup = true
"""


def main() -> None:
    """Prints seconds and bytes."""
    for n_earlier in (0, 1, MOST_EARLIER):
        _comparison(n_earlier)
    for cells in ("each", "pooled"):
        with tempfile.TemporaryDirectory() as folder:
            sites = _sites(Path(folder), cells)
            _order(sites, cells)


def _comparison(n_earlier: int) -> None:
    """Each hospital has earlier answers to another one, about these cells."""
    receivers: tuple[int, ...] = HOSPITALS
    if n_earlier:
        receivers = HOSPITALS[:1]
    earlier = []
    for order in range(n_earlier):
        answer = earlier_of(bytes(32), order, receivers[0])
        earlier.append(answer)
    limits = Limits(
        10,
        3,
        10,
        tuple(earlier),
    )
    plan = cells_plan(HOSPITALS, receivers, limits)
    rng = np.random.default_rng(0)
    every_cell = np.ones(N_CELLS, dtype=bool)
    columns = {}
    for user in HOSPITALS:
        n_rows = rng.integers(0, 11, N_CELLS)
        name_n, name_s = cell_columns(user)
        has_rows = (n_rows > 0).astype(np.int64)
        own = {
            name_n: Column(n_rows, every_cell),
            name_s: Column(has_rows, every_cell),
        }
        for place in range(n_earlier):
            drawn = rng.integers(0, 11, N_CELLS)
            come = person(HOSPITALS) * drawn
            gone = np.zeros_like(come)
            name_come, name_gone = changed_columns(user, place)
            own[name_come] = Column(come, every_cell)
            own[name_gone] = Column(gone, every_cell)
        columns[user] = own
    dealing, hall = timed(lambda: hall_of(plan, N_CELLS))
    computing, shares = timed(
        lambda: shares_of(
            plan,
            columns,
            N_CELLS,
            hall,
        )
    )
    found = reveal(plan, shares)
    n_passed = sum(bool(value) for value in found.values)
    dealt = sum(map(len, hall.dealt.values()))
    sent = max(hall.n_bytes.values())
    print(
        f"comparison of {N_CELLS:,} cells, {len(HOSPITALS)} hospitals of which {len(receivers)} receive,"
        f" {n_earlier} earlier answers: dealing {dealing:.1f} s, all hospitals {computing:.1f} s,"
    )
    print(
        f"  {dealt / 1e6:.2f} MB dealt, {sent / 1e6:.2f} MB from each hospital in"
        f" {len(hall.sent)} messages; {n_passed} cells pass"
    )


def _sites(folder: Path, cells: str) -> dict[int, SiteSettings]:
    sites = {}
    for user in HOSPITALS:
        name = f"hospital-{user}"
        site = folder / name
        site.mkdir()
        state = site / "state"
        (site / "settings.toml").write_text(
            f'user_id = {user}\nname = "{name}"\nstate = "{state}"\n'
        )
        policy = POLICY.format(cells=cells)
        (site / "policy.toml").write_text(policy)
        sites[user] = load_settings(site)
        data_folder = sites[user].data_folder
        data_folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(user)
        # Large and small cells.
        ward = np.minimum(rng.geometric(0.08, ROWS_OF_EACH), 40)
        disease = np.minimum(rng.geometric(0.12, ROWS_OF_EACH), 25)
        rows = pd.DataFrame(
            {
                "id": np.arange(ROWS_OF_EACH),
                "ward": ward,
                "disease": disease,
            }
        )
        rows.to_csv(data_folder / "rows.csv", index=False)
    return pin_each_other(sites)


def _order(sites: dict[int, SiteSettings], cells: str) -> None:
    provider = {
        "data_path": "rows.csv",
        "data_type": "csv",
        "key_column": "ward",
    }
    body = {
        "data_providers": [{"name": user, **provider} for user in HOSPITALS],
        "result_receivers": [2],
        "method": "crosstab",
        "columns": ["ward", "disease"],
        "result_alias": "r",
    }
    transport = MemoryTransport()
    seconds, summary = timed(
        lambda: run_statistics(
            sites,
            body,
            initiator=2,
            transport=transport,
        )
    )
    path = sites[2].results_folder / summary["path"]
    answer = pd.read_csv(path)
    n_bytes = sum(map(len, transport.traffic))
    print(
        f"crosstab, cells = {cells}: {seconds:.1f} s, {n_bytes / 1e6:.1f} MB of messages,"
        f" {answer['r'].notna().sum()} of {N_CELLS:,} cells shown"
    )
