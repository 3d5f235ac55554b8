"""What the hospitals report of a round, and whether it may be so.

Reports are the hospitals' own words on their own rows. They change no model; but
everybody in the order reads them, so each must have the rows that were counted, and
numbers. Pure.

To read next: `summaries`, where a round's reports become one record and a fold's last
ones its summary; `pooled_metrics` for what is told of all hospitals' rows.

Decision 71.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocol.errors import ProtocolViolation, listed, who_differ
from protocol.training_request import TrainingRequest, n_held_out
from tasks.coordinator.reported_metrics import CALLS, are_numbers, is_null

RoundReport = dict[str, Any]
"""A hospital's: n_rows, train, and of its held-out rows n_test_rows, test;
leave_one_out of the round before; final. Under `withheld` the rule by which all metrics
of train or of test are null (decision 71).
"""
_RULES = {
    "train": ("min_rows", "newton", "evaluation"),
    "test": ("min_rows", "newton"),
    "scores": ("min_scored_coefficients",),
}
"""By which a part of a report may be withheld."""
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


@dataclass(frozen=True)
class CountedRows:
    """How many rows each hospital has said to have, before anything was trained."""

    request: TrainingRequest
    n_rows: Mapping[int, int]
    n_test_rows: Mapping[int, int]  # of its test SQL

    def n_trained(self, user: int, fold: int) -> int:
        n_held_back = self._n_held_back(user, fold)
        return self.n_rows[user] - n_held_back

    def n_tested(self, user: int, fold: int) -> int:
        """How many rows test a fold: what is held back of the hospital's rows.

        The final model, fold 0, is tested on those of its test SQL too.
        """
        n_held_back = self._n_held_back(user, fold)
        if fold:
            return n_held_back
        return n_held_back + self.n_test_rows[user]

    def _n_held_back(self, user: int, fold: int) -> int:
        n_rows = self.n_rows[user]
        return n_held_out(self.request, n_rows, fold)


def check_reports(
    rows: CountedRows,
    fold: int,
    reports: Mapping[int, RoundReport],
) -> None:
    """Whether all reports are of the rows that were counted, and have numbers.

    ProtocolViolation (code report) for one that is not so.
    """
    request = rows.request
    for user_id, report in reports.items():
        n_trained = rows.n_trained(user_id, fold)
        trains_well = _trains_well(
            report,
            request,
            user_id,
            n_trained,
        )
        if not trains_well:
            sentence = (
                f"The metrics of hospital {user_id} are not those of "
                f"its {n_trained} training rows."
            )
            raise wrong_report(sentence, user_id)
        n_tested = rows.n_tested(user_id, fold)
        if not _tests_well(report, request, n_tested):
            sentence = (
                f"The metrics of hospital {user_id} are not those of "
                f"its {n_tested} held-out rows."
            )
            raise wrong_report(sentence, user_id)
    # Of open orders all hospitals compare the same models.
    if request.is_open:
        named = who_differ(_compared(reports))
        _check_alike("The hospitals leave out others than each other", named)
    if not _withhold_alike(reports):
        everybody = sorted(reports)
        sentence = (
            "Some hospitals withhold metrics that others show as their own: "
            f"{listed(everybody)}."
        )
        raise wrong_report(sentence, *everybody)
    _check_alike(
        "The hospitals' confusion counts are not of the same classes",
        who_differ(_n_classes(reports)),
    )


def _check_alike(sentence: str, named: list[int]) -> None:
    if named:
        raise wrong_report(f"{sentence}: {listed(named)}.", *named)


def _withhold_alike(reports: Mapping[int, RoundReport]) -> bool:
    """Whether all withhold the same parts; else one's own would be what all have less
    what the others show.
    """
    for part in ("train", "test"):
        are_withheld = set()
        for report in reports.values():
            # A hospital without such rows has nothing to withhold.
            if part in report:
                own_withheld = is_withheld(report, part)
                are_withheld.add(own_withheld)
        if len(are_withheld) > 1:
            return False
    return True


def is_withheld(report: RoundReport, part: str) -> bool:
    """Whether the report names a rule by which a part's metrics are null."""
    rules = report.get("withheld", {})
    return isinstance(rules, dict) and part in rules


def names_rules(report: RoundReport) -> bool:
    """Whether what it says to be withheld is parts, each with a rule and its number."""
    rules = report.get("withheld", {})
    if not isinstance(rules, dict):
        return False
    if not set(rules) <= set(_RULES):
        return False
    for part, rule in rules.items():
        if not isinstance(rule, dict):
            return False
        if set(rule) != {"rule", "threshold"}:
            return False
        if rule["rule"] not in _RULES[part]:
            return False
        if type(rule["threshold"]) is not int:
            return False
    return True
    return True


def _compared(reports: Mapping[int, RoundReport]) -> dict[int, tuple[str, ...]]:
    """Whom each leaves out one by one, by hospital that compares."""
    compared = {}
    for user_id, report in reports.items():
        left_out = report.get("leave_one_out")
        if left_out:
            compared[user_id] = tuple(left_out)
    return compared


def _n_classes(reports: Mapping[int, RoundReport]) -> dict[int, int]:
    """Of how many classes the counts of calls are, by hospital that has held-out rows."""
    n_classes = {}
    for user_id, report in reports.items():
        if "test" in report:
            test = report["test"]
            confusion = test.get("confusion") or ()
            n_classes[user_id] = len(confusion)
    return n_classes


def _trains_well(
    report: RoundReport,
    request: TrainingRequest,
    user: int,
    n_trained: int,
) -> bool:
    """Whether a report has metrics of the training rows that were counted."""
    if not set(report) <= _FIELDS:
        return False
    is_final = report.get("final", False)
    if type(is_final) is not bool:
        return False
    n_rows = report.get("n_rows")
    if not _is_number_of(n_rows, n_trained):
        return False
    if not names_rules(report):
        return False
    train = report.get("train")
    if is_withheld(report, "train"):
        if not is_null(train):
            return False
    elif not are_numbers(train, request, required=True):
        return False
    return _compares_well(report, request, user)


def wrong_report(sentence: str, *hospitals: int) -> ProtocolViolation:
    return ProtocolViolation(
        sentence,
        remedy="Compare its version with the others', then send the order again.",
        code="report",
        hospitals=[*hospitals],
    )


def _tests_well(
    report: RoundReport,
    request: TrainingRequest,
    n_tested: int,
) -> bool:
    """Whether a report has metrics of the held-out rows that were counted.

    And of no other ones.
    """
    if not n_tested:
        return "test" not in report and "n_test_rows" not in report
    test = report.get("test")
    n_test_rows = report.get("n_test_rows")
    if not _is_number_of(n_test_rows, n_tested):
        return False
    if is_withheld(report, "test"):
        return is_null(test)
    if not isinstance(test, dict):
        return False
    if not are_numbers(test, request, required=True):
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
        counts = [test.get(call_name) for call_name in CALLS]
    else:
        confusion = test.get("confusion")
        if not isinstance(confusion, list):
            return None
        for confusion_row in confusion:
            if not isinstance(confusion_row, list):
                return None
            if len(confusion_row) != len(confusion):
                return None
            counts.extend(confusion_row)
    n_called = 0
    for count in counts:
        # Not isinstance: true and false are whole numbers to it.
        if type(count) is not int:
            return None
        if count < 0:
            return None
        n_called += count
    return n_called


def _compares_well(
    report: RoundReport,
    request: TrainingRequest,
    user: int,
) -> bool:
    """Whether a report's metrics of models without single hospitals are numbers.

    Of sealed orders it may speak of the model without itself alone.
    """
    comparisons = report.get("leave_one_out", {})
    left_out = request.hospitals if request.is_open else [user]
    allowed = {str(hospital) for hospital in left_out}
    if not isinstance(comparisons, dict):
        return False
    if not set(comparisons) <= allowed:
        return False
    if not comparisons:
        return True
    n_rows = report.get("n_test_rows", 0)
    if type(n_rows) is not int or n_rows <= 0:
        return False
    compared = [
        *comparisons.values(),
        report.get("test"),
    ]
    return all(are_numbers(metrics, request, required=False) for metrics in compared)


def _is_number_of(value: Any, n_rows: int) -> bool:
    # Not a comparison alone: true is 1 to it, and 30.0 is 30.
    return type(value) is int and value == n_rows
