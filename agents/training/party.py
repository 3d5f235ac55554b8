"""One hospital in a training order: what verifies the order, and the key that its sums are encrypted with.

`agents.training.cohorts` reads its rows next, `agents.training.trainer` trains on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from phe.paillier import PaillierPrivateKey

from agents.order.party import (
    AgreedOrder,
    Party,
    VerifiedOrder,
    read_document,
    read_sql,
    verify_signature,
)
from protocol.sums import paillier
from protocol.training_request import TrainingRequest, read_order_document


@dataclass(frozen=True)
class VerifiedTraining(VerifiedOrder):
    """A training order that this hospital may take part in."""

    request: TrainingRequest

    def terms(self) -> dict[str, Any]:
        request = self.request
        shown = {"user_id", "party_id", "purpose", "data_info", "test_data_info", "scoring"}
        return {
            "kind": "training",
            "initiator": request.initiator,
            "parties": request.hospitals,
            "receivers": request.hospitals,
            "purpose": request.purpose,
            "data": dict(self.sql),
            "columns": [request.unique_id, request.label_name, *request.attributes],
            "method": request.model_params.encrypt_param.method,
            "scoring": request.scoring or "none",
            "details": request.model_dump(mode="json", exclude=shown | {"attributes"}, exclude_none=True),
        }


@dataclass(frozen=True)
class AgreedTraining(VerifiedTraining, AgreedOrder):
    """A training order that every hospital has accepted."""


def verify_order(party: Party) -> VerifiedTraining:
    """Reads the document and one's own SQL from the coordinator, and verifies the initiator's signature.

    Nothing is counted before this has passed: the document is checked field by field as at the coordinator, the SQL
    must be the one that the document commits to, the policy must allow the order, and the signature must be that of
    the initiator's pinned key. Raises Refused, BadRequest or ProtocolViolation.
    """
    document = read_document(party)
    request, commitments = read_order_document(document, party.order_id)
    sql = read_sql(party, commitments)
    _check_policy(party, request)
    signed = verify_signature(party, document, request.initiator)
    return VerifiedTraining(**vars(party), request=request, sql=sql, signed=signed)


def _check_policy(party: Party, request: TrainingRequest) -> None:
    """Refused with the rule by which this hospital does not take part."""
    party.policy.check_order(
        initiator=request.user_id,
        own_user_id=party.me,
        method=request.model_params.encrypt_param.method,
        model_type=request.model_type,
        n_hospitals=len(request.hospitals) - request.most_left_out,
        receivers=request.hospitals,
        scoring=_new_to_the_coordinator(request),
    )


def _new_to_the_coordinator(request: TrainingRequest) -> str:
    """The scoring that a policy has to allow. With method None the coordinator sees each gradient anyway; with full
    scoring the other hospitals can then compute it too."""
    level = request.scoring or "none"
    return "none" if request.is_open and level != "full" else level


def public_key(order: VerifiedTraining) -> bytes:
    """The initiator's key that the coordinator adds with; empty for methods that need none."""
    if order.request.model_params.encrypt_param.method != "Paillier":
        return b""
    return paillier.public_to_bytes(private_key(order).public_key)


def private_key(order: VerifiedTraining) -> PaillierPrivateKey:
    """The initiator's Paillier private key for this order; made once, in its vault, which it never leaves."""
    bits = order.request.model_params.encrypt_param.key_length

    def make() -> bytes:
        return paillier.private_to_bytes(paillier.generate_keys(bits))

    return paillier.private_from_bytes(order.store.once("paillier", make))
