"""A kept model, sealed by the initiator to hospitals of an evaluation that did not train
it, for that order alone.

Who trained it decides: all of them take part in such an order, so that the policy of each
one is asked (`receivers`) whether a model of its rows may go to that hospital. The
hospitals' tags of the first sum are of the whole model, so that nobody is sent another
one than the others hold.

Decision 103.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.order.party import receive, send
from agents.training.inference import model_of, weights_of
from agents.training.kept_design import check_reads_alike, design_of
from agents.training.party import AgreedTraining
from analytics.arrays import Floats
from protocol.messages import bad_message, canonical

KIND = "kept_model"

_SENT = (
    *("model_type", "attributes", "unique_id", "label_name", "fit_intercept"),
    *("classes", "hidden", "shape", "layers", "standardize"),
    *("features", "categorical", "derive", "missing", "means"),
    *("event_name", "entry_name", "strata", "family", "link"),
)
"""What applies the model to rows, and no number of how it was trained."""


def evaluated_model(order: AgreedTraining) -> dict[str, Any]:
    """The model that an order evaluates: this hospital's own, or what the initiator has
    sealed to it; the initiator seals it to those who lack it.

    Raises ProtocolViolation (code bad_message) for what is no model of the order.

    Disclosure: the model, to the hospitals that the order's `model_to` names; nothing to
    the coordinator.
    """
    request = order.request
    assert request.evaluates is not None
    if order.me in request.seals_model_to:
        body = receive(
            order,
            KIND,
            request.initiator,
            order.me,
        )
        return _read(order, body)
    stored = order.vault.model(request.evaluates)
    if order.is_initiator:
        message_body = canonical(_sendable(stored)).encode()
        for peer in request.seals_model_to:
            send(
                order,
                KIND,
                lambda: message_body,
                recipient=peer,
            )
    return stored


def _sendable(stored: Mapping[str, Any]) -> dict[str, Any]:
    sendable = {name: stored[name] for name in _SENT if name in stored}
    if "categorical" not in sendable:
        return sendable
    # How many rows had each level stays with those who trained.
    categorical = {}
    for column_name, category in stored["categorical"].items():
        categorical[column_name] = {
            "reference": category["reference"],
            "levels": category["levels"],
            "has_other": category["has_other"],
        }
    sendable["categorical"] = categorical
    return sendable


def _read(order: AgreedTraining, body: bytes) -> dict[str, Any]:
    try:
        stored: dict[str, Any] = json.loads(body)
        check_reads_alike(stored, order.request)
        weights = weights_of(stored)
        n_weights = model_of(stored).n_weights
        design = design_of(stored, order.request.study)
        standardize = stored["standardize"]
        rows = standardize or [[], []]
        scale = np.array(rows, dtype=np.float64)
        means = np.array([*design.means.values()], dtype=np.float64)
        numbers = [weights, scale, means]
        is_finite = all(np.isfinite(values).all() for values in numbers)
        n_features = 0
        if standardize:
            n_features = len(design.features)
        has_shapes = scale.shape == (2, n_features)
        is_whole = len(weights) == n_weights and has_shapes
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise bad_message("of kind kept_model is no model of the order") from None
    # What has another name is none of what was looked at above.
    has_only_sent = set(stored) <= set(_SENT)
    if not (is_finite and is_whole and has_only_sent):
        raise bad_message("of kind kept_model is no model of the order")
    return stored


def state_of(stored: Mapping[str, Any]) -> Floats:
    """What the tags of sums are of: the weights, and of the rest a digest, as numbers."""
    # Who trained has kept more of the model than who was sent it: both have to come to
    # the same digest.
    rest = canonical(_sendable(stored)).encode()
    digest = hashlib.sha256(rest).digest()
    digits = np.frombuffer(digest, dtype=np.uint8)
    of_rest = digits.astype(np.float64)
    weights = weights_of(dict(stored))
    return np.concatenate([weights, of_rest])
