"""Joint statistics over REST, in the form of its request document; the hospitals and
the flow are played here.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from api.routes.order_watch import look_after as look_after_orders
from api.routes.services import Services
from protocol.errors import OrderStopped, Refused, Unavailable
from protocol.exchange import Address
from protocol.messages import HospitalSql
from protocol.sealing import Identity, seal_to
from protocol.statistics_request import read_statistics_document
from tests.api.conftest import NAMES, Coordinator, StandInRuns, serve, settings_in
from tests.api.test_bad_input import BODIES, SECRET, assert_refused, n_orders

PATHS = ("/runModelTrainTask", "/runJointStatisticalAnalysisTask")
PLACE = f"visits-{SECRET}.csv"


def provider(user: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": NAMES[user],
        "data_path": PLACE,
        "data_type": "csv",
        "key_column": "cost",
        **changes,
    }


def question(**changes: Any) -> dict[str, Any]:
    made = {
        "data_providers": [provider(user) for user in (2, 3, 4)],
        "result_receivers": [NAMES[4]],
        "method": "sum",
        "result_alias": "total",
    }
    return {**made, **changes}


def ask(
    coordinator: Coordinator, who: str = "user-4", path: str = PATHS[0], **changes: Any
) -> Any:
    return coordinator.call("POST", path, who, json=question(**changes))


def asked(coordinator: Coordinator, **changes: Any) -> int:
    """The number of an order that is under way."""
    answer = ask(coordinator, **changes)
    assert answer.status_code == 202, answer.text
    return int(answer.headers["X-Order-Id"])


def record(coordinator: Coordinator, order_id: int, **facts: Any) -> None:
    answer = coordinator.call(
        "POST", f"/orders/{order_id}/progress", "coordinator", json=facts
    )
    assert answer.status_code == 200, answer.text


def succeed(coordinator: Coordinator, order_id: int, **told: Any) -> dict[str, Any]:
    """What the coordinator's flow records at the end."""
    statistics = {
        "path": f"{order_id}/total.csv",
        "type": "csv",
        "rows_used": {"2": 100, "3": 200, "4": 300},
        "rows_suppressed": {"2": 0, "3": 12, "4": 0},
        "rows_null": {"2": 1, "3": 0, "4": 0},
        "suppressed": [{"rule": "min_rows", "threshold": 10, "whose": 2, "count": 1}],
        "notes": ["3 values were NULL and left out."],
        "opened": ["n and sum of cost over 600 people of 3 hospitals"],
        "repeats": None,
        **told,
    }
    record(coordinator, order_id, end="success", summary={"statistics": statistics})
    return statistics


def result(
    coordinator: Coordinator, order_id: int, who: str = "user-4", wait: float = 0
) -> Any:
    return coordinator.call(
        "GET", f"/statistics/result?order_id={order_id}&wait={wait}", who
    )


def put_values(
    coordinator: Coordinator, order_id: int, values: bytes, *, user: int = 4
) -> None:
    """What the initiator's agent does with the result of an order that discloses it."""
    document = json.loads(coordinator.store.orders.get(order_id).document)
    box = seal_to(
        bytes.fromhex(document["reply_key"]), values, associated=b"values/%d" % order_id
    )
    path = f"/exchange/{order_id}/values/0/0/0/{user}/1"
    coordinator.give_places()
    assert (
        coordinator.call("PUT", path, f"agent-{user}", content=box).status_code == 201
    )


# The answer


@pytest.mark.parametrize("path", PATHS)
def test_one_request_one_answer(coordinator: Coordinator, path: str) -> None:
    """Who asks waits until the order has ended, and is answered at once then."""
    answers: list[Any] = []
    waiting = threading.Thread(
        target=lambda: answers.append(ask(coordinator, path=path, timeout_seconds=20)),
        daemon=True,
    )
    before = n_orders(coordinator)[0]
    waiting.start()
    while n_orders(coordinator)[0] == before:
        pass
    order_id = coordinator.store.orders.newest(hospital=None, limit=1, before=None)[
        0
    ].order_id
    told = succeed(coordinator, order_id)
    waiting.join(5)
    (answer,) = answers
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"status", "result", "msg"}
    assert (body["status"], body["msg"]) == (200, "success")
    assert set(body["result"]) == {"path", "type", "extra"}
    assert (body["result"]["path"], body["result"]["type"]) == (
        f"{order_id}/total.csv",
        "csv",
    )
    extra = json.loads(body["result"]["extra"])
    assert extra == {
        "order_id": order_id,
        **{
            name: told[name]
            for name in (
                "rows_used",
                "rows_suppressed",
                "rows_null",
                "suppressed",
                "notes",
                "opened",
                "repeats",
            )
        },
    }
    assert answer.headers["X-Order-Id"] == str(order_id)
    assert result(coordinator, order_id).json() == body
    assert result(coordinator, order_id, "user-2").json() == body


def test_a_question_with_row_fields_is_signed_with_them_and_answers_its_flow(
    coordinator: Coordinator,
) -> None:
    fields: dict[str, Any] = {
        "method": "sum",
        "group_by": ["old", "cp"],
        "categorical": {"cp": {}},
        "derive": {"old": "age >= 65"},
        "missing": "drop",
    }
    order_id = asked(coordinator, timeout_seconds=1, **fields)
    signed = json.loads(coordinator.store.orders.get(order_id).document)["request"]
    assert {name: signed[name] for name in fields} == fields
    flow = {"all": {"selected": 600, "left_out": 12, "used": 588}}
    succeed(coordinator, order_id, flow=flow)
    extra = json.loads(result(coordinator, order_id).json()["result"]["extra"])
    assert extra["flow"] == flow
    wrong = ask(coordinator, **{**fields, "derive": {"old": "age >="}})
    assert wrong.status_code == 400
    assert "derive.old" in wrong.json()["msg"]


def test_an_answer_that_is_not_there_in_time_is_202_and_says_who_is_waited_for(
    coordinator: Coordinator,
) -> None:
    answer = ask(coordinator)
    body = answer.json()
    assert answer.status_code == body["status"] == 202
    order_id = json.loads(body["result"]["extra"])["order_id"]
    assert body["result"]["path"] == f"{order_id}/total.csv"
    for needle in (
        "suzhou-szslyy",
        "zhejiang-zdey",
        "shanxi-xbfy",
        "away",
        f"/statistics/result?order_id={order_id}",
    ):
        assert needle in body["msg"]
    coordinator.give_places()
    record(coordinator, order_id, state="running", n_rows={"2": 5, "3": 6, "4": 7})
    record(coordinator, order_id, stage={"what": "sum", "done": 3, "of": 16})
    later = result(coordinator, order_id).json()
    assert later["status"] == 202
    assert "under way" in later["msg"]
    assert json.loads(later["result"]["extra"]) == {
        "order_id": order_id,
        "state": "running",
        "waiting_for": [],
        "stage": {"what": "sum", "done": 3, "of": 16},
    }


def test_who_is_there_is_not_called_away(coordinator: Coordinator) -> None:
    for user in (2, 3):
        coordinator.call("GET", "/exchange/inbox?wait=0", f"agent-{user}")
    assert "waits for shanxi-xbfy, which is away" in ask(coordinator).json()["msg"]


def test_a_refusal_is_the_answer(coordinator: Coordinator) -> None:
    order_id = asked(coordinator)
    refused = Refused(
        "suzhou-szslyy: 9 rows are fewer than 10.",
        remedy="Ask for more.",
        code="min_rows",
    )
    coordinator.call(
        "POST", f"/orders/{order_id}/refuse", "agent-2", json=refused.to_json()
    )
    told = assert_refused(
        result(coordinator, order_id),
        403,
        "9 rows",
        "Ask for more.",
        f"Order {order_id}",
    )
    assert told["result"] is None
    assert (
        coordinator.call("GET", f"/orders/{order_id}").json()["data"]["refusal"][
            "detail"
        ]["user_id"]
        == 2
    )


@pytest.mark.parametrize(
    ("stop", "status"),
    [
        (
            {
                "type": "UnplannedError",
                "code": "unplanned",
                "sentence": "A fault.",
                "remedy": "See the log.",
            },
            500,
        ),
        (
            {
                "type": "BadRequest",
                "code": "columns",
                "sentence": "No such column.",
                "remedy": "Name one.",
            },
            400,
        ),
        (
            {
                "type": "ProtocolViolation",
                "code": "false_triple",
                "sentence": "False.",
                "remedy": "Stop.",
            },
            409,
        ),
    ],
)
def test_how_an_order_failed_is_the_answer(
    coordinator: Coordinator, stop: dict[str, Any], status: int
) -> None:
    order_id = asked(coordinator)
    record(coordinator, order_id, end="failed", stop=stop)
    assert_refused(
        result(coordinator, order_id), status, stop["sentence"], stop["remedy"]
    )


def test_a_cancelled_order_is_410(coordinator: Coordinator) -> None:
    order_id = asked(coordinator)
    assert coordinator.call("POST", f"/orders/{order_id}/cancel").status_code == 200
    assert_refused(result(coordinator, order_id), 410, "cancelled")


# What goes where


def test_where_the_data_are_is_sealed_to_each_provider(tmp_path: Path) -> None:
    """Nothing of it is in the store's file, in the order or in an answer; its hospital
    alone reads it.
    """
    with serve(settings_in(tmp_path)) as coordinator:
        own = Identity.generate()
        coordinator.store.hospitals.forget_keys(3)
        coordinator.store.hospitals.enrol(3, own.public.encode(), "1")
        order_id = asked(coordinator, result_receivers=[2])
        for path in (f"/orders/{order_id}", f"/statistics/result?order_id={order_id}"):
            assert SECRET not in coordinator.call("GET", path).text
        box = coordinator.store.messages.gather(Address(order_id, "sql"), [1], 3)[1]
        place = HospitalSql.unseal(3, own.open_key, box)
        assert place.sql == {"data": PLACE}
        order = coordinator.store.orders.get(order_id)
        document = read_statistics_document(order.document, order_id)
        assert document.commitments[3] == place.commitment
        assert set(document.commitments) == {2, 3, 4}
        assert (order.initiator, order.hospitals, order.kind) == (
            4,
            [2, 3, 4],
            "statistics",
        )
        assert (document.schedule_id, document.repeats, document.reply_key) == (
            None,
            None,
            None,
        )
    stored = b"".join(
        path.read_bytes()
        for path in (tmp_path / "coordinator").rglob("*")
        if path.is_file()
    )
    assert SECRET.encode() not in stored


def test_a_receiver_that_provides_nothing_gets_no_box(coordinator: Coordinator) -> None:
    order_id = asked(coordinator, data_providers=[provider(2), provider(3)])
    assert set(coordinator.store.orders.boxes(order_id)) == {2, 3}
    assert coordinator.store.orders.get(order_id).hospitals == [2, 3, 4]
    assert coordinator.call("GET", f"/orders/{order_id}").json()["data"][
        "data_volum"
    ] == {
        "2": None,
        "3": None,
    }


def test_the_flow_is_started_with_the_orders_number_alone(
    coordinator: Coordinator,
) -> None:
    order_id = asked(coordinator)
    assert coordinator.runs.started[-1] == (
        "joint-statistics/joint-statistics",
        order_id,
        ["statistics", "sum"],
    )


def test_an_idempotency_key_makes_one_order(coordinator: Coordinator) -> None:
    def send(**changes: Any) -> Any:
        return coordinator.call(
            "POST",
            PATHS[0],
            json=question(**changes),
            headers={"Idempotency-Key": "once"},
        )

    first, again = send(), send()
    assert first.headers["X-Order-Id"] == again.headers["X-Order-Id"]
    assert_refused(send(method="avg"), 409, "Idempotency-Key")
    other = [{**provider(user), "data_path": "other.csv"} for user in (2, 3, 4)]
    assert_refused(send(data_providers=other), 409, "Idempotency-Key")


def test_an_order_is_kept_while_prefect_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> str:
        raise Unavailable("Prefect does not answer.", remedy="Check it.")

    async def nobody(_: object) -> set[int]:
        return set()

    with serve(settings_in(tmp_path)) as coordinator:
        with monkeypatch.context() as patch:
            patch.setattr(StandInRuns, "start", away)
            answer = ask(coordinator)
            assert answer.status_code == 202
            assert "Prefect" in answer.json()["msg"]
        orders = coordinator.store.orders.active()
        monkeypatch.setattr(coordinator.runs, "cancelled", nobody)
        asyncio.run(
            look_after_orders(
                Services(Request({"type": "http", "app": coordinator.app})), orders, {}
            )
        )
        assert coordinator.runs.started == [
            ("joint-statistics/joint-statistics", 1, ["statistics", "sum"])
        ]


# Values in the answer


def test_disclosed_values_are_in_the_initiators_answer_and_in_nobody_elses(
    coordinator: Coordinator,
) -> None:
    order_id = asked(coordinator, disclose=True)
    put_values(coordinator, order_id, b'[{"total": 713.25}]')
    succeed(coordinator, order_id, notes=[])
    mine = result(coordinator, order_id).json()["result"]
    assert mine["values"] == [{"total": 713.25}]
    assert json.loads(mine["extra"])["notes"] == []
    assert result(coordinator, order_id).json()["result"] == mine
    assert "values" not in result(coordinator, order_id, "user-2").json()["result"]
    assert SECRET not in coordinator.call("GET", f"/orders/{order_id}", "operator").text


def test_after_a_restart_the_values_are_at_the_receiver_only(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with serve(settings) as coordinator:
        tokens, order_id = coordinator.tokens, asked(coordinator, disclose=True)
        put_values(coordinator, order_id, b'[{"total": 1.5}]')
        succeed(coordinator, order_id)
    with serve(settings, tokens) as coordinator:
        told = result(coordinator, order_id).json()
        assert told["status"] == 200
        assert "values" not in told["result"]
        assert (
            f"{order_id}/total.csv" in json.loads(told["result"]["extra"])["notes"][-1]
        )
        later = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
        assert coordinator.store.messages.prune(later) == 1


@pytest.mark.parametrize("values", [b"[NaN]", b"{", b"\xff", b"[" * 100_000])
def test_values_that_are_none_are_no_fault_of_ours(
    coordinator: Coordinator, values: bytes
) -> None:
    order_id = asked(coordinator, disclose=True)
    put_values(coordinator, order_id, values)
    succeed(coordinator, order_id)
    assert_refused(result(coordinator, order_id), 409, "not readable")


def test_values_under_another_hospitals_name_are_not_shown(
    coordinator: Coordinator,
) -> None:
    order_id = asked(coordinator, disclose=True)
    put_values(coordinator, order_id, b'[{"total": 1.5}]', user=2)
    succeed(coordinator, order_id)
    assert "values" not in result(coordinator, order_id).json()["result"]


def test_a_failed_order_leaves_no_values_behind(coordinator: Coordinator) -> None:
    order_id = asked(coordinator, disclose=True)
    put_values(coordinator, order_id, b'[{"total": 1.5}]')
    record(coordinator, order_id, end="failed")
    assert (
        coordinator.store.messages.read_box(Address(order_id, "values"), 4, 1) is None
    )


# Orders of this kind


def test_lists_and_orders_show_it(coordinator: Coordinator) -> None:
    order_id = asked(coordinator, method="avg")
    (row,) = coordinator.call("GET", "/orders?limit=1").json()["data"]["orders"]
    assert (row["order_id"], row["kind"], row["method"], row["user_id"]) == (
        order_id,
        "statistics",
        "avg",
        4,
    )
    record(
        coordinator,
        order_id,
        state="running",
        stage={"what": "sum", "done": 1, "of": 2},
    )
    shown = coordinator.call("GET", f"/orders/{order_id}", "operator").json()["data"]
    assert shown["stage"] == {"what": "sum", "done": 1, "of": 2}
    assert shown["protection"]["method"] == "additive masks"
    assert shown["protection"]["receivers"] == [4]
    assert "hospital 4" in shown["protection"]["who_could_decrypt"]
    searched = asked(coordinator, method="median")
    protection = coordinator.call("GET", f"/orders/{searched}").json()["data"][
        "protection"
    ]
    assert protection["method"] == "additive masks, opened by all"
    assert "every provider" in protection["who_could_decrypt"]
    described = asked(coordinator, method="describe", columns=["score"], quartiles=True)
    protection = coordinator.call("GET", f"/orders/{described}").json()["data"][
        "protection"
    ]
    assert protection["method"] == "additive masks, counts opened by all"
    assert "Only the receivers, hospital 4" in protection["who_could_decrypt"]
    assert "every provider can open, too" in protection["who_could_decrypt"]
    joined = asked(coordinator, method="is_investor_accredited")
    protection = coordinator.call("GET", f"/orders/{joined}").json()["data"][
        "protection"
    ]
    assert protection["method"] == "additive secret sharing"
    assert "common" in protection["who_could_decrypt"]


def test_events_tell_stages_and_states(coordinator: Coordinator) -> None:
    order_id = asked(coordinator)
    record(
        coordinator,
        order_id,
        state="running",
        stage={"what": "sum", "done": 2, "of": 2},
    )
    succeed(coordinator, order_id)
    lines = coordinator.call("GET", f"/orders/{order_id}/events").text.splitlines()
    assert lines[:2] == ["event: stage", 'data: {"what": "sum", "done": 2, "of": 2}']
    assert lines[3:5] == [
        "event: state",
        f'data: {{"order_id": {order_id}, "state": "success"}}',
    ]


@pytest.mark.parametrize(
    "stage",
    [{"what": "sum"}, {"what": "sum", "done": -1, "of": 2}, {"what": "x" * 101}, [], 3],
)
def test_a_stage_that_is_none(coordinator: Coordinator, stage: Any) -> None:
    order_id = asked(coordinator)
    answer = coordinator.call(
        "POST", f"/orders/{order_id}/progress", "coordinator", json={"stage": stage}
    )
    assert_refused(answer, 422, "stage")


def test_a_rerun_asks_the_same_again(coordinator: Coordinator) -> None:
    order_id = asked(coordinator, disclose=True, purpose="a report")
    succeed(coordinator, order_id)
    answer = coordinator.call("POST", f"/orders/{order_id}/rerun")
    assert set(answer.json()) == {"status", "result", "msg"}
    again = int(answer.headers["X-Order-Id"])
    first, second = (
        coordinator.store.orders.get(number) for number in (order_id, again)
    )
    assert (second.rerun_of, second.body) == (order_id, first.body)
    assert coordinator.store.orders.boxes(again) == coordinator.store.orders.boxes(
        order_id
    )
    keys = [json.loads(order.document)["reply_key"] for order in (first, second)]
    assert keys[0] != keys[1]
    put_values(coordinator, again, b"[]")
    succeed(coordinator, again)
    assert result(coordinator, again).json()["result"]["values"] == []
    for who in ("user-2", "operator"):
        assert_refused(coordinator.call("POST", f"/orders/{order_id}/rerun", who), 403)


def test_only_parties_read_the_answer(coordinator: Coordinator) -> None:
    order_id = asked(coordinator)
    for who in ("user-5", "operator", "agent-4", "coordinator"):
        assert_refused(result(coordinator, order_id, who), 403)
    assert_refused(result(coordinator, 10**6), 404)
    external = coordinator.call("POST", "/orders", json={"kind": "external"}).json()[
        "order_id"
    ]
    assert_refused(result(coordinator, external), 404)


def test_messages_of_an_ended_order_are_gone(coordinator: Coordinator) -> None:
    order_id = asked(coordinator)
    succeed(coordinator, order_id)
    with pytest.raises(OrderStopped):
        coordinator.store.messages.gather(Address(order_id, "document"), [1], 0)


# What cannot be asked

WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("unknown method", {"method": "mean"}, 400, "method"),
    ("no method", {"method": None}, 400, "method"),
    ("no receivers", {"result_receivers": []}, 400, "result_receivers"),
    ("unknown hospital", {"result_receivers": [NAMES[4], "orgZ"]}, 404, "orgZ"),
    ("unknown number", {"result_receivers": [4, 77]}, 404, "77"),
    ("a hospital that never connected", {"result_receivers": [4, 5]}, 409, "elsewhere"),
    ("a hospital twice", {"data_providers": [provider(2), provider(2)]}, 400, "twice"),
    (
        "a hospital by name and number",
        {"data_providers": [provider(2), provider(3, name=2)]},
        400,
        "twice",
    ),
    (
        "not a party",
        {"data_providers": [provider(2), provider(3)], "result_receivers": [2]},
        400,
        "neither",
    ),
    (
        "no place",
        {"data_providers": [provider(2, data_path=" "), provider(4)]},
        400,
        "data_path",
    ),
    (
        "unknown type",
        {"data_providers": [provider(4, data_type="xlsx")]},
        400,
        "data_type",
    ),
    ("unknown field", {"methods": "sum"}, 400, "methods"),
    ("a field for another method", {"quantile": 0.5}, 400, "quantile"),
    (
        "values for who receives none",
        {"disclose": True, "result_receivers": [2]},
        400,
        "disclose",
    ),
    ("no patience", {"timeout_seconds": 0}, 400, "timeout_seconds"),
    ("somebody else's name", {"user_id": 2}, 403, "another hospital"),
    ("a name with a NUL", {"result_alias": "a\u0000"}, 400, "result_alias"),
    (
        "a name that is a path",
        {"result_alias": "../../etc/passwd"},
        400,
        "result_alias",
    ),
    (
        "a name too long for a file",
        {"result_alias": "\u7edf" * 67},
        400,
        "result_alias",
    ),
    ("a name with a line separator", {"result_alias": "a\u2028b"}, 400, "result_alias"),
    (
        "a group that quantiles name",
        {"method": "quantile", "quantile": 0.5, "group_by": ["q"]},
        400,
        "columns q",
    ),
    (
        "a group that bins name",
        {"method": "histogram", "bins": [0, 1], "group_by": ["upper"]},
        400,
        "two columns",
    ),
    (
        "a group that says what is withheld",
        {"group_by": ["withheld"]},
        400,
        "two columns",
    ),
]


@pytest.mark.parametrize(
    ("what", "changes", "status", "needle"), WRONG, ids=[case[0] for case in WRONG]
)
def test_a_question_that_cannot_be_asked(
    coordinator: Coordinator,
    what: str,
    changes: dict[str, Any],
    status: int,
    needle: str,
) -> None:
    before = n_orders(coordinator)
    assert_refused(ask(coordinator, **changes), status, needle)
    assert n_orders(coordinator) == before


@pytest.mark.parametrize("path", PATHS)
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
    assert_refused(answer, 400 if status == 422 else status)
    assert n_orders(coordinator) == before


def test_the_operator_signs_nothing(coordinator: Coordinator) -> None:
    assert_refused(ask(coordinator, "operator"), 403, "signed by a hospital")


ELSEWHERE: list[tuple[str, Callable[[Coordinator], Any], int]] = [
    ("another verb", lambda c: c.call("GET", PATHS[0]), 405),
    ("no token", lambda c: c.call("POST", PATHS[0], None, json=question()), 401),
    ("an unknown token", lambda c: ask(c, "nobody"), 403),
    ("no order", lambda c: c.call("GET", "/statistics/result"), 400),
    ("an order that is none", lambda c: result(c, 10**6), 404),
    ("a trailing slash", lambda c: ask(c, path=f"{PATHS[0]}/", method="none"), 400),
]


@pytest.mark.parametrize(
    ("what", "call", "status"), ELSEWHERE, ids=[case[0] for case in ELSEWHERE]
)
def test_every_error_has_the_documents_form(
    coordinator: Coordinator, what: str, call: Callable[[Coordinator], Any], status: int
) -> None:
    assert_refused(call(coordinator), status)


def test_an_unplanned_error_has_the_documents_form(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(coordinator.store.hospitals, "names", fail)
    assert_refused(ask(coordinator), 500, "unplanned")


def test_too_many_calls_have_the_documents_form(tmp_path: Path) -> None:
    with serve(settings_in(tmp_path, calls_per_second=1)) as coordinator:
        answers = [ask(coordinator, method="none") for _ in range(8)]
        assert {answer.status_code for answer in answers} == {400, 429}
        assert_refused(answers[-1], 429, "calls a second")


def test_without_authentication_the_body_or_the_first_receiver_says_who_asks(
    tmp_path: Path,
) -> None:
    with serve(settings_in(tmp_path, authentication=False)) as coordinator:
        orders = [
            int(
                coordinator.call(
                    "POST", PATHS[0], None, json=question(**changes)
                ).headers["X-Order-Id"]
            )
            for changes in ({}, {"user_id": 2}, {"result_receivers": [3, 2]})
        ]
        assert [
            coordinator.store.orders.get(number).initiator for number in orders
        ] == [4, 2, 3]
        succeed(coordinator, orders[0])
        assert (
            coordinator.call("GET", "/statistics/result?order_id=1", None).json()[
                "status"
            ]
            == 200
        )
        unknown = coordinator.call(
            "POST", PATHS[0], None, json=question(result_receivers=["orgZ"])
        )
        assert_refused(unknown, 404, "orgZ")
