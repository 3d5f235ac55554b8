"""One hospital in one order: it verifies the order, counts its rows, and agrees on keys with the others.

Everything here may be run again after a crash: what was made is kept in the vault and found there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from phe.paillier import PaillierPrivateKey

from agents import cohort as cohorts
from agents.cohort import Cohort, CohortLedger
from agents.ledger import Ledger
from agents.policy import Policy, load_policy
from agents.release import KINDS, Release
from agents.settings import Settings
from agents.source import Source, open_source
from agents.sql import CheckedQuery, check_sql
from agents.vault import OrderVault, Vault
from analytics.checks import Ints
from analytics.folds import fold_indices, validation_indices
from protocol import paillier
from protocol.errors import BadRequest, Refused
from protocol.exchange import Address, Exchange, Transport
from protocol.messages import (
    COORDINATOR,
    EVERYONE,
    Acceptance,
    Header,
    HospitalSql,
    Setup,
    SignedOrder,
    members_digest,
    read_envelope,
    run_context,
)
from protocol.order import TrainingRequest, read_order_document
from protocol.sealing import KEY_BYTES, Identity, PublicIdentity, Session, check_pin, exchange_public


@dataclass
class Party:
    """A hospital's standing in one order. Filled step by step: `read_order`, `extract`, `accept`, `agree`."""

    settings: Settings
    order_id: int
    policy: Policy
    vault: Vault
    store: OrderVault
    identity: Identity
    exchange: Exchange
    release: Release
    request: TrainingRequest = field(init=False)
    sql: HospitalSql = field(init=False)
    signed: SignedOrder = field(init=False)
    cohort: Cohort = field(init=False)
    test_cohort: Cohort | None = field(init=False, default=None)
    session: Session = field(init=False)
    n_rows: dict[int, int] = field(init=False)
    paillier_key: bytes = field(init=False, default=b"")
    tables: tuple[str, ...] = field(init=False, default=())

    @property
    def me(self) -> int:
        return self.settings.user_id

    @property
    def is_initiator(self) -> bool:
        return self.me == self.request.user_id


def open_party(settings: Settings, order_id: int, transport: Transport) -> Party:
    """The party of this site in an order; nothing has been asked or answered yet."""
    vault = Vault(settings.vault)
    identity, store, exchange = vault.identity(), vault.order(order_id), Exchange(transport, settings.user_id)
    release = Release(order_id, identity, Ledger(settings.ledger), store, exchange)
    return Party(settings, order_id, load_policy(settings.policy), vault, store, identity, exchange, release)


# The order


def read_order(party: Party) -> None:
    """Reads the document and one's own SQL from the coordinator, and verifies the initiator's signature.

    Nothing is counted before this has passed: the document is checked field by field as at the coordinator, the SQL
    must be the one that the document commits to, the policy must allow the order, and the signature must be that of
    the initiator's pinned key. Raises Refused, BadRequest or ProtocolViolation.
    """
    address = Address(party.order_id, "document")
    document = party.exchange.get(address, COORDINATOR, EVERYONE).decode()
    party.request, commitments = read_order_document(document, party.order_id)
    box = party.exchange.get(Address(party.order_id, "sql"), COORDINATOR)
    party.sql = HospitalSql.unseal(party.me, party.identity.open_key, box)
    if party.sql.commitment != commitments.get(party.me):
        raise Refused(
            "The SQL that arrived is not the one that the order's document commits to.",
            remedy="Send the order again; if this repeats, the coordinator alters orders.",
            code="sql_commitment",
        )
    _check_policy(party)
    if party.is_initiator:
        _sign(party, document)
    party.signed = _verified_order(party, document)


def _check_policy(party: Party) -> None:
    request = party.request
    party.policy.check_order(
        initiator=request.user_id,
        own_user_id=party.me,
        method=request.model_params.encrypt_param.method,
        model_type=request.model_type,
        n_hospitals=len(request.hospitals),
        receivers=request.hospitals,
    )


def _sign(party: Party, document: str) -> None:
    """The initiator's agent signs within its policy's `orders.sign`; the nonce makes each run's keys fresh."""

    def make() -> bytes:
        return SignedOrder(document, secrets.token_bytes(KEY_BYTES), party.identity.public).encode()

    header = Header("order", party.me, EVERYONE)
    party.release.send(header, make, address=Address(party.order_id, "order"))


def _verified_order(party: Party, document: str) -> SignedOrder:
    initiator = party.request.user_id
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


# The rows


def extract(party: Party) -> None:
    """Reads the cohorts once per order and keeps them as snapshots in the vault until the order ends.

    Disclosure: rows stay here; what others learn is the row count, after the cohort gate has passed.
    """
    party.cohort = _cohort(party, "train")
    party.test_cohort = _cohort(party, "test") if "test" in party.sql.sql else None
    _check_parts(party)


def _cohort(party: Party, purpose: str) -> Cohort:
    request = party.request
    source = open_source(
        party.settings.data_url,
        statement_timeout_seconds=party.settings.statement_timeout_seconds,
        max_rows=party.settings.max_rows,
    )
    checked = check_sql(
        party.sql.sql[purpose],
        policy=party.policy,
        requester=request.user_id,
        own_user_id=party.me,
        unique_id=request.unique_id,
        label=request.label_name,
        dialect=source.dialect,
    )
    party.tables = tuple(sorted({*party.tables, *checked.tables}))
    path = party.store.folder / f"{purpose}.npz"
    if not path.exists():
        cohorts.save_cohort(path, _read_cohort(party, source, checked, purpose))
    return cohorts.load_cohort(path)


def _read_cohort(party: Party, source: Source, checked: CheckedQuery, purpose: str) -> Cohort:
    request = party.request
    cohort = cohorts.build_cohort(
        source.read(checked),
        unique_id=request.unique_id,
        attributes=request.attributes,
        label_name=request.label_name,
        model_type=request.model_type,
    )
    _pass_gate(party, checked, cohort, purpose)
    return cohort


def _pass_gate(party: Party, checked: CheckedQuery, cohort: Cohort, purpose: str) -> None:
    """The cohort gate, against what this requester has seen of each table; then this cohort is remembered."""
    ledger = CohortLedger(party.vault.cohorts)
    n_parameters = len(party.request.attributes) + party.request.model_params.init_param.fit_intercept
    for name in checked.tables:
        rules = party.policy.table(name)
        earlier = ledger.earlier(party.request.user_id, name, order_id=party.order_id, part=purpose)
        cohorts.check_gate(
            cohort, n_parameters=n_parameters if purpose == "train" else 0, rules=rules, earlier=earlier, key=ledger.key
        )
    for name in checked.tables:
        ledger.remember(party.request.user_id, name, order_id=party.order_id, part=purpose, cohort=cohort)


def folds(request: TrainingRequest) -> list[int]:
    """1..n_splits for cross-validation, then 0: the final model on all rows."""
    cv = request.model_params.cv_param
    return [*range(1, cv.n_splits + 1), 0] if cv.need_cv else [0]


def held_out_rows(request: TrainingRequest, n_rows: int, fold: int) -> Ints:
    """Which of a hospital's rows, in order of unique_id, test the model of a fold instead of training it.

    A function of the order and the row count alone, so every party knows the size of every other's part.
    """
    cv, fraction = request.model_params.cv_param, request.validation_fraction
    if fold > 0:
        return fold_indices(n_rows, n_splits=cv.n_splits, shuffle=cv.shuffle, seed=cv.random_seed)[fold - 1]
    if fraction is not None:
        return validation_indices(n_rows, fraction=fraction, seed=cv.random_seed)
    return np.arange(0)


def _check_parts(party: Party) -> None:
    """A part that is held out is a cohort of its own: it must not be a handful of rows either."""
    for name in party.tables:
        least = party.policy.table(name).min_rows
        for fold in folds(party.request):
            n_held_out = len(_held_out_or_refuse(party.request, party.cohort.n_rows, fold))
            if 0 < n_held_out < least:
                raise Refused(
                    f"A held-out part would have {n_held_out} rows; this hospital asks for {least} or more.",
                    remedy="Use fewer folds or a larger validation_fraction.",
                    code="min_rows",
                )


def _held_out_or_refuse(request: TrainingRequest, n_rows: int, fold: int) -> Ints:
    try:
        return held_out_rows(request, n_rows, fold)
    except ValueError as error:
        raise BadRequest(str(error), remedy="Use fewer folds or another validation_fraction.", code="folds") from None


# The keys


def accept(party: Party) -> None:
    """Tells everyone, signed, how many rows it counted and its key for this run; then reads all others' acceptances.

    Disclosure: the row counts, to the order's parties and the coordinator.
    """
    ephemeral = party.store.once("ephemeral", lambda: secrets.token_bytes(KEY_BYTES))
    party.release.ledger.write(
        "answered", order_id=party.order_id, initiator=party.request.user_id, purpose=party.request.purpose
    )

    def make() -> bytes:
        n_test = party.test_cohort.n_rows if party.test_cohort else 0
        public = exchange_public(ephemeral)
        return Acceptance(party.signed.digest, party.cohort.n_rows, n_test, public, party.identity.public).encode()

    header = Header("acceptance", party.me, EVERYONE, context=party.signed.digest)
    party.release.send(header, make, address=Address(party.order_id, "acceptance"))
    _open_session(party, ephemeral, _read_acceptances(party))


def _read_acceptances(party: Party) -> dict[int, Acceptance]:
    envelopes = party.exchange.gather(Address(party.order_id, "acceptance"), party.request.hospitals, EVERYONE)
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


def agree(party: Party) -> None:
    """The order secret and the Paillier public key go from the initiator to each party, sealed to it.

    The private key never leaves the initiator's vault; both are deleted when the order ends.
    """
    if party.is_initiator:
        setup = _make_setup(party)
        for peer in party.session.members:
            if peer != party.me:
                send(party, "setup", setup.encode, recipient=peer)
        send(party, "public_key", lambda: setup.paillier_key, recipient=COORDINATOR)
    else:
        setup = Setup.decode(receive(party, "setup", party.request.user_id, party.me))
    party.paillier_key = setup.paillier_key
    party.session = replace(party.session, order_secret=setup.order_secret)


def _make_setup(party: Party) -> Setup:
    secret = party.store.once("order_secret", lambda: secrets.token_bytes(KEY_BYTES))
    if party.request.model_params.encrypt_param.method != "Paillier":
        return Setup(secret, b"")
    return Setup(secret, paillier.public_to_bytes(private_key(party).public_key))


def private_key(party: Party) -> PaillierPrivateKey:
    """The initiator's Paillier private key for this order; made once, in its vault."""
    bits = party.request.model_params.encrypt_param.key_length
    return paillier.private_from_bytes(
        party.store.once("paillier", lambda: paillier.private_to_bytes(paillier.generate_keys(bits)))
    )


# Messages within the session


def header_of(party: Party, kind: str, sender: int, recipient: int, *, fold: int = 0, round: int = 0) -> Header:
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


def send(party: Party, kind: str, make: Callable[[], bytes], *, recipient: int, fold: int = 0, round: int = 0) -> None:
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
