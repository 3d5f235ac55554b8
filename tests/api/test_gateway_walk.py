"""A random walk over the whole of Prefect's API, from the place of one hospital's agent:
nothing of another hospital is read or changed, and nothing ends as an error of ours.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from tests.api.conftest import Behind

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(600)]

N_REQUESTS = 2_000
METHODS = ("get", "post", "put", "patch", "delete")
OWN, OTHER = 2, 3
MOST_DEPTH = 4
TEXTS = ("", "x", "hospital-2", "hospital-3", "default", "*", "../hospital-3", "{}")
OF_A_RUN = ("id", "name", "tags", "parameters", "deployment_id", "state_type")
"""Not its state's name: Prefect itself calls a run late that nobody takes up."""
A_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Operation:
    """One of Prefect's, by its own description."""

    method: str
    path: str
    query: tuple[str, ...]
    body: dict[str, Any] | None


@dataclass(frozen=True)
class Known:
    """What the walk puts into addresses and bodies: ids of everything that both
    hospitals have at Prefect, and what of it is the other's alone.
    """

    ids: tuple[str, ...]
    others: frozenset[str]
    # Of flows and queues of which each hospital has some, the words that name its own.
    words: frozenset[str]


@pytest.fixture(scope="module")
def operations() -> tuple[list[Operation], dict[str, Any]]:
    """Of the whole of Prefect, with the routers that its server here goes without."""
    from prefect.server.api.server import create_api_app

    description = create_api_app().openapi()
    found = []
    for path, methods in sorted(description["paths"].items()):
        for method in METHODS:
            if method in methods:
                found.append(_operation(method, path, methods[method]))
    return found, description["components"]["schemas"]


def _operation(method: str, path: str, described: dict[str, Any]) -> Operation:
    parameters = described.get("parameters", [])
    query = [one["name"] for one in parameters if one["in"] == "query"]
    content = described.get("requestBody", {}).get("content", {})
    body = content.get("application/json", {}).get("schema")
    return Operation(method.upper(), path.removeprefix("/api"), tuple(query), body)


class Walk:
    """Requests drawn from a description, the same ones for the same seed."""

    def __init__(self, seed: int, schemas: dict[str, Any], known: Known) -> None:
        self._random = random.Random(seed)
        self._schemas = schemas
        self._known = known

    def address(self, operation: Operation) -> str:
        def part(found: re.Match[str]) -> str:
            name = found[1]
            if name.endswith("id") or name == "id":
                return self._random.choice(self._known.ids)
            return self._random.choice(TEXTS[1:5])

        path = re.sub(r"\{([^}:]+)[^}]*\}", part, operation.path)
        if operation.query and self._random.random() < 0.3:
            name = self._random.choice(operation.query)
            path += f"?{name}={self._random.choice(self._known.ids)}"
        return path

    def body(self, operation: Operation) -> Any:
        if operation.body is None or self._random.random() < 0.05:
            return None
        return self._value(operation.body, MOST_DEPTH)

    def _value(self, schema: dict[str, Any], depth: int) -> Any:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return self._value(self._schemas[name], depth)
        for choice in ("anyOf", "oneOf", "allOf"):
            if schema.get(choice):
                return self._value(self._random.choice(schema[choice]), depth)
        if "enum" in schema:
            return self._random.choice(schema["enum"])
        kind = schema.get("type")
        if kind == "object" or "properties" in schema:
            return self._object(schema, depth)
        if kind == "array":
            items = schema.get("items", {})
            n_items = self._random.randrange(3) if depth else 0
            return [self._value(items, depth - 1) for _ in range(n_items)]
        if kind == "string":
            return self._text(schema.get("format"))
        if kind == "boolean":
            return self._random.random() < 0.5
        if kind in ("integer", "number"):
            return self._random.choice((0, 1, 3, 200, 10**6, -1))
        return None

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        required = schema.get("required", [])
        made = {}
        for name, of_field in schema.get("properties", {}).items():
            is_wanted = name in required or self._random.random() < 0.4
            if is_wanted and (depth or name in required):
                made[name] = self._value(of_field, max(depth - 1, 0))
        return made

    def _text(self, form: str | None) -> str:
        if form == "uuid":
            return self._random.choice(self._known.ids)
        if form == "date-time":
            return "2026-01-01T00:00:00Z"
        return self._random.choice((*TEXTS, *self._known.ids))


@pytest.fixture(scope="module")
def known(behind: Behind) -> Known:
    own, others, words = set(), set(), set()
    for hospital, ids in ((OWN, own), (OTHER, others)):
        run = behind.prefect.make_run(hospital, 900 + hospital)
        with behind.prefect.client as client:
            pool = client.get(f"/work_pools/hospital-{hospital}").json()
            deployment = client.get(f"/deployments/{run['deployment_id']}").json()
        ids |= {run["id"], run["state_id"], pool["id"], pool["default_queue_id"]}
        ids |= {deployment["id"], run["work_queue_id"]}
        if hospital == OTHER:
            words = {run["name"], *run["tags"]} - {"hospital"}
    shared = {run["flow_id"]}
    ids_of_all = sorted(own | others | shared)
    return Known(tuple(ids_of_all), frozenset(others - own), frozenset(words))


def _record(behind: Behind) -> Iterator[tuple[str, Any]]:
    """What Prefect holds, but for what a hospital's own agent may change."""
    everything = (
        ("/deployments/filter", {}),
        ("/flows/filter", {}),
        ("/work_pools/filter", {}),
        ("/variables/filter", {}),
        ("/artifacts/filter", {}),
        ("/logs/filter", {}),
        ("/task_runs/filter", {}),
        ("/concurrency_limits/filter", {"limit": 200, "offset": 0}),
    )
    with behind.prefect.client as client:
        for path, asked in everything:
            answer = client.post(path, json=asked).raise_for_status()
            yield path, [_lasting(found) for found in answer.json()]
        wanted = {"work_pools": {"name": {"any_": [f"hospital-{OTHER}"]}}}
        runs = client.post("/flow_runs/filter", json=wanted).raise_for_status().json()
        yield "runs of the other", [{key: run[key] for key in OF_A_RUN} for run in runs]


def _lasting(found: dict[str, Any]) -> dict[str, Any]:
    """Without what the passing of time changes."""
    passing = ("estimated", "updated", "status", "last_polled", "lateness", "slots")
    return {key: found[key] for key in found if not key.startswith(passing)}


def test_a_walk_over_all_of_prefect_reads_and_changes_nothing_of_another(
    behind: Behind,
    operations: tuple[list[Operation], dict[str, Any]],
    known: Known,
) -> None:
    every, schemas = operations
    assert len(every) > 150, "Prefect's whole description"
    walk = Walk(20_261_127, schemas, known)
    chosen = random.Random(7)
    before = dict(_record(behind))
    answered: dict[int, int] = {}
    for _ in range(N_REQUESTS):
        operation = chosen.choice(every)
        path, body = walk.address(operation), walk.body(operation)
        answer = behind.ask(operation.method, path, json=body)
        where = f"{operation.method} {path}: {answer.status_code}"
        assert answer.status_code < 500, where
        answered[answer.status_code] = answered.get(answer.status_code, 0) + 1
        told = answer.text
        assert not set(A_UUID.findall(told)) & known.others, where
        assert not any(word in told for word in known.words), where
    assert answered.get(200, 0) > 20, f"some of the own is answered: {answered}"
    assert dict(_record(behind)) == before


def test_the_walk_would_find_what_the_shared_string_told(
    behind: Behind, known: Known
) -> None:
    """The same search in what Prefect itself answers to who has its string."""
    with behind.prefect.client as client:
        told = client.post("/flow_runs/filter", json={}).raise_for_status().text
    assert set(A_UUID.findall(told)) & known.others
    assert any(word in told for word in known.words)
    assert all(UUID(one) for one in known.ids)
