"""An order of more hospitals than a limit has few rows in Prefect: each hospital shows
its whole work as one task, and the coordinator its rounds.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.prefect_rows import OrderRows, rows_of
from deployments.demo.training import document_order
from tests.conftest import ROOT, RunningFederation
from tests.faults.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

ROUNDS = 3
MOST_ROWS = 3_000
"""Of an order of 300 hospitals and 30 rounds."""


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFederation]:
    """Three hospitals that count as many."""
    folder = tmp_path_factory.mktemp("coarse")
    sites = folder / "sites"
    shutil.copytree(ROOT / "deployments" / "sites", sites)
    for settings in sites.glob("*/settings.toml"):
        settings.write_text(f"{settings.read_text()}\ncoarse_tasks_above = 2\n")
    environment = {"CONSILIUM_SITES": str(sites)}
    running = RunningFederation(
        folder / "home", options=("--no-restart",), environment=environment
    )
    running.start()
    yield running
    assert running.stop() == 0, running.logs()[-3000:]


def settled(running: RunningFederation, order_id: int) -> OrderRows:
    """Prefect writes its record a moment after the order's end."""
    database: Path = running.home / "prefect" / "prefect.db"

    def is_written() -> bool:
        rows = rows_of(database, order_id)
        n_states = [one.task_run_states for one in rows.hospitals.values()]
        return n_states == [2, 2, 2] and rows.n_rounds == ROUNDS + 1

    wait_until(is_written, "Prefect has the order's task runs", seconds=60)
    return rows_of(database, order_id)


def test_a_hospital_has_one_task_and_the_coordinator_its_rounds(
    coarse: RunningFederation,
) -> None:
    body = document_order(rounds=ROUNDS, method="Mask")
    body["model_params"]["eps"] = 0.0
    order_id = coarse.submit(body)
    order = coarse.wait_for(order_id)
    assert order["state"] == "success", order["refusal"]
    rows = settled(coarse, order_id)
    for of_hospital in rows.hospitals.values():
        assert of_hospital.flow_runs == 1
        assert of_hospital.task_runs == 1
        # Scheduled, pending, running, completed; the task's are the last two.
        assert of_hospital.total <= 8
    assert rows.in_rounds.task_runs == ROUNDS + 1
    assert rows.foreseen(300, 30) < MOST_ROWS

    with coarse.client(4) as client:
        around = client.get(f"/orders/{order_id}/timeline").json()["data"]
        of_round = client.get(f"/orders/{order_id}/timeline?round=1").json()["data"]
    for shown in (around, of_round):
        assert shown["hospitals_show"] == "whole order"
        whole = [part for part in shown["parts"] if part["what"] == "whole order"]
        assert sorted(part["user_id"] for part in whole) == [2, 3, 4]
    assert "aggregation" in {part["what"] for part in of_round["parts"]}
    # The steps still stand in the hospital's own log.
    log = (coarse.home / "sites" / "shanxi-xbfy" / "agent.log").read_text()
    assert "key agreement" in log
