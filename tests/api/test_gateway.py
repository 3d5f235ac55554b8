"""Prefect behind the coordinator: what an agent's token opens there, and what it does
not, against a real Prefect server.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Failed, Pending, Running, Scheduled
from prefect.utilities.engine import propose_state

from tests.api.conftest import Behind

pytestmark = pytest.mark.slow

SECRET_WORDS = "Patient 17 has 3 rows"


def own_client(behind: Behind, hospital: int) -> PrefectClient:
    """Prefect's own client, as it is at an agent."""
    headers = {"Authorization": f"Bearer {behind.token(hospital)}"}
    return PrefectClient(behind.url, httpx_settings={"headers": headers})


def test_a_worker_finds_begins_and_ends_its_runs(behind: Behind) -> None:
    made = behind.prefect.make_run(2, 101)
    other = behind.prefect.make_run(3, 101)

    async def work() -> None:
        async with own_client(behind, 2) as client:
            pool = await client.read_work_pool("hospital-2")
            assert pool.name == "hospital-2"
            await client.send_worker_heartbeat("hospital-2", "hospital-2", 30.0)
            due = await client.get_scheduled_flow_runs_for_work_pool(
                "hospital-2", scheduled_before=datetime.now(UTC) + timedelta(minutes=1)
            )
            found = {str(entry.flow_run.id): entry.flow_run for entry in due}
            assert made["id"] in found
            assert other["id"] not in found
            run = found[made["id"]]
            assert (await client.read_flow(run.flow_id)).name == "hospital-train"
            state = await propose_state(client, Pending(), flow_run_id=run.id)
            assert state.is_pending()
            await propose_state(client, Running(), flow_run_id=run.id)
            whole = await client.read_flow_run(run.id)
            assert whole.parameters == {"order_id": 101}
            assert (
                await client.read_deployment(whole.deployment_id)
            ).name == "hospital-2"
            assert (await client.read_work_queue(whole.work_queue_id)).name == "default"
            await client.update_flow_run(run.id, flow_version="0" * 32)
            ended = Failed(message="min_rows")
            await client.set_flow_run_state(run.id, ended, force=True)

    asyncio.run(work())
    run = behind.prefect.run(made["id"])
    assert run["state"]["type"] == "FAILED"
    assert run["state"]["message"] == "min_rows"
    assert run["flow_version"] == "0" * 32


def test_a_state_that_is_sent_again_because_its_answer_was_lost_is_the_same(
    behind: Behind,
) -> None:
    made = behind.prefect.make_run(2, 109)
    state = {
        "type": "PENDING",
        "name": "Pending",
        "state_details": {"transition_id": str(uuid4())},
    }
    path = f"/flow_runs/{made['id']}/set_state"
    sent = {"state": state, "force": False}
    first, second = (behind.ask("POST", path, json=sent).json() for _ in range(2))
    assert first["status"] == "ACCEPT"
    assert second["status"] == "REJECT"
    assert second["state"]["id"] == first["state"]["id"]


def test_a_run_that_is_put_back_is_due_at_once(behind: Behind) -> None:
    made = behind.prefect.make_run(2, 102)

    async def put_back() -> None:
        later = datetime.now(UTC) + timedelta(days=9)
        async with own_client(behind, 2) as client:
            await client.set_flow_run_state(
                UUID(made["id"]), Scheduled(scheduled_time=later), force=True
            )

    asyncio.run(put_back())
    due = behind.prefect.run(made["id"])["next_scheduled_start_time"]
    assert datetime.fromisoformat(due) <= datetime.now(UTC)


def test_runs_are_found_in_the_own_pool_only(behind: Behind) -> None:
    own = behind.prefect.make_run(2, 103)
    other = behind.prefect.make_run(3, 103)

    async def found(pool: str) -> set[str]:
        wanted = FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])
        )
        async with own_client(behind, 2) as client:
            runs = await client.read_flow_runs(
                flow_run_filter=FlowRunFilter(state=wanted),
                work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
            )
        return {str(run.id) for run in runs}

    for pool in ("hospital-2", "hospital-3", "coordinator"):
        ids = asyncio.run(found(pool))
        assert own["id"] in ids
        assert other["id"] not in ids


def test_a_flow_is_a_name_and_nothing_else(behind: Behind) -> None:
    run = behind.prefect.make_run(2, 104)
    told = behind.ask("GET", f"/flows/{run['flow_id']}").json()
    assert told == {"id": run["flow_id"], "name": "hospital-train"}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"type": "FAILED", "name": "Failed", "message": SECRET_WORDS}, SECRET_WORDS),
        (
            {
                "type": "COMPLETED",
                "name": "Completed",
                "data": {"rows": SECRET_WORDS},
                "state_details": {"cache_key": SECRET_WORDS, "untrackable_result": 1},
            },
            SECRET_WORDS,
        ),
        ({"type": "RUNNING", "name": SECRET_WORDS}, SECRET_WORDS),
    ],
)
def test_a_state_carries_no_words_of_the_agent(
    behind: Behind, state: dict[str, Any], words: str
) -> None:
    made = behind.prefect.make_run(2, 105)
    path = f"/flow_runs/{made['id']}/set_state"
    answer = behind.ask("POST", path, json={"state": state, "force": True})
    assert answer.status_code == 201, answer.text
    run = behind.prefect.run(made["id"])
    assert run["state"]["type"] == state["type"]
    assert words not in str(run)


def unknown(method: str, path: str, **body: Any) -> tuple[str, str, dict[str, Any]]:
    return method, path, body


UUID_HERE = "11111111-1111-4111-8111-111111111111"
ACTS = [
    # Others' metrics, row counts and refusals read
    unknown("POST", "/artifacts/filter"),
    unknown("POST", "/artifacts/latest/filter"),
    unknown("GET", f"/artifacts/{UUID_HERE}"),
    unknown("POST", "/logs/filter"),
    unknown("POST", "/events/filter"),
    unknown("POST", "/task_runs/filter"),
    unknown("POST", "/flow_runs/paginate"),
    unknown("POST", "/flow_runs/count"),
    unknown("POST", "/flow_runs/history"),
    unknown("POST", "/ui/flow_runs/history"),
    unknown("GET", f"/flow_run_states/{UUID_HERE}"),
    # Schedules read, another's started
    unknown("POST", "/deployments/filter"),
    unknown("GET", "/deployments/name/hospital-train/hospital-3"),
    unknown("POST", f"/deployments/{UUID_HERE}/create_flow_run", parameters={}),
    unknown("POST", f"/deployments/{UUID_HERE}/schedule"),
    # A running order refused by another hospital: a flow of another kind in its name
    unknown("POST", "/flow_runs/", flow_id=UUID_HERE, parameters={"order_id": 1}),
    # A deployment moved or made
    unknown("PATCH", f"/deployments/{UUID_HERE}", work_pool_name="hospital-2"),
    unknown("POST", "/deployments/", name="mine"),
    unknown("DELETE", f"/deployments/{UUID_HERE}"),
    # Artifacts and logs forged
    unknown("POST", "/artifacts/", key="summary", data=SECRET_WORDS),
    unknown("POST", "/logs/"),
    unknown("POST", "/events", events=[]),
    unknown("POST", f"/task_runs/{UUID_HERE}/set_state", state={"type": "FAILED"}),
    # The server made to call an address
    unknown("POST", "/block_documents/", name="hook"),
    unknown("GET", "/block_types/filter"),
    unknown("POST", "/automations/", name="call"),
    unknown("POST", "/variables/", name="a", value="b"),
    # The rest of the house
    unknown("DELETE", f"/flow_runs/{UUID_HERE}"),
    unknown("DELETE", "/work_pools/hospital-2"),
    unknown("PATCH", "/work_pools/hospital-2", is_paused=True),
    unknown("POST", "/work_pools/filter"),
    unknown("POST", "/work_pools/hospital-2/workers/filter"),
    unknown("GET", "/work_pools/hospital-2/queues/default"),
    unknown("POST", "/work_queues/filter"),
    unknown("POST", "/flows/filter"),
    unknown("POST", "/admin/database/clear", confirm=True),
    unknown("GET", "/admin/settings"),
    unknown("GET", "/health"),
]


@pytest.mark.parametrize(
    ("method", "path", "body"), ACTS, ids=[f"{act[0]} {act[1]}" for act in ACTS]
)
def test_what_is_not_in_the_table_does_not_exist(
    behind: Behind, method: str, path: str, body: dict[str, Any]
) -> None:
    n_before = len(behind.passed_on)
    answer = behind.ask(method, path, json=body)
    assert answer.status_code == 404
    assert answer.json()["data"]["error"]["type"] == "NotFound"
    assert len(behind.passed_on) == n_before


@pytest.mark.parametrize("pool", ["hospital-3", "coordinator", "hospital-22"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("POST", "/workers/heartbeat", {"name": "hospital-2"}),
        (
            "POST",
            "/get_scheduled_flow_runs",
            {"scheduled_before": "2099-01-01T00:00:00Z"},
        ),
    ],
)
def test_another_pool_does_not_exist(
    behind: Behind, pool: str, method: str, path: str, body: Any
) -> None:
    n_before = len(behind.passed_on)
    answer = behind.ask(method, f"/work_pools/{pool}{path}", json=body)
    assert answer.status_code == 404
    assert len(behind.passed_on) == n_before


def test_another_hospitals_run_is_neither_read_nor_changed(behind: Behind) -> None:
    """Nor the coordinator's own, whose state would cancel the order."""
    with behind.prefect.client as client:
        found = client.get("/deployments/name/train-order/train-order").json()
        own_of_coordinator = client.post(
            f"/deployments/{found['id']}/create_flow_run",
            json={"parameters": {"order_id": 106}, "state": {"type": "SCHEDULED"}},
        ).json()
    for run in (behind.prefect.make_run(3, 106), own_of_coordinator):
        path = f"/flow_runs/{run['id']}"
        state = {"state": {"type": "CANCELLED", "name": "Cancelled"}, "force": True}
        assert behind.ask("GET", path).status_code == 404
        assert behind.ask("PATCH", path, json={}).status_code == 404
        assert behind.ask("POST", f"{path}/set_state", json=state).status_code == 404
        for place in ("deployments", "work_queues"):
            key = "deployment_id" if place == "deployments" else "work_queue_id"
            assert behind.ask("GET", f"/{place}/{run[key]}").status_code == 404
        assert behind.prefect.run(run["id"])["state"]["type"] == "SCHEDULED"
    coordinators_flow = f"/flows/{own_of_coordinator['flow_id']}"
    assert behind.ask("GET", coordinators_flow).status_code == 404
    # The run of hospital 3 is there for hospital 3.
    assert behind.ask("GET", path.replace(run["id"], str(uuid4()))).status_code == 404


@pytest.mark.parametrize(
    "field",
    [
        "name",
        "tags",
        "parameters",
        "work_queue_name",
        "infrastructure_pid",
        "job_variables",
    ],
)
def test_of_a_run_nothing_else_is_changed(behind: Behind, field: str) -> None:
    made = behind.prefect.make_run(2, 107)
    answer = behind.ask("PATCH", f"/flow_runs/{made['id']}", json={field: "order-1"})
    assert answer.status_code == 422
    assert field in answer.json()["message"]


@pytest.mark.parametrize("who", ["operator", "coordinator", "user-2", "agent-9", ""])
def test_only_an_agents_token_opens_it(behind: Behind, who: str) -> None:
    headers = {"Authorization": f"Bearer {behind.coordinator.tokens.get(who, who)}"}
    if not who:
        headers = {}
    path = f"{behind.url}/work_pools/hospital-2"
    answer = httpx.get(path, headers=headers, trust_env=False)
    assert answer.status_code in (401, 403)
    n_bytes = 2**20  # never read: the token is looked at first
    path = f"{behind.url}/flow_runs/filter"
    answer = httpx.post(path, headers=headers, content=b"x" * n_bytes, trust_env=False)
    assert answer.status_code in (401, 403)


def test_its_own_pool_is_by_the_token_alone(behind: Behind) -> None:
    made = behind.prefect.make_run(3, 108)
    path = f"/flow_runs/{made['id']}"
    assert behind.ask("GET", path, "agent-3").json()["id"] == made["id"]
    claimed = {"X-Prefect-Worker-Name": "hospital-3", "Prefect-Pool": "hospital-3"}
    assert behind.ask("GET", path, "agent-2", headers=claimed).status_code == 404


def test_prefects_client_hears_that_a_missing_thing_is_missing(behind: Behind) -> None:
    async def read() -> None:
        async with own_client(behind, 2) as client:
            await client.read_flow_run(uuid4())

    with pytest.raises(ObjectNotFound):
        asyncio.run(read())
