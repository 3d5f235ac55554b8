"""Which messages the hospitals of an order can have to send, and how large: what the
coordinator takes follows from the order's document, not from who sends.

A plan has for each kind the folds and rounds that there can be, who sends it, and a
bound of its bytes by the model's size; for all of one sender's messages together a
bound of what may lie there at one time. The bounds are generous, since a message that
is refused ends an order: they keep out what no order needs, such as rounds that it does
not have.

    most_bytes = 64 KiB + 4 KiB * hospitals + word_bytes * (weights + words of counts)

Decision 83.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from analytics.statistics.derived import MOST_KNOTS
from analytics.statistics.quantiles import MOST_ROUNDS
from analytics.training import cox_joint
from analytics.training.models import CLASSIFIERS, Model
from analytics.training.newton import n_sums
from protocol.errors import Forbidden
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE, KINDS, PAIR
from protocol.readers import TOPIC
from protocol.statistics_request import (
    SUMS_OF_DESCRIBE,
    StatisticsRequest,
    read_statistics_document,
)
from protocol.study_rows import MOST_LEVELS
from protocol.sums.limbs import N_LIMBS
from protocol.training_request import (
    MOST_CLASSES,
    MOST_GROUPS,
    TrainingRequest,
    folds,
    read_order_document,
)

Senders = Literal["all", "initiator"]

BOXES = ("predictions", "values", TOPIC)
"""Messages that outlive their order (decision 7).

What a hospital has sealed to the one-time key of who asked, or to a reader's own.
"""

MOST_ATTEMPTS = 1_000
"""At an answer that nobody could open any more."""

MOST_OPENED = 100_000
"""Values that are opened one after the other in a computation on shares."""

POOLED_BYTES = 2**25
"""Of one message of sums over all rows; of all that one sender has there, twice that."""

_BASE_BYTES = 2**16
_BYTES_OF_HOSPITAL = 2**12
_WORD_BYTES = 64
"""Of a weight: 8 as a word, below 32 in a packed ciphertext, below 32 in JSON."""

_COUNT_WORDS = 4_096
"""Histograms, losses and counts of calls, at a fold's end."""

# By kind of message of a training order. One for each order, each fold, each round.
_OF_ORDER: dict[str, Senders] = {
    "order": "initiator",
    "acceptance": "all",
    "party": "initiator",
    "setup": "initiator",
    "kept_model": "initiator",
    "levels": "all",
    "other_levels": "all",
    "design": "all",
    "opening-design": "initiator",
    "flow": "all",
    "classes": "all",
    "own_metrics": "all",
    "weights": "initiator",
    "public_key": "initiator",
    "compared": "all",
    "cell_share": "all",
    "done": "all",
}
_OF_FOLD: dict[str, Senders] = {
    "mean": "all",
    "opening-mean": "initiator",
    "variance": "all",
    "opening-variance": "initiator",
    "pooled": "initiator",
    "own_sums": "all",
}
_OF_ROUND: dict[str, Senders] = {
    "vectors": "all",
    "gradient": "all",
    "opening-gradient": "initiator",
}
# Of an order of joint statistics.
_OF_QUESTION: dict[str, Senders] = {
    "order": "initiator",
    "acceptance": "all",
    "party": "initiator",
    "setup": "initiator",
    "public_key": "initiator",
    "cell_tags": "all",
    "cell_digest": "all",
    "cell_share": "all",
    "unmask": "all",
    "tags": "all",
    "matched": "all",
    "types": "all",
    "share": "all",
    "keys": "all",
    "report": "all",
    "done": "all",
}


@dataclass(frozen=True)
class Room:
    """What messages of one kind there can be."""

    senders: Senders
    most_bytes: int  # of one message, envelope included
    last_fold: int = 0
    last_round: int = 0
    last_attempt: int = 0


@dataclass(frozen=True)
class MessagePlan:
    """The messages that hospitals can have to send in one order."""

    hospitals: tuple[int, ...]
    initiator: int
    kinds: Mapping[str, Room]
    held_bytes: int  # that one sender may have there at one time
    # So many more for each byte that the coordinator itself has dealt: by that it says
    # how much there is to compute on shares.
    held_by_dealt: int = 0

    def room_for(self, address: Address, sender: int, recipient: int) -> Room:
        """What such a message may be.

        Forbidden (code no_such_message) where the order has none.
        """
        room = self.kinds.get(address.topic)
        if room is None:
            raise _none_such(f"of kind {address.topic}")
        places = (
            ("fold", address.fold, room.last_fold),
            ("round", address.round, room.last_round),
            ("attempt", address.attempt, room.last_attempt),
        )
        for name, number, last in places:
            if number > last:
                raise _none_such(f"{address.topic} of {name} {number}, only to {last}")
        if room.senders == "initiator" and sender != self.initiator:
            raise _none_such(f"{address.topic} of hospital {sender}")
        if recipient not in self._recipients(address.topic, sender):
            raise _none_such(f"{address.topic} for {recipient}")
        return room

    def _recipients(self, topic: str, sender: int) -> set[int]:
        if KINDS.get(topic) == PAIR:
            return set(self.hospitals) - {sender}
        return {COORDINATOR, EVERYONE}


def _none_such(description: str) -> Forbidden:
    return Forbidden(
        f"This order has no message {description}.",
        remedy="Update the agent: GET /hospitals says whether it lags.",
        code="no_such_message",
    )


def plan_of(
    kind: str, order_id: int, document: str, *, most_bytes: int
) -> MessagePlan | None:
    """The plan of an order by its kind and document; `most_bytes` bounds one message in
    any case. None for an order without messages.
    """
    if kind in ("train", "evaluate"):
        request, _ = read_order_document(document, order_id)
        return training_plan(request, most_bytes=most_bytes)
    if kind == "statistics":
        question = read_statistics_document(document, order_id).request
        return statistics_plan(question, most_bytes=most_bytes)
    return None


def inference_plan(hospital: int, *, most_bytes: int) -> MessagePlan:
    """One box, in as many attempts as somebody asks."""
    box_room = Room("all", most_bytes, last_attempt=MOST_ATTEMPTS)
    kinds = {"predictions": box_room, TOPIC: Room("all", most_bytes)}
    return MessagePlan((hospital,), hospital, kinds, most_bytes)


def training_plan(request: TrainingRequest, *, most_bytes: int) -> MessagePlan:
    """By the number of folds and rounds, and the model's size."""
    last_fold = max(folds(request))
    max_iter = request.model_params.max_iter
    room_bytes = min(_bytes_of_sum(request), most_bytes)
    kinds = {}
    for kind, senders in _OF_ORDER.items():
        kinds[kind] = Room(senders, room_bytes)
    for kind, senders in _OF_FOLD.items():
        kinds[kind] = Room(senders, room_bytes, last_fold)
    for kind, senders in _OF_ROUND.items():
        kinds[kind] = Room(senders, room_bytes, last_fold, max_iter)
    # Thresholds on the sum are compared on shares.
    kinds["opened"] = Room("all", room_bytes, last_round=MOST_OPENED)
    # An evaluation's curves are by subgroup, and as long as the hospitals have rows.
    answer_bytes = 0 if request.reader is None else most_bytes
    if answer_bytes:
        kinds[TOPIC] = Room("initiator", answer_bytes)
    # Of rounds only those under way lie there: the coordinator drops the earlier ones.
    n_of_folds = (len(_OF_FOLD) + len(_OF_ROUND)) * (last_fold + 1)
    n_held = len(_OF_ORDER) + n_of_folds + 2 * len(_OF_ROUND)
    # One setup for each of the others.
    n_held += len(request.hospitals)
    return MessagePlan(
        hospitals=tuple(request.hospitals),
        initiator=request.user_id,
        kinds=kinds,
        held_bytes=n_held * room_bytes + answer_bytes,
        held_by_dealt=8,
    )


def statistics_plan(request: StatisticsRequest, *, most_bytes: int) -> MessagePlan:
    """By the method: the number of groups and rows is the hospitals' own."""
    room_bytes = most_bytes if request.is_joined else min(POOLED_BYTES, most_bytes)
    kinds = {kind: Room(senders, room_bytes) for kind, senders in _OF_QUESTION.items()}
    if request.rows.categorical:
        kinds["levels"] = kinds["other_levels"] = Room("all", room_bytes)
    # Statements are made again where thresholds on the sum cannot be compared.
    kinds["statement"] = Room("all", room_bytes, last_round=1)
    # One round counts all rows, the others those below pivots; an empty one ends them.
    # Of describe a sum of numbers and one of counts go before, and are opened by others.
    last_round = MOST_ROUNDS + 1
    if request.describes:
        last_round += SUMS_OF_DESCRIBE
        kinds["unmask"] = Room("all", room_bytes, last_round=1)
    kinds["addend"] = Room("all", room_bytes, last_round=last_round)
    kinds["pivots"] = Room("all", room_bytes, last_round=last_round)
    kinds["opened"] = Room("all", room_bytes, last_round=MOST_OPENED)
    kinds["values"] = Room("all", most_bytes, last_attempt=MOST_ATTEMPTS)
    if request.reader is not None:
        kinds[TOPIC] = Room("initiator", most_bytes)
    return MessagePlan(
        hospitals=tuple(request.hospitals),
        initiator=request.initiator,
        kinds=kinds,
        held_bytes=2 * room_bytes,
        held_by_dealt=8,
    )


def _bytes_of_sum(request: TrainingRequest) -> int:
    n_words = _most_weights(request) + _COUNT_WORDS
    if request.subgroups is not None:
        n_words += MOST_GROUPS * _COUNT_WORDS
    n_hospitals = len(request.hospitals)
    return _BASE_BYTES + _BYTES_OF_HOSPITAL * n_hospitals + _WORD_BYTES * n_words


def _most_weights(request: TrainingRequest) -> int:
    """Of the largest model that this document can mean: how many levels and classes
    there are, only the hospitals' rows tell.
    """
    n_features = len(request.attributes) + len(request.site_features)
    n_features += MOST_LEVELS * len(request.categorical)
    n_features += MOST_KNOTS * len(request.derive)
    model_type = request.model_type
    classes = tuple(range(MOST_CLASSES)) if model_type in CLASSIFIERS else ()
    model = Model(
        model_type,
        n_features,
        fit_intercept=model_type != "cox",
        classes=classes,
        hidden=request.hidden,
        shape=request.shape,
        family=request.family,
        link=request.link,
    )
    # Of levels both hospitals' counts and values travel.
    n_words = model.n_weights + n_features
    if request.is_newton:
        # What is added up at the end of a cox, the test of proportional hazards, is
        # three times as much.
        n_words += (3 if model_type == "cox" else 1) * N_LIMBS * n_sums(model.n_weights)
    if request.baseline == "joint":
        n_intervals = len(request.edges) + 1
        n_words += N_LIMBS * cox_joint.n_sums(
            model.n_weights, n_intervals, ties=request.ties
        )
    return n_words
