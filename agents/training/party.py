"""A hospital's side of one training order: its policy's answer, its rows and its Paillier key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phe.paillier import PaillierPrivateKey

from agents.order.party import Party, open_party
from agents.rows.cohort import Cohort
from agents.site.settings import Settings
from protocol.exchange import Transport
from protocol.sums import paillier
from protocol.training_request import TrainingRequest, read_order_document


@dataclass
class TrainingParty(Party):
    """A hospital in a training order."""

    request: TrainingRequest = field(init=False)
    cohort: Cohort = field(init=False)
    test_cohort: Cohort | None = field(init=False, default=None)
    split_key: bytes = field(init=False)
    paillier_key: bytes = field(init=False, default=b"")

    def read_document(self, document: str) -> Mapping[int, str]:
        self.request, commitments = read_order_document(document, self.order_id)
        return commitments

    def check_policy(self) -> None:
        request = self.request
        self.policy.check_order(
            initiator=request.user_id,
            own_user_id=self.me,
            method=request.model_params.encrypt_param.method,
            model_type=request.model_type,
            n_hospitals=len(request.hospitals) - request.most_left_out,
            receivers=request.hospitals,
            scoring=_new_to_the_coordinator(request),
        )

    def terms(self) -> dict[str, Any]:
        request, encrypt = self.request, self.request.model_params.encrypt_param
        shown = {"user_id", "party_id", "purpose", "data_info", "test_data_info", "scoring"}
        return {
            "kind": "training",
            "initiator": request.initiator,
            "parties": request.hospitals,
            "receivers": request.hospitals,
            "purpose": request.purpose,
            "data": self.sql.sql,
            "columns": [request.unique_id, request.label_name, *request.attributes],
            "method": encrypt.method,
            "scoring": request.scoring or "none",
            "details": request.model_dump(mode="json", exclude=shown | {"attributes"}, exclude_none=True),
        }

    def public_key(self) -> bytes:
        if self.request.model_params.encrypt_param.method != "Paillier":
            return b""
        return paillier.public_to_bytes(private_key(self).public_key)


def open_training(settings: Settings, order_id: int, transport: Transport) -> TrainingParty:
    """The party of this site in a training order, or in one of inference."""
    return open_party(TrainingParty, settings, order_id, transport)


def _new_to_the_coordinator(request: TrainingRequest) -> str:
    """The scoring that a policy has to allow. With method None the coordinator sees each gradient anyway; with full
    scoring the other hospitals can then compute it too."""
    level = request.scoring or "none"
    return "none" if request.is_open and level != "full" else level


def private_key(party: TrainingParty) -> PaillierPrivateKey:
    """The initiator's Paillier private key for this order; made once, in its vault."""
    bits = party.request.model_params.encrypt_param.key_length
    return paillier.private_from_bytes(
        party.store.once("paillier", lambda: paillier.private_to_bytes(paillier.generate_keys(bits)))
    )
