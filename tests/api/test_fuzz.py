"""Whatever the OpenAPI description allows, and what it does not: no answer is a fault
of ours.

The calls come from the description itself (schemathesis), as each role, against orders
that have open and sealed rounds. An answer that is no error of ours has the status and
the JSON that a client can use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings

from api.app import create_app
from api.settings import load_settings
from tests.api.conftest import Coordinator, serve, settings_in
from tests.api.made_rounds import golden_order, open_order
from tests.api.test_analytics import record_training, three_rounds
from tests.api.test_schedules import added
from tests.api.test_statistics import asked

N_EXAMPLES = 4
STREAM = "/orders/{order_id}/events"  # ends with its order
DESCRIPTION = create_app(load_settings()).openapi()
DESCRIBED = {
    f"{method.upper()} {path}": operation
    for path, methods in DESCRIPTION["paths"].items()
    for method, operation in methods.items()
}


@pytest.fixture(scope="module")
def operations() -> dict[str, Any]:
    """What schemathesis calls; imported here, for it takes a second that no other test
    has to wait for.
    """
    import schemathesis
    from schemathesis.core.result import Ok

    found = (
        schemathesis.openapi.from_dict(DESCRIPTION)
        .exclude(path=STREAM)
        .get_all_operations()
    )
    return {
        operation.ok().label: operation.ok()
        for operation in found
        if isinstance(operation, Ok)
    }


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """Orders 1 to 4 have golden, sealed, open and no rounds, order 5 is of statistics;
    there are two schedules.
    """
    with serve(
        settings_in(tmp_path_factory.mktemp("home"), calls_per_second=1e6)
    ) as running:
        golden_order(running)
        record_training(running, "Paillier", three_rounds())
        record_training(running, "None", three_rounds())
        open_order(running)
        assert asked(running) == 5
        assert [added(running), added(running)] == [1, 2]
        yield running


def test_every_operation_is_fuzzed(operations: dict[str, Any]) -> None:
    assert set(DESCRIBED) - set(operations) == {f"GET {STREAM}"}


def takes_arguments(operation: dict[str, Any]) -> bool:
    places = {parameter["in"] for parameter in operation.get("parameters", [])}
    return "requestBody" in operation or not places.isdisjoint({"query", "path"})


# First who may do nearly everything; of most others most calls end at the door.
ROLES = [
    pytest.param("user-4", id="user"),
    pytest.param("operator", id="operator", marks=pytest.mark.thorough),
    pytest.param("agent-4", id="agent", marks=pytest.mark.thorough),
    pytest.param("coordinator", id="coordinator", marks=pytest.mark.thorough),
    pytest.param("user-2", id="another-user", marks=pytest.mark.thorough),
    pytest.param("agent-5", id="another-agent", marks=pytest.mark.thorough),
    pytest.param(None, id="nobody", marks=pytest.mark.thorough),
]

# What takes no argument cannot be called wrongly.
CALLS = [
    pytest.param(label, mode, id=f"{mode}-{label}")
    for label, operation in DESCRIBED.items()
    for mode in ("positive", "negative")
    if label != f"GET {STREAM}" and (mode == "positive" or takes_arguments(operation))
]


@pytest.mark.slow
@pytest.mark.parametrize("who", ROLES)
@pytest.mark.parametrize(("label", "mode"), CALLS)
def test_no_call_is_a_fault_of_ours(
    fuzzed: Coordinator,
    operations: dict[str, Any],
    label: str,
    mode: str,
    who: str | None,
) -> None:
    from schemathesis.generation import GenerationMode

    strategy = operations[label].as_strategy(generation_mode=GenerationMode(mode))
    with requests.Session() as session:
        session.trust_env = False

        @given(case=strategy)
        @settings(
            max_examples=N_EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        def call(case: Any) -> None:
            if mode == "positive":
                aim(case)
            headers = {}
            if who is not None:
                headers["Authorization"] = f"Bearer {fuzzed.tokens[who]}"
            answer = case.call(
                base_url=str(fuzzed.client.base_url),
                headers=headers,
                session=session,
                timeout=120,  # a busy machine is no fault of ours either
            )
            assert answer.status_code < 500 or is_no_prefect(label, answer), (
                case.as_curl_command(),
                answer.text,
            )
            assert_strict_json(answer)

        call()


def aim(case: Any) -> None:
    """Orders, rounds and layers that are there, as far as they are named at all: a
    random one would not be found. Nobody waits.
    """
    for place in (case.query, case.path_parameters):
        for name, n in (("order_id", 6), ("schedule_id", 2), ("round", 3)):
            if str((place or {}).get(name)).isdecimal():
                place[name] = int(place[name]) % n + (name != "round")
    if "wait" in (case.query or {}):
        case.query["wait"] = 0
    if "layers" in (case.query or {}):
        case.query["layers"] = ["dense"]


def is_no_prefect(label: str, answer: Any) -> bool:
    """/health says that no deployment is there: it is so in these tests."""
    return label == "GET /health" and answer.status_code == 503


def assert_strict_json(answer: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {answer.url}: {answer.text[:300]}")

    value = json.loads(answer.content, parse_constant=refuse)
    if answer.status_code >= 400 and set(value) == {"status", "result", "msg"}:
        assert value["status"] == answer.status_code
        assert value["msg"]
    elif answer.status_code >= 400:
        assert set(value) == {"code", "data", "message"}, answer.text
        assert value["code"] == answer.status_code
        assert value["message"]
