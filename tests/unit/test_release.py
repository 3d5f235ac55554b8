"""The one door: what may not leave does not, and what leaves stands in the ledger first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.order.release import Release
from agents.site.ledger import Ledger
from agents.site.vault import OrderVault
from protocol.errors import Refused
from protocol.exchange import Address, Exchange
from protocol.memory_transport import MemoryTransport
from protocol.messages import CLEAR, COORDINATOR, EVERYONE, Header
from protocol.policy import Policy
from protocol.sealing import Identity

PAYLOAD = b"the part of a sum"
ADDRESS = Address(1, "gradient")


class WatchedTransport(MemoryTransport):
    """Looks at something whenever a message is put."""

    def __init__(self, look: Callable[[], Any]) -> None:
        super().__init__()
        self.look = look
        self.seen: list[Any] = []

    def put(self, address: Address, sender: int, recipient: int, body: bytes) -> None:
        self.seen.append(self.look())
        super().put(address, sender, recipient, body)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl")


@pytest.fixture
def transport(ledger: Ledger) -> WatchedTransport:
    return WatchedTransport(lambda: [entry["kind"] for entry in ledger.entries()])


@pytest.fixture
def release(tmp_path: Path, ledger: Ledger, transport: WatchedTransport) -> Release:
    orders = {
        "initiators": [2],
        "methods": ["Mask"],
        "model_types": ["lr"],
        "min_hospitals": 3,
        "sign": True,
    }
    tables = {"data.rows": {"columns": ["*"]}}
    return Release(
        order_id=1,
        identity=Identity.generate(),
        ledger=ledger,
        vault=OrderVault(tmp_path / "order"),
        exchange=Exchange(transport, 2),
        policy=Policy.model_validate({"orders": orders, "tables": tables}),
    )


def send(release: Release, header: Header, address: Address = ADDRESS) -> None:
    release.send(header, lambda: PAYLOAD, address=address)


def test_the_ledger_has_a_message_before_the_exchange_has(
    release: Release, transport: WatchedTransport
) -> None:
    send(release, Header("gradient", 2, COORDINATOR))
    assert transport.seen == [["gradient"]]
    (envelope,) = transport.traffic
    assert PAYLOAD in envelope


def test_what_the_ledger_cannot_write_does_not_leave(
    release: Release, transport: WatchedTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is in the outbox either, from where a restart would send it."""

    def full(*_args: Any, **_facts: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", full)
        with pytest.raises(OSError, match="No space"):
            send(release, Header("gradient", 2, COORDINATOR))
    assert transport.traffic == []
    assert list(release.vault.outbox.iterdir()) == []
    # When there is room again it leaves.
    send(release, Header("gradient", 2, COORDINATOR))
    assert len(transport.traffic) == 1


def test_a_kind_that_is_not_listed_does_not_leave(
    release: Release, transport: WatchedTransport
) -> None:
    for seal in (CLEAR, 1, 2):
        with pytest.raises(Refused) as caught:
            send(release, Header("rows", 2, COORDINATOR, seal=seal))
        assert caught.value.code == "release"
    assert transport.traffic == []


@pytest.mark.parametrize("kind", ["weights", "opening-gradient", "setup", "unmask"])
def test_what_is_for_hospitals_does_not_leave_in_clear(
    release: Release, transport: WatchedTransport, kind: str
) -> None:
    with pytest.raises(Refused) as caught:
        send(release, Header(kind, 2, EVERYONE, seal=CLEAR), Address(1, kind))
    assert caught.value.code == "release"
    assert transport.traffic == []
