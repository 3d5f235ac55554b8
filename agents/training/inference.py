"""Inference at the hospital: its own model on its own rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from agents.order.approval import await_decision, digest_of
from agents.rows.allowed_sql import CheckedQuery, check_plain, check_sql
from agents.rows.cohort import build_cohort
from agents.rows.database import dialect_of, open_source
from agents.training.cohorts import warn_of_lost_digits
from agents.training.party import TrainingParty
from analytics.arrays import Floats
from analytics.training import standardization
from analytics.training.models import Model, scores
from protocol.errors import BadRequest, Refused
from protocol.exchange import Address
from protocol.messages import HospitalSql
from protocol.sealing import KEY_BYTES


def predict(party: TrainingParty, model_id: int, sql: str) -> list[dict[str, Any]]:
    """One entry a row: {"id", "label"}; label is the probability of class 1 (lr), the value (linear) or the class.

    A model of classes adds "probabilities" by class. Raises NotFound without such a model, BadRequest for missing
    columns, NULLs or no rows, Refused where the policy does not allow inference.

    Disclosure: predictions; they stay in the vault unless the policy lets them be returned.
    """
    stored, checked = _checked_query(party, model_id, sql)
    model = model_of(stored)
    source = open_source(
        party.settings.data_url,
        statement_timeout_seconds=party.settings.statement_timeout_seconds,
        max_rows=party.settings.max_rows,
    )
    rows = build_cohort(
        source.read(checked),
        unique_id=stored["unique_id"],
        attributes=stored["attributes"],
        label_name=None,
        model_type=model.kind,
    )
    warn_of_lost_digits(party, rows, model_id=model_id)
    try:
        return _entries(model, rows.unique_ids, _apply(stored, model, rows.X))
    except ValueError as error:
        raise BadRequest(
            f"The model cannot be applied to these rows: {error}",
            remedy="Look for values out of range.",
            code="numbers",
        ) from None


def _checked_query(party: TrainingParty, model_id: int, sql: str) -> tuple[dict[str, Any], CheckedQuery]:
    """The stored model, and the SQL where the policy lets it run; no row is read."""
    party.policy.check_inference()
    stored = party.vault.model(model_id)
    checked = check_sql(
        sql,
        policy=party.policy,
        requester=party.me,
        own_user_id=party.me,
        unique_id=stored["unique_id"],
        label=None,
        dialect=dialect_of(party.settings.data_url),
    )
    return stored, checked


def model_of(stored: dict[str, Any]) -> Model:
    """The model that a vault's entry describes."""
    return Model(
        stored["model_type"],
        len(stored["attributes"]),
        stored["fit_intercept"],
        tuple(stored["classes"]),
        tuple(stored.get("hidden", ())),
        tuple(stored.get("shape", ())),
    )


def weights_of(stored: dict[str, Any]) -> Floats:
    """The flat vector of a vault's entry: its layers in the model's order, not in that of the file."""
    layers = (stored["layers"][name] for name in model_of(stored).layers)
    return np.concatenate([np.asarray(values, dtype=np.float64).ravel() for values in layers])


def _apply(stored: dict[str, Any], model: Model, X: Any) -> Any:
    if stored["standardize"]:
        X = standardization.standardize(X, *(np.asarray(values) for values in stored["standardize"]))
    return scores(model, weights_of(stored), X)


def _entries(model: Model, ids: list[str], values: Any) -> list[dict[str, Any]]:
    if not model.classes:
        return [{"id": text, "label": float(value)} for text, value in zip(ids, values, strict=True)]
    return [
        {
            "id": text,
            "label": model.classes[int(np.argmax(row))],
            "probabilities": {str(name): float(p) for name, p in zip(model.classes, row, strict=True)},
        }
        for text, row in zip(ids, values, strict=True)
    ]


def _read_document(party: TrainingParty, document: str) -> dict[str, Any]:
    """The coordinator's words, checked before anything is done with them."""
    try:
        order: dict[str, Any] = json.loads(document)
        is_own = (
            order["kind"] == "infer" and order["order_id"] == party.order_id and order["user_id"] == party.me
        )
        whole = all(type(order[name]) is int and order[name] >= 0 for name in ("model_id", "attempt"))
        if is_own and whole and len(bytes.fromhex(order["reply_key"])) == KEY_BYTES and "sql" in order:
            return order
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise Refused("This inference order is not for this hospital.", remedy="Send it again.", code="document")


def _await_approval(party: TrainingParty, order: dict[str, Any], sql: str) -> None:
    """Bound to what stays the same when the answer is asked for again with another one-time key."""
    stored, _ = _checked_query(party, order["model_id"], sql)
    terms = {
        "kind": "inference",
        "initiator": party.me,
        "parties": [party.me],
        "receivers": [party.me],
        "purpose": "",
        "data": {"infer": sql},
        "columns": [stored["unique_id"], *stored["attributes"]],
        "method": stored["model_type"],
        "scoring": "none",
        "details": {"model_id": order["model_id"]},
    }
    digest = digest_of("infer", str(party.order_id), str(order["model_id"]), order["sql"])
    await_decision(party, digest, terms)


def answer_request(party: TrainingParty, document: str, box: bytes) -> None:
    """Predicts what an inference order asks for and lets the answer out, sealed to the one-time key it names.

    Predictions are kept in the vault; a second request for the same order seals those again. Nothing is read where
    the policy would not let them out. Raises Refused, and what `predict` raises.
    """
    party.policy.check_return_predictions()
    order = _read_document(party, document)
    own = HospitalSql.unseal(party.me, party.identity.open_key, box)
    if own.commitment != order["sql"]:
        raise Refused(
            "The SQL is not the one that the order commits to.",
            remedy="Send it again.",
            code="sql_commitment",
        )
    kept = party.vault.predictions(party.order_id)
    if kept is None:
        if not party.policy.inference.expressions:
            check_plain(own.sql["infer"], dialect=dialect_of(party.settings.data_url))
        _await_approval(party, order, own.sql["infer"])
        party.release.ledger.write(
            "answered", order_id=party.order_id, initiator=party.me, model=order["model_id"]
        )
        predicted = predict(party, order["model_id"], own.sql["infer"])
        kept = party.vault.save_predictions(party.order_id, {"result": predicted})
    result = kept["result"]
    party.release.send_predictions(
        lambda: json.dumps(result).encode(),
        address=Address(party.order_id, "predictions", attempt=order["attempt"]),
        reply_key=bytes.fromhex(order["reply_key"]),
    )
