"""Orders that are sent together have their runs together: Prefect on SQLite refuses none
because of what another one writes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.api.conftest import Behind
from tests.api.real_prefect import Prefect
from tests.conftest import NO_AUTHORITY

N_RUNS = 40


async def _make_and_begin(client: httpx.AsyncClient, deployment_id: str) -> list[int]:
    """The codes of a run's first calls: it is made, is Pending, writes a line, runs."""
    made = await client.post(
        f"/deployments/{deployment_id}/create_flow_run",
        json={"parameters": {"order_id": 1}, "state": {"type": "SCHEDULED"}},
    )
    codes = [made.status_code]
    if made.is_error:
        return codes
    path = f"/flow_runs/{made.json()['id']}/set_state"
    for state in ("PENDING", "RUNNING", "COMPLETED"):
        asked = {"state": {"type": state}, "force": True}
        answer = await client.post(path, json=asked)
        codes.append(answer.status_code)
    return codes


async def _together(prefect: Prefect, deployment_id: str) -> list[list[int]]:
    user, _, password = prefect.auth.partition(":")
    # No transport that asks again, as Prefect's own client does after seconds.
    async with httpx.AsyncClient(
        base_url=prefect.url,
        auth=(user, password),
        verify=NO_AUTHORITY,
        trust_env=False,
        timeout=120,
    ) as client:
        runs = [_make_and_begin(client, deployment_id) for _ in range(N_RUNS)]
        return await asyncio.gather(*runs)


@pytest.mark.thorough
def test_no_run_is_refused_while_others_are_written(behind: Behind) -> None:
    with behind.prefect.client as client:
        place = "/deployments/name/hospital-train/hospital-5"
        deployment: Any = client.get(place).raise_for_status().json()
    answers = asyncio.run(_together(behind.prefect, deployment["id"]))
    seen = Counter(code for codes in answers for code in codes)
    assert seen == {201: 4 * N_RUNS}, seen
