"""The coordinator's end of one order, of any kind: what it reads of the hospitals'
messages, and what it has sent.

It holds no key that opens anything. `tasks.coordinator.training` and
`tasks.coordinator.statistics` have the steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from protocol.errors import sent_by
from protocol.exchange import Address, Exchange
from protocol.messages import COORDINATOR, EVERYONE, Acceptance, peek_envelope
from protocol.start_window import PartyDocument, check_named
from protocol.statistics_request import StatisticsRequest
from protocol.training_request import TrainingRequest

T = TypeVar("T")
R = TypeVar("R", TrainingRequest, StatisticsRequest)

Record = dict[str, Any]
"""What the work has left of a round or a stage, as the API keeps it too."""

Show = Callable[[Record], None]
"""Takes the record of what has just been done, for who watches."""


@dataclass
class CoordinatedOrder:
    """One order, and the coordinator's end of the exchange."""

    order_id: int
    exchange: Exchange
    # The number in which all messages of the order are written.
    protocol: int
    # By hospital, once all have accepted.
    n_rows: dict[int, int] = field(default_factory=dict, kw_only=True)

    def peek(
        self,
        kind: str,
        senders: Iterable[int],
        *,
        recipient: int = COORDINATOR,
        fold: int = 0,
        round: int = 0,
    ) -> dict[int, bytes]:
        """The clear bodies of what these hospitals have sent; waits for them.

        They have sent it to the coordinator, or to everyone.
        """
        address = Address(self.order_id, kind, fold, round)
        envelopes = self.exchange.gather(address, senders, recipient)
        bodies = {}
        for sender, envelope in envelopes.items():
            # An envelope names its place: one moved to another place is refused.
            with sent_by(sender):
                bodies[sender] = peek_envelope(
                    envelope,
                    kind=kind,
                    sender=sender,
                    fold=fold,
                    round=round,
                    protocol=self.protocol,
                )
        return bodies

    def read(
        self,
        kind: str,
        senders: Iterable[int],
        decode: Callable[[bytes], T],
        *,
        recipient: int = COORDINATOR,
        fold: int = 0,
        round: int = 0,
    ) -> dict[int, T]:
        """What these hospitals have sent, as `decode` reads it; waits for them.

        A message that cannot be read ends the order by the name of its sender.
        """
        bodies = self.peek(kind, senders, recipient=recipient, fold=fold, round=round)
        messages = {}
        for sender, body in bodies.items():
            with sent_by(sender):
                messages[sender] = decode(body)
        return messages

    def read_party(self, request: R) -> R:
        """The order among those who take part: all, or those that its initiator has
        named, for whose word it waits.

        Whom they are is kept in the store. Raises ProtocolViolation by the initiator's
        name for a party that the order cannot have.
        """
        if request.start_within_seconds is None:
            return request
        initiator = request.initiator
        documents = self.read(
            "party", [initiator], PartyDocument.decode, recipient=EVERYONE
        )
        named = documents[initiator].hospitals
        with sent_by(initiator):
            check_named(named, request, asked=request.hospitals, initiator=initiator)
        self.record(party=named)
        return request.among(named)

    def read_each(
        self,
        kind: str,
        senders: Iterable[int],
        decode: Callable[[bytes], T],
        *,
        fold: int = 0,
        round: int = 0,
    ) -> Iterator[tuple[int, T]]:
        """As `read`, but one after another as they come: who adds them up and lets go
        of each has no more than one large one in memory.
        """
        address = Address(self.order_id, kind, fold, round)
        # No name here holds on to one while the next comes.
        for sender, envelope in self.exchange.each(address, senders, COORDINATOR):
            with sent_by(sender):
                body = peek_envelope(
                    envelope,
                    kind=kind,
                    sender=sender,
                    fold=fold,
                    round=round,
                    protocol=self.protocol,
                )
                del envelope
                message = decode(body)
            del body
            yield sender, message
            del message

    def read_acceptances(self, hospitals: list[int]) -> dict[int, Acceptance]:
        """Waits until every hospital has verified the order and counted its rows.

        The row counts stay in `n_rows`.
        """
        acceptances = self.read(
            "acceptance", hospitals, Acceptance.decode, recipient=EVERYONE
        )
        # Only once all can be read: a bad one leaves nothing of the others behind.
        for user_id, acceptance in acceptances.items():
            self.n_rows[user_id] = acceptance.n_rows
        return acceptances

    def record(self, **facts: Any) -> None:
        """Keeps facts of the order in the coordinator's store, for the API."""
        self.exchange.record(self.order_id, **facts)

    def report_running(self) -> None:
        """All is agreed on: whoever asks sees the order running, and of how many rows."""
        n_rows = {str(user_id): row_count for user_id, row_count in self.n_rows.items()}
        self.record(state="running", n_rows=n_rows)

    def sent_before(self, address: Address, recipient: int) -> bytes | None:
        """What an earlier process of this run has put there; None if none has.

        It stands: other bytes under the same name would be refused, and who has read it
        goes by it (decision 14).
        """
        return sent_by_coordinator(self.exchange, address, recipient)


def sent_by_coordinator(
    exchange: Exchange, address: Address, recipient: int
) -> bytes | None:
    """What the coordinator has put at an address already; None if nothing."""
    look = functools.partial(
        exchange.transport.gather, address, (COORDINATOR,), recipient, wait_seconds=0
    )
    messages = exchange.insist(look)
    if messages is None:
        return None
    return messages[COORDINATOR]


def read_document(order_id: int, exchange: Exchange) -> str:
    """The order's document, as the coordinator's API has put it."""
    address = Address(order_id, "document")
    return exchange.get(address, COORDINATOR, EVERYONE).decode()
