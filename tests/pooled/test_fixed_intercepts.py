"""`site_effect` fixed: as statsmodels with C(hospital) over one table, where policies allow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from agents.order.party import open_party
from agents.training.inference import predict
from analytics.training.pairs import Pair
from deployments.local.one_process import run_evaluation, run_order
from protocol.errors import ConsiliumError
from protocol.memory_transport import MemoryTransport
from protocol.training_request import parse_training_request
from tests.made_newton import ATTRIBUTES, columns_of, open_policies
from tests.made_sites import make_sites, order_body
from tests.pairwise import pairwise
from tests.pooled.test_glm_orders import REFERENCE_LINKS, REFERENCES, made_rows

PAIRS = [
    Pair("gaussian", "identity"),
    Pair("binomial", "logit"),
    Pair("poisson", "log"),
    Pair("gamma", "log"),
]
DEALS = {
    1: {2: 300},
    2: {2: 150, 3: 170},
    3: {2: 130, 3: 95, 4: 160},
    5: {2: 100, 3: 95, 4: 90, 5: 110, 6: 105},
}
FIXED: dict[str, Any] = {
    "optimizer": "newton",
    "penalty": None,
    "eps": None,
    "max_iter": None,
    "site_effect": "fixed",
}


def say_hospital_sums(folder: Path) -> None:
    for path in folder.rglob("policy.toml"):
        text = path.read_text()
        path.write_text(text.replace("[orders]", "[orders]\nhospital_sums = true"))


def sites_of(folder: Path, frames: dict[int, pd.DataFrame], **changes: Any) -> Any:
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    return make_sites(folder, tables, **changes)


def order(users: list[int], pair: Pair, **params: Any) -> dict[str, Any]:
    of_glm = {"family": pair.family, "link": pair.link, **FIXED, **params}
    return order_body(
        users, attributes=ATTRIBUTES, model_type="glm", model_params=of_glm
    )


def dealt(pair: Pair, n_hospitals: int) -> dict[int, pd.DataFrame]:
    """Hospitals that differ by more than their patients' attributes do."""
    frames = made_rows(pair, DEALS[n_hospitals])
    if pair.family in ("gaussian", "gamma"):
        for user, frame in frames.items():
            frame["y"] *= 1 + 0.1 * user
    return frames


@pairwise(
    n_quick=1,
    pair=PAIRS,
    n_hospitals=sorted(DEALS),
    method=["Mask", "Paillier", "None"],
)
def test_fixed_intercepts_are_those_of_one_table(
    tmp_path: Path, pair: Pair, n_hospitals: int, method: str
) -> None:
    frames = dealt(pair, n_hospitals)
    users = sorted(frames)
    sites = sites_of(tmp_path, frames, min_hospitals=1)
    open_policies(tmp_path)
    say_hospital_sums(tmp_path)
    body = order(users, pair, encrypt_param={"method": method})
    outcome = run_order(sites, body)
    rows = pd.concat([frames[user].assign(hospital=user) for user in users])
    X = np.column_stack(
        [np.ones(len(rows)), rows[ATTRIBUTES]]
        + [(rows["hospital"] == user).astype(float) for user in users[1:]]
    )
    middle, spread = X.mean(axis=0), X.std(axis=0)
    middle[0], spread[0] = 0, 1
    family = REFERENCES[pair.family](link=REFERENCE_LINKS[pair.link]())
    fitted = sm.GLM(rows["y"], (X - middle) / spread, family=family)
    result = fitted.fit(maxiter=100, tol=1e-12, tol_criterion="params")
    T = np.diag(1 / spread)
    T[0] -= middle / spread
    estimates = T @ np.asarray(result.params)
    errors = np.sqrt(np.diag(T @ np.asarray(result.cov_params()) @ T.T))
    report = outcome.models[2]["report"]
    names = [term["term"] for term in report["terms"]]
    assert names[4:] == [f"hospital[{user}]" for user in users[1:]]
    assert (np.abs(columns_of(outcome, "estimate") - estimates) <= 1e-9 * errors).all()
    assert columns_of(outcome, "se") == pytest.approx(errors, rel=1e-9)
    assert report["deviance"] == pytest.approx(result.deviance, rel=1e-9)
    if n_hospitals > 1:
        assert (report["site_effect"], report["reference_hospital"]) == ("fixed", 2)
        judged = {entry["term"] for entry in report["inflation"]}
        assert judged == {*ATTRIBUTES, "hospital"}


@pytest.mark.parametrize(
    "standardize", [False, pytest.param(True, marks=pytest.mark.thorough)]
)
def test_each_hospital_predicts_with_its_own_intercept(
    tmp_path: Path, standardize: bool
) -> None:
    frames = dealt(PAIRS[0], 3)
    sites = sites_of(tmp_path, frames)
    open_policies(tmp_path)
    say_hospital_sums(tmp_path)
    outcome = run_order(sites, order([2, 3, 4], PAIRS[0], standardize=standardize))
    terms = outcome.models[2]["report"]["terms"]
    of = {term["term"]: term["estimate"] for term in terms}
    for user, own in ((2, 0.0), (3, of["hospital[3]"]), (4, of["hospital[4]"])):
        party = open_party(sites[user], 9, MemoryTransport())
        found = predict(party, 1, "SELECT * FROM data.rows")
        by_id = {entry["id"]: entry["label"] for entry in found}
        frame = frames[user]
        expected = (
            of["(Intercept)"] + own + frame[ATTRIBUTES] @ [of[a] for a in ATTRIBUTES]
        )
        labels = [by_id[str(one)] for one in frame["id"]]
        assert labels == pytest.approx(expected.to_numpy(), rel=1e-9)


# What policies let pass


def patients(user: int, n_rows: int = 150, n_women: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(user)
    frame = pd.DataFrame({"id": np.arange(n_rows) + 1000 * user})
    frame["age"] = rng.normal(60 + user, 9, n_rows).round(1)
    frame["dose"] = rng.normal(5, 1, n_rows).round(2)
    frame["sex"] = (np.arange(n_rows) < n_women).astype(int)
    frame["y"] = (0.1 * frame["age"] + rng.normal(user, 1, n_rows)).round(3)
    return frame


def code_of(
    folder: Path,
    frames: dict[int, pd.DataFrame],
    *,
    allowing: tuple[int, ...] = (2, 3, 4),
    pair: Pair = PAIRS[0],
) -> str:
    sites = sites_of(folder, frames)
    for user in allowing:
        say_hospital_sums(sites[user].policy.parent)
    try:
        run_order(sites, order(sorted(frames), pair))
    except ConsiliumError as error:
        return error.code
    return ""


def test_one_hospital_that_does_not_say_so_stops_the_order(tmp_path: Path) -> None:
    frames = {user: patients(user) for user in (2, 3, 4)}
    assert code_of(tmp_path, frames, allowing=(2, 4)) == "hospital_sums"


def test_own_sums_are_not_solved_for_a_small_hospital_s_rows(tmp_path: Path) -> None:
    """A logit takes some rounds, each of which opens sums of each hospital alone."""
    frames = made_rows(PAIRS[1], {2: 150, 3: 30, 4: 160})
    sites = sites_of(tmp_path, frames)
    open_policies(tmp_path)
    say_hospital_sums(tmp_path)
    with pytest.raises(ConsiliumError, match="an intercept for each hospital") as error:
        run_order(sites, order([2, 3, 4], PAIRS[1]))
    assert error.value.code == "equations"


def test_few_women_of_one_hospital_are_not_hidden_by_the_others(tmp_path: Path) -> None:
    """Where thresholds are on the sum: its column times theirs counts them alone."""
    frames = {
        user: patients(user, n_women=4 if user == 3 else 60) for user in (2, 3, 4)
    }
    sites = sites_of(tmp_path, frames)
    say_hospital_sums(tmp_path)
    pooled = '\n[statistics]\nmethods = ["count"]\ncells = "pooled"\n'
    for path in tmp_path.rglob("policy.toml"):
        path.write_text(path.read_text() + pooled)
    body = order([2, 3, 4], PAIRS[0])
    plain = {**body, "model_params": {**body["model_params"], "site_effect": None}}
    run_order(sites, plain, order_id=1)
    with pytest.raises(ConsiliumError) as error:
        run_order(sites, body, order_id=2)
    assert error.value.code == "min_varying"


@pytest.mark.thorough
def test_a_model_that_differs_by_hospital_is_not_evaluated(tmp_path: Path) -> None:
    frames = {user: patients(user) for user in (2, 3, 4)}
    sites = sites_of(tmp_path, frames)
    say_hospital_sums(tmp_path)
    trained = order([2, 3, 4], PAIRS[0])
    run_order(sites, trained)
    sql = dict.fromkeys("234", "SELECT * FROM data.rows")
    body = {"user_id": 2, "party_id": [3, 4], "model_id": 1, "data_info": sql}
    with pytest.raises(ConsiliumError) as error:
        run_evaluation(sites, body, trained=trained)
    assert (error.value.code, "at each" in str(error.value)) == ("model", True)


@pytest.mark.parametrize(
    "changed",
    [
        {"penalty": "L2", "alpha": 1},
        {"cv_param": {"need_cv": True}},
        {"init_param": {"fit_intercept": False}},
        {"pooling": "meta"},
    ],
    ids=str,
)
def test_what_goes_with_no_fixed_intercepts(changed: dict[str, Any]) -> None:
    with pytest.raises(ConsiliumError) as error:
        parse_training_request(order([2, 3, 4], PAIRS[0], **changed))
    assert error.value.code == "site_effect"
