"""Recorded rounds: nothing is kept that was not checked whole, nothing half written is
seen, nothing is read twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from safetensors.numpy import save

from api.store import Store, round_checks, round_files
from api.store.round_files import ResultCache, RoundFiles, frame
from api.store.rows import RoundEntry
from api.store.tables import metadata
from tests.api.conftest import Coordinator, serve, settings_in
from tests.api.made_rounds import (
    GOLDEN,
    SAFETENSORS,
    as_json,
    external_file,
    open_file,
    open_order,
    put,
    record,
    report_round,
    sealed_file,
    training_order,
)
from tests.api.test_bad_input import assert_refused

TWO = {"0": {"dense": [1.0, 2.0]}, "1": {"dense": [3.0, 4.0]}}
DEEP = "[" * 100_000 + "]" * 100_000


def folder_of(coordinator: Coordinator) -> Path:
    folder: Path = coordinator.app.state.settings.rounds_folder
    return folder


def files_of(coordinator: Coordinator, order_id: int) -> list[Path]:
    return sorted((folder_of(coordinator) / str(order_id)).glob("*"))


# External orders


def test_an_external_order_belongs_to_who_opens_it(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator)
    record(coordinator, order_id, 0, {"gradients": TWO})
    shown = coordinator.call("GET", f"/orders/{order_id}").json()["data"]
    assert (shown["kind"], shown["state"], shown["name"]) == (
        "external",
        "running",
        "made",
    )
    assert shown["gradients"] == {
        "frame": "open",
        "rounds": 1,
        "newest_round": 0,
        "layers": {"dense": 2},
        "score_readers": "parties",
    }
    assert_refused(put(coordinator, order_id, 1, {"gradients": TWO}, "user-2"), 403)
    assert_refused(coordinator.call("GET", f"/orders/{order_id}", "user-2"), 403)
    assert_refused(
        coordinator.call("GET", f"/client_grad?order_id={order_id}", "user-2"), 403
    )
    assert (
        coordinator.call(
            "GET", f"/client_grad?order_id={order_id}", "operator"
        ).status_code
        == 200
    )
    record(coordinator, order_id, 1, {"gradients": TWO}, "operator")


def test_an_operator_has_external_orders_too(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator, "operator")
    record(coordinator, order_id, 0, {"gradients": TWO}, "operator")
    assert (
        coordinator.call("GET", f"/orders/{order_id}", "operator").json()["data"][
            "user_id"
        ]
        is None
    )
    assert_refused(put(coordinator, order_id, 0, {"gradients": TWO}, "user-4"), 403)
    assert_refused(coordinator.call("GET", f"/orders/{order_id}", "user-4"), 403)


def test_the_same_key_finds_the_same_order(coordinator: Coordinator) -> None:
    def send(name: str) -> Any:
        headers = {"Idempotency-Key": "rounds/1"}
        return coordinator.call(
            "POST", "/orders", json={"kind": "external", "name": name}, headers=headers
        )

    assert send("a").json() == send("a").json()
    assert_refused(send("b"), 409, "Idempotency-Key")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "train"},
        {"kind": "external", "x": 1},
        {"kind": "external", "name": "\0"},
    ],
)
def test_an_external_order_that_is_none(
    coordinator: Coordinator, body: dict[str, Any]
) -> None:
    assert_refused(coordinator.call("POST", "/orders", json=body), 422)


def test_nobody_works_on_an_external_order(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator)
    assert order_id not in {
        order.order_id for order in coordinator.store.orders.active()
    }
    assert not [run for run in coordinator.runs.started if order_id in run]
    assert_refused(coordinator.call("POST", f"/orders/{order_id}/rerun"), 404)
    assert_refused(coordinator.call("GET", f"/model/info?model_id={order_id}"), 404)
    assert_refused(
        coordinator.call(
            "POST", f"/orders/{order_id}/refuse", "agent-4", json={"sentence": "No."}
        ),
        409,
    )


def test_a_closed_order_takes_no_further_round_and_is_still_read(
    coordinator: Coordinator,
) -> None:
    order_id = open_order(coordinator)
    record(coordinator, order_id, 0, {"gradients": TWO})
    assert coordinator.call("POST", f"/orders/{order_id}/cancel").status_code == 200
    assert_refused(put(coordinator, order_id, 1, {"gradients": TWO}), 410)
    record(coordinator, order_id, 0, {"gradients": TWO})
    assert (
        coordinator.call("GET", f"/client_grad?order_id={order_id}&round=0").json()
        == TWO
    )


# The same and other content


def test_a_round_is_recorded_once_in_whatever_form_it_comes(
    coordinator: Coordinator,
) -> None:
    order_id = open_order(coordinator)
    facts = {"sizes": {"0": 5, "1": 7}, "performance": {"train": {"0": {"loss": 1.5}}}}
    tensors = {
        f"gradients/{user}/dense": np.array(own["dense"]) for user, own in TWO.items()
    }
    first = put(coordinator, order_id, 3, {"gradients": TWO, **facts})
    assert first.status_code == 200
    assert first.json()["layers"] == {"dense": 2}
    again: list[Any] = [
        {"gradients": dict(reversed(TWO.items())), **facts},
        save(tensors, metadata={"round": json.dumps(facts), "other": "x"}),
        save(dict(reversed(tensors.items())), metadata={"round": json.dumps(facts)}),
    ]
    for body in again:
        answer = put(coordinator, order_id, 3, body)
        assert answer.status_code == 200, answer.text
        assert answer.json() == first.json()
    others: list[Any] = [
        {"gradients": TWO},
        {"gradients": TWO, **facts, "sizes": {"0": 5, "1": 8}},
        {"gradients": {**TWO, "1": {"dense": [3.0, 4.000000001]}}, **facts},
        save(
            {name: v.astype(np.float32) for name, v in tensors.items()},
            metadata={"round": json.dumps(facts)},
        ),
    ]
    for body in others:
        assert_refused(put(coordinator, order_id, 3, body), 409, "other content")
    assert len(files_of(coordinator, order_id)) == 1
    assert (
        coordinator.call("GET", f"/client_grad?order_id={order_id}&round=3").json()
        == TWO
    )


def test_null_is_as_if_it_were_not_there(coordinator: Coordinator) -> None:
    order_id, nulls = (
        open_order(coordinator),
        {"sizes": None, "average": None, "performance": None},
    )
    first = put(
        coordinator, order_id, 0, {"gradients": TWO, **nulls, "leave_one_out": None}
    )
    assert first.status_code == 200, first.text
    assert put(coordinator, order_id, 0, {"gradients": TWO}).json() == first.json()
    tensors = {
        f"gradients/{user}/dense": np.array(own["dense"]) for user, own in TWO.items()
    }
    body = save(
        tensors,
        metadata={"round": json.dumps({"performance": None, "leave_one_out": None})},
    )
    assert put(coordinator, order_id, 0, body).json() == first.json()


def test_of_two_that_come_at_once_one_stands(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator)
    answers: list[int] = []

    def send(value: float) -> None:
        answers.append(
            put(
                coordinator, order_id, 0, {"gradients": {"0": {"dense": [value]}}}
            ).status_code
        )

    threads = [
        threading.Thread(target=send, args=(float(value),)) for value in (1, 1, 2, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 200, 409, 409]
    assert len(files_of(coordinator, order_id)) == 1
    assert (
        coordinator.call("GET", f"/client_grad?order_id={order_id}").status_code == 200
    )


def test_the_mean_of_the_largest_losses_is_finite(coordinator: Coordinator) -> None:
    order_id, largest = open_order(coordinator), 1.7e308
    for round_, sizes in enumerate(
        ({"0": 1, "1": 1}, {"0": 2**52, "1": 2**52}, {"0": 3, "1": 7})
    ):
        metrics = {
            str(client): {"accuracy": largest, "loss": largest} for client in (0, 1)
        }
        facts = {
            "performance": {"train": metrics, "test": metrics},
            "leave_one_out": metrics,
        }
        record(
            coordinator, order_id, round_, {"gradients": TWO, "sizes": sizes, **facts}
        )
        shown = coordinator.call("GET", f"/orders/{order_id}").json()["data"]["rounds"][
            round_
        ]
        assert shown["loss"] == pytest.approx(largest)
        scores = coordinator.call(
            "GET", f"/contribution/perf_diff?order_id={order_id}&round={round_}"
        )
        assert scores.status_code == 200, scores.text
        assert list(scores.json()["data"].values()) == pytest.approx(
            [0.0, 0.0], abs=1e-12 * largest
        )


# What is refused


def round_of(**changes: Any) -> dict[str, Any]:
    return {"gradients": TWO, **changes}


BAD_JSON: list[tuple[str, Any, int, str]] = [
    ("no gradients", {}, 422, "gradients"),
    ("a list", [1], 422, "gradients"),
    ("gradients of nobody", {"gradients": {}}, 400, "no tensor"),
    ("a client without layers", {"gradients": {**TWO, "2": {}}}, 422, "layers"),
    (
        "a client that is no number",
        {"gradients": {"x": {"dense": [1.0]}}},
        422,
        "gradients/x/dense",
    ),
    (
        "a client with a leading zero",
        {"gradients": {"01": {"dense": [1.0]}}},
        422,
        "01",
    ),
    ("a client that is negative", {"gradients": {"-1": {"dense": [1.0]}}}, 422, "-1"),
    (
        "a client beyond integers",
        {"gradients": {"9999999999": {"dense": [1.0]}}},
        400,
        "2^31",
    ),
    ("a layer with a comma", {"gradients": {"0": {"a,b": [1.0]}}}, 422, "a,b"),
    ("a layer without a name", {"gradients": {"0": {"": [1.0]}}}, 422, "name"),
    ("a layer with a long name", {"gradients": {"0": {"a" * 101: [1.0]}}}, 422, "name"),
    ("an empty layer", {"gradients": {"0": {"dense": []}}}, 400, "at least one value"),
    (
        "a layer that is a number",
        {"gradients": {"0": {"dense": 1.0}}},
        422,
        "list of numbers",
    ),
    ("texts", {"gradients": {"0": {"dense": ["1.0"]}}}, 422, "list of numbers"),
    ("true", {"gradients": {"0": {"dense": [True]}}}, 422, "list of numbers"),
    (
        "null among numbers",
        {"gradients": {"0": {"dense": [1.0, None]}}},
        422,
        "list of numbers",
    ),
    ("a matrix", {"gradients": {"0": {"dense": [[1.0]]}}}, 422, "list of numbers"),
    (
        "other lengths",
        {"gradients": {"0": {"dense": [1.0]}, "1": {"dense": [1.0, 2.0]}}},
        400,
        "dense",
    ),
    (
        "other layers",
        {"gradients": {"0": {"dense": [1.0]}, "1": {"conv1": [1.0]}}},
        400,
        "conv1",
    ),
    (
        "a value that squares to infinity",
        {"gradients": {"0": {"dense": [1e200]}}},
        400,
        "1e+100",
    ),
    (
        "an integer beyond floats",
        {"gradients": {"0": {"dense": [10**400]}}},
        400,
        "finite",
    ),
    ("sizes of a stranger", round_of(sizes={"0": 1, "1": 2, "7": 3}), 400, "client 7"),
    ("sizes of some", round_of(sizes={"0": 1}), 400, "client 1"),
    ("negative sizes", round_of(sizes={"0": 1, "1": -1}), 422, "sizes"),
    ("sizes that are fractions", round_of(sizes={"0": 1, "1": 1.5}), 422, "sizes"),
    ("sizes of nothing", round_of(sizes={"0": 0, "1": 0}), 400, "0"),
    ("sizes that are true", round_of(sizes={"0": True, "1": True}), 422, "sizes"),
    ("an average of another layer", round_of(average={"conv1": [1.0]}), 400, "conv1"),
    ("an average of another length", round_of(average={"dense": [1.0]}), 400, "dense"),
    ("an average that is a list", round_of(average=[1.0]), 422, "average"),
    (
        "an average that is infinite",
        round_of(average={"dense": [1e300, 0]}),
        400,
        "average/dense",
    ),
    (
        "metrics of a stranger",
        round_of(performance={"train": {"7": {"loss": 1.0}}}),
        400,
        "client 7",
    ),
    (
        "metrics in words",
        round_of(performance={"train": {"0": {"loss": "low"}}}),
        422,
        "loss",
    ),
    (
        "metrics that nobody knows",
        round_of(performance={"train": {"0": {"lost": 1.0}}}),
        422,
        "lost",
    ),
    (
        "leave-one-out of a stranger",
        round_of(leave_one_out={"7": {"loss": 1.0}}),
        400,
        "client 7",
    ),
    ("an unknown field", round_of(size={"0": 1}), 422, "size"),
    (
        "many fields",
        round_of(**{f"f{number}": 0 for number in range(200_000)}),
        413,
        "bytes",
    ),
]


@pytest.mark.parametrize(
    ("what", "body", "status", "needle"), BAD_JSON, ids=[case[0] for case in BAD_JSON]
)
def test_a_round_that_is_none(
    coordinator: Coordinator, what: str, body: Any, status: int, needle: str
) -> None:
    order_id = open_order(coordinator)
    assert_refused(put(coordinator, order_id, 0, body), status, needle)
    assert files_of(coordinator, order_id) == []
    assert coordinator.call("GET", f"/orders/{order_id}").json()["data"]["rounds"] == []


TEXTS: list[tuple[str, str, int]] = [
    ("empty", "", 422),
    ("null", "null", 422),
    ("not a number", '{"gradients": {"0": {"dense": [NaN]}}}', 422),
    ("infinity", '{"gradients": {"0": {"dense": [-Infinity]}}}', 422),
    ("beyond floats", '{"gradients": {"0": {"dense": [1e999]}}}', 400),
    (
        "a client twice",
        '{"gradients": {"0": {"dense": [1.0]}, "0": {"dense": [2.0]}}}',
        422,
    ),
    (
        "an integer of many digits",
        '{"gradients": {"0": {"dense": [' + "7" * 10_000 + "]}}}",
        422,
    ),
    ("nested beyond the stack", '{"gradients": ' + DEEP + "}", 422),
    ("half a surrogate pair", '{"gradients": {"\\ud800": {"dense": [1.0]}}}', 422),
    (
        "half a surrogate pair beside it",
        '{"gradients": {"0": {"dense": [1.0]}}, "sizes": {"\\ud800": 1}}',
        422,
    ),
    (
        "a nested field",
        '{"gradients": {"0": {"dense": [1.0]}}, "sizes": '
        + "[" * 900
        + "]" * 900
        + "}",
        422,
    ),
]


@pytest.mark.parametrize(
    ("what", "text", "status"), TEXTS, ids=[case[0] for case in TEXTS]
)
def test_a_text_that_is_no_round(
    coordinator: Coordinator, what: str, text: str, status: int
) -> None:
    order_id = open_order(coordinator)
    path, headers = f"/orders/{order_id}/rounds/0", {"Content-Type": "application/json"}
    assert_refused(
        coordinator.call("PUT", path, content=text.encode(), headers=headers), status
    )


def test_many_clients_have_fewer_layers(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert round_checks.MOST_PAIRS >= 100**2 * round_checks.MOST_LAYERS
    monkeypatch.setattr(round_checks, "MOST_PAIRS", 2**2 * 3)
    order_id = open_order(coordinator)

    def send(n_layers: int) -> Any:
        own = {f"layer{number}": [1.0] for number in range(n_layers)}
        return put(coordinator, order_id, 0, {"gradients": {"0": own, "1": own}})

    assert_refused(
        send(4), 400, "With 2 clients a round has at most 3 layers; here are 4."
    )
    assert send(3).status_code == 200


GOOD = external_file(np.ones((2, 3)))
N_HEADER = struct.unpack("<Q", GOOD[:8])[0]


def with_header(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def one(
    dtype: str = "F64",
    shape: Any = (1,),
    offsets: Any = (0, 8),
    name: str = "gradients/0/dense",
) -> Any:
    return {name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


BAD_FILES: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("seven bytes", b"1234567"),
    ("cut in the header", GOOD[:20]),
    ("cut in the data", GOOD[:-1]),
    ("with a tail", GOOD + b"x"),
    ("a header without end", struct.pack("<Q", 2**63) + GOOD[8:]),
    ("a header beyond its limit", struct.pack("<Q", 2**26) + GOOD[8:]),
    ("a header that is no JSON", with_header(b"\xff" * 64)),
    ("a header that is a list", with_header([])),
    ("a nested header", with_header(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}")),
    ("nothing in it", with_header({})),
    ("a shape that is larger", with_header(one(shape=(2,)), b"\0" * 8)),
    ("a shape beyond integers", with_header(one(shape=(2**63, 2**63)), b"\0" * 8)),
    ("a shape that is negative", with_header(one(shape=(-1,)), b"\0" * 8)),
    ("offsets in reverse", with_header(one(offsets=(8, 0)), b"\0" * 8)),
    ("offsets beyond the end", with_header(one(offsets=(8, 16)), b"\0" * 8)),
    ("a scalar", with_header(one(shape=()), b"\0" * 8)),
    ("no value", with_header(one(shape=(0,), offsets=(0, 0)))),
    ("integers", save({"gradients/0/dense": np.arange(3)})),
    ("half floats", save({"gradients/0/dense": np.ones(3, np.float16)})),
    ("brain floats", with_header(one("BF16", (4,)), b"\0" * 8)),
    ("floats of four bits", with_header(one("F4", (16,)), b"\0" * 8)),
    ("a dtype that is none", with_header(one("F65"), b"\0" * 8)),
    ("a matrix", save({"gradients/0/dense": np.ones((2, 2))})),
    ("another name", save({"weights": np.ones(2)})),
    ("a name with a path", save({"gradients/0/../../x,": np.ones(2)})),
    (
        "two spellings",
        save({"gradients/0/dense": np.ones(2), "gradient/0/dense": np.ones(2)}),
    ),
    (
        "a spelling for each client",
        save({"gradients/0/dense": np.ones(2), "gradient/1/dense": np.ones(2)}),
    ),
    ("not a number", save({"gradients/0/dense": np.array([1.0, np.nan])})),
    ("infinity", save({"gradients/0/dense": np.array([1.0, np.inf], np.float32)})),
    ("factors", save({"factor/dense": np.eye(2)})),
    (
        "metadata that is no JSON",
        save({"gradients/0/dense": np.ones(2)}, metadata={"round": "x"}),
    ),
    (
        "metadata that is a list",
        save({"gradients/0/dense": np.ones(2)}, metadata={"round": "[]"}),
    ),
    (
        "metadata that is nested",
        save({"gradients/0/dense": np.ones(2)}, metadata={"round": DEEP}),
    ),
    (
        "metadata with NaN",
        save(
            {"gradients/0/dense": np.ones(2)},
            metadata={"round": '{"sizes": {"0": NaN}}'},
        ),
    ),
    ("an average alone", save({"average/dense": np.ones(2)})),
]


@pytest.mark.parametrize(
    ("what", "content"), BAD_FILES, ids=[case[0] for case in BAD_FILES]
)
def test_a_file_that_is_no_round(
    coordinator: Coordinator, what: str, content: bytes
) -> None:
    order_id = open_order(coordinator)
    answer = put(coordinator, order_id, 0, content)
    assert answer.status_code in (400, 422), answer.text
    assert_refused(answer, answer.status_code)
    assert files_of(coordinator, order_id) == []


def test_no_damage_of_a_file_is_a_fault_of_ours(coordinator: Coordinator) -> None:
    """Some damage gives another whole file: another layer's name."""
    order_id = open_order(coordinator)
    refused = 0
    for place in range(8 + N_HEADER):
        damaged = bytearray(GOOD)
        damaged[place] ^= 0x55
        answer = put(coordinator, order_id, place, bytes(damaged))
        assert answer.status_code in (200, 400, 422), (place, answer.text)
        refused += answer.status_code != 200
    assert refused > N_HEADER / 2


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"],
)
def test_a_content_type_that_no_round_has(coordinator: Coordinator, kind: str) -> None:
    order_id = open_order(coordinator)
    answer = coordinator.call(
        "PUT",
        f"/orders/{order_id}/rounds/0",
        content=GOOD,
        headers={"Content-Type": kind},
    )
    assert_refused(answer, 422, "Content-Type")


@pytest.mark.parametrize(
    "path", ["/orders/999/rounds/0", "/orders/x/rounds/0", "/orders/1/rounds/-1"]
)
def test_a_round_of_no_order(coordinator: Coordinator, path: str) -> None:
    answer = coordinator.call("PUT", path, json={"gradients": TWO})
    assert_refused(answer, 404 if "999" in path else 422)


@contextlib.contextmanager
def small_limit(home: Path, n_bytes: int) -> Iterator[Coordinator]:
    with serve(settings_in(home, max_round_bytes=n_bytes)) as running:
        yield running


def test_a_body_over_the_limit_is_cut_off_and_leaves_nothing(tmp_path: Path) -> None:
    with small_limit(tmp_path, 10_000) as coordinator:
        order_id = open_order(coordinator)
        assert_refused(
            put(coordinator, order_id, 0, external_file(np.ones((2, 2000)))),
            413,
            "10000",
        )
        many = iter([b"x" * 4096] * 8)
        path = f"/orders/{order_id}/rounds/0/"
        assert_refused(
            coordinator.call("PUT", path, content=many, headers=SAFETENSORS),
            413,
            "10000",
        )
        assert files_of(coordinator, order_id) == []
        record(coordinator, order_id, 0, external_file(np.ones((2, 500))))


def test_a_round_larger_than_other_bodies_is_taken(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator)
    record(coordinator, order_id, 0, external_file(np.ones((3, 200_000), np.float32)))
    big = [0.25] * 2_900_000
    answer = put(coordinator, order_id, 1, {"gradients": {"0": {"dense": big}}})
    assert answer.status_code == 200, answer.text
    assert_refused(
        put(
            coordinator,
            order_id,
            2,
            {"gradients": {"0": {"dense": [*big, *big[:900_000]]}}},
        ),
        413,
    )


def test_a_disk_that_is_full_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    with serve(settings_in(tmp_path)) as coordinator:
        order_id = open_order(coordinator)
        monkeypatch.setattr(round_files, "sync", full)
        assert_refused(
            put(coordinator, order_id, 0, {"gradients": TWO}),
            503,
            "disk full",
            "makes room",
        )
        monkeypatch.undo()
        assert files_of(coordinator, order_id) == []


# The flow's rounds


def test_the_flow_records_rounds_and_the_first_stands(coordinator: Coordinator) -> None:
    order_id = training_order(coordinator, "Paillier")
    gradients = {user: {"dense": GOLDEN[user]} for user in (2, 3, 4)}
    record(
        coordinator, order_id, 0, sealed_file(gradients, [228, 228, 227]), "coordinator"
    )
    other = {user: {"dense": GOLDEN[user] + 1} for user in (2, 3, 4)}
    record(coordinator, order_id, 0, sealed_file(other, [228, 228, 227]), "coordinator")
    listed = coordinator.call("GET", f"/orders/{order_id}/rounds").json()["data"][
        "rounds"
    ]
    assert [(row["round"], row["kind"], row["clients"]) for row in listed] == [
        (0, "sealed", [2, 3, 4])
    ]
    assert listed[0]["sizes"] == {"2": 228, "3": 228, "4": 227}
    assert (
        coordinator.call("GET", f"/orders/{order_id}").json()["data"]["gradients"][
            "frame"
        ]
        == "sealed"
    )


def stored(kind: str, clients: list[int], **tensors: Any) -> bytes:
    named = {name.replace("_", "/"): values for name, values in tensors.items()}
    return save(
        named, metadata={"round": json.dumps({"kind": kind, "clients": clients})}
    )


ONE = {2: {"dense": GOLDEN[0]}}
BAD_STORED: list[tuple[str, bytes]] = [
    ("a stranger's gradient", open_file({**ONE, 9: {"dense": GOLDEN[1]}})),
    ("the external form", external_file(GOLDEN)),
    ("a factor of another size", stored("sealed", [2, 3, 4], factor_dense=np.eye(2))),
    ("scalars alone", stored("sealed", [2, 3, 4], between_dense=np.ones((3, 4)))),
    ("sizes of some", open_file(ONE, [1, 2])),
    ("a member that is a stranger", sealed_file(ONE, members=[3])),
    ("a member twice", sealed_file(ONE, members=[2, 2])),
    ("nobody as members", sealed_file(ONE, members=[])),
    ("members without rows", sealed_file({**ONE, 3: ONE[2]}, [0, 5], members=[2])),
    ("a client twice", stored("sealed", [2, 2], factor_dense=np.eye(2))),
    (
        "an infinite scalar",
        sealed_file(ONE, between={"dense": np.full((1, 4), np.inf)}),
    ),
    (
        "a drift that is missing",
        sealed_file(ONE, between={"dense": np.full((1, 4), np.nan)}),
    ),
    (
        "a negative step",
        sealed_file(ONE, between={"dense": np.array([[-1.0, 1, 1, 1]])}),
    ),
    (
        "a negative drift",
        sealed_file(ONE, between={"dense": np.array([[np.nan, -1.0, 1, 1]])}),
    ),
    (
        "a negative average",
        sealed_file(ONE, between={"dense": np.array([[1.0, 1, 1, -1e-300]])}),
    ),
    ("another kind", stored("x", [2], factor_dense=np.eye(1))),
]


@pytest.mark.parametrize(
    ("what", "content"), BAD_STORED, ids=[case[0] for case in BAD_STORED]
)
def test_a_round_that_the_flow_would_not_send(
    coordinator: Coordinator, what: str, content: bytes
) -> None:
    order_id = training_order(coordinator, "Mask")
    answer = put(coordinator, order_id, 0, content, "coordinator")
    assert answer.status_code in (400, 422), answer.text
    assert files_of(coordinator, order_id) == []


def test_leave_one_out_is_added_to_a_round_and_survives_its_being_recorded_again(
    coordinator: Coordinator,
) -> None:
    order_id = training_order(coordinator, "Paillier")

    def add(round_: int, clients: dict[str, Any]) -> Any:
        body = {
            "leave_one_out": {"round": round_, "clients": clients},
            "score_readers": "operator",
        }
        return coordinator.call(
            "POST", f"/orders/{order_id}/progress", "coordinator", json=body
        )

    assert_refused(add(0, {"2": {"accuracy": 0.5}}), 404)
    report_round(coordinator, order_id, 0, {2: 1.0, 3: 1.0, 4: 1.0})
    assert add(0, {"2": {"accuracy": 0.5}}).status_code == 200
    assert add(0, {"3": {"accuracy": 0.6}}).status_code == 200
    report_round(coordinator, order_id, 0, {2: 2.0, 3: 1.0, 4: 1.0})
    report = coordinator.store.rounds.reports(order_id)[0]
    assert report["leave_one_out"] == {"2": {"accuracy": 0.5}, "3": {"accuracy": 0.6}}
    assert report["hospitals"]["2"]["train"]["loss"] == 2.0
    assert coordinator.store.orders.get(order_id).score_readers == "operator"
    assert (
        "leave_one_out"
        not in coordinator.call("GET", f"/orders/{order_id}").json()["data"]["rounds"][
            0
        ]
    )


# Crashes, retention, paging


def test_a_start_removes_what_a_crash_left(tmp_path: Path) -> None:
    with serve(settings_in(tmp_path)) as first:
        order_id = open_order(first)
        record(first, order_id, 0, {"gradients": TWO})
        (kept,) = files_of(first, order_id)
        tokens = first.tokens
    folder = kept.parent
    (folder / "cut.part").write_bytes(GOOD[:40])
    (folder / "7-0123456789abcdef.safetensors").write_bytes(GOOD)
    (folder.parent / "999").mkdir()
    (folder.parent / "999" / "0-0123456789abcdef.safetensors").write_bytes(GOOD)
    with serve(settings_in(tmp_path), tokens) as second:
        assert files_of(second, order_id) == [kept]
        assert len(files_of(second, 999)) == 1, (
            "files of an order that the store does not know are left alone"
        )
        assert second.call("GET", "/client_grad?round=0").json() == TWO


def test_a_file_that_is_gone_is_said(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator)
    record(coordinator, order_id, 0, {"gradients": TWO})
    (path,) = files_of(coordinator, order_id)
    path.write_bytes(path.read_bytes()[:30])
    assert_refused(
        coordinator.call("GET", f"/client_grad?order_id={order_id}"), 404, "damaged"
    )
    path.unlink()
    for call in ("/client_grad", "/avg_grad", "/anomaly/krum?k=1"):
        path_of = f"{call}{'&' if '?' in call else '?'}order_id={order_id}"
        assert_refused(coordinator.call("GET", path_of), 404, "missing")


def test_old_files_are_pruned_and_their_metrics_stay(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator)
    record(
        coordinator,
        order_id,
        0,
        {"gradients": TWO, "performance": {"train": {"0": {"loss": 1.0}}}},
    )
    files: RoundFiles = coordinator.app.state.round_files
    now = datetime.now(UTC).replace(tzinfo=None)
    entry = coordinator.store.rounds.file(order_id, 0)
    assert entry is not None
    assert entry not in coordinator.store.rounds.old_files(now - timedelta(hours=1))
    for old in coordinator.store.rounds.old_files(now + timedelta(hours=1)):
        if old.order_id != order_id:
            coordinator.store.rounds.forget_file(old)
    assert files.prune(now + timedelta(hours=1)) == 1
    assert files_of(coordinator, order_id) == []
    assert_refused(
        coordinator.call("GET", f"/client_grad?order_id={order_id}&round=0"), 404
    )
    assert (
        coordinator.call("GET", f"/performance?order_id={order_id}&round=0").json()[
            "train"
        ]["0"]["loss"]
        == 1.0
    )


def test_a_round_that_comes_again_while_its_old_file_is_pruned_has_its_file(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content alone names a file: what is pruned is what is written at that moment."""
    order_id = open_order(coordinator)
    record(coordinator, order_id, 0, {"gradients": TWO})
    files: RoundFiles = coordinator.app.state.round_files
    rounds = coordinator.store.rounds
    entry = rounds.file(order_id, 0)
    assert entry is not None
    content = files.path(entry).read_bytes()

    def come_again() -> None:
        with files.part(order_id) as part:
            part.write_bytes(content)
            files.publish(part, entry)

    other = threading.Thread(target=come_again)
    forget_file = rounds.forget_file

    def forget_and_meet_it(old: RoundEntry) -> None:
        forget_file(old)
        other.start()
        other.join(0.5)  # it may have to wait until this one has ended

    monkeypatch.setattr(rounds, "forget_file", forget_and_meet_it)
    monkeypatch.setattr(rounds, "old_files", lambda before: [entry])
    files.prune(datetime.now(UTC).replace(tzinfo=None))
    other.join()
    assert rounds.file(order_id, 0) == entry
    assert files.path(entry).read_bytes() == content


def test_an_older_store_is_brought_up_to_this_version(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    store.migrate("0001")
    with store.begin() as db:
        facts = "'train', 4, '[2, 3, 4]', '{}', '', 'success', '{}', '{}', '2026-01-01', '2026-01-01'"
        names = "kind, initiator, hospitals, body, document, state, n_rows, summary, created, updated"
        db.execute(sa.text(f"INSERT INTO orders ({names}) VALUES ({facts})"))
    store.migrate("0003")
    with store.begin() as db:
        db.execute(
            sa.text(
                "INSERT INTO hospitals (user_id, name, scoring) VALUES (4, 'shanxi-xbfy', 'full')"
            )
        )
    store.migrate()
    assert store.orders.get(1).score_readers is None
    assert [
        (hospital.scoring, hospital.policy) for hospital in store.hospitals.all()
    ] == [("full", None)]
    with store.begin() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []
    store.close()


def test_a_watcher_hears_of_a_round_at_once(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator)
    heard: list[str] = []
    headers = {"Authorization": f"Bearer {coordinator.tokens['user-4']}"}

    def watch() -> None:
        with coordinator.client.stream(
            "GET", f"/orders/{order_id}/events", headers=headers
        ) as stream:
            heard.extend(
                line for line in stream.iter_lines() if line.startswith("event")
            )

    thread = threading.Thread(target=watch)
    thread.start()
    record(coordinator, order_id, 0, {"gradients": TWO})
    time.sleep(0.2)
    coordinator.call("POST", f"/orders/{order_id}/cancel")
    thread.join(timeout=10)
    assert sorted(heard) == ["event: round", "event: state", "event: state"]
    assert heard[-1] == "event: state"


def test_rounds_are_listed_by_pages(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator)
    for round_ in range(5):
        record(coordinator, order_id, round_, {"gradients": TWO})
    first = coordinator.call("GET", f"/orders/{order_id}/rounds?limit=3").json()["data"]
    assert ([row["round"] for row in first["rounds"]], first["next"]) == ([4, 3, 2], 2)
    rest = coordinator.call(
        "GET", f"/orders/{order_id}/rounds?limit=3&before=2"
    ).json()["data"]
    assert ([row["round"] for row in rest["rounds"]], rest["next"]) == ([1, 0], None)


# Reading


def count_opens(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    opened: list[Path] = []
    original = safetensors.safe_open

    def counting(path: Path, **options: Any) -> Any:
        opened.append(path)
        return original(path, **options)

    monkeypatch.setattr(round_files, "safe_open", counting)
    return opened


def test_a_second_score_of_a_round_reads_nothing(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = open_order(coordinator)
    for round_ in (0, 1):
        record(coordinator, order_id, round_, {"gradients": as_json(GOLDEN + round_)})
    opened = count_opens(monkeypatch)
    for path in (
        "krum?k=2",
        "foolsgold?k=2",
        "auror?k=1",
        "sniper?p=.8",
        "pca?k=1",
        "report",
    ):
        sign = "&" if "?" in path else "?"
        assert (
            coordinator.call(
                "GET", f"/anomaly/{path}{sign}order_id={order_id}"
            ).status_code
            == 200
        )
    assert (
        len(opened) == 3
    )  # round 1 for its factor; both rounds once more for what compares them
    for metric in ("eu", "cos"):
        path = f"/contribution/grad_diff?order_id={order_id}&metric={metric}"
        assert coordinator.call("GET", path).status_code == 200
    assert len(opened) == 3


def test_many_who_ask_at_once_wait_for_one() -> None:
    kept, made = ResultCache(), []

    def make() -> Any:
        made.append(1)
        time.sleep(0.05)
        return np.ones(3)

    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(kept.get("a", make)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert all(value is found[0] for value in found)


def test_what_is_kept_is_bounded_and_an_error_is_not_kept() -> None:
    kept, made = ResultCache(most_bytes=3 * 80), []

    def make(key: int) -> Any:
        made.append(key)
        return np.ones(10)

    for key in (1, 2, 3, 1, 4, 1):
        kept.get(key, lambda key=key: make(key))  # type: ignore[misc]
    assert made == [1, 2, 3, 4]
    kept.get(2, lambda: make(2))
    assert made == [1, 2, 3, 4, 2]
    with pytest.raises(ZeroDivisionError):
        kept.get("x", lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert kept.get("x", lambda: np.ones(1))[0] == 1


@pytest.mark.parametrize("block", [1, 2, 7, 100])
def test_blocks_do_not_change_an_answer(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(round_files, "BLOCK_VALUES", block)
    monkeypatch.setattr(round_files, "PIECE_VALUES", block)
    random = np.random.default_rng(3)
    first, second = (
        random.normal(size=(5, 11)),
        random.normal(size=(4, 11)).astype(np.float32),
    )
    order_id = open_order(coordinator)
    record(
        coordinator,
        order_id,
        0,
        external_file(first, {"sizes": {str(i): i + 1 for i in range(5)}}),
    )
    record(coordinator, order_id, 1, external_file(second))
    ask = f"order_id={order_id}"
    shown = coordinator.call("GET", f"/client_grad?{ask}&round=1").json()
    assert [shown[str(i)]["dense"] for i in range(4)] == second.astype(float).tolist()
    mean = coordinator.call("GET", f"/avg_grad?{ask}&round=0").json()["dense"]
    expected = np.average(first, axis=0, weights=range(1, 6))
    np.testing.assert_allclose(mean, expected, rtol=1e-13)
    scores = coordinator.call("GET", f"/contribution/grad_diff?{ask}").json()["data"]
    drift = np.linalg.norm(second - expected, axis=1)
    np.testing.assert_allclose([scores[str(i)] for i in range(4)], drift, rtol=1e-12)


def entry_of(n: int, round_: int = 0, drawn: str = "ab") -> RoundEntry:
    now = datetime(2026, 1, 1)
    clients = list(range(n))
    return RoundEntry(
        1, round_, "sealed", clients, None, {"dense": n}, drawn * 32, "d", 1, now
    )


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_frame_is_orthogonal_fresh_and_the_same_at_every_call(n: int) -> None:
    q = frame(entry_of(n), "dense")
    np.testing.assert_allclose(q @ q.T, np.eye(n), atol=1e-13)
    assert np.array_equal(q, frame(entry_of(n), "dense"))
    if n > 1:
        others = [
            frame(entry_of(n, 1), "dense"),
            frame(entry_of(n), "conv1"),
            frame(entry_of(n, 0, "cd"), "dense"),
        ]
        assert not any(np.allclose(q, other) for other in others)


def test_frames_are_haar_distributed() -> None:
    """The first entry of a Haar matrix has mean 0 and variance 1/n; its sign is not
    fixed by the decomposition.
    """
    entries = [frame(entry_of(3, round_), "dense")[0, 0] for round_ in range(3000)]
    assert abs(np.mean(entries)) < 0.05
    assert abs(np.var(entries) - 1 / 3) < 0.03


def test_a_file_name_tells_its_content(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator)
    record(coordinator, order_id, 4, {"gradients": TWO})
    (path,) = files_of(coordinator, order_id)
    entry = coordinator.store.rounds.file(order_id, 4)
    assert entry is not None
    assert path.name == f"4-{entry.digest[:16]}.safetensors"
    assert entry.n_bytes == path.stat().st_size
    assert path.stat().st_mode & 0o077 == 0
    assert len(entry.frame) == len(hashlib.sha256().hexdigest())
