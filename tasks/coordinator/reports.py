"""What the hospitals report of a round: checked, made one record, and summed up at a fold's end. Pure.

Reports are the hospitals' own words on their own rows. They change no model; but everybody in the order reads them, so
each must have the rows that were counted, and numbers.
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
from protocol.errors import ProtocolViolation
from protocol.messages import Choice
from protocol.training_request import TrainingRequest, n_held_out

RoundReport = dict[str, Any]
"""A hospital's: n_rows, train, and of its held-out rows n_test_rows, test; leave_one_out of the round before; final."""

CALLS = ("tp", "fp", "tn", "fn")
POOLED = ("loss", "auc", "ks", "mse", "rmse", "mae")
"""What the initiator makes of the hospitals' sealed sums."""


@dataclass(frozen=True)
class CountedRows:
    """How many rows each hospital has said to have, before anything was trained."""

    request: TrainingRequest
    n_rows: Mapping[int, int]
    n_test_rows: Mapping[int, int]  # of its test SQL

    def n_trained(self, user: int, fold: int) -> int:
        return self.n_rows[user] - self._n_held_back(user, fold)

    def n_tested(self, user: int, fold: int) -> int:
        """How many rows test a fold: what is held back of its rows; for the final model those of its test SQL too."""
        held_back = self._n_held_back(user, fold)
        return held_back if fold else held_back + self.n_test_rows[user]

    def _n_held_back(self, user: int, fold: int) -> int:
        return n_held_out(self.request, self.n_rows[user], fold)


# Checking


def check_reports(rows: CountedRows, fold: int, reports: Mapping[int, RoundReport]) -> None:
    """ProtocolViolation (code report) for one that is not of the rows that its hospital counted, or has no numbers."""
    request = rows.request
    compared = {tuple(report["leave_one_out"]) for report in reports.values() if report.get("leave_one_out")}
    for user, report in reports.items():
        n_trained = rows.n_trained(user, fold)
        fits = (
            report.get("n_rows") == n_trained
            and _are_numbers(report.get("train"), request, required=True)
            and _compares_well(report, request, user)
        )
        # Of open orders all hospitals compare the same models.
        if not fits or (request.is_open and len(compared) > 1):
            raise _wrong_report(
                f"The metrics of hospital {user} are not those of its {n_trained} training rows.", user
            )
        n_tested = rows.n_tested(user, fold)
        if not _tests_well(report, request, n_tested):
            raise _wrong_report(
                f"The metrics of hospital {user} are not those of its {n_tested} held-out rows.", user
            )
    tests = [report["test"] for report in reports.values() if "test" in report]
    n_classes = {len(test.get("confusion", ())) for test in tests}
    if len(n_classes) > 1:
        raise _wrong_report("The hospitals' confusion counts are not of the same classes.", *sorted(reports))


def _wrong_report(sentence: str, *hospitals: int) -> ProtocolViolation:
    return ProtocolViolation(
        sentence,
        remedy="Compare its version with the others', then send the order again.",
        code="report",
        hospitals=[*hospitals],
    )


def _tests_well(report: RoundReport, request: TrainingRequest, n_tested: int) -> bool:
    """Whether a report has metrics of the held-out rows that were counted, and of no other ones."""
    if not n_tested:
        return "test" not in report and "n_test_rows" not in report
    test = report.get("test")
    if report.get("n_test_rows") != n_tested:
        return False
    if not isinstance(test, dict) or not _are_numbers(test, request, required=True):
        return False
    return request.model_type == "linear" or _n_called(test, request) == n_tested


def _n_called(test: Mapping[str, Any], request: TrainingRequest) -> int | None:
    """The rows in the counts of a classifier's calls; None where they are no counts, or no square of them."""
    counts: list[Any] = []
    if request.model_type == "lr":
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
        if type(count) is not int or count < 0:
            return None
        total += count
    return total


def _compares_well(report: RoundReport, request: TrainingRequest, user: int) -> bool:
    """Whether what a report says of models without single hospitals is numbers, of whom it may speak."""
    found = report.get("leave_one_out", {})
    others = request.hospitals if request.is_open else [user]
    if not isinstance(found, dict) or not set(found) <= {str(hospital) for hospital in others}:
        return False
    if not found:
        return True
    n_rows = report.get("n_test_rows", 0)
    if type(n_rows) is not int or n_rows <= 0:
        return False
    entries = [*found.values(), report.get("test")]
    return all(_are_numbers(entry, request, required=False) for entry in entries)


def _are_numbers(metrics: Any, request: TrainingRequest, *, required: bool) -> bool:
    """Those that are pooled: finite, and there where they are `required`."""
    if not isinstance(metrics, dict):
        return False
    for name in ("loss", "mse" if request.model_type == "linear" else "accuracy"):
        if name not in metrics:
            if required:
                return False
        elif not _is_finite(metrics[name]):
            return False
    return True


def _is_finite(value: Any) -> bool:
    # Not math.isfinite: of a whole number from JSON that no float holds it raises OverflowError.
    return type(value) in (int, float) and abs(value) < sys.float_info.max


# The record


def make_record(fold: int, round_: int, reports: Mapping[int, RoundReport], choice: Choice) -> dict[str, Any]:
    """What is kept of a round: each hospital's metrics and the members' row-weighted mean loss, without the penalty."""
    members = [reports[user] for user in choice.members]
    shown = {}
    for user, report in sorted(reports.items()):
        shown[str(user)] = {name: value for name, value in report.items() if name != "leave_one_out"}
    losses = [report["train"]["loss"] for report in members]
    return {
        "fold": fold,
        "round": round_,
        "loss": _mean_over_rows(members, losses),
        "final": all(report.get("final", False) for report in reports.values()),
        "hospitals": shown,
        "left_out": {str(user): reason for user, reason in choice.left_out.items()},
    }


def _mean_over_rows(reports: list[RoundReport], values: list[float]) -> float:
    """sum_i n_i v_i / sum_i n_i over training rows, rounded once."""
    n_rows, weighted = 0, []
    for report, value in zip(reports, values, strict=True):
        n_rows += report["n_rows"]
        weighted.append(report["n_rows"] * value)
    return math.fsum(weighted) / n_rows


# Summing up


def read_pooled(body: bytes, initiator: int) -> dict[str, Any]:
    """What the initiator made of a fold's sums: numbers, or null where a metric is not defined.

    `training`, `held_out` and `all_folds`, the last two null or absent where there are no such rows. ProtocolViolation
    (code report) for anything else.
    """
    wrong = _wrong_report(f"Hospital {initiator} tells no metrics of all hospitals' rows.", initiator)
    try:
        pooled: dict[str, Any] = json.loads(body)
        parts = [pooled["training"]]
        for name in ("held_out", "all_folds"):
            if pooled.get(name) is not None:
                parts.append(pooled[name])
        metrics = [metric for part in parts for metric in part.items()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise wrong from None
    for name, value in metrics:
        if name not in POOLED or not (value is None or _is_finite(value)):
            raise wrong
    return pooled


def summary_of_fold(model_type: str, record: dict[str, Any], pooled: dict[str, Any]) -> dict[str, Any]:
    """Metrics of a finished fold's model over all hospitals' rows.

    Training rows: loss, accuracy and mse weigh the hospitals' own metrics; AUC and KS come from the joint histogram.
    Held-out rows: see `held_out_summary`; null where the fold has none.
    """
    reports = list(record["hospitals"].values())
    n_rows = sum(report["n_rows"] for report in reports)
    summary = {"loss": record["loss"], "n_rows": n_rows}
    for name in ("accuracy", "mse"):
        if all(name in report["train"] for report in reports):
            of_hospitals = [report["train"][name] for report in reports]
            summary[name] = _mean_over_rows(reports, of_hospitals)
    held_out = held_out_summary(model_type, pooled.get("held_out"), reports)
    return {**summary, **pooled["training"], "held_out": held_out}


def held_out_summary(
    model_type: str, from_sums: dict[str, Any] | None, reports: list[RoundReport]
) -> dict[str, Any] | None:
    """Metrics of the hospitals' held-out rows as of one table (decision 56); None where they have none.

    What is counted adds up as the hospitals show it, exactly; loss, errors, AUC and KS come from their sealed sums.
    """
    tested = [report for report in reports if "test" in report]
    if from_sums is None or not tested:
        return None
    n_rows = sum(report["n_test_rows"] for report in tested)
    figures = _figures(model_type, [report["test"] for report in tested])
    return {"n_rows": n_rows, **from_sums, **figures}


def _figures(model_type: str, tests: list[dict[str, Any]]) -> dict[str, Any]:
    """What follows from counts of calls that are added up; nothing of a model that calls none."""
    if model_type == "linear":
        return {}
    if model_type == "lr":
        return binary_figures(**{name: sum(test[name] for test in tests) for name in CALLS})
    return class_figures(np.sum([test["confusion"] for test in tests], axis=0))
