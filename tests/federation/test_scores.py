"""Scores of real orders over REST: sealed as in the open, for those whom the hospitals'
policies let read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deployments.demo.training import document_order
from tests.conftest import RunningFederation

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

TESTS = {str(user): "SELECT * FROM data.breast_homo_test" for user in (2, 3, 4)}
SCORES = [
    ("/anomaly/krum/", {"k": 1}),
    ("/anomaly/foolsgold/", {"k": 1}),
    ("/anomaly/foolsgold/", {"p": 100}),
    ("/anomaly/zeno/", {"p": 100}),
    ("/anomaly/auror/", {"k": 2}),
    ("/anomaly/sniper/", {"p": 0.6}),
    ("/anomaly/pca/", {"k": 1}),
    ("/contribution/grad_diff/", {}),
    ("/contribution/grad_diff/", {"metric": "cos"}),
]


def ordered(federation: RunningFederation, method: str, **changes: Any) -> int:
    body = {**document_order(), **changes}
    params = {
        **body["model_params"],
        "max_iter": 4,
        "eps": 0,
        "encrypt_param": {"method": method},
    }
    params["init_param"] = {
        "init_method": "const",
        "init_const": 0.05,
    }  # other gradients than those kept secret elsewhere
    order_id = federation.submit({**body, "model_params": params})
    ended = federation.wait_for(order_id)
    assert ended["state"] == "success", ended["refusal"]
    return order_id


@pytest.fixture(scope="module")
def sealed(federation: RunningFederation) -> int:
    """The document's order: it says nothing of scores, and all policies allow them."""
    return ordered(federation, "Paillier")


@pytest.fixture(scope="module")
def tested(federation: RunningFederation) -> int:
    return ordered(federation, "Mask", test_data_info=TESTS)


@pytest.fixture(scope="module")
def opened(federation: RunningFederation) -> int:
    return ordered(federation, "None", test_data_info=TESTS)


def get(
    federation: RunningFederation,
    path: str,
    order_id: int,
    who: str | int = 4,
    **query: Any,
) -> Any:
    with federation.client(who) as client:
        answer = client.get(path, params={"order_id": order_id, **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(("path", "query"), SCORES)
@pytest.mark.parametrize("round_", [1, 3])
def test_sealed_scores_are_those_of_open_gradients(
    federation: RunningFederation,
    sealed: int,
    opened: int,
    path: str,
    query: dict[str, Any],
    round_: int,
) -> None:
    """Hospitals 2 and 3 hold the same table, as in the document."""
    found, expected = (
        get(federation, path, order, round=round_, **query)
        for order in (sealed, opened)
    )
    assert found["round"] == expected["round"] == round_
    assert list(found["data"]) == ["2", "3", "4"]
    for user, score in expected["data"].items():
        assert found["data"][user] == pytest.approx(score, abs=1e-9)


def test_a_sealed_frame_shows_geometry_and_no_coordinate(
    federation: RunningFederation, sealed: int, opened: int
) -> None:
    with federation.client(4) as client:
        answer = client.get("/client_grad", params={"order_id": sealed, "round": 2})
    assert answer.headers["X-Gradient-Frame"] == "sealed"
    told = np.array([answer.json()[user]["dense"] for user in ("2", "3", "4")])
    clear = get(federation, "/client_grad", opened, "operator", round=2)
    gradients = np.array([clear[user]["dense"] for user in ("2", "3", "4")])
    np.testing.assert_allclose(told @ told.T, gradients @ gradients.T, atol=1e-10)
    assert told.shape == (3, 3)
    assert not np.isclose(
        np.abs(told[:, :, None]), np.abs(gradients[:, None, :]), rtol=1e-6
    ).any()


def test_an_open_order_shows_a_hospital_its_own_gradient_only(
    federation: RunningFederation, opened: int
) -> None:
    everybody, own = (
        get(federation, "/client_grad", opened, who, round=0) for who in ("operator", 4)
    )
    assert sorted(everybody) == ["2", "3", "4"]
    assert own == {"4": everybody["4"]}
    average = get(federation, "/avg_grad", opened, "operator", round=0)["dense"]
    rows = np.array([everybody[user]["dense"] for user in ("2", "3", "4")])
    np.testing.assert_allclose(
        average, np.average(rows, axis=0, weights=[228, 228, 227]), atol=1e-12
    )


def test_rounds_clients_and_performance(
    federation: RunningFederation, tested: int
) -> None:
    clients = get(federation, "/trained_clients/", tested, round=3, number=2)
    assert clients == {"2": [2, 3, 4], "3": [2, 3, 4]}
    rounds = get(federation, "/performance", tested)
    assert list(rounds) == ["0", "1", "2", "3", "4"]
    shown = {str(r["round"]): r for r in federation.order(tested)["rounds"]}
    for number, performance in rounds.items():
        for part in ("train", "test"):
            assert sorted(performance[part]) == ["2", "3", "4"]
            for user, metrics in performance[part].items():
                own = shown[number]["hospitals"][user][part]
                assert metrics == {"accuracy": own["accuracy"], "loss": own["loss"]}


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_performance_without_each_hospital(
    federation: RunningFederation, tested: int, opened: int, metric: str
) -> None:
    """The same test rows at every hospital, so its own word in a sealed order is what
    all rows say in an open one.
    """
    with federation.client(4) as client:
        answers = [
            client.get(
                "/contribution/perf_diff/",
                params={"order_id": order, "metric": metric, "round": 2},
            )
            for order in (tested, opened)
        ]
    own, all_rows = (answer.json()["data"] for answer in answers)
    assert answers[0].headers["X-Self-Reported"] == "true"
    assert own == pytest.approx(all_rows, abs=2e-6)
    assert metric == "accuracy" or any(abs(value) > 1e-4 for value in own.values())


def test_without_test_rows_there_is_no_performance_to_compare(
    federation: RunningFederation, sealed: int
) -> None:
    with federation.client(4) as client:
        answer = client.get("/contribution/perf_diff/", params={"order_id": sealed})
    assert answer.status_code == 409
    assert "test_data_info" in answer.json()["message"]
    assert get(federation, "/performance", sealed, round=0)["test"] == {}


def test_an_order_says_how_it_is_scored(
    federation: RunningFederation, sealed: int
) -> None:
    order = federation.order(sealed)
    assert order["gradients"]["frame"] == "sealed"
    assert order["gradients"]["layers"] == {"dense": 3} or order["gradients"][
        "layers"
    ] == {"dense": 5}
    assert "angles" in order["protection"]["scoring"]


def test_a_rerun_is_scored_alike(federation: RunningFederation, sealed: int) -> None:
    with federation.client(4) as client:
        again = client.post(f"/orders/{sealed}/rerun").json()["data"]["order_id"]
    assert federation.wait_for(again)["state"] == "success"
    found, expected = (
        get(federation, "/anomaly/krum/", order, k=1) for order in (again, sealed)
    )
    assert found["data"] == pytest.approx(expected["data"], abs=1e-9)


def test_an_order_that_wants_no_scores_has_none(federation: RunningFederation) -> None:
    order_id = ordered(federation, "Mask", scoring="none")
    with federation.client(4) as client:
        answer = client.get("/anomaly/krum/", params={"order_id": order_id, "k": 1})
    assert answer.status_code in (404, 409)
    assert "scoring" in answer.json()["message"]


def test_minimum_diameter_over_the_real_exchange_needs_a_policy_that_lets_two_be_summed(
    federation: RunningFederation,
) -> None:
    with federation.client(4) as client:
        answer = client.post(
            "/model/train", json={**document_order(), "aggregation": "minimum_diameter"}
        )
    assert answer.status_code == 403
    assert "minimum of 3" in answer.json()["message"]
