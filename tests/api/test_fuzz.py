"""Whatever the OpenAPI description allows, and what it does not: no answer is a fault of ours.

The calls come from the description itself (schemathesis), with a token that may do nearly everything, against orders
that have open and sealed rounds. An answer that is no error of ours has the status and the JSON that a client can use.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

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
OPERATIONS = {
    found.ok().label: found.ok()
    for found in schemathesis.openapi.from_dict(DESCRIPTION).exclude(path=STREAM).get_all_operations()
    if isinstance(found, Ok)
}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """Orders 1 to 4 have golden, sealed, open and no rounds, order 5 is of statistics; there are two schedules."""
    with serve(settings_in(tmp_path_factory.mktemp("home"), calls_per_second=1e6)) as running:
        golden_order(running)
        record_training(running, "Paillier", three_rounds())
        record_training(running, "None", three_rounds())
        open_order(running)
        assert asked(running) == 5
        assert [added(running), added(running)] == [1, 2]
        yield running


def test_every_operation_is_fuzzed() -> None:
    described = {
        f"{method.upper()} {path}" for path, methods in DESCRIPTION["paths"].items() for method in methods
    }
    assert described - set(OPERATIONS) == {f"GET {STREAM}"}


# What takes no argument cannot be called wrongly.
CALLS = [
    pytest.param(label, mode, id=f"{mode.value}-{label}")
    for label, operation in OPERATIONS.items()
    for mode in GenerationMode
    if mode == GenerationMode.POSITIVE or operation.query or operation.path_parameters or operation.body
]


@pytest.mark.slow
@pytest.mark.parametrize(("label", "mode"), CALLS)
def test_no_call_is_a_fault_of_ours(fuzzed: Coordinator, label: str, mode: GenerationMode) -> None:
    with requests.Session() as session:
        session.trust_env = False

        @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
        @settings(
            max_examples=N_EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        def call(case: Any) -> None:
            if mode == GenerationMode.POSITIVE:
                aim(case)
            for who in ("user-4", "operator"):
                bearer = {"Authorization": f"Bearer {fuzzed.tokens[who]}"}
                answer = case.call(base_url=str(fuzzed.client.base_url), headers=bearer, session=session)
                assert answer.status_code < 500 or is_no_prefect(label, answer), (
                    case.as_curl_command(),
                    answer.text,
                )
                assert_strict_json(answer)

        call()


def aim(case: Any) -> None:
    """Orders, rounds and layers that are there, as far as they are named at all: a random one would not be found.
    Nobody waits."""
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
