"""A round's points, and a round beside the one before it: what anomaly and contribution
scores are computed from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from analytics.scores import geometry
from api.routes.score_request import (
    Scoring,
    finite,
)
from api.store.engine import in_thread
from api.store.round_files import Floats, RoundFiles
from api.store.rows import RoundEntry
from protocol.errors import BadRequest


def points_of(
    files: RoundFiles,
    entry: RoundEntry,
    layers: list[str],
) -> Floats:
    """(n, n) float64, a row for each client: coordinates with the distances and angles
    of its layers together.
    """
    factors = (files.factor(entry, layer) for layer in layers)
    combined = geometry.combine_factors(factors)
    points: Floats = combined.T
    return points


@dataclass(frozen=True)
class Compared:
    """A round beside the one before it."""

    # (n,) each: training losses of the round before, and of this one
    losses: tuple[Floats, Floats]
    # (n, 4), over the layers together; columns as RoundFiles.between has them
    between: Floats
    round: int


async def compare(
    asked: Scoring,
    entry: RoundEntry,
    score_name: str,
) -> Compared:
    """BadRequest for a round that has none before it."""
    rounds = asked.services.store.rounds
    before = None
    number_before = entry.round - 1
    if entry.round:
        before = await in_thread(rounds.file, entry.order_id, number_before)
    if before is None:
        raise BadRequest(
            f"round is {entry.round}, and {score_name} compares a round with the one before it, which is not recorded.",
            remedy="Ask for a round whose predecessor is recorded.",
            code="first_round",
        )
    layers = asked.layers_in(entry)
    reports = await in_thread(
        rounds.reports,
        entry.order_id,
        first=number_before,
        last=entry.round,
    )
    report_before = reports.get(number_before)
    losses_before = _losses(report_before, entry)
    report_now = reports.get(entry.round)
    losses_now = _losses(report_now, entry)

    def all_layers() -> Floats:
        layer_scalars = []
        for layer in layers:
            scalars = asked.files.between(entry, before, layer)
            layer_scalars.append(scalars)
        return _joined(layer_scalars)

    between = await asked.work(all_layers)
    losses = (losses_before, losses_now)
    return Compared(losses, between, entry.round)


def _losses(
    report: dict[str, Any] | None,
    entry: RoundEntry,
) -> Floats:
    """(n,): training losses, NaN where there is none."""
    facts = report or {}
    hospitals = facts.get("hospitals", {})
    losses = []
    for client in entry.clients:
        client_report = hospitals.get(str(client), {})
        measured = client_report.get("train") or {}
        loss = finite(measured.get("loss"))
        if loss is None:
            loss = math.nan
        losses.append(loss)
    return np.array(losses)


def _joined(layer_scalars: list[Floats]) -> Floats:
    """The scalars of several layers together: lengths add by squares, inner products
    add.
    """
    lengths = [0, 1, 3]
    inner_product = 2
    squares = sum(scalars[:, lengths] ** 2 for scalars in layer_scalars)
    joined = np.zeros_like(layer_scalars[0])
    joined[:, lengths] = np.sqrt(squares)
    joined[:, inner_product] = sum(
        scalars[:, inner_product] for scalars in layer_scalars
    )
    return joined
