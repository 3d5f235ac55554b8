"""Metrics as hospitals report them: which there are, and whether a value is one. Pure.

Everybody in an order reads them, so that nothing else may stand in a report.
"""

from __future__ import annotations

import sys
from typing import Any

from protocol.messages import MOST_ROWS
from protocol.training_request import TrainingRequest

CALLS = ("tp", "fp", "tn", "fn")
COUNTED = (*CALLS, "confusion")
MEASURED = {
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
    *COUNTED,
}
"""What a hospital measures of a model on its own rows."""
_LARGEST = sys.float_info.max / 2**60
"""A metric's largest number: times all rows of all hospitals it is still finite."""


def is_null(metrics: Any) -> bool:
    if not isinstance(metrics, dict) or not set(metrics) <= MEASURED:
        return False
    return all(value is None for value in metrics.values())


def are_numbers(metrics: Any, request: TrainingRequest, *, required: bool) -> bool:
    """Whether these are metrics, each a number or null where it is not defined.

    Those that are pooled are finite, and there where they are `required`.
    """
    if not isinstance(metrics, dict) or not set(metrics) <= MEASURED:
        return False
    for metric_name, metric_value in metrics.items():
        if metric_value is not None and not is_metric(metric_name, metric_value):
            return False
    quality = "mse" if request.has_number_label else "accuracy"
    for metric_name in ("loss", quality):
        is_there = metric_name in metrics
        if metrics.get(metric_name) is None and (is_there or required):
            return False
    return True


def is_metric(name: str, value: Any) -> bool:
    if name == "confusion":
        return _are_counts(value)
    if name in CALLS:
        return type(value) is int and 0 <= value <= MOST_ROWS
    return _is_finite(value)


def _is_finite(value: Any) -> bool:
    # Not math.isfinite: of a whole number from JSON that no float holds it raises
    # OverflowError.
    return type(value) in (int, float) and abs(value) < _LARGEST


def _are_counts(confusion: Any) -> bool:
    """Whether this is a square of whole numbers of 0 or more."""
    if not isinstance(confusion, list):
        return False
    for confusion_row in confusion:
        if not isinstance(confusion_row, list) or len(confusion_row) != len(confusion):
            return False
        for count in confusion_row:
            if type(count) is not int or not 0 <= count <= MOST_ROWS:
                return False
    return True
