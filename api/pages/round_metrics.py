"""Metrics of single hospitals by round, as an order's page reads them."""

from __future__ import annotations

from typing import Any

# Metrics in the order in which they are shown.
FIRST = (
    "loss",
    "accuracy",
    "auc",
    "ks",
    "concordance",
    "f1",
    "f1_macro",
    "mse",
    "rmse",
    "mae",
    "r2",
)


def measured_of(hospitals: dict[str, Any], user: str, part: str) -> dict[str, Any]:
    """A hospital's metrics of a round; none where it had no part in it, or no such
    rows.
    """
    report = hospitals.get(user, {})
    return report.get(part) or {}


def metrics_of(hospitals: dict[str, Any]) -> list[str]:
    """The metrics that some hospital has of its training rows."""
    told_metrics: set[str] = set()
    for user in hospitals:
        told_metrics.update(measured_of(hospitals, user, "train"))
    return [metric for metric in FIRST if metric in told_metrics]


def as_drawn(value: Any) -> float | None:
    """A metric as it is drawn: 6 significant digits, which is all that leaves a
    hospital.
    """
    if not isinstance(value, (int, float)):
        return None
    return float(f"{value:.6g}")


def has_some(rounds: list[dict[str, Any]]) -> bool:
    """Whether any round tells a loss or a metric."""
    for entry in rounds:
        values = [entry["loss"]]
        for user in entry["hospitals"]:
            values += measured_of(entry["hospitals"], user, "train").values()
        if any(value is not None for value in values):
            return True
    return False
