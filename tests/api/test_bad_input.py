"""Whatever is sent: a 4xx, the document's envelope, one sentence with the remedy, and
no order made.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from api.answers import STATISTICS_PATHS
from deployments.demo.training import document_order
from protocol.exchange import Address
from tests.api.conftest import Coordinator

SECRET = "713.25"  # a constant of an SQL text, which no answer may repeat


def body(**changes: Any) -> dict[str, Any]:
    made = document_order()
    made["data_info"] = {
        user: f"{sql[:-1]} WHERE x1 > {SECRET}"
        for user, sql in made["data_info"].items()
    }
    return {**made, **changes}


def params(**changes: Any) -> dict[str, Any]:
    made = document_order()
    return {**made["model_params"], **changes}


def assert_refused(answer: Any, status: int, *needles: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    assert SECRET not in answer.text
    if urlsplit(str(answer.url)).path.rstrip("/") in STATISTICS_PATHS:
        assert set(told) == {"status", "result", "msg"}
        assert (told["status"], told["result"]) == (status, None)
        assert [needle for needle in needles if needle not in told["msg"]] == []
        return told
    assert set(told) == {"code", "data", "message"}
    assert told["code"] == status
    error = told["data"]["error"]
    assert error["sentence"]
    assert error["remedy"]
    assert told["message"] == f"{error['sentence']} {error['remedy']}"
    assert len(answer.text) < 4000
    for needle in needles:
        assert needle in told["message"]
    return told


def n_orders(coordinator: Coordinator) -> tuple[int, int]:
    """In the store, and handed to Prefect."""
    return len(
        coordinator.store.orders.newest(hospital=None, limit=100, before=None)
    ), len(coordinator.runs.started)


SQL = "SELECT * FROM data.t"
MALFORMED: list[tuple[str, dict[str, Any], int, str]] = [
    ("unknown model type", {"model_type": "forest"}, 422, "model_type"),
    ("party that is no id", {"party_id": [2, "x"]}, 422, "party_id"),
    ("party that is true", {"party_id": [2, True]}, 422, "party_id"),
    ("party that is the coordinator", {"party_id": [1, 2]}, 422, "party_id"),
    ("party that is negative", {"party_id": [-2, 3]}, 422, "party_id"),
    ("party that is a fraction", {"party_id": [2.5, 3]}, 422, "party_id"),
    ("party that is no list", {"party_id": 2}, 422, "party_id"),
    ("parties beyond counting", {"party_id": list(range(2, 2000))}, 422, "party_id"),
    (
        "unknown party",
        {"party_id": [2, 77], "data_info": {"2": SQL, "4": SQL, "77": SQL}},
        404,
        "77",
    ),
    (
        "party that never connected",
        {"party_id": [2, 5], "data_info": {"2": SQL, "4": SQL, "5": SQL}},
        409,
        "elsewhere",
    ),
    ("initiator among the parties", {"party_id": [2, 3, 4]}, 400, "initiator"),
    ("duplicate parties", {"party_id": [2, 3, 3]}, 400, "twice"),
    ("no parties' SQL", {"data_info": {"4": SQL}}, 400, "2, 3"),
    (
        "SQL for a stranger",
        {"data_info": {"2": SQL, "3": SQL, "4": SQL, "9": SQL}},
        400,
        "9",
    ),
    (
        "SQL for one party in two spellings",
        {"data_info": {"2": SQL, "02": SQL, "3": SQL, "4": SQL}},
        422,
        "data_info",
    ),
    (
        "SQL that is empty",
        {"data_info": {"2": "", "3": SQL, "4": SQL}},
        422,
        "data_info",
    ),
    (
        "SQL that is a number",
        {"data_info": {"2": 7, "3": SQL, "4": SQL}},
        422,
        "data_info",
    ),
    (
        "SQL beyond all length",
        {"data_info": {"2": SQL + " " * 30_000, "3": SQL, "4": SQL}},
        422,
        "data_info",
    ),
    ("test SQL for a stranger", {"test_data_info": {"9": SQL}}, 400, "test_data_info"),
    ("no attributes", {"attributes": []}, 422, "attributes"),
    ("attribute twice", {"attributes": ["x1", "x1"]}, 400, "twice"),
    ("attribute that is the label", {"attributes": ["x1", "y"]}, 400, "label_name"),
    ("attribute that is the id", {"attributes": ["x1", "id"]}, 400, "unique_id"),
    (
        "a category that is no attribute",
        {"categorical": {"x9": {}}},
        400,
        "does not list",
    ),
    (
        "a category that is derived",
        {"categorical": {"x1": {}}, "derive": {"x1": "x9 + 1"}},
        400,
        "in derive",
    ),
    ("a circle", {"derive": {"x1": "x2", "x2": "x1"}}, 400, "circle"),
    ("an unknown function", {"derive": {"x1": "f(x9)"}}, 400, "calls f"),
    ("a column's own name", {"derive": {"x1": "x1 + 1"}}, 400, "derive.x1"),
    (
        "a reference that is a list",
        {"categorical": {"x1": {"reference": []}}},
        422,
        "x1",
    ),
    ("another word for missing", {"missing": "median"}, 422, "missing"),
    ("derived columns as a list", {"derive": ["x1"]}, 422, "derive"),
    (
        "attribute with a control character",
        {"attributes": ["x1\u0000"]},
        422,
        "attributes",
    ),
    ("purpose with a control character", {"purpose": "a\u0000b"}, 422, "purpose"),
    ("label that is the id", {"label_name": "id"}, 400, "label_name"),
    ("unknown field", {"party_ids": [2, 3]}, 422, "party_ids"),
    ("validation beyond one", {"validation_fraction": 1.0}, 422, "validation_fraction"),
    (
        "two test parts",
        {"validation_fraction": 0.2, "test_data_info": {"2": SQL}},
        400,
        "validation_fraction",
    ),
    ("no rounds", {"model_params": params(max_iter=0)}, 422, "max_iter"),
    ("rounds without end", {"model_params": params(max_iter=10**9)}, 422, "max_iter"),
    (
        "rounds beyond integers",
        {"model_params": params(max_iter=10**40)},
        422,
        "max_iter",
    ),
    ("rounds in words", {"model_params": params(max_iter="many")}, 422, "max_iter"),
    ("negative rate", {"model_params": params(learning_rate=-1)}, 422, "learning_rate"),
    (
        "rate that is true",
        {"model_params": params(learning_rate=True)},
        422,
        "learning_rate",
    ),
    ("negative decay", {"model_params": params(decay=-1)}, 422, "decay"),
    ("negative penalty", {"model_params": params(alpha=-1)}, 422, "alpha"),
    ("empty batch", {"model_params": params(batch_size=0)}, 422, "batch_size"),
    ("unknown penalty", {"model_params": params(penalty="L7")}, 422, "penalty"),
    (
        "unknown optimizer",
        {"model_params": params(optimizer="magic")},
        422,
        "optimizer",
    ),
    (
        "short key",
        {"model_params": params(encrypt_param={"key_length": 1024})},
        422,
        "key_length",
    ),
    (
        "long key",
        {"model_params": params(encrypt_param={"key_length": 10**6})},
        422,
        "key_length",
    ),
    (
        "unknown method",
        {"model_params": params(encrypt_param={"method": "ROT13"})},
        422,
        "method",
    ),
    (
        "one fold",
        {"model_params": params(cv_param={"need_cv": True, "n_splits": 1})},
        422,
        "n_splits",
    ),
    ("two tolerances", {"model_params": params(tol=0.5)}, 422, "eps"),
    ("parameters that are a list", {"model_params": [1]}, 422, "model_params"),
    ("another user's name", {"user_id": 3, "party_id": [2, 4]}, 403, "hospital"),
]


@pytest.mark.parametrize(
    ("what", "changes", "status", "needle"),
    MALFORMED,
    ids=[case[0] for case in MALFORMED],
)
def test_an_order_that_cannot_be_honoured(
    coordinator: Coordinator,
    what: str,
    changes: dict[str, Any],
    status: int,
    needle: str,
) -> None:
    before = n_orders(coordinator)
    answer = coordinator.call("POST", "/model/train", json=body(**changes))
    assert_refused(answer, status, needle)
    assert n_orders(coordinator) == before


@pytest.mark.parametrize(
    "field",
    [
        "user_id",
        "model_type",
        "party_id",
        "data_info",
        "unique_id",
        "attributes",
        "label_name",
    ],
)
def test_a_missing_field_is_named(coordinator: Coordinator, field: str) -> None:
    sent = body()
    del sent[field]
    assert_refused(coordinator.call("POST", "/model/train", json=sent), 422, field)


def deep(n: int) -> bytes:
    return b'{"user_id":' + b"[" * n + b"]" * n + b"}"


BODIES: list[tuple[str, bytes, str, int]] = [
    ("empty", b"", "application/json", 422),
    ("not JSON", b"user_id=4&x=" + SECRET.encode(), "application/json", 422),
    ("cut short", json.dumps(body()).encode()[:-9], "application/json", 422),
    ("array", b"[1,2,3]", "application/json", 422),
    ("text", b'"SELECT"', "application/json", 422),
    ("null", b"null", "application/json", 422),
    ("number", b"7", "application/json", 422),
    (
        "not a number",
        json.dumps(body()).replace("0.15", "NaN").encode(),
        "application/json",
        422,
    ),
    (
        "infinity",
        json.dumps(body()).replace("0.15", "1e999").encode(),
        "application/json",
        422,
    ),
    ("nested", deep(500), "application/json", 422),
    ("nested beyond the stack", deep(200_000), "application/json", 422),
    ("invalid UTF-8", b'{"user_id": "\xff\xfe"}', "application/json", 422),
    (
        "half a surrogate pair",
        b'{"user_id": 4, "purpose": "\\ud800"}',
        "application/json",
        422,
    ),
    ("half a surrogate pair as a key", b'{"\\ud800": 4}', "application/json", 422),
    ("a form", b"user_id=4", "application/x-www-form-urlencoded", 422),
    ("plain text", json.dumps(body()).encode(), "text/plain", 422),
    ("too large", b'{"purpose": "' + b"x" * 2**20 + b'"}', "application/json", 413),
    (
        "an integer of many digits",
        b'{"user_id": ' + b"7" * 10_000 + b"}",
        "application/json",
        422,
    ),
]


@pytest.mark.parametrize("path", ["/model/train", "/model/infer", "/model/evaluate"])
@pytest.mark.parametrize(
    ("what", "content", "kind", "status"), BODIES, ids=[case[0] for case in BODIES]
)
def test_a_body_that_is_none(
    coordinator: Coordinator,
    what: str,
    content: bytes,
    kind: str,
    status: int,
    path: str,
) -> None:
    before = n_orders(coordinator)
    answer = coordinator.call(
        "POST", path, content=content, headers={"Content-Type": kind}
    )
    assert_refused(answer, status)
    assert n_orders(coordinator) == before


def test_a_body_sent_in_pieces_is_measured_too(coordinator: Coordinator) -> None:
    def pieces() -> Any:
        for _ in range(300):
            yield b" " * 4096

    answer = coordinator.call(
        "POST",
        "/model/train",
        content=pieces(),
        headers={"Content-Type": "application/json"},
    )
    assert_refused(answer, 413)


ADDRESSES: list[tuple[str, str, int]] = [
    ("GET", "/model/train_status", 422),
    ("GET", "/model/train_status?order_id=x", 422),
    ("GET", "/model/train_status?order_id=0", 422),
    ("GET", f"/model/train_status?order_id={10**30}", 422),
    ("GET", "/model/train_status?order_id=12345", 404),
    ("GET", "/model/info?model_id=12345", 404),
    ("GET", "/model/infer_status?order_id=12345", 404),
    ("GET", "/orders/12345", 404),
    ("GET", f"/orders/{10**30}", 422),
    ("GET", "/orders/-1", 422),
    ("GET", f"/orders/{10**30}/events", 422),
    ("POST", "/orders/12345/cancel", 404),
    ("POST", f"/orders/{10**30}/cancel", 422),
    ("POST", f"/orders/{10**30}/rerun", 422),
    ("GET", "/orders?limit=0", 422),
    ("GET", f"/orders?before={10**30}", 422),
    ("GET", "/nowhere", 404),
    ("DELETE", "/model/train", 405),
    ("GET", "/model/infer", 405),
]


@pytest.mark.parametrize(("method", "path", "status"), ADDRESSES)
def test_an_address_that_is_none(
    coordinator: Coordinator, method: str, path: str, status: int
) -> None:
    assert_refused(coordinator.call(method, path), status)


EXCHANGE: list[tuple[str, str, int]] = [
    ("GET", f"/exchange/{10**30}/document/0/0/0?senders=1&recipient=0", 422),
    ("GET", f"/exchange/1/document/0/0/0?senders=1&recipient={10**30}", 422),
    ("GET", f"/exchange/1/document/0/0/0?senders={10**30}&recipient=0", 422),
    ("GET", "/exchange/1/document/0/0/0?senders=1,&recipient=0", 422),
    ("GET", "/exchange/1/document/0/0/0?senders=x&recipient=0", 422),
    (
        "GET",
        f"/exchange/1/document/0/0/0?senders={','.join(['7'] * 9000)}&recipient=0",
        422,
    ),
    ("GET", "/exchange/inbox?cursor=-5&wait=0", 422),
    ("GET", "/exchange/inbox?wait=nan", 422),
    ("PUT", "/exchange/12345/sql/0/0/0/4/4", 403),
]


@pytest.mark.parametrize(("method", "path", "status"), EXCHANGE)
def test_an_exchange_address_that_is_none(
    coordinator_with_order: tuple[Coordinator, int], method: str, path: str, status: int
) -> None:
    coordinator, order_id = coordinator_with_order
    assert order_id == 1
    assert_refused(coordinator.call(method, path, "agent-4"), status)


@pytest.mark.parametrize("key", ["k" * 201, "k" * 5000])
def test_an_idempotency_key_has_a_length(coordinator: Coordinator, key: str) -> None:
    answer = coordinator.call(
        "POST", "/model/train", json=body(), headers={"Idempotency-Key": key}
    )
    assert_refused(answer, 422, "dempotency")


def test_an_identity_that_is_no_pair_of_keys(coordinator: Coordinator) -> None:
    for identity in ("", "zz", "00" * 63, "00" * 65, "é" * 10):
        answer = coordinator.call(
            "PUT",
            "/hospitals/me",
            "agent-2",
            json={"identity": identity, "version": "1"},
        )
        assert 400 <= answer.status_code < 500
        assert_refused(answer, answer.status_code)


POLICY = {
    "orders": {
        "initiators": [2],
        "receivers": [],
        "methods": ["Mask"],
        "model_types": ["lr"],
        "min_hospitals": 3,
        "min_rows": 10,
        "regroup": False,
        "max_rounds": 20_000,
        "budget_days": 30,
        "scoring": "round",
        "min_scored_coefficients": 10,
        "score_readers": "parties",
        "approval": "manual",
        "hospital_sums": False,
        "oldest_protocol": 2,
        "sparse_masks": True,
    },
    "inference": {"allowed": True, "return_predictions": False},
    "statistics": None,
    "cohorts": [{"name": "diabetes_v1", "description": "Adults <18"}],
}


@pytest.mark.parametrize(
    ("news", "shown"),
    [
        ({}, ("none", None)),
        ({"scoring": "full"}, ("full", None)),
        ({"scoring": "round", "policy": POLICY}, ("round", POLICY)),
        (
            {"scoring": "round", "policy": {**POLICY, "tables": ["data.secret"]}},
            ("round", POLICY),
        ),
        ({"scoring": "round", "policy": {**POLICY, "orders": {}}}, ("round", None)),
        (
            {"scoring": "round", "policy": {**POLICY, "inference": {"allowed": "<b>"}}},
            ("round", None),
        ),
        (
            {"policy": {**POLICY, "cohorts": [{"name": "a b", "description": ""}]}},
            ("none", None),
        ),
        (
            {"policy": {**POLICY, "cohorts": [{"name": "a", "description": "a\nb"}]}},
            ("none", None),
        ),
    ],
    ids=[
        "neither",
        "an older agent",
        "a policy",
        "one that tells more",
        "another form",
        "another type",
        "another name of a cohort",
        "two lines of a cohort",
    ],
)
def test_what_an_agent_tells_of_its_policy_keeps_it_out_in_no_form(
    coordinator: Coordinator, news: dict[str, Any], shown: tuple[str, Any]
) -> None:
    rows = {row.user_id: row for row in coordinator.store.hospitals.all()}
    answer = coordinator.call(
        "PUT",
        "/hospitals/me",
        "agent-2",
        json={"identity": rows[2].identity, "version": "1", **news},
    )
    assert answer.status_code == 200, answer.text
    told = coordinator.call("GET", "/hospitals").json()["data"]["hospitals"]
    assert [(row["scoring"], row["policy"]) for row in told if row["user_id"] == 2] == [
        shown
    ]


def test_an_unplanned_error_shows_nothing(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError(f"row with {SECRET}")

    monkeypatch.setattr(coordinator.store.hospitals, "all", fail)
    answer = coordinator.call("GET", "/hospitals")
    assert_refused(answer, 500)


def test_a_sender_that_dies_in_the_middle_of_a_message(
    coordinator_with_order: tuple[Coordinator, int], caplog: pytest.LogCaptureFixture
) -> None:
    """An agent was killed, perhaps: nothing of its message is kept, and the log speaks
    of no error.
    """
    coordinator, order_id = coordinator_with_order
    path, token = f"/exchange/{order_id}/order/0/0/0/4/0", coordinator.tokens["agent-4"]
    headers = [(b"authorization", f"Bearer {token}".encode())]
    asked = {
        "type": "http",
        "method": "PUT",
        "path": path,
        "query_string": b"",
        "headers": headers,
    }
    heard = iter(
        [
            {"type": "http.request", "body": b"cut", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    said: list[Any] = []

    async def receive() -> Any:
        return next(heard)

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(coordinator.app(asked, receive, send))  # type: ignore[arg-type]
    assert said[0]["status"] == 422
    assert b"cut short" in said[1]["body"]
    assert caplog.records == []
    assert coordinator.store.messages.gather(Address(order_id, "order"), [4], 0) == {}


INFERENCES: list[tuple[str, Callable[[int], dict[str, Any]], int, str]] = [
    ("no such model", lambda model: {"model_id": 999}, 404, "999"),
    ("a model id that is none", lambda model: {"model_id": "x"}, 422, "model_id"),
    ("a model id beyond integers", lambda model: {"model_id": 10**30}, 422, "model_id"),
    ("an unfinished order", lambda model: {"model_id": model}, 409, "pending"),
    (
        "somebody else's rows",
        lambda model: {"input_data": {"user_id": 3, "data_sql": SQL}},
        403,
        "another hospital",
    ),
    ("no SQL", lambda model: {"input_data": {"user_id": 4}}, 422, "data_sql"),
    (
        "SQL that is empty",
        lambda model: {"input_data": {"user_id": 4, "data_sql": ""}},
        422,
        "data_sql",
    ),
    ("a field that is unknown", lambda model: {"labels": "y"}, 422, "labels"),
    (
        "SQL and values",
        lambda model: {"input_data": {"user_id": 4, "data_sql": SQL, "rows": [{}]}},
        422,
        "data_sql",
    ),
    (
        "no values",
        lambda model: {"input_data": {"user_id": 4, "rows": []}},
        422,
        "rows",
    ),
    (
        "too many rows",
        lambda model: {"input_data": {"user_id": 4, "rows": [{"x1": 1}] * 1001}},
        422,
        "rows",
    ),
    (
        "a value that is a list",
        lambda model: {"input_data": {"user_id": 4, "rows": [{"x1": [SECRET]}]}},
        422,
        "must be a text, a number, true, false or null",
    ),
]


@pytest.mark.parametrize(
    ("what", "changes", "status", "needle"),
    INFERENCES,
    ids=[case[0] for case in INFERENCES],
)
def test_an_inference_that_cannot_be_made(
    coordinator_with_order: tuple[Coordinator, int],
    what: str,
    changes: Callable[[int], dict[str, Any]],
    status: int,
    needle: str,
) -> None:
    coordinator, model = coordinator_with_order
    made = {
        "model_id": model,
        "input_data": {"user_id": 4, "data_sql": f"{SQL} WHERE x1 = {SECRET}"},
    }
    before = n_orders(coordinator)
    answer = coordinator.call("POST", "/model/infer", json={**made, **changes(model)})
    assert_refused(answer, status, needle)
    assert n_orders(coordinator) == before


def evaluated(model: int, **changes: Any) -> dict[str, Any]:
    sql = f"{SQL} WHERE x1 = {SECRET}"
    made = {
        "user_id": 4,
        "party_id": [2, 3],
        "model_id": model,
        "data_info": dict.fromkeys("234", sql),
    }
    return {**made, **changes}


EVALUATIONS: list[tuple[str, dict[str, Any], int, str]] = [
    ("a model that is not there", {"model_id": 777}, 404, "777"),
    ("no model", {"model_id": None}, 422, "model_id"),
    ("a model of a fraction", {"model_id": 1.5}, 422, "model_id"),
    ("a model that is still trained", {"party_id": [2, 3, 5]}, 409, "is pending"),
    ("a threshold of 1", {"threshold": 1}, 422, "threshold"),
    ("a threshold between bins", {"threshold": 0.0005}, 422, "a multiple of 0.001"),
    ("a threshold of a text", {"threshold": "half"}, 422, "threshold"),
    ("a method that is none", {"encrypt_param": {"method": "rot13"}}, 422, "method"),
    ("a field that is unknown", {"labels": "y"}, 422, "labels"),
]


@pytest.mark.parametrize(
    ("what", "changes", "status", "needle"),
    EVALUATIONS,
    ids=[case[0] for case in EVALUATIONS],
)
def test_an_evaluation_that_cannot_be_made(
    coordinator_with_order: tuple[Coordinator, int],
    what: str,
    changes: dict[str, Any],
    status: int,
    needle: str,
) -> None:
    coordinator, order_id = coordinator_with_order
    body = evaluated(order_id, **changes)
    before = n_orders(coordinator)
    answer = coordinator.call("POST", "/model/evaluate", json=body)
    assert_refused(answer, status, needle)
    assert n_orders(coordinator) == before


def test_a_model_that_is_not_trained_yet_is_not_evaluated(
    coordinator_with_order: tuple[Coordinator, int],
) -> None:
    coordinator, order_id = coordinator_with_order
    answer = coordinator.call("POST", "/model/evaluate", json=evaluated(order_id))
    assert_refused(answer, 409, f"Model {order_id} is not there")
