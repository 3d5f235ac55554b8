"""One hospital in one order: it verifies the order, counts its rows, and agrees on keys with the others.

Everything here may be run again after a crash: what was made is kept in the vault and found there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from agents.order.release import Release
from agents.site.ledger import Ledger
from agents.site.policy import load_policy
from agents.site.settings import Settings
from agents.site.vault import OrderVault, Vault
from protocol.errors import OrderStopped, Refused
from protocol.exchange import Address, Exchange, Transport
from protocol.messages import (
    COORDINATOR,
    EVERYONE,
    KINDS,
    Acceptance,
    Header,
    HospitalSql,
    Setup,
    SignedOrder,
    members_digest,
    read_envelope,
    run_context,
)
from protocol.policy import Policy
from protocol.sealing import KEY_BYTES, Identity, PublicIdentity, Session, check_pin, exchange_public


@dataclass
class Party:
    """A hospital's standing in one order, filled step by step: `read_order`, then its rows, `accept`, `agree`.

    Each kind of order has its own: what its document says, and what the policy has to say to it.
    """

    settings: Settings
    order_id: int
    policy: Policy
    vault: Vault
    store: OrderVault
    identity: Identity
    exchange: Exchange
    release: Release
    request: Request = field(init=False)
    sql: HospitalSql = field(init=False)
    signed: SignedOrder = field(init=False)
    session: Session = field(init=False)
    n_rows: dict[int, int] = field(init=False)

    @property
    def me(self) -> int:
        return self.settings.user_id

    @property
    def is_initiator(self) -> bool:
        return self.me == self.request.initiator

    def read_document(self, document: str) -> Mapping[int, str]:
        """Takes the request from a checked document; the commitments of the hospitals that get something sealed."""
        raise NotImplementedError

    def check_policy(self) -> None:
        """Refused with the rule by which this hospital does not take part."""
        raise NotImplementedError

    def terms(self) -> dict[str, Any]:
        """All that the order says, for a person here who decides on it: kind, initiator, parties, receivers, purpose,
        data (what is read here, as it will be read), columns, method, scoring, and `details` of its kind."""
        raise NotImplementedError

    def public_key(self) -> bytes:
        """What the coordinator adds with, made at the initiator; empty where sums need no key."""
        return b""


class Request(Protocol):
    """What every kind of order says."""

    @property
    def initiator(self) -> int: ...

    @property
    def hospitals(self) -> list[int]: ...

    @property
    def purpose(self) -> str: ...


P = TypeVar("P", bound=Party)


def open_party(kind: type[P], settings: Settings, order_id: int, transport: Transport) -> P:
    """The party of this site in an order; nothing has been asked or answered yet."""
    vault = Vault(settings.vault)
    identity, store, exchange = vault.identity(), vault.order(order_id), Exchange(transport, settings.user_id)
    policy = load_policy(settings.policy)
    release = Release(order_id, identity, Ledger(settings.ledger), store, exchange, policy)
    return kind(settings, order_id, policy, vault, store, identity, exchange, release)


# The order


def read_order(party: Party) -> None:
    """Reads the document and one's own SQL from the coordinator, and verifies the initiator's signature.

    Nothing is counted before this has passed: the document is checked field by field as at the coordinator, the SQL
    must be the one that the document commits to, the policy must allow the order, and the signature must be that of
    the initiator's pinned key. Who only receives gets no SQL. Raises Refused, BadRequest or ProtocolViolation.
    """
    document = party.exchange.get(Address(party.order_id, "document"), COORDINATOR, EVERYONE).decode()
    outcome = party.vault.outcome(party.order_id, document.encode())
    if outcome is not None:
        raise OrderStopped(f"Order {party.order_id} has ended here ({outcome}).", remedy="", code=outcome)
    party.store.once("document", document.encode)
    commitments = party.read_document(document)
    if party.me in commitments:
        _read_sql(party, commitments[party.me])
    party.check_policy()
    if party.is_initiator:
        _sign(party, document)
    party.signed = _verified_order(party, document)


def _read_sql(party: Party, commitment: str) -> None:
    box = party.exchange.get(Address(party.order_id, "sql"), COORDINATOR)
    party.sql = HospitalSql.unseal(party.me, party.identity.open_key, box)
    if party.sql.commitment != commitment:
        raise Refused(
            "The SQL that arrived is not the one that the order's document commits to.",
            remedy="Send the order again; if this repeats, the coordinator alters orders.",
            code="sql_commitment",
        )


def _sign(party: Party, document: str) -> None:
    """The initiator's agent signs within its policy's `orders.sign`; the nonce makes each run's keys fresh."""

    def make() -> bytes:
        return SignedOrder(document, secrets.token_bytes(KEY_BYTES), party.identity.public).encode()

    header = Header("order", party.me, EVERYONE)
    party.release.send(header, make, address=Address(party.order_id, "order"))


def _verified_order(party: Party, document: str) -> SignedOrder:
    initiator = party.request.initiator
    envelope = party.exchange.get(Address(party.order_id, "order"), initiator, EVERYONE)
    expected = Header("order", initiator, EVERYONE)
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


def _check_pin(party: Party, user_id: int, presented: PublicIdentity) -> None:
    if user_id == party.me:
        check_pin("This hospital", party.identity.public.fingerprint, presented)
        return
    partner = party.settings.partners.get(user_id)
    name = partner.name if partner else f"Hospital {user_id}"
    check_pin(name, partner.fingerprint if partner else None, presented)


# The keys


def accept(party: Party, n_rows: int, n_test_rows: int = 0) -> None:
    """Tells everyone, signed, how many rows it counted and its key for this run; then reads all others' acceptances.

    Disclosure: the row counts, to the order's parties and the coordinator.
    """
    ephemeral = party.store.once("ephemeral", lambda: secrets.token_bytes(KEY_BYTES))

    def make() -> bytes:
        party.release.ledger.write(
            "answered",
            order_id=party.order_id,
            initiator=party.request.initiator,
            purpose=party.request.purpose,
        )
        public = exchange_public(ephemeral)
        return Acceptance(party.signed.digest, n_rows, n_test_rows, public, party.identity.public).encode()

    header = Header("acceptance", party.me, EVERYONE, context=party.signed.digest)
    party.release.send(header, make, address=Address(party.order_id, "acceptance"))
    _open_session(party, ephemeral, _read_acceptances(party))


def _read_acceptances(party: Party) -> dict[int, Acceptance]:
    envelopes = party.exchange.gather(
        Address(party.order_id, "acceptance"), party.request.hospitals, EVERYONE
    )
    found = {}
    for user_id, envelope in envelopes.items():
        expected = Header("acceptance", user_id, EVERYONE, context=party.signed.digest)
        acceptance = Acceptance.decode(read_envelope(envelope, expected, None))
        _check_pin(party, user_id, acceptance.identity)
        read_envelope(envelope, expected, acceptance.identity)
        if acceptance.order_digest != party.signed.digest:
            raise Refused(
                f"Hospital {user_id} accepted another order than this one.",
                remedy="Send the order again; if this repeats, the coordinator shows the hospitals different orders.",
                code="order_altered",
            )
        found[user_id] = acceptance
    return found


def _open_session(party: Party, ephemeral: bytes, acceptances: dict[int, Acceptance]) -> None:
    party.n_rows = {user: acceptance.n_rows for user, acceptance in acceptances.items()}
    party.session = Session(
        context=run_context(party.signed, acceptances),
        me=party.me,
        ephemeral=ephemeral,
        peer_keys={user: acceptance.ephemeral for user, acceptance in acceptances.items()},
        identities={user: acceptance.identity for user, acceptance in acceptances.items()},
    )


def agree(party: Party) -> bytes:
    """The order secret and the public key go from the initiator to each party, sealed to it; the public key.

    A private key never leaves the initiator's vault; it and the secret are deleted when the order ends.
    """
    if party.is_initiator:
        setup = Setup(
            party.store.once("order_secret", lambda: secrets.token_bytes(KEY_BYTES)), party.public_key()
        )
        for peer in party.session.members:
            if peer != party.me:
                send(party, "setup", setup.encode, recipient=peer)
    else:
        setup = Setup.decode(receive(party, "setup", party.request.initiator, party.me))
    party.session = replace(party.session, order_secret=setup.order_secret)
    return setup.paillier_key


def begin(party: Party, public_key: bytes) -> None:
    """The initiator's word to the coordinator that all is agreed: the key to add with. Then the order is running."""
    if party.is_initiator:
        send(party, "public_key", lambda: public_key, recipient=COORDINATOR)


def end(party: Party) -> None:
    """The order has ended here with success: its keys and what was read for it are forgotten."""
    party.release.ledger.write("finished", order_id=party.order_id)
    party.vault.end_order(party.order_id, "success")


# Messages within the session


def header_of(
    party: Party, kind: str, sender: int, recipient: int, *, fold: int = 0, round: int = 0
) -> Header:
    """What a message of this run must say of itself."""
    return Header(
        kind,
        sender,
        recipient,
        context=party.session.context,
        fold=fold,
        round=round,
        members=members_digest(party.session.members),
        seal=KINDS[kind],
    )


def send(
    party: Party, kind: str, make: Callable[[], bytes], *, recipient: int, fold: int = 0, round: int = 0
) -> None:
    """One message through the release door."""
    header = header_of(party, kind, party.me, recipient, fold=fold, round=round)
    address = Address(party.order_id, kind, fold, round)
    party.release.send(header, make, address=address, session=party.session)


def receive(party: Party, kind: str, sender: int, recipient: int, *, fold: int = 0, round: int = 0) -> bytes:
    """One party's message, verified and opened."""
    return receive_all(party, kind, (sender,), recipient, fold=fold, round=round)[sender]


def receive_all(
    party: Party, kind: str, senders: Iterable[int], recipient: int, *, fold: int = 0, round: int = 0
) -> dict[int, bytes]:
    """Several parties' messages of one kind, each verified against its sender's pinned key and opened."""
    envelopes = party.exchange.gather(Address(party.order_id, kind, fold, round), senders, recipient)
    return {
        sender: read_envelope(
            envelope,
            header_of(party, kind, sender, recipient, fold=fold, round=round),
            party.session.identities[sender],
            session=party.session,
        )
        for sender, envelope in envelopes.items()
    }
