"""Beside the document: rerun, events, several orders at once, and the other models,
over a real federation.
"""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from deployments.demo.breast_cancer import breast_cancer_tables
from deployments.demo.training import document_order
from tests.conftest import RunningFederation

pytestmark = pytest.mark.slow


def order_of(**changes: Any) -> dict[str, Any]:
    """The document's order by method Mask, with other parameters."""
    body = document_order(method="Mask", rounds=3)
    params = changes.pop("model_params", {})
    return {**body, **changes, "model_params": {**body["model_params"], **params}}


@pytest.fixture(scope="module")
def ended(federation: RunningFederation) -> dict[str, Any]:
    """One order that has succeeded, of which several tests read what was told."""
    order = federation.wait_for(federation.submit(order_of()))
    assert order["state"] == "success", order["refusal"]
    return order


@pytest.mark.thorough
def test_several_orders_at_once(federation: RunningFederation) -> None:
    bodies = [
        order_of(),
        order_of(model_params={"optimizer": "adam"}),
        document_order(rounds=3),
    ]
    with ThreadPoolExecutor(3) as pool:
        numbers = list(pool.map(federation.submit, bodies))
        orders = list(pool.map(federation.wait_for, numbers))
    assert len(set(numbers)) == 3
    assert [order["state"] for order in orders] == ["success"] * 3


@pytest.mark.thorough
def test_a_study_with_derived_columns_and_means(federation: RunningFederation) -> None:
    """Levels need codes, which these tables have not; all else of a study."""
    body = order_of(
        attributes=["x1", "half", "x2_ns"],
        derive={
            "half": "case when x3 > 0 then x3 / 2 end",
            "x2_ns": "ns(x2, -2, 0, 2)",
        },
        missing="mean",
        model_params={"standardize": True},
    )
    order_id = federation.submit(body)
    order = federation.wait_for(order_id)
    assert order["state"] == "success", order["refusal"]
    told = order["summary"]["rows"]
    assert (told["selected"], told["left_out"], told["used"]) == (683, 0, 683)
    exported = federation.agent("zhejiang-zdey", "export", "--model", str(order_id))
    model = json.loads(exported.stdout)
    assert model["features"] == ["x1", "half", "x2_ns[1]", "x2_ns[2]"]
    with federation.client(4) as client:
        info = client.get("/model/info", params={"model_id": order_id}).json()["data"]
        sql = "SELECT id, x1, x2, x3 FROM data.breast_homo_guest WHERE id < 20"
        asked = {"model_id": order_id, "input_data": {"user_id": 4, "data_sql": sql}}
        answer = client.post("/model/infer", json=asked).json()["data"]
    assert info["model_params"]["derive"] == body["derive"]
    assert info["model_params"]["missing"] == "mean"
    assert all(0 < entry["label"] < 1 for entry in answer["result"])


@pytest.mark.thorough
def test_rerun_makes_a_new_order_of_the_same_request(
    federation: RunningFederation, ended: dict[str, Any]
) -> None:
    first = ended["order_id"]
    with federation.client(4) as client:
        answer = client.post(f"/orders/{first}/rerun").json()
    again = answer["data"]["order_id"]
    assert answer["data"] == {
        "data_volum": {"2": 228, "3": 228, "4": 227},
        "model_id": again,
        "order_id": again,
    }
    assert again != first
    assert federation.wait_for(again)["rerun_of"] == first
    exported = [
        json.loads(
            federation.agent("zhejiang-zdey", "export", "--model", str(n)).stdout
        )
        for n in (first, again)
    ]
    assert exported[0]["dense"] == exported[1]["dense"]


@pytest.mark.thorough
def test_a_model_is_evaluated_on_rows_of_all_hospitals(
    federation: RunningFederation, ended: dict[str, Any]
) -> None:
    model_id = ended["order_id"]
    tables = {"4": "guest", "2": "host", "3": "host"}
    body = {
        "user_id": 4,
        "party_id": [2, 3],
        "model_id": model_id,
        "data_info": {
            user: f"SELECT * FROM data.breast_homo_{table}"
            for user, table in tables.items()
        },
    }
    with federation.client(4) as client:
        answer = client.post("/model/evaluate", json=body).json()
    assert answer["code"] == 200, answer
    assert answer["data"]["data_volum"] == {"2": 228, "3": 228, "4": 227}
    order_id = answer["data"]["order_id"]
    order = federation.wait_for(order_id)
    assert order["state"] == "success", order["refusal"]
    assert (order["kind"], order["progress"]) == ("evaluate", {"done": 1, "of": 1})
    told = order["summary"]["evaluation"]
    assert (told["model_id"], told["n_rows"]) == (model_id, 683)
    # The same rows as in training, so the same counts.
    assert told["metrics"]["auc"] == pytest.approx(ended["summary"]["0"]["auc"], 1e-5)
    printed = federation.agent("zhejiang-zdey", "report", "--evaluation", str(order_id))
    kept = json.loads(printed.stdout)
    assert kept["report"]["metrics"]["auc"] == told["metrics"]["auc"]
    assert "counts" not in kept
    table = federation.agent(
        "zhejiang-zdey", "report", "--evaluation", str(order_id), "--format", "csv"
    )
    assert "calibration,1,observed," in table.stdout


def test_events_tell_state_round_and_loss_from_the_beginning(
    federation: RunningFederation, ended: dict[str, Any]
) -> None:
    order_id = ended["order_id"]
    events: list[tuple[str, dict[str, Any]]] = []
    with (
        federation.client(2) as client,
        client.stream("GET", f"/orders/{order_id}/events") as stream,
    ):
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                events.append((name, json.loads(line.removeprefix("data: "))))
    rounds = [data for name, data in events if name == "round"]
    assert [data["round"] for data in rounds] == [0, 1, 2, 3]
    assert all(data["loss"] > 0 for data in rounds)
    assert events[-1] == ("state", {"order_id": order_id, "state": "success"})


def test_the_timeline_says_which_part_ran_where_and_when(
    federation: RunningFederation, ended: dict[str, Any]
) -> None:
    order_id, order = ended["order_id"], ended

    def parts(**asked: int) -> list[dict[str, Any]]:
        with federation.client(3) as client:
            return list(
                client.get(f"/orders/{order_id}/timeline", params=asked).json()["data"][
                    "parts"
                ]
            )

    def recorded() -> bool:
        """Prefect writes in batches, a moment after."""
        known = {(one["what"], one["user_id"]) for one in parts() if one["ended"]}
        return known >= {
            ("models saved", None),
            *(("save model", user) for user in (2, 3, 4)),
        }

    deadline = time.monotonic() + 60
    while not recorded():
        assert time.monotonic() < deadline, parts()
        time.sleep(0.1)
    around, second = parts(), parts(round=1)
    assert {(one["what"], one["user_id"]) for one in second} == {
        *(("local training", user) for user in (2, 3, 4)),
        ("aggregation", None),
    }
    assert {("acceptances", None), ("data SQL extraction", 2)} <= {
        (one["what"], one["user_id"]) for one in around
    }
    assert all(
        order["created"] < one["began"] <= one["ended"] for one in [*around, *second]
    )
    assert [one["began"] for one in around] == sorted(one["began"] for one in around)
    assert {one["state"] for one in [*around, *second]} == {"success"}
    with federation.client(3) as client:
        assert (
            client.get(f"/orders/{order_id}/timeline", params={"round": -1}).status_code
            == 422
        )
        assert client.get(f"/orders/{2**30}/timeline").status_code == 404


def test_an_agent_tells_its_people_the_numbers_that_the_coordinator_shows(
    federation: RunningFederation, ended: dict[str, Any]
) -> None:
    order_id, order = ended["order_id"], ended
    log = (federation.home / "sites" / "suzhou-szslyy" / "agent.log").read_text()
    told = re.findall(rf"Order {order_id}: round (\d+) of 3, loss (\S+)\n", log)
    losses = [row["loss"] for row in order["rounds"] if not row["final"]]
    assert [int(number) for number, _ in told] == [
        row["round"] for row in order["rounds"] if not row["final"]
    ]
    assert [float(loss) for _, loss in told] == pytest.approx(losses, rel=5e-4)
    assert f"order-{order_id}-hospital-2: data SQL extraction\n" in log
    assert order["progress"] == {"done": 3, "of": 3}


def test_lists_are_paged_and_show_a_hospital_its_own_orders(
    federation: RunningFederation, ended: dict[str, Any]
) -> None:
    with federation.client("operator") as client:
        newest = client.get("/orders", params={"limit": 1}).json()["data"]
        (order_id,) = (order["order_id"] for order in newest["orders"])
        assert order_id >= ended["order_id"]
        if order_id > 1:
            older = client.get(
                "/orders", params={"limit": 1, "before": newest["next"]}
            ).json()["data"]
            assert older["orders"][0]["order_id"] < order_id
        hospitals = client.get("/hospitals/").json()["data"]["hospitals"]
    assert {h["user_id"]: h["name"] for h in hospitals} == {
        2: "suzhou-szslyy",
        3: "zhejiang-zdey",
        4: "shanxi-xbfy",
    }
    assert all(h["online"] and h["last_seen"] and h["fingerprint"] for h in hospitals)


@pytest.mark.thorough
def test_cross_validation_reports_every_fold_per_hospital(
    federation: RunningFederation,
) -> None:
    body = order_of(model_params={"cv_param": {"need_cv": True, "n_splits": 3}})
    order = federation.wait_for(federation.submit(body))
    assert order["state"] == "success", order["refusal"]
    assert set(order["summary"]) >= {"0", "1", "2", "3"}
    finals = {row["fold"]: row["hospitals"] for row in order["rounds"] if row["final"]}
    for fold in (1, 2, 3):
        assert {
            user: set(report) >= {"train", "test"}
            for user, report in finals[fold].items()
        } == {
            "2": True,
            "3": True,
            "4": True,
        }
        assert all(0 <= report["test"]["auc"] <= 1 for report in finals[fold].values())
        n_held_out = sum(report["n_test_rows"] for report in finals[fold].values())
        assert order["summary"][str(fold)]["held_out"]["n_rows"] == n_held_out
    everybody = order["summary"]["held_out"]
    assert everybody["n_rows"] == sum(order["data_volum"].values())
    assert 0.5 < everybody["auc"] <= 1


@pytest.mark.thorough
@pytest.mark.parametrize("model_type", ["linear", "softmax"])
def test_the_other_models_by_the_same_path(
    federation: RunningFederation, model_type: str
) -> None:
    test_sql = dict.fromkeys(("2", "3", "4"), "SELECT * FROM data.breast_homo_test")
    body = order_of(
        model_type=model_type,
        test_data_info=test_sql,
        model_params={"standardize": True, "encrypt_param": {"method": "Paillier"}},
    )
    order = federation.wait_for(federation.submit(body))
    assert order["state"] == "success", order["refusal"]
    report = order["rounds"][-1]["hospitals"]["3"]
    assert report["n_test_rows"] == 114
    assert report["test"]["loss"] > 0
    sql = "SELECT * FROM data.breast_homo_guest WHERE id < 100"
    with federation.client(4) as client:
        answer = client.post(
            "/model/infer",
            json={
                "model_id": order["order_id"],
                "input_data": {"user_id": 4, "data_sql": sql},
            },
        ).json()
    first = answer["data"]["result"][0]
    if model_type == "softmax":
        assert first["label"] in (0, 1)
        assert sum(first["probabilities"].values()) == pytest.approx(1)
    else:
        assert isinstance(first["label"], float)


def test_a_newton_order_s_report_is_that_of_one_table(
    federation: RunningFederation,
) -> None:
    """From POST to what a paper prints, over real agents."""
    body = order_of(
        model_params={
            "optimizer": "newton",
            "penalty": None,
            "max_iter": 25,
            "eps": 1e-8,
            "learning_rate": 0.15,
            "decay": 0,
            "batch_size": -1,
        }
    )
    order_id = federation.submit(body)
    order = federation.wait_for(order_id)
    assert order["state"] == "success", order["refusal"]
    printed = federation.agent(
        "zhejiang-zdey", "report", "--model", str(order_id), "--format", "json"
    )
    report = json.loads(printed.stdout)
    tables = breast_cancer_tables()
    rows = pd.concat([tables["host"], tables["host"], tables["guest"]])
    X = sm.add_constant(rows[body["attributes"]])
    fit = sm.GLM(rows["y"], X, family=sm.families.Binomial()).fit(
        tol=1e-13, tol_criterion="params"
    )
    terms = pd.DataFrame(report["terms"]).set_index("term")
    errors = np.abs(terms["estimate"].to_numpy() - fit.params.to_numpy())
    assert (errors <= 1e-9 * fit.bse.to_numpy()).all()
    assert terms["se"].to_numpy() == pytest.approx(fit.bse.to_numpy(), rel=1e-7)
    assert report["n"] == len(rows) == 683
    assert report["converged"]
