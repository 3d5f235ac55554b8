"""A coordinator without a server, with canned answers: for documentation, and to try a
notebook out.

`DATA` has the answers in the usual envelope, `BARE` those of addresses that have none.
"""

from __future__ import annotations

import json
from typing import Any

import httpx

from api.client.connection import Json
from api.client.federation import Federation
from protocol.errors import NotFound


def stand_in() -> Federation:
    """A federation in which order 37 has trained a model, order 41 has answered, and
    schedule 3 goes on.
    """
    transport = httpx.MockTransport(answer)
    return Federation("http://consilium.example", "token", user=4, transport=transport)


def answer(request: httpx.Request) -> httpx.Response:
    """The canned answer of an address; NotFound for others."""
    path = request.url.path
    if path.endswith("/events"):
        return httpx.Response(200, text=EVENTS)
    if path in BARE:
        return httpx.Response(200, json=BARE[path])
    if path == "/statistics/schedules/3":
        # A change is answered as if it were kept, for this answer only.
        change = json.loads(request.content or b"{}")
        return _enveloped(200, {**SCHEDULE, **change}, None)
    if path in DATA:
        return _enveloped(200, DATA[path], None)
    number = path.rpartition("/")[2]
    error = NotFound(f"There is no order {number}.", remedy="GET /orders lists them.")
    return _enveloped(404, {"error": error.to_json()}, str(error))


def _enveloped(code: int, data: Any, message: str | None) -> httpx.Response:
    return httpx.Response(code, json={"code": code, "data": data, "message": message})


def _round(number: int, loss: float, accuracies: dict[str, float]) -> Json:
    hospitals = {}
    for hospital, accuracy in accuracies.items():
        hospitals[hospital] = {
            "n_rows": 228,
            "train": {"loss": loss, "accuracy": accuracy},
        }
    return {
        "fold": 0,
        "round": number,
        "loss": loss,
        "final": number == 1,
        "hospitals": hospitals,
        "left_out": {},
    }


def _order(order_id: int, kind: str) -> Json:
    moment = "2026-11-20T08:00:00Z"
    return {
        "order_id": order_id,
        "kind": kind,
        "state": "success",
        "user_id": 4,
        "hospitals": [2, 4],
        "party": None,
        "late": [],
        **(ENDING if kind == "train" else NO_ENDING),
        "created": moment,
        "updated": moment,
    }


def _run(order_id: int | None, state: str) -> Json:
    empty = dict.fromkeys(("path", "type", "rows_used", "repeats", "sentence"))
    moment = "2026-11-20T06:00:00Z"
    return {
        "schedule_id": 3,
        "scheduled": moment,
        "started": moment,
        "order_id": order_id,
        "state": state,
        **empty,
    }


ENDING: Json = {"converged": True, "stopped_by": "converged", "warnings": []}
NO_ENDING: Json = {"converged": None, "stopped_by": None, "warnings": []}
EVENTS = """\
event: round
data: {"fold": 0, "round": 0, "loss": 0.693}

event: round
data: {"fold": 0, "round": 1, "loss": 0.41}

event: state
data: {"order_id": 37, "state": "success"}

"""
ROUNDS = [
    _round(0, 0.693, {"2": 0.5, "4": 0.5}),
    _round(1, 0.41, {"2": 0.90, "4": 0.93}),
]
RUNS = [_run(41, "success"), _run(None, "skipped")]
SCHEDULE: Json = {
    "schedule_id": 3,
    "name": "costs, each working day",
    "user_id": 4,
    "request": {"method": "sum"},
    "schedule": {"cron": "0 6 * * 1-5", "timezone": "Asia/Shanghai"},
    "active": True,
    "next_runs": ["2026-11-22T22:00:00Z"],
    "last_run": RUNS[0],
}
DATA: dict[str, Any] = {
    "/model/train": {
        "order_id": 37,
        "model_id": 37,
        "data_volum": {"2": 228, "4": 228},
    },
    "/model/train_status": {
        "model_id": 37,
        "train_status": "success",
        **ENDING,
        "refusal": None,
    },
    "/model/info": {"model_params": {"max_iter": 1}, **ENDING, "refusal": None},
    "/model/infer": {
        "order_id": 38,
        "infer_status": "success",
        "result": [{"id": "133", "label": 0.55}],
    },
    "/orders": {
        "orders": [_order(41, "statistics"), _order(37, "train")],
        "next": None,
    },
    "/orders/37": {
        **_order(37, "train"),
        "rounds": ROUNDS,
        "waiting_for": [],
        "refusal": None,
    },
    "/hospitals": {
        "hospitals": [
            {
                "user_id": 2,
                "name": "suzhou-szslyy",
                "online": True,
                "last_seen": "2026-11-20T08:00:00Z",
            },
            {
                "user_id": 4,
                "name": "shanxi-xbfy",
                "online": True,
                "last_seen": "2026-11-20T08:00:00Z",
            },
        ]
    },
    "/statistics/schedules": {"schedules": [SCHEDULE], "next": None},
    "/statistics/history": {"runs": RUNS, "next": None},
}
BARE: dict[str, Any] = {
    "/anomaly/report": {
        "round": 1,
        "data": {
            "2": {"krum": {"score": 0.1, "rank": 2}},
            "4": {"krum": {"score": 0.4, "rank": 1}},
        },
        "parameters": {"k": 1},
        "unavailable": {"zeno": "There are no losses."},
    },
    "/contribution/grad_diff": {"round": 1, "data": {"2": 0.2, "4": 0.3}},
    "/contribution/perf_diff": {"round": 1, "data": {"2": 0.01, "4": None}},
    "/runModelTrainTask": {
        "status": 200,
        "result": {
            "path": "41/mean_cost.csv",
            "type": "csv",
            "extra": '{"order_id": 41}',
        },
        "msg": "success",
    },
}
