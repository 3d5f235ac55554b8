"""Orders that wait for a person at a hospital: approved, refused, cancelled, and the
hospital killed meanwhile.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.order import approval
from agents.order.approval import Approvals
from agents.order.party import open_party
from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from api.store import Store
from deployments.demo.breast_cancer import breast_cancer_tables
from deployments.demo.training import document_order
from deployments.local import one_process
from deployments.local.one_process import run_order, run_statistics
from protocol.errors import OrderStopped, Refused
from protocol.memory_transport import MemoryTransport
from tests.conftest import RunningFederation
from tests.faults.processes import wait_until
from tests.made_sites import make_sites, order_body
from tests.pairwise import quick

HOSPITALS = (2, 3, 4)
SITE = "suzhou-szslyy"
STATISTICS = '[statistics]\nmethods = ["sum"]\nfiles = ["*"]\n'


def let_a_person_decide(settings: SiteSettings) -> None:
    text = settings.policy.read_text()
    settings.policy.write_text(
        text.replace("[orders]\n", '[orders]\napproval = "manual"\n')
    )


# In one process


@pytest.fixture
def sites(tmp_path: Path) -> dict[int, SiteSettings]:
    """Hospital 2 lets a person decide; the others let their policies do."""
    frames = dict(zip(HOSPITALS, breast_cancer_tables().values(), strict=False))
    made = make_sites(
        tmp_path, {user: {"rows": frame} for user, frame in frames.items()}
    )
    for site in made.values():
        (site.data_folder / "rows.csv").write_text(
            "x\n" + "".join(f"{k}\n" for k in range(20))
        )
        site.policy.write_text(site.policy.read_text() + STATISTICS)
    let_a_person_decide(made[2])
    return made


@contextmanager
def under_way(call: Callable[[], Any]) -> Iterator[Future[Any]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call)


def until_waiting(
    settings: SiteSettings, seconds: float = 60
) -> approval.ApprovalQuestion:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if waiting := Approvals(settings).waiting():
            return waiting[0]
        time.sleep(0.02)
    raise AssertionError("no order waits")


def rows_read(settings: SiteSettings, order_id: int = 1) -> list[str]:
    folder = settings.vault / "orders" / str(order_id)
    return [
        path.name
        for path in folder.glob("*")
        if path.suffix in (".npz", ".parquet") or path.name == "reading"
    ]


def test_an_order_waits_is_approved_and_goes_on(sites: dict[int, SiteSettings]) -> None:
    with under_way(
        lambda: run_order(sites, order_body(HOSPITALS, purpose="Ward 3"))
    ) as outcome:
        question = until_waiting(sites[2])
        time.sleep(0.2)
        assert not outcome.done()
        assert rows_read(sites[2]) == []
        assert question.terms["data"] == {"train": "SELECT * FROM data.rows"}
        assert (question.terms["purpose"], question.terms["parties"]) == (
            "Ward 3",
            [2, 3, 4],
        )
        Approvals(sites[2]).decide(1, approve=True, person="li")
        assert sorted(outcome.result(timeout=60).models) == [2, 3, 4]
    told = [
        entry["event"]
        for entry in Ledger(sites[2].ledger).entries()
        if entry["event"] != "left"
    ]
    assert told == ["asked", "decided", "answered", "opens", "finished"]


def test_a_refusal_ends_the_order_for_all(sites: dict[int, SiteSettings]) -> None:
    with under_way(lambda: run_order(sites, order_body((4, 2, 3)))) as outcome:
        until_waiting(sites[2])
        Approvals(sites[2]).decide(1, approve=False, reason="No vote yet.", person="li")
        with pytest.raises(Refused, match=r"No vote yet\.") as caught:
            outcome.result(timeout=60)
    assert caught.value.code == "approval"


def test_an_order_that_is_cancelled_waits_no_more(
    sites: dict[int, SiteSettings],
) -> None:
    transport = MemoryTransport()
    with under_way(
        lambda: run_order(sites, order_body((4, 2, 3)), transport=transport)
    ) as outcome:
        until_waiting(sites[2])
        transport.stop(1, OrderStopped("Cancelled.", remedy="", code="cancelled"))
        with pytest.raises(OrderStopped):
            outcome.result(timeout=60)


def test_sql_that_the_policy_refuses_is_never_asked_about(
    sites: dict[int, SiteSettings],
) -> None:
    body = order_body((4, 2, 3))
    body["data_info"]["2"] = "SELECT * FROM data.closed"
    with pytest.raises(Refused) as caught:
        run_order(sites, body)
    assert caught.value.code == "tables"
    assert Approvals(sites[2]).waiting() == []
    assert [entry["event"] for entry in Ledger(sites[2].ledger).entries()] == []


@pytest.mark.parametrize(
    ("path", "kind", "code"),
    [("../rows.csv", "csv", "data_path"), ("data.closed", "table", "tables")],
)
def test_data_that_the_policy_refuses_are_never_asked_about(
    sites: dict[int, SiteSettings], path: str, kind: str, code: str
) -> None:
    entries = [
        {"name": u, "data_path": "rows.csv", "data_type": "csv", "key_column": "x"}
        for u in HOSPITALS
    ]
    entries[0] = {**entries[0], "data_path": path, "data_type": kind}
    body = {"method": "sum", "data_providers": entries, "result_receivers": [4]}
    with pytest.raises(Refused) as caught:
        run_statistics(sites, body, initiator=4)
    assert caught.value.code == code
    assert Approvals(sites[2]).waiting() == []


class Killed(BaseException):
    """kill -9: nothing that handles errors sees it."""


@pytest.mark.parametrize("decided", quick(["before", "after"], 1))
def test_a_hospital_that_is_killed_waits_on(
    sites: dict[int, SiteSettings], monkeypatch: pytest.MonkeyPatch, decided: str
) -> None:
    heard, train, lives = approval._heard, one_process.train_locally, [Killed()]
    dead, restart = threading.Event(), threading.Event()

    def mortal(*args: Any) -> Any:
        if lives:
            raise lives.pop()
        return heard(*args)

    def started_again(party: Any) -> None:
        try:
            train(party)
        except Killed:
            dead.set()
            assert restart.wait(30)
            train(open_party(party.settings, party.order_id, party.exchange.transport))

    monkeypatch.setattr(approval, "_heard", mortal)
    monkeypatch.setattr(one_process, "train_locally", started_again)
    with under_way(lambda: run_order(sites, order_body(HOSPITALS))) as outcome:
        assert dead.wait(60)
        if decided == "before":
            Approvals(sites[2]).decide(1, approve=True, person="li")
        restart.set()
        if decided == "after":
            time.sleep(0.3)
            Approvals(sites[2]).decide(1, approve=True, person="li")
        assert sorted(outcome.result(timeout=60).models) == [2, 3, 4]
    events = [entry["event"] for entry in Ledger(sites[2].ledger).entries()]
    assert (events.count("asked"), events.count("decided")) == (1, 1)


@pytest.mark.parametrize("receivers", [[4], [2]])
def test_joint_statistics_wait_at_providers_and_receivers(
    sites: dict[int, SiteSettings], receivers: list[int]
) -> None:
    """Hospital 2 provides, or in the second order only receives."""
    providers = HOSPITALS if receivers == [4] else (3, 4)
    if receivers == [2]:
        for user in providers:
            text = (
                sites[user]
                .policy.read_text()
                .replace(STATISTICS, STATISTICS + "min_providers = 2\n")
            )
            sites[user].policy.write_text(text)
    entries = [
        {"name": user, "data_path": "rows.csv", "data_type": "csv", "key_column": "x"}
        for user in providers
    ]
    body = {
        "method": "sum",
        "data_providers": entries,
        "result_receivers": receivers,
        "purpose": "Beds",
    }
    with under_way(lambda: run_statistics(sites, body, initiator=4)) as outcome:
        question = until_waiting(sites[2])
        time.sleep(0.2)
        assert not outcome.done()
        assert rows_read(sites[2]) == []
        assert question.terms["data"] == (
            {"data": "rows.csv"} if 2 in providers else {}
        )
        assert (question.terms["method"], question.terms["receivers"]) == (
            "sum",
            receivers,
        )
        Approvals(sites[2]).decide(1, approve=True, person="li")
        assert outcome.result(timeout=60)["path"]


# Over a real federation


@contextmanager
def deciding(federation: RunningFederation) -> Iterator[None]:
    """While this lasts a person decides at hospital 2."""
    path = federation.sites / SITE / "policy.toml"
    text = path.read_text("utf-8")
    path.write_text(
        text.replace("[orders]\n", '[orders]\napproval = "manual"\n', 1), "utf-8"
    )
    until_told(federation, "manual")
    try:
        yield
    finally:
        path.write_text(text, "utf-8")
        # The orders of tests to come share this federation.
        until_told(federation, "automatic")


def until_told(federation: RunningFederation, approval: str) -> None:
    """Until the coordinator knows who decides at hospital 2."""

    def is_told() -> bool:
        with federation.client(4) as client:
            hospitals = client.get("/hospitals").json()["data"]["hospitals"]
        (own,) = [row for row in hospitals if row["user_id"] == 2]
        return bool(own["policy"]["orders"]["approval"] == approval)

    wait_until(is_told, f"hospital 2 tells that approval is {approval}")


def until_listed(federation: RunningFederation) -> dict[str, Any]:
    for _ in range(120):
        done = federation.agent(SITE, "approvals", "--json")
        assert done.returncode == 0, done.stderr
        if found := json.loads(done.stdout):
            (question,) = found
            return dict(question)
        time.sleep(0.5)
    raise AssertionError(federation.logs()[-3000:])


def post(
    federation: RunningFederation, path: str, body: dict[str, Any], *, user: int = 4
) -> dict[str, Any]:
    with federation.client(user) as client:
        return dict(client.post(path, json=body).json())


@pytest.mark.slow
@pytest.mark.thorough
def test_an_order_and_an_inference_wait_for_a_person(
    federation: RunningFederation,
) -> None:
    with deciding(federation):
        body = {
            **document_order(method="Mask", rounds=2),
            "user_id": 2,
            "party_id": [3, 4],
            "purpose": "Ward 3",
        }
        answer = post(federation, "/model/train", body, user=2)
        assert answer["data"]["data_volum"] == {"2": None, "3": None, "4": None}
        assert f"{SITE} is asked first" in answer["message"]
        number = until_listed(federation)["order_id"]
        order = federation.order(number)
        assert [
            (entry["user_id"], entry["cause"]) for entry in order["waiting_for"]
        ] == [(2, "approval")]
        assert taken_places(federation) == {}
        done = federation.agent(SITE, "approve", str(number))
        assert (done.returncode, done.stderr) == (0, "")
        assert federation.wait_for(number)["state"] == "success"
        row = {
            "user_id": 2,
            "data_sql": "SELECT * FROM data.breast_homo_host WHERE id < 60",
        }
        asked = {"model_id": number, "input_data": row}
        with under_way(lambda: post(federation, "/model/infer", asked, user=2)) as told:
            question = until_listed(federation)
            assert question["terms"]["data"] == {"infer": row["data_sql"]}
            assert (
                federation.agent(SITE, "approve", str(question["order_id"])).returncode
                == 0
            )
            assert told.result(timeout=60)["data"]["result"]


@pytest.mark.slow
def test_a_refusal_is_told_to_who_ordered(federation: RunningFederation) -> None:
    with deciding(federation):
        number = post(
            federation, "/model/train", document_order(method="Mask", rounds=2)
        )["data"]["order_id"]
        until_listed(federation)
        assert (
            federation.agent(
                SITE, "refuse", str(number), "--reason", "No vote yet."
            ).returncode
            == 0
        )
        order = federation.wait_for(number)
    assert order["state"] == "failed"
    assert order["refusal"]["code"] == "approval"
    assert order["refusal"]["sentence"].startswith(
        f"{SITE}: A person at this hospital refused the order: No vote yet."
    )
    until_final_in_prefect(federation, number)


@pytest.mark.slow
@pytest.mark.thorough
def test_an_order_that_waits_can_be_cancelled(federation: RunningFederation) -> None:
    with deciding(federation):
        number = post(
            federation, "/model/train", document_order(method="Mask", rounds=2)
        )["data"]["order_id"]
        until_listed(federation)
        began = time.monotonic()
        with federation.client(4) as client:
            assert client.post(f"/orders/{number}/cancel").json()["code"] == 200
        assert federation.wait_for(number)["state"] == "cancelled"
        assert time.monotonic() - began < 20
        for _ in range(40):
            if json.loads(federation.agent(SITE, "approvals", "--json").stdout) == []:
                break
            time.sleep(0.5)
        assert federation.agent(SITE, "approve", str(number)).returncode == 2
    until_final_in_prefect(federation, number)


def taken_places(federation: RunningFederation) -> dict[int, int]:
    store = Store(f"sqlite:///{federation.home / 'coordinator' / 'store.sqlite'}")
    found = store.places.taken()
    store.close()
    return found


def until_final_in_prefect(federation: RunningFederation, order_id: int) -> None:
    """No run of an order that has ended stays behind, not even one that never began."""
    wanted = {"flow_runs": {"tags": {"all_": [f"order-{order_id}"]}}}
    deadline = time.monotonic() + 60
    with federation.prefect() as client:
        while time.monotonic() < deadline:
            states = [
                run["state_type"]
                for run in client.post("/flow_runs/filter", json=wanted).json()
            ]
            if states and not set(states) & {"SCHEDULED", "PENDING", "RUNNING"}:
                return
            time.sleep(0.3)
    raise AssertionError(states)
