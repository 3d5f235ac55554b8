"""A coordinator whose disk is full says so, keeps an order whole or not at all, and
turns no agent away for it.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api.store.bodies import Body
from api.store.disk import FULL_BYTES, REMEMBERED_SECONDS, Disk, is_full
from deployments.demo.training import document_order
from protocol.errors import Unavailable
from protocol.exchange import Address
from tests.api.conftest import Coordinator, serve, settings_in
from tests.api.test_statistics import question

WAYS = (
    ("/model/train", document_order()),
    ("/orders", {"kind": "external"}),
    ("/runModelTrainTask", question()),
)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """A coordinator that asks for more room than any disk has."""
    with serve(
        settings_in(tmp_path_factory.mktemp("short"), least_free_bytes=2**60)
    ) as running:
        yield running


@contextlib.contextmanager
def no_page_left(coordinator: Coordinator) -> Iterator[None]:
    """SQLite itself refuses to grow its file, with the error of a full disk."""
    engine = coordinator.store.engine

    def limit(connection: Any, _record: Any) -> None:
        (n_pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={n_pages}")

    sa.event.listen(engine, "connect", limit)
    engine.dispose()
    try:
        yield
    finally:
        sa.event.remove(engine, "connect", limit)
        engine.dispose()
        forget(coordinator)


def forget(coordinator: Coordinator) -> None:
    """As if the last failed write were long ago."""
    coordinator.app.state.disk._failed = None


def until_full(coordinator: Coordinator, order_id: int) -> Unavailable:
    """Messages, until none has room any more; what the last one met."""
    for number in range(10_000):
        try:
            coordinator.store.messages.put(
                Address(order_id, "setup", round=number), 4, 2, Body.of(bytes(20_000))
            )
        except Unavailable as error:
            return error
    raise AssertionError("it never was full")


def orders(coordinator: Coordinator) -> list[int]:
    return [
        one["order_id"]
        for one in coordinator.call("GET", "/orders", "operator").json()["data"][
            "orders"
        ]
    ]


def test_health_says_what_is_free_and_what_is_needed(short: Coordinator) -> None:
    answer = short.call("GET", "/health", None)
    body = answer.json()
    assert answer.status_code == body["code"] == 503
    assert (body["data"]["ready"], body["data"]["cause"]) == (False, "disk")
    assert body["data"]["needed_bytes"] == 2**60
    assert 0 < body["data"]["free_bytes"] < 2**60
    assert "MB are free and 1,152,921,504,607 MB are needed" in body["message"]


@pytest.mark.parametrize(("path", "body"), WAYS)
def test_no_order_is_made_while_room_is_short(
    short: Coordinator, path: str, body: dict[str, Any]
) -> None:
    answer = short.call("POST", path, json=body)
    assert answer.status_code == 503
    text = answer.json().get("message") or answer.json()["msg"]
    assert "disk is full" in text
    assert "makes room" in text
    assert orders(short) == []
    assert short.runs.started == []


def test_a_key_finds_its_order_while_room_is_short(tmp_path: Path) -> None:
    """Who sends a request again hears of the order that there is."""
    key = {"Idempotency-Key": "a-key"}
    with serve(settings_in(tmp_path)) as running:
        first = running.call(
            "POST", "/orders", json={"kind": "external"}, headers=key
        ).json()
        tokens = running.tokens
    with serve(settings_in(tmp_path, least_free_bytes=2**60), tokens) as short:
        assert (
            short.call("POST", "/orders", json={"kind": "external"}, headers=key).json()
            == first
        )
        other = short.call(
            "POST", "/orders", json={"kind": "external", "name": "x"}, headers=key
        )
        assert other.status_code == 409


def test_a_store_that_cannot_grow_answers_with_the_disk(
    coordinator_with_order: tuple[Coordinator, int],
) -> None:
    """As SQLite finds it in the middle of a transaction; when there is room, all goes
    on as if nothing had been.
    """
    coordinator, order_id = coordinator_with_order
    with no_page_left(coordinator):
        assert until_full(coordinator, order_id).code == "disk"
        answer = coordinator.call("POST", "/model/train", json=document_order())
        assert answer.status_code == 503
        assert "its own disk full" in answer.json()["message"]
        assert orders(coordinator) == [order_id]
        waiting, *away = coordinator.call("GET", f"/orders/{order_id}").json()["data"][
            "waiting_for"
        ]
        assert {one["cause"] for one in away} == {"away"}
        assert (waiting["name"], waiting["cause"]) == ("coordinator", "disk")
        assert "makes room" in waiting["message"]
        assert coordinator.call("GET", "/health", None).status_code == 503
    assert (
        coordinator.call("POST", "/model/train", json=document_order()).status_code
        == 200
    )
    assert coordinator.call("GET", "/health", None).status_code == 200


def test_an_agent_that_polls_is_there_whatever_the_disk(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it was seen, and keys that are known, are worth no refusal."""
    known = coordinator.store.hospitals.all()[0]
    told = {"identity": known.identity, "version": "1"}
    assert (
        coordinator.call("PUT", "/hospitals/me", "agent-2", json=told).status_code
        == 200
    )

    def full(*_: Any, **__: Any) -> None:
        raise coordinator.app.state.disk.noted()

    monkeypatch.setattr(coordinator.store.hospitals, "_touch", full)
    assert (
        coordinator.call("GET", "/exchange/inbox?wait=0", "agent-2").status_code == 200
    )
    assert (
        coordinator.call("PUT", "/hospitals/me", "agent-2", json=told).status_code
        == 200
    )
    assert (
        coordinator.call(
            "PUT", "/hospitals/me", "agent-2", json={**told, "version": "2"}
        ).status_code
        == 503
    )
    forget(coordinator)


def test_what_a_site_tells_is_shown_with_a_sentence(
    coordinator_with_order: tuple[Coordinator, int],
) -> None:
    """Codes and numbers alone: whatever else an agent might send is refused."""
    coordinator, order_id = coordinator_with_order
    for user in (2, 3, 4):
        coordinator.call("GET", "/exchange/inbox?wait=0", f"agent-{user}")
    coordinator.give_places()

    def tell(condition: dict[str, Any], who: str = "agent-2") -> int:
        answer = coordinator.call("PUT", "/hospitals/me/condition", who, json=condition)
        return int(answer.status_code)

    def troubles() -> list[str]:
        rows = coordinator.call("GET", "/hospitals").json()["data"]["hospitals"]
        return [
            one["cause"]
            for row in rows
            if row["user_id"] == 2
            for one in row["troubles"]
        ]

    def waiting() -> list[tuple[int, str]]:
        found = coordinator.call("GET", f"/orders/{order_id}").json()["data"][
            "waiting_for"
        ]
        return [(one["user_id"], one["cause"]) for one in found]

    assert tell({"disk_full": True, "clock_seconds": -86_400}) == 200
    assert troubles() == ["disk", "clock"]
    assert waiting() == [(2, "disk")]
    assert tell({"disk_full": False, "clock_seconds": -86_400}) == 200
    assert waiting() == [(2, "clock"), (3, "working"), (4, "working")]
    message = coordinator.call("GET", f"/orders/{order_id}").json()["data"][
        "waiting_for"
    ][0]["message"]
    assert (
        "The clock of suzhou-szslyy is 86400 seconds behind the coordinator's."
        in message
    )
    assert tell({"disk_full": False, "path": "/srv/vault"}) == 422
    assert tell({"disk_full": False, "clock_seconds": "/srv/vault"}) == 422
    assert tell({"disk_full": True}, "user-2") == 403
    assert tell({}) == 200
    assert troubles() == []


# Which errors say so


@pytest.mark.parametrize(
    ("error", "says_full"),
    [
        (OSError(errno.ENOSPC, ""), True),
        (OSError(errno.EDQUOT, ""), True),
        (PermissionError(errno.EACCES, "database or disk is full"), False),
        (sqlite3.OperationalError("database or disk is full"), False),
        (None, False),
    ],
)
def test_a_full_disk_is_known_by_number_not_by_words(
    error: BaseException | None, says_full: bool
) -> None:
    assert is_full(error) is says_full


def test_a_disk_is_full_as_long_as_somebody_fails_to_write(tmp_path: Path) -> None:
    at = [100.0]
    disk = Disk(tmp_path / "not" / "made", FULL_BYTES, now=lambda: at[0])
    assert not disk.is_short()
    assert disk.noted().code == "disk"
    assert disk.is_short()
    at[0] += REMEMBERED_SECONDS
    assert not disk.is_full()
    assert not disk.is_short()
