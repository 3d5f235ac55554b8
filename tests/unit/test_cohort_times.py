"""An agent makes the rows of cohorts at their times, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from pathlib import Path

import duckdb
import pytest

from agents.rows.named_cohort import made_cohort
from agents.site.ledger import Ledger
from tasks.hospital.cohorts import AT_ITS_TIME, is_any_due, keep_cohorts
from tests.made_rows import site_at

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
SQL = "SELECT id, x FROM data.t"


def test_what_is_due_is_made_and_nothing_else(tmp_path: Path) -> None:
    settings = site_at(f"duckdb:///{tmp_path / 'hospital.duckdb'}", tmp_path)
    with duckdb.connect(str(tmp_path / "hospital.duckdb")) as database:
        database.execute(
            "CREATE SCHEMA data; CREATE TABLE data.t AS SELECT i AS id, i AS x FROM range(20) r(i)"
        )
    sections = ""
    for name, refresh in (("nightly", 'refresh = "0 3 * * *"\n'), ("by_hand", "")):
        (tmp_path / f"{name}.sql").write_text(SQL)
        sections += f'[cohorts.{name}]\nsql = "{name}.sql"\n{refresh}'
        sections += f'sha256 = "{hashlib.sha256(SQL.encode()).hexdigest()}"\n'
    settings.policy.write_text(
        '[orders]\ninitiators = [2]\nmethods = ["Mask"]\nmodel_types = ["lr"]\nsign = true\n'
        f'[tables."data.t"]\n{sections}'
    )

    async def until_made() -> None:
        duty = asyncio.create_task(keep_cohorts(settings, look_seconds=0.05))
        async with asyncio.timeout(120):
            while not list(Ledger(settings.ledger).entries()):
                await asyncio.sleep(0.05)
        duty.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await duty

    assert is_any_due(settings)
    asyncio.run(until_made())
    made = made_cohort(settings, "nightly")
    assert made is not None
    assert made.n_rows == 20
    assert made_cohort(settings, "by_hand") is None
    assert not is_any_due(settings)
    (entry,) = Ledger(settings.ledger).entries()
    assert (entry["event"], entry["person"]) == ("cohort_made", AT_ITS_TIME)
    # A policy that cannot be read makes nothing due.
    settings.policy.write_text("nothing")
    assert not is_any_due(settings)
