"""One hospital in one order: it verifies the order, agrees on keys, sends messages.

How far an order is stands in its type. A function says by its parameter which of them
it needs:

    Hospital         this hospital, of which something is asked: settings, policy, vault
    AskedOrder       what an order asks of it, not verified, and perhaps never sent
    Party            nothing of the order is known yet: also the exchange, and the door
    VerifiedOrder    what the order asks for, after document, SQL, policy and signature have been checked
    AgreedOrder      every hospital has counted its rows and accepted; there are keys to send and receive with

`agents.training.party` and `agents.statistics.party` have both for their kind, and read
them next. All of it may be run again after a crash: what was made is kept in the vault
and found there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from agents.order.release import Release
from agents.site.ledger import Ledger
from agents.site.policy import load_policy
from agents.site.settings import SiteSettings
from agents.site.vault import OrderVault, Vault, VaultToRead
from protocol.errors import OrderStopped, Refused
from protocol.exchange import Address, Exchange, Transport
from protocol.messages import (
    COORDINATOR,
    EVERYONE,
    KINDS,
    Acceptance,
    Header,
    HospitalSql,
    PooledThresholds,
    Setup,
    SignedOrder,
    members_digest,
    read_envelope,
    run_context,
)
from protocol.policy import Policy
from protocol.sealing import (
    KEY_BYTES,
    Identity,
    PublicIdentity,
    Session,
    check_pin,
    exchange_public,
)


class Request(Protocol):
    """What every kind of order says."""

    @property
    def initiator(self) -> int: ...

    @property
    def hospitals(self) -> list[int]: ...

    @property
    def purpose(self) -> str: ...


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


@dataclass(frozen=True)
class VerifiedOrder(Party, AskedOrder):
    """An order that this hospital may take part in: its rows may be read."""

    request: Request
    signed: SignedOrder

    def terms(self) -> dict[str, Any]:
        """All that the order says, for a person here who decides on it.

        kind, initiator, parties, receivers, purpose, data (what is read here, as it
        will be read), columns, method, scoring, and `details` of its kind.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class AgreedOrder(VerifiedOrder):
    """An order that every hospital has accepted: messages can be sealed and opened."""

    session: Session
    acceptances: dict[int, Acceptance]  # of each hospital
    n_rows: dict[int, int]  # of each hospital, as it has accepted
    # Of those that let a training order's thresholds be on the sum of all.
    pooled: dict[int, PooledThresholds]
    public_key: bytes  # what the coordinator adds with; empty where sums need no key


A = TypeVar("A", bound=AgreedOrder)


def open_party(settings: SiteSettings, order_id: int, transport: Transport) -> Party:
    """This site in an order; nothing has been asked or answered yet.

    Refused without a policy that can be read.
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
    )


def hospital_to_read(settings: SiteSettings) -> Hospital:
    """This site for who only looks: nothing is made or written. Refused as `open_party`."""
    return Hospital(settings, load_policy(settings.policy), VaultToRead(settings.vault))


# The steps of verifying an order: agents.training.party and agents.statistics.party
# take them, in this order


def read_document(party: Party) -> str:
    """The order's document, as the coordinator shows it to all; not checked yet.

    OrderStopped if the order has ended here.
    """
    address = Address(party.order_id, "document")
    document = party.exchange.get(address, COORDINATOR, EVERYONE).decode()
    outcome = party.vault.outcome(party.order_id, document.encode())
    if outcome is not None:
        sentence = f"Order {party.order_id} has ended here ({outcome})."
        raise OrderStopped(sentence, remedy="", code=outcome)
    # Kept for the order's end, which writes down its digest: the number is used for no
    # other order (decision 23).
    party.store.once("document", document.encode)
    return document


def read_sql(party: Party, commitments: Mapping[int, str]) -> Mapping[str, str]:
    """What is read here, by purpose: the SQL that the document commits to.

    It comes sealed to this hospital. Empty where the document has no commitment for
    this hospital. Raises Refused (code sql_commitment).
    """
    if party.me not in commitments:
        return {}
    box = party.exchange.get(Address(party.order_id, "sql"), COORDINATOR)
    sealed = HospitalSql.unseal(party.me, party.identity.open_key, box)
    if sealed.commitment != commitments[party.me]:
        raise Refused(
            "The SQL that arrived is not the one that the order's document commits to.",
            remedy="Send the order again; if this repeats, the coordinator alters orders.",
            code="sql_commitment",
        )
    return sealed.sql


def verify_signature(party: Party, document: str, initiator: int) -> SignedOrder:
    """The document, signed by the initiator's pinned key.

    To be called when the policy allows the order: the initiator's own agent signs here
    first (decision 15). Raises Refused or ProtocolViolation.
    """
    if party.me == initiator:
        _sign(party, document)
    address = Address(party.order_id, "order")
    envelope = party.exchange.get(address, initiator, EVERYONE)
    expected = Header("order", initiator, EVERYONE)
    # The key stands in the message that it signs: it is read, held against the pin, and
    # only then trusted.
    signed = SignedOrder.decode(read_envelope(envelope, expected, None))
    _check_pin(party, initiator, signed.identity)
    read_envelope(envelope, expected, signed.identity)
    if signed.document != document:
        raise Refused(
            "The order that its initiator signed is not the one that the coordinator shows.",
            remedy="Send the order again; if this repeats, the coordinator alters orders.",
            code="order_altered",
        )
    return signed


def _sign(party: Party, document: str) -> None:
    """The initiator's agent signs within its policy's `orders.sign`."""

    def make() -> bytes:
        # It makes each run's keys fresh.
        nonce = secrets.token_bytes(KEY_BYTES)
        signed = SignedOrder(document, nonce, party.identity.public)
        return signed.encode()

    header = Header("order", party.me, EVERYONE)
    party.release.send(header, make, address=Address(party.order_id, "order"))


def _check_pin(party: Party, user_id: int, presented: PublicIdentity) -> None:
    """Raises unless the key is the one pinned; no first use is trusted (decision 16)."""
    if user_id == party.me:
        check_pin("This hospital", party.identity.public.fingerprint, presented)
        return
    partner = party.settings.partners.get(user_id)
    if partner is None:
        check_pin(f"Hospital {user_id}", None, presented)
    else:
        check_pin(partner.name, partner.fingerprint, presented)


# The keys


def agree_on_keys(
    order: VerifiedOrder,
    kind: type[A],
    *,
    n_rows: int,
    regroup: bool,
    least_hospitals: int,
    n_test_rows: int = 0,
    public_key: Callable[[], bytes] = lambda: b"",
    pooled: PooledThresholds | None = None,
) -> A:
    """The order as `kind`, with the session's keys.

    Sends everyone, signed, how many rows this hospital counted, what its policy says of
    hospitals left alone (`regroup`, `least_hospitals`) and its key for this run, and
    reads all others'. Then the order secret and the public key go from the
    initiator to each party, sealed to it. `public_key` is called at the initiator only.
    A private key never leaves the initiator's vault; it and the secret are deleted when
    the order ends.

    Disclosure: the row counts, the two rules and `pooled`, to the order's parties and the
    coordinator.
    """
    ephemeral = order.store.once("ephemeral", lambda: secrets.token_bytes(KEY_BYTES))
    own = Acceptance(
        order_digest=order.signed.digest,
        n_rows=n_rows,
        n_test_rows=n_test_rows,
        regroup=regroup,
        least_hospitals=least_hospitals,
        ephemeral=exchange_public(ephemeral),
        identity=order.identity.public,
        pooled=pooled,
    )
    _accept(order, own)
    acceptances = _read_acceptances(order)
    peer_keys = {}
    identities = {}
    counted = {}
    all_pooled = {}
    for user, acceptance in acceptances.items():
        peer_keys[user] = acceptance.ephemeral
        identities[user] = acceptance.identity
        counted[user] = acceptance.n_rows
        if acceptance.pooled is not None:
            all_pooled[user] = acceptance.pooled
    session = Session(
        context=run_context(order.signed, acceptances),
        me=order.me,
        ephemeral=ephemeral,
        peer_keys=peer_keys,
        identities=identities,
    )
    # `kind` is the order's own kind with what AgreedOrder adds. Without the secret and
    # the key, it can send and receive what these come in.
    without_secret = kind(
        **vars(order),
        session=session,
        acceptances=acceptances,
        n_rows=counted,
        pooled=all_pooled,
        public_key=b"",
    )
    setup = _share_setup(without_secret, public_key)
    return replace(
        without_secret,
        session=replace(session, order_secret=setup.order_secret),
        public_key=setup.paillier_key,
    )


def _accept(order: VerifiedOrder, acceptance: Acceptance) -> None:
    """Sends everyone, signed, that this hospital takes part."""

    def make() -> bytes:
        order.release.ledger.write(
            "answered",
            order_id=order.order_id,
            initiator=order.request.initiator,
            purpose=order.request.purpose,
        )
        return acceptance.encode()

    digest = acceptance.order_digest
    header = Header("acceptance", order.me, EVERYONE, context=digest)
    order.release.send(header, make, address=Address(order.order_id, "acceptance"))


def _read_acceptances(order: VerifiedOrder) -> dict[int, Acceptance]:
    """All hospitals' acceptances, each signed by its pinned key, of this very order."""
    digest = order.signed.digest
    address = Address(order.order_id, "acceptance")
    envelopes = order.exchange.gather(address, order.request.hospitals, EVERYONE)
    acceptances = {}
    for user_id, envelope in envelopes.items():
        expected = Header("acceptance", user_id, EVERYONE, context=digest)
        # As with the order: read, held against the pin, and only then trusted.
        acceptance = Acceptance.decode(read_envelope(envelope, expected, None))
        _check_pin(order, user_id, acceptance.identity)
        read_envelope(envelope, expected, acceptance.identity)
        # The initiator could sign two orders under one number: all must have accepted
        # the same one.
        if acceptance.order_digest != digest:
            raise Refused(
                f"Hospital {user_id} accepted another order than this one.",
                remedy="Send the order again; if this repeats, the coordinator shows the hospitals different orders.",
                code="order_altered",
            )
        acceptances[user_id] = acceptance
    return acceptances


def _share_setup(order: AgreedOrder, public_key: Callable[[], bytes]) -> Setup:
    """The order secret and the public key, which the initiator sends to each party."""
    if not order.is_initiator:
        message = receive(order, "setup", order.request.initiator, order.me)
        return Setup.decode(message)
    secret = order.store.once("order_secret", lambda: secrets.token_bytes(KEY_BYTES))
    setup = Setup(secret, public_key())
    for peer in order.session.members:
        if peer != order.me:
            send(order, "setup", setup.encode, recipient=peer)
    return setup


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
    )


def send(
    order: AgreedOrder,
    kind: str,
    make: Callable[[], bytes],
    *,
    recipient: int,
    fold: int = 0,
    round: int = 0,
) -> None:
    """One message through the release door."""
    header = header_of(order, kind, order.me, recipient, fold=fold, round=round)
    address = Address(order.order_id, kind, fold, round)
    order.release.send(header, make, address=address, session=order.session)


def receive(
    order: AgreedOrder,
    kind: str,
    sender: int,
    recipient: int,
    *,
    fold: int = 0,
    round: int = 0,
) -> bytes:
    """One party's message, verified and opened."""
    bodies = receive_all(order, kind, (sender,), recipient, fold=fold, round=round)
    return bodies[sender]


def receive_all(
    order: AgreedOrder,
    kind: str,
    senders: Iterable[int],
    recipient: int,
    *,
    fold: int = 0,
    round: int = 0,
) -> dict[int, bytes]:
    """Several parties' messages of one kind, verified by the pinned keys and opened."""
    address = Address(order.order_id, kind, fold, round)
    envelopes = order.exchange.gather(address, senders, recipient)
    bodies = {}
    for sender, envelope in envelopes.items():
        expected = header_of(order, kind, sender, recipient, fold=fold, round=round)
        sender_identity = order.session.identities[sender]
        bodies[sender] = read_envelope(
            envelope, expected, sender_identity, session=order.session
        )
    return bodies
