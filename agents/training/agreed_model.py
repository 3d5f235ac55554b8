"""The model that all hospitals of a training order train: its classes, and the weights that it starts from.

`agents.training.trainer` trains it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.order.party import receive, receive_all, send
from agents.training.cohorts import OrderRows, check_model_size, ordered_model
from agents.training.party import AgreedTraining
from analytics.arrays import Floats
from analytics.training.models import Model, initial_weights
from protocol.errors import BadRequest
from protocol.messages import EVERYONE, canonical
from protocol.sums.fixed_point import FixedPoint

MOST_CLASSES = 1000


@dataclass(frozen=True, eq=False)
class AgreedModel:
    """What every hospital of the order holds alike before the first round."""

    model: Model
    start: Floats  # (n_weights,)


def agree_on_model(order: AgreedTraining, rows: OrderRows) -> AgreedModel:
    """All hospitals learn the set of classes that occur, and the weights that training starts from.

    Disclosure: which classes a hospital has, to the other parties, sealed to the group; nothing to the coordinator.
    Raises BadRequest when there is one class over all hospitals, some are numbers and some texts, or the rows times
    the bound overflow the fixed point; Refused when the model is too large for this hospital's policy.
    """
    request = order.request
    FixedPoint(sum(order.n_rows.values()), request.model_params.bound)
    classes = [] if request.model_type == "linear" else _joint_classes(order, rows)
    model = ordered_model(request, classes)
    if request.aggregation != "mean" and not request.is_open and model.n_weights == 1:
        raise BadRequest(
            f"A model of one value has no direction that {request.aggregation} could judge.",
            remedy="Order more attributes, an intercept, or the mean.",
            code="aggregation",
        )
    if model.classes:
        check_model_size(order, rows, model.n_weights)
    return AgreedModel(model, _joint_start(order, model))


def _joint_classes(order: AgreedTraining, rows: OrderRows) -> list[Any]:
    """The classes that occur at any hospital, numbers before texts, each in its order."""
    own = _sorted_classes(_plain(label) for label in rows.train.labels)
    send(order, "classes", lambda: canonical(own).encode(), recipient=EVERYONE)
    messages = receive_all(order, "classes", order.session.members, EVERYONE)
    found: set[int | str] = set()
    for text in messages.values():
        found.update(_read_classes(text))
    classes = _sorted_classes(found)
    if len(classes) < 2:
        raise BadRequest(
            "All rows of all hospitals have the same label, so there is nothing to tell apart.",
            remedy="Choose rows of two classes or more.",
            code="one_class",
        )
    if len({type(label) for label in classes}) > 1:
        raise BadRequest(
            "The label is a whole number at some hospitals and a text at others.",
            remedy="Give it one type everywhere, by a view or a CAST.",
            code="classes",
        )
    return classes


def _sorted_classes(labels: Iterable[Any]) -> list[Any]:
    return sorted(set(labels), key=lambda label: (isinstance(label, str), label))


def _read_classes(text: bytes) -> list[int | str]:
    """A partner's classes: whole numbers or short texts, not more than a model could have."""
    classes = json.loads(text)
    is_list = isinstance(classes, list) and len(classes) <= MOST_CLASSES
    if not is_list or not all(type(label) in (int, str) for label in classes):
        raise BadRequest(
            "A hospital's classes are not at most 1,000 whole numbers or texts.",
            remedy="Order linear for a label that is no class; else compare the hospitals' versions.",
            code="classes",
        )
    return list(classes)


def _plain(label: Any) -> Any:
    return int(label) if isinstance(label, float) and label.is_integer() else label


def _joint_start(order: AgreedTraining, model: Model) -> Floats:
    """Drawn once, by the initiator: another processor could draw other last bits (decision 13)."""
    init = order.request.model_params.init_param

    def draw() -> Floats:
        method = order.request.init_method
        return initial_weights(model, method=method, const=init.init_const, seed=init.random_seed)

    if order.is_initiator:
        send(order, "weights", lambda: draw().astype(">f8").tobytes(), recipient=EVERYONE)
    body = receive(order, "weights", order.request.user_id, EVERYONE)
    weights = np.frombuffer(body, dtype=">f8").astype(np.float64)
    # An initiator could start from weights of its choice, which would show it more of the first gradient.
    own = draw()
    if weights.shape != own.shape or not np.allclose(weights, own, rtol=1e-9, atol=0):
        raise BadRequest(
            "The initiator's initial weights are not those that the order describes.",
            remedy="All hospitals must run the same version; then send the order again.",
            code="initial_weights",
        )
    return weights
