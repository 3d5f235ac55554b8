"""A round's reports as one record, and a fold's last ones as its summary. Pure.

To read first: `tasks.coordinator.reports`, which has checked them.

Decisions 56 and 77.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from analytics.training.metrics import binary_figures, class_figures
from analytics.training.outcome import WARNINGS
from protocol.messages import Choice
from tasks.coordinator.order import Record
from tasks.coordinator.pooled_metrics import PooledMetrics
from tasks.coordinator.reported_metrics import CALLS
from tasks.coordinator.reports import RoundReport, is_withheld

Summary = dict[str, Any]
"""Metrics of a finished model by name, with the number of rows that they are of."""


def make_record(
    fold: int,
    round_: int,
    reports: Mapping[int, RoundReport],
    choice: Choice,
) -> Record:
    """What is kept of a round: each hospital's metrics and the members' mean loss.

    The mean weighs by rows and is without the penalty.
    """
    hospital_reports = {}
    in_order = sorted(reports.items())
    for user_id, report in in_order:
        # What it says of the round before is kept with that one.
        kept_report = dict(report)
        kept_report.pop("leave_one_out", None)
        hospital_reports[str(user_id)] = kept_report
    left_out = {}
    for user_id, reason in choice.left_out.items():
        left_out[str(user_id)] = reason
    members = [reports[user_id] for user_id in choice.members]
    losses = []
    for report in members:
        train = report["train"]
        losses.append(train.get("loss"))
    # Where hospitals withhold their own, the loss of a round is theirs alone to know.
    loss = None
    if None not in losses:
        loss = _mean_over_rows(members, losses)
    is_final = all(report.get("final", False) for report in reports.values())
    return {
        "fold": fold,
        "round": round_,
        "loss": loss,
        "final": is_final,
        "hospitals": hospital_reports,
        "left_out": left_out,
    }


def _mean_over_rows(reports: list[RoundReport], values: list[float]) -> float:
    """sum_i n_i v_i / sum_i n_i over training rows, rounded once."""
    n_rows = 0
    weighted = []
    for report, value in zip(reports, values, strict=True):
        row_count = report["n_rows"]
        n_rows += row_count
        weighted.append(row_count * value)
    return math.fsum(weighted) / n_rows


def summary_of_fold(
    model_type: str,
    record: Record,
    pooled: PooledMetrics,
) -> Summary:
    """Metrics of a finished fold's model over all hospitals' rows.

    Training rows: loss, accuracy and mse weigh the hospitals' own metrics; AUC and KS
    come from the joint histogram. Held-out rows: see `held_out_summary`; null where the
    fold has none. With them stands whether training had converged, and what speaks
    against the model.
    """
    of_hospitals = record["hospitals"]
    reports = list(of_hospitals.values())
    n_rows = sum(report["n_rows"] for report in reports)
    summary = {
        "loss": record["loss"],
        "n_rows": n_rows,
    }
    for metric_name in ("accuracy", "mse"):
        metric_values = []
        for report in reports:
            train = report["train"]
            metric_values.append(train.get(metric_name))
        # None of a model that has no such metric, or where it is withheld.
        if None not in metric_values:
            summary[metric_name] = _mean_over_rows(reports, metric_values)
    from_sums = pooled.get("held_out")
    held_out = held_out_summary(model_type, from_sums, reports)
    warnings = [WARNINGS[code] for code in pooled["warnings"]]
    return {
        **summary,
        **pooled["training"],
        "held_out": held_out,
        "converged": pooled["stopped_by"] == "converged",
        "stopped_by": pooled["stopped_by"],
        "warnings": warnings,
    }


def held_out_summary(
    model_type: str,
    from_sums: dict[str, Any] | None,
    reports: list[RoundReport],
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
    if not is_withheld(tested[0], "test"):
        tests = [report["test"] for report in tested]
        figures = _figures(model_type, tests)
    return {
        "n_rows": n_rows,
        **from_sums,
        **figures,
    }


def _figures(model_type: str, tests: list[dict[str, Any]]) -> Summary:
    """What follows from counts of calls that are added up.

    Nothing of a model that calls none.
    """
    if model_type in ("linear", "glm", "cox"):
        # What a glm of 0 and 1 calls is counted together always.
        return {}
    if model_type == "lr":
        call_counts = {}
        for call_name in CALLS:
            call_counts[call_name] = sum(test[call_name] for test in tests)
        return binary_figures(**call_counts)
    tables = [test["confusion"] for test in tests]
    confusion = np.sum(tables, axis=0)
    return class_figures(confusion)
