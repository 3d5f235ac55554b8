"""The analytics endpoints: the document's shapes, the golden values, every edge, and
sealed orders like open ones.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from api.routes.score_arguments import _split
from api.routes.score_request import _ranges, normalized, ranked
from tests.api.conftest import Coordinator, serve, settings_in
from tests.api.made_rounds import (
    GOLDEN,
    as_json,
    external_file,
    golden_order,
    open_file,
    open_order,
    performance,
    record,
    report_round,
    sealed_file,
    training_order,
)
from tests.api.test_bad_input import assert_refused
from tests.pairwise import quick

ROOT = Path(__file__).resolve().parents[2]
GOLDEN_SCORES: list[tuple[str, list[float]]] = [
    ("/anomaly/krum/?k=2", [1, 1.207107, 1.573132, 1.207107, 1.866025, 15.682313]),
    (
        "/anomaly/foolsgold/?k=2",
        [0.00923, 0.015802, 0.034096, 0.019031, 0.044923, 0.773227],
    ),
    (
        "/anomaly/auror/?k=1",
        [2.828427, 2.828427, 3.785939, 2.581989, 2.236068, 13.490738],
    ),
    ("/anomaly/pca/?k=1", [0.523291, 0.935632, 0.63419, 0.891979, 1.2007, 0.058923]),
    ("/anomaly/pca/?k=1.0", [0.523291, 0.935632, 0.63419, 0.891979, 1.2007, 0.058923]),
    ("/anomaly/sniper/?p=.8", [0, 0, 0, 0, 0, 1]),
    (
        "/contribution/grad_diff/",
        [0.52915, 0.938083, 1.216553, 0.938083, 1.442221, 16.188885],
    ),
    (
        "/contribution/grad_diff/?metric=eu",
        [0.52915, 0.938083, 1.216553, 0.938083, 1.442221, 16.188885],
    ),
    (
        "/contribution/grad_diff/?metric=cos",
        [0.004266, 0.006816, 0.021878, 0.011851, 0.030425, 0.863833],
    ),
    ("/contribution/perf_diff/", [-0.25, -0.15, -0.05, 0.05, 0.15, 0.25]),
    ("/contribution/perf_diff/?metric=loss", [1, 2, 3, 4, 5, 6]),
    ("/anomaly/pca/?k=5", [0, 0, 0, 0, 0, 0]),
    ("/anomaly/pca/?k=0.999999", [0, 0, 0, 0, 0, 0]),
]


def get(
    coordinator: Coordinator, path: str, who: str | None = "user-4", **params: Any
) -> Any:
    return coordinator.call("GET", path, who, params=params or None)


def scores_of(
    coordinator: Coordinator, path: str, who: str = "user-4"
) -> dict[str, Any]:
    answer = get(coordinator, path, who)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"round", "data"}
    data: dict[str, Any] = answer.json()["data"]
    return data


def of(order_id: int, path: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}order_id={order_id}"


@pytest.fixture(scope="module")
def golden(coordinator: Coordinator) -> int:
    return golden_order(coordinator)


# The document's shapes and the golden values


@pytest.mark.parametrize(("path", "expected"), GOLDEN_SCORES)
def test_golden_values(
    coordinator: Coordinator, golden: int, path: str, expected: list[float]
) -> None:
    answer = get(coordinator, of(golden, path))
    assert answer.status_code == 200, answer.text
    assert answer.json()["round"] == 1
    assert list(answer.json()["data"]) == ["0", "1", "2", "3", "4", "5"]
    np.testing.assert_allclose(
        list(answer.json()["data"].values()), expected, atol=2e-6
    )
    assert answer.headers["X-Order-Id"] == str(golden)
    assert get(coordinator, of(golden, path.replace("/?", "?"))).text == answer.text, (
        "with and without a slash"
    )
    assert get(coordinator, of(golden, path) + "&round=1").text == answer.text


def test_zeno_by_its_own_and_by_the_documents_address(
    coordinator: Coordinator, golden: int
) -> None:
    step = np.sqrt(5)
    for path in (
        "/anomaly/zeno/?p=100",
        "/anomaly/zeno?p=100",
        "/anomaly/foolsgold/?p=100",
        "/anomaly/foolsgold?p=100",
    ):
        scores = scores_of(coordinator, of(golden, path))
        np.testing.assert_allclose(
            list(scores.values()), -(1.0 - 0.25) + 100 * step, rtol=1e-12
        )
    both = scores_of(coordinator, of(golden, "/anomaly/foolsgold/?p=100&k=2"))
    assert both == scores_of(coordinator, of(golden, "/anomaly/foolsgold/?k=2"))


def test_more_neighbours_than_there_are_is_all_of_them(
    coordinator: Coordinator, golden: int
) -> None:
    for score in ("krum", "foolsgold"):
        everybody = scores_of(coordinator, of(golden, f"/anomaly/{score}?k=5"))
        assert (
            scores_of(coordinator, of(golden, f"/anomaly/{score}?k=3000000000"))
            == everybody
        )
    apart = np.linalg.norm(GOLDEN[:, None] - GOLDEN, axis=2).sum(axis=1) / 5
    np.testing.assert_allclose(
        list(scores_of(coordinator, of(golden, "/anomaly/krum?k=5")).values()), apart
    )


def test_raw_data_has_the_documents_shapes(
    coordinator: Coordinator, golden: int
) -> None:
    now = as_json(GOLDEN)
    assert get(coordinator, of(golden, "/client_grad")).json() == {
        "round": 1,
        "data": now,
    }
    assert get(coordinator, of(golden, "/client_grad/?round=1")).json() == now
    assert get(coordinator, of(golden, "/client_grad?round=0")).json() == as_json(
        GOLDEN + 1
    )
    mean = np.average(GOLDEN, axis=0, weights=range(1, 7))
    newest = get(coordinator, of(golden, "/avg_grad/")).json()
    assert newest["round"] == 1
    np.testing.assert_allclose(newest["data"]["dense"], mean, rtol=1e-14)
    assert get(coordinator, of(golden, "/avg_grad?round=0")).json() == {
        "dense": GOLDEN[:5].mean(axis=0).tolist()
    }


def test_performance_of_one_round_of_some_and_of_all(
    coordinator: Coordinator, golden: int
) -> None:
    before, now = performance(1.0), performance(0.25)
    assert get(coordinator, of(golden, "/performance")).json() == {
        "0": before,
        "1": now,
    }
    assert get(coordinator, of(golden, "/performance/?round=1")).json() == now
    assert get(coordinator, of(golden, "/performance?round=1&number=1")).json() == now
    assert get(coordinator, of(golden, "/performance?round=1&number=2")).json() == {
        "0": before,
        "1": now,
    }
    assert get(coordinator, of(golden, "/performance?round=0&number=9")).json() == {
        "0": before
    }
    assert get(coordinator, of(golden, "/performance?number=1")).json() == {"1": now}


def test_trained_clients_are_numbers_by_round(
    coordinator: Coordinator, golden: int
) -> None:
    everybody = [0, 1, 2, 3, 4, 5]
    assert get(
        coordinator, of(golden, "/trained_clients/?round=1&number=1")
    ).json() == {"1": everybody}
    assert get(coordinator, of(golden, "/trained_clients?round=1&number=5")).json() == {
        "0": everybody,
        "1": everybody,
    }


def test_the_report_has_all_scores_side_by_side(
    coordinator: Coordinator, golden: int
) -> None:
    report = get(coordinator, of(golden, "/anomaly/report/")).json()
    assert report["round"] == 1
    assert report["unavailable"] == {}
    names = {
        "krum",
        "foolsgold",
        "auror",
        "sniper",
        "pca",
        "true_krum",
        "multi_krum",
        "geometric_median",
        "zeno",
    }
    assert all(
        set(row) == {*names, "foolsgold_weight"} for row in report["data"].values()
    )
    assert report["parameters"]["n_attackers"] == 1
    assert report["parameters"]["k"] == 3
    alone = scores_of(coordinator, of(golden, "/anomaly/krum?k=3"))
    assert {
        client: row["krum"]["score"] for client, row in report["data"].items()
    } == alone
    assert report["data"]["5"]["krum"]["rank"] == 1
    assert [row["sniper"]["rank"] for row in report["data"].values()] == [
        2,
        2,
        2,
        2,
        2,
        1,
    ]
    chosen = get(
        coordinator,
        of(golden, "/anomaly/report?k=2&p=0.5&n_attackers=0&normalize=minmax"),
    ).json()
    assert chosen["parameters"]["k"] == 2
    assert {row["krum"]["score"] for row in chosen["data"].values()} >= {0.0, 1.0}


def test_a_report_says_why_a_score_is_missing(
    coordinator: Coordinator, golden: int
) -> None:
    report = get(
        coordinator, of(golden, "/anomaly/report?round=0&n_attackers=1")
    ).json()
    assert set(report["unavailable"]) == {"zeno"}
    assert "round is 0" in report["unavailable"]["zeno"]


@pytest.mark.parametrize(
    "path",
    [
        "true_krum?n_attackers=1",
        "multi_krum?n_attackers=1",
        "geometric_median",
        "foolsgold_weight",
    ],
)
def test_scores_beyond_the_document_have_its_shape(
    coordinator: Coordinator, golden: int, path: str
) -> None:
    scores = scores_of(coordinator, of(golden, f"/anomaly/{path}"))
    assert list(scores) == ["0", "1", "2", "3", "4", "5"]
    if "weight" not in path:
        assert scores["5"] == max(scores.values())


def test_minmax(coordinator: Coordinator, golden: int) -> None:
    plain = np.array(
        list(scores_of(coordinator, of(golden, "/anomaly/krum?k=2")).values())
    )
    scaled = scores_of(coordinator, of(golden, "/anomaly/krum?k=2&normalize=minmax"))
    np.testing.assert_allclose(
        list(scaled.values()), (plain - plain.min()) / np.ptp(plain), rtol=1e-12
    )
    assert set(
        scores_of(
            coordinator, of(golden, "/anomaly/pca?k=99&normalize=MinMax")
        ).values()
    ) == {0.0}
    assert normalized({1: None, 2: -1e308, 3: 1e308}) == {1: None, 2: 0.0, 3: 1.0}
    assert normalized({1: None}) == {1: None}


def test_ranks_are_shared_by_equals() -> None:
    assert ranked({1: 2.0, 2: 5.0, 3: 2.0, 4: None, 5: 1.0}) == {
        1: 2,
        2: 1,
        3: 2,
        4: None,
        5: 4,
    }
    assert _ranges([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7 to 8"


# Layers

SPELLINGS = [
    '["conv1", "conv2"]',
    '["conv1","conv2"]',
    "['conv1', 'conv2']",
    "['conv1','conv2']",
    "[conv1, conv2]",
    "conv1,conv2",
    " conv1 , conv2 ",
    ["conv1", "conv2"],
]


@pytest.fixture(scope="module")
def layered(coordinator: Coordinator) -> tuple[int, dict[str, Any]]:
    """Two rounds of three layers and four clients of different values each."""
    random = np.random.default_rng(5)
    made = {
        layer: random.normal(size=(2, 4, n))
        for layer, n in (("conv1", 3), ("conv2", 7), ("dense", 1))
    }
    order_id = open_order(coordinator)
    for round_ in (0, 1):
        gradients = {
            str(i): {layer: list(v[round_, i]) for layer, v in made.items()}
            for i in range(4)
        }
        record(coordinator, order_id, round_, {"gradients": gradients})
    return order_id, made


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
def test_layers_in_every_spelling(
    coordinator: Coordinator, layered: tuple[int, Any], spelling: Any
) -> None:
    order_id, made = layered
    joined = np.concatenate([made["conv1"][1], made["conv2"][1]], axis=1)
    apart = np.linalg.norm(joined[:, None] - joined, axis=2)
    nearest = np.sort(apart, axis=1)[:, 1:3].mean(axis=1)
    scores = get(
        coordinator, "/anomaly/krum/", order_id=order_id, k=2, layers=spelling
    ).json()["data"]
    np.testing.assert_allclose(list(scores.values()), nearest, rtol=1e-12)


@pytest.mark.parametrize(
    "query",
    [
        "layers[0]=conv2&layers[1]=conv1",
        "layers[]=conv1&layers[]=conv2",
        "layers[5]=conv1,conv2",
    ],
)
def test_layers_by_index(
    coordinator: Coordinator, layered: tuple[int, Any], query: str
) -> None:
    path = f"/anomaly/krum?order_id={layered[0]}&k=2&"
    indexed, repeated = (
        get(coordinator, path + query),
        get(coordinator, path + "layers=conv1&layers=conv2"),
    )
    np.testing.assert_allclose(
        list(indexed.json()["data"].values()),
        list(repeated.json()["data"].values()),
        rtol=1e-12,
    )


def test_raw_data_of_some_layers(
    coordinator: Coordinator, layered: tuple[int, Any]
) -> None:
    order_id, made = layered
    shown = get(coordinator, of(order_id, "/client_grad?round=1&layers=conv2")).json()
    assert shown == as_json(made["conv2"][1], "conv2")
    assert set(
        get(
            coordinator, of(order_id, "/avg_grad?round=1&layers=['conv1','dense']")
        ).json()
    ) == {
        "conv1",
        "dense",
    }
    assert set(get(coordinator, of(order_id, "/avg_grad?round=1")).json()) == {
        "conv1",
        "conv2",
        "dense",
    }
    assert_refused(
        get(coordinator, of(order_id, "/client_grad?layers=conv3")), 404, "conv3"
    )


def test_without_layers_it_is_dense_alone(
    coordinator: Coordinator, layered: tuple[int, Any]
) -> None:
    order_id, made = layered
    scores = list(
        scores_of(coordinator, of(order_id, "/contribution/grad_diff")).values()
    )
    mean = made["dense"][0].mean(axis=0)
    np.testing.assert_allclose(
        scores, np.abs(made["dense"][1] - mean)[:, 0], rtol=1e-12
    )


def test_comparisons_of_several_layers(
    coordinator: Coordinator, layered: tuple[int, Any]
) -> None:
    order_id, made = layered
    before, now = (
        np.concatenate([v[round_] for v in made.values()], axis=1) for round_ in (0, 1)
    )
    mean = before.mean(axis=0)
    path = of(order_id, "/contribution/grad_diff?layers=conv1,conv2,dense")
    eu = list(scores_of(coordinator, path).values())
    np.testing.assert_allclose(eu, np.linalg.norm(now - mean, axis=1), rtol=1e-12)
    cos = list(scores_of(coordinator, path + "&metric=COS").values())
    expected = 1 - now @ mean / np.linalg.norm(now, axis=1) / np.linalg.norm(mean)
    np.testing.assert_allclose(cos, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("dense", ["dense"]),
        ("'dense'", ["dense"]),
        ('"a"', ["a"]),
        ("[]", []),
        ("a,,b", ["a", "", "b"]),
        ("[1]", ["1"]),
    ],
)
def test_how_a_text_is_split(text: str, names: list[str]) -> None:
    assert _split(text) == names


# Edges

ASKED_WRONG: list[tuple[str, int, str]] = [
    ("/client_grad?round=7", 404, "round is 7"),
    ("/client_grad?round=-1", 422, "round is '-1'"),
    ("/client_grad?round=x", 422, "round is 'x'"),
    ("/client_grad?round=1.5", 422, "round is '1.5'"),
    ("/client_grad?round=1e30", 422, "round is '1e30'"),
    ("/client_grad?round=", 422, "round is ''"),
    ("/client_grad?rounds=1", 422, "'rounds'"),
    ("/avg_grad?round=7", 404, "rounds 0 to 1"),
    ("/performance?round=7", 404, "round is 7"),
    ("/performance?round=1&number=0", 422, "number is '0'"),
    ("/performance?number=-3", 422, "number is '-3'"),
    ("/trained_clients/?round=1", 422, "number is missing"),
    ("/trained_clients/?number=1", 422, "round is missing"),
    ("/trained_clients/?round=9&number=1", 404, "round is 9"),
    ("/anomaly/krum/", 422, "k is missing"),
    ("/anomaly/krum/?k=0", 422, "k is '0'"),
    ("/anomaly/krum/?k=-2", 422, "k is '-2'"),
    ("/anomaly/krum/?k=1.5", 422, "k is '1.5'"),
    ("/anomaly/krum/?k=nan", 422, "k is 'nan'"),
    ("/anomaly/krum/?k=inf", 422, "k is 'inf'"),
    ("/anomaly/krum/?k=two", 422, "k is 'two'"),
    ("/anomaly/krum/?k=1_0", 422, "k is '1_0'"),
    ("/anomaly/krum/?k=%00", 422, "k is '?'"),
    ("/anomaly/krum/?k=٣", 422, "k is '٣'"),
    ("/anomaly/krum/?k=" + "9" * 5000, 422, "k is '999"),
    ("/anomaly/krum/?k=2&round=2", 404, "round is 2"),
    ("/anomaly/krum/?k=2&layers=conv1", 404, "'conv1'"),
    ("/anomaly/krum/?k=2&layers=dense,conv1", 404, "It has dense"),
    ("/anomaly/krum/?k=2&layers=", 422, "layers is ''"),
    ("/anomaly/krum/?k=2&layers=[]", 422, "layers is '[]'"),
    ("/anomaly/krum/?k=2&layers=dense,dense", 422, "named once"),
    ("/anomaly/krum/?k=2&layers=dense&layers=dense", 422, "named once"),
    ("/anomaly/krum/?k=2&layers=" + "[" * 3000, 404, "layers is"),
    ("/anomaly/krum/?k=2&normalize=zscore", 422, "normalize is 'zscore'"),
    ("/anomaly/foolsgold/", 422, "k is missing"),
    ("/anomaly/foolsgold/?p=-1", 422, "p is '-1'"),
    ("/anomaly/auror/?k=7", 400, "k is 7"),
    ("/anomaly/auror/?k=0", 422, "k is '0'"),
    ("/anomaly/sniper/", 422, "p is missing"),
    ("/anomaly/sniper/?p=0", 422, "p is '0'"),
    ("/anomaly/sniper/?p=1.5", 422, "p is '1.5'"),
    ("/anomaly/sniper/?p=nan", 422, "p is 'nan'"),
    ("/anomaly/pca/?k=0", 422, "k is '0'"),
    ("/anomaly/pca/?k=1.5", 422, "k is '1.5'"),
    ("/anomaly/pca/?k=-1", 422, "k is '-1'"),
    ("/anomaly/zeno/", 422, "p is missing"),
    ("/anomaly/zeno/?p=-1", 422, "p is '-1'"),
    ("/anomaly/zeno/?p=infinity", 422, "p is 'infinity'"),
    ("/anomaly/zeno/?p=1&round=0", 400, "round is 0"),
    ("/anomaly/true_krum", 422, "n_attackers is missing"),
    ("/anomaly/true_krum?n_attackers=2", 400, "n_attackers is 2"),
    ("/anomaly/multi_krum?n_attackers=1&n_selected=7", 400, "n_selected is 7"),
    ("/anomaly/report?k=0", 422, "k is '0'"),
    ("/anomaly/report?p=0", 422, "p is '0'"),
    ("/anomaly/report?p=1.5", 422, "p is '1.5'"),
    ("/anomaly/report?n_attackers=-1", 422, "n_attackers is '-1'"),
    ("/anomaly/report?n_attackers=2", 400, "n_attackers is 2"),
    ("/contribution/grad_diff/?round=0", 400, "round is 0"),
    ("/contribution/grad_diff/?metric=l1", 422, "metric is 'l1'"),
    ("/contribution/perf_diff/?metric=eu", 422, "accuracy or loss"),
    ("/contribution/perf_diff/?round=0", 409, "leave_one_out"),
    ("/contribution/perf_diff/?round=5", 404, "round is 5"),
]


@pytest.mark.parametrize(("path", "status", "needle"), ASKED_WRONG)
def test_an_error_names_argument_value_and_what_is_allowed(
    coordinator: Coordinator, golden: int, path: str, status: int, needle: str
) -> None:
    answer = get(coordinator, of(golden, path))
    assert_refused(answer, status, needle)
    if status == 422:
        assert (
            answer.json()["data"]["error"]["detail"]["argument"].strip("'")
            in path + needle
        )


@pytest.mark.parametrize("order_id", ["0", "-1", "x", "1e30", "99999", ""])
def test_an_order_that_is_none(coordinator: Coordinator, order_id: str) -> None:
    for path in (
        "/client_grad",
        "/performance",
        "/anomaly/krum?k=1",
        "/contribution/perf_diff",
    ):
        answer = get(
            coordinator, f"{path}{'&' if '?' in path else '?'}order_id={order_id}"
        )
        assert_refused(answer, 404 if order_id == "99999" else 422, "order")


def test_one_client_alone(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator)
    for round_ in (0, 1):
        body = {
            "gradients": {"8": {"dense": [3.0, 4.0 + round_]}},
            "performance": {"train": {"8": {"loss": 2.0}}},
        }
        record(coordinator, order_id, round_, body)
    for path, score in {
        "/anomaly/krum?k=3": 0.0,
        "/anomaly/foolsgold?k=1": 0.0,
        "/anomaly/auror?k=1": 0.0,
        "/anomaly/sniper?p=1": 0.0,
        "/anomaly/pca?k=1": 0.0,
        "/anomaly/zeno?p=2": 2.0,
        "/anomaly/true_krum?n_attackers=0": 0.0,
        "/anomaly/geometric_median": 0.0,
        "/anomaly/foolsgold_weight": 0.0,
        "/contribution/grad_diff": 1.0,
    }.items():
        assert scores_of(coordinator, of(order_id, path)) == {
            "8": pytest.approx(score, abs=1e-12)
        }, path
    assert get(coordinator, of(order_id, "/anomaly/report")).status_code == 200
    assert_refused(get(coordinator, of(order_id, "/anomaly/auror?k=2")), 400, "k is 2")


def test_clients_that_come_and_go(coordinator: Coordinator) -> None:
    """Who was not in the round before has null from zeno; rounds with a gap are not
    compared.
    """
    order_id = open_order(coordinator)
    for round_, clients in ((0, (1, 2)), (1, (2, 3)), (5, (1, 3))):
        gradients = {
            str(client): {"dense": [float(client), float(round_)]} for client in clients
        }
        train = {str(client): {"loss": 1.0} for client in clients}
        record(
            coordinator,
            order_id,
            round_,
            {"gradients": gradients, "performance": {"train": train}},
        )
    path = of(order_id, "/anomaly/zeno?p=10&round=1")
    assert scores_of(coordinator, path) == {"2": 10.0, "3": None}
    assert scores_of(coordinator, path + "&normalize=minmax") == {"2": 0.0, "3": None}
    drift = scores_of(coordinator, of(order_id, "/contribution/grad_diff?round=1"))
    assert drift == pytest.approx({"2": np.hypot(0.5, 1), "3": np.hypot(1.5, 1)})
    assert_refused(
        get(coordinator, of(order_id, "/anomaly/zeno?p=10")), 400, "round is 5"
    )
    assert get(
        coordinator, of(order_id, "/trained_clients?round=5&number=5")
    ).json() == {
        "1": [2, 3],
        "5": [1, 3],
    }
    report = get(coordinator, of(order_id, "/anomaly/report?round=1")).json()["data"]
    assert report["3"]["zeno"] == {"score": None, "rank": None}


def test_what_was_not_recorded_is_a_409_with_the_remedy(
    coordinator: Coordinator,
) -> None:
    order_id = open_order(coordinator)
    for round_ in (0, 1):
        record(coordinator, order_id, round_, {"gradients": as_json(GOLDEN + round_)})
    assert get(coordinator, of(order_id, "/performance?round=1")).json() == {
        "train": {},
        "test": {},
    }
    assert_refused(
        get(coordinator, of(order_id, "/anomaly/zeno?p=1")), 409, "performance.train"
    )
    assert_refused(
        get(coordinator, of(order_id, "/contribution/perf_diff")), 409, "leave_one_out"
    )
    left_out: dict[str, Any] = {"0": {"accuracy": 0.5}}
    record(
        coordinator,
        order_id,
        2,
        {"gradients": as_json(GOLDEN), "leave_one_out": left_out},
    )
    assert_refused(
        get(coordinator, of(order_id, "/contribution/perf_diff?metric=loss")),
        409,
        "no loss",
    )
    left_out = {
        "0": {"accuracy": 0.5, "all": {"accuracy": 0.75}},
        "1": {"accuracy": None},
    }
    record(
        coordinator,
        order_id,
        3,
        {"gradients": as_json(GOLDEN), "leave_one_out": left_out},
    )
    scores = scores_of(coordinator, of(order_id, "/contribution/perf_diff"))
    assert scores == {"0": 0.25, "1": None, "2": None, "3": None, "4": None, "5": None}


def test_a_client_without_a_loss_has_no_zeno_and_the_others_have(
    coordinator: Coordinator,
) -> None:
    order_id = open_order(coordinator)
    for round_, known in ((0, "012"), (1, "02")):
        train = {client: {"loss": 1.0} for client in known}
        body = {
            "gradients": as_json(GOLDEN[:4] + round_),
            "performance": {"train": train},
        }
        record(coordinator, order_id, round_, body)
    expected = {
        "0": pytest.approx(np.sqrt(5)),
        "1": None,
        "2": pytest.approx(np.sqrt(5)),
        "3": None,
    }
    assert scores_of(coordinator, of(order_id, "/anomaly/zeno?p=1")) == expected
    report = get(coordinator, of(order_id, "/anomaly/report")).json()
    assert report["data"]["1"]["zeno"] == {"score": None, "rank": None}
    assert "zeno" not in report["unavailable"]


def test_huge_numbers_give_no_nan(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator)
    losses = {"performance": {"train": {"0": {"loss": 1e308}, "1": {"loss": -1e308}}}}
    for round_, value in ((0, 1e100), (1, -1e100)):
        record(
            coordinator,
            order_id,
            round_,
            {"gradients": as_json([[value, 0.0], [0.0, value]]), **losses},
        )
    for path in (
        "/anomaly/zeno?p=1e300",
        "/anomaly/krum?k=1",
        "/anomaly/report",
        "/contribution/grad_diff?metric=cos",
    ):
        answer = get(coordinator, of(order_id, path))
        assert answer.status_code in (200, 400), answer.text
        assert "NaN" not in answer.text
        assert "Infinity" not in answer.text
    zeros = open_order(coordinator)
    for round_ in (0, 1):
        record(coordinator, zeros, round_, {"gradients": as_json(np.zeros((3, 2)))})
    for path in (
        "/anomaly/foolsgold?k=1",
        "/contribution/grad_diff?metric=cos",
        "/anomaly/pca?k=0.5",
    ):
        assert set(scores_of(coordinator, of(zeros, path)).values()) == {0.0}


# Which order, and who may read

ALL_CALLS = [
    "/client_grad",
    "/avg_grad",
    "/anomaly/krum?k=1",
    "/anomaly/report",
    "/contribution/grad_diff?round=1",
    "/contribution/perf_diff",
]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Coordinator]:
    with serve(settings_in(tmp_path)) as running:
        yield running


def test_the_newest_order_with_recorded_rounds_is_the_default(own: Coordinator) -> None:
    for path in (*ALL_CALLS, "/performance"):
        assert_refused(get(own, path), 404, "no order with recorded rounds")
    first = golden_order(own)
    open_order(own)
    assert get(own, "/anomaly/krum?k=1").headers["X-Order-Id"] == str(first)
    second = golden_order(own)
    assert get(own, "/anomaly/krum?k=1").headers["X-Order-Id"] == str(second)
    hidden = open_order(own, "operator")
    record(own, hidden, 0, {"gradients": as_json(GOLDEN)}, "operator")
    assert get(own, "/client_grad").headers["X-Order-Id"] == str(second)
    assert get(own, "/client_grad", "operator").headers["X-Order-Id"] == str(hidden)
    assert_refused(get(own, "/client_grad", "user-3"), 404)


def test_an_order_in_cross_validation_has_no_rounds_of_its_model_yet(
    own: Coordinator,
) -> None:
    first, second = golden_order(own), training_order(own, "Paillier")
    report_round(own, second, 0, {2: 1.0, 3: 1.0, 4: 1.0}, fold=1)
    assert get(own, "/performance").headers["X-Order-Id"] == str(first)
    report_round(own, second, 0, {2: 1.0, 3: 1.0, 4: 1.0})
    assert get(own, "/performance").headers["X-Order-Id"] == str(second)


def record_training(coordinator: Coordinator, method: str, gradients: list[Any]) -> int:
    """Rounds of hospitals 2, 3 and 4 as the flow records them; (n_rounds, 3, d) of
    layer dense.
    """
    order_id = training_order(coordinator, method)
    sizes = [228, 228, 227]
    for round_, rows in enumerate(gradients):
        own = {user: {"dense": row} for user, row in zip((2, 3, 4), rows, strict=True)}
        if method == "None":
            body = open_file(own, sizes)
        else:
            body = sealed_file(
                own,
                sizes,
                {"dense": between(gradients, round_, sizes)} if round_ else None,
            )
        record(coordinator, order_id, round_, body, "coordinator")
        report_round(
            coordinator, order_id, round_, {2: 1.0 / (round_ + 1), 3: 0.5, 4: 0.25}
        )
    return order_id


def between(gradients: list[Any], round_: int, sizes: list[int]) -> Any:
    """As the hospitals compute it."""
    now, before = gradients[round_], gradients[round_ - 1]
    mean = np.average(before, axis=0, weights=sizes)
    parts = [
        np.linalg.norm(now - before, axis=1),
        np.linalg.norm(now - mean, axis=1),
        now @ mean,
    ]
    return np.stack([*parts, np.full(3, np.linalg.norm(mean))], axis=1)


def three_rounds(d: int = 5) -> list[Any]:
    random = np.random.default_rng(2)
    made = [random.normal(size=(3, d)) for _ in range(3)]
    for rows in made:
        rows[1] = rows[0]  # two hospitals hold the same table
    return made


SCORES = [
    *(f"/anomaly/krum?k={k}" for k in (1, 2)),
    "/anomaly/foolsgold?k=2",
    "/anomaly/auror?k=2",
    "/anomaly/sniper?p=.6",
    "/anomaly/pca?k=1",
    "/anomaly/zeno?p=3",
    "/anomaly/true_krum?n_attackers=0",
    "/anomaly/multi_krum?n_attackers=0",
    "/anomaly/geometric_median",
    "/anomaly/foolsgold_weight",
    "/contribution/grad_diff",
    "/contribution/grad_diff?metric=cos",
]


@pytest.mark.parametrize("d", quick([2, 5, 4000], 1))
def test_sealed_scores_are_those_of_the_open_order(
    coordinator: Coordinator, d: int
) -> None:
    gradients = three_rounds(d)
    orders = [
        record_training(coordinator, method, gradients)
        for method in ("None", "Paillier", "Mask")
    ]
    for path in SCORES:
        expected, *sealed = (
            [*scores_of(coordinator, of(order, path)).values()] for order in orders
        )
        for scores in sealed:
            np.testing.assert_allclose(
                scores, expected, atol=1e-9, rtol=1e-9, err_msg=path
            )


def test_sealed_gradients_show_lengths_and_angles_and_no_coordinate(
    coordinator: Coordinator,
) -> None:
    gradients = three_rounds()
    order_id = record_training(coordinator, "Paillier", gradients)
    answer = get(coordinator, of(order_id, "/client_grad"), "user-2")
    assert answer.headers["X-Gradient-Frame"] == "sealed"
    assert (
        answer.text == get(coordinator, of(order_id, "/client_grad"), "user-2").text
    ), "the same bytes every time"
    shown = np.array([row["dense"] for row in answer.json()["data"].values()])
    assert shown.shape == (3, 3)
    np.testing.assert_allclose(
        shown @ shown.T, gradients[-1] @ gradients[-1].T, atol=1e-12
    )
    assert abs(shown[0, 1]) > 1e-9, "not the triangular factor itself"
    mean = get(coordinator, of(order_id, "/avg_grad?round=2"))
    assert mean.headers["X-Gradient-Frame"] == "sealed"
    np.testing.assert_allclose(
        mean.json()["dense"],
        np.average(shown, axis=0, weights=[228, 228, 227]),
        atol=1e-14,
    )
    earlier = get(coordinator, of(order_id, "/client_grad?round=0")).json()
    assert set(earlier) == {"2", "3", "4"}


def test_with_method_none_a_hospital_reads_its_own_gradient(
    coordinator: Coordinator,
) -> None:
    gradients = three_rounds()
    order_id = record_training(coordinator, "None", gradients)
    everything = {
        str(user): {"dense": gradients[0][user - 2].tolist()} for user in (2, 3, 4)
    }
    for who in ("operator", "coordinator"):
        answer = get(coordinator, of(order_id, "/client_grad?round=0"), who)
        assert answer.json() == everything
        assert "X-Gradient-Frame" not in answer.headers
    for user in (2, 3, 4):
        for role in ("user", "agent"):
            shown = get(
                coordinator, of(order_id, "/client_grad?round=0"), f"{role}-{user}"
            ).json()
            assert shown == {str(user): everything[str(user)]}
    mean = get(coordinator, of(order_id, "/avg_grad?round=0"), "user-2").json()["dense"]
    np.testing.assert_allclose(
        mean, np.average(gradients[0], axis=0, weights=[228, 228, 227])
    )


@pytest.mark.parametrize(
    ("members", "weights"),
    [(None, [10, 20, 30]), ([2, 4], [10, 0, 30]), ([3], [0, 1, 0])],
)
def test_the_average_of_a_sealed_round_is_that_of_those_in_its_sum(
    coordinator: Coordinator, members: list[int] | None, weights: list[int]
) -> None:
    order_id = training_order(coordinator, "Paillier")
    own = {user: {"dense": GOLDEN[user]} for user in (2, 3, 4)}
    told = {} if members is None else {"members": members}
    record(
        coordinator, order_id, 0, sealed_file(own, [10, 20, 30], **told), "coordinator"
    )
    shown = np.array(
        [
            row["dense"]
            for row in get(coordinator, of(order_id, "/client_grad?round=0"))
            .json()
            .values()
        ]
    )
    mean = get(coordinator, of(order_id, "/avg_grad?round=0")).json()["dense"]
    np.testing.assert_allclose(
        mean, np.average(shown, axis=0, weights=weights), atol=1e-13
    )


def test_the_recorded_average_of_a_training_order_is_the_one_that_counts(
    coordinator: Coordinator,
) -> None:
    """A median, say; or the mean of those in the sum, where none was recorded."""
    for average, told in (
        ({"dense": np.median(GOLDEN[2:5], axis=0)}, {}),
        (None, {"members": [2, 4]}),
    ):
        order_id = training_order(coordinator, "None")
        own = {user: {"dense": GOLDEN[user]} for user in (2, 3, 4)}
        record(
            coordinator,
            order_id,
            0,
            open_file(own, [10, 20, 30], average, **told),
            "coordinator",
        )
        record(coordinator, order_id, 1, open_file(own, [10, 20, 30]), "coordinator")
        expected = (
            average["dense"]
            if average
            else np.average(GOLDEN[[2, 4]], axis=0, weights=[10, 30])
        )
        shown = get(coordinator, of(order_id, "/avg_grad?round=0")).json()["dense"]
        np.testing.assert_allclose(shown, expected, rtol=1e-14)
        drift = scores_of(coordinator, of(order_id, "/contribution/grad_diff?round=1"))
        apart = np.linalg.norm(GOLDEN[2:5] - expected, axis=1)
        np.testing.assert_allclose(list(drift.values()), apart, rtol=1e-12)


def test_scores_may_be_for_the_operator_only(own: Coordinator) -> None:
    order_id = record_training(own, "Paillier", three_rounds())
    told = {
        "score_readers": "operator",
        "leave_one_out": {"round": 2, "clients": {"2": {"accuracy": 0.5}}},
    }
    assert (
        own.call(
            "POST", f"/orders/{order_id}/progress", "coordinator", json=told
        ).status_code
        == 200
    )
    for path in ALL_CALLS:
        assert_refused(get(own, of(order_id, path), "user-4"), 403, "operator")
        assert_refused(get(own, path, "user-2"), 404)
        assert get(own, path, "operator").status_code in (200, 409)
    for path in ("/performance", "/trained_clients?round=2&number=1"):
        assert get(own, path, "user-2").status_code == 200
    assert (
        own.call("GET", f"/orders/{order_id}").json()["data"]["gradients"][
            "score_readers"
        ]
        == "operator"
    )
    back = own.call(
        "POST",
        f"/orders/{order_id}/progress",
        "coordinator",
        json={"score_readers": "all"},
    )
    assert_refused(back, 422)


def test_sealed_rounds_without_scalars_are_not_compared(
    coordinator: Coordinator,
) -> None:
    gradients = three_rounds()
    order_id = training_order(coordinator, "Mask")
    for round_, rows in enumerate(gradients):
        own = {user: {"dense": row} for user, row in zip((2, 3, 4), rows, strict=True)}
        record(coordinator, order_id, round_, sealed_file(own), "coordinator")
    for path in ("/anomaly/zeno?p=1", "/contribution/grad_diff"):
        assert_refused(get(coordinator, of(order_id, path)), 409, "scoring full")
    assert (
        "zeno"
        in get(coordinator, of(order_id, "/anomaly/report")).json()["unavailable"]
    )


def test_performance_of_a_training_order(coordinator: Coordinator) -> None:
    order_id = training_order(coordinator, "Paillier")
    hospitals = {
        str(user): {"n_rows": 100 * user, "train": {"loss": 0.5, "mse": 0.25}}
        for user in (2, 3, 4)
    }
    tested = {
        user: {**own, "test": {"loss": 1.0, "accuracy": 0.5}}
        for user, own in hospitals.items()
        if user != "3"
    }
    for round_, own, final in (
        (0, hospitals, False),
        (1, {**hospitals, **tested}, True),
    ):
        report_round(coordinator, order_id, round_, {}, hospitals=own, final=final)
    first = get(coordinator, of(order_id, "/performance?round=0"), "user-2").json()
    assert first == {
        "train": {user: {"accuracy": None, "loss": 0.5} for user in "234"},
        "test": {},
    }
    last = get(coordinator, of(order_id, "/performance")).json()["1"]
    assert last["test"] == {user: {"accuracy": 0.5, "loss": 1.0} for user in "24"}
    trained = get(coordinator, of(order_id, "/trained_clients?round=1&number=2")).json()
    assert trained == {"0": [2, 3, 4], "1": []}
    assert_refused(
        get(coordinator, of(order_id, "/contribution/perf_diff")),
        409,
        "test rows",
        "scoring full",
        "before the last",
    )
    assert_refused(
        get(coordinator, of(order_id, "/anomaly/krum?k=1")),
        404,
        "no gradients of that order",
    )
    clients = {
        "2": {"accuracy": 0.25, "all": {"accuracy": 0.5}},
        "4": {"accuracy": float("1e999"), "loss": 3.0},
    }
    told = json.dumps({"leave_one_out": {"round": 1, "clients": clients}}).replace(
        "Infinity", '"high"'
    )
    headers = {"Content-Type": "application/json"}
    path = f"/orders/{order_id}/progress"
    assert (
        coordinator.call(
            "POST", path, "coordinator", content=told, headers=headers
        ).status_code
        == 200
    )
    answer = get(coordinator, of(order_id, "/contribution/perf_diff"))
    assert answer.json() == {"round": 1, "data": {"2": 0.25, "3": None, "4": None}}
    assert answer.headers["X-Self-Reported"] == "true"
    assert (
        get(coordinator, of(order_id, "/contribution/perf_diff?metric=loss")).json()[
            "data"
        ]["4"]
        == 2.0
    )


def test_inference_orders_have_no_rounds(coordinator: Coordinator) -> None:
    order_id, _ = coordinator.store.orders.add(
        kind="infer", initiator=4, hospital_ids=[4], body={}
    )
    assert_refused(get(coordinator, of(order_id, "/anomaly/krum?k=1")), 404)
    answer = coordinator.call(
        "PUT",
        f"/orders/{order_id}/rounds/0",
        json={"gradients": {"0": {"dense": [1.0]}}},
    )
    assert_refused(answer, 404)


# The worked example


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_worked_example_runs_and_sees_its_attacker(
    own: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load(ROOT / "docs" / "examples" / "external_rounds.py")
    own.client.headers["Authorization"] = f"Bearer {own.tokens['user-4']}"
    scores = example.main(own.client)
    assert set(scores) == set(example.SCORES)
    for path in (
        "/anomaly/krum/",
        "/anomaly/foolsgold/",
        "/anomaly/geometric_median/",
        "/anomaly/true_krum/",
    ):
        assert max(scores[path], key=scores[path].get) == str(example.ATTACKER)
    assert min(scores["/contribution/perf_diff/"].items(), key=lambda item: item[1])[
        0
    ] == str(example.ATTACKER)
    assert "/anomaly/krum/" in capsys.readouterr().out


def test_float32_and_float64_side_by_side(coordinator: Coordinator) -> None:
    order_id = open_order(coordinator)
    single = GOLDEN.astype(np.float32)
    rows = [row if client % 2 else single[client] for client, row in enumerate(GOLDEN)]
    record(coordinator, order_id, 0, external_file(rows))
    scores = list(scores_of(coordinator, of(order_id, "/anomaly/krum?k=2")).values())
    np.testing.assert_allclose(scores, GOLDEN_SCORES[0][1], atol=1e-6)
