"""The steps of the coordinator in a training order.

It adds what it cannot read and records what it may know.

What it does with gradients that it is shown is `scoring`; what it makes of the
hospitals' reports, `reports`.

Decisions 5 and 56.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

from protocol.errors import ProtocolViolation, TooLarge, listed, who_differ
from protocol.exchange import Address, Exchange
from protocol.messages import EVERYONE, Choice, Contribution, Vectors
from protocol.sums import paillier, secure_sum
from protocol.training_request import TrainingRequest, n_held_out, read_order_document
from tasks.coordinator import flow_numbers, reports, scoring, varying
from tasks.coordinator.flow_numbers import FlowReport
from tasks.coordinator.order import CoordinatedOrder, Record, read_document
from tasks.coordinator.reports import PooledMetrics, RoundReport, Summary
from tasks.coordinator.scoring import Shown
from tasks.steps import step

log = logging.getLogger("consilium.flows")


@dataclass
class CoordinatedTraining(CoordinatedOrder):
    """A training order at the coordinator."""

    request: TrainingRequest
    # By hospital, of its test SQL.
    n_test_rows: dict[int, int] = field(default_factory=dict)
    public: Any = None  # the key to add with, where sums need one
    # By hospital what it says of rows that were left out, where some may be.
    flow: dict[int, FlowReport] = field(default_factory=dict)
    # By fold, what was summed up of it.
    summaries: dict[int, Summary] = field(default_factory=dict)
    # The records of rounds before a restart, by fold and round.
    recorded: dict[tuple[int, int], Record] = field(default_factory=dict)

    @property
    def hospitals(self) -> list[int]:
        return self.request.hospitals

    def recorded_rounds(self, fold: int) -> list[Record]:
        """The records of a fold's rounds before a restart, in order.

        The sum of the last one may not have been given away.
        """
        records = []
        for place in sorted(self.recorded):
            fold_of_record, _ = place
            if fold_of_record == fold:
                records.append(self.recorded[place])
        return records


def open_order(order_id: int, exchange: Exchange) -> CoordinatedTraining:
    """Reads the order's document and how far the order was before a restart."""
    document = read_document(order_id, exchange)
    request, _ = read_order_document(document, order_id)
    recorded = {}
    for record in exchange.recorded(order_id):
        recorded[record["fold"], record["round"]] = record
    return CoordinatedTraining(order_id, exchange, request, recorded=recorded)


@step("acceptances")
def collect_acceptances(order: CoordinatedTraining) -> None:
    """Waits until every hospital has verified the order and counted its rows.

    The order never goes on without one. It is running once the hospitals have also
    found that their rows can be trained on together: then the initiator sends the key.
    """
    acceptances = order.read_acceptances(order.hospitals)
    for user, acceptance in acceptances.items():
        order.n_test_rows[user] = acceptance.n_test_rows
    varying.deal_comparison(order, order.request, acceptances)
    initiator = order.request.user_id
    keys = order.read("public_key", [initiator], _public_key)
    order.public = keys[initiator]
    order.report_running()


def _public_key(body: bytes) -> Any:
    # Sums by masks need none: then the message is empty.
    return paillier.public_from_bytes(body) if body else None


# The model's columns


@step("model columns")
def agree_on_columns(order: CoordinatedTraining) -> None:
    """Where the hospitals agree on what a model's columns are: adds their counts.

    Of the columns the coordinator learns how many there are.
    """
    if not order.request.study.needs_counts:
        return
    aggregate(order, "design", 0)
    reports = flow_numbers.read_flow(
        order.peek("flow", order.hospitals),
        initiator=order.request.user_id,
        n_rows=order.n_rows,
        n_test_rows=order.n_test_rows,
    )
    order.flow = reports
    for user, report in reports.items():
        # Test rows of levels that no training row has are left out.
        order.n_test_rows[user] = report["n_test_rows"]


# Sums


@step("aggregation")
def aggregate(order: CoordinatedTraining, kind: str, fold: int) -> None:
    """Adds the hospitals' parts of a sum that is no training round.

    The initiator gets it.
    """
    address = Address(order.order_id, kind, fold)
    if not _was_given(order, address):
        parts = _read_parts(order, address)
        _give_sum(order, address, parts)
    order.exchange.discard(address)


def _round(order: CoordinatedTraining, fold: int, round_: int) -> str:
    name = f"round {round_}"
    if fold:
        name += f" of fold {fold}"
    return name


@step("aggregation", _round)
def aggregate_round(order: CoordinatedTraining, fold: int, round_: int) -> Record:
    """Adds the hospitals' parts of a round under encryption; the round's record.

    The initiator gets the sum. The record is written before the sum is given away and
    the parts are dropped after, so that a restart at any point finds either the parts
    or the sum.
    """
    address = Address(order.order_id, "gradient", fold, round_)
    record = order.recorded.get((fold, round_))
    if record is None or not _was_given(order, address):
        record = _add_round(order, address)
    order.exchange.discard(address)
    if order.request.is_scored:
        vectors = replace(address, topic="vectors")
        order.exchange.discard(vectors)
    if round_ > 0:
        round_before = replace(address, round=round_ - 1)
        _forget_round(order, round_before)
    return record


def _add_round(order: CoordinatedTraining, address: Address) -> Record:
    request = order.request
    exchange = order.exchange
    shown = _look(order, address)
    choice = Choice(tuple(order.hospitals))
    if shown is not None:
        # Members are chosen before anything is sealed: the hospitals wait for this
        # (decision 30).
        choice_address = replace(address, topic="choice")
        choice = scoring.choose(exchange, choice_address, shown, request)
    members = choice.members

    # Nothing is kept or given away before all that came has been checked.
    parts = _read_parts(order, address)
    _check_tags(parts, address.round)
    found = {user: part.report for user, part in parts.items()}
    counted = reports.CountedRows(request, order.n_rows, order.n_test_rows)
    reports.check_reports(counted, address.fold, found)
    record = reports.make_record(address.fold, address.round, found, choice)

    # Only the final model's rounds are kept for scores, not those of cross-validation.
    if shown is not None and address.fold == 0:
        # Who may read scores is written before there is anything to read.
        order.record(score_readers=shown.readers)
        file = scoring.round_file(shown, members, request)
        _keep_round(order, address.round, file)
    about_last_round = _about_last_round(order, address, found)
    order.record(round=record, **about_last_round)
    if shown is not None:
        check_address = replace(address, topic="check")
        scoring.answer(exchange, check_address, shown, members, request)
    # The sum comes last: who finds it given after a restart makes nothing again.
    of_members = {user: parts[user] for user in members}
    _give_sum(order, address, of_members)
    return record


def _keep_round(order: CoordinatedTraining, round_: int, file: bytes) -> None:
    """A round that is too large to keep has no scores; its order goes on."""
    try:
        order.exchange.keep_round(order.order_id, round_, file)
    except TooLarge as error:
        log.warning(
            "Round %s of order %s is not kept for scores: %s",
            round_,
            order.order_id,
            error,
        )


def _look(order: CoordinatedTraining, address: Address) -> Shown | None:
    """The gradients that the hospitals show where the order has rounds scored.

    There are none with a fold's final metrics.
    """
    if not order.request.is_scored:
        return None
    messages = order.read(
        "vectors",
        order.hospitals,
        Vectors.decode,
        fold=address.fold,
        round=address.round,
    )
    n_trained = {}
    for user, n_rows in order.n_rows.items():
        n_held_back = n_held_out(order.request, n_rows, address.fold)
        n_trained[user] = n_rows - n_held_back
    shown = scoring.gather(messages, n_trained)
    if not shown.layers:
        return None
    return shown


def _about_last_round(
    order: CoordinatedTraining, address: Address, found: dict[int, RoundReport]
) -> Record:
    """What the reports of this round say of the one before.

    How its model would have been without single hospitals.
    """
    if address.round == 0 or address.fold != 0:
        return {}
    without = scoring.leave_one_out(found, is_open=order.request.is_open)
    if not without:
        return {}
    about = {"round": address.round - 1, "clients": without}
    return {"leave_one_out": about}


def _forget_round(order: CoordinatedTraining, address: Address) -> None:
    """Discards what belongs to a round whose step all hospitals have taken.

    Who contributes to a round has taken the step before it.
    """
    request = order.request
    total = _total(address)
    order.exchange.discard(total, request.user_id)
    topics = [f"opening-{address.topic}"]
    if request.is_scored:
        topics.append("check")
    if request.chooses:
        topics.append("choice")
    if request.is_open and request.is_scored:
        topics.append("without")
    for topic in topics:
        used = replace(address, topic=topic)
        order.exchange.discard(used, EVERYONE)


Parts = dict[int, Contribution]
"""What each hospital adds to a sum."""


def _read_parts(order: CoordinatedTraining, address: Address) -> Parts:
    return order.read(
        address.topic,
        order.hospitals,
        Contribution.decode,
        fold=address.fold,
        round=address.round,
    )


def _give_sum(order: CoordinatedTraining, address: Address, parts: Parts) -> None:
    request = order.request
    method = request.model_params.encrypt_param.method
    sealed = {user: part.part for user, part in parts.items()}
    # Added as it came, under encryption or masks: nothing is opened here.
    total = secure_sum.add(method, sealed, public=order.public)
    order.exchange.put(_total(address), request.user_id, total)


def _total(address: Address) -> Address:
    return replace(address, topic=f"total-{address.topic}")


def _was_given(order: CoordinatedTraining, address: Address) -> bool:
    """Whether an earlier process of this run gave the sum away."""
    total = order.sent_before(_total(address), order.request.user_id)
    return total is not None


def _check_tags(parts: Parts, round_: int) -> None:
    """All hospitals must hold the same weights.

    The tags show whether they do, and nothing else.
    """
    # Where no majority holds the same, nobody is told apart.
    named = who_differ({user: part.tag for user, part in parts.items()})
    if not named:
        return
    raise ProtocolViolation(
        f"In round {round_} the hospitals do not hold the same model: {listed(named)}.",
        remedy="Check that these hospitals run the same version, then send the order again.",
        code="weights_differ",
        hospitals=named,
    )


# The end


@step("scoring")
def summarize(order: CoordinatedTraining, record: Record) -> Summary:
    """Pooled metrics of a finished fold's model, of its training rows.

    Under `held_out` those of rows that it did not see.
    """
    fold = int(record["fold"])
    pooled = _read_pooled(order, fold)
    reports.check_end(order.request, record, pooled)
    summary = reports.summary_of_fold(order.request.model_type, record, pooled)
    order.summaries[fold] = summary
    return summary


@step("scoring")
def summarize_folds(
    order: CoordinatedTraining, records: list[Record]
) -> Summary | None:
    """Pooled metrics of the held-out rows of all folds of cross-validation.

    Each row is in them once, by the model of its fold.
    """
    # The initiator sends this with fold 0, the final model.
    pooled = _read_pooled(order, fold=0)
    of_all_folds = pooled.get("all_folds")
    found = []
    for record in records:
        found.extend(record["hospitals"].values())
    return reports.held_out_summary(order.request.model_type, of_all_folds, found)


@step("scoring")
def summarize_evaluation(order: CoordinatedTraining) -> Summary:
    """How good the model is on all hospitals' rows, as the initiator tells it."""
    initiator = order.request.user_id
    bodies = order.peek("pooled", [initiator])
    evaluated = reports.read_evaluated(bodies[initiator], initiator)
    return {
        "model_id": order.request.evaluates,
        "n_rows": sum(order.n_rows.values()),
        **evaluated,
    }


def summarize_rows(order: CoordinatedTraining) -> Record:
    """How many rows the order selected, left out and used."""
    initiator = order.request.user_id
    return flow_numbers.flow_numbers(order.n_rows, order.flow, initiator)


def _read_pooled(order: CoordinatedTraining, fold: int) -> PooledMetrics:
    initiator = order.request.user_id
    bodies = order.peek("pooled", [initiator], fold=fold)
    return reports.read_pooled(bodies[initiator], initiator)


@step("models saved")
def wait_for_models(order: CoordinatedTraining) -> None:
    """Every hospital has the model, or the evaluation, in its vault."""
    order.peek("done", order.hospitals)
