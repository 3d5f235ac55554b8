"""Contribution scores of a round over REST, in the request document's bare shapes: how far
each gradient is from the average before, and what the model gains by each client.

The scores themselves are `analytics/scores/contribution`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse

from analytics.scores import contribution
from api.routes import score_arguments as given
from api.routes.order_protection import method_of
from api.routes.round_comparison import compare, points_of
from api.routes.round_data import reports_of
from api.routes.score_arguments import (
    MetricOf,
)
from api.routes.score_request import (
    ScoreRequest,
    ScoringOf,
    by_client,
    finite,
)
from api.store.engine import in_thread
from api.store.rows import OrderRow
from protocol.errors import Conflict

router = APIRouter()


@router.get("/contribution/grad_diff")
async def grad_diff(asked: ScoringOf, metric: MetricOf = None) -> JSONResponse:
    """Distance of each client's gradient to the average of the round before: eu
    (Euclidean) or cos.
    """
    chosen = given.choice(
        "metric",
        metric,
        ("eu", "cos"),
        default="eu",
    )
    measure = chosen or "eu"
    order = await asked.order()
    round_entry = await asked.entry(order)
    layers = asked.layers_in(round_entry)
    compared = await compare(asked, round_entry, "grad_diff")

    def scores() -> Any:
        points = points_of(asked.files, round_entry, layers)
        norm = np.linalg.norm(points, axis=1)
        _, drift, dot, norm_before = compared.between.T
        return contribution.grad_diff(
            norm,
            drift,
            dot,
            norm_before,
            metric=measure,
        )

    distances = await asked.work(scores)
    client_scores = by_client(round_entry, distances)
    return asked.answer(order, round_entry.round, client_scores)


@router.get("/contribution/perf_diff")
async def perf_diff(asked: ScoringOf, metric: MetricOf = None) -> JSONResponse:
    """What the model gains by each client: accuracy with it minus without, or loss
    without it minus with.
    """
    chosen = given.choice(
        "metric",
        metric,
        ("accuracy", "loss"),
        default="accuracy",
    )
    measure = chosen or "accuracy"
    order = await asked.order("reports")
    round_, report = await _left_out(asked, order)
    pairs = {}
    for client_name in report["hospitals"]:
        pairs[int(client_name)] = _with_and_without(report, client_name, measure)
    measured = {client: pair for client, pair in pairs.items() if None not in pair}
    if not measured:
        raise Conflict(
            f"Round {round_} of order {order.order_id} has no {measure} of the model with and without a client.",
            remedy="Ask for the other metric, or record performance.test and leave_one_out.",
            code="no_metrics",
        )
    pairs_measured = np.array(list(measured.values()), dtype=np.float64)
    with_all, without = pairs_measured.T
    scores = await asked.work(
        lambda: contribution.perf_diff(with_all, without, metric=measure)
    )
    client_scores: dict[int, float | None] = dict.fromkeys(pairs)
    for client, score in zip(measured, scores, strict=True):
        client_scores[client] = finite(float(score))
    return asked.answer(
        order,
        round_,
        client_scores,
        **_measured_by(order),
    )


async def _left_out(
    asked: ScoreRequest,
    order: OrderRow,
) -> tuple[int, dict[str, Any]]:
    """The round that is asked for, or the newest in which models without each client
    were measured.
    """
    order_id = order.order_id
    if asked.round is None:
        newest = await in_thread(
            asked.services.store.rounds.newest_report,
            order_id,
            "leave_one_out",
        )
        if newest is None:
            raise _no_test_rows(f"Order {order_id} has")
        round_, report = newest
        return int(round_), dict(report)
    reports = await reports_of(asked, order, 1)
    report = reports[asked.round]
    if not report.get("leave_one_out"):
        raise _no_test_rows(f"Round {asked.round} of order {order_id} has")
    return asked.round, report


def _no_test_rows(who: str) -> Conflict:
    return Conflict(
        f"{who} no performance of the model without each client.",
        remedy="It needs test rows (test_data_info or validation_fraction), scoring full, and a round before the last; "
        "for an external order record leave_one_out.",
        code="no_metrics",
    )


def _with_and_without(
    report: dict[str, Any],
    client: str,
    metric: str,
) -> tuple[float | None, float | None]:
    """The model's metric with all clients and without this one, on the same test rows."""
    left_out = report["leave_one_out"]
    without = left_out.get(client) or {}
    with_all = without.get("all") or {}
    # External trainers may record the pair; else all clients' test metrics stand for
    # the model with all.
    if metric in with_all:
        complete = finite(with_all[metric])
    else:
        complete = _pooled(report, metric)
    return complete, finite(without.get(metric))


def _pooled(
    report: dict[str, Any],
    metric: str,
) -> float | None:
    """The mean of the clients' test metrics, weighted by row counts where all have
    some.
    """
    metric_values = []
    weights = []
    for client_report in report["hospitals"].values():
        measured = client_report.get("test")
        if not isinstance(measured, dict):
            continue
        metric_value = finite(measured.get(metric))
        if metric_value is None:
            continue
        n_rows = client_report.get("n_rows")
        if n_rows is None:
            n_rows = 1
        metric_values.append(metric_value)
        weights.append(n_rows)
    total_weight = sum(weights)
    if not total_weight:
        return None
    # Halves, because the sum of shares of the largest numbers may leave the range of
    # float64.
    halves = []
    for metric_value, weight in zip(metric_values, weights, strict=True):
        share = weight / total_weight
        halves.append(metric_value / 2 * share)
    mean = 2 * math.fsum(halves)
    return finite(mean)


def _measured_by(order: OrderRow) -> dict[str, str]:
    """In a sealed order each hospital measures the models itself."""
    if order.kind == "train" and method_of(order) != "None":
        return {"X_Self_Reported": "true"}
    return {}
