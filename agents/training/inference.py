"""Inference at the hospital: its own model on its own rows, for its own people.

`answer_request` is an inference order, whose answer leaves sealed to who asked; `predict` the work itself, which the
agent's command line calls too. The vault's entry of a model is read by `model_of` and `weights_of`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from agents.order.approval import await_decision, digest_of
from agents.order.party import Party
from agents.rows.allowed_sql import CheckedQuery, check_plain, check_sql
from agents.rows.cohort import build_cohort
from agents.rows.database import dialect_of, open_source
from agents.training.cohorts import warn_of_lost_digits
from analytics.arrays import Floats
from analytics.training import standardization
from analytics.training.models import Model, scores
from protocol.errors import BadRequest, Refused
from protocol.exchange import Address
from protocol.messages import HospitalSql
from protocol.sealing import KEY_BYTES


def answer_request(party: Party, document: str, box: bytes) -> None:
    """Predicts what an inference order asks for and lets the answer out, sealed to the one-time key it names.

    Predictions are kept in the vault; a second request for the same order seals those again. Nothing is read where
    the policy would not let them out. Raises Refused, and what `predict` raises.
    """
    party.policy.check_return_predictions()
    request = _read_document(party, document)
    own = HospitalSql.unseal(party.me, party.identity.open_key, box)
    if own.commitment != request["sql"]:
        raise Refused(
            "The SQL is not the one that the order commits to.",
            remedy="Send it again.",
            code="sql_commitment",
        )
    # decision 7: a second request has another one-time key, and gets the same predictions sealed to it.
    kept = party.vault.predictions(party.order_id)
    if kept is None:
        kept = _make_predictions(party, request, own.sql["infer"])
    predictions = kept["result"]
    party.release.send_predictions(
        lambda: json.dumps(predictions).encode(),
        address=Address(party.order_id, "predictions", attempt=request["attempt"]),
        reply_key=bytes.fromhex(request["reply_key"]),
    )


def _make_predictions(party: Party, request: dict[str, Any], sql: str) -> dict[str, Any]:
    """What the vault then keeps: approved by a person where one is asked, and written in the ledger before rows are
    read."""
    model_id = request["model_id"]
    if not party.policy.inference.expressions:
        check_plain(sql, dialect=dialect_of(party.settings.data_url))
    _await_decision(party, request, sql)
    party.release.ledger.write("answered", order_id=party.order_id, initiator=party.me, model=model_id)
    predictions = predict(party, model_id, sql)
    return party.vault.save_predictions(party.order_id, {"result": predictions})


def _read_document(party: Party, document: str) -> dict[str, Any]:
    """What the coordinator has sent, checked before anything is done with it. Raises Refused (code document)."""
    refusal = Refused(
        "This inference order is not for this hospital.", remedy="Send it again.", code="document"
    )
    try:
        request: dict[str, Any] = json.loads(document)
        is_for_us = (
            request["kind"] == "infer"
            and request["order_id"] == party.order_id
            and request["user_id"] == party.me
        )
        has_numbers = all(
            type(request[name]) is int and request[name] >= 0 for name in ("model_id", "attempt")
        )
        has_key = len(bytes.fromhex(request["reply_key"])) == KEY_BYTES
        is_whole = is_for_us and has_numbers and has_key and "sql" in request
    except (ValueError, KeyError, TypeError, RecursionError):
        raise refusal from None
    if not is_whole:
        raise refusal
    return request


def _await_decision(party: Party, request: dict[str, Any], sql: str) -> None:
    """Bound to what stays the same when the answer is asked for again with another one-time key."""
    stored, _ = _checked_query(party, request["model_id"], sql)
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
        "details": {"model_id": request["model_id"]},
    }
    digest = digest_of("infer", str(party.order_id), str(request["model_id"]), request["sql"])
    await_decision(party, digest, terms)


def predict(party: Party, model_id: int, sql: str) -> list[dict[str, Any]]:
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
        predicted = _apply(stored, model, rows.X)
    except ValueError as error:
        raise BadRequest(
            f"The model cannot be applied to these rows: {error}",
            remedy="Look for values out of range.",
            code="numbers",
        ) from None
    return _entries(model, rows.unique_ids, predicted)


def _checked_query(party: Party, model_id: int, sql: str) -> tuple[dict[str, Any], CheckedQuery]:
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


def _apply(stored: dict[str, Any], model: Model, X: Floats) -> Floats:
    if stored["standardize"]:
        mean, deviation = (np.asarray(values) for values in stored["standardize"])
        X = standardization.standardize(X, mean, deviation)
    weights = weights_of(stored)
    return scores(model, weights, X)


def _entries(model: Model, ids: list[str], predicted: Floats) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for unique_id, values in zip(ids, predicted, strict=True):
        if not model.classes:
            entries.append({"id": unique_id, "label": float(values)})
            continue
        likeliest = model.classes[int(np.argmax(values))]
        probabilities = {}
        for name, value in zip(model.classes, values, strict=True):
            probabilities[str(name)] = float(value)
        entries.append({"id": unique_id, "label": likeliest, "probabilities": probabilities})
    return entries


# A model in the vault


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
    layers = []
    for name in model_of(stored).layers:
        layers.append(np.asarray(stored["layers"][name], dtype=np.float64).ravel())
    return np.concatenate(layers)
