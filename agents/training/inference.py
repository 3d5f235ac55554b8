"""Inference at the hospital: its own model on its own rows, for its own people.

`answer_request` is an inference order, whose answer leaves sealed to who asked;
`predict` the work itself, which the agent's command line calls too. The vault's entry
of a model is read by `model_of` and `weights_of`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from agents.gate.asked_sets import AskedSet, AuditRules, asked_sets
from agents.gate.cohort_audit import reserve
from agents.gate.kept_sets import COORDINATOR, NO_SUM
from agents.gate.memory import Memory
from agents.order.answers import send_answer
from agents.order.approval import await_decision, digest_of
from agents.order.party import Hospital, Party
from agents.rows.allowed_sql import CheckedQuery, check_plain, check_sql
from agents.rows.cohort import Cohort, check_enough_rows
from agents.rows.database import dialect_of
from agents.rows.reading import open_query, open_values
from agents.rows.unique_ids import id_order
from agents.training.cohorts import warn_of_lost_digits
from agents.training.inference_document import read_document, read_values
from agents.training.kept_design import (
    ApplicableRows,
    applicable_rows,
    features_of,
    study_of,
)
from analytics.arrays import Floats
from analytics.training import standardization
from analytics.training.cox_report import partial_hazard
from analytics.training.margins import scores
from analytics.training.models import Model
from protocol.errors import BadRequest, Refused, Rule, check_rules
from protocol.exchange import Address
from protocol.messages import HospitalSql
from protocol.policy import Policy


def answer_request(
    party: Party,
    document: str,
    box: bytes,
) -> None:
    """Predicts what an inference order asks for, and sends the answer to who asked.

    It is sealed to the reader's own key, or to the one-time key that the order names.
    Predictions are kept in the vault; a second request for the same order seals those
    again, to nobody else. Nothing is read where the policy would not let them out.
    Raises Refused, and what `predict` raises.
    """
    request = read_document(party, document)
    reader: str | None = request.get("reader")
    _check_way(party.policy, reader)
    own_sql = HospitalSql.unseal(party.me, party.identity.open_key, box)
    if own_sql.commitment != request["sql"]:
        raise Refused(
            "The SQL is not the one that the order commits to.",
            remedy="Send it again.",
            code="sql_commitment",
        )
    # decision 7: a second request has another one-time key, and gets the same
    # predictions sealed to it.
    kept_answer = party.vault.predictions(party.order_id)
    if kept_answer is None:
        kept_answer = _make_predictions(party, request, own_sql.sql)
    # A person may have approved the order for one reader: a coordinator that names
    # another one, or a key of its own, gets nothing.
    if kept_answer.get("reader") != reader:
        raise Refused(
            "The predictions of this order were made for another reader.",
            remedy="Ask for them by an order of its own.",
            code="reader",
        )
    predictions = kept_answer["result"]
    if reader is not None:
        send_answer(party, "predictions", lambda: predictions, reader=reader)
        return
    address = Address(
        party.order_id,
        "predictions",
        attempt=request["attempt"],
    )
    party.release.send_predictions(
        lambda: json.dumps(predictions).encode(),
        address=address,
        reply_key=bytes.fromhex(request["reply_key"]),
    )


def _make_predictions(
    party: Party,
    request: dict[str, Any],
    row_source: Mapping[str, str],
) -> dict[str, Any]:
    """What the vault then keeps.

    row_source: "infer", the SQL of rows of this hospital, or "rows", values that came
    with the request. A person has approved it where one is asked, and the ledger has it
    before rows are read.
    """
    model_id = request["model_id"]
    sql = row_source.get("infer")
    reader: str | None = request.get("reader")
    check_rules(request_rules(party, model_id, row_source, reader=reader))
    values = [] if sql is not None else read_values(row_source)
    _await_decision(party, request, row_source)
    party.release.ledger.write(
        "answered", order_id=party.order_id, initiator=party.me, model=model_id
    )
    if sql is None:
        # Of nobody in a table: no answer about this hospital's rows is told.
        entries = predict_values(party, model_id, values)
        answer = {"result": entries, "reader": reader}
        return party.vault.save_predictions(party.order_id, answer)
    memory = Memory(party.vault.cohorts)
    predicted = _predict(party, model_id, sql, key=memory.key)
    # The coordinator has not seen those that are sealed to a reader.
    if reader is None and _coordinator_opens_totals(party.policy):
        _remember(party, predicted, memory)
    answer = {"result": predicted.entries, "reader": reader}
    return party.vault.save_predictions(party.order_id, answer)


def _check_way(policy: Policy, reader: str | None) -> None:
    """Refuse a way by which no prediction may leave."""
    if reader is None:
        policy.check_return_predictions()
    else:
        policy.check_reader(reader)


def request_rules(
    hospital: Hospital,
    model_id: int,
    row_source: Mapping[str, str],
    *,
    reader: str | None = None,
) -> list[Rule]:
    """What decides whether this hospital answers a request that came through the
    coordinator, before a row is read.
    """
    policy = hospital.policy
    sql = row_source.get("infer")
    way = "return_predictions" if reader is None else "reader"
    rules = [
        Rule(way, lambda: _check_way(policy, reader)),
        Rule("inference", policy.check_inference),
    ]
    if sql is None:
        rules.append(Rule("rows", policy.check_inference_rows))
    elif not policy.inference.expressions:
        dialect = dialect_of(hospital.settings.data_url)
        rules.append(Rule("expressions", lambda: check_plain(sql, dialect=dialect)))
    rules.append(Rule("no_model", lambda: hospital.vault.model(model_id)))
    return rules


def answer_anew(
    hospital: Hospital,
    model_id: int,
    row_source: Mapping[str, str],
) -> ApplicableRows:
    """The rows that a request is for, of which all was predicted and nothing is kept or
    told. Raises as `answer_request`, whose rules have passed before.
    """
    if "infer" in row_source:
        stored, checked = _checked_query(hospital, model_id, row_source["infer"])
        applicable = _read_applicable(hospital, stored, checked, key=None)
    else:
        stored = _stored_model(hospital, model_id)
        applicable = _applicable_values(hospital, stored, read_values(row_source))
    _answered(stored, applicable)
    return applicable


def _coordinator_opens_totals(policy: Policy) -> bool:
    """Whether there can be any that predictions could be taken off."""
    discloses = policy.statistics is not None and policy.statistics.disclose
    return "None" in policy.orders.methods or discloses


def _remember(party: Party, predicted: _Predicted, memory: Memory) -> None:
    """Of whom the coordinator has predictions counts as told to it, under each
    attribute.

    A prediction is one person's value, which `return_predictions` lets out: the audit
    refuses none. Who does not pass it is not remembered, because what counts as told
    lets other totals pass that tell the same few people.
    """
    members = predicted.rows.members
    assert members is not None, "read with a key"
    reserved_sets: list[AskedSet] = []
    for table in predicted.tables:
        reserved_sets += asked_sets(
            members,
            party.policy,
            population=table,
            columns=list(members.values),
            rows={"predictions": np.arange(predicted.rows.n_rows)},
            parts={},
        )
    min_rows = max(party.policy.rows(name).min_rows for name in predicted.tables)
    rules = AuditRules(
        min_rows=min_rows,
        # Of this hospital alone, and openly so.
        least_hospitals=NO_SUM,
        budget_days=party.policy.cohort.budget_days,
    )
    try:
        reserve(
            memory,
            reserved_sets,
            receivers=[COORDINATOR],
            order_id=party.order_id,
            rules=rules,
            has_ended=party.vault.has_ended,
            now=datetime.now(UTC),
        )
    except Refused:
        return
    memory.commit(party.order_id)


def _await_decision(
    party: Party,
    request: dict[str, Any],
    row_source: Mapping[str, str],
) -> None:
    """Waits for a person's decision, where the policy asks for one.

    It is bound to what stays the same when the answer is asked for again with another
    one-time key.
    """
    model_id = request["model_id"]
    if "infer" in row_source:
        stored, _ = _checked_query(party, model_id, row_source["infer"])
    else:
        stored = _stored_model(party, model_id)
    terms = {
        "kind": "inference",
        "initiator": party.me,
        "parties": [party.me],
        "receivers": [party.me],
        "purpose": "",
        "data": dict(row_source),
        "columns": [stored["unique_id"], *study_of(stored).plain],
        "method": stored["model_type"],
        "scoring": "none",
        "details": {"model_id": model_id},
    }
    commitment = request["sql"]
    bound_terms = [
        "infer",
        str(party.order_id),
        str(model_id),
        commitment,
    ]
    if "reader" in request:
        terms["details"] = {
            "model_id": model_id,
            "reader": party.policy.reader_words(request["reader"]),
        }
        bound_terms.append(request["reader"])
    digest = digest_of(*bound_terms)
    await_decision(party, digest, terms)


def predict(
    party: Party,
    model_id: int,
    sql: str,
) -> list[dict[str, Any]]:
    """One entry a row, in order of ids: {"id", "label"}.

    label is the probability of class 1 (lr), the value (linear), the linear predictor
    about the joint mean (cox, with "partial_hazard", its exp) or the class. A model
    of classes adds "probabilities" by class. Of a row that the model cannot be applied
    to, label (and "probabilities") is None and "reason" says why: it has no value in a
    column, or a level that the model does not know. Raises NotFound without such a
    model, BadRequest for missing columns or no rows, Refused where the policy does not
    allow inference.

    Disclosure: predictions; they stay in the vault unless the policy lets them be
    returned.
    """
    return _predict(party, model_id, sql, key=None).entries


def predict_values(
    party: Party,
    model_id: int,
    rows: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The same for values that stand in no database: of each row the model's columns,
    and the unique id where the rows have one, else their places from 1.

    Disclosure: what the model says of any values; whoever asks often enough has the
    model.
    """
    stored = _stored_model(party, model_id)
    return _answered(stored, _applicable_values(party, stored, rows))


def _applicable_values(
    hospital: Hospital,
    stored: dict[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> ApplicableRows:
    with open_values(
        hospital.settings,
        rows,
        unique_id=stored["unique_id"],
        columns=study_of(stored).read,
    ) as dataset:
        return applicable_rows(dataset, stored)


@dataclass(frozen=True, eq=False)
class _Predicted:
    """Predictions, and of whom they are."""

    entries: list[dict[str, Any]]
    rows: Cohort
    tables: tuple[str, ...]


def _predict(
    party: Party,
    model_id: int,
    sql: str,
    *,
    key: bytes | None,
) -> _Predicted:
    """As `predict`; with a key the rows have their members."""
    stored, checked = _checked_query(party, model_id, sql)
    applicable = _read_applicable(party, stored, checked, key=key)
    warn_of_lost_digits(party, applicable.cohort, model_id=model_id)
    return _Predicted(_answered(stored, applicable), applicable.cohort, checked.tables)


def _read_applicable(
    hospital: Hospital,
    stored: dict[str, Any],
    checked: CheckedQuery,
    *,
    key: bytes | None,
) -> ApplicableRows:
    with open_query(
        hospital.settings,
        checked,
        unique_id=stored["unique_id"],
        columns=study_of(stored).read,
    ) as dataset:
        check_enough_rows(dataset.n_rows, 0)
        return applicable_rows(
            dataset,
            stored,
            key=key,
        )


def _answered(
    stored: dict[str, Any], applicable: ApplicableRows
) -> list[dict[str, Any]]:
    """An entry for each row, in order of ids."""
    model = model_of(stored)
    rows = applicable.cohort
    entries: dict[str, dict[str, Any]] = {}
    for unique_id, reason in applicable.reasons.items():
        entries[unique_id] = _unanswered(model, unique_id, reason)
    if rows.n_rows:
        try:
            predicted = _apply(stored, model, rows.X)
        except ValueError as error:
            raise BadRequest(
                f"The model cannot be applied to these rows: {error}",
                remedy="Look for values out of range.",
                code="numbers",
            ) from None
        for entry in _entries(model, rows.unique_ids, predicted):
            entries[entry["id"]] = entry
    ids = list(entries)
    return [entries[ids[place]] for place in id_order(ids)]


def _unanswered(model: Model, unique_id: str, reason: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": unique_id, "label": None}
    if model.classes:
        entry["probabilities"] = None
    if model.kind == "cox":
        entry["partial_hazard"] = None
    entry["reason"] = reason
    return entry


def _checked_query(
    hospital: Hospital,
    model_id: int,
    sql: str,
) -> tuple[dict[str, Any], CheckedQuery]:
    """The stored model, and the SQL where the policy lets it run; no row is read."""
    stored = _stored_model(hospital, model_id)
    checked = check_sql(
        sql,
        policy=hospital.policy,
        requester=hospital.me,
        own_user_id=hospital.me,
        unique_id=stored["unique_id"],
        label=None,
        dialect=dialect_of(hospital.settings.data_url),
    )
    return stored, checked


def _stored_model(hospital: Hospital, model_id: int) -> dict[str, Any]:
    """Where the policy lets it be applied."""
    hospital.policy.check_inference()
    return hospital.vault.model(model_id)


def _apply(stored: dict[str, Any], model: Model, X: Floats) -> Floats:
    """The model's scores of rows as they came."""
    if stored["standardize"]:
        mean, deviation = stored["standardize"]
        X = standardization.standardize(
            X,
            np.asarray(mean),
            np.asarray(deviation),
        )
    weights = weights_of(stored)
    return scores(model, weights, X)


def _entries(
    model: Model,
    ids: Sequence[str],
    predicted: Floats,
) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for unique_id, row_values in zip(ids, predicted, strict=True):
        entry: dict[str, Any] = {"id": unique_id}
        if model.classes:
            likeliest = int(np.argmax(row_values))
            probabilities = {}
            for class_label, probability in zip(model.classes, row_values, strict=True):
                probabilities[str(class_label)] = float(probability)
            entry["label"] = model.classes[likeliest]
            entry["probabilities"] = probabilities
        elif np.isnan(row_values):
            entry = _unanswered(
                model, unique_id, f"a mean that {model.family} does not know"
            )
        else:
            entry["label"] = float(row_values)
            if model.kind == "cox":
                entry["partial_hazard"] = partial_hazard(entry["label"])
        entries.append(entry)
    return entries


# A model in the vault


def model_of(stored: dict[str, Any]) -> Model:
    """The model that a vault's entry describes."""
    return Model(
        stored["model_type"],
        len(features_of(stored)),
        stored["fit_intercept"],
        tuple(stored["classes"]),
        tuple(stored.get("hidden", ())),
        tuple(stored.get("shape", ())),
        stored.get("family", ""),
        stored.get("link", ""),
        stored.get("theta", math.inf),
    )


def weights_of(stored: dict[str, Any]) -> Floats:
    """The flat vector of a vault's entry."""
    vectors = []
    # In the model's order, not in that of the file.
    for layer_name in model_of(stored).layers:
        layer_values = np.asarray(stored["layers"][layer_name], dtype=np.float64)
        vectors.append(layer_values.ravel())
    return np.concatenate(vectors)
