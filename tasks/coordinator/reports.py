"""What the hospitals report of a round: checked, recorded, and summed up.

Reports are the hospitals' own words on their own rows. They change no model; but
everybody in the order reads them, so each must have the rows that were counted, and
numbers. A round's reports become one record, a fold's last ones its summary. Pure.

Decision 77.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analytics.training.metrics import binary_figures, class_figures
from analytics.training.outcome import STOPPED_BY, WARNINGS
from protocol.errors import ProtocolViolation, listed, who_differ
from protocol.messages import MOST_ROWS, Choice
from protocol.training_request import TrainingRequest, n_held_out
from tasks.coordinator.order import Record

RoundReport = dict[str, Any]
"""A hospital's: n_rows, train, and of its held-out rows n_test_rows, test;
leave_one_out of the round before; final. Under `withheld` the rule by which all metrics
of train or of test are null (decision 71).
"""

PooledMetrics = dict[str, Any]
"""What the initiator made of a fold's sums, by what training stopped, and codes of
warnings; `read_pooled` has its parts.
"""

Summary = dict[str, Any]
"""Metrics of a finished model by name, with the number of rows that they are of."""

CALLS = ("tp", "fp", "tn", "fn")
_RULES = {
    "train": ("min_rows", "newton", "evaluation"),
    "test": ("min_rows", "newton"),
    "scores": ("min_scored_coefficients",),
}
"""By which a part of a report may be withheld."""
_COUNTED = (*CALLS, "confusion")
_FIELDS = {
    "n_rows",
    "n_test_rows",
    "train",
    "test",
    "leave_one_out",
    "withheld",
    "final",
}
"""Of a hospital's report of a round. The record shows it to all, so nothing else may
stand in it.
"""
_MEASURED = {
    "loss",
    "accuracy",
    "auc",
    "ks",
    "f1",
    "f1_macro",
    "mse",
    "rmse",
    "mae",
    "r2",
    "concordance",
    *_COUNTED,
}
"""What a hospital measures of a model on its own rows."""
_EVALUATED = {
    *_MEASURED,
    "log_loss",
    "brier",
    "auc_se",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
}
"""What the initiator tells of a model on new rows (decision 87)."""
_LARGEST = sys.float_info.max / 2**60
"""A metric's largest number: times all rows of all hospitals it is still finite."""
POOLED = (
    *("loss", "auc", "ks", "concordance"),
    *("mse", "rmse", "mae", "accuracy", "f1", "f1_macro"),
)
"""What the initiator makes of the hospitals' sealed sums, beside counts of calls."""


@dataclass(frozen=True)
class CountedRows:
    """How many rows each hospital has said to have, before anything was trained."""

    request: TrainingRequest
    n_rows: Mapping[int, int]
    n_test_rows: Mapping[int, int]  # of its test SQL

    def n_trained(self, user: int, fold: int) -> int:
        return self.n_rows[user] - self._n_held_back(user, fold)

    def n_tested(self, user: int, fold: int) -> int:
        """How many rows test a fold: what is held back of the hospital's rows.

        The final model, fold 0, is tested on those of its test SQL too.
        """
        n_held_back = self._n_held_back(user, fold)
        if fold:
            return n_held_back
        return n_held_back + self.n_test_rows[user]

    def _n_held_back(self, user: int, fold: int) -> int:
        return n_held_out(self.request, self.n_rows[user], fold)


# Checking


def check_reports(
    rows: CountedRows, fold: int, reports: Mapping[int, RoundReport]
) -> None:
    """Whether all reports are of the rows that were counted, and have numbers.

    ProtocolViolation (code report) for one that is not so.
    """
    request = rows.request
    for user, report in reports.items():
        n_trained = rows.n_trained(user, fold)
        if not _trains_well(report, request, user, n_trained):
            sentence = (
                f"The metrics of hospital {user} are not those of "
                f"its {n_trained} training rows."
            )
            raise _wrong_report(sentence, user)
        n_tested = rows.n_tested(user, fold)
        if not _tests_well(report, request, n_tested):
            sentence = (
                f"The metrics of hospital {user} are not those of "
                f"its {n_tested} held-out rows."
            )
            raise _wrong_report(sentence, user)
    # Of open orders all hospitals compare the same models.
    if request.is_open:
        named = who_differ(_compared(reports))
        _check_alike("The hospitals leave out others than each other", named)
    if not _withhold_alike(reports):
        sentence = (
            "Some hospitals withhold metrics that others show as their own: "
            f"{listed(sorted(reports))}."
        )
        raise _wrong_report(sentence, *sorted(reports))
    _check_alike(
        "The hospitals' confusion counts are not of the same classes",
        who_differ(_n_classes(reports)),
    )


def _check_alike(sentence: str, named: list[int]) -> None:
    if named:
        raise _wrong_report(f"{sentence}: {listed(named)}.", *named)


def _withhold_alike(reports: Mapping[int, RoundReport]) -> bool:
    """Whether all withhold the same parts; else one's own would be what all have less
    what the others show.
    """
    for part in ("train", "test"):
        are_withheld = set()
        for report in reports.values():
            # A hospital without such rows has nothing to withhold.
            if part in report:
                are_withheld.add(_is_withheld(report, part))
        if len(are_withheld) > 1:
            return False
    return True


def _is_withheld(report: RoundReport, part: str) -> bool:
    """Whether the report names a rule by which a part's metrics are null."""
    rules = report.get("withheld", {})
    return isinstance(rules, dict) and part in rules


def _is_null(metrics: Any) -> bool:
    if not isinstance(metrics, dict) or not set(metrics) <= _MEASURED:
        return False
    return all(value is None for value in metrics.values())


def _names_rules(report: RoundReport) -> bool:
    """Whether what it says to be withheld is parts, each with a rule and its number."""
    rules = report.get("withheld", {})
    if not isinstance(rules, dict) or not set(rules) <= set(_RULES):
        return False
    for part, rule in rules.items():
        if not isinstance(rule, dict) or set(rule) != {"rule", "threshold"}:
            return False
        if rule["rule"] not in _RULES[part] or type(rule["threshold"]) is not int:
            return False
    return True


def _compared(reports: Mapping[int, RoundReport]) -> dict[int, tuple[str, ...]]:
    """Whom each leaves out one by one, by hospital that compares."""
    compared = {}
    for user, report in reports.items():
        if report.get("leave_one_out"):
            compared[user] = tuple(report["leave_one_out"])
    return compared


def _n_classes(reports: Mapping[int, RoundReport]) -> dict[int, int]:
    """Of how many classes the counts of calls are, by hospital that has held-out rows."""
    n_classes = {}
    for user, report in reports.items():
        if "test" in report:
            confusion = report["test"].get("confusion") or ()
            n_classes[user] = len(confusion)
    return n_classes


def _trains_well(
    report: RoundReport, request: TrainingRequest, user: int, n_trained: int
) -> bool:
    """Whether a report has metrics of the training rows that were counted."""
    if not set(report) <= _FIELDS or type(report.get("final", False)) is not bool:
        return False
    if not _is_number_of(report.get("n_rows"), n_trained):
        return False
    if not _names_rules(report):
        return False
    train = report.get("train")
    if _is_withheld(report, "train"):
        if not _is_null(train):
            return False
    elif not _are_numbers(train, request, required=True):
        return False
    return _compares_well(report, request, user)


def _wrong_report(sentence: str, *hospitals: int) -> ProtocolViolation:
    return ProtocolViolation(
        sentence,
        remedy="Compare its version with the others', then send the order again.",
        code="report",
        hospitals=[*hospitals],
    )


def _tests_well(report: RoundReport, request: TrainingRequest, n_tested: int) -> bool:
    """Whether a report has metrics of the held-out rows that were counted.

    And of no other ones.
    """
    if not n_tested:
        return "test" not in report and "n_test_rows" not in report
    test = report.get("test")
    if not _is_number_of(report.get("n_test_rows"), n_tested):
        return False
    if _is_withheld(report, "test"):
        return _is_null(test)
    if not isinstance(test, dict) or not _are_numbers(test, request, required=True):
        return False
    if request.has_number_label:
        return True  # it calls nothing
    return _n_called(test, request) == n_tested


def _n_called(test: Mapping[str, Any], request: TrainingRequest) -> int | None:
    """The rows in the counts of a classifier's calls.

    None where they are no counts, or no square of them.
    """
    counts: list[Any] = []
    if request.has_binary_label:
        counts = [test.get(name) for name in CALLS]
    else:
        confusion = test.get("confusion")
        if not isinstance(confusion, list):
            return None
        for row in confusion:
            if not isinstance(row, list) or len(row) != len(confusion):
                return None
            counts.extend(row)
    total = 0
    for count in counts:
        # Not isinstance: true and false are whole numbers to it.
        if type(count) is not int or count < 0:
            return None
        total += count
    return total


def _compares_well(report: RoundReport, request: TrainingRequest, user: int) -> bool:
    """Whether a report's metrics of models without single hospitals are numbers.

    Of sealed orders it may speak of the model without itself alone.
    """
    found = report.get("leave_one_out", {})
    others = request.hospitals if request.is_open else [user]
    allowed = {str(hospital) for hospital in others}
    if not isinstance(found, dict) or not set(found) <= allowed:
        return False
    if not found:
        return True
    n_rows = report.get("n_test_rows", 0)
    if type(n_rows) is not int or n_rows <= 0:
        return False
    entries = [*found.values(), report.get("test")]
    return all(_are_numbers(entry, request, required=False) for entry in entries)


def _are_numbers(metrics: Any, request: TrainingRequest, *, required: bool) -> bool:
    """Whether these are metrics, each a number or null where it is not defined.

    Those that are pooled are finite, and there where they are `required`.
    """
    if not isinstance(metrics, dict) or not set(metrics) <= _MEASURED:
        return False
    for name, value in metrics.items():
        if value is not None and not _is_metric(name, value):
            return False
    quality = "mse" if request.has_number_label else "accuracy"
    for name in ("loss", quality):
        is_there = name in metrics
        if metrics.get(name) is None and (is_there or required):
            return False
    return True


def _is_metric(name: str, value: Any) -> bool:
    if name == "confusion":
        return _are_counts(value)
    if name in CALLS:
        return type(value) is int and 0 <= value <= MOST_ROWS
    return _is_finite(value)


def _is_number_of(value: Any, n_rows: int) -> bool:
    # Not a comparison alone: true is 1 to it, and 30.0 is 30.
    return type(value) is int and value == n_rows


def _is_finite(value: Any) -> bool:
    # Not math.isfinite: of a whole number from JSON that no float holds it raises
    # OverflowError.
    return type(value) in (int, float) and abs(value) < _LARGEST


# The record


def make_record(
    fold: int, round_: int, reports: Mapping[int, RoundReport], choice: Choice
) -> Record:
    """What is kept of a round: each hospital's metrics and the members' mean loss.

    The mean weighs by rows and is without the penalty.
    """
    shown = {}
    for user, report in sorted(reports.items()):
        # What it says of the round before is kept with that one.
        kept = dict(report)
        kept.pop("leave_one_out", None)
        shown[str(user)] = kept
    left_out = {}
    for user, reason in choice.left_out.items():
        left_out[str(user)] = reason
    members = [reports[user] for user in choice.members]
    losses = [report["train"].get("loss") for report in members]
    # Where hospitals withhold their own, the loss of a round is theirs alone to know.
    loss = None
    if None not in losses:
        loss = _mean_over_rows(members, losses)
    return {
        "fold": fold,
        "round": round_,
        "loss": loss,
        "final": all(report.get("final", False) for report in reports.values()),
        "hospitals": shown,
        "left_out": left_out,
    }


def _mean_over_rows(reports: list[RoundReport], values: list[float]) -> float:
    """sum_i n_i v_i / sum_i n_i over training rows, rounded once."""
    n_rows = 0
    weighted = []
    for report, value in zip(reports, values, strict=True):
        n_rows += report["n_rows"]
        weighted.append(report["n_rows"] * value)
    return math.fsum(weighted) / n_rows


# Summing up


def read_pooled(body: bytes, initiator: int) -> PooledMetrics:
    """What the initiator made of a fold's sums, checked.

    `training`, `held_out` and `all_folds`, the last two null or absent where there are
    no such rows. In each are numbers, or null where a metric is not defined. Further
    `stopped_by`, and under `warnings` codes of `analytics.training.outcome`.
    ProtocolViolation (code report) for anything else.
    """
    sentence = f"Hospital {initiator} tells no metrics of all hospitals' rows."
    wrong = _wrong_report(sentence, initiator)
    metrics: list[tuple[str, Any]] = []
    try:
        pooled: PooledMetrics = json.loads(body)
        is_outcome = _is_outcome(pooled["stopped_by"], pooled["warnings"])
        metrics.extend(pooled["training"].items())
        for part in ("held_out", "all_folds"):
            if pooled.get(part) is not None:
                metrics.extend(pooled[part].items())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise wrong from None
    if not is_outcome:
        raise wrong
    for name, value in metrics:
        if name not in POOLED and name not in _COUNTED:
            raise wrong
        may_be_null = name in POOLED
        if not (value is None and may_be_null) and not _is_metric(name, value):
            raise wrong
    return pooled


def read_evaluated(body: bytes, initiator: int) -> PooledMetrics:
    """What the initiator made of an evaluation's sums, checked.

    `metrics`, each a number or null, and `withheld`: null, or the rule by which there
    are none. ProtocolViolation (code report) for anything else.
    """
    sentence = f"Hospital {initiator} tells no metrics of all hospitals' rows."
    wrong = _wrong_report(sentence, initiator)
    try:
        evaluated: PooledMetrics = json.loads(body)
        metrics, withheld = evaluated["metrics"], evaluated["withheld"]
        is_told = set(evaluated) == {"metrics", "withheld"}
        named = {"withheld": {} if withheld is None else {"train": withheld}}
        is_told = is_told and isinstance(metrics, dict) and _names_rules(named)
        is_told = is_told and set(metrics) <= _EVALUATED
        are_numbers = is_told and all(
            value is None or _is_metric(name, value) for name, value in metrics.items()
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise wrong from None
    if not are_numbers:
        raise wrong
    return evaluated


def check_end(request: TrainingRequest, record: Record, pooled: PooledMetrics) -> None:
    """Whether a fold that is said to have ended by max_iter has taken as many rounds.

    ProtocolViolation (code report) for one that has not.
    """
    by_max_iter = pooled["stopped_by"] == "max_iter"
    if by_max_iter and record["round"] != request.model_params.max_iter:
        sentence = (
            f"Hospital {request.user_id} says that training ended by max_iter, "
            f"after {record['round']} rounds."
        )
        raise _wrong_report(sentence, request.user_id)


def _is_outcome(stopped_by: Any, warnings: Any) -> bool:
    """Whether these are a word that training stops by, and codes of warnings."""
    if stopped_by not in STOPPED_BY or not isinstance(warnings, list):
        return False
    return all(isinstance(code, str) and code in WARNINGS for code in warnings)


def _are_counts(confusion: Any) -> bool:
    """Whether this is a square of whole numbers of 0 or more."""
    if not isinstance(confusion, list):
        return False
    for row in confusion:
        if not isinstance(row, list) or len(row) != len(confusion):
            return False
        for count in row:
            if type(count) is not int or not 0 <= count <= MOST_ROWS:
                return False
    return True


def summary_of_fold(model_type: str, record: Record, pooled: PooledMetrics) -> Summary:
    """Metrics of a finished fold's model over all hospitals' rows.

    Training rows: loss, accuracy and mse weigh the hospitals' own metrics; AUC and KS
    come from the joint histogram. Held-out rows: see `held_out_summary`; null where the
    fold has none. With them stands whether training had converged, and what speaks
    against the model.
    """
    reports = list(record["hospitals"].values())
    n_rows = sum(report["n_rows"] for report in reports)
    summary = {"loss": record["loss"], "n_rows": n_rows}
    for name in ("accuracy", "mse"):
        of_hospitals = [report["train"].get(name) for report in reports]
        # None of a model that has no such metric, or where it is withheld.
        if None not in of_hospitals:
            summary[name] = _mean_over_rows(reports, of_hospitals)
    held_out = held_out_summary(model_type, pooled.get("held_out"), reports)
    return {
        **summary,
        **pooled["training"],
        "held_out": held_out,
        "converged": pooled["stopped_by"] == "converged",
        "stopped_by": pooled["stopped_by"],
        "warnings": [WARNINGS[code] for code in pooled["warnings"]],
    }


def held_out_summary(
    model_type: str, from_sums: dict[str, Any] | None, reports: list[RoundReport]
) -> Summary | None:
    """Metrics of the hospitals' held-out rows as of one table (decision 56).

    None where they have none. What is counted adds up as the hospitals show it,
    exactly; loss, errors, AUC and KS come from their sealed sums.
    """
    tested = [report for report in reports if "test" in report]
    if from_sums is None or not tested:
        return None
    n_rows = sum(report["n_test_rows"] for report in tested)
    figures = {}
    # Where it is withheld the sealed sums have the counts too.
    if not _is_withheld(tested[0], "test"):
        figures = _figures(model_type, [report["test"] for report in tested])
    return {"n_rows": n_rows, **from_sums, **figures}


def _figures(model_type: str, tests: list[dict[str, Any]]) -> Summary:
    """What follows from counts of calls that are added up.

    Nothing of a model that calls none.
    """
    if model_type in ("linear", "glm", "cox"):
        # What a glm of 0 and 1 calls is counted together always.
        return {}
    if model_type == "lr":
        totals = {}
        for name in CALLS:
            totals[name] = sum(test[name] for test in tests)
        return binary_figures(**totals)
    confusion = np.sum([test["confusion"] for test in tests], axis=0)
    return class_figures(confusion)
