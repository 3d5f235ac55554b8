"""Whatever a hospital sends to the coordinator, the coordinator goes on or ends the
order with a sentence that names the hospital; it never meets an error of its own.

An honest order's messages are put before a coordinator again, one of them altered.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deployments.local.one_process import run_order
from flows.coordinator import coordinate_statistics, coordinate_training
from protocol.errors import ConsiliumError
from protocol.exchange import Address, Exchange
from protocol.memory_transport import MemoryTransport
from protocol.messages import COORDINATOR, EVERYONE, Header
from tasks.coordinator import statistics, training
from tests.made_sites import make_sites, order_body
from tests.made_statistics import make_hospitals
from tests.pairwise import quick

HEADER_BYTES = 113
SIGNATURE_BYTES = 64
LIAR = 3
SECONDS = 20
DEEP: Any = None
for _ in range(400):
    DEEP = [DEEP]
HOSTILE_VALUES: list[Any] = [
    None,
    True,
    -1,
    0.5,
    10**400,
    1e308,
    "text",
    "",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    DEEP,
]
HOSTILE_BODIES = [
    b"",
    b"{",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"{}",
    b'{"a": NaN}',
    b"[" * 100_000,
    bytes(40),
]

Put = tuple[Address, int, int, bytes]


class RecordingTransport(MemoryTransport):
    """Keeps all that was put, with its address."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[Put] = []

    def put(self, address: Address, sender: int, recipient: int, body: bytes) -> None:
        super().put(address, sender, recipient, body)
        self.puts.append((address, sender, recipient, body))


@dataclass
class Played:
    """An honest order, to be put before a coordinator again."""

    coordinate: Callable[[MemoryTransport, int], None]
    order_id: int
    puts: list[Put]

    def read_by_coordinator(self) -> list[Put]:
        """The liar's messages that the coordinator reads, one of each topic and round."""
        found = []
        for put in self.puts:
            address, sender, recipient, _ = put
            is_read = recipient == COORDINATOR or address.topic in (
                "acceptance",
                "types",
            )
            if sender == LIAR and is_read and address.round < 2:
                found.append(put)
        return found

    def play(self, altered: Put, body: bytes) -> ConsiliumError | None:
        """What the coordinator ends with where this message has another body."""
        transport = MemoryTransport()
        for put in self.puts:
            address, sender, recipient, envelope = put
            if sender == COORDINATOR and recipient != EVERYONE:
                continue
            if sender == COORDINATOR and address.topic not in ("document",):
                continue
            if put == altered:
                envelope = with_body(envelope, body)
            transport.put(address, sender, recipient, envelope)
        late = ConsiliumError("The coordinator waits for ever.", remedy="")
        watch = threading.Timer(SECONDS, transport.refuse, (self.order_id, late))
        watch.start()
        try:
            self.coordinate(transport, self.order_id)
        except ConsiliumError as error:
            return error
        finally:
            watch.cancel()
        # What was recorded must be what the store can keep.
        json.dumps(transport.facts, allow_nan=False)
        return None


def with_body(envelope: bytes, body: bytes) -> bytes:
    header = Header.decode(envelope)
    written = replace(header, length=len(body)).encode()
    return written + body + envelope[-SIGNATURE_BYTES:]


def body_of(envelope: bytes) -> bytes:
    return envelope[HEADER_BYTES:-SIGNATURE_BYTES]


def coordinate_a_training(transport: MemoryTransport, order_id: int) -> None:
    order = training.open_order(order_id, Exchange(transport, COORDINATOR))
    coordinate_training(order, lambda record: None)


def coordinate_a_question(transport: MemoryTransport, order_id: int) -> None:
    order = statistics.open_order(order_id, Exchange(transport, COORDINATOR))
    coordinate_statistics(order, lambda record: None)


Play = Callable[[str], Played]
"""Runs the order of this name once."""


# The orders


TRAININGS: dict[str, dict[str, Any]] = {
    "lr": {
        "validation_fraction": 0.3,
        "scoring": "full",
        "model_params": {"encrypt_param": {"method": "Mask"}},
    },
    "lr, method None": {
        "validation_fraction": 0.3,
        "scoring": "full",
        "model_params": {"encrypt_param": {"method": "None"}},
    },
    "linear": {"model_type": "linear", "label_name": "x2"},
    "softmax": {"model_type": "softmax", "validation_fraction": 0.3},
    # How many columns and pairs are compared, the hospitals say.
    "newton, pooled": {
        "model_params": {"optimizer": "newton", "eps": 1e-8},
        "pooled": True,
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Play:
    rng = np.random.default_rng(5)
    tables = {}
    for user in (2, 3, 4):
        frame = pd.DataFrame(rng.normal(size=(80, 2)), columns=["x1", "x2"])
        frame["id"] = range(80)
        frame["y"] = [0, 1] * 40
        tables[user] = {"rows": frame}

    @functools.cache
    def play(name: str) -> Played:
        folder = tmp_path_factory.mktemp("sites")
        sites = make_sites(folder, tables, cohort="min_rows = 1")
        fields = dict(TRAININGS[name])
        if fields.pop("pooled", False):
            for site in sites.values():
                pooled = '\n[statistics]\nmethods = ["count"]\ncells = "pooled"\n'
                site.policy.write_text(site.policy.read_text() + pooled)
        transport = RecordingTransport()
        params = {"max_iter": 2, **fields.get("model_params", {})}
        own = {**fields, "attributes": ["x1"], "model_params": params}
        run_order(sites, order_body((2, 3, 4), **own), transport=transport)
        return Played(coordinate_a_training, 1, transport.puts)

    return play


QUESTIONS: dict[str, dict[str, Any]] = {
    "avg": {"method": "avg"},
    "median": {"method": "median"},
    "cells": {"method": "avg", "group_by": ["g"]},
    "joined": {
        "method": "custom",
        "expression": "sum(a.x + b.x + c.x)",
        "key": "id",
        "extra": {user: {"data_alias": "abc"[user - 2]} for user in (2, 3, 4)},
    },
    "compared": {
        "method": "is_investor_accredited",
        "key": "id",
        "threshold": 60,
    },
}


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Play:
    hospitals = make_hospitals(tmp_path_factory.mktemp("sites"), (2, 3, 4))
    hospitals.allow(cells="pooled", row_level=["id", "x"])
    rng = np.random.default_rng(7)
    for user in hospitals.sites:
        x = rng.integers(0, 40, 80)
        frame = pd.DataFrame({"id": range(80), "x": x, "g": ["p", "q"] * 40})
        hospitals.write(user, "rows.csv", frame)
        hospitals.write(user, "two.csv", frame[["id", "x"]])

    @functools.cache
    def play(name: str) -> Played:
        hospitals.forget()
        transport = RecordingTransport()
        own = dict(QUESTIONS[name])
        method = own.pop("method")
        file = "two.csv" if name == "compared" else "rows.csv"
        data = dict.fromkeys(hospitals.sites, file)
        hospitals.ask(method, data, transport=transport, **own)
        return Played(coordinate_a_question, hospitals.last, transport.puts)

    return play


def all_scalars(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every value of a JSON text."""
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from all_scalars(value[name], (*path, name))
    if isinstance(value, list) and value:
        yield from all_scalars(value[0], (*path, 0))


def put_at(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = copy.deepcopy(value)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = new
    return changed


def without(value: Any, path: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(value)
    place = changed
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return changed


def hostile_bodies(topic: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Bodies in the place of an honest one, each with a word on what it is."""
    for text in HOSTILE_BODIES:
        yield f"{text[:12]!r}", text
    for length in (1, 7, 36, len(body) // 2, len(body) - 1):
        yield f"cut at {length}", body[:length]
    yield "longer", body + bytes(8)
    for number in (math.nan, math.inf, 1e308):
        yield f"ends with {number}", body[:-8] + struct.pack(">d", number)
    yield from hostile_texts(topic, body)


def hostile_texts(topic: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """The same JSON with one value of another kind, one name fewer or one more."""
    text, join = split_json(topic, body)
    if not text:
        return
    honest = json.loads(text)
    for path in all_scalars(honest):
        for value in HOSTILE_VALUES:
            changed = put_at(honest, path, value)
            yield f"{path} = {str(value)[:20]}", join(json.dumps(changed).encode())
        if path and isinstance(path[-1], str):
            yield f"no {path}", join(json.dumps(without(honest, path)).encode())
    for name, value in (("leave_one_out", 5), ("leave_one_out", [[1]]), ("more", DEEP)):
        if isinstance(honest, dict):
            more = {**honest, name: value}
            yield f"{name} = {str(value)[:12]}", join(json.dumps(more).encode())


def split_json(topic: str, body: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    """The JSON of a message, and what puts another one in its place."""
    if topic in ("gradient", "mean", "variance"):
        (length,) = struct.unpack(">I", body[32:36])
        end = 36 + length
        tag, rest = body[:32], body[end:]
        return body[
            36:end
        ], lambda text: tag + struct.pack(">I", len(text)) + text + rest
    if topic == "vectors":
        (length,) = struct.unpack(">I", body[:4])
        rest = body[4 + length :]
        return body[
            4 : 4 + length
        ], lambda text: struct.pack(">I", len(text)) + text + rest
    if body[:1] == b"{":
        return body, lambda text: text
    return b"", lambda text: text


def assert_named(played: Played, name: str) -> None:
    """Every hostile message ends the order by the name of who sent it, or changes
    nothing that the coordinator reads.
    """
    unnamed = []
    n_ended = 0
    for put in played.read_by_coordinator():
        address, _, _, envelope = put
        for what, body in hostile_bodies(address.topic, body_of(envelope)):
            where = f"{name}: {address.topic} {address.round}: {what}"
            try:
                error = played.play(put, body)
            except Exception as crash:  # noqa: BLE001
                unnamed.append(f"{where}: {crash!r:.100}")
                continue
            if error is None:
                continue
            n_ended += 1
            if LIAR not in error.detail.get("hospitals", []):
                unnamed.append(f"{where}: {error.code}: {error}")
            elif f"{LIAR}" not in error.sentence:
                unnamed.append(f"{where}: no name: {error}")
    assert n_ended
    assert not unnamed, "\n".join(unnamed)


@pytest.mark.parametrize("name", quick(list(TRAININGS), 1))
def test_training(trained: Play, name: str) -> None:
    assert_named(trained(name), name)


@pytest.mark.parametrize("name", quick(list(reversed(QUESTIONS)), 1))
def test_statistics(answered: Play, name: str) -> None:
    assert_named(answered(name), name)
