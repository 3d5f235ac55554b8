"""Who takes part in an order that starts with who is there: named by the initiator's
agent, verified by every other one, and final.

`open_window` comes before a row is read, `agree_on_party` after this hospital has
accepted. Both do nothing in an order that waits for all. A hospital that is not named
is late: it says so in its ledger, forgets what it has of the order, and its run ends;
nothing of its rows has left but the row count in its acceptance.

A hospital that is named cannot tell whether another one was slow, or its acceptance
held back by the coordinator (SECURITY.md).

Decisions 134 and 135.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping
from typing import NoReturn, Protocol, Self

from agents.order.release import Release
from agents.site.vault import OrderVault, Vault
from protocol.errors import OrderStopped, Refused
from protocol.exchange import Address, Exchange
from protocol.messages import EVERYONE, Header, SignedOrder, read_envelope
from protocol.start_window import (
    LATE,
    PartyDocument,
    check_named,
    digest_of,
    too_few,
)

_WINDOW, _PARTY, _LATE = "window", "party", "late"
"""In the order's vault: when its time began, the document, and that this is written."""


class Request(Protocol):
    """What an order says, as far as who takes part goes."""

    @property
    def initiator(self) -> int: ...

    @property
    def hospitals(self) -> list[int]: ...

    @property
    def purpose(self) -> str: ...

    @property
    def start_within_seconds(self) -> float | None: ...

    @property
    def at_least(self) -> int | None: ...

    def among(self, hospitals: Collection[int]) -> Self:
        """The same order as if these of its hospitals alone had been asked."""


class VerifiedOrder(Protocol):
    """`agents.order.party.VerifiedOrder`, as far as it is needed here."""

    @property
    def me(self) -> int: ...

    @property
    def order_id(self) -> int: ...

    @property
    def is_initiator(self) -> bool: ...

    @property
    def request(self) -> Request: ...

    @property
    def signed(self) -> SignedOrder: ...

    @property
    def protocol(self) -> int: ...

    @property
    def store(self) -> OrderVault: ...

    @property
    def vault(self) -> Vault: ...

    @property
    def exchange(self) -> Exchange: ...

    @property
    def release(self) -> Release: ...


def open_window(order: VerifiedOrder) -> None:
    """To be called when the order is verified and approved here, before a row is read.

    At the initiator the order's time begins. Anywhere else OrderStopped (code late)
    where the party has been named without this hospital.
    """
    if order.request.start_within_seconds is None:
        return
    if order.is_initiator:
        _began(order)
        return
    # Looked for once and not waited for: as a rule no party is named yet.
    named = order.exchange.gather_within(
        _address(order), (order.request.initiator,), EVERYONE, seconds_left=lambda: 0
    )
    for envelope in named.values():
        _verified(order, envelope)


def agree_on_party(order: VerifiedOrder) -> PartyDocument | None:
    """Who takes part; None in an order that waits for all. This hospital has accepted.

    The initiator's agent waits until all have, or its time is over, and signs. Raises
    Conflict (code too_few_accepted) there, ProtocolViolation for a document that the
    order cannot have, Refused (code party_altered) for a second one, and OrderStopped
    (code late) at a hospital that is not named.

    Disclosure: to the order's parties and the coordinator, who has accepted in time.
    """
    if order.request.start_within_seconds is None:
        return None
    if order.is_initiator:
        _name_party(order)
    envelope = order.exchange.get(_address(order), order.request.initiator, EVERYONE)
    return _verified(order, envelope)


def _address(order: VerifiedOrder) -> Address:
    return Address(order.order_id, "party")


def _header(order: VerifiedOrder, kind: str, sender: int) -> Header:
    """Of what everybody reads before there are keys."""
    return Header(
        kind,
        sender,
        EVERYONE,
        context=order.signed.digest,
        protocol=order.protocol,
    )


# At the initiator


def _name_party(order: VerifiedOrder) -> None:
    """Signs who has accepted. Once: after a crash the same document is sent again."""
    seconds_left = _seconds_left(order)

    def make() -> bytes:
        accepted = order.exchange.gather_within(
            Address(order.order_id, "acceptance"),
            order.request.hospitals,
            EVERYONE,
            seconds_left=seconds_left,
        )
        return _document(order, accepted).encode()

    header = _header(order, "party", order.me)
    order.release.send(header, make, address=_address(order))


def _document(order: VerifiedOrder, accepted: Mapping[int, bytes]) -> PartyDocument:
    request = order.request
    digests = {}
    for user_id, envelope in accepted.items():
        header = _header(order, "acceptance", user_id)
        # Whose signature it has is verified by all, this hospital too, when it is read.
        digests[user_id] = digest_of(read_envelope(envelope, header, None))
    document = PartyDocument(order.signed.digest, digests)
    if len(digests) < (request.at_least or 0):
        raise too_few(document.hospitals, request.hospitals, request)
    # Raises where they could not do without one of the others.
    request.among(document.hospitals)
    return document


def _began(order: VerifiedOrder) -> tuple[float, float]:
    """When the order's time began here: by the wall's clock and by the steady one."""

    def now() -> bytes:
        return json.dumps([time.time(), time.monotonic()]).encode()

    wall, steady = json.loads(order.store.once(_WINDOW, now))
    return wall, steady


def _seconds_left(order: VerifiedOrder) -> Callable[[], float]:
    """Of the order's time, by the steady clock of this process.

    For what passed before it, the clock that says more counts: the steady one begins
    anew with the machine, and the wall's may have been put back. So no restart gives an
    order its time again.
    """
    wall, steady = _began(order)
    passed = max(time.time() - wall, time.monotonic() - steady, 0.0)
    deadline = time.monotonic() + (order.request.start_within_seconds or 0) - passed
    return lambda: deadline - time.monotonic()


# At every hospital


def _verified(order: VerifiedOrder, envelope: bytes) -> PartyDocument:
    """The document, signed by the initiator's pinned key, that names this hospital."""
    header = _header(order, "party", order.request.initiator)
    payload = read_envelope(envelope, header, order.signed.identity)
    document = PartyDocument.decode(payload)
    if document.order_digest != order.signed.digest:
        raise Refused(
            "The party that arrived is of another order than this one.",
            remedy="Send the order again; if this repeats, the coordinator shows the hospitals different orders.",
            code="order_altered",
        )
    request = order.request
    # Before it is kept: a party that the order cannot have would else stand here for
    # good, and the true one would be refused.
    check_named(
        document.hospitals,
        request,
        asked=request.hospitals,
        initiator=request.initiator,
    )
    # The first one stands, whatever the coordinator shows later: of two parties of one
    # order, the difference would be what one hospital has.
    if order.store.once(_PARTY, lambda: payload) != payload:
        raise Refused(
            "The order has been given another party than the one that this hospital knows.",
            remedy="Send the order again; if this repeats, its initiator signs two parties for one order.",
            code="party_altered",
        )
    if order.me not in document.acceptances:
        _end_late(order)
    return document


def _end_late(order: VerifiedOrder) -> NoReturn:
    """The order goes on without this hospital, which keeps nothing of it but that."""

    def write() -> bytes:
        order.release.ledger.write(
            "late",
            order_id=order.order_id,
            initiator=order.request.initiator,
            purpose=order.request.purpose,
        )
        return b"written"

    # The line first, and once: a crash before the mark below leads here again.
    order.store.once(_LATE, write)
    order.vault.end_order(order.order_id, LATE)
    raise OrderStopped(
        f"Order {order.order_id} began without this hospital, which had not accepted it in time.",
        remedy="Nothing of it is kept here. Whoever sent it can send it again, with more start_within_seconds.",
        code="late",
    )


def check_acceptance(document: PartyDocument, user_id: int, acceptance: bytes) -> None:
    """Refused (code order_altered) where a hospital's acceptance, as it was signed, is
    not the one that the document names.
    """
    if document.acceptances[user_id] != digest_of(acceptance):
        raise Refused(
            f"Hospital {user_id}'s acceptance is not the one that the order's initiator has named.",
            remedy="Send the order again; if this repeats, the coordinator shows the hospitals different acceptances.",
            code="order_altered",
        )
