"""Gradient analytics over REST: raw data, anomaly and contribution scores, in the request document's bare shapes.

Every score works on triangular factors (n x n for each layer), so it is the same for gradients that lie here in clear
and for sealed ones, of which nothing else is here. Errors have the envelope of all answers.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse

from analytics.scores import aggregation, anomaly, contribution, geometry
from api.auth import AGENT, HOSPITAL
from api.routes import score_arguments as given
from api.routes.orders import method_of
from api.routes.score_arguments import (
    AttackersOf,
    ComponentsOf,
    IntegerOf,
    LayersOf,
    MetricOf,
    NumberOf,
    SelectedOf,
    ShareOf,
    WeightOf,
)
from api.routes.score_request import (
    Asked,
    AskedOf,
    Scoring,
    ScoringOf,
    bare,
    by_client,
    finite,
    frame_headers,
    known_layers,
    normalized,
    ranked,
    unknown_round,
)
from api.store.engine import in_thread
from api.store.round_files import Floats, RoundFiles
from api.store.rows import OrderRow, RoundEntry
from protocol.errors import BadRequest, Conflict

router = APIRouter()

ZENO_WEIGHT = 1.0


# Raw data


@router.get("/client_grad")
async def client_grad(asked: AskedOf, layers: LayersOf = None) -> Response:
    """Each client's gradient by layer. Sealed rounds answer in a frame of the coordinator's own: the same lengths and
    angles, and no coordinate. With method None a hospital sees its own entry."""
    order = await asked.order()
    entry = await asked.entry(order)
    clients = entry.clients
    if entry.kind == "open" and order.kind == "train" and asked.caller.role in (HOSPITAL, AGENT):
        clients = [client for client in clients if client == asked.caller.user_id]
    return await _stream(
        asked, order, entry, _client_values(asked.files, entry, _shown_layers(asked, entry), clients)
    )


@router.get("/avg_grad")
async def avg_grad(asked: AskedOf, layers: LayersOf = None) -> Response:
    """The averaged gradient by layer: as it was recorded, else the mean of those in the sum, weighted by row counts."""
    order = await asked.order()
    entry = await asked.entry(order)
    return await _stream(
        asked, order, entry, _average_values(asked.files, entry, _shown_layers(asked, entry))
    )


async def _stream(asked: Asked, order: OrderRow, entry: RoundEntry, pieces: Iterator[str]) -> Response:
    """Pieces of JSON as they are read: the whole may be larger than memory. What fails to open fails before that."""
    first = await asked.work(lambda: next(pieces))
    head, tail = ("", "") if asked.round is not None else (f'{{"round":{entry.round},"data":', "}")
    headers = {"X-Order-Id": str(order.order_id)}
    headers |= {name.replace("_", "-"): value for name, value in frame_headers(entry).items()}
    text = itertools.chain([head + first], pieces, [tail])
    return StreamingResponse(text, media_type="application/json", headers=headers)


def _shown_layers(asked: Asked, entry: RoundEntry) -> list[str]:
    return known_layers(entry, given.layers_of(asked.request) or list(entry.layers))


def _client_values(
    files: RoundFiles, entry: RoundEntry, layers: list[str], clients: list[int]
) -> Iterator[str]:
    """{"<client>": {"<layer>": [values]}} by pieces."""
    if entry.kind == "sealed":
        rows = {layer: files.coordinates(entry, layer) for layer in layers}
        places = {client: entry.clients.index(client) for client in clients}
        yield from _objects(
            (client, _objects((layer, _values([rows[layer][at]])) for layer in layers))
            for client, at in places.items()
        )
        return
    with files.open(entry) as file:
        yield from _objects(
            (client, _objects((layer, _values(file.gradient(client, layer))) for layer in layers))
            for client in clients
        )


def _average_values(files: RoundFiles, entry: RoundEntry, layers: list[str]) -> Iterator[str]:
    """{"<layer>": [values]} by pieces."""
    if entry.kind == "sealed":
        with files.open(entry) as file:
            shares = file.shares()
        means = {layer: shares @ files.coordinates(entry, layer) for layer in layers}
        yield from _objects((layer, _values([mean])) for layer, mean in means.items())
        return
    with files.open(entry) as file:
        yield from _objects((layer, _values(file.average(layer))) for layer in layers)


def _objects(members: Iterable[tuple[Any, Iterator[str]]]) -> Iterator[str]:
    mark = "{"
    for name, pieces in members:
        yield f"{mark}{json.dumps(str(name))}:"
        yield from pieces
        mark = ","
    yield "{}" if mark == "{" else "}"


def _values(blocks: Iterable[Any]) -> Iterator[str]:
    mark = "["
    for block in blocks:
        yield mark + json.dumps(block.astype(np.float64).tolist())[1:-1]
        mark = ","
    yield "]"


@router.get("/performance")
async def performance(asked: AskedOf, number: NumberOf = None) -> JSONResponse:
    """Accuracy and loss of each client: of all rounds, of one (`round`), or of `number` rounds that end with it."""
    count = given.integer("number", number, least=1)
    order = await asked.order("reports", is_score=False)
    found = await _reports(asked, order, count)
    shown = {str(round_): _performance(report) for round_, report in found.items()}
    if asked.round is not None and count in (None, 1):
        return bare(order, shown[str(asked.round)])
    return bare(order, shown)


async def _reports(asked: Asked, order: OrderRow, count: int | None) -> dict[int, dict[str, Any]]:
    """By round: the `count` rounds (default 1) that end with the one asked for; without one, the last, or all."""
    order_id, last = order.order_id, asked.round
    if last is None:
        found = list((await in_thread(asked.services.store.rounds.reports, order_id)).items())
        return dict(found[-count:] if count else found)
    reports = await in_thread(
        asked.services.store.rounds.reports, order_id, first=max(0, last - (count or 1) + 1), last=last
    )
    if last not in reports:
        raise unknown_round(last, order_id, await in_thread(asked.services.store.rounds.reports, order_id))
    return reports


def _performance(report: dict[str, Any]) -> dict[str, Any]:
    hospitals = report["hospitals"].items()
    return {
        part: {
            client: {name: finite(own[part].get(name)) for name in ("accuracy", "loss")}
            for client, own in hospitals
            if isinstance(own.get(part), dict)
        }
        for part in ("train", "test")
    }


@router.get("/trained_clients")
async def trained_clients(asked: AskedOf, number: NumberOf = None) -> JSONResponse:
    """Who took part in training, by round: the `number` rounds that end with `round`."""
    count = given.required_integer("number", number, least=1)
    if asked.round is None:
        raise given.missing_argument("round", "the number of a recorded round")
    order = await asked.order("reports", is_score=False)
    found = await _reports(asked, order, count)
    return bare(order, {str(round_): _trained(report) for round_, report in found.items()})


def _trained(report: dict[str, Any]) -> list[int]:
    """Nobody, where the trained model was only measured."""
    return [] if report.get("final") else sorted(int(client) for client in report["hospitals"])


# Anomaly scores


async def _score(asked: Scoring, rule: Callable[[Floats], Any]) -> JSONResponse:
    order = await asked.order()
    entry = await asked.entry(order)
    layers = asked.layers_in(entry)
    scores = await asked.work(lambda: rule(points_of(asked.files, entry, layers)))
    return asked.answer(order, entry.round, by_client(entry, scores))


def points_of(files: RoundFiles, entry: RoundEntry, layers: list[str]) -> Floats:
    """(n, n) float64, a row for each client: coordinates with the distances and angles of its layers together."""
    points: Floats = geometry.combine_factors(files.factor(entry, layer) for layer in layers).T
    return points


@router.get("/anomaly/krum")
async def krum(asked: ScoringOf, k: IntegerOf = None) -> JSONResponse:
    """Mean Euclidean distance to the k nearest other clients."""
    n_nearest = given.neighbours(k)
    return await _score(asked, lambda points: anomaly.krum(points, k=n_nearest))


@router.get("/anomaly/foolsgold")
async def foolsgold(asked: ScoringOf, k: IntegerOf = None, p: WeightOf = None) -> JSONResponse:
    """Mean cosine distance to the k nearest other clients; with `p` and without `k`, as the document has it, Zeno."""
    if k is None and p is not None:
        return await zeno(asked, p)
    n_nearest = given.neighbours(k)
    return await _score(asked, lambda points: anomaly.foolsgold(points, k=n_nearest))


@router.get("/anomaly/auror")
async def auror(asked: ScoringOf, k: IntegerOf = None) -> JSONResponse:
    """Distance to the centre of the own one of k clusters."""
    n_clusters = given.neighbours(k)
    return await _score(asked, lambda points: anomaly.auror(points, k=n_clusters))


@router.get("/anomaly/sniper")
async def sniper(asked: ScoringOf, p: ShareOf = None) -> JSONResponse:
    """0 for members of the largest clique of near gradients with at least p of all clients, else 1."""
    share = given.share(p)
    return await _score(asked, lambda points: anomaly.sniper(points, p=share))


@router.get("/anomaly/pca")
async def pca(asked: ScoringOf, k: ComponentsOf = None) -> JSONResponse:
    """Distance to the reconstruction from the k first principal components."""
    n_components = given.components(k)
    return await _score(asked, lambda points: anomaly.pca(points, k=n_components))


@router.get("/anomaly/true_krum")
async def true_krum(asked: ScoringOf, n_attackers: AttackersOf = None) -> JSONResponse:
    """Sum of squared distances to the n - n_attackers - 2 nearest others (Blanchard et al. 2017)."""
    n_bad = given.required_integer("n_attackers", n_attackers, least=0)
    return await _score(asked, lambda points: anomaly.true_krum(points, n_attackers=n_bad))


@router.get("/anomaly/multi_krum")
async def multi_krum(
    asked: ScoringOf, n_attackers: AttackersOf = None, n_selected: SelectedOf = None
) -> JSONResponse:
    """0 for the n_selected clients that Multi-Krum would average, else 1 (Blanchard et al. 2017)."""
    n_bad = given.required_integer("n_attackers", n_attackers, least=0)
    chosen = given.integer("n_selected", n_selected, least=1)
    return await _score(
        asked, lambda points: anomaly.multi_krum(points, n_attackers=n_bad, n_selected=chosen)
    )


@router.get("/anomaly/geometric_median")
async def geometric_median(asked: ScoringOf) -> JSONResponse:
    """Distance to the geometric median of all clients (Pillutla et al. 2022)."""
    return await _score(asked, anomaly.geometric_median_distance)


@router.get("/anomaly/foolsgold_weight")
async def foolsgold_weight(asked: ScoringOf) -> JSONResponse:
    """1 - the weight of the original FoolsGold, which flags clients that move alike (Fung et al. 2020)."""
    return await _score(asked, anomaly.foolsgold_weight)


@router.get("/anomaly/zeno")
async def zeno(asked: ScoringOf, p: WeightOf = None) -> JSONResponse:
    """-((loss before - loss now) - p * length of the step from the round before)."""
    weight = given.weight(p)
    order = await asked.order()
    entry = await asked.entry(order)
    compared = await _compare(asked, entry, "zeno")
    scores = await asked.work(lambda: _zeno(compared, weight))
    return asked.answer(order, entry.round, by_client(entry, scores))


@dataclass(frozen=True)
class Compared:
    """A round beside the one before it: training losses (n,), and (n, 4) scalars over the layers together."""

    losses: tuple[Floats, Floats]
    between: Floats
    round: int


async def _compare(asked: Scoring, entry: RoundEntry, what: str) -> Compared:
    """BadRequest for a round that has none before it."""
    before = (
        await in_thread(asked.services.store.rounds.file, entry.order_id, entry.round - 1)
        if entry.round
        else None
    )
    if before is None:
        raise BadRequest(
            f"round is {entry.round}, and {what} compares a round with the one before it, which is not recorded.",
            remedy="Ask for a round whose predecessor is recorded.",
            code="first_round",
        )
    layers = asked.layers_in(entry)
    reports = await in_thread(
        asked.services.store.rounds.reports, entry.order_id, first=entry.round - 1, last=entry.round
    )
    losses = (_losses(reports.get(entry.round - 1), entry), _losses(reports.get(entry.round), entry))
    between = await asked.work(
        lambda: _joined([asked.files.between(entry, before, layer) for layer in layers])
    )
    return Compared(losses, between, entry.round)


def _losses(report: dict[str, Any] | None, entry: RoundEntry) -> Floats:
    """(n,): training losses, NaN where there is none."""
    hospitals = (report or {}).get("hospitals", {})
    known = [
        finite((hospitals.get(str(client), {}).get("train") or {}).get("loss")) for client in entry.clients
    ]
    return np.array([math.nan if loss is None else loss for loss in known])


def _joined(parts: list[Floats]) -> Floats:
    """The scalars of several layers together: lengths add by squares, inner products add."""
    joined = np.zeros_like(parts[0])
    lengths = [0, 1, 3]
    joined[:, lengths] = np.sqrt(sum(part[:, lengths] ** 2 for part in parts))
    joined[:, 2] = sum(part[:, 2] for part in parts)
    return joined


def _zeno(compared: Compared, weight: float) -> Any:
    before, now = compared.losses
    if np.all(np.isnan(now)) or np.all(np.isnan(before)):
        raise Conflict(
            f"Training losses of round {compared.round} and the one before are not recorded, and Zeno needs them.",
            remedy="Record performance.train with a loss for each client.",
            code="no_metrics",
        )
    return anomaly.zeno(before, now, compared.between[:, 0], p=weight)


@router.get("/anomaly/report")
async def anomaly_report(
    asked: ScoringOf,
    k: IntegerOf = None,
    p: ShareOf = None,
    n_attackers: AttackersOf = None,
) -> JSONResponse:
    """All anomaly scores of a round side by side, each with its rank (1: the most anomalous).

    A score that cannot take a default argument is unavailable; one that cannot take an argument that was sent is an
    error."""
    order = await asked.order()
    entry = await asked.entry(order)
    n = len(entry.clients)
    n_bad = given.integer("n_attackers", n_attackers, least=0)
    n_bad = max(0, aggregation.most_attackers("multi_krum", n)) if n_bad is None else n_bad
    chosen = {
        "n_attackers": n_bad,
        "k": max(1, n - n_bad - 2) if k is None else given.neighbours(k),
        "p": given.share(p, default=0.8),
        "clusters": min(2, n),
        "components": 1,
        "zeno_weight": ZENO_WEIGHT,
    }
    sent = [name for name, text in (("k", k), ("p", p), ("n_attackers", n_attackers)) if text is not None]
    layers = asked.layers_in(entry)
    scores, missing = await asked.work(
        lambda: _all_scores(points_of(asked.files, entry, layers), chosen, sent)
    )
    try:
        compared = await _compare(asked, entry, "zeno")
        scores["zeno"] = await asked.work(lambda: _zeno(compared, ZENO_WEIGHT))
    except (BadRequest, Conflict) as error:
        missing["zeno"] = error.sentence
    data = _side_by_side(entry, scores, is_normalized=asked.normalize is not None)
    return bare(order, {"round": entry.round, "data": data, "parameters": chosen, "unavailable": missing})


def _all_scores(
    points: Floats, chosen: Mapping[str, Any], sent: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """(scores by name, why the others cannot be computed by name). ValueError for an argument that was `sent`."""
    rules: dict[str, Callable[[], Any]] = {
        "krum": lambda: anomaly.krum(points, k=chosen["k"]),
        "foolsgold": lambda: anomaly.foolsgold(points, k=chosen["k"]),
        "auror": lambda: anomaly.auror(points, k=chosen["clusters"]),
        "sniper": lambda: anomaly.sniper(points, p=chosen["p"]),
        "pca": lambda: anomaly.pca(points, k=chosen["components"]),
        "true_krum": lambda: anomaly.true_krum(points, n_attackers=chosen["n_attackers"]),
        "multi_krum": lambda: anomaly.multi_krum(points, n_attackers=chosen["n_attackers"]),
        "geometric_median": lambda: anomaly.geometric_median_distance(points),
        "foolsgold_weight": lambda: anomaly.foolsgold_weight(points),
    }
    scores, missing = {}, {}
    for name, rule in rules.items():
        try:
            scores[name] = rule()
        except ValueError as error:
            if str(error).startswith(tuple(f"{argument} is " for argument in sent)):
                raise
            missing[name] = str(error)
    return scores, missing


def _side_by_side(entry: RoundEntry, scores: Mapping[str, Any], *, is_normalized: bool) -> dict[str, Any]:
    rows: dict[str, Any] = {str(client): {} for client in entry.clients}
    for name, values in scores.items():
        column = by_client(entry, values)
        ranks = ranked(column)
        for client, score in (normalized(column) if is_normalized else column).items():
            rows[str(client)][name] = {"score": score, "rank": ranks[client]}
    return rows


# Contribution scores


@router.get("/contribution/grad_diff")
async def grad_diff(asked: ScoringOf, metric: MetricOf = None) -> JSONResponse:
    """Distance of each client's gradient to the average of the round before: eu (Euclidean) or cos."""
    measure = given.choice("metric", metric, ("eu", "cos"), default="eu") or "eu"
    order = await asked.order()
    entry = await asked.entry(order)
    layers = asked.layers_in(entry)
    compared = await _compare(asked, entry, "grad_diff")

    def scores() -> Any:
        norm = np.linalg.norm(points_of(asked.files, entry, layers), axis=1)
        _, drift, dot, norm_before = compared.between.T
        return contribution.grad_diff(norm, drift, dot, norm_before, metric=measure)

    return asked.answer(order, entry.round, by_client(entry, await asked.work(scores)))


@router.get("/contribution/perf_diff")
async def perf_diff(asked: ScoringOf, metric: MetricOf = None) -> JSONResponse:
    """What the model gains by each client: accuracy with it minus without, or loss without it minus with."""
    measure = given.choice("metric", metric, ("accuracy", "loss"), default="accuracy") or "accuracy"
    order = await asked.order("reports")
    round_, report = await _left_out(asked, order)
    pairs = {int(client): _with_and_without(report, client, measure) for client in report["hospitals"]}
    if all(None in pair for pair in pairs.values()):
        raise Conflict(
            f"Round {round_} of order {order.order_id} has no {measure} of the model with and without a client.",
            remedy="Ask for the other metric, or record performance.test and leave_one_out.",
            code="no_metrics",
        )
    measured = {client: pair for client, pair in pairs.items() if None not in pair}
    with_all, without = np.array([*measured.values()], dtype=np.float64).T
    scores = await asked.work(lambda: contribution.perf_diff(with_all, without, metric=measure))
    known = {client: finite(float(score)) for client, score in zip(measured, scores, strict=True)}
    shown = {client: known.get(client) for client in pairs}
    return asked.answer(order, round_, shown, **_said_by(order))


async def _left_out(asked: Asked, order: OrderRow) -> tuple[int, dict[str, Any]]:
    """The round that is asked for, or the newest in which models without each client were measured."""
    order_id = order.order_id
    if asked.round is None:
        newest = await in_thread(asked.services.store.rounds.newest_report, order_id, "leave_one_out")
        if newest is None:
            raise _no_test_rows(f"Order {order_id} has")
        return int(newest[0]), dict(newest[1])
    report = (await _reports(asked, order, 1))[asked.round]
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


def _with_and_without(report: dict[str, Any], client: str, metric: str) -> tuple[float | None, float | None]:
    """The model's metric with all clients and without this one, on the same test rows."""
    without = report["leave_one_out"].get(client) or {}
    with_all = without.get("all") or {}
    complete = finite(with_all[metric]) if metric in with_all else _pooled(report, metric)
    return complete, finite(without.get(metric))


def _pooled(report: dict[str, Any], metric: str) -> float | None:
    """The mean of the clients' test metrics, weighted by row counts where all have some."""
    known = [
        (finite(own["test"].get(metric)), own.get("n_rows"))
        for own in report["hospitals"].values()
        if isinstance(own.get("test"), dict)
    ]
    values = [(value, 1 if n_rows is None else n_rows) for value, n_rows in known if value is not None]
    total = sum(weight for _, weight in values)
    # Halves, because the sum of shares of the largest numbers may leave the range of float64.
    return finite(2 * math.fsum(value / 2 * (weight / total) for value, weight in values)) if total else None


def _said_by(order: OrderRow) -> dict[str, str]:
    """In a sealed order each hospital measures the models itself."""
    return {"X_Self_Reported": "true"} if order.kind == "train" and method_of(order) != "None" else {}
