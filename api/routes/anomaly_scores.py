"""Anomaly scores of a round over REST, in the request document's bare shapes; all of them
side by side in a report.

Every score works on triangular factors (n x n for each layer), so it is the same for
gradients that lie here in clear and for sealed ones, of which nothing else is here. The
scores themselves are `analytics/scores/anomaly`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse

from analytics.scores import anomaly, most_attackers
from api.routes import score_arguments as given
from api.routes.round_comparison import Compared, compare, points_of
from api.routes.score_arguments import (
    AttackersOf,
    ComponentsOf,
    IntegerOf,
    SelectedOf,
    ShareOf,
    WeightOf,
)
from api.routes.score_request import (
    Scoring,
    ScoringOf,
    bare,
    by_client,
    normalized,
    ranked,
)
from api.store.round_files import Floats
from api.store.rows import RoundEntry
from protocol.errors import BadRequest, Conflict

router = APIRouter()


# What the report of all scores uses where a call names nothing else.
ZENO_WEIGHT = 1.0
CLIQUE_SHARE = 0.8

ScoresAndMissing = tuple[dict[str, Any], dict[str, str]]


async def _score(
    asked: Scoring,
    rule: Callable[[Floats], Any],
) -> JSONResponse:
    """The answer of a rule that needs one round's points only."""
    order = await asked.order()
    round_entry = await asked.entry(order)
    layers = asked.layers_in(round_entry)

    def scores() -> Any:
        points = points_of(asked.files, round_entry, layers)
        return rule(points)

    rule_scores = await asked.work(scores)
    client_scores = by_client(round_entry, rule_scores)
    return asked.answer(order, round_entry.round, client_scores)


@router.get("/anomaly/krum")
async def krum(asked: ScoringOf, k: IntegerOf = None) -> JSONResponse:
    """Mean Euclidean distance to the k nearest other clients."""
    n_nearest = given.neighbours(k)
    rule = partial(anomaly.krum, k=n_nearest)
    return await _score(asked, rule)


@router.get("/anomaly/foolsgold")
async def foolsgold(
    asked: ScoringOf,
    k: IntegerOf = None,
    p: WeightOf = None,
) -> JSONResponse:
    """Mean cosine distance to the k nearest other clients; with `p` and without `k`, as
    the document has it, Zeno.
    """
    if k is None and p is not None:
        return await zeno(asked, p)
    n_nearest = given.neighbours(k)
    rule = partial(anomaly.foolsgold, k=n_nearest)
    return await _score(asked, rule)


@router.get("/anomaly/auror")
async def auror(asked: ScoringOf, k: IntegerOf = None) -> JSONResponse:
    """Distance to the centre of the own one of k clusters."""
    n_clusters = given.neighbours(k)
    rule = partial(anomaly.auror, k=n_clusters)
    return await _score(asked, rule)


@router.get("/anomaly/sniper")
async def sniper(asked: ScoringOf, p: ShareOf = None) -> JSONResponse:
    """0 for members of the largest clique of near gradients with at least p of all
    clients, else 1.
    """
    clique_share = given.share(p)
    rule = partial(anomaly.sniper, p=clique_share)
    return await _score(asked, rule)


@router.get("/anomaly/pca")
async def pca(asked: ScoringOf, k: ComponentsOf = None) -> JSONResponse:
    """Distance to the reconstruction from the k first principal components."""
    n_components = given.components(k)
    rule = partial(anomaly.pca, k=n_components)
    return await _score(asked, rule)


@router.get("/anomaly/true_krum")
async def true_krum(
    asked: ScoringOf,
    n_attackers: AttackersOf = None,
) -> JSONResponse:
    """Sum of squared distances to the n - n_attackers - 2 nearest others (Blanchard et
    al. 2017).
    """
    n_bad = given.required_integer("n_attackers", n_attackers, least=0)
    rule = partial(anomaly.true_krum, n_attackers=n_bad)
    return await _score(asked, rule)


@router.get("/anomaly/multi_krum")
async def multi_krum(
    asked: ScoringOf,
    n_attackers: AttackersOf = None,
    n_selected: SelectedOf = None,
) -> JSONResponse:
    """0 for the n_selected clients that Multi-Krum would average, else 1 (Blanchard et
    al. 2017).
    """
    n_bad = given.required_integer("n_attackers", n_attackers, least=0)
    chosen = given.integer("n_selected", n_selected, least=1)
    rule = partial(
        anomaly.multi_krum,
        n_attackers=n_bad,
        n_selected=chosen,
    )
    return await _score(asked, rule)


@router.get("/anomaly/geometric_median")
async def geometric_median(asked: ScoringOf) -> JSONResponse:
    """Distance to the geometric median of all clients (Pillutla et al. 2022)."""
    return await _score(asked, anomaly.geometric_median_distance)


@router.get("/anomaly/foolsgold_weight")
async def foolsgold_weight(asked: ScoringOf) -> JSONResponse:
    """1 - the weight of the original FoolsGold, which flags clients that move alike
    (Fung et al. 2020).
    """
    return await _score(asked, anomaly.foolsgold_weight)


@router.get("/anomaly/zeno")
async def zeno(asked: ScoringOf, p: WeightOf = None) -> JSONResponse:
    """-((loss before - loss now) - p * length of the step from the round before)."""
    weight = given.weight(p)
    order = await asked.order()
    round_entry = await asked.entry(order)
    compared = await compare(asked, round_entry, "zeno")
    scores = await asked.work(lambda: _zeno(compared, weight))
    client_scores = by_client(round_entry, scores)
    return asked.answer(order, round_entry.round, client_scores)


def _zeno(compared: Compared, weight: float) -> Any:
    before, now = compared.losses
    is_missing_before = np.all(np.isnan(before))
    is_missing_now = np.all(np.isnan(now))
    if is_missing_before or is_missing_now:
        raise Conflict(
            f"Training losses of round {compared.round} and the one before are not recorded, and Zeno needs them.",
            remedy="Record performance.train with a loss for each client.",
            code="no_metrics",
        )
    step_lengths = compared.between[:, 0]
    return anomaly.zeno(
        before,
        now,
        step_lengths,
        p=weight,
    )


@router.get("/anomaly/report")
async def anomaly_report(
    asked: ScoringOf,
    k: IntegerOf = None,
    p: ShareOf = None,
    n_attackers: AttackersOf = None,
) -> JSONResponse:
    """All anomaly scores of a round side by side, each with its rank (1: the most
    anomalous).

    A score that cannot take a default argument is unavailable; one that cannot take an
    argument that was sent is an error.
    """
    order = await asked.order()
    round_entry = await asked.entry(order)
    n_clients = len(round_entry.clients)
    n_bad = given.integer("n_attackers", n_attackers, least=0)
    if n_bad is None:
        n_bad = max(0, most_attackers("multi_krum", n_clients))
    # The neighbours that Krum's own paper takes.
    n_nearest = max(1, n_clients - n_bad - 2)
    if k is not None:
        n_nearest = given.neighbours(k)
    clique_share = given.share(p, default=CLIQUE_SHARE)
    n_clusters = min(2, n_clients)
    chosen = {
        "n_attackers": n_bad,
        "k": n_nearest,
        "p": clique_share,
        "clusters": n_clusters,
        "components": 1,
        "zeno_weight": ZENO_WEIGHT,
    }
    argument_texts = {
        "k": k,
        "p": p,
        "n_attackers": n_attackers,
    }
    sent_arguments = []
    for argument_name, argument_text in argument_texts.items():
        if argument_text is not None:
            sent_arguments.append(argument_name)
    layers = asked.layers_in(round_entry)

    def all_scores() -> ScoresAndMissing:
        points = points_of(asked.files, round_entry, layers)
        return _all_scores(points, chosen, sent_arguments)

    scores, missing = await asked.work(all_scores)
    try:
        compared = await compare(asked, round_entry, "zeno")
        zeno_scores = await asked.work(lambda: _zeno(compared, ZENO_WEIGHT))
        scores["zeno"] = zeno_scores
    except (BadRequest, Conflict) as error:
        missing["zeno"] = error.sentence
    is_normalized = asked.normalize is not None
    scores_by_client = _side_by_side(round_entry, scores, is_normalized=is_normalized)
    report = {
        "round": round_entry.round,
        "data": scores_by_client,
        "parameters": chosen,
        "unavailable": missing,
    }
    return bare(order, report)


def _all_scores(
    points: Floats,
    chosen: Mapping[str, Any],
    sent: list[str],
) -> ScoresAndMissing:
    """(scores by name, why the others cannot be computed by name).

    ValueError for an argument that was `sent`.
    """
    n_nearest = chosen["k"]
    n_clusters = chosen["clusters"]
    clique_share = chosen["p"]
    n_components = chosen["components"]
    n_bad = chosen["n_attackers"]
    rules: dict[str, Callable[[Floats], Any]] = {
        "krum": partial(anomaly.krum, k=n_nearest),
        "foolsgold": partial(anomaly.foolsgold, k=n_nearest),
        "auror": partial(anomaly.auror, k=n_clusters),
        "sniper": partial(anomaly.sniper, p=clique_share),
        "pca": partial(anomaly.pca, k=n_components),
        "true_krum": partial(anomaly.true_krum, n_attackers=n_bad),
        "multi_krum": partial(anomaly.multi_krum, n_attackers=n_bad),
        "geometric_median": anomaly.geometric_median_distance,
        "foolsgold_weight": anomaly.foolsgold_weight,
    }
    scores = {}
    missing = {}
    # Errors of the rules begin with the argument's name.
    of_sent = tuple(f"{argument} is " for argument in sent)
    for rule_name, rule in rules.items():
        try:
            scores[rule_name] = rule(points)
        except ValueError as error:
            reason = str(error)
            if reason.startswith(of_sent):
                raise
            missing[rule_name] = reason
    return scores, missing


def _side_by_side(
    entry: RoundEntry,
    scores: Mapping[str, Any],
    *,
    is_normalized: bool,
) -> dict[str, Any]:
    """{client: {score's name: {"score", "rank"}}}."""
    rows: dict[str, Any] = {}
    for client in entry.clients:
        rows[str(client)] = {}
    for rule_name, rule_scores in scores.items():
        column = by_client(entry, rule_scores)
        ranks = ranked(column)
        shown_scores = normalized(column) if is_normalized else column
        for client, score in shown_scores.items():
            client_row = rows[str(client)]
            client_row[rule_name] = {
                "score": score,
                "rank": ranks[client],
            }
    return rows
