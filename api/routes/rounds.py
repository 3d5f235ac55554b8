"""Recording rounds over REST: by an external trainer, or by the coordinator's own flow.

A body is brought to disk under a temporary name, checked whole, and only then made
visible. Small rounds come as JSON, large ones as safetensors. The checks are
`api/store/round_checks`, the files `api/store/round_files`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import numpy as np
import safetensors.numpy
from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from api.answers import answer
from api.auth import COORDINATOR_ROLE, OPERATOR, CallerOf, require_owner, require_role
from api.routes.services import OrderInPath, Services, readable
from api.store.engine import in_thread
from api.store.hospitals import Caller
from api.store.round_checks import (
    LAYER,
    MOST_JSON_BYTES,
    NAMES,
    Checked,
    Facts,
    check_round,
    not_finite,
    shown,
)
from api.store.round_files import RoundFiles
from api.store.round_json import parse_facts, parse_json
from api.store.rows import OrderRow, RoundEntry, stop_of
from protocol.errors import Conflict, InvalidInput, NotFound, TooLarge
from protocol.messages import canonical

router = APIRouter()

WRITE_BYTES = 2**20
OF_FLOWS = ("train", "evaluate")
"""Orders whose rounds come from the coordinator's own flow."""
SAFETENSORS = "application/octet-stream"
RoundInPath = Annotated[int, InPath(alias="round", ge=0, lt=2**31)]


def _inlined(
    schema: Any,
    definitions: Mapping[str, Any],
) -> Any:
    """A JSON schema without references, which could not be followed inside the OpenAPI
    description.
    """
    if isinstance(schema, list):
        return [_inlined(subschema, definitions) for subschema in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        address = schema["$ref"]
        definition_name = address.rsplit("/", 1)[1]
        return _inlined(definitions[definition_name], definitions)
    inlined = {}
    for schema_key, subschema in schema.items():
        if schema_key != "$defs":
            inlined[schema_key] = _inlined(subschema, definitions)
    return inlined


def _round_schema() -> Any:
    """The JSON body of PUT /orders/{order_id}/rounds/{round}."""
    vector = {
        "type": "array",
        "items": {"type": "number"},
        "minItems": 1,
    }
    vectors = {
        "type": "object",
        "propertyNames": {"pattern": f"^{LAYER}$"},
        "additionalProperties": vector,
    }
    clients = {"pattern": "^(0|[1-9][0-9]{0,9})$"}
    gradients = {
        "type": "object",
        "propertyNames": clients,
        "additionalProperties": vectors,
        "minProperties": 1,
    }
    facts_schema = Facts.model_json_schema()
    definitions = facts_schema.get("$defs", {})
    schema = _inlined(facts_schema, definitions)
    schema["properties"] = {
        "gradients": gradients,
        "average": vectors,
        **schema["properties"],
    }
    return {
        **schema,
        "required": ["gradients"],
        "title": "ExternalRound",
    }


ROUND_SCHEMA = _round_schema()


# Routes


@router.put(
    "/orders/{order_id}/rounds/{round}",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": ROUND_SCHEMA},
                SAFETENSORS: {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
)
async def put_round(
    request: Request,
    caller: CallerOf,
    order_id: OrderInPath,
    round_: RoundInPath,
) -> JSONResponse:
    """Records a round of an external order.

    The same content again is fine, other content is a conflict.
    """
    services = Services(request)
    order = await in_thread(services.store.orders.get, order_id)
    _require_recorder(caller, order)
    standing = await in_thread(
        services.store.rounds.file,
        order_id,
        round_,
    )
    is_flow = order.kind in OF_FLOWS
    if standing is None and order.has_ended:
        raise stop_of(order_id, order.state, order.stop)
    if standing is None or not is_flow:
        standing = await _record(request, order, round_)
        services.bell.ring(("order", order_id))
    recorded = {
        "order_id": order_id,
        "round": round_,
        **_entry(standing),
    }
    return JSONResponse(recorded)


async def _record(
    request: Request,
    order: OrderRow,
    round_: int,
) -> RoundEntry:
    """Takes the body to disk, checks it, and keeps it; returns what stands for the
    round.
    """
    files: RoundFiles = request.app.state.round_files
    is_flow = order.kind in OF_FLOWS
    # What the coordinator's own flow sends is of the order's hospitals; an external
    # trainer names clients as it likes.
    allowed = set(order.members) if is_flow else None
    with files.part(order.order_id) as part:
        await _receive(request, part, is_flow=is_flow)
        checked = await to_thread.run_sync(lambda: check_round(part, allowed=allowed))
        n_bytes = part.stat().st_size
        round_entry = _as_entry(
            order.order_id,
            round_,
            checked,
            n_bytes,
        )
        loss = None
        report = None
        if checked.facts is not None:
            loss, report = _as_report(round_, checked, checked.facts)
        standing = await to_thread.run_sync(
            lambda: files.publish(
                part,
                round_entry,
                loss=loss,
                report=report,
            )
        )
    if standing.digest != round_entry.digest and not is_flow:
        raise Conflict(
            f"Round {round_} of order {order.order_id} was recorded with other content.",
            remedy="A round is recorded once; record this one under another number, or in a new order.",
            code="round_stands",
        )
    return standing


def _require_recorder(caller: Caller, order: OrderRow) -> None:
    """Rounds of a training order come from the coordinator's flow, of an external one
    from its owner or an operator.
    """
    if order.kind in OF_FLOWS:
        require_role(caller, COORDINATOR_ROLE)
    elif order.kind != "external":
        raise NotFound(
            f"Order {order.order_id} has no rounds.",
            remedy="Make an order of kind external: POST /orders.",
            code="no_rounds",
        )
    elif caller.role != OPERATOR:
        require_owner(caller, order.initiator)


@router.get("/orders/{order_id}/rounds")
async def list_rounds(
    request: Request,
    caller: CallerOf,
    order_id: OrderInPath,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
) -> JSONResponse:
    """The recorded round files, newest first; `before` is the round to go on from."""
    services = Services(request)
    await readable(services, caller, order_id)
    round_entries = await in_thread(
        services.store.rounds.files,
        order_id,
        limit=limit,
        before=before,
    )
    rows = []
    for round_entry in round_entries:
        row = {"round": round_entry.round, **_entry(round_entry)}
        rows.append(row)
    next_before = round_entries[-1].round if len(rows) == limit else None
    return answer({"rounds": rows, "next": next_before})


def _entry(entry: RoundEntry) -> dict[str, Any]:
    """An entry as answers show it."""
    client_names = [str(client) for client in entry.clients]
    client_sizes: dict[str, int | None] = dict.fromkeys(client_names)
    if entry.sizes:
        client_sizes = dict(zip(client_names, entry.sizes, strict=True))
    return {
        "kind": entry.kind,
        "clients": entry.clients,
        "sizes": client_sizes,
        "layers": entry.layers,
        "n_bytes": entry.n_bytes,
        "digest": entry.digest,
        "recorded": entry.recorded.isoformat() + "Z",
    }


# What was sent, to disk


async def _receive(
    request: Request,
    part: Path,
    *,
    is_flow: bool,
) -> None:
    """Brings a body to disk, in the form of a file in either case."""
    content_type = request.headers.get("content-type", "")
    media_type, _, _ = content_type.partition(";")
    media_type = media_type.strip().lower()
    try:
        if media_type == SAFETENSORS:
            await _write_stream(request, part)
        elif media_type == "application/json" and not is_flow:
            json_body = await _read_json(request)
            await to_thread.run_sync(_write_json_round, json_body, part)
        else:
            raise InvalidInput(
                "The Content-Type is none that a round can have.",
                remedy=f"Send application/json, or safetensors as {SAFETENSORS}.",
            )
    except ClientDisconnect:
        raise InvalidInput(
            "The body was cut short.",
            remedy="Send the round again.",
        ) from None


async def _write_stream(request: Request, part: Path) -> None:
    """Writes the body as it comes; memory holds WRITE_BYTES of it."""
    waiting = bytearray()
    with part.open("wb", buffering=0) as part_file:
        async for chunk in request.stream():
            waiting += chunk
            if len(waiting) >= WRITE_BYTES:
                await to_thread.run_sync(part_file.write, bytes(waiting))
                waiting.clear()
        await to_thread.run_sync(part_file.write, bytes(waiting))


async def _read_json(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        # Here, before it is read whole: Python's lists take many times the memory of
        # the text.
        if len(body) > MOST_JSON_BYTES:
            raise TooLarge(
                f"A round as JSON has at most {MOST_JSON_BYTES} bytes.",
                remedy=f"Send it as safetensors, with Content-Type: {SAFETENSORS}.",
            )
    return bytes(body)


def _write_json_round(body: bytes, part: Path) -> None:
    """The same file as an external trainer would have sent."""
    sent_round = parse_json(body)
    gradients = None
    if isinstance(sent_round, dict):
        gradients = sent_round.pop("gradients", None)
    if not _are_of_clients(gradients):
        raise InvalidInput(
            "gradients has to be an object of clients, each an object of layers.",
            remedy='Send {"gradients": {"0": {"dense": [0.5, 1.5]}}}.',
        )
    tensors: dict[str, NDArray[np.float64]] = {}
    for client, layers in gradients.items():
        tensors |= _vectors(f"gradients/{client}", layers)
    average = sent_round.pop("average", None) or {}
    tensors |= _vectors("average", average)
    # All the rest are facts; a name that is none of them is an error there.
    facts = parse_facts(Facts, sent_round).model_dump(mode="json")
    metadata = {"round": canonical(facts)}
    content = safetensors.numpy.save(tensors, metadata=metadata)
    part.write_bytes(content)


def _are_of_clients(gradients: Any) -> TypeGuard[dict[str, Any]]:
    if not isinstance(gradients, dict):
        return False
    return all(_is_full_object(layers) for layers in gradients.values())


def _is_full_object(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def _vectors(
    owner: str,
    layers: Any,
) -> dict[str, NDArray[np.float64]]:
    """An object of layers by tensor name."""
    if not isinstance(layers, dict):
        raise InvalidInput(
            f"{owner} has to be an object of layers.",
            remedy='Send {"dense": [0.5, 1.5]}.',
        )
    vectors = {}
    for layer, layer_values in layers.items():
        tensor_name = f"{owner}/{layer}"
        if not NAMES["external"].fullmatch(tensor_name):
            raise InvalidInput(
                f"{shown(tensor_name)} is no name of a client and a layer.",
                remedy="Clients are whole numbers below 2^31, layers at most 100 letters, digits and _ . : / -",
            )

        if not _are_numbers(layer_values):
            raise InvalidInput(
                f"{shown(tensor_name)} has to be a list of numbers.",
                remedy="Send a flat list of numbers.",
            )
        vectors[tensor_name] = _as_floats(tensor_name, layer_values)
    return vectors


def _are_numbers(values: Any) -> bool:
    if not isinstance(values, list):
        return False
    # By type and not isinstance: true and false are integers to Python.
    return all(type(value) in (int, float) for value in values)


def _as_floats(
    name: str,
    values: list[float],
) -> NDArray[np.float64]:
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        raise not_finite(name) from None


def _as_entry(
    order_id: int,
    round_: int,
    checked: Checked,
    n_bytes: int,
) -> RoundEntry:
    now = datetime.now(UTC)
    return RoundEntry(
        order_id=order_id,
        round=round_,
        kind=checked.kind,
        clients=checked.clients,
        sizes=checked.sizes,
        layers=checked.layers,
        frame=secrets.token_hex(32),
        digest=checked.digest,
        n_bytes=n_bytes,
        recorded=now.replace(tzinfo=None),
    )


def _as_report(
    round_: int,
    checked: Checked,
    facts: Facts,
) -> tuple[float | None, dict[str, Any]]:
    """(loss, report) in the form of a training order's round: the row-weighted mean of
    the training losses.
    """
    recorded_facts = facts.model_dump(mode="json", exclude_none=True)
    clients: dict[str, dict[str, Any]] = {}
    for number in checked.clients:
        clients[str(number)] = {}
    client_sizes = recorded_facts.get("sizes") or {}
    for client, client_size in client_sizes.items():
        clients[client]["n_rows"] = client_size
    performance = recorded_facts["performance"]
    for split, metrics in performance.items():
        for client, client_metrics in metrics.items():
            clients[client][split] = client_metrics
    losses = []
    for client_report in clients.values():
        measured = client_report.get("train", {})
        losses.append(measured.get("loss"))
    weights = checked.sizes or [1] * len(losses)
    loss = _weighted_mean(losses, weights)
    report = {
        "fold": 0,
        "round": round_,
        "loss": loss,
        "final": False,
        "hospitals": clients,
        "leave_one_out": recorded_facts["leave_one_out"],
    }
    return loss, report


def _weighted_mean(
    values: list[float | None],
    weights: list[int],
) -> float | None:
    """None where a value is missing, or the mean is no finite number."""
    known_values = [value for value in values if value is not None]
    if len(known_values) < len(values):
        return None
    total_weight = sum(weights)
    # Halves, because the sum of shares of the largest numbers may leave the range of
    # float64.
    halves = []
    for value, weight in zip(known_values, weights, strict=True):
        share = weight / total_weight
        halves.append(value / 2 * share)
    mean = 2 * math.fsum(halves)
    if not math.isfinite(mean):
        return None
    return mean
