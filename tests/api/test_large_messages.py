"""Large messages: files beside the store, written and read in pieces, gone with their
order, and never half there.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.store import Store
from api.store.bodies import Bodies, Body, DamagedBody
from api.store.disk import Disk
from deployments.demo.training import document_order
from protocol.errors import BadRequest, OrderStopped, Unavailable
from protocol.exchange import LARGE_BYTES, Address, Exchange, HttpTransport, Used
from protocol.messages import COORDINATOR
from tests.api.conftest import Coordinator, serve, settings_in
from tests.conftest import ROOT
from tests.faults.disks import small_disk

GRADIENT = Address(1, "gradient")
PATH = "/exchange/1/gradient/0/0/0"
HOSPITALS = (2, 3, 4)
LARGE = bytes(range(256)) * (3 * LARGE_BYTES // 256)
FAR_AHEAD = datetime(2200, 1, 1)


def large_order() -> dict[str, Any]:
    """A network whose sums have a million words."""
    body = document_order()
    body["model_type"] = "mlp"
    params = body["model_params"]
    params["hidden"] = [1000, 990]
    params["init_param"] = {"init_method": "random_normal"}
    return body


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Coordinator]:
    with serve(settings_in(tmp_path)) as coordinator:
        answer = coordinator.call("POST", "/model/train", json=large_order())
        assert answer.json()["data"]["order_id"] == 1, answer.text
        coordinator.give_places()
        yield coordinator


def put(coordinator: Coordinator, user: int, body: bytes) -> Any:
    return coordinator.call("PUT", f"{PATH}/{user}/1", f"agent-{user}", content=body)


def exchange_of(coordinator: Coordinator) -> Exchange:
    transport = HttpTransport(coordinator.client, coordinator.tokens["coordinator"])
    return Exchange(transport, COORDINATOR)


def files_of(coordinator: Coordinator) -> list[Path]:
    folder = Path(coordinator.store.bodies.url)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_large_message_is_a_file_that_only_its_owner_reads(
    running: Coordinator, tmp_path: Path
) -> None:
    assert put(running, 2, LARGE).status_code == 201
    (file,) = files_of(running)
    assert file.read_bytes() == LARGE
    assert file.parent == tmp_path / "coordinator" / "exchange" / "1"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for folder in (file.parent, file.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    store = tmp_path / "coordinator" / "store.sqlite"
    assert LARGE[:4096] not in store.read_bytes()
    assert running.store.messages.held(1)[2] == len(LARGE)
    assert exchange_of(running).get(GRADIENT, 2) == LARGE


def test_the_same_bytes_again_leave_one_file_and_others_none(
    running: Coordinator,
) -> None:
    assert put(running, 2, LARGE).status_code == 201
    before = files_of(running)
    assert put(running, 2, LARGE).status_code == 200
    answer = put(running, 2, LARGE[::-1])
    assert answer.status_code == 409
    assert answer.json()["data"]["error"]["code"] == "put_twice"
    assert files_of(running) == before
    assert running.store.messages.held(1)[2] == len(LARGE)


def test_several_addresses_are_dropped_in_one_call(running: Coordinator) -> None:
    """By the coordinator's flow alone, of its order alone, and all that is named."""
    later = replace(GRADIENT, round=GRADIENT.round + 1)
    for address in (GRADIENT, later):
        for user in HOSPITALS:
            path = f"{address.path}/{user}/1"
            sent = running.call("PUT", path, f"agent-{user}", content=b"part")
            assert sent.status_code == 201, sent.text
    named = [
        {
            "topic": address.topic,
            "fold": address.fold,
            "round": address.round,
            "attempt": address.attempt,
            "recipient": COORDINATOR,
        }
        for address in (GRADIENT, later)
    ]
    path, body = "/exchange/1/discard", {"used": named}
    assert running.call("POST", path, "agent-2", json=body).status_code == 403
    elsewhere = running.call("POST", "/exchange/2/discard", "coordinator", json=body)
    assert elsewhere.status_code == 204, elsewhere.text
    assert len(running.store.messages.find(GRADIENT, HOSPITALS, COORDINATOR)) == 3
    assert running.call("POST", path, "coordinator", json=body).status_code == 204
    for address in (GRADIENT, later):
        assert running.store.messages.find(address, HOSPITALS, COORDINATOR) == {}
    # Again is fine; the same bytes come back as used, other bytes as a conflict.
    assert running.call("POST", path, "coordinator", json=body).status_code == 204
    again = running.call("PUT", f"{later.path}/2/1", "agent-2", content=b"part")
    assert again.status_code == 200
    named[0]["round"] = -1
    refused = running.call("POST", path, "coordinator", json=body)
    assert refused.status_code == 422
    assert "round" in refused.text


def test_a_small_message_is_no_file(running: Coordinator) -> None:
    assert put(running, 2, LARGE[:LARGE_BYTES]).status_code == 201
    assert files_of(running) == []
    assert exchange_of(running).get(GRADIENT, 2) == LARGE[:LARGE_BYTES]


def test_what_is_too_large_leaves_nothing(running: Coordinator) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield LARGE

    # In pieces it does not say how large it is.
    answer = running.call("PUT", f"{PATH}/2/1", "agent-2", content=pieces())
    assert answer.status_code == 413
    assert answer.json()["data"]["error"]["code"] == "message_size"
    assert files_of(running) == []
    assert running.store.messages.held(1).get(2) is None
    assert put(running, 2, LARGE).status_code == 201


def test_files_go_when_they_are_used_and_with_their_order(running: Coordinator) -> None:
    for user in HOSPITALS:
        assert put(running, user, LARGE).status_code == 201
    assert len(files_of(running)) == 3
    exchange_of(running).discard(1, Used(GRADIENT, COORDINATOR))
    assert files_of(running) == []
    # Used is used: the same bytes are fine, and are not kept again.
    assert put(running, 2, LARGE).status_code == 200
    assert files_of(running) == []
    second = running.call("PUT", f"{PATH[:-1]}0/2/0", "agent-2", content=LARGE)
    assert second.status_code == 201, second.text
    assert len(files_of(running)) == 1
    assert running.call("POST", "/orders/1/cancel").status_code == 200
    assert files_of(running) == []
    assert not (Path(running.store.bodies.url) / "1").exists()


def test_parts_are_read_one_by_one_as_they_come(running: Coordinator) -> None:
    arrived: list[int] = []
    went_on = {user: threading.Event() for user in HOSPITALS}

    def read() -> None:
        for sender, body in exchange_of(running).each(GRADIENT, HOSPITALS):
            assert body == LARGE
            arrived.append(sender)
            went_on[sender].set()

    reader = threading.Thread(target=read)
    reader.start()
    for user in (4, 2, 3):
        assert put(running, user, LARGE).status_code == 201
        # It is read while the others have not come.
        assert went_on[user].wait(20)
    reader.join(20)
    assert arrived == [4, 2, 3]


def test_small_parts_are_answered_together(running: Coordinator) -> None:
    for user in (2, 3):
        put(running, user, b"small")
    query = f"{PATH}?senders=2,3,4&recipient=1&some=true&wait=0"
    assert running.call("GET", query, "coordinator").status_code == 204
    put(running, 4, b"small")
    found = dict(exchange_of(running).each(GRADIENT, HOSPITALS))
    assert found == dict.fromkeys(HOSPITALS, b"small")


# A disk that fails


def cut_short(file: Path) -> None:
    os.truncate(file, len(LARGE) - 1)


def altered(file: Path) -> None:
    with file.open("r+b") as content:
        content.seek(len(LARGE) // 2)
        content.write(b"\xff\x00\xff")


@pytest.mark.parametrize("damage", [cut_short, altered, Path.unlink])
def test_a_damaged_file_ends_the_order_by_the_name_of_no_hospital(
    running: Coordinator, damage: Any
) -> None:
    for user in HOSPITALS:
        put(running, user, LARGE)
    damage(files_of(running)[0])
    with pytest.raises(OrderStopped) as caught:
        list(exchange_of(running).each(GRADIENT, HOSPITALS))
    assert "the coordinator's own disk" in caught.value.sentence
    order = running.store.orders.get(1)
    assert order.state == "failed"
    assert order.stop is not None
    assert order.stop["code"] == "message_damaged"
    assert "user_id" not in order.stop["detail"]
    for name in ("suzhou", "zhejiang", "shanxi"):
        assert name not in order.stop["sentence"]
    assert files_of(running) == []


def write(bodies: Bodies) -> Body:
    with bodies.writing(1) as writer:
        writer.take(LARGE)
        body = writer.finish()
        writer.keep()
    return body


def test_a_full_disk_keeps_no_part_of_a_message(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as disk:
        bodies = Bodies(str(disk.folder / "exchange"), Disk(disk.folder, 1))
        disk.fill()
        with pytest.raises(Unavailable) as caught:
            write(bodies)
        assert caught.value.code == "disk"
        disk.empty()
        body = write(bodies)
        assert bodies.read(body) == LARGE
        assert len(list((disk.folder / "exchange" / "1").iterdir())) == 1


# A coordinator that is killed

DYING = """
import os, sys
from api.store import Store
from protocol.exchange import Address
from protocol.messages import COORDINATOR

store = Store(sys.argv[1])
with store.bodies.writing(1) as writer:
    writer.take(bytes(3 * 2**20))
    body = writer.finish()
    if sys.argv[2] == "before the row":
        os._exit(9)
    store.messages.put(Address(1, "gradient"), 2, COORDINATOR, body)
    os._exit(9)
"""


def open_store(tmp_path: Path) -> Store:
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    store.migrate()
    store.orders.add(kind="train", initiator=2, hospital_ids=HOSPITALS, body={})
    return store


@pytest.mark.parametrize("moment", ["before the row", "after the row"])
def test_a_kill_leaves_a_whole_message_or_a_file_that_the_next_start_removes(
    tmp_path: Path, moment: str
) -> None:
    store = open_store(tmp_path)
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    died = subprocess.run(
        [sys.executable, "-c", DYING, url, moment], cwd=ROOT, check=False
    )
    assert died.returncode == 9
    (file,) = (tmp_path / "exchange" / "1").iterdir()
    # One that changed a moment ago may be coming in, in another process.
    an_hour_ago = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1)
    assert store.clean_up_bodies(an_hour_ago) == 0
    assert file.exists()
    if moment == "before the row":
        assert store.clean_up_bodies(FAR_AHEAD) == 1
        assert not file.exists()
        return
    assert store.clean_up_bodies(FAR_AHEAD) == 0
    found = store.messages.gather(GRADIENT, [2], COORDINATOR)
    assert found == {2: bytes(3 * 2**20)}


def test_a_coordinator_that_starts_removes_old_files_of_no_message(
    tmp_path: Path,
) -> None:
    with serve(settings_in(tmp_path)) as coordinator:
        coordinator.call("POST", "/model/train", json=large_order())
        tokens = coordinator.tokens
    folder = tmp_path / "coordinator" / "exchange"
    old = time.time() - 7200
    for run in ("1", "77"):
        (folder / run).mkdir(parents=True)
        (folder / run / "orphan").write_bytes(b"x")
        os.utime(folder / run / "orphan", (old, old))
    (folder / "1" / "young").write_bytes(b"x")
    with serve(settings_in(tmp_path), tokens) as coordinator:
        deadline = time.monotonic() + 20
        while (folder / "1" / "orphan").exists() and time.monotonic() < deadline:
            assert coordinator.call("GET", "/health").status_code < 600
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*/*"))
    # Of an order that the store does not know, nothing is removed: it may be the wrong
    # store.
    assert left == ["1/young", "77/orphan"]


def test_what_was_put_elsewhere_is_found_damaged(tmp_path: Path) -> None:
    bodies = Bodies(str(tmp_path / "exchange"))
    body = Body(3 * LARGE_BYTES, "0" * 64, file="1/nowhere")
    with pytest.raises(DamagedBody):
        bodies.read(body)


def test_another_file_system_than_this_disk_serves(tmp_path: Path) -> None:
    """fsspec's own, in memory: what an object store is asked for is the same."""
    store = Store(
        f"sqlite:///{tmp_path / 'store.sqlite'}",
        exchange_url="memory://bucket/exchange",
    )
    store.migrate()
    store.orders.add(kind="train", initiator=2, hospital_ids=HOSPITALS, body={})
    with store.bodies.writing(1) as writer:
        writer.take(LARGE)
        store.messages.put(GRADIENT, 2, COORDINATOR, writer.finish())
        writer.keep()
    assert store.messages.gather(GRADIENT, [2], COORDINATOR) == {2: LARGE}
    assert store.clean_up_bodies(FAR_AHEAD) == 0
    with store.bodies.writing(1) as writer:
        writer.take(LARGE)
        name = writer.finish().file
        writer.keep()  # as a crash leaves it
    assert store.clean_up_bodies(FAR_AHEAD) == 1
    assert store.messages.files(1) != {name}
    store.orders.end(1, "cancelled")
    assert store.bodies._files.find("/bucket/exchange") == []
    assert {path.name[:12] for path in tmp_path.iterdir()} == {"store.sqlite"}


@pytest.mark.parametrize("url", ["nowhere://x", "s3://bucket/folder"])
def test_an_address_that_cannot_be_used_is_named(url: str) -> None:
    """The second's package is not installed."""
    with pytest.raises(BadRequest) as caught:
        Bodies(url)
    assert caught.value.code == "CONSILIUM_EXCHANGE_URL"
    assert caught.value.remedy
