"""How the hospitals of a verified order come to the keys of its run: each says signed
that it takes part, and the initiator sends what only the order's parties may know.

To read next: `agents.order.party`, whose `send` and `receive` these keys are for.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from agents.order import starting
from agents.order.party import AgreedOrder, VerifiedOrder, receive, send
from agents.order.verifying import check_pin_of
from protocol.errors import Refused
from protocol.exchange import Address
from protocol.messages import (
    EVERYONE,
    Acceptance,
    Header,
    PooledThresholds,
    Setup,
    read_envelope,
    run_context,
)
from protocol.sealing import KEY_BYTES, Session, exchange_public
from protocol.start_window import PartyDocument
from protocol.sums import mask_graph
from protocol.versions import check_agreed, has_feature

A = TypeVar("A", bound=AgreedOrder)


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
    sparse_masks: bool = False,
) -> A:
    """The order as `kind`, with the session's keys.

    Sends everyone, signed, how many rows this hospital counted, what its policy says of
    hospitals left alone (`regroup`, `least_hospitals`) and, where hospitals are many, of
    masks with some of the others only (`sparse_masks`), and its key for this run, and
    reads all others'. Then the order secret and the public key go from the
    initiator to each party, sealed to it. `public_key` is called at the initiator only.
    A private key never leaves the initiator's vault; it and the secret are deleted when
    the order ends.

    Disclosure: the row counts, these rules, `pooled` and which protocol its agent
    speaks, to the order's parties and the coordinator.
    """
    # Kept before it is told: after a crash the others hold the public half of this very
    # key.
    ephemeral = order.store.once("ephemeral", lambda: secrets.token_bytes(KEY_BYTES))
    own_acceptance = Acceptance(
        order_digest=order.signed.digest,
        n_rows=n_rows,
        n_test_rows=n_test_rows,
        regroup=regroup,
        least_hospitals=least_hospitals,
        ephemeral=exchange_public(ephemeral),
        identity=order.identity.public,
        pooled=pooled,
        sparse_masks=sparse_masks and _may_be_sparse(order),
    )
    _accept(order, own_acceptance)
    party = starting.agree_on_party(order)
    absent: set[int] = set()
    if party is not None:
        absent = set(order.request.hospitals) - set(party.hospitals)
        order = order.among(party.hospitals)
    acceptances = _read_acceptances(order, party)
    session = _session_of(order, party, acceptances, ephemeral)
    without_secret = _without_secret(order, kind, session, acceptances, absent)
    setup = _share_setup(without_secret, public_key)
    return replace(
        without_secret,
        session=replace(session, order_secret=setup.order_secret),
        public_key=setup.paillier_key,
    )


def _may_be_sparse(order: VerifiedOrder) -> bool:
    """Whether masks with some of the others only are for this order: its hospitals are
    many, and an acceptance of its protocol number can say so.
    """
    are_many = len(order.request.hospitals) > mask_graph.MOST_COMPLETE
    can_say_so = has_feature("sparse_masks", order.protocol)
    return are_many and can_say_so


def _session_of(
    order: VerifiedOrder,
    party: PartyDocument | None,
    acceptances: dict[int, Acceptance],
    ephemeral: bytes,
) -> Session:
    """The session of the hospitals that have accepted, without the order secret yet."""
    peer_keys = {}
    identities = {}
    for user_id, acceptance in acceptances.items():
        peer_keys[user_id] = acceptance.ephemeral
        identities[user_id] = acceptance.identity
    named = b"" if party is None else party.encode()
    return Session(
        context=run_context(order.signed, acceptances, party=named),
        me=order.me,
        ephemeral=ephemeral,
        peer_keys=peer_keys,
        identities=identities,
    )


def _without_secret(
    order: VerifiedOrder,
    kind: type[A],
    session: Session,
    acceptances: dict[int, Acceptance],
    absent: set[int],
) -> A:
    """The agreed order without the secret and the public key: it can send and receive
    what these come in.
    """
    n_rows = {}
    pooled = {}
    for user_id, acceptance in acceptances.items():
        n_rows[user_id] = acceptance.n_rows
        if acceptance.pooled is not None:
            pooled[user_id] = acceptance.pooled
    # `kind` is the order's own kind with what AgreedOrder adds.
    return kind(
        **vars(order),
        session=session,
        acceptances=acceptances,
        n_rows=n_rows,
        pooled=pooled,
        public_key=b"",
        absent=tuple(sorted(absent)),
    )


def _accept(order: VerifiedOrder, acceptance: Acceptance) -> None:
    """Sends everyone, signed, that this hospital takes part, and what it speaks."""
    acceptance = acceptance.saying(order.speaks.newest, order_protocol=order.protocol)

    def make() -> bytes:
        order.release.ledger.write(
            "answered",
            order_id=order.order_id,
            initiator=order.request.initiator,
            purpose=order.request.purpose,
        )
        return acceptance.encode()

    digest = acceptance.order_digest
    header = _acceptance_header(order, order.me, digest)
    order.release.send(header, make, address=Address(order.order_id, "acceptance"))


def _acceptance_header(order: VerifiedOrder, sender: int, digest: bytes) -> Header:
    return Header(
        "acceptance", sender, EVERYONE, context=digest, protocol=order.protocol
    )


def _read_acceptances(
    order: VerifiedOrder, party: PartyDocument | None
) -> dict[int, Acceptance]:
    """All hospitals' acceptances, each signed by its pinned key, of this very order; and
    those that `party` names, where there is one.
    """
    digest = order.signed.digest
    address = Address(order.order_id, "acceptance")
    envelopes = order.exchange.gather(address, order.request.hospitals, EVERYONE)
    acceptances = {}
    spoken = {}
    for user_id, envelope in envelopes.items():
        expected = _acceptance_header(order, user_id, digest)
        # As with the order: read, held against the pin, and only then trusted.
        payload = read_envelope(envelope, expected, None)
        acceptance = Acceptance.decode(payload)
        check_pin_of(order, user_id, acceptance.identity)
        read_envelope(envelope, expected, acceptance.identity)
        if party is not None:
            starting.check_acceptance(party, user_id, payload)
        # The initiator could sign two orders under one number: all must have accepted
        # the same one.
        if acceptance.order_digest != digest:
            raise Refused(
                f"Hospital {user_id} accepted another order than this one.",
                remedy="Send the order again; if this repeats, the coordinator shows the hospitals different orders.",
                code="order_altered",
            )
        acceptances[user_id] = acceptance
        spoken[user_id] = acceptance.spoken(order_protocol=order.protocol)
    check_agreed(order.protocol, spoken)
    return acceptances


def _share_setup(order: AgreedOrder, public_key: Callable[[], bytes]) -> Setup:
    """The order secret and the public key, which the initiator sends to each party."""
    if not order.is_initiator:
        setup_message = receive(order, "setup", order.request.initiator, order.me)
        return Setup.decode(setup_message)
    secret = order.store.once("order_secret", lambda: secrets.token_bytes(KEY_BYTES))
    setup = Setup(secret, public_key())
    for peer in order.session.members:
        if peer != order.me:
            send(order, "setup", setup.encode, recipient=peer)
    return setup
