"""The model that all hospitals of an order train: its classes, and its first weights.

`agents.training.fold` trains it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.order.party import receive, say_to_all, send
from agents.training.agreed_levels import Coding
from agents.training.party import AgreedTraining
from agents.training.row_gate import check_model_size
from agents.training.row_sets import OrderRows, ordered_model
from analytics.arrays import Floats
from analytics.labels import ClassWarning, class_warnings
from analytics.training.initial_weights import initial_weights
from analytics.training.models import Model
from protocol.errors import BadRequest
from protocol.messages import EVERYONE, bad_message, canonical
from protocol.sums.fixed_point import FixedPoint
from protocol.training_request import MOST_CLASSES

log = logging.getLogger("consilium.data")


@dataclass(frozen=True, eq=False)
class AgreedModel:
    """What every hospital of the order holds alike before the first round."""

    model: Model
    start: Floats  # (n_weights,)
    # What is odd about the classes. The sentences name classes, which the coordinator
    # does not know: they are for the people of the hospitals only.
    class_warnings: tuple[ClassWarning, ...] = ()


def agree_on_model(
    order: AgreedTraining,
    rows: OrderRows,
    coding: Coding,
) -> AgreedModel:
    """All hospitals learn which classes occur, and the weights that training starts from.

    coding: of the model's columns, as all have agreed on it.

    Disclosure: which classes a hospital has, to the other parties, sealed to the group;
    nothing to the coordinator. Raises BadRequest when there is one class over all
    hospitals, some are numbers and some texts, or the rows times the bound overflow the
    fixed point; Refused when the model is too large for this hospital's policy.
    """
    request = order.request
    # Made for its refusal alone: the rows times the bound have to fit.
    FixedPoint(sum(order.n_rows.values()), request.model_params.bound)
    classes: list[Any] = []
    warnings: list[ClassWarning] = []
    if request.has_class_label:
        classes_of = classes_by_hospital(order, rows)
        warnings = class_warnings(classes_of)
        for warning in warnings:
            log.warning("order_id %s: %s", order.order_id, warning.sentence)
        classes = joint_classes(classes_of)
    n_features = coding.n_features(request.study) + len(request.site_features)
    model = ordered_model(
        request,
        classes,
        n_features=n_features,
    )
    # Of a sealed order the coordinator judges directions, and one value has none.
    judges_directions = request.aggregation != "mean" and not request.is_open
    if judges_directions and model.n_weights == 1:
        raise BadRequest(
            f"A model of one value has no direction that {request.aggregation} could judge.",
            remedy="Order more attributes, an intercept, or the mean.",
            code="aggregation",
        )
    if model.classes or n_features > len(request.attributes):
        because = coding.largest()
        check_model_size(
            order,
            rows,
            model.n_weights,
            because=because,
        )
    return AgreedModel(
        model,
        _joint_start(order, model),
        tuple(warnings),
    )


def classes_by_hospital(
    order: AgreedTraining, rows: OrderRows
) -> dict[int, list[int | str]]:
    """The classes that each hospital of the order has, by its number."""
    own_classes = _sorted_classes(_plain(label) for label in rows.train.labels)
    messages = say_to_all(order, "classes", lambda: canonical(own_classes).encode())
    return {hospital: _read_classes(body) for hospital, body in messages.items()}


def joint_classes(classes_of: Mapping[int, Sequence[int | str]]) -> list[Any]:
    """The classes that occur at any hospital, numbers before texts, each in its order."""
    all_classes: set[int | str] = set()
    for own_classes in classes_of.values():
        all_classes.update(own_classes)
    classes = _sorted_classes(all_classes)
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
    def numbers_first(label: Any) -> tuple[bool, Any]:
        return (isinstance(label, str), label)

    return sorted(set(labels), key=numbers_first)


def _read_classes(text: bytes) -> list[int | str]:
    """A partner's classes: whole numbers or texts, not more than a model could have."""
    try:
        classes = json.loads(text)
    except (ValueError, RecursionError):
        # Of a partner's bytes nothing may come out as an error that nobody planned.
        raise bad_message("of classes is no JSON") from None
    is_list = isinstance(classes, list) and len(classes) <= MOST_CLASSES
    if not is_list or not all(type(label) in (int, str) for label in classes):
        raise BadRequest(
            f"A hospital's classes are not at most {MOST_CLASSES:,} whole numbers or texts.",
            remedy="Order linear for a label that is no class; else compare the hospitals' versions.",
            code="classes",
        )
    return list(classes)


def _plain(label: Any) -> Any:
    """A label as JSON holds it alike at every hospital: 1.0 is the class 1."""
    if isinstance(label, float) and label.is_integer():
        return int(label)
    return label


def _joint_start(order: AgreedTraining, model: Model) -> Floats:
    """The weights that training starts from, drawn once, by the initiator.

    Another processor could draw other last bits (decision 13).
    """
    init = order.request.model_params.init_param

    def draw() -> Floats:
        return initial_weights(
            model,
            method=order.request.init_method,
            const=init.init_const,
            seed=init.random_seed,
        )

    def encode_drawn() -> bytes:
        return draw().astype(">f8").tobytes()

    if order.is_initiator:
        send(
            order,
            "weights",
            encode_drawn,
            recipient=EVERYONE,
        )
    weights_body = receive(
        order,
        "weights",
        order.request.user_id,
        EVERYONE,
    )
    if len(weights_body) % np.dtype(">f8").itemsize:
        raise bad_message("of initial weights is no list of them")
    weights = np.frombuffer(weights_body, dtype=">f8").astype(np.float64)
    # An initiator could start from weights of its choice, which would show it more of
    # the first gradient.
    own_draw = draw()
    is_own = weights.shape == own_draw.shape
    if is_own:
        is_own = np.allclose(
            weights,
            own_draw,
            rtol=1e-9,
            atol=0,
        )
    if not is_own:
        raise BadRequest(
            "The initiator's initial weights are not those that the order describes.",
            remedy="All hospitals must run the same version; then send the order again.",
            code="initial_weights",
        )
    return weights
