"""Schedules of joint statistics over REST.

Prefect's part, saying when, is played here.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.due_times import Timing, check_timing, due_after, latest_due
from api.routes import schedule_times, schedules
from api.store.rows import DueTime
from protocol.errors import BadRequest, Refused, Unavailable
from protocol.statistics_request import read_statistics_document
from protocol.versions import Window
from tests.api.conftest import Coordinator, StandInRuns, serve, settings_in
from tests.api.test_bad_input import BODIES, SECRET, assert_refused
from tests.api.test_statistics import provider, question, record, succeed

EVERY_MINUTE = {"cron": "* * * * *"}


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with serve(settings_in(tmp_path)) as running:
        yield running


def add(coordinator: Coordinator, who: str = "user-4", **changes: Any) -> Any:
    body = {**question(), "schedule": EVERY_MINUTE, **changes}
    return coordinator.call("POST", "/statistics/schedules", who, json=body)


def added(coordinator: Coordinator, **changes: Any) -> int:
    answer = add(coordinator, **changes)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["data"]["schedule_id"])


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def fire(
    coordinator: Coordinator, schedule_id: int, scheduled: datetime, wait: float = 0
) -> dict[str, Any]:
    """What the schedule's flow run does at its time."""
    body = {"scheduled": scheduled.isoformat(), "wait": wait}
    answer = coordinator.call(
        "POST", f"/statistics/schedules/{schedule_id}/firings", "coordinator", json=body
    )
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()["data"]
    return told


def history(
    coordinator: Coordinator, who: str = "user-4", **query: Any
) -> list[dict[str, Any]]:
    answer = coordinator.call("GET", "/statistics/history", who, params=query)
    assert answer.status_code == 200, answer.text
    runs: list[dict[str, Any]] = answer.json()["data"]["runs"]
    return runs


def shown(
    coordinator: Coordinator, schedule_id: int, who: str = "user-4"
) -> dict[str, Any]:
    answer = coordinator.call("GET", f"/statistics/schedules/{schedule_id}", who)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def let_in(coordinator: Coordinator, *users: int) -> None:
    """These hospitals' agents are there."""
    for user in users:
        coordinator.call("GET", "/exchange/inbox?wait=0", f"agent-{user}")


# Making, showing, changing


def test_a_schedule_is_a_question_and_a_timing(coordinator: Coordinator) -> None:
    timing = {"cron": "0 6 * * 1-5", "timezone": "Europe/Berlin", "missed": "skip"}
    data = add(
        coordinator, schedule=timing, name="costs, each morning", timeout_seconds=5
    ).json()["data"]
    schedule_id = data["schedule_id"]
    assert data == shown(coordinator, schedule_id)
    assert (data["name"], data["user_id"], data["hospitals"]) == (
        "costs, each morning",
        4,
        [2, 3, 4],
    )
    assert data["schedule"] == timing
    assert data["active"] is True
    assert len(data["next_runs"]) == 5
    assert data["last_run"] is None
    assert data["request"]["method"] == "sum"
    assert {entry["data_path"] for entry in data["request"]["data_providers"]} == {""}
    assert coordinator.runs.deployed[schedule_id] == (timing, True)
    assert coordinator.store.orders.newest(hospital=None, limit=10, before=None) == []


def test_where_the_data_are_is_in_no_answer_and_not_in_the_store(
    tmp_path: Path,
) -> None:
    with serve(settings_in(tmp_path)) as coordinator:
        made = add(coordinator)
        assert SECRET not in made.text
        fire(coordinator, made.json()["data"]["schedule_id"], now())
    stored = b"".join(
        path.read_bytes()
        for path in (tmp_path / "coordinator").rglob("*")
        if path.is_file()
    )
    assert SECRET.encode() not in stored


def test_parties_and_the_operator_read_and_the_owner_changes(
    coordinator: Coordinator,
) -> None:
    schedule_id = added(coordinator)
    path = f"/statistics/schedules/{schedule_id}"
    for who in ("user-2", "user-3", "operator"):
        assert shown(coordinator, schedule_id, who)["schedule_id"] == schedule_id
        listed = coordinator.call("GET", "/statistics/schedules", who).json()["data"][
            "schedules"
        ]
        assert [row["schedule_id"] for row in listed] == [schedule_id]
        assert history(coordinator, who, schedule_id=schedule_id) == []
        assert_refused(
            coordinator.call("PATCH", path, who, json={"active": False}), 403
        )
        assert_refused(coordinator.call("DELETE", path, who), 403)
    assert_refused(coordinator.call("GET", path, "user-5"), 403)
    assert_refused(
        coordinator.call(
            "GET", f"/statistics/history?schedule_id={schedule_id}", "user-5"
        ),
        403,
    )
    assert (
        coordinator.call("GET", "/statistics/schedules", "user-5").json()["data"][
            "schedules"
        ]
        == []
    )
    assert_refused(add(coordinator, "operator"), 403, "signed by a hospital")
    for who in ("user-4", "operator", "agent-4"):
        body = {"scheduled": now().isoformat()}
        assert_refused(coordinator.call("POST", f"{path}/firings", who, json=body), 403)


def test_lists_are_paged(coordinator: Coordinator) -> None:
    numbers = [added(coordinator) for _ in range(3)]
    first = coordinator.call("GET", "/statistics/schedules?limit=2").json()["data"]
    assert [row["schedule_id"] for row in first["schedules"]] == numbers[:0:-1]
    rest = coordinator.call(
        "GET", f"/statistics/schedules?limit=2&before={first['next']}"
    ).json()["data"]
    assert ([row["schedule_id"] for row in rest["schedules"]], rest["next"]) == (
        numbers[:1],
        None,
    )


def test_pause_and_resume(coordinator: Coordinator) -> None:
    schedule_id = added(coordinator)
    path = f"/statistics/schedules/{schedule_id}"
    paused = coordinator.call("PATCH", path, json={"active": False}).json()["data"]
    assert (paused["active"], paused["next_runs"]) == (False, [])
    told = fire(coordinator, schedule_id, now())
    assert (told["state"], told["sentence"]) == ("skipped", "The schedule is paused.")
    assert history(coordinator, schedule_id=schedule_id) == []
    resumed = coordinator.call("PATCH", path, json={"active": True}).json()["data"]
    assert (resumed["active"], len(resumed["next_runs"])) == (True, 5)
    assert fire(coordinator, schedule_id, now())["state"] == "pending"


def test_who_switches_it_in_prefect_is_believed(coordinator: Coordinator) -> None:
    schedule_id = added(coordinator)
    timing, _ = coordinator.runs.deployed[schedule_id]
    coordinator.runs.deployed[schedule_id] = (timing, False)
    assert shown(coordinator, schedule_id)["active"] is False
    path = f"/statistics/schedules/{schedule_id}"
    renamed = coordinator.call("PATCH", path, json={"name": "other"}).json()["data"]
    assert (renamed["name"], renamed["active"]) == ("other", False)
    coordinator.runs.deployed[schedule_id] = (timing, True)
    assert fire(coordinator, schedule_id, now())["state"] == "pending"


def test_another_timing(coordinator: Coordinator) -> None:
    schedule_id = added(coordinator)
    path = f"/statistics/schedules/{schedule_id}"
    changed = coordinator.call(
        "PATCH", path, json={"schedule": {"interval_seconds": 10, "missed": "skip"}}
    )
    assert changed.json()["data"]["schedule"] == {
        "interval_seconds": 10,
        "timezone": "UTC",
        "missed": "skip",
    }
    assert coordinator.runs.deployed[schedule_id][0]["interval_seconds"] == 10
    assert_refused(
        coordinator.call("PATCH", path, json={"schedule": {"cron": "often"}}),
        400,
        "cron",
    )
    assert_refused(coordinator.call("PATCH", path, json={}), 400, "Nothing")
    assert_refused(coordinator.call("PATCH", path, json={"activ": True}), 422, "activ")


def test_a_deleted_schedule_leaves_its_orders_and_their_history(
    coordinator: Coordinator,
) -> None:
    schedule_id = added(coordinator)
    order_id = fire(coordinator, schedule_id, now())["order_id"]
    path = f"/statistics/schedules/{schedule_id}"
    assert coordinator.call("DELETE", path).status_code == 200
    assert coordinator.runs.deployed == {}
    for method in ("GET", "DELETE"):
        assert_refused(coordinator.call(method, path), 404, "schedule")
    assert_refused(coordinator.call("PATCH", path, json={"active": True}), 404)
    body = {"scheduled": now().isoformat()}
    assert_refused(
        coordinator.call("POST", f"{path}/firings", "coordinator", json=body), 404
    )
    assert coordinator.store.schedules.boxes(schedule_id) == {}
    assert [
        run["order_id"] for run in history(coordinator, schedule_id=schedule_id)
    ] == [order_id]
    assert coordinator.call("GET", f"/orders/{order_id}").status_code == 200


def test_what_prefect_does_not_take_is_not_kept(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise Unavailable("Prefect does not answer.", remedy="Check it.")

    schedule_id = added(coordinator)
    for method in ("deploy_schedule", "delete_schedule", "schedules"):
        monkeypatch.setattr(StandInRuns, method, away)
    path = f"/statistics/schedules/{schedule_id}"
    assert_refused(add(coordinator), 503)
    assert_refused(coordinator.call("PATCH", path, json={"active": False}), 503)
    assert_refused(coordinator.call("DELETE", path), 503)
    told = coordinator.call("GET", "/statistics/schedules").json()
    assert "Prefect does not answer" in told["message"]
    ((number, active, next_runs),) = [
        (row["schedule_id"], row["active"], row["next_runs"])
        for row in told["data"]["schedules"]
    ]
    assert (number, active, next_runs) == (schedule_id, True, None)
    assert fire(coordinator, schedule_id, now())["state"] == "pending"


def test_an_idempotency_key_makes_one_schedule(coordinator: Coordinator) -> None:
    def send(**changes: Any) -> Any:
        body = {**question(), "schedule": EVERY_MINUTE, **changes}
        return coordinator.call(
            "POST",
            "/statistics/schedules",
            json=body,
            headers={"Idempotency-Key": "once"},
        )

    assert send().json()["data"]["schedule_id"] == send().json()["data"]["schedule_id"]
    assert_refused(send(method="avg"), 409, "Idempotency-Key")


# Its times


def test_each_time_is_one_order_with_what_was_sealed_for_the_schedule(
    coordinator: Coordinator,
) -> None:
    schedule_id, due = added(coordinator), now()
    first = fire(coordinator, schedule_id, due)
    assert (first["state"], fire(coordinator, schedule_id, due)) == ("pending", first)
    order = coordinator.store.orders.get(first["order_id"])
    assert (order.kind, order.initiator, order.schedule_id) == (
        "statistics",
        4,
        schedule_id,
    )
    assert coordinator.store.orders.boxes(
        first["order_id"]
    ) == coordinator.store.schedules.boxes(schedule_id)
    document = read_statistics_document(order.document, first["order_id"])
    assert (document.schedule_id, document.repeats, document.reply_key) == (
        schedule_id,
        None,
        None,
    )
    flow, number, tags = coordinator.runs.started[-1]
    assert (flow, number) == ("joint-statistics/joint-statistics", first["order_id"])
    assert tags == ["statistics", "sum", f"schedule-{schedule_id}"]
    record(
        coordinator, first["order_id"], state="running", n_rows={"2": 1, "3": 2, "4": 3}
    )
    assert fire(coordinator, schedule_id, due)["state"] == "running"
    told = succeed(coordinator, first["order_id"])
    assert fire(coordinator, schedule_id, due)["state"] == "success"
    (run,) = history(coordinator, schedule_id=schedule_id)
    assert run["scheduled"] == due.replace(tzinfo=None).isoformat() + "Z"
    assert (run["state"], run["order_id"], run["sentence"]) == (
        "success",
        first["order_id"],
        None,
    )
    assert (run["path"], run["rows_used"], run["repeats"]) == (
        told["path"],
        told["rows_used"],
        None,
    )
    assert (run["user_id"], run["method"]) == (4, "sum")
    assert run["opened"] == told.get("opened", [])
    assert run["progress"] == {"done": 0, "of": None}
    assert shown(coordinator, schedule_id)["last_run"] == run


def test_the_last_order_with_a_result_is_named_to_the_next(
    coordinator: Coordinator,
) -> None:
    schedule_id, due, numbers = added(coordinator), now() - timedelta(seconds=30), []
    for i, end in enumerate(("success", "failed", "success")):
        numbers.append(
            fire(coordinator, schedule_id, due + timedelta(seconds=i))["order_id"]
        )
        if end == "success":
            succeed(coordinator, numbers[-1], repeats=numbers[0] if i else None)
        else:
            record(coordinator, numbers[-1], end="failed")
    documents = [
        read_statistics_document(coordinator.store.orders.get(number).document, number)
        for number in numbers
    ]
    assert [document.repeats for document in documents] == [
        None,
        numbers[0],
        numbers[0],
    ]
    runs = history(coordinator, schedule_id=schedule_id)
    assert [run["order_id"] for run in runs] == numbers[::-1]
    assert [run["state"] for run in runs] == ["success", "failed", "success"]
    assert [run["repeats"] for run in runs] == [numbers[0], None, None]


def test_a_refusal_is_in_the_history(coordinator: Coordinator) -> None:
    schedule_id = added(coordinator)
    order_id = fire(coordinator, schedule_id, now())["order_id"]
    refused = Refused(
        "suzhou-szslyy: 9 rows are fewer than 10.",
        remedy="Ask for more.",
        code="min_rows",
    )
    coordinator.call(
        "POST", f"/orders/{order_id}/refuse", "agent-2", json=refused.to_json()
    )
    (run,) = history(coordinator, schedule_id=schedule_id)
    assert (run["state"], run["sentence"], run["path"]) == (
        "refused",
        str(refused),
        None,
    )


def test_make_up_waits_for_who_is_away_and_skips_the_times_until_then(
    coordinator: Coordinator,
) -> None:
    schedule_id, due = added(coordinator), now()
    let_in(coordinator, 2, 4)
    first = fire(coordinator, schedule_id, due)
    assert first["state"] == "pending"
    assert "zhejiang-zdey, which is away" in first["sentence"]
    second = fire(coordinator, schedule_id, due + timedelta(seconds=1))
    assert second["state"] == "skipped"
    assert f"Order {first['order_id']}" in second["sentence"]
    assert "zhejiang-zdey" in second["sentence"]
    assert [run["state"] for run in history(coordinator, schedule_id=schedule_id)] == [
        "skipped",
        "waiting",
    ]
    succeed(coordinator, first["order_id"])
    assert (
        fire(coordinator, schedule_id, due + timedelta(seconds=2))["state"] == "pending"
    )


def test_skip_names_who_is_away(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule_times, "SETTLE_SECONDS", 0)
    schedule_id, due = (
        added(coordinator, schedule={**EVERY_MINUTE, "missed": "skip"}),
        now(),
    )
    let_in(coordinator, 2, 4)
    assert fire(coordinator, schedule_id, due) == {
        "order_id": None,
        "state": "skipped",
        "sentence": "zhejiang-zdey is away.",
    }
    (run,) = history(coordinator, schedule_id=schedule_id)
    assert (run["state"], run["order_id"], run["sentence"]) == (
        "skipped",
        None,
        "zhejiang-zdey is away.",
    )
    let_in(coordinator, 3)
    assert fire(coordinator, schedule_id, due)["state"] == "skipped"
    assert (
        fire(coordinator, schedule_id, due + timedelta(seconds=1))["state"] == "pending"
    )


def test_a_time_at_which_an_agent_lags_too_far_is_skipped_and_says_who(
    coordinator: Coordinator,
) -> None:
    schedule_id, due = added(coordinator), now()
    let_in(coordinator, 2, 3, 4)
    (known,) = [row for row in coordinator.store.hospitals.all() if row.user_id == 3]
    assert known.identity is not None
    coordinator.store.hospitals.enrol(3, known.identity, "1", speaks=Window(1, 1))
    told = fire(coordinator, schedule_id, due)
    assert (told["order_id"], told["state"]) == (None, "skipped")
    assert "The agent of hospital 3 speaks protocol 1" in told["sentence"]
    assert "upgrade --site FOLDER" in told["sentence"]
    (run,) = history(coordinator, schedule_id=schedule_id)
    assert (run["state"], run["sentence"]) == ("skipped", told["sentence"])


@pytest.mark.parametrize(("late", "state"), [(59, "pending"), (61, "skipped")])
def test_skip_leaves_out_what_comes_late(
    coordinator: Coordinator, late: int, state: str
) -> None:
    schedule_id = added(coordinator, schedule={**EVERY_MINUTE, "missed": "skip"})
    let_in(coordinator, 2, 3, 4)
    told = fire(coordinator, schedule_id, now() - timedelta(seconds=late))
    assert told["state"] == state
    assert state == "pending" or "late" in told["sentence"]


def test_make_up_asks_once_for_all_that_was_missed(coordinator: Coordinator) -> None:
    """Prefect comes back with three late runs: the first one asks for the last time
    that was missed.
    """
    schedule_id = added(coordinator, schedule={"cron": "0 * * * *"})
    latest = now().replace(minute=0, second=0)
    if now() - latest < timedelta(seconds=70):
        pytest.skip("within the first minute of an hour the last time is not late")
    missed = [latest - timedelta(hours=hours) for hours in (3, 2)]
    made_up = [fire(coordinator, schedule_id, due) for due in missed]
    assert (
        made_up[0]["order_id"]
        == made_up[1]["order_id"]
        == fire(coordinator, schedule_id, latest)["order_id"]
    )
    runs = {
        run["scheduled"][:13]: run
        for run in history(coordinator, schedule_id=schedule_id)
    }
    assert [runs[due.isoformat()[:13]]["state"] for due in missed] == [
        "skipped",
        "skipped",
    ]
    assert runs[latest.isoformat()[:13]]["state"] == "waiting"
    assert "makes up for it" in runs[missed[0].isoformat()[:13]]["sentence"]


def test_a_late_run_after_which_nothing_was_due_is_made_up(
    coordinator: Coordinator,
) -> None:
    schedule_id = added(coordinator, schedule={"cron": "0 * * * *"})
    latest = latest_due(
        {"cron": "0 * * * *", "timezone": "UTC"}, now().replace(tzinfo=None)
    )
    assert latest is not None
    assert (
        fire(coordinator, schedule_id, latest.replace(tzinfo=UTC))["state"] == "pending"
    )


def test_a_schedule_s_run_takes_no_place_and_its_order_one_at_each_hospital(
    tmp_path: Path,
) -> None:
    with serve(settings_in(tmp_path)) as coordinator:
        fire(coordinator, added(coordinator), now())
        coordinator.give_places()
        assert coordinator.store.places.taken() == {2: 1, 3: 1, 4: 1}


def test_orders_without_a_schedule_are_in_the_history_too(
    coordinator: Coordinator,
) -> None:
    schedule_id, due = added(coordinator), now()
    scheduled = fire(coordinator, schedule_id, due)["order_id"]
    single = int(
        coordinator.call("POST", "/runModelTrainTask", json=question()).headers[
            "X-Order-Id"
        ]
    )
    coordinator.call("POST", f"/orders/{single}/cancel")
    coordinator.call("POST", "/orders", json={"kind": "external"})
    for who in ("user-4", "user-2", "operator"):
        runs = history(coordinator, who)
        assert [run["order_id"] for run in runs] == [single, scheduled]
        assert [run["schedule_id"] for run in runs] == [None, schedule_id]
        assert [run["scheduled"] is None for run in runs] == [True, False]
        assert [run["state"] for run in runs] == ["cancelled", "waiting"]
    assert history(coordinator, "user-5") == []
    first = coordinator.call("GET", "/statistics/history?limit=1").json()["data"]
    assert first["next"] == single
    assert [
        run["order_id"] for run in history(coordinator, limit=1, before=first["next"])
    ] == [scheduled]


def test_a_schedules_history_is_paged(coordinator: Coordinator) -> None:
    schedule_id, due = added(coordinator), now()
    for i in range(3):
        fire(coordinator, schedule_id, due + timedelta(seconds=i))
    query = f"/statistics/history?schedule_id={schedule_id}&limit=2"
    first = coordinator.call("GET", query).json()["data"]
    rest = coordinator.call("GET", f"{query}&before={first['next']}").json()["data"]
    assert [run["state"] for run in [*first["runs"], *rest["runs"]]] == [
        "skipped",
        "skipped",
        "waiting",
    ]
    assert rest["next"] is None


def test_the_worker_is_woken_when_a_schedule_falls_due(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule_id = added(coordinator)
    path = f"/statistics/schedules/{schedule_id}"
    heard = coordinator.call(
        "GET", "/exchange/inbox?boot=&wait=0", "coordinator"
    ).json()
    soon = {"interval_seconds": 10}
    monkeypatch.setattr(schedules, "check_timing", lambda timing, now: in_a_second(now))
    assert coordinator.call("PATCH", path, json={"schedule": soon}).status_code == 200
    query = f"boot={heard['boot']}&cursor={heard['cursor']}&wait=10"
    began = datetime.now(UTC)
    news = coordinator.call("GET", f"/exchange/inbox?{query}", "coordinator").json()[
        "news"
    ]
    assert {"what": "look", "order_id": 0} in news
    assert datetime.now(UTC) - began < timedelta(seconds=5)


def in_a_second(now: datetime) -> dict[str, Any]:
    anchor = now.replace(microsecond=0) + timedelta(seconds=2)
    return {
        "interval_seconds": 10,
        "anchor": anchor.isoformat(),
        "timezone": "UTC",
        "missed": "make_up",
    }


# What cannot be scheduled

WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("no timing", {"schedule": None}, 422, "schedule"),
    ("an empty timing", {"schedule": {}}, 400, "one of the two"),
    (
        "two timings",
        {"schedule": {**EVERY_MINUTE, "interval_seconds": 60}},
        400,
        "one of the two",
    ),
    ("a cron that is none", {"schedule": {"cron": "every day"}}, 400, "five fields"),
    ("a cron of six fields", {"schedule": {"cron": "* * * * * *"}}, 400, "five fields"),
    ("a minute that is none", {"schedule": {"cron": "61 * * * *"}}, 400, "five fields"),
    (
        "a day that never comes",
        {"schedule": {"cron": "0 0 30 2 *"}},
        400,
        "never comes",
    ),
    ("too often", {"schedule": {"interval_seconds": 9}}, 400, "10 to"),
    ("never", {"schedule": {"interval_seconds": 10**9}}, 400, "10 to"),
    ("a fraction", {"schedule": {"interval_seconds": 10.5}}, 422, "interval_seconds"),
    (
        "a zone that is none",
        {"schedule": {**EVERY_MINUTE, "timezone": "Mars/Olympus"}},
        400,
        "Europe/Berlin",
    ),
    (
        "a zone without a name",
        {"schedule": {**EVERY_MINUTE, "timezone": ""}},
        400,
        "Europe/Berlin",
    ),
    (
        "a zone of the system",
        {"schedule": {**EVERY_MINUTE, "timezone": "localtime"}},
        400,
        "Europe/Berlin",
    ),
    (
        "an unknown word",
        {"schedule": {**EVERY_MINUTE, "missed": "maybe"}},
        422,
        "missed",
    ),
    ("an unknown field", {"schedule": {**EVERY_MINUTE, "seconds": 5}}, 422, "seconds"),
    ("values for nobody", {"disclose": True}, 400, "disclose"),
    ("an unknown method", {"method": "mean"}, 422, "method"),
    ("an unknown hospital", {"result_receivers": [4, "orgZ"]}, 404, "orgZ"),
    ("a hospital that never connected", {"result_receivers": [4, 5]}, 409, "elsewhere"),
    (
        "a place that is none",
        {"data_providers": [provider(2, data_path=""), provider(4)]},
        400,
        "data_path",
    ),
    ("a name with a NUL", {"name": "a\u0000"}, 422, "name"),
]


@pytest.mark.parametrize(
    ("what", "changes", "status", "needle"), WRONG, ids=[case[0] for case in WRONG]
)
def test_a_schedule_that_cannot_be_made(
    coordinator: Coordinator,
    what: str,
    changes: dict[str, Any],
    status: int,
    needle: str,
) -> None:
    assert_refused(add(coordinator, **changes), status, needle)
    assert (
        coordinator.store.schedules.newest(hospital=None, limit=10, before=None) == []
    )
    assert coordinator.runs.deployed == {}


def test_bodies_that_are_none(coordinator: Coordinator) -> None:
    for what, content, kind, status in BODIES:
        answer = coordinator.call(
            "POST",
            "/statistics/schedules",
            content=content,
            headers={"Content-Type": kind, "X-Case": what},
        )
        assert_refused(answer, status)
    assert (
        coordinator.store.schedules.newest(hospital=None, limit=10, before=None) == []
    )


# Timing, as Prefect's scheduler counts it

SPRING = datetime(2026, 3, 28, 12)


def kept(**fields: Any) -> dict[str, Any]:
    return check_timing(Timing(**fields), now=SPRING)


def test_a_morning_stays_a_morning_when_the_clocks_change() -> None:
    timing = kept(cron="0 6 * * *", timezone="Europe/Berlin")
    assert due_after(timing, datetime(2026, 3, 28), 3) == [
        datetime(2026, 3, 28, 5),
        datetime(2026, 3, 29, 4),
        datetime(2026, 3, 30, 4),
    ]


def test_an_interval_begins_after_it_was_made() -> None:
    assert due_after(
        kept(interval_seconds=10), SPRING + timedelta(microseconds=1), 2
    ) == [
        SPRING + timedelta(seconds=10),
        SPRING + timedelta(seconds=20),
    ]


@pytest.mark.parametrize(
    ("fields", "latest"),
    [
        ({"cron": "*/5 * * * *"}, datetime(2026, 4, 10, 1)),
        ({"cron": "0 0 29 2 *"}, datetime(2024, 2, 29)),
        ({"cron": "@yearly"}, datetime(2026, 1, 1)),
        ({"interval_seconds": 10}, datetime(2026, 4, 10, 1, 2)),
        ({"interval_seconds": 7 * 86_400}, datetime(2026, 4, 4, 12)),
    ],
)
def test_the_last_time_that_was_due(fields: dict[str, Any], latest: datetime) -> None:
    assert latest_due(kept(**fields), datetime(2026, 4, 10, 1, 2, 3)) == latest


def test_words_of_cron_are_fine() -> None:
    assert kept(cron="@daily")["cron"] == "@daily"
    with pytest.raises(BadRequest):
        kept(cron="@reboot")


@pytest.mark.parametrize("is_skipped", [False, True])
def test_a_time_that_another_process_has_just_entered_is_that_one_s(
    is_skipped: bool,
    coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It looked before the other one wrote, and writes behind it."""
    schedule_id = added(coordinator)
    scheduled = now()
    store = coordinator.store.schedules
    if is_skipped:
        in_utc = scheduled.replace(tzinfo=None)
        store.skip(DueTime(schedule_id, in_utc), "Another process has skipped it.")
        first = None
    else:
        first = fire(coordinator, schedule_id, scheduled)["order_id"]
        succeed(coordinator, first)
    found = schedule_times._earlier
    looks: list[DueTime] = []

    async def earlier(services: Any, due: DueTime) -> Any:
        looks.append(due)
        return None if len(looks) == 1 else await found(services, due)

    monkeypatch.setattr(schedule_times, "_earlier", earlier)
    told = fire(coordinator, schedule_id, scheduled)
    assert told["order_id"] == first
    assert told["state"] == ("skipped" if is_skipped else "success")
    orders = coordinator.store.orders.newest(hospital=None, limit=10, before=None)
    assert [order.order_id for order in orders] == ([] if is_skipped else [first])
