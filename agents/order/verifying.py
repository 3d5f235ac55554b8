"""The steps of verifying an order: `agents.training.party` and `agents.statistics.party`
take them, in this order. Nothing is sealed yet.

To read next: `agents.order.key_agreement`, when the order may be taken part in.

Decisions 15, 16 and 23.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from agents.order.party import Party
from protocol.errors import OrderStopped, Refused
from protocol.exchange import Address
from protocol.messages import (
    COORDINATOR,
    EVERYONE,
    Header,
    HospitalSql,
    SignedOrder,
    read_envelope,
)
from protocol.sealing import KEY_BYTES, PublicIdentity, check_pin
from protocol.versions import check_spoken, protocol_of_document


def read_document(party: Party) -> str:
    """The order's document, as the coordinator shows it to all; not checked yet.

    OrderStopped if the order has ended here.
    """
    address = Address(party.order_id, "document")
    document_body = party.exchange.get(address, COORDINATOR, EVERYONE)
    document = document_body.decode()
    outcome = party.vault.outcome(party.order_id, document.encode())
    if outcome is not None:
        sentence = f"Order {party.order_id} has ended here ({outcome})."
        raise OrderStopped(
            sentence,
            remedy="",
            code=outcome,
        )
    # Kept for the order's end, which writes down its digest: the number is used for no
    # other order (decision 23).
    party.store.once("document", document.encode)
    return document


def read_protocol(party: Party, document: str) -> int:
    """The number in which an order is written, which this hospital takes.

    Raises ProtocolViolation or Refused (code protocol).
    """
    protocol = protocol_of_document(document)
    check_spoken(protocol, party.speaks)
    return protocol


def read_sql(
    party: Party,
    commitments: Mapping[int, str],
) -> Mapping[str, str]:
    """What is read here, by purpose: the SQL that the document commits to.

    It comes sealed to this hospital. Empty where the document has no commitment for
    this hospital. Raises Refused (code sql_commitment).
    """
    if party.me not in commitments:
        return {}
    address = Address(party.order_id, "sql")
    sql_box = party.exchange.get(address, COORDINATOR)
    sealed = HospitalSql.unseal(
        party.me,
        party.identity.open_key,
        sql_box,
    )
    if sealed.commitment != commitments[party.me]:
        raise Refused(
            "The SQL that arrived is not the one that the order's document commits to.",
            remedy="Send the order again; if this repeats, the coordinator alters orders.",
            code="sql_commitment",
        )
    return sealed.sql


def verify_signature(
    party: Party,
    document: str,
    initiator: int,
    *,
    protocol: int,
) -> SignedOrder:
    """The document, signed by the initiator's pinned key.

    To be called when the policy allows the order: the initiator's own agent signs here
    first (decision 15). Raises Refused or ProtocolViolation.
    """
    if party.me == initiator:
        _sign(party, document, protocol)
    address = Address(party.order_id, "order")
    envelope = party.exchange.get(address, initiator, EVERYONE)
    expected = Header(
        "order",
        initiator,
        EVERYONE,
        protocol=protocol,
    )
    # The key stands in the message that it signs: it is read, held against the pin, and
    # only then trusted.
    signed = SignedOrder.decode(read_envelope(envelope, expected, None))
    check_pin_of(party, initiator, signed.identity)
    read_envelope(envelope, expected, signed.identity)
    if signed.document != document:
        raise Refused(
            "The order that its initiator signed is not the one that the coordinator shows.",
            remedy="Send the order again; if this repeats, the coordinator alters orders.",
            code="order_altered",
        )
    return signed


def _sign(
    party: Party,
    document: str,
    protocol: int,
) -> None:
    """The initiator's agent signs within its policy's `orders.sign`."""

    def make() -> bytes:
        # It makes each run's keys fresh.
        nonce = secrets.token_bytes(KEY_BYTES)
        signed = SignedOrder(document, nonce, party.identity.public)
        return signed.encode()

    header = Header(
        "order",
        party.me,
        EVERYONE,
        protocol=protocol,
    )
    party.release.send(
        header,
        make,
        address=Address(party.order_id, "order"),
    )


def check_pin_of(
    party: Party,
    user_id: int,
    presented: PublicIdentity,
) -> None:
    """Raises unless the key is the one pinned; no first use is trusted (decision 16)."""
    if user_id == party.me:
        check_pin("This hospital", party.identity.public.fingerprint, presented)
        return
    partner = party.settings.partners.get(user_id)
    if partner is None:
        check_pin(f"Hospital {user_id}", None, presented)
    else:
        check_pin(partner.name, partner.fingerprint, presented)
