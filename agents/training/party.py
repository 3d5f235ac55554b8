"""One hospital in a training order: how it verifies the order, and the sums' key.

`agents.training.cohorts` reads its rows next, `agents.training.fold` trains on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from phe.paillier import PaillierPrivateKey

from agents.gate import totals_in_words
from agents.gate.training_totals import training_totals
from agents.order.answers import reader_rules
from agents.order.party import (
    AgreedOrder,
    AskedOrder,
    Hospital,
    Party,
    VerifiedOrder,
    note_opened,
)
from agents.order.verifying import (
    read_document,
    read_protocol,
    read_sql,
    verify_signature,
)
from agents.rows.allowed_sql import CheckedQuery, check_sql
from agents.rows.database import dialect_of
from agents.training.comparison import check_kept
from agents.training.kept_design import check_model
from protocol.errors import Rule, check_all, check_rules
from protocol.foreseen import training_rules
from protocol.sums import paillier
from protocol.training_request import TrainingRequest, read_order_document
from protocol.varying_plan import strictest


@dataclass(frozen=True)
class AskedTraining(AskedOrder):
    """What a training order asks of this hospital."""

    request: TrainingRequest


@dataclass(frozen=True)
class VerifiedTraining(VerifiedOrder, AskedTraining):
    """A training order that this hospital may take part in."""

    request: TrainingRequest

    def terms(self) -> dict[str, Any]:
        request = self.request
        # The document's fields that the other terms have, or that are sealed.
        shown_apart = {
            "user_id",
            "party_id",
            "purpose",
            "data_info",
            "test_data_info",
            "scoring",
            "attributes",
        }
        for field_name in ("complete_on", "categorical", "derive", "strata"):
            if not getattr(request, field_name):
                shown_apart.add(field_name)
        if request.missing == "refuse":
            shown_apart.add("missing")
        details = request.model_dump(
            mode="json", exclude=shown_apart, exclude_none=True
        )
        if request.reader is not None:
            details["reader"] = self.policy.reader_words(request.reader)
        shown_sql = dict(self.sql)
        if request.evaluates is not None:
            shown_sql["evaluate"] = shown_sql.pop("train")
        return {
            "kind": "training" if request.evaluates is None else "evaluation",
            "initiator": request.initiator,
            "parties": request.hospitals,
            "receivers": request.hospitals,
            "purpose": request.purpose,
            "data": shown_sql,
            "columns": [
                request.unique_id,
                *request.outcome_columns,
                *request.study.plain,
            ],
            "method": request.model_params.encrypt_param.method,
            "scoring": request.scoring or "none",
            "details": details,
        }


@dataclass(frozen=True)
class AgreedTraining(VerifiedTraining, AgreedOrder):
    """A training order that every hospital has accepted."""


def verify_order(party: Party) -> VerifiedTraining:
    """Reads the document and one's own SQL; verifies the initiator's signature.

    Nothing is counted before this has passed: the document is checked field by field as
    at the coordinator, the SQL must be the one that the document commits to, the policy
    must allow the order, and the signature must be that of the initiator's pinned key.
    Raises Refused, BadRequest or ProtocolViolation.
    """
    document = read_document(party)
    protocol = read_protocol(party, document)
    request, commitments = read_order_document(document, party.order_id)
    sql = read_sql(party, commitments)
    check_all(
        lambda: check_rules(policy_rules(party, request)),
        lambda: check_rules(sql_rules(party, request, sql)),
    )
    signed = verify_signature(party, document, request.initiator, protocol=protocol)
    return VerifiedTraining(
        **vars(party), request=request, sql=sql, signed=signed, protocol=protocol
    )


def policy_rules(hospital: Hospital, request: TrainingRequest) -> list[Rule]:
    """By which rules of its policy this hospital does not take part."""
    rules = training_rules(hospital.policy, request, own_user_id=hospital.me)
    rules += reader_rules(hospital, initiator=request.user_id, reader=request.reader)
    if request.compare is not None:
        rules.append(Rule("compare", partial(check_kept, hospital.vault, request)))
    if request.evaluates is not None:
        rules.append(
            Rule("model", partial(check_model, hospital.vault, request, me=hospital.me))
        )
    return rules


def sql_rules(
    hospital: Hospital, request: TrainingRequest, sql: Mapping[str, str]
) -> list[Rule]:
    """Whether each of the order's SQL texts may run here."""
    rules = []
    for sql_text in sql.values():
        rules.append(Rule("sql", partial(checked_sql, hospital, request, sql_text)))
    return rules


def checked_sql(
    hospital: Hospital, request: TrainingRequest, text: str
) -> CheckedQuery:
    """One of the order's SQL texts, as it may run here. Raises as `check_sql`."""
    # Another hospital's user filters on none of them.
    for outcome_column in request.outcome_columns:
        checked = check_sql(
            text,
            policy=hospital.policy,
            requester=request.user_id,
            own_user_id=hospital.me,
            unique_id=request.unique_id,
            label=outcome_column,
            dialect=dialect_of(hospital.settings.data_url),
        )
    return checked


def note_totals(order: AgreedTraining) -> None:
    """Writes into the ledger what the order opens of this hospital's rows."""
    totals = training_totals(order.request)
    n_rows = sum(order.n_rows.values())
    sentences = totals_in_words.words_of(
        totals, n_rows=n_rows, n_hospitals=len(order.n_rows)
    )
    if set(order.pooled) == set(order.request.hospitals):
        thresholds = strictest(order.pooled)
        of_columns = totals_in_words.varying_in_words(order.request, thresholds)
        of_pairs = totals_in_words.pairs_in_words(order.request, thresholds)
        sentences = [*filter(None, (of_columns, of_pairs)), *sentences]
    # All totals of a training order go to the same receivers.
    note_opened(order, sentences, receivers=totals[0].receivers)


def public_key(order: VerifiedTraining) -> bytes:
    """The initiator's key that the coordinator adds with; empty where none is needed."""
    if order.request.model_params.encrypt_param.method != "Paillier":
        return b""
    return paillier.public_to_bytes(private_key(order).public_key)


def private_key(order: VerifiedTraining) -> PaillierPrivateKey:
    """The initiator's Paillier private key for this order.

    It is made once, in the initiator's vault, which it never leaves.
    """
    bits = order.request.model_params.encrypt_param.key_length

    def make() -> bytes:
        return paillier.private_to_bytes(paillier.generate_keys(bits))

    return paillier.private_from_bytes(order.store.once("paillier", make))
