"""What was recorded of rounds, over REST in the request document's bare shapes: gradients
and their average, accuracy and loss, who took part.

Of sealed rounds only triangular factors lie here (n x n for each layer), and what is
shown of them are coordinates in a frame of the coordinator's own. Errors have the
envelope of all answers.

`score_request` reads who asks for which round, `score_arguments` the arguments,
`api/store/round_files` the files.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse

from api.auth import AGENT, HOSPITAL
from api.routes import score_arguments as given
from api.routes.score_arguments import (
    LayersOf,
    NumberOf,
)
from api.routes.score_request import (
    AskedOf,
    ScoreRequest,
    bare,
    finite,
    frame_headers,
    known_layers,
    unknown_round,
)
from api.store.engine import in_thread
from api.store.round_files import RoundFiles
from api.store.rows import OrderRow, RoundEntry

router = APIRouter()


# A name, and its value as pieces of JSON.
Member = tuple[Any, Iterator[str]]


@router.get("/client_grad")
async def client_grad(asked: AskedOf, layers: LayersOf = None) -> Response:
    """Each client's gradient by layer. Sealed rounds answer in a frame of the
    coordinator's own: the same lengths and angles, and no coordinate. With method None
    a hospital sees its own entry.
    """
    order = await asked.order()
    round_entry = await asked.entry(order)
    clients = round_entry.clients
    # These lie here in clear: a hospital is shown its own, never another's.
    is_hospital = asked.caller.role in (HOSPITAL, AGENT)
    is_clear = round_entry.kind == "open" and order.kind == "train"
    if is_hospital and is_clear:
        own_user = asked.caller.user_id
        clients = [client for client in clients if client == own_user]
    layers_shown = _shown_layers(asked, round_entry)
    pieces = _client_values(
        asked.files,
        round_entry,
        layers_shown,
        clients,
    )
    return await _stream(
        asked,
        order,
        round_entry,
        pieces,
    )


@router.get("/avg_grad")
async def avg_grad(asked: AskedOf, layers: LayersOf = None) -> Response:
    """The averaged gradient by layer: as it was recorded, else the mean of those in the
    sum, weighted by row counts.
    """
    order = await asked.order()
    round_entry = await asked.entry(order)
    layers_shown = _shown_layers(asked, round_entry)
    pieces = _average_values(asked.files, round_entry, layers_shown)
    return await _stream(
        asked,
        order,
        round_entry,
        pieces,
    )


async def _stream(
    asked: ScoreRequest,
    order: OrderRow,
    entry: RoundEntry,
    pieces: Iterator[str],
) -> Response:
    """Pieces of JSON as they are read, because the whole may be larger than memory."""
    # The first piece opens the file: what is missing is an error of its own, and not an
    # answer that breaks off.
    first_piece = await asked.work(lambda: next(pieces))
    head = ""
    tail = ""
    if asked.round is None:
        head = f'{{"round":{entry.round},"data":'
        tail = "}"
    headers = {"X-Order-Id": str(order.order_id)}
    for name, header_value in frame_headers(entry).items():
        header = name.replace("_", "-")
        headers[header] = header_value
    json_text = itertools.chain(
        [head + first_piece],
        pieces,
        [tail],
    )
    return StreamingResponse(json_text, media_type="application/json", headers=headers)


def _shown_layers(asked: ScoreRequest, entry: RoundEntry) -> list[str]:
    asked_layers = given.layers_of(asked.request) or list(entry.layers)
    return known_layers(entry, asked_layers)


def _client_values(
    files: RoundFiles,
    entry: RoundEntry,
    layers: list[str],
    clients: list[int],
) -> Iterator[str]:
    """{"<client>": {"<layer>": [values]}} by pieces."""
    if entry.kind == "sealed":
        coordinates = {layer: files.coordinates(entry, layer) for layer in layers}

        def sealed_layers(client: int) -> Iterator[Member]:
            client_row = entry.clients.index(client)
            for layer in layers:
                points = coordinates[layer]
                yield layer, _values([points[client_row]])

        yield from _objects(_by_client(clients, sealed_layers))
        return
    with files.open(entry) as round_reader:

        def open_layers(client: int) -> Iterator[Member]:
            for layer in layers:
                blocks = round_reader.gradient(client, layer)
                yield layer, _values(blocks)

        yield from _objects(_by_client(clients, open_layers))


def _by_client(
    clients: list[int],
    layers_of: Callable[[int], Iterator[Member]],
) -> Iterator[Member]:
    for client in clients:
        layers = layers_of(client)
        yield client, _objects(layers)


def _average_values(
    files: RoundFiles,
    entry: RoundEntry,
    layers: list[str],
) -> Iterator[str]:
    """{"<layer>": [values]} by pieces."""
    if entry.kind == "sealed":
        with files.open(entry) as round_reader:
            shares = round_reader.shares()
        # The frame keeps sums, so the mean of coordinates has the coordinates of the
        # mean.
        means = {}
        for layer in layers:
            coordinates = files.coordinates(entry, layer)
            means[layer] = shares @ coordinates
        yield from _objects((layer, _values([mean])) for layer, mean in means.items())
        return
    with files.open(entry) as round_reader:

        def open_layers() -> Iterator[Member]:
            for layer in layers:
                blocks = round_reader.average(layer)
                yield layer, _values(blocks)

        yield from _objects(open_layers())


def _objects(members: Iterable[Member]) -> Iterator[str]:
    """A JSON object, piece by piece."""
    mark = "{"
    for member_name, pieces in members:
        json_key = json.dumps(str(member_name))
        yield f"{mark}{json_key}:"
        yield from pieces
        mark = ","
    yield "{}" if mark == "{" else "}"


def _values(blocks: Iterable[Any]) -> Iterator[str]:
    """A JSON array of all blocks' values, piece by piece."""
    mark = "["
    for block in blocks:
        block_values = block.astype(np.float64).tolist()
        without_brackets = json.dumps(block_values)[1:-1]
        yield mark + without_brackets
        mark = ","
    yield "]"


@router.get("/performance")
async def performance(asked: AskedOf, number: NumberOf = None) -> JSONResponse:
    """Accuracy and loss of each client: of all rounds, of one (`round`), or of `number`
    rounds that end with it.
    """
    n_rounds = given.integer("number", number, least=1)
    order = await asked.order("reports", is_score=False)
    reports = await reports_of(asked, order, n_rounds)
    by_round = {}
    for round_, report in reports.items():
        by_round[str(round_)] = _performance(report)
    if asked.round is not None and n_rounds in (None, 1):
        own_round = by_round[str(asked.round)]
        return bare(order, own_round)
    return bare(order, by_round)


def _performance(report: dict[str, Any]) -> dict[str, Any]:
    """{"train" or "test": {client: {"accuracy", "loss"}}}; clients without such rows
    are left out.
    """
    by_split: dict[str, Any] = {
        "train": {},
        "test": {},
    }
    for split, clients in by_split.items():
        hospitals = report["hospitals"]
        for client, client_report in hospitals.items():
            measured = client_report.get(split)
            if isinstance(measured, dict):
                accuracy = finite(measured.get("accuracy"))
                loss = finite(measured.get("loss"))
                clients[client] = {
                    "accuracy": accuracy,
                    "loss": loss,
                }
    return by_split


@router.get("/trained_clients")
async def trained_clients(asked: AskedOf, number: NumberOf = None) -> JSONResponse:
    """Who took part in training, by round: the `number` rounds that end with `round`."""
    n_rounds = given.required_integer("number", number, least=1)
    if asked.round is None:
        raise given.missing_argument("round", "the number of a recorded round")
    order = await asked.order("reports", is_score=False)
    reports = await reports_of(asked, order, n_rounds)
    by_round = {}
    for round_, report in reports.items():
        by_round[str(round_)] = _trained(report)
    return bare(order, by_round)


def _trained(report: dict[str, Any]) -> list[int]:
    """Nobody, where the trained model was only measured."""
    if report.get("final"):
        return []
    clients = report["hospitals"]
    return sorted(int(client) for client in clients)


async def reports_of(
    asked: ScoreRequest,
    order: OrderRow,
    count: int | None,
) -> dict[int, dict[str, Any]]:
    """By round: the `count` rounds (default 1) that end with the one asked for; without
    one, the last, or all.
    """
    rounds = asked.services.store.rounds
    order_id = order.order_id
    last_round = asked.round
    if last_round is None:
        reports = await in_thread(rounds.reports, order_id)
        newest = list(reports.items())
        if count:
            newest = newest[-count:]
        return dict(newest)
    n_rounds = count or 1
    first_round = max(0, last_round - n_rounds + 1)
    reports = await in_thread(
        rounds.reports,
        order_id,
        first=first_round,
        last=last_round,
    )
    if last_round not in reports:
        recorded = await in_thread(rounds.reports, order_id)
        raise unknown_round(last_round, order_id, recorded)
    return reports
