"""The kinds of orders that the form offers, and a request's body as each begins.

No rule of the API stands here: which fields go together is said by its own checks
(`order_form.checked_order`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from protocol.regression_request import COX, NEWTON
from protocol.study import STUDY

STUDIES = "study"
TRAININGS = "training"
EVALUATIONS = "evaluation"
GROUPS = {
    STUDIES: "A study: estimates with confidence intervals",
    TRAININGS: "A training: a model that predicts",
    EVALUATIONS: "An evaluation: a model on new rows",
}


@dataclass(frozen=True)
class Kind:
    """What an order of this kind is, and what its body says when it begins."""

    group: str
    name: str
    about: str
    model_type: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


# As the field offers it; null is the same.
_BY_NEWTON = {"optimizer": NEWTON, "penalty": "None"}
_BY_GRADIENTS = {**STUDY, "penalty": "None", "batch_size": -1}
_OF_IMAGES = {**_BY_GRADIENTS, "shape": [8, 8]}

KINDS = {
    "logistic": Kind(
        STUDIES,
        "Logistic regression",
        "A yes or no outcome: odds ratios with confidence intervals.",
        "lr",
        _BY_NEWTON,
    ),
    "least_squares": Kind(
        STUDIES,
        "Linear regression",
        "A measured outcome: differences of means with confidence intervals.",
        "linear",
        _BY_NEWTON,
    ),
    "glm": Kind(
        STUDIES,
        "Generalised linear model",
        "Counts, rates and skewed outcomes: a family and a link, with weights and offset.",
        "glm",
        {"family": "poisson"},
    ),
    "cox": Kind(
        STUDIES,
        "Cox regression",
        "Time until an event: hazard ratios with confidence intervals.",
        COX,
    ),
    "lr": Kind(
        TRAININGS,
        "Logistic regression",
        "Two classes, by gradient descent.",
        "lr",
        {**_BY_GRADIENTS, "cv_param": {"need_cv": False}},
    ),
    "linear": Kind(
        TRAININGS,
        "Linear regression",
        "A number, by gradient descent.",
        "linear",
        _BY_GRADIENTS,
    ),
    "softmax": Kind(TRAININGS, "Softmax", "Several classes.", "softmax", _BY_GRADIENTS),
    "mlp": Kind(
        TRAININGS,
        "Multilayer perceptron",
        "Classes, by a network.",
        "mlp",
        _BY_GRADIENTS,
    ),
    "cnn": Kind(
        TRAININGS,
        "Convolutional network",
        "Classes of images, a column for each pixel.",
        "cnn",
        _OF_IMAGES,
    ),
    "evaluate": Kind(
        EVALUATIONS,
        "Evaluation of a model",
        "Accuracy, AUC and calibration on rows that it has not seen.",
    ),
}
FIRST = "logistic"

OUTCOME, TIME, EVENT = "y", "time", "event"
"""Names of columns that stand in the form until others are written."""

COLUMNS: dict[str, Any] = {
    "unique_id": "id",
    "attributes": ["x1", "x2", "x3", "x4"],
    "label_name": OUTCOME,
}
_OF_ROWS = (*COLUMNS, "categorical", "derive", "missing", "complete_on")
_OF_ALL = ("user_id", "party_id", "data_info", "purpose")
START = ("start_within_seconds", "at_least")
"""Of all but evaluations."""
READER = "reader"
"""Of all but trainings, which have no report."""


def kind_of(body: Mapping[str, Any]) -> str:
    """The kind of a body that may have been written by hand; "" for none of ours.

    >>> kind_of({"model_type": "lr", "model_params": {"optimizer": "newton"}})
    'logistic'
    >>> kind_of({"model_type": "LR"}), kind_of({"model_id": 37}), kind_of({})
    ('lr', 'evaluate', '')
    """
    if "model_type" not in body:
        return "evaluate" if "model_id" in body else ""
    params = body.get("model_params")
    optimizer = params.get("optimizer") if isinstance(params, dict) else None
    is_newton = str(optimizer).lower() == NEWTON
    model_type = str(body["model_type"]).lower()
    if is_newton and model_type == "lr":
        return "logistic"
    if is_newton and model_type == "linear":
        return "least_squares"
    return model_type if model_type in KINDS else ""


def with_kind(
    body: Mapping[str, Any], name: str, earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """The body as one of another kind: who takes part and which rows stay, what the kind
    itself says is new.

    earlier: a body of before, from which columns come where this one has none, as that
    of an evaluation.
    """
    kind = KINDS[name]
    new_body = {field: body[field] for field in _OF_ALL if field in body}
    if kind.group != TRAININGS and READER in body:
        new_body[READER] = body[READER]
    if kind.group == EVALUATIONS:
        return new_body | {"model_id": body.get("model_id", earlier.get("model_id"))}
    new_body |= {field: body[field] for field in START if field in body}
    new_body["model_type"] = kind.model_type
    # A copy down to its leaves: the form changes it, and KINDS is for all visitors.
    params = json.loads(json.dumps(kind.params))
    params["encrypt_param"] = _protection(body) or _protection(earlier)
    if not params["encrypt_param"]:
        params["encrypt_param"] = {"method": "Paillier"}
    new_body["model_params"] = params
    columns = body if "attributes" in body else earlier
    for field_name in _OF_ROWS:
        field_value = columns.get(field_name, COLUMNS.get(field_name))
        if field_value is not None:
            new_body[field_name] = field_value
    _name_outcome(new_body, kind, columns)
    return new_body


def _protection(body: Mapping[str, Any]) -> dict[str, Any]:
    params = body.get("model_params")
    protection = params.get("encrypt_param") if isinstance(params, dict) else None
    return dict(protection) if isinstance(protection, dict) else {}


def _name_outcome(body: dict[str, Any], kind: Kind, earlier: Mapping[str, Any]) -> None:
    """Of a cox a time and an event; names that nobody has written yet follow the kind."""
    if kind.model_type == COX:
        if body["label_name"] == OUTCOME:
            body["label_name"] = TIME
        body["event_name"] = earlier.get("event_name", EVENT)
    elif body["label_name"] == TIME:
        body["label_name"] = OUTCOME
