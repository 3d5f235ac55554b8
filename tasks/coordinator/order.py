"""The coordinator's end of one order, of any kind: what it reads of the hospitals' messages, and what it has sent.

It holds no key that opens anything. `tasks.coordinator.training` and `tasks.coordinator.statistics` have the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from protocol.exchange import Address, Exchange
from protocol.messages import COORDINATOR, EVERYONE, Acceptance, peek_envelope

Show = Callable[[dict[str, Any]], None]
"""Takes the record of what has just been done, for who watches."""


@dataclass
class CoordinatedOrder:
    """One order, and the coordinator's end of the exchange."""

    order_id: int
    exchange: Exchange
    n_rows: dict[int, int] = field(default_factory=dict, kw_only=True)  # by hospital, once all have accepted

    def peek(
        self,
        kind: str,
        senders: Iterable[int],
        *,
        recipient: int = COORDINATOR,
        fold: int = 0,
        round: int = 0,
    ) -> dict[int, bytes]:
        """The clear bodies of what these hospitals have sent, to the coordinator or to everyone; waits for them."""
        address = Address(self.order_id, kind, fold, round)
        envelopes = self.exchange.gather(address, senders, recipient)
        bodies = {}
        for sender, envelope in envelopes.items():
            bodies[sender] = peek_envelope(envelope, kind=kind, sender=sender, fold=fold, round=round)
        return bodies

    def read_acceptances(self, hospitals: list[int]) -> dict[int, Acceptance]:
        """Waits until every hospital has verified the order and counted its rows; the row counts stay in `n_rows`."""
        bodies = self.peek("acceptance", hospitals, recipient=EVERYONE)
        acceptances = {user: Acceptance.decode(body) for user, body in bodies.items()}
        for user, acceptance in acceptances.items():
            self.n_rows[user] = acceptance.n_rows
        return acceptances

    def record(self, **facts: Any) -> None:
        """Keeps facts of the order in the coordinator's store, where the API finds them."""
        self.exchange.record(self.order_id, **facts)

    def report_running(self) -> None:
        """All is agreed on: whoever asks sees the order running, and of how many rows."""
        n_rows = {str(user): count for user, count in self.n_rows.items()}
        self.record(state="running", n_rows=n_rows)

    def sent_before(self, address: Address, recipient: int) -> bytes | None:
        """What an earlier process of this run has put there; None if none has.

        It stands: other bytes under the same name would be refused, and who has read it goes by it (decision 14).
        """
        transport = self.exchange.transport
        found = self.exchange.insist(
            lambda: transport.gather(address, (COORDINATOR,), recipient, wait_seconds=0)
        )
        return None if found is None else found[COORDINATOR]


def read_document(order_id: int, exchange: Exchange) -> str:
    """The order's document, as the coordinator's API has put it."""
    return exchange.get(Address(order_id, "document"), COORDINATOR, EVERYONE).decode()
