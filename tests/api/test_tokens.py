"""Who gets in: no token 401, the wrong one 403; a hospital sees and does what is its
own.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.settings import load_settings
from deployments.demo.training import document_order
from protocol.errors import BadRequest, Unavailable
from protocol.exchange import Address
from protocol.sealing import Identity, seal_to
from tests.api.conftest import Coordinator, StandInRuns, serve, settings_in
from tests.api.test_bad_input import assert_refused

ORDER = "/exchange/1"
EVERYWHERE: list[tuple[str, str]] = [
    ("POST", "/model/train"),
    ("GET", "/model/train_status?order_id=1"),
    ("GET", "/model/info?model_id=1"),
    ("POST", "/model/infer"),
    ("POST", "/model/evaluate"),
    ("POST", "/model/schedules"),
    ("GET", "/model/schedules"),
    ("GET", "/model/schedules/1"),
    ("PATCH", "/model/schedules/1"),
    ("DELETE", "/model/schedules/1"),
    ("GET", "/model/schedules/1/history"),
    ("GET", "/model/infer_status?order_id=1"),
    ("POST", "/runModelTrainTask"),
    ("POST", "/runJointStatisticalAnalysisTask"),
    ("GET", "/statistics/result?order_id=1"),
    ("POST", "/statistics/schedules"),
    ("GET", "/statistics/schedules"),
    ("GET", "/statistics/schedules/1"),
    ("PATCH", "/statistics/schedules/1"),
    ("DELETE", "/statistics/schedules/1"),
    ("POST", "/statistics/schedules/1/firings"),
    ("GET", "/statistics/history"),
    ("GET", "/hospitals"),
    ("PUT", "/hospitals/me"),
    ("PUT", "/hospitals/me/token"),
    ("GET", "/orders"),
    ("GET", "/orders/1"),
    ("POST", "/orders/1/cancel"),
    ("POST", "/orders/1/rerun"),
    ("GET", "/orders/1/events"),
    ("GET", "/orders/1/timeline"),
    ("GET", "/orders/1/request"),
    ("GET", "/orders/1/answer"),
    ("POST", "/orders/1/refuse"),
    ("POST", "/orders/1/ask"),
    ("POST", "/orders/1/decided"),
    ("POST", "/exchange/runs"),
    ("GET", "/exchange/admitted"),
    ("GET", "/orders/1/progress"),
    ("POST", "/orders/1/progress"),
    ("POST", "/orders"),
    ("GET", "/orders/1/rounds"),
    ("PUT", "/orders/1/rounds/0"),
    ("GET", "/client_grad?order_id=1"),
    ("GET", "/avg_grad?order_id=1"),
    ("GET", "/performance?order_id=1"),
    ("GET", "/trained_clients?order_id=1&round=0&number=1"),
    ("GET", "/anomaly/krum?order_id=1&k=1"),
    ("GET", "/anomaly/foolsgold?order_id=1&k=1"),
    ("GET", "/anomaly/zeno?order_id=1&p=1"),
    ("GET", "/anomaly/auror?order_id=1&k=1"),
    ("GET", "/anomaly/sniper?order_id=1&p=1"),
    ("GET", "/anomaly/pca?order_id=1&k=1"),
    ("GET", "/anomaly/true_krum?order_id=1&n_attackers=0"),
    ("GET", "/anomaly/multi_krum?order_id=1&n_attackers=0"),
    ("GET", "/anomaly/geometric_median?order_id=1"),
    ("GET", "/anomaly/foolsgold_weight?order_id=1"),
    ("GET", "/anomaly/report?order_id=1"),
    ("GET", "/contribution/grad_diff?order_id=1"),
    ("GET", "/contribution/perf_diff?order_id=1"),
    ("GET", "/exchange/inbox"),
    ("GET", f"{ORDER}/sql/0/0/0?senders=1&recipient=2&wait=0"),
    ("PUT", f"{ORDER}/order/0/0/0/2/0"),
    ("POST", f"{ORDER}/discard"),
]
QUESTION = {
    "data_providers": [
        {
            "name": user,
            "data_path": "visits.csv",
            "data_type": "csv",
            "key_column": "cost",
        }
        for user in (2, 3, 4)
    ],
    "result_receivers": [4],
    "method": "sum",
}
INFER = {
    "model_id": 1,
    "input_data": {"user_id": 4, "data_sql": "SELECT * FROM data.t"},
}
EVALUATE = {
    "user_id": 4,
    "party_id": [2, 3],
    "model_id": 1,
    "data_info": dict.fromkeys("234", "SELECT * FROM data.t"),
}
BODIES: dict[str, Any] = {
    f"{ORDER}/discard": {"used": []},
    "/model/train": document_order(),
    "/model/evaluate": EVALUATE,
    "/model/infer": INFER,
    "/runModelTrainTask": QUESTION,
    "/runJointStatisticalAnalysisTask": QUESTION,
    "/statistics/schedules": {**QUESTION, "schedule": {"cron": "@daily"}},
    "/statistics/schedules/1": {"active": False},
    "/model/schedules": {"order_id": 1, "schedule": {"cron": "@daily"}},
    "/model/schedules/1": {"active": False},
    "/statistics/schedules/1/firings": {"scheduled": "2026-11-20T06:00:00Z"},
    "/hospitals/me": {"identity": "00" * 64, "version": "1"},
    "/hospitals/me/token": {"digest": "00" * 32},
    "/orders/1/refuse": {"type": "Refused", "sentence": "No.", "remedy": "No."},
    "/orders/1/progress": {"state": "running"},
    "/exchange/runs": {"runs": []},
    "/orders": {"kind": "external"},
    "/orders/1/rounds/0": {"gradients": {"2": {"dense": [1.0]}}},
}


def send(coordinator: Coordinator, method: str, path: str, who: str | None) -> Any:
    return coordinator.call(method, path, who, json=BODIES.get(path))


def test_every_address_is_on_the_list(
    coordinator_with_order: tuple[Coordinator, int],
) -> None:
    """An address that is added is added here too; without a token there is /health and
    the documents only.
    """
    coordinator, _ = coordinator_with_order
    described = set(coordinator.call("GET", "/openapi.json", None).json()["paths"])
    listed = {
        path.split("?")[0].replace("/orders/1", "/orders/{order_id}")
        for _, path in EVERYWHERE
    }
    listed = {path.replace("/rounds/0", "/rounds/{round}") for path in listed}
    listed = {
        path.replace("/schedules/1", "/schedules/{schedule_id}") for path in listed
    }
    assert described <= listed | {"/health"}
    assert coordinator.call("GET", "/health", None).status_code == 200


@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic dXNlcjpwYXNz", "token"])
def test_no_token_is_401(
    coordinator_with_order: tuple[Coordinator, int],
    method: str,
    path: str,
    header: str | None,
) -> None:
    coordinator, _ = coordinator_with_order
    headers = {} if header is None else {"Authorization": header}
    answer = coordinator.call(
        method, path, None, json=BODIES.get(path), headers=headers
    )
    assert_refused(answer, 401, "token")


@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
@pytest.mark.parametrize("token", ["wrong", "x" * 5000])
def test_an_unknown_token_is_403(
    coordinator_with_order: tuple[Coordinator, int], method: str, path: str, token: str
) -> None:
    coordinator, _ = coordinator_with_order
    assert_refused(send(coordinator, method, path, token), 403, "not known")


FORBIDDEN: list[tuple[str, str, str]] = [
    # A hospital's user orders, and infers, in its own name; a stranger sees nothing of
    # the order.
    ("user-2", "POST", "/model/train"),
    ("operator", "POST", "/model/train"),
    ("agent-4", "POST", "/model/train"),
    ("coordinator", "POST", "/model/train"),
    ("user-2", "POST", "/model/infer"),
    ("operator", "POST", "/model/infer"),
    ("agent-4", "POST", "/model/infer"),
    ("user-2", "POST", "/model/evaluate"),
    ("operator", "POST", "/model/evaluate"),
    ("agent-4", "POST", "/model/evaluate"),
    # So does who asks a question of joint statistics, whatever it is called.
    *(
        (who, "POST", "/runModelTrainTask")
        for who in ("operator", "agent-4", "coordinator")
    ),
    *(
        (who, "POST", "/statistics/schedules")
        for who in ("operator", "agent-4", "coordinator")
    ),
    *(
        (who, "POST", "/statistics/schedules/1/firings")
        for who in ("user-4", "operator", "agent-4")
    ),
    ("coordinator", "GET", "/statistics/history"),
    *(
        (who, "GET", "/statistics/result?order_id=1")
        for who in ("operator", "agent-4", "coordinator")
    ),
    ("user-5", "GET", "/orders/1"),
    ("user-5", "GET", "/model/train_status?order_id=1"),
    ("user-5", "GET", "/model/info?model_id=1"),
    ("user-5", "GET", "/orders/1/events"),
    ("user-5", "POST", "/orders/1/cancel"),
    ("user-5", "POST", "/orders/1/rerun"),
    # A party reads the order, and does not end or repeat what another one ordered.
    ("user-2", "POST", "/orders/1/cancel"),
    ("agent-2", "POST", "/orders/1/cancel"),
    ("agent-4", "POST", "/orders/1/cancel"),
    ("user-2", "POST", "/orders/1/rerun"),
    ("operator", "POST", "/orders/1/rerun"),
    # Only an agent says that somebody has to decide, or has; only a worker asks which
    # runs may begin.
    *(
        (who, "POST", "/orders/1/ask")
        for who in ("user-4", "operator", "coordinator", "agent-5")
    ),
    *(
        (who, "POST", "/orders/1/decided")
        for who in ("user-4", "operator", "coordinator", "agent-5")
    ),
    *((who, "POST", "/exchange/runs") for who in ("user-4", "operator")),
    *((who, "GET", "/exchange/admitted") for who in ("user-4", "operator", "agent-4")),
    # Who is no party reads no score; rounds of a training order come from the
    # coordinator's flow alone.
    ("agent-4", "POST", "/orders"),
    ("coordinator", "POST", "/orders"),
    *(
        (who, "PUT", "/orders/1/rounds/0")
        for who in ("user-4", "user-2", "agent-4", "operator")
    ),
    *(
        ("user-5", method, path)
        for method, path in EVERYWHERE
        if path.startswith(("/client", "/avg", "/perf", "/trained"))
    ),
    *(
        ("user-5", method, path)
        for method, path in EVERYWHERE
        if path.startswith(("/anomaly", "/contribution"))
    ),
    ("user-5", "GET", "/orders/1/rounds"),
    # The exchange is for agents and the coordinator's flow, each with its own.
    ("user-2", "GET", f"{ORDER}/sql/0/0/0?senders=1&recipient=2&wait=0"),
    ("operator", "GET", f"{ORDER}/sql/0/0/0?senders=1&recipient=2&wait=0"),
    ("agent-2", "GET", f"{ORDER}/sql/0/0/0?senders=1&recipient=3&wait=0"),
    ("agent-2", "GET", f"{ORDER}/setup/0/0/0?senders=4&recipient=3&wait=0"),
    ("agent-2", "GET", f"{ORDER}/gradient/0/0/0?senders=3&recipient=1&wait=0"),
    ("agent-2", "GET", f"{ORDER}/total-gradient/0/0/0?senders=1&recipient=4&wait=0"),
    ("agent-5", "GET", f"{ORDER}/document/0/0/0?senders=1&recipient=0&wait=0"),
    ("agent-5", "GET", f"{ORDER}/sql/0/0/0?senders=1&recipient=5&wait=0"),
    ("coordinator", "GET", f"{ORDER}/setup/0/0/0?senders=4&recipient=3&wait=0"),
    ("agent-2", "PUT", f"{ORDER}/acceptance/0/0/0/3/0"),
    ("agent-2", "PUT", f"{ORDER}/document/0/0/0/1/0"),
    ("agent-5", "PUT", f"{ORDER}/acceptance/0/0/0/5/0"),
    ("user-4", "PUT", f"{ORDER}/order/0/0/0/4/0"),
    ("coordinator", "PUT", f"{ORDER}/order/0/0/0/4/0"),
    ("agent-2", "POST", f"{ORDER}/discard"),
    ("user-2", "POST", f"{ORDER}/discard"),
    ("operator", "POST", f"{ORDER}/discard"),
    ("user-2", "GET", "/exchange/inbox?wait=0"),
    ("operator", "GET", "/exchange/inbox?wait=0"),
    # Reports are the coordinator's flow's; a refusal is a party's agent's; keys are an
    # agent's.
    ("agent-2", "POST", "/orders/1/progress"),
    ("agent-2", "GET", "/orders/1/progress"),
    ("operator", "POST", "/orders/1/progress"),
    ("user-4", "POST", "/orders/1/refuse"),
    ("agent-5", "POST", "/orders/1/refuse"),
    ("coordinator", "POST", "/orders/1/refuse"),
    ("user-2", "PUT", "/hospitals/me"),
    ("operator", "PUT", "/hospitals/me"),
    ("coordinator", "PUT", "/hospitals/me"),
]


@pytest.mark.parametrize(("who", "method", "path"), FORBIDDEN)
def test_what_a_token_may_not_do(
    coordinator_with_order: tuple[Coordinator, int], who: str, method: str, path: str
) -> None:
    coordinator, order_id = coordinator_with_order
    before = coordinator.store.orders.get(order_id)
    assert_refused(send(coordinator, method, path, who), 403)
    assert coordinator.store.orders.get(order_id) == before
    assert len(coordinator.runs.started) == 1


ALLOWED: list[tuple[str, str, str]] = [
    ("user-2", "GET", "/orders/1"),
    ("agent-3", "GET", "/orders/1"),
    ("operator", "GET", "/orders/1"),
    ("user-3", "GET", "/model/train_status?order_id=1"),
    ("agent-2", "GET", f"{ORDER}/sql/0/0/0?senders=1&recipient=2&wait=0"),
    ("agent-2", "GET", f"{ORDER}/document/0/0/0?senders=1&recipient=0&wait=0"),
    ("coordinator", "GET", f"{ORDER}/document/0/0/0?senders=1&recipient=0&wait=0"),
    ("user-5", "GET", "/hospitals"),
]


@pytest.mark.parametrize(("who", "method", "path"), ALLOWED)
def test_what_a_token_may_do(
    coordinator_with_order: tuple[Coordinator, int], who: str, method: str, path: str
) -> None:
    coordinator, _ = coordinator_with_order
    coordinator.give_places()
    assert send(coordinator, method, path, who).status_code == 200


def test_a_list_holds_ones_own_orders_only(
    coordinator_with_order: tuple[Coordinator, int],
) -> None:
    coordinator, order_id = coordinator_with_order
    lists = {
        who: [
            order["order_id"]
            for order in coordinator.call("GET", "/orders", who).json()["data"][
                "orders"
            ]
        ]
        for who in ("user-2", "user-4", "agent-3", "user-5", "agent-5", "operator")
    }
    assert lists.pop("user-5") == lists.pop("agent-5") == []
    assert set(map(tuple, lists.values())) == {(order_id,)}


def test_the_sql_is_sealed_and_in_nobodys_answer(
    coordinator_with_order: tuple[Coordinator, int],
) -> None:
    coordinator, order_id = coordinator_with_order
    for path in (f"/orders/{order_id}", f"/model/info?model_id={order_id}"):
        assert "breast_homo" not in coordinator.call("GET", path, "operator").text
    box = coordinator.call(
        "GET", f"{ORDER}/sql/0/0/0?senders=1&recipient=2&wait=0", "agent-2"
    ).content
    assert b"SELECT" not in box


def test_a_revoked_token_is_403(tmp_path: Path) -> None:
    with serve(settings_in(tmp_path)) as coordinator:
        assert coordinator.call("GET", "/orders", "user-2").status_code == 200
        assert coordinator.store.hospitals.revoke_tokens("hospital", 2) == 1
        assert_refused(coordinator.call("GET", "/orders", "user-2"), 403, "revoked")
        assert coordinator.call("GET", "/orders", "user-3").status_code == 200
        assert (
            coordinator.call("GET", "/exchange/inbox?wait=0", "agent-2").status_code
            == 200
        )


def test_tokens_are_stored_hashed(tmp_path: Path) -> None:
    with serve(settings_in(tmp_path)) as coordinator:
        tokens = list(coordinator.tokens.values())
    stored = b"".join(
        path.read_bytes()
        for path in (tmp_path / "coordinator").rglob("*")
        if path.is_file()
    )
    assert not [token for token in tokens if token.encode() in stored]


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "", "192.168.25.105", "coordinator.example", "127.0.0.1.evil"],
)
def test_without_authentication_nobody_else_may_reach_the_server(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("CONSILIUM_AUTH", "off")
    monkeypatch.setenv("CONSILIUM_HOST", host)
    with pytest.raises(BadRequest, match="CONSILIUM_AUTH"):
        load_settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_without_authentication_on_loopback(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("CONSILIUM_AUTH", "off")
    monkeypatch.setenv("CONSILIUM_HOST", host)
    assert load_settings().authentication is False


def test_without_authentication_a_wrong_token_is_still_wrong(tmp_path: Path) -> None:
    with serve(settings_in(tmp_path, authentication=False)) as coordinator:
        assert coordinator.call("GET", "/orders", None).status_code == 200
        assert (
            coordinator.call(
                "POST", "/model/train", None, json=document_order()
            ).status_code
            == 200
        )
        assert_refused(coordinator.call("GET", "/orders", "wrong"), 403)


def answer_as_agent(
    coordinator: Coordinator, order_id: int, predictions: list[dict[str, Any]]
) -> None:
    """What hospital 4's agent does with an inference order."""
    request = coordinator.call("GET", f"/orders/{order_id}/request", "agent-4").json()[
        "data"
    ]
    document = json.loads(request["document"])
    box = seal_to(
        bytes.fromhex(document["reply_key"]),
        json.dumps(predictions).encode(),
        associated=b"predictions/%d" % order_id,
    )
    path = f"/exchange/{order_id}/predictions/0/0/{document['attempt']}/4/1"
    assert coordinator.call("PUT", path, "agent-4", content=box).status_code == 201


def test_an_inference_after_a_restart_gives_the_same_answer(tmp_path: Path) -> None:
    """The one-time key is gone with the process: the hospital is asked to seal its
    answer to a new one.
    """
    predictions, settings = [{"id": "0", "label": 0.97}], settings_in(tmp_path)
    with serve(settings) as coordinator:
        tokens = coordinator.tokens
        coordinator.call("POST", "/model/train", json=document_order())
        coordinator.store.orders.end(1, "success")
        asked = coordinator.call("POST", "/model/infer", json=INFER).json()
        assert asked["data"] == {
            "order_id": 2,
            "infer_status": "pending",
            "result": None,
        }
        answer_as_agent(coordinator, 2, predictions)
        first = coordinator.call("GET", "/model/infer_status?order_id=2").json()
        assert first["data"] == {
            "order_id": 2,
            "infer_status": "success",
            "result": predictions,
        }
        for who, status in (("user-2", 403), ("operator", 403), ("agent-4", 403)):
            assert_refused(
                coordinator.call("GET", "/model/infer_status?order_id=2", who), status
            )
        for who in ("agent-2", "user-2", "user-4", "operator"):
            assert_refused(coordinator.call("GET", "/orders/2/request", who), 403)
    with serve(settings, tokens) as coordinator:
        waiting = coordinator.call("GET", "/model/infer_status?order_id=2").json()
        assert waiting["data"] == {
            "order_id": 2,
            "infer_status": "pending",
            "result": None,
        }
        assert coordinator.runs.started == [
            ("infer/hospital-4", 2, ["infer", "hospital-4", "attempt-1"], 1)
        ]
        answer_as_agent(coordinator, 2, predictions)
        assert coordinator.call("GET", "/model/infer_status?order_id=2").json() == first
        assert len(coordinator.runs.started) == 1


def test_the_first_keys_of_a_hospital_stand_until_the_operator_lets_others_in(
    coordinator_with_order: tuple[Coordinator, int],
) -> None:
    """A stolen agent token must not draw the SQL of later orders to the thief's key."""
    coordinator, _ = coordinator_with_order
    (known,) = [
        row.identity for row in coordinator.store.hospitals.all() if row.user_id == 3
    ]
    thief = Identity.generate().public.encode()

    def present(identity: str) -> Any:
        return coordinator.call(
            "PUT",
            "/hospitals/me",
            "agent-3",
            json={"identity": identity, "version": "1"},
        )

    assert present(known).status_code == 200
    assert_refused(present(thief), 409, "forget-keys")
    assert [
        row.identity for row in coordinator.store.hospitals.all() if row.user_id == 3
    ] == [known]
    coordinator.store.hospitals.forget_keys(3)
    assert present(thief).status_code == 200
    assert_refused(present(known), 409, "forget-keys")


def test_predictions_are_pruned_with_time_and_running_orders_are_not(
    coordinator_with_order: tuple[Coordinator, int],
) -> None:
    coordinator, order_id = coordinator_with_order
    later = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
    assert coordinator.store.messages.prune(later) == 0
    assert coordinator.store.messages.gather(Address(order_id, "sql"), [1], 2)


def test_a_prefect_that_is_away_costs_no_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions, settings = [{"id": "0", "label": 0.97}], settings_in(tmp_path)
    with serve(settings) as coordinator:
        coordinator.call("POST", "/model/train", json=document_order())
        coordinator.store.orders.end(1, "success")
        coordinator.call("POST", "/model/infer", json=INFER)
        answer_as_agent(coordinator, 2, predictions)
        first = coordinator.call("GET", "/model/infer_status?order_id=2").json()
        coordinator.app.state.reply_keys.clear()
        with monkeypatch.context() as patch:
            patch.setattr(StandInRuns, "start", away)
            for _ in range(2):
                assert_refused(
                    coordinator.call("GET", "/model/infer_status?order_id=2"), 503
                )
        assert coordinator.call("GET", "/orders/2").json()["data"]["state"] == "success"
        assert (
            coordinator.call("GET", "/model/infer_status?order_id=2").json()["data"][
                "infer_status"
            ]
            == "pending"
        )
        answer_as_agent(coordinator, 2, predictions)
        assert coordinator.call("GET", "/model/infer_status?order_id=2").json() == first


async def away(*_: object, **__: object) -> str:
    raise Unavailable("Prefect does not answer.", remedy="Check it.")


def test_predictions_end_no_order_but_an_inference(
    coordinator_with_order: tuple[Coordinator, int],
) -> None:
    """A hospital of a training order must not end it as a success by sending something
    under that name.
    """
    coordinator, order_id = coordinator_with_order
    coordinator.give_places()
    put = coordinator.call(
        "PUT",
        f"/exchange/{order_id}/predictions/0/0/0/3/1",
        "agent-3",
        content=b"nothing",
    )
    assert put.json()["data"]["error"]["code"] == "no_such_message"
    assert coordinator.store.orders.get(order_id).state == "pending"
