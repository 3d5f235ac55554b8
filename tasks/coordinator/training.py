"""The steps of the coordinator in a training order: it adds what it cannot read and records what it may know.

What it does with gradients that it is shown is `scoring`; what it makes of the hospitals' reports, `reports`.

Decisions 5 and 56.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from protocol.errors import ProtocolViolation, TooLarge
from protocol.exchange import Address, Exchange
from protocol.messages import EVERYONE, Choice, Contribution, Vectors
from protocol.sums import paillier, secure_sum
from protocol.training_request import TrainingRequest, n_held_out, read_order_document
from tasks.coordinator import reports, scoring
from tasks.coordinator.order import CoordinatedOrder, read_document
from tasks.coordinator.scoring import Shown
from tasks.steps import step

log = logging.getLogger("consilium.flows")


@dataclass
class CoordinatedTraining(CoordinatedOrder):
    """A training order at the coordinator."""

    request: TrainingRequest
    n_test_rows: dict[int, int] = field(default_factory=dict)  # by hospital, of its test SQL
    public: Any = None  # the key to add with, where sums need one
    # The records of rounds before a restart, by fold and round.
    recorded: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)

    @property
    def hospitals(self) -> list[int]:
        return self.request.hospitals

    def recorded_rounds(self, fold: int) -> list[dict[str, Any]]:
        """The records of a fold's rounds before a restart, in order; the last one may not have been given away."""
        return [record for (number, _), record in sorted(self.recorded.items()) if number == fold]


def open_order(order_id: int, exchange: Exchange) -> CoordinatedTraining:
    """Reads the order's document and how far the order was before a restart."""
    request, _ = read_order_document(read_document(order_id, exchange), order_id)
    recorded = {}
    for record in exchange.recorded(order_id):
        recorded[record["fold"], record["round"]] = record
    return CoordinatedTraining(order_id, exchange, request, recorded=recorded)


@step("acceptances")
def collect_acceptances(order: CoordinatedTraining) -> None:
    """Waits until every hospital has verified the order and counted its rows; the order never goes on without one.

    It is running once the hospitals have also found that their rows can be trained on together: then the initiator
    sends the key.
    """
    for user, acceptance in order.read_acceptances(order.hospitals).items():
        order.n_test_rows[user] = acceptance.n_test_rows
    initiator = order.request.user_id
    key = order.peek("public_key", [initiator])[initiator]
    order.public = paillier.public_from_bytes(key) if key else None
    order.report_running()


# Sums


@step("aggregation")
def aggregate(order: CoordinatedTraining, kind: str, fold: int) -> None:
    """Adds the hospitals' parts of a sum that is no training round, and gives it to the initiator."""
    address = Address(order.order_id, kind, fold)
    if not _was_given(order, address):
        _give_sum(order, address, _read_parts(order, address))
    order.exchange.discard(address)


def _round(order: CoordinatedTraining, fold: int, round_: int) -> str:
    return f"round {round_}" + (f" of fold {fold}" if fold else "")


@step("aggregation", _round)
def aggregate_round(order: CoordinatedTraining, fold: int, round_: int) -> dict[str, Any]:
    """Adds the hospitals' parts of a round under encryption, and gives the sum to the initiator; the round's record.

    The record is written before the sum is given away and the parts are dropped after, so that a restart at any
    point finds either the parts or the sum.
    """
    address = Address(order.order_id, "gradient", fold, round_)
    record = order.recorded.get((fold, round_))
    if record is None or not _was_given(order, address):
        record = _add_round(order, address)
    order.exchange.discard(address)
    if order.request.is_scored:
        order.exchange.discard(replace(address, topic="vectors"))
    if round_ > 0:
        _forget_round(order, replace(address, round=round_ - 1))
    return record


def _add_round(order: CoordinatedTraining, address: Address) -> dict[str, Any]:
    request, exchange = order.request, order.exchange
    shown = _look(order, address)
    choice = Choice(tuple(order.hospitals))
    if shown is not None:
        # Members are chosen before anything is sealed: the hospitals wait for this (decision 30).
        choice_address = replace(address, topic="choice")
        choice = scoring.choose(exchange, choice_address, shown, request)
    members = choice.members

    parts = _read_parts(order, address)
    _check_tags(parts, address.round)
    found = {user: part.report for user, part in parts.items()}
    counted = reports.CountedRows(request, order.n_rows, order.n_test_rows)
    reports.check_reports(counted, address.fold, found)
    record = reports.make_record(address.fold, address.round, found, choice)

    if shown is not None and address.fold == 0:
        order.record(score_readers=shown.readers)
        file = scoring.round_file(shown, members, request)
        _keep_round(order, address.round, file)
    order.record(round=record, **_about_last_round(order, address, found))
    if shown is not None:
        check_address = replace(address, topic="check")
        scoring.answer(exchange, check_address, shown, members, request)
    _give_sum(order, address, {user: parts[user] for user in members})
    return record


def _keep_round(order: CoordinatedTraining, round_: int, file: bytes) -> None:
    """A round that is too large to keep has no scores; its order goes on."""
    try:
        order.exchange.keep_round(order.order_id, round_, file)
    except TooLarge as error:
        log.warning("Round %s of order %s is not kept for scores: %s", round_, order.order_id, error)


def _look(order: CoordinatedTraining, address: Address) -> Shown | None:
    """The gradients that the hospitals show where the order has rounds scored; none with a fold's final metrics."""
    if not order.request.is_scored:
        return None
    bodies = order.peek("vectors", order.hospitals, fold=address.fold, round=address.round)
    messages = {user: Vectors.decode(body) for user, body in bodies.items()}
    n_trained = {}
    for user, n_rows in order.n_rows.items():
        n_trained[user] = n_rows - n_held_out(order.request, n_rows, address.fold)
    shown = scoring.gather(messages, n_trained)
    return shown if shown.layers else None


def _about_last_round(
    order: CoordinatedTraining, address: Address, found: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    """What the reports of this round say of the one before: how its model would have been without single hospitals."""
    if address.round == 0 or address.fold != 0:
        return {}
    without = scoring.leave_one_out(found, is_open=order.request.is_open)
    if not without:
        return {}
    return {"leave_one_out": {"round": address.round - 1, "clients": without}}


def _forget_round(order: CoordinatedTraining, address: Address) -> None:
    """Who contributes to a round has taken the step before it, so what belongs to that one is used."""
    request = order.request
    order.exchange.discard(_total(address), request.user_id)
    topics = [f"opening-{address.topic}"]
    if request.is_scored:
        topics.append("check")
    if request.chooses:
        topics.append("choice")
    if request.is_open and request.is_scored:
        topics.append("without")
    for topic in topics:
        order.exchange.discard(replace(address, topic=topic), EVERYONE)


def _read_parts(order: CoordinatedTraining, address: Address) -> dict[int, Contribution]:
    bodies = order.peek(address.topic, order.hospitals, fold=address.fold, round=address.round)
    return {user_id: Contribution.decode(body) for user_id, body in bodies.items()}


def _give_sum(order: CoordinatedTraining, address: Address, parts: dict[int, Contribution]) -> None:
    request = order.request
    method = request.model_params.encrypt_param.method
    sealed = {user: part.part for user, part in parts.items()}
    total = secure_sum.add(method, sealed, public=order.public)
    order.exchange.put(_total(address), request.user_id, total)


def _total(address: Address) -> Address:
    return replace(address, topic=f"total-{address.topic}")


def _was_given(order: CoordinatedTraining, address: Address) -> bool:
    """Whether an earlier process of this run gave the sum away."""
    return order.sent_before(_total(address), order.request.user_id) is not None


def _check_tags(contributions: dict[int, Contribution], round_: int) -> None:
    """All hospitals must hold the same weights; the tags show whether they do, and nothing else."""
    counts = Counter(contribution.tag for contribution in contributions.values())
    if len(counts) == 1:
        return
    common, n_common = counts.most_common(1)[0]
    others = sorted(user for user, c in contributions.items() if c.tag != common)
    # Where no majority holds the same, nobody is told apart.
    named = others if n_common > len(others) else sorted(contributions)
    raise ProtocolViolation(
        f"In round {round_} the hospitals do not hold the same model: hospital {', '.join(map(str, named))}.",
        remedy="Check that these hospitals run the same version, then send the order again.",
        code="weights_differ",
        hospitals=named,
    )


# The end


@step("scoring")
def summarize(order: CoordinatedTraining, record: dict[str, Any]) -> dict[str, Any]:
    """Pooled metrics of a finished fold's model, of its training rows and, under `held_out`, of rows it did not see."""
    pooled = _read_pooled(order, fold=int(record["fold"]))
    return reports.summary_of_fold(order.request.model_type, record, pooled)


@step("scoring")
def summarize_folds(order: CoordinatedTraining, records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Pooled metrics of the held-out rows of all folds of cross-validation, each row once, by the model of its fold."""
    # The initiator sends this with fold 0, the final model.
    pooled = _read_pooled(order, fold=0)
    found = []
    for record in records:
        found.extend(record["hospitals"].values())
    return reports.held_out_summary(order.request.model_type, pooled.get("all_folds"), found)


def _read_pooled(order: CoordinatedTraining, fold: int) -> dict[str, Any]:
    initiator = order.request.user_id
    bodies = order.peek("pooled", [initiator], fold=fold)
    return reports.read_pooled(bodies[initiator], initiator)


@step("models saved")
def wait_for_models(order: CoordinatedTraining) -> None:
    """Every hospital has the model in its vault."""
    order.peek("done", order.hospitals)
