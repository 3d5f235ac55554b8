"""What a round may hold: the checks that every upload passes before anything of it is
kept.

`check_round` is the door for whole files. First the form of names and facts, then the
checks of a file from its header to its values; `round_json` reads what stands beside
them. `round_files` keeps what has passed; `api/routes/rounds.py` calls all three.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from safetensors import SafetensorError, safe_open

from api.store.round_json import parse_facts, parse_json
from protocol.errors import BadRequest, ConsiliumError
from protocol.messages import canonical

MOST_CLIENTS = 1000
MOST_LAYERS = 1000
# Of clients, over all layers: what a score of all layers reads and decomposes.
MOST_PAIRS = 2**26
MOST_JSON_BYTES = 2**24
MOST_HEADER_BYTES = 2**25
MOST_NUMBER = 2**31  # of a client: the store's columns hold no larger ones
LARGEST = 1e100  # squares of larger values leave the range of float64
CHECK_VALUES = 2**20  # so many are in memory at once
MOST_LETTERS_SHOWN = 60
LAYER = r"[\w.:/-]{1,100}"
CLIENT = "0|[1-9][0-9]{0,9}"
# Names of tensors, by the kind of round.
NAMES = {
    "external": re.compile(rf"gradients?/({CLIENT})/{LAYER}|average/{LAYER}"),
    "open": re.compile(rf"gradient/({CLIENT})/{LAYER}|average/{LAYER}"),
    "sealed": re.compile(rf"(factor|between)/{LAYER}"),
}

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
Client = Annotated[str, Field(pattern=rf"^({CLIENT})$")]
NullIsEmpty = BeforeValidator(lambda value: {} if value is None else value)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metrics(_Strict):
    """One client's metrics; what a model has not is left out or null."""

    accuracy: Number | None = None
    loss: Number | None = None


class LeftOut(Metrics):
    """The metrics of the model without this client; `all`: those with it, on the same
    rows.
    """

    all: Metrics | None = None


class Performance(_Strict):
    train: dict[Client, Metrics] = {}
    test: dict[Client, Metrics] = {}


class Facts(_Strict):
    """What is told of an external round beside its gradients."""

    sizes: dict[Client, Count] | None = None
    performance: Annotated[Performance, NullIsEmpty] = Performance()
    leave_one_out: Annotated[dict[Client, LeftOut], NullIsEmpty] = {}


class StoredFacts(BaseModel):
    """The metadata of a round file that the coordinator's flow wrote."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["open", "sealed"]
    clients: Annotated[list[Count], Field(min_length=1, max_length=MOST_CLIENTS)]
    sizes: list[Count] | None = None
    # Whose gradients are in the sum; None: all.
    members: Annotated[list[Count], Field(min_length=1)] | None = None


@dataclass(frozen=True)
class Checked:
    """A round that may be kept."""

    kind: str  # open or sealed
    clients: list[int]
    sizes: list[int] | None  # rows of each client, where they were sent
    layers: dict[str, int]  # the number of values of each
    digest: str  # of the content, however it was laid out
    facts: Facts | None = None  # of an external round


class TensorName(NamedTuple):
    """A tensor's name, taken apart."""

    what: str  # gradient, average, factor or between
    client: int | None  # of a gradient
    layer: str


# Checks of a whole file


def check_round(path: Path, *, allowed: set[int] | None = None) -> Checked:
    """Reads a whole round file and says what it holds; BadRequest or InvalidInput names
    what is wrong.

    With `allowed` it is of the stored form, of these hospitals; without, an external
    trainer's.
    """
    # A header is read into memory whole, and its length is the sender's own number:
    # look at that first.
    with path.open("rb") as opened:
        first_bytes = opened.read(8)
    n_header = int.from_bytes(first_bytes, "little")
    if n_header > MOST_HEADER_BYTES:
        raise _bad(
            f"The safetensors header is longer than {MOST_HEADER_BYTES} bytes.",
            "Join layers.",
        )
    try:
        with safe_open(path, framework="numpy") as file:
            strings = file.metadata() or {}
            metadata_text = strings.get("round", "{}")
            metadata = parse_json(metadata_text)
            if allowed is None:
                return _check_external(file, metadata)
            return _check_stored(file, metadata, allowed)
    except SafetensorError:
        raise _bad(
            "The body is not a whole safetensors file.",
            "Write it with a safetensors library.",
        ) from None


def _check_external(file: Any, metadata: Any) -> Checked:
    """An external trainer's: `facts` may say what it likes of the clients whose
    gradients are in the file.
    """
    facts = parse_facts(Facts, metadata)
    tensor_names = _names(file, "external")
    layers = _layers_of_gradients(file, tensor_names)
    clients = sorted(_clients_of(tensor_names))
    _check_clients("sizes", facts.sizes or {}, clients)
    _check_clients("performance.train", facts.performance.train, clients)
    _check_clients("performance.test", facts.performance.test, clients)
    _check_clients("leave_one_out", facts.leave_one_out, clients)
    client_sizes = _sizes(facts.sizes, clients)
    recorded_facts = facts.model_dump(mode="json")
    digest = _digest(file, tensor_names, [clients, recorded_facts])
    return Checked(
        "open",
        clients,
        client_sizes,
        layers,
        digest,
        facts,
    )


def _check_stored(file: Any, metadata: Any, allowed: set[int]) -> Checked:
    """The coordinator's flow's: of hospitals of the order, as the file's own metadata
    names them.
    """
    facts = parse_facts(StoredFacts, metadata)
    clients = set(facts.clients)
    has_doubles = len(clients) < len(facts.clients)
    if not clients <= allowed or has_doubles:
        raise _bad(
            "The round's clients are not hospitals of the order, each once.",
            "Name those of the order.",
        )
    tensor_names = _names(file, facts.kind)
    if facts.kind == "sealed":
        layers = _layers_of_factors(file, tensor_names, len(facts.clients))
    else:
        layers = _layers_of_gradients(file, tensor_names)
        if _clients_of(tensor_names) != clients:
            raise _bad(
                "The gradients are not those of the round's clients.",
                "Send one of each.",
            )
    client_sizes = None
    if facts.sizes is not None:
        if len(facts.sizes) != len(facts.clients):
            raise _bad(
                "sizes and clients differ in length.", "Give each client its size."
            )
        by_client = {}
        for client, client_size in zip(facts.clients, facts.sizes, strict=True):
            by_client[str(client)] = client_size
        client_sizes = _sizes(by_client, facts.clients)
    _check_members(facts)
    recorded_facts = facts.model_dump(mode="json")
    digest = _digest(file, tensor_names, recorded_facts)
    return Checked(
        facts.kind,
        facts.clients,
        client_sizes,
        layers,
        digest,
    )


def _check_members(facts: StoredFacts) -> None:
    listed = facts.clients if facts.members is None else facts.members
    members = set(listed)
    has_doubles = len(members) < len(listed)
    if not members <= set(facts.clients) or has_doubles:
        raise _bad(
            "The members are not clients of the round, each once.",
            "Name clients with gradients.",
        )
    if not facts.sizes:
        return
    client_sizes = dict(zip(facts.clients, facts.sizes, strict=True))
    if not any(client_sizes[member] for member in members):
        raise _bad(
            "The members' sizes are all 0, so there is no average.",
            "Give row counts, or leave sizes out.",
        )


def _names(file: Any, kind: str) -> dict[str, TensorName]:
    """Every tensor's name, whole and taken apart. All gradients are spelt one way."""
    tensor_names: dict[str, TensorName] = {}
    for tensor_name in sorted(file.keys()):
        has_form = NAMES[kind].fullmatch(tensor_name)
        if not has_form:
            sentence = f"The tensor {shown(tensor_name)} has no name of a round's."
            raise _bad(sentence, _FORM[kind])
        tensor_names[tensor_name] = _taken_apart(tensor_name)
    if not tensor_names:
        raise _bad("The file holds no tensor.", _FORM[kind])
    folders = {tensor_name.partition("/")[0] for tensor_name in tensor_names}
    if {"gradient", "gradients"} <= folders:
        raise _bad(
            "Some gradients stand under gradient/ and some under gradients/.",
            "Name all of them gradients/.",
        )
    return tensor_names


def _taken_apart(name: str) -> TensorName:
    """Of a name that has the form of one; a layer's own name may hold a slash."""
    what, _, rest = name.partition("/")
    if not what.startswith("gradient"):
        return TensorName(what, None, rest)
    client, _, layer = rest.partition("/")
    return TensorName("gradient", int(client), layer)


def _clients_of(names: Mapping[str, TensorName]) -> set[int]:
    """The clients that have gradients."""
    return {name.client for name in names.values() if name.client is not None}


_FORM = {
    "external": "Names are gradients/<client>/<layer> and average/<layer>, clients whole numbers below 2^31, layers of "
    "at most 100 letters, digits and _ . : / -",
    "open": "Names are gradient/<client>/<layer> and average/<layer>.",
    "sealed": "Names are factor/<layer> and between/<layer>.",
}


def _layers_of_gradients(file: Any, names: Mapping[str, TensorName]) -> dict[str, int]:
    """The number of values of each layer, which gradients and averages must have alike."""
    by_client: dict[int, dict[str, int]] = {}
    average: dict[str, int] = {}
    for name, (_, client, layer) in names.items():
        length = _vector_length(file, name)
        if client is None:
            average[layer] = length
        else:
            layer_lengths = by_client.setdefault(client, {})
            layer_lengths[layer] = length
    layers = _check_layers(by_client)
    for name, length in average.items():
        expected = layers.get(name, "none")
        if length != expected:
            raise _bad(
                f"average/{name} has {length} values; the gradients: {expected}.",
                "Match them.",
            )
    return layers


def _check_layers(by_client: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
    """The layers, which all clients must have alike."""
    n_clients = len(by_client)
    if not 0 < n_clients <= MOST_CLIENTS or max(by_client) >= MOST_NUMBER:
        raise _bad(
            f"A round has 1 to {MOST_CLIENTS} clients with numbers below 2^31; here are {n_clients}.",
            "Send a gradient for each client.",
        )
    first = min(by_client)
    by_name = sorted(by_client[first].items())
    layers = dict(by_name)
    if not 0 < len(layers) <= MOST_LAYERS:
        raise _bad(
            f"A client has 1 to {MOST_LAYERS} layers; client {first} has {len(layers)}.",
            "Join some.",
        )
    _check_pairs(n_clients, len(layers))
    for client, layer_lengths in by_client.items():
        all_names = {*layers, *layer_lengths}
        for name in sorted(all_names):
            expected = layers.get(name, "no")
            length = layer_lengths.get(name, "no")
            if length != expected:
                raise _bad(
                    f"The layer {name} has {expected} values for client {first} and {length} for client {client}.",
                    "A layer has the same length for every client of a round.",
                )
    return layers


def _check_pairs(n_clients: int, n_layers: int) -> None:
    most_layers = MOST_PAIRS // n_clients**2
    if n_layers > most_layers:
        raise _bad(
            f"With {n_clients} clients a round has at most {most_layers} layers; here are {n_layers}.",
            "Join some.",
        )


def _vector_length(file: Any, name: str) -> int:
    piece = file.get_slice(name)
    shape = piece.get_shape()
    dtype = piece.get_dtype()
    # No empty layer: nothing could be scored by it.
    is_vector = len(shape) == 1 and shape[0] > 0
    if not is_vector or dtype not in ("F32", "F64"):
        raise _bad(
            f"The tensor {shown(name)} is of type {dtype} and shape {list(shape)}.",
            "A layer is one vector of float32 or float64 with at least one value.",
        )
    return int(shape[0])


def _layers_of_factors(
    file: Any, names: Mapping[str, TensorName], n_clients: int
) -> dict[str, int]:
    """A sealed layer shows n values of each of n clients: its coordinates in the
    coordinator's frame.
    """
    factors = set()
    for tensor_name, (what, _, layer) in names.items():
        # factor/<layer> is (n, n); between/<layer> has the four scalars of
        # RoundFiles.between for each client.
        n_columns = 4
        if what == "factor":
            n_columns = n_clients
            factors.add(layer)
        piece = file.get_slice(tensor_name)
        shape = list(piece.get_shape())
        dtype = piece.get_dtype()
        if dtype != "F64" or shape != [n_clients, n_columns]:
            raise _bad(
                f"The tensor {shown(tensor_name)} is not a float64 matrix of {n_clients} x {n_columns}.",
                "Send that.",
            )
    if not 0 < len(factors) <= MOST_LAYERS:
        raise _bad(
            f"A round has factors of 1 to {MOST_LAYERS} layers; here are {len(factors)}.",
            "Send those.",
        )
    _check_pairs(n_clients, len(factors))
    return dict.fromkeys(sorted(factors), n_clients)


def _check_clients(
    field_name: str, recorded: Mapping[str, Any], clients: list[int]
) -> None:
    """What was recorded beside the gradients is of clients that have some."""
    named = {int(client) for client in recorded}
    unknown = named - set(clients)
    if unknown:
        raise _bad(
            f"{field_name} names client {min(unknown)}, who has no gradient in this round.",
            "Name clients with gradients.",
        )


def _sizes(by_client: Mapping[str, int] | None, clients: list[int]) -> list[int] | None:
    """In the order of the clients."""
    if by_client is None:
        return None
    missing = [client for client in clients if str(client) not in by_client]
    if missing:
        raise _bad(
            f"sizes has none for client {missing[0]}.",
            "Give every client's, or leave sizes out.",
        )
    if not any(by_client.values()):
        raise _bad(
            "sizes are all 0, so there is no average.",
            "Give row counts, or leave sizes out.",
        )
    return [by_client[str(client)] for client in clients]


def _digest(file: Any, names: Mapping[str, Any], recorded: Any) -> str:
    """SHA-256 of the content, however the file or JSON was laid out.

    Reads every value once, and checks it.
    """
    digest = hashlib.sha256(canonical(recorded).encode())
    for tensor_name in names:
        is_between = tensor_name.startswith("between/")
        # Both spellings of one content have one digest.
        spelling = tensor_name.replace("gradients/", "gradient/", 1)
        dtype = file.get_slice(tensor_name).get_dtype()
        digest.update(f"\n{spelling}\n{dtype}\n".encode())
        for block in _pieces(file, tensor_name):
            if is_between:
                _check_between(tensor_name, block)
            elif not np.all(_may_be(block)):
                raise not_finite(tensor_name)
            digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def _check_between(name: str, block: Any) -> None:
    if not _may_be_between(block):
        raise not_finite(name)
    lengths = block[:, [0, 1, 3]]
    if np.any(lengths < 0):
        raise _bad(
            f"{shown(name)} holds a negative length.",
            "Columns 0, 1 and 3 are lengths, 0 or more.",
        )


def not_finite(name: str) -> ConsiliumError:
    return _bad(
        f"{shown(name)} holds a value that is not a finite number up to {LARGEST:g}.",
        "Send finite numbers.",
    )


def _pieces(file: Any, name: str) -> Iterator[Any]:
    """A tensor by blocks of rows, so that memory holds no more than one of them."""
    piece = file.get_slice(name)
    shape = piece.get_shape()
    n_rows = shape[0]
    rows_at_once = CHECK_VALUES
    if len(shape) != 1:
        rows_at_once = max(1, CHECK_VALUES // n_rows)
    for start in range(0, n_rows, rows_at_once):
        stop = min(start + rows_at_once, n_rows)
        yield piece[start:stop]


def _may_be(values: Any) -> Any:
    """Of each value, whether a round may hold it; false for NaN."""
    largest_of_type = float(np.finfo(values.dtype).max)
    largest = min(LARGEST, largest_of_type)
    return np.abs(values) <= largest


def _may_be_between(block: Any) -> bool:
    """A hospital that was not in the round before has NaN for its step, and nothing
    else that is not finite.
    """
    steps = block[:, 0]
    others = block[:, 1:]
    is_step = np.isnan(steps) | _may_be(steps)
    return bool(np.all(is_step) and np.all(_may_be(others)))


def shown(name: str) -> str:
    """A name of the sender's as an answer may hold it."""
    printable_text = ""
    for letter in name:
        printable_text += letter if letter.isprintable() else "?"
    if len(printable_text) > MOST_LETTERS_SHOWN:
        printable_text = f"{printable_text[:MOST_LETTERS_SHOWN]}..."
    return printable_text


def _bad(sentence: str, remedy: str) -> ConsiliumError:
    return BadRequest(sentence, remedy=remedy, code="round_file")
