"""The steps of the coordinator in a training order: it adds what it cannot read and records what it may know."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analytics.training.metrics import binary_figures, class_figures
from protocol.errors import ProtocolViolation, TooLarge
from protocol.exchange import Address, Exchange
from protocol.messages import COORDINATOR, EVERYONE, Acceptance, Choice, Contribution, Vectors, peek_envelope
from protocol.sums import paillier, secure_sum
from protocol.training_request import TrainingRequest, n_held_out, read_order_document
from tasks.coordinator import scoring
from tasks.coordinator.scoring import Shown
from tasks.steps import step

log = logging.getLogger("consilium.flows")

CALLS = ("tp", "fp", "tn", "fn")
POOLED = ("loss", "auc", "ks", "mse", "rmse", "mae")
"""What the initiator tells of the hospitals' sealed sums."""


@dataclass
class Desk:
    """The coordinator's end of one order. It holds no key that opens anything."""

    order_id: int
    exchange: Exchange
    request: TrainingRequest
    n_rows: dict[int, int] = field(default_factory=dict)
    n_test_rows: dict[int, int] = field(default_factory=dict)
    public: Any = None
    recorded: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)

    @property
    def hospitals(self) -> list[int]:
        return self.request.hospitals

    def recorded_rounds(self, fold: int) -> list[dict[str, Any]]:
        """The records of a fold's rounds before a restart, in order; the last one may not have been given away."""
        return [record for (number, _), record in sorted(self.recorded.items()) if number == fold]


def open_desk(order_id: int, exchange: Exchange) -> Desk:
    """Reads the order's document and how far the order was before a restart."""
    document = exchange.get(Address(order_id, "document"), COORDINATOR, EVERYONE).decode()
    request, _ = read_order_document(document, order_id)
    done = {(r["fold"], r["round"]): r for r in exchange.recorded(order_id)}
    return Desk(order_id, exchange, request, recorded=done)


@step("acceptances")
def collect_acceptances(desk: Desk) -> None:
    """Waits until every hospital has verified the order and counted its rows; the order never goes on without one.

    It is running once the hospitals have also found that their rows can be trained on together: then the initiator
    sends the key.
    """
    address = Address(desk.order_id, "acceptance")
    for user_id, envelope in desk.exchange.gather(address, desk.hospitals, EVERYONE).items():
        acceptance = Acceptance.decode(peek_envelope(envelope, kind="acceptance", sender=user_id))
        desk.n_rows[user_id] = acceptance.n_rows
        desk.n_test_rows[user_id] = acceptance.n_test_rows
    key = peek(desk, "public_key", [desk.request.user_id])[desk.request.user_id]
    desk.public = paillier.public_from_bytes(key) if key else None
    desk.exchange.record(
        desk.order_id, state="running", n_rows={str(user): n for user, n in desk.n_rows.items()}
    )


@step("aggregation")
def aggregate(desk: Desk, kind: str, fold: int) -> None:
    """Adds the hospitals' parts of a sum that is no training round, and gives it to the initiator."""
    address = Address(desk.order_id, kind, fold)
    if not _was_given(desk, address):
        _give_sum(desk, address, _read_parts(desk, address))
    desk.exchange.discard(address)


def _round(desk: Desk, fold: int, round_: int) -> str:
    return f"round {round_}" + (f" of fold {fold}" if fold else "")


@step("aggregation", _round)
def aggregate_round(desk: Desk, fold: int, round_: int) -> dict[str, Any]:
    """Adds the hospitals' parts of a round under encryption, and gives the sum to the initiator; the round's record.

    The record is written before the sum is given away and the parts are dropped after, so that a restart at any
    point finds either the parts or the sum.
    """
    address = Address(desk.order_id, "gradient", fold, round_)
    record = desk.recorded.get((fold, round_))
    if record is None or not _was_given(desk, address):
        record = _add_round(desk, address)
    for topic in ("gradient", "vectors")[: 1 + desk.request.is_scored]:
        desk.exchange.discard(replace(address, topic=topic))
    if round_ > 0:
        _forget_round(desk, replace(address, round=round_ - 1))
    return record


def _add_round(desk: Desk, address: Address) -> dict[str, Any]:
    shown, choice = _look(desk, address), Choice(tuple(desk.hospitals))
    if shown:
        choice = scoring.choose(desk.exchange, replace(address, topic="choice"), shown, desk.request)
    parts = _read_parts(desk, address)
    _check_tags(parts, address.round)
    _check_reports(desk, address.fold, parts)
    reports = {user: part.report for user, part in parts.items()}
    record = _record(address.fold, address.round, reports, choice)
    if shown and address.fold == 0:
        desk.exchange.record(desk.order_id, score_readers=shown.readers)
        _keep_round(desk, address.round, scoring.round_file(shown, choice.members, desk.request))
    desk.exchange.record(desk.order_id, round=record, **_about_last_round(desk, address, reports))
    if shown:
        scoring.answer(desk.exchange, replace(address, topic="check"), shown, choice.members, desk.request)
    _give_sum(desk, address, {user: parts[user] for user in choice.members})
    return record


def _keep_round(desk: Desk, round_: int, file: bytes) -> None:
    """A round that is too large to keep has no scores; its order goes on."""
    try:
        desk.exchange.keep_round(desk.order_id, round_, file)
    except TooLarge as error:
        log.warning("Round %s of order %s is not kept for scores: %s", round_, desk.order_id, error)


def _look(desk: Desk, address: Address) -> Shown | None:
    """The gradients that the hospitals show where the order has rounds scored; none with a fold's final metrics."""
    if not desk.request.is_scored:
        return None
    bodies = peek(desk, "vectors", desk.hospitals, address.fold, address.round)
    messages = {user: Vectors.decode(body) for user, body in bodies.items()}
    n_rows = {user: n - n_held_out(desk.request, n, address.fold) for user, n in desk.n_rows.items()}
    shown = scoring.gather(messages, n_rows)
    return shown if shown.layers else None


def _about_last_round(desk: Desk, address: Address, reports: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """What the reports of this round say of the one before: how its model would have been without single hospitals."""
    found = (
        scoring.leave_one_out(reports, is_open=desk.request.is_open)
        if address.round and not address.fold
        else {}
    )
    return {"leave_one_out": {"round": address.round - 1, "clients": found}} if found else {}


def _forget_round(desk: Desk, address: Address) -> None:
    """Who contributes to a round has taken the step before it, so what belongs to that one is used."""
    desk.exchange.discard(_total(address), desk.request.user_id)
    request = desk.request
    told = {
        "check": request.is_scored,
        "choice": request.chooses,
        "without": request.is_open and request.is_scored,
    }
    for topic in (f"opening-{address.topic}", *(topic for topic, is_there in told.items() if is_there)):
        desk.exchange.discard(replace(address, topic=topic), EVERYONE)


def _read_parts(desk: Desk, address: Address) -> dict[int, Contribution]:
    bodies = peek(desk, address.topic, desk.hospitals, address.fold, address.round)
    return {user_id: Contribution.decode(body) for user_id, body in bodies.items()}


def _give_sum(desk: Desk, address: Address, parts: dict[int, Contribution]) -> None:
    method = desk.request.model_params.encrypt_param.method
    total = secure_sum.add(method, {user: part.part for user, part in parts.items()}, public=desk.public)
    desk.exchange.put(_total(address), desk.request.user_id, total)


def _total(address: Address) -> Address:
    return replace(address, topic=f"total-{address.topic}")


def _was_given(desk: Desk, address: Address) -> bool:
    """Whether an earlier process of this run gave the sum away."""
    total, initiator = _total(address), desk.request.user_id
    given = desk.exchange.insist(
        lambda: desk.exchange.transport.gather(total, (COORDINATOR,), initiator, wait_seconds=0)
    )
    return given is not None


def _check_tags(contributions: dict[int, Contribution], round_: int) -> None:
    """All hospitals must hold the same weights; the tags show whether they do, and nothing else."""
    counts = Counter(contribution.tag for contribution in contributions.values())
    if len(counts) == 1:
        return
    common, n_common = counts.most_common(1)[0]
    others = sorted(user for user, c in contributions.items() if c.tag != common)
    named = others if n_common > len(others) else sorted(contributions)
    raise ProtocolViolation(
        f"In round {round_} the hospitals do not hold the same model: hospital {', '.join(map(str, named))}.",
        remedy="Check that these hospitals run the same version, then send the order again.",
        code="weights_differ",
        hospitals=named,
    )


def _check_reports(desk: Desk, fold: int, contributions: dict[int, Contribution]) -> None:
    """What is shown of a round is what hospitals say: at least it has the rows they have counted, and numbers."""
    compared = {
        tuple(c.report["leave_one_out"]) for c in contributions.values() if c.report.get("leave_one_out")
    }
    for user, contribution in contributions.items():
        n_rows = desk.n_rows[user]
        n_trained = n_rows - n_held_out(desk.request, n_rows, fold)
        report = contribution.report
        fits = _are_numbers(report.get("train"), desk, required=True) and _compares_well(report, desk, user)
        if report.get("n_rows") != n_trained or not fits or (desk.request.is_open and len(compared) > 1):
            raise _wrong_report(
                f"The metrics of hospital {user} are not those of its {n_trained} training rows.", user
            )
        n_tested = _n_tested(desk, user, fold)
        if not _tests_well(report, desk, n_tested):
            raise _wrong_report(
                f"The metrics of hospital {user} are not those of its {n_tested} held-out rows.", user
            )
    n_classes = {
        len(c.report["test"].get("confusion", ())) for c in contributions.values() if "test" in c.report
    }
    if len(n_classes) > 1:
        raise _wrong_report(
            "The hospitals' confusion counts are not of the same classes.", *sorted(contributions)
        )


def _wrong_report(sentence: str, *hospitals: int) -> ProtocolViolation:
    return ProtocolViolation(
        sentence,
        remedy="Compare its version with the others', then send the order again.",
        code="report",
        hospitals=[*hospitals],
    )


def _n_tested(desk: Desk, user: int, fold: int) -> int:
    """How many rows test a hospital's part of a fold: what is held back of its rows, or those of its test SQL."""
    held_back = n_held_out(desk.request, desk.n_rows[user], fold)
    return held_back if fold else held_back + desk.n_test_rows[user]


def _tests_well(report: dict[str, Any], desk: Desk, n_tested: int) -> bool:
    """Whether a report has metrics of the held-out rows that were counted, and of no other ones."""
    if not n_tested:
        return "test" not in report and "n_test_rows" not in report
    test = report.get("test")
    if report.get("n_test_rows") != n_tested or not _are_numbers(test, desk, required=True):
        return False
    return desk.request.model_type == "linear" or _n_called(desk, test) == n_tested


def _n_called(desk: Desk, test: dict[str, Any]) -> int | None:
    """The rows in the counts of a classifier's calls; None where they are no counts, or no square of them."""
    counts = [test.get(name) for name in CALLS]
    if desk.request.model_type != "lr":
        confusion = test.get("confusion")
        if not isinstance(confusion, list) or not all(_has_length(row, len(confusion)) for row in confusion):
            return None
        counts = [count for row in confusion for count in row]
    return sum(counts) if all(type(count) is int and count >= 0 for count in counts) else None


def _has_length(row: Any, length: int) -> bool:
    return isinstance(row, list) and len(row) == length


def _compares_well(report: dict[str, Any], desk: Desk, user: int) -> bool:
    """Whether what a report says of models without single hospitals is numbers, of whom it may speak."""
    found = report.get("leave_one_out", {})
    allowed = {str(hospital) for hospital in (desk.hospitals if desk.request.is_open else [user])}
    if not isinstance(found, dict) or not set(found) <= allowed:
        return False
    n_rows = report.get("n_test_rows", 0)
    if not found:
        return True
    entries = [*found.values(), report.get("test")]
    return type(n_rows) is int and n_rows > 0 and all(_are_numbers(e, desk, required=False) for e in entries)


def _are_numbers(metrics: Any, desk: Desk, *, required: bool) -> bool:
    """Those that are pooled: finite, and there where they are `required`."""
    names = ["loss", "mse" if desk.request.model_type == "linear" else "accuracy"]
    if not isinstance(metrics, dict):
        return False
    return all(_is_finite(metrics[name]) if name in metrics else not required for name in names)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < sys.float_info.max


def _record(fold: int, round_: int, reports: dict[int, dict[str, Any]], choice: Choice) -> dict[str, Any]:
    """What is kept of a round: each hospital's metrics and the members' row-weighted mean loss, without the penalty."""
    members = [reports[user] for user in choice.members]
    n_rows = sum(report["n_rows"] for report in members)
    loss = math.fsum(report["n_rows"] * report["train"]["loss"] for report in members) / n_rows
    return {
        "fold": fold,
        "round": round_,
        "loss": loss,
        "final": all(report.get("final", False) for report in reports.values()),
        "hospitals": {str(user): _shown_report(report) for user, report in sorted(reports.items())},
        "left_out": {str(user): reason for user, reason in choice.left_out.items()},
    }


def _shown_report(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name != "leave_one_out"}


@step("scoring")
def summarize(desk: Desk, record: dict[str, Any]) -> dict[str, Any]:
    """Pooled metrics of a finished fold's model, of its training rows and, under `held_out`, of rows it did not see.

    Training rows: they weigh the hospitals' own metrics; AUC and KS come from the joint histogram. Held-out rows: see
    `_pool_held_out`; null where the fold has none.
    """
    fold, reports = int(record["fold"]), list(record["hospitals"].values())
    n_rows = sum(report["n_rows"] for report in reports)
    pooled = {"loss": record["loss"], "n_rows": n_rows}
    for name in ("accuracy", "mse"):
        if all(name in report["train"] for report in reports):
            pooled[name] = math.fsum(r["n_rows"] * r["train"][name] for r in reports) / n_rows
    told = _read_pooled(desk, fold)
    return {**pooled, **told["training"], "held_out": _pool_held_out(desk, told.get("held_out"), reports)}


@step("scoring")
def summarize_folds(desk: Desk, records: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Pooled metrics of the held-out rows of all folds of cross-validation, each row once, by the model of its fold."""
    reports = [report for record in records for report in record["hospitals"].values()]
    return _pool_held_out(desk, _read_pooled(desk, 0).get("all_folds"), reports)


def _read_pooled(desk: Desk, fold: int) -> dict[str, Any]:
    """What the initiator made of a fold's sums: numbers, or null where a metric is not defined."""
    initiator = desk.request.user_id
    wrong = _wrong_report(f"Hospital {initiator} tells no metrics of all hospitals' rows.", initiator)
    try:
        told = json.loads(peek(desk, "pooled", [initiator], fold)[initiator])
        parts = [
            told["training"],
            *(told[name] for name in ("held_out", "all_folds") if told.get(name) is not None),
        ]
        values = [(name, value) for part in parts for name, value in part.items()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise wrong from None
    if not all(name in POOLED and (value is None or _is_finite(value)) for name, value in values):
        raise wrong
    result: dict[str, Any] = told
    return result


def _pool_held_out(
    desk: Desk, from_sums: dict[str, Any] | None, reports: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Metrics of the hospitals' held-out rows as of one table; null where they have none.

    What is counted adds up as the hospitals show it, exactly; loss, errors, AUC and KS come from their sealed sums.
    """
    tested = [report for report in reports if "test" in report]
    if from_sums is None or not tested:
        return None
    n_rows = sum(report["n_test_rows"] for report in tested)
    return {"n_rows": n_rows, **from_sums, **_figures(desk, [report["test"] for report in tested])}


def _figures(desk: Desk, tests: list[dict[str, Any]]) -> dict[str, Any]:
    """What follows from counts of calls that are added up; nothing of a model that calls none."""
    if desk.request.model_type == "linear":
        return {}
    if desk.request.model_type == "lr":
        return binary_figures(**{name: sum(test[name] for test in tests) for name in CALLS})
    return class_figures(np.sum([test["confusion"] for test in tests], axis=0))


@step("models saved")
def wait_for_models(desk: Desk) -> None:
    """Every hospital has the model in its vault."""
    peek(desk, "done", desk.hospitals)


def peek(desk: Desk, kind: str, senders: list[int], fold: int = 0, round_: int = 0) -> dict[int, bytes]:
    """The clear bodies of what these hospitals have sent to the coordinator; waits for them."""
    envelopes = desk.exchange.gather(Address(desk.order_id, kind, fold, round_), senders)
    return {
        sender: peek_envelope(envelope, kind=kind, sender=sender, fold=fold, round=round_)
        for sender, envelope in envelopes.items()
    }
