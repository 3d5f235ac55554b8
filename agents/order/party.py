"""One hospital in one order: how far the order is, and the messages of its session.

How far an order is stands in its type. A function says by its parameter which of them
it needs:

    Hospital         this hospital, of which something is asked: settings, policy, vault
    AskedOrder       what an order asks of it, not verified, and perhaps never sent
    Party            nothing of the order is known yet: also the exchange, and the door
    VerifiedOrder    what the order asks for, after document, SQL, policy and signature have been checked
    AgreedOrder      every hospital has counted its rows and accepted; there are keys to send and receive with

`agents.order.verifying` makes the verified order, `agents.order.key_agreement` the
agreed one. `agents.training.party` and `agents.statistics.party` have both for their
kind, and read them next. All of it may be run again after a crash: what was made is kept
in the vault and found there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from agents.order.release import Release
from agents.order.starting import Request
from agents.site.ledger import Ledger
from agents.site.policy import load_policy
from agents.site.settings import SiteSettings
from agents.site.vault import OrderVault, Vault, VaultToRead
from protocol.exchange import Address, Exchange, Transport
from protocol.messages import (
    COORDINATOR,
    EVERYONE,
    KINDS,
    Acceptance,
    Header,
    PooledThresholds,
    SignedOrder,
    members_digest,
    read_envelope,
)
from protocol.policy import Policy
from protocol.sealing import Identity, Session
from protocol.versions import SPOKEN, Window

UNSENT = -1
"""The number of an order that has not been sent: they count from 1."""


@dataclass(frozen=True)
class Hospital:
    """This hospital, of which something is asked."""

    settings: SiteSettings
    policy: Policy  # as it was when this process began with the order
    vault: Vault

    @property
    def me(self) -> int:
        return self.settings.user_id


@dataclass(frozen=True)
class AskedOrder(Hospital):
    """What an order asks of this hospital: all that its gate looks at, of an order that
    was sent and of one that is only checked (`agents.check`).
    """

    order_id: int  # or UNSENT
    request: Request
    # What is read here, by purpose; empty at a hospital that only receives.
    sql: Mapping[str, str]

    @property
    def is_initiator(self) -> bool:
        return self.me == self.request.initiator


@dataclass(frozen=True)
class Party(Hospital):
    """This hospital in an order of which nothing has been read yet."""

    order_id: int
    store: OrderVault  # the order's own part of the vault
    identity: Identity
    exchange: Exchange
    release: Release  # the one door by which messages leave
    speaks: Window  # the protocol numbers that this hospital takes


@dataclass(frozen=True)
class VerifiedOrder(Party, AskedOrder):
    """An order that this hospital may take part in: its rows may be read."""

    request: Request
    signed: SignedOrder
    protocol: int  # the number in which all messages of the order are written

    def among(self, hospitals: Collection[int]) -> Self:
        """The order as if these of its hospitals alone had been asked."""
        return replace(self, request=self.request.among(hospitals))

    def terms(self) -> dict[str, Any]:
        """All that the order says, for a person here who decides on it.

        kind, initiator, parties, receivers, purpose, data (what is read here, as it
        will be read), columns, method, scoring, and `details` of its kind.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class AgreedOrder(VerifiedOrder):
    """An order that all of its hospitals have accepted: messages can be sealed and
    opened. Of one that starts with who is there, `request` is the order among these.
    """

    session: Session
    acceptances: dict[int, Acceptance]  # of each hospital
    n_rows: dict[int, int]  # of each hospital, as it has accepted
    # Of those that let a training order's thresholds be on the sum of all.
    pooled: dict[int, PooledThresholds]
    public_key: bytes  # what the coordinator adds with; empty where sums need no key
    # Who was asked and had not accepted in time.
    absent: tuple[int, ...] = field(default=(), kw_only=True)

    def mask_seed(self, members: Sequence[int]) -> bytes | None:
        """Of the graph of masks in a sum over `members`, whom the signed order names;
        None for complete masks, unless each member's policy lets them be sparse.

        All derive the same from the acceptances. Never for members that somebody chose
        after these: who knows the graph could choose them by it (decision 136).
        """
        for member in members:
            if not self.acceptances[member].sparse_masks:
                return None
        return self.session.context


def open_party(
    settings: SiteSettings,
    order_id: int,
    transport: Transport,
    *,
    release_speaks: Window = SPOKEN,
) -> Party:
    """This site in an order; nothing has been asked or answered yet.

    Refused without a policy that can be read. The policy may ask for a newer protocol
    than the oldest that the release speaks.
    """
    vault = Vault(settings.vault)
    identity = vault.identity()
    store = vault.order(order_id)
    exchange = Exchange(transport, settings.user_id)
    policy = load_policy(settings.policy)
    release = Release(
        order_id, identity, Ledger(settings.ledger), store, exchange, policy
    )
    return Party(
        settings=settings,
        policy=policy,
        vault=vault,
        order_id=order_id,
        store=store,
        identity=identity,
        exchange=exchange,
        release=release,
        speaks=policy.speaks(release_speaks),
    )


def hospital_to_read(settings: SiteSettings) -> Hospital:
    """This site for who only looks: nothing is made or written. Refused as `open_party`."""
    return Hospital(settings, load_policy(settings.policy), VaultToRead(settings.vault))


def begin(order: AgreedOrder) -> None:
    """The initiator sends the coordinator the key to add with: the order is running."""
    if order.is_initiator:
        send(order, "public_key", lambda: order.public_key, recipient=COORDINATOR)


def note_opened(
    order: AgreedOrder,
    totals: Sequence[str],
    *,
    receivers: Sequence[str],
    what: str = "opens",
) -> None:
    """Writes into the ledger what of this hospital's rows will be opened, and by whom.

    To be called when the totals are agreed, before anything of them leaves; a second
    call for the order and `what`, after a crash, writes nothing (decision 72).
    """

    def write() -> bytes:
        order.release.ledger.write(
            "opens",
            order_id=order.order_id,
            totals=list(totals),
            receivers=list(receivers),
        )
        return b"written"

    order.store.once(what, write)


def end(order: AgreedOrder) -> None:
    """The order has ended here with success: its keys and rows are forgotten."""
    # The line before the mark: a crash between them has the line written once more, and
    # no order is over of which the ledger does not say so.
    order.release.ledger.write("finished", order_id=order.order_id)
    order.vault.end_order(order.order_id, "success")


# Messages within the session


def header_of(
    order: AgreedOrder,
    kind: str,
    sender: int,
    recipient: int,
    *,
    fold: int = 0,
    round: int = 0,
) -> Header:
    """What a message of this run must say of itself."""
    return Header(
        kind,
        sender,
        recipient,
        context=order.session.context,
        fold=fold,
        round=round,
        members=members_digest(order.session.members),
        seal=KINDS[kind],
        protocol=order.protocol,
    )


def send(
    order: AgreedOrder,
    kind: str,
    make: Callable[[], bytes],
    *,
    recipient: int,
    fold: int = 0,
    round: int = 0,
    with_next: bool = False,
) -> None:
    """One message through the release door; `with_next` where nobody waits for it
    before the one after it.
    """
    header = header_of(order, kind, order.me, recipient, fold=fold, round=round)
    address = Address(order.order_id, kind, fold, round)
    order.release.send(
        header, make, address=address, session=order.session, with_next=with_next
    )


def receive(
    order: AgreedOrder,
    kind: str,
    sender: int,
    recipient: int,
    *,
    fold: int = 0,
    round: int = 0,
    along: str | None = None,
) -> bytes:
    """One party's message, verified and opened; `along` as `Exchange.gather` has it."""
    bodies = receive_all(
        order, kind, (sender,), recipient, fold=fold, round=round, along=along
    )
    return bodies[sender]


def receive_all(
    order: AgreedOrder,
    kind: str,
    senders: Iterable[int],
    recipient: int,
    *,
    fold: int = 0,
    round: int = 0,
    along: str | None = None,
) -> dict[int, bytes]:
    """Several parties' messages of one kind, verified by the pinned keys and opened."""
    address = Address(order.order_id, kind, fold, round)
    envelopes = order.exchange.gather(address, senders, recipient, along=along)
    bodies = {}
    for sender, envelope in envelopes.items():
        expected = header_of(order, kind, sender, recipient, fold=fold, round=round)
        sender_identity = order.session.identities[sender]
        bodies[sender] = read_envelope(
            envelope, expected, sender_identity, session=order.session
        )
    return bodies


def say_to_all(
    order: AgreedOrder, kind: str, make: Callable[[], bytes]
) -> dict[int, bytes]:
    """Sends what this hospital says to all parties of the order, and gives what each of
    them says, by hospital, this one among them.

    Raises as `receive_all`. Disclosure: the message, to the other parties, sealed.
    """
    send(order, kind, make, recipient=EVERYONE)
    return receive_all(order, kind, order.session.members, EVERYONE)
