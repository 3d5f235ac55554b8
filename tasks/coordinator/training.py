"""The steps of the coordinator in a training order.

It adds what it cannot read and records what it may know.

What it does with gradients that it is shown is `scoring`; what it makes of the
hospitals' reports, `reports` and `summaries`.

Decisions 5 and 56.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from protocol.errors import ProtocolViolation, TooLarge, listed, who_differ
from protocol.exchange import Address, Exchange, Used
from protocol.messages import COORDINATOR, EVERYONE, Choice, Contribution, Vectors
from protocol.sums import paillier, secure_sum
from protocol.training_request import TrainingRequest, n_held_out, read_order_document
from protocol.versions import protocol_of_document
from tasks.coordinator import (
    flow_numbers,
    pooled_metrics,
    reports,
    scoring,
    summaries,
    varying,
)
from tasks.coordinator.flow_numbers import FlowReport
from tasks.coordinator.order import CoordinatedOrder, Record, read_document
from tasks.coordinator.pooled_metrics import PooledMetrics
from tasks.coordinator.reports import RoundReport
from tasks.coordinator.scoring import Shown
from tasks.coordinator.summaries import Summary
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
    # Who may read scores, as this process has recorded it last.
    score_readers: str | None = None
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
        for record_place in sorted(self.recorded):
            fold_of_record, _ = record_place
            if fold_of_record == fold:
                records.append(self.recorded[record_place])
        return records


def open_order(order_id: int, exchange: Exchange) -> CoordinatedTraining:
    """Reads the order's document and how far the order was before a restart."""
    document = read_document(order_id, exchange)
    protocol = protocol_of_document(document)
    request, _ = read_order_document(document, order_id)
    recorded = {}
    for record in exchange.recorded(order_id):
        record_place = (record["fold"], record["round"])
        recorded[record_place] = record
    return CoordinatedTraining(
        order_id,
        exchange,
        protocol,
        request,
        recorded=recorded,
    )


@step("acceptances")
def collect_acceptances(order: CoordinatedTraining) -> None:
    """Waits until every hospital has verified the order and counted its rows.

    The order never goes on without one of its party, which is all of them unless it
    starts with who is there. It is running once the hospitals have also
    found that their rows can be trained on together: then the initiator sends the key.
    """
    order.request = order.read_party(order.request)
    acceptances = order.read_acceptances(order.hospitals)
    for user_id, acceptance in acceptances.items():
        order.n_test_rows[user_id] = acceptance.n_test_rows
    varying.deal_comparison(order, order.request, acceptances)
    initiator = order.request.user_id
    public_keys = order.read("public_key", [initiator], _public_key)
    order.public = public_keys[initiator]
    order.report_running()


def _public_key(body: bytes) -> Any:
    # Sums by masks need none: then the message is empty.
    if not body:
        return None
    return paillier.public_from_bytes(body)


# The model's columns


@step("model columns")
def agree_on_columns(order: CoordinatedTraining) -> None:
    """Where the hospitals agree on what a model's columns are: adds their counts.

    Of the columns the coordinator learns how many there are.
    """
    if not order.request.study.needs_counts:
        return
    aggregate(order, "design", 0)
    bodies = order.peek("flow", order.hospitals)
    reports = flow_numbers.read_flow(
        bodies,
        initiator=order.request.user_id,
        n_rows=order.n_rows,
        n_test_rows=order.n_test_rows,
    )
    order.flow = reports
    for user_id, report in reports.items():
        # Test rows of levels that no training row has are left out.
        order.n_test_rows[user_id] = report["n_test_rows"]


# Sums


@step("aggregation")
def aggregate(order: CoordinatedTraining, kind: str, fold: int) -> None:
    """Adds the hospitals' parts of a sum that is no training round.

    The initiator gets it.
    """
    address = Address(order.order_id, kind, fold)
    if not _was_given(order, address):
        added_parts = _add_parts(order, address, order.hospitals)
        _give_sum(order, address, added_parts)
    order.exchange.discard(order.order_id, Used(address, COORDINATOR))


def _round(order: CoordinatedTraining, fold: int, round_: int) -> str:
    round_name = f"round {round_}"
    if fold:
        round_name += f" of fold {fold}"
    return round_name


@step("aggregation", _round)
def aggregate_round(order: CoordinatedTraining, fold: int, round_: int) -> Record:
    """Adds the hospitals' parts of a round under encryption; the round's record.

    The initiator gets the sum. The record is written before the sum is given away and
    the parts are dropped after, so that a restart at any point finds either the parts
    or the sum.
    """
    address = Address(
        order.order_id,
        "gradient",
        fold,
        round_,
    )
    record_place = (fold, round_)
    record = order.recorded.get(record_place)
    if record is None or not _was_given(order, address):
        record = _add_round(order, address)
    used_messages = [Used(address, COORDINATOR)]
    if order.request.is_scored:
        vectors = replace(address, topic="vectors")
        used_messages.append(Used(vectors, COORDINATOR))
    if round_ > 0:
        round_before = replace(address, round=round_ - 1)
        used_messages.extend(_used_of_round(order, round_before))
    order.exchange.discard(order.order_id, *used_messages)
    return record


def _add_round(order: CoordinatedTraining, address: Address) -> Record:
    request = order.request
    exchange = order.exchange
    gradients = _look(order, address)
    everybody = tuple(order.hospitals)
    choice = Choice(everybody)
    if gradients is not None:
        # Members are chosen before anything is sealed: the hospitals wait for this
        # (decision 30).
        choice_address = replace(address, topic="choice")
        choice = scoring.choose(
            exchange,
            choice_address,
            gradients,
            request,
        )
    members = choice.members

    # Nothing is kept or given away before all that came has been checked.
    added_parts = _add_parts(order, address, members)
    _check_tags(added_parts.tags, address.round)
    round_reports = added_parts.reports
    counted = reports.CountedRows(
        request,
        order.n_rows,
        order.n_test_rows,
    )
    reports.check_reports(counted, address.fold, round_reports)
    record = summaries.make_record(
        address.fold,
        address.round,
        round_reports,
        choice,
    )

    # Only the final model's rounds are kept for scores, not those of cross-validation.
    if gradients is not None and address.fold == 0:
        # Who may read scores is written before there is anything to read.
        if gradients.readers != order.score_readers:
            order.record(score_readers=gradients.readers)
            order.score_readers = gradients.readers
        file = scoring.round_file(gradients, members, request)
        _keep_round(order, address.round, file)
    about_last_round = _about_last_round(order, address, round_reports)
    order.record(round=record, **about_last_round)
    if gradients is not None:
        check_address = replace(address, topic="check")
        scoring.answer(
            exchange,
            check_address,
            gradients,
            members,
            request,
        )
    # The sum comes last: who finds it given after a restart makes nothing again.
    _give_sum(order, address, added_parts)
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
    for user_id, n_rows in order.n_rows.items():
        n_held_back = n_held_out(
            order.request,
            n_rows,
            address.fold,
        )
        n_trained[user_id] = n_rows - n_held_back
    gradients = scoring.gather(messages, n_trained)
    if not gradients.layers:
        return None
    return gradients


def _about_last_round(
    order: CoordinatedTraining,
    address: Address,
    round_reports: dict[int, RoundReport],
) -> Record:
    """What the reports of this round say of the one before.

    How its model would have been without single hospitals.
    """
    if address.round == 0 or address.fold != 0:
        return {}
    is_open = order.request.is_open
    without = scoring.leave_one_out(round_reports, is_open=is_open)
    if not without:
        return {}
    about = {
        "round": address.round - 1,
        "clients": without,
    }
    return {"leave_one_out": about}


def _used_of_round(order: CoordinatedTraining, address: Address) -> list[Used]:
    """What belongs to a round whose step all hospitals have taken.

    Who contributes to a round has taken the step before it.
    """
    request = order.request
    used_messages = [Used(_total(address), request.user_id)]
    topics = [f"opening-{address.topic}"]
    if request.is_scored:
        topics.append("check")
    if request.chooses:
        topics.append("choice")
    if request.is_open and request.is_scored:
        topics.append("without")
    for topic in topics:
        used_messages.append(Used(replace(address, topic=topic), EVERYONE))
    return used_messages


@dataclass
class AddedParts:
    """The hospitals' parts of a sum: added up, and what each says beside its own."""

    sum: secure_sum.Adder
    # By hospital, in the order's own order.
    tags: dict[int, bytes]
    reports: dict[int, RoundReport]


def _add_parts(
    order: CoordinatedTraining,
    address: Address,
    members: Iterable[int],
) -> AddedParts:
    """Adds the members' parts one after another, as they come: one of them is in
    memory, not all.

    They stay in the exchange until the sum has been given: a process that is killed
    between two of them adds anew (decision 144). Who is no member sends a part too; of
    it only tag and report are read.
    """
    method = order.request.model_params.encrypt_param.method
    # Added as it came, under encryption or masks: nothing is opened here.
    adder = secure_sum.Adder(method, public=order.public)
    found_tags = {}
    found_reports = {}
    contributions = order.read_each(
        address.topic,
        order.hospitals,
        Contribution.decode,
        fold=address.fold,
        round=address.round,
    )
    for user_id, contribution in contributions:
        found_tags[user_id] = contribution.tag
        found_reports[user_id] = contribution.report
        if user_id in members:
            adder.add(user_id, contribution.part)
        del contribution
    # They came in any order.
    tags = {}
    reports = {}
    for user_id in order.hospitals:
        tags[user_id] = found_tags[user_id]
        reports[user_id] = found_reports[user_id]
    return AddedParts(
        sum=adder,
        tags=tags,
        reports=reports,
    )


def _give_sum(order: CoordinatedTraining, address: Address, parts: AddedParts) -> None:
    sealed_sum = parts.sum.total()
    address_of_sum = _total(address)
    initiator = order.request.user_id
    order.exchange.put(address_of_sum, initiator, sealed_sum)


def _total(address: Address) -> Address:
    return replace(address, topic=f"total-{address.topic}")


def _was_given(order: CoordinatedTraining, address: Address) -> bool:
    """Whether an earlier process of this run gave the sum away."""
    initiator = order.request.user_id
    sealed_sum = order.sent_before(_total(address), initiator)
    return sealed_sum is not None


def _check_tags(tags: dict[int, bytes], round_: int) -> None:
    """All hospitals must hold the same weights.

    The tags show whether they do, and nothing else.
    """
    # Where no majority holds the same, nobody is told apart.
    named = who_differ(tags)
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
    pooled_metrics.check_end(order.request, record, pooled)
    model_type = order.request.model_type
    summary = summaries.summary_of_fold(model_type, record, pooled)
    order.summaries[fold] = summary
    return summary


@step("scoring")
def summarize_folds(
    order: CoordinatedTraining,
    records: list[Record],
) -> Summary | None:
    """Pooled metrics of the held-out rows of all folds of cross-validation.

    Each row is in them once, by the model of its fold.
    """
    # The initiator sends this with fold 0, the final model.
    pooled = _read_pooled(order, fold=0)
    of_all_folds = pooled.get("all_folds")
    fold_reports = []
    for record in records:
        of_hospitals = record["hospitals"]
        fold_reports.extend(of_hospitals.values())
    return summaries.held_out_summary(
        order.request.model_type,
        of_all_folds,
        fold_reports,
    )


@step("scoring")
def summarize_evaluation(order: CoordinatedTraining) -> Summary:
    """How good the model is on all hospitals' rows, as the initiator tells it."""
    initiator = order.request.user_id
    bodies = order.peek("pooled", [initiator])
    pooled_body = bodies[initiator]
    evaluated = pooled_metrics.read_evaluated(pooled_body, initiator)
    n_rows = sum(order.n_rows.values())
    return {
        "model_id": order.request.evaluates,
        "n_rows": n_rows,
        **evaluated,
    }


def summarize_rows(order: CoordinatedTraining) -> Record:
    """How many rows the order selected, left out and used."""
    initiator = order.request.user_id
    return flow_numbers.flow_numbers(order.n_rows, order.flow, initiator)


def _read_pooled(order: CoordinatedTraining, fold: int) -> PooledMetrics:
    initiator = order.request.user_id
    bodies = order.peek("pooled", [initiator], fold=fold)
    pooled_body = bodies[initiator]
    return pooled_metrics.read_pooled(pooled_body, initiator)


@step("models saved")
def wait_for_models(order: CoordinatedTraining) -> None:
    """Every hospital has the model, or the evaluation, in its vault."""
    order.peek("done", order.hospitals)
