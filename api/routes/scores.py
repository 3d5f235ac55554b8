"""Gradient analytics over REST: raw data, anomaly and contribution scores, in the
request document's bare shapes.

Every score works on triangular factors (n x n for each layer), so it is the same for
gradients that lie here in clear and for sealed ones, of which nothing else is here.
Errors have the envelope of all answers.

`score_request` reads who asks for which round, `score_arguments` the arguments,
`api/store/round_files` the files; the scores themselves are `analytics/scores`.
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

from analytics.scores import anomaly, contribution, geometry, most_attackers
from api.auth import AGENT, HOSPITAL
from api.routes import score_arguments as given
from api.routes.order_protection import method_of
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
    AskedOf,
    ScoreRequest,
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

# A name, and its value as pieces of JSON.
Member = tuple[Any, Iterator[str]]

# What the report of all scores uses where a call names nothing else.
ZENO_WEIGHT = 1.0
CLIQUE_SHARE = 0.8


# Raw data


@router.get("/client_grad")
async def client_grad(asked: AskedOf, layers: LayersOf = None) -> Response:
    """Each client's gradient by layer. Sealed rounds answer in a frame of the
    coordinator's own: the same lengths and angles, and no coordinate. With method None
    a hospital sees its own entry.
    """
    order = await asked.order()
    entry = await asked.entry(order)
    clients = entry.clients
    # These lie here in clear: a hospital is shown its own, never another's.
    is_hospital = asked.caller.role in (HOSPITAL, AGENT)
    if is_hospital and entry.kind == "open" and order.kind == "train":
        clients = [client for client in clients if client == asked.caller.user_id]
    layers_shown = _shown_layers(asked, entry)
    pieces = _client_values(asked.files, entry, layers_shown, clients)
    return await _stream(asked, order, entry, pieces)


@router.get("/avg_grad")
async def avg_grad(asked: AskedOf, layers: LayersOf = None) -> Response:
    """The averaged gradient by layer: as it was recorded, else the mean of those in the
    sum, weighted by row counts.
    """
    order = await asked.order()
    entry = await asked.entry(order)
    layers_shown = _shown_layers(asked, entry)
    pieces = _average_values(asked.files, entry, layers_shown)
    return await _stream(asked, order, entry, pieces)


async def _stream(
    asked: ScoreRequest, order: OrderRow, entry: RoundEntry, pieces: Iterator[str]
) -> Response:
    """Pieces of JSON as they are read, because the whole may be larger than memory."""
    # The first piece opens the file: what is missing is an error of its own, and not an
    # answer that breaks off.
    first = await asked.work(lambda: next(pieces))
    head, tail = "", ""
    if asked.round is None:
        head, tail = f'{{"round":{entry.round},"data":', "}"
    headers = {"X-Order-Id": str(order.order_id)}
    for name, value in frame_headers(entry).items():
        headers[name.replace("_", "-")] = value
    text = itertools.chain([head + first], pieces, [tail])
    return StreamingResponse(text, media_type="application/json", headers=headers)


def _shown_layers(asked: ScoreRequest, entry: RoundEntry) -> list[str]:
    wanted = given.layers_of(asked.request) or list(entry.layers)
    return known_layers(entry, wanted)


def _client_values(
    files: RoundFiles, entry: RoundEntry, layers: list[str], clients: list[int]
) -> Iterator[str]:
    """{"<client>": {"<layer>": [values]}} by pieces."""
    if entry.kind == "sealed":
        coordinates = {layer: files.coordinates(entry, layer) for layer in layers}

        def sealed_layers(client: int) -> Iterator[Member]:
            row = entry.clients.index(client)
            for layer in layers:
                yield layer, _values([coordinates[layer][row]])

        yield from _objects(
            (client, _objects(sealed_layers(client))) for client in clients
        )
        return
    with files.open(entry) as file:

        def open_layers(client: int) -> Iterator[Member]:
            for layer in layers:
                yield layer, _values(file.gradient(client, layer))

        yield from _objects(
            (client, _objects(open_layers(client))) for client in clients
        )


def _average_values(
    files: RoundFiles, entry: RoundEntry, layers: list[str]
) -> Iterator[str]:
    """{"<layer>": [values]} by pieces."""
    if entry.kind == "sealed":
        with files.open(entry) as file:
            shares = file.shares()
        # The frame keeps sums, so the mean of coordinates has the coordinates of the
        # mean.
        means = {layer: shares @ files.coordinates(entry, layer) for layer in layers}
        yield from _objects((layer, _values([mean])) for layer, mean in means.items())
        return
    with files.open(entry) as file:
        yield from _objects((layer, _values(file.average(layer))) for layer in layers)


def _objects(members: Iterable[Member]) -> Iterator[str]:
    """A JSON object, piece by piece."""
    mark = "{"
    for name, pieces in members:
        yield f"{mark}{json.dumps(str(name))}:"
        yield from pieces
        mark = ","
    yield "{}" if mark == "{" else "}"


def _values(blocks: Iterable[Any]) -> Iterator[str]:
    """A JSON array of all blocks' values, piece by piece."""
    mark = "["
    for block in blocks:
        values = block.astype(np.float64).tolist()
        without_brackets = json.dumps(values)[1:-1]
        yield mark + without_brackets
        mark = ","
    yield "]"


@router.get("/performance")
async def performance(asked: AskedOf, number: NumberOf = None) -> JSONResponse:
    """Accuracy and loss of each client: of all rounds, of one (`round`), or of `number`
    rounds that end with it.
    """
    count = given.integer("number", number, least=1)
    order = await asked.order("reports", is_score=False)
    found = await _reports(asked, order, count)
    shown = {str(round_): _performance(report) for round_, report in found.items()}
    if asked.round is not None and count in (None, 1):
        return bare(order, shown[str(asked.round)])
    return bare(order, shown)


async def _reports(
    asked: ScoreRequest, order: OrderRow, count: int | None
) -> dict[int, dict[str, Any]]:
    """By round: the `count` rounds (default 1) that end with the one asked for; without
    one, the last, or all.
    """
    rounds = asked.services.store.rounds
    order_id, last = order.order_id, asked.round
    if last is None:
        reports = await in_thread(rounds.reports, order_id)
        newest = list(reports.items())
        if count:
            newest = newest[-count:]
        return dict(newest)
    first = max(0, last - (count or 1) + 1)
    reports = await in_thread(rounds.reports, order_id, first=first, last=last)
    if last not in reports:
        recorded = await in_thread(rounds.reports, order_id)
        raise unknown_round(last, order_id, recorded)
    return reports


def _performance(report: dict[str, Any]) -> dict[str, Any]:
    """{"train" or "test": {client: {"accuracy", "loss"}}}; clients without such rows
    are left out.
    """
    shown: dict[str, Any] = {"train": {}, "test": {}}
    for part, clients in shown.items():
        for client, own in report["hospitals"].items():
            measured = own.get(part)
            if isinstance(measured, dict):
                clients[client] = {
                    "accuracy": finite(measured.get("accuracy")),
                    "loss": finite(measured.get("loss")),
                }
    return shown


@router.get("/trained_clients")
async def trained_clients(asked: AskedOf, number: NumberOf = None) -> JSONResponse:
    """Who took part in training, by round: the `number` rounds that end with `round`."""
    count = given.required_integer("number", number, least=1)
    if asked.round is None:
        raise given.missing_argument("round", "the number of a recorded round")
    order = await asked.order("reports", is_score=False)
    found = await _reports(asked, order, count)
    shown = {str(round_): _trained(report) for round_, report in found.items()}
    return bare(order, shown)


def _trained(report: dict[str, Any]) -> list[int]:
    """Nobody, where the trained model was only measured."""
    if report.get("final"):
        return []
    return sorted(int(client) for client in report["hospitals"])


# Anomaly scores


async def _score(asked: Scoring, rule: Callable[[Floats], Any]) -> JSONResponse:
    """The answer of a rule that needs one round's points only."""
    order = await asked.order()
    entry = await asked.entry(order)
    layers = asked.layers_in(entry)

    def scores() -> Any:
        points = points_of(asked.files, entry, layers)
        return rule(points)

    found = await asked.work(scores)
    return asked.answer(order, entry.round, by_client(entry, found))


def points_of(files: RoundFiles, entry: RoundEntry, layers: list[str]) -> Floats:
    """(n, n) float64, a row for each client: coordinates with the distances and angles
    of its layers together.
    """
    factors = (files.factor(entry, layer) for layer in layers)
    points: Floats = geometry.combine_factors(factors).T
    return points


@router.get("/anomaly/krum")
async def krum(asked: ScoringOf, k: IntegerOf = None) -> JSONResponse:
    """Mean Euclidean distance to the k nearest other clients."""
    n_nearest = given.neighbours(k)
    return await _score(asked, lambda points: anomaly.krum(points, k=n_nearest))


@router.get("/anomaly/foolsgold")
async def foolsgold(
    asked: ScoringOf, k: IntegerOf = None, p: WeightOf = None
) -> JSONResponse:
    """Mean cosine distance to the k nearest other clients; with `p` and without `k`, as
    the document has it, Zeno.
    """
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
    """0 for members of the largest clique of near gradients with at least p of all
    clients, else 1.
    """
    share = given.share(p)
    return await _score(asked, lambda points: anomaly.sniper(points, p=share))


@router.get("/anomaly/pca")
async def pca(asked: ScoringOf, k: ComponentsOf = None) -> JSONResponse:
    """Distance to the reconstruction from the k first principal components."""
    n_components = given.components(k)
    return await _score(asked, lambda points: anomaly.pca(points, k=n_components))


@router.get("/anomaly/true_krum")
async def true_krum(asked: ScoringOf, n_attackers: AttackersOf = None) -> JSONResponse:
    """Sum of squared distances to the n - n_attackers - 2 nearest others (Blanchard et
    al. 2017).
    """
    n_bad = given.required_integer("n_attackers", n_attackers, least=0)
    return await _score(
        asked, lambda points: anomaly.true_krum(points, n_attackers=n_bad)
    )


@router.get("/anomaly/multi_krum")
async def multi_krum(
    asked: ScoringOf, n_attackers: AttackersOf = None, n_selected: SelectedOf = None
) -> JSONResponse:
    """0 for the n_selected clients that Multi-Krum would average, else 1 (Blanchard et
    al. 2017).
    """
    n_bad = given.required_integer("n_attackers", n_attackers, least=0)
    chosen = given.integer("n_selected", n_selected, least=1)
    return await _score(
        asked,
        lambda points: anomaly.multi_krum(points, n_attackers=n_bad, n_selected=chosen),
    )


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
    entry = await asked.entry(order)
    compared = await _compare(asked, entry, "zeno")
    scores = await asked.work(lambda: _zeno(compared, weight))
    return asked.answer(order, entry.round, by_client(entry, scores))


@dataclass(frozen=True)
class Compared:
    """A round beside the one before it."""

    losses: tuple[
        Floats, Floats
    ]  # (n,) each: training losses of the round before, and of this one
    # (n, 4), over the layers together; columns as RoundFiles.between has them
    between: Floats
    round: int


async def _compare(asked: Scoring, entry: RoundEntry, what: str) -> Compared:
    """BadRequest for a round that has none before it."""
    rounds = asked.services.store.rounds
    before = None
    if entry.round:
        before = await in_thread(rounds.file, entry.order_id, entry.round - 1)
    if before is None:
        raise BadRequest(
            f"round is {entry.round}, and {what} compares a round with the one before it, which is not recorded.",
            remedy="Ask for a round whose predecessor is recorded.",
            code="first_round",
        )
    layers = asked.layers_in(entry)
    reports = await in_thread(
        rounds.reports, entry.order_id, first=entry.round - 1, last=entry.round
    )
    losses_before = _losses(reports.get(entry.round - 1), entry)
    losses_now = _losses(reports.get(entry.round), entry)

    def all_layers() -> Floats:
        parts = [asked.files.between(entry, before, layer) for layer in layers]
        return _joined(parts)

    between = await asked.work(all_layers)
    return Compared((losses_before, losses_now), between, entry.round)


def _losses(report: dict[str, Any] | None, entry: RoundEntry) -> Floats:
    """(n,): training losses, NaN where there is none."""
    hospitals = (report or {}).get("hospitals", {})
    losses = []
    for client in entry.clients:
        own = hospitals.get(str(client), {})
        measured = own.get("train") or {}
        loss = finite(measured.get("loss"))
        if loss is None:
            loss = math.nan
        losses.append(loss)
    return np.array(losses)


def _joined(parts: list[Floats]) -> Floats:
    """The scalars of several layers together: lengths add by squares, inner products
    add.
    """
    lengths, inner_product = [0, 1, 3], 2
    squares = sum(part[:, lengths] ** 2 for part in parts)
    joined = np.zeros_like(parts[0])
    joined[:, lengths] = np.sqrt(squares)
    joined[:, inner_product] = sum(part[:, inner_product] for part in parts)
    return joined


def _zeno(compared: Compared, weight: float) -> Any:
    before, now = compared.losses
    is_recorded = [not np.all(np.isnan(losses)) for losses in (before, now)]
    if not all(is_recorded):
        raise Conflict(
            f"Training losses of round {compared.round} and the one before are not recorded, and Zeno needs them.",
            remedy="Record performance.train with a loss for each client.",
            code="no_metrics",
        )
    step_lengths = compared.between[:, 0]
    return anomaly.zeno(before, now, step_lengths, p=weight)


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
    entry = await asked.entry(order)
    n_clients = len(entry.clients)
    n_bad = given.integer("n_attackers", n_attackers, least=0)
    if n_bad is None:
        n_bad = max(0, most_attackers("multi_krum", n_clients))
    # The neighbours that Krum's own paper takes.
    n_nearest = max(1, n_clients - n_bad - 2)
    if k is not None:
        n_nearest = given.neighbours(k)
    chosen = {
        "n_attackers": n_bad,
        "k": n_nearest,
        "p": given.share(p, default=CLIQUE_SHARE),
        "clusters": min(2, n_clients),
        "components": 1,
        "zeno_weight": ZENO_WEIGHT,
    }
    texts = {"k": k, "p": p, "n_attackers": n_attackers}
    sent = [name for name, text in texts.items() if text is not None]
    layers = asked.layers_in(entry)

    def all_scores() -> tuple[dict[str, Any], dict[str, str]]:
        points = points_of(asked.files, entry, layers)
        return _all_scores(points, chosen, sent)

    scores, missing = await asked.work(all_scores)
    try:
        compared = await _compare(asked, entry, "zeno")
        scores["zeno"] = await asked.work(lambda: _zeno(compared, ZENO_WEIGHT))
    except (BadRequest, Conflict) as error:
        missing["zeno"] = error.sentence
    data = _side_by_side(entry, scores, is_normalized=asked.normalize is not None)
    report = {
        "round": entry.round,
        "data": data,
        "parameters": chosen,
        "unavailable": missing,
    }
    return bare(order, report)


def _all_scores(
    points: Floats, chosen: Mapping[str, Any], sent: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """(scores by name, why the others cannot be computed by name).

    ValueError for an argument that was `sent`.
    """
    rules: dict[str, Callable[[], Any]] = {
        "krum": lambda: anomaly.krum(points, k=chosen["k"]),
        "foolsgold": lambda: anomaly.foolsgold(points, k=chosen["k"]),
        "auror": lambda: anomaly.auror(points, k=chosen["clusters"]),
        "sniper": lambda: anomaly.sniper(points, p=chosen["p"]),
        "pca": lambda: anomaly.pca(points, k=chosen["components"]),
        "true_krum": lambda: anomaly.true_krum(
            points, n_attackers=chosen["n_attackers"]
        ),
        "multi_krum": lambda: anomaly.multi_krum(
            points, n_attackers=chosen["n_attackers"]
        ),
        "geometric_median": lambda: anomaly.geometric_median_distance(points),
        "foolsgold_weight": lambda: anomaly.foolsgold_weight(points),
    }
    scores, missing = {}, {}
    # Errors of the rules begin with the argument's name.
    of_sent = tuple(f"{argument} is " for argument in sent)
    for name, rule in rules.items():
        try:
            scores[name] = rule()
        except ValueError as error:
            if str(error).startswith(of_sent):
                raise
            missing[name] = str(error)
    return scores, missing


def _side_by_side(
    entry: RoundEntry, scores: Mapping[str, Any], *, is_normalized: bool
) -> dict[str, Any]:
    """{client: {score's name: {"score", "rank"}}}."""
    rows: dict[str, Any] = {str(client): {} for client in entry.clients}
    for name, values in scores.items():
        column = by_client(entry, values)
        ranks = ranked(column)
        shown = normalized(column) if is_normalized else column
        for client, score in shown.items():
            rows[str(client)][name] = {"score": score, "rank": ranks[client]}
    return rows


# Contribution scores


@router.get("/contribution/grad_diff")
async def grad_diff(asked: ScoringOf, metric: MetricOf = None) -> JSONResponse:
    """Distance of each client's gradient to the average of the round before: eu
    (Euclidean) or cos.
    """
    measure = given.choice("metric", metric, ("eu", "cos"), default="eu") or "eu"
    order = await asked.order()
    entry = await asked.entry(order)
    layers = asked.layers_in(entry)
    compared = await _compare(asked, entry, "grad_diff")

    def scores() -> Any:
        points = points_of(asked.files, entry, layers)
        norm = np.linalg.norm(points, axis=1)
        _, drift, dot, norm_before = compared.between.T
        return contribution.grad_diff(norm, drift, dot, norm_before, metric=measure)

    found = await asked.work(scores)
    return asked.answer(order, entry.round, by_client(entry, found))


@router.get("/contribution/perf_diff")
async def perf_diff(asked: ScoringOf, metric: MetricOf = None) -> JSONResponse:
    """What the model gains by each client: accuracy with it minus without, or loss
    without it minus with.
    """
    measure = (
        given.choice("metric", metric, ("accuracy", "loss"), default="accuracy")
        or "accuracy"
    )
    order = await asked.order("reports")
    round_, report = await _left_out(asked, order)
    pairs = {
        int(client): _with_and_without(report, client, measure)
        for client in report["hospitals"]
    }
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
    shown: dict[int, float | None] = dict.fromkeys(pairs)
    for client, score in zip(measured, scores, strict=True):
        shown[client] = finite(float(score))
    return asked.answer(order, round_, shown, **_measured_by(order))


async def _left_out(asked: ScoreRequest, order: OrderRow) -> tuple[int, dict[str, Any]]:
    """The round that is asked for, or the newest in which models without each client
    were measured.
    """
    order_id = order.order_id
    if asked.round is None:
        newest = await in_thread(
            asked.services.store.rounds.newest_report, order_id, "leave_one_out"
        )
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


def _with_and_without(
    report: dict[str, Any], client: str, metric: str
) -> tuple[float | None, float | None]:
    """The model's metric with all clients and without this one, on the same test rows."""
    without = report["leave_one_out"].get(client) or {}
    with_all = without.get("all") or {}
    # External trainers may record the pair; else all clients' test metrics stand for
    # the model with all.
    complete = (
        finite(with_all[metric]) if metric in with_all else _pooled(report, metric)
    )
    return complete, finite(without.get(metric))


def _pooled(report: dict[str, Any], metric: str) -> float | None:
    """The mean of the clients' test metrics, weighted by row counts where all have
    some.
    """
    values, weights = [], []
    for own in report["hospitals"].values():
        measured = own.get("test")
        value = finite(measured.get(metric)) if isinstance(measured, dict) else None
        if value is None:
            continue
        n_rows = own.get("n_rows")
        if n_rows is None:
            n_rows = 1
        values.append(value)
        weights.append(n_rows)
    total = sum(weights)
    if not total:
        return None
    # Halves, because the sum of shares of the largest numbers may leave the range of
    # float64.
    halves = []
    for value, weight in zip(values, weights, strict=True):
        share = weight / total
        halves.append(value / 2 * share)
    return finite(2 * math.fsum(halves))


def _measured_by(order: OrderRow) -> dict[str, str]:
    """In a sealed order each hospital measures the models itself."""
    return (
        {"X_Self_Reported": "true"}
        if order.kind == "train" and method_of(order) != "None"
        else {}
    )
