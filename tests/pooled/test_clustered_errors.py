"""`cluster` of a glm by a column: the errors are those of one table of all hospitals' rows by
statsmodels, each hospital's clusters its own; and what the hospital's gate lets pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.gate.clusters import check_cell, check_number, n_products
from agents.training import robust
from analytics.training import sandwich
from analytics.training.pairs import Pair
from deployments.local.one_process import run_order
from protocol.errors import BadRequest, InvalidInput, Refused
from protocol.training_request import parse_training_request
from tests.made_newton import DEALS, columns_of
from tests.made_sites import make_sites, order_body
from tests.pairwise import pairwise
from tests.pooled.test_glm_orders import made_rows, run_glm
from tests.pooled.test_robust_errors import robust_errors

POISSON = Pair("poisson", "log")
GAUSSIAN = Pair("gaussian", "identity")
PAIRS = [POISSON, GAUSSIAN, Pair("binomial", "logit"), Pair("gamma", "log")]


def with_wards(frames: dict[int, pd.DataFrame]) -> dict[int, pd.DataFrame]:
    """Wards of two rows and more; hospitals have some names in common."""
    for user, frame in frames.items():
        n_wards = max(2, len(frame) // 5)
        place = np.arange(len(frame)) % n_wards
        frame["ward"] = [f"ward {number}" for number in place]
        # As clusters of all hospitals' rows in one table.
        frame["place"] = [f"{user}: {number}" for number in place]
    return frames


@pairwise(
    n_quick=1,
    pair=PAIRS,
    n_hospitals=sorted(DEALS),
    method=["Mask", "Paillier", "None"],
)
def test_errors_by_clusters_are_those_of_one_table(
    tmp_path: Path, pair: Pair, n_hospitals: int, method: str
) -> None:
    frames = with_wards(made_rows(pair, DEALS[n_hospitals]))
    params = {"cluster": "ward", "encrypt_param": {"method": method}}
    outcome = run_glm(tmp_path, frames, pair, model_params=params)
    se, result = robust_errors(frames, pair, "cluster", groups="place")
    report = outcome.models[2]["report"]
    n_clusters = pd.concat(frames.values())["place"].nunique()
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    assert (report["cluster"], report["clusters"]) == ("ward", n_clusters)
    assert (report["statistic"], report["df_tests"]) == ("t", n_clusters - 1)
    assert result.df_resid_inference == n_clusters - 1
    is_few = any("fewer than 30 clusters" in note for note in report["notes"])
    assert is_few == (n_clusters < 30)


@pytest.mark.thorough
def test_a_frequency_is_so_many_rows_of_its_cluster(tmp_path: Path) -> None:
    frames = with_wards(made_rows(POISSON, {2: 60, 3: 50, 4: 40}))
    doubled = {}
    for user, frame in frames.items():
        frame["times"] = np.arange(len(frame)) % 3
        # Of no row nobody counts the ward, either.
        frame.loc[frame["ward"] == "ward 3", "times"] = 0
        again = frame.loc[frame.index.repeat(frame["times"])].reset_index(drop=True)
        doubled[user] = again.assign(id=np.arange(len(again)))
    weighted = {"cluster": "ward", "weights": "times", "weights_type": "frequency"}
    one = run_glm(tmp_path / "weighted", frames, POISSON, model_params=weighted)
    other = run_glm(
        tmp_path / "doubled", doubled, POISSON, model_params={"cluster": "ward"}
    )
    assert columns_of(one, "se") == pytest.approx(columns_of(other, "se"), rel=1e-9)
    reports = [found.models[2]["report"] for found in (one, other)]
    assert reports[0]["clusters"] == reports[1]["clusters"]


# What the gate lets pass


def patients(user: int, *, n_rows: int = 200, n_wards: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(user)
    frame = pd.DataFrame({"id": np.arange(n_rows) + 1000 * user})
    frame["age"] = rng.normal(60 + user, 9, n_rows).round(1)
    frame["y"] = (0.1 * frame["age"] + rng.normal(0, 1, n_rows)).round(3)
    frame["ward"] = [f"WARD-{place}" for place in np.arange(n_rows) % n_wards]
    return frame


def order(
    users: list[int], cluster: str | None = "ward", **body: Any
) -> dict[str, Any]:
    params: dict[str, Any] = {"eps": None, "max_iter": None, "family": "gaussian"}
    if cluster is not None:
        params["cluster"] = cluster
    given = {"attributes": ["age"], "label_name": "y", "model_type": "glm", **body}
    return order_body(users, model_params=params, **given)


def sites_of(folder: Path, frames: dict[int, pd.DataFrame]) -> Any:
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    return make_sites(folder, tables, regroup=True)


def test_a_cluster_of_one_row_is_named_by_its_column_and_no_value(
    tmp_path: Path,
) -> None:
    frames = {user: patients(user) for user in (2, 3, 4)}
    frames[3].loc[7, "ward"] = "WARD-ALONE"
    with pytest.raises(BadRequest) as error:
        run_order(sites_of(tmp_path, frames), order([2, 3, 4]))
    assert error.value.code == "cluster"
    # Another hospital's order is told no small number, and nobody a value.
    assert "Fewer than 10 clusters of ward have one row" in str(error.value)
    assert "WARD" not in str(error.value)


def test_a_hospital_with_few_clusters_takes_no_part(tmp_path: Path) -> None:
    frames = {user: patients(user) for user in (2, 3, 4)}
    frames[4] = patients(4, n_wards=9)
    with pytest.raises(Refused) as error:
        run_order(sites_of(tmp_path, frames), order([2, 3, 4]))
    assert (error.value.code, error.value.detail["threshold"]) == ("clusters", 10)


def test_clusters_of_rows_without_a_weight_are_none(tmp_path: Path) -> None:
    """Twelve of forty wards are summed up, and fourteen are no more than the products."""
    frames = {user: patients(user) for user in (2, 3, 4)}
    rng = np.random.default_rng(5)
    for frame in frames.values():
        frame["bmi"] = rng.normal(25, 3, len(frame)).round(2)
        frame["dose"] = rng.normal(9, 2, len(frame)).round(2)
        weighs = frame["ward"].isin([f"WARD-{place}" for place in range(12)])
        frame["w"] = weighs.astype(int)
    asked = order([2, 3, 4], attributes=["age", "bmi", "dose"])
    asked["model_params"] |= {"weights": "w", "weights_type": "frequency"}
    with pytest.raises(Refused) as error:
        run_order(sites_of(tmp_path, frames), asked)
    assert (error.value.code, error.value.detail["threshold"]) == ("clusters", 15)


@pytest.mark.parametrize(
    ("n_clusters", "passes"), [(14, False), (15, True), (16, True)]
)
def test_clusters_are_more_than_their_products(n_clusters: int, passes: bool) -> None:
    """Of four coefficients: 10 products of columns, 4 with the label."""
    clusters = np.array([str(place) for place in np.arange(99) % n_clusters], object)
    assert n_products(4) == 14
    if passes:
        check_number("ward", clusters, n_weights=4, min_rows=10)
        return
    with pytest.raises(Refused) as error:
        check_number("ward", clusters, n_weights=4, min_rows=10)
    assert (error.value.code, error.value.detail["threshold"]) == ("clusters", 15)


def test_two_small_clusters_do_not_make_up_a_cell() -> None:
    scores = np.full(60, 0.1)
    scores[:4] = [9, 9, 8, 8]
    codes = np.repeat(np.arange(30), 2)
    everywhere = np.ones(60, dtype=bool)
    rules = {"named": "", "max_share": 0.9, "min_rows": 10}
    with pytest.raises(Refused) as error:
        check_cell(scores, codes, everywhere, **rules)
    assert error.value.code == "max_share"
    # In sums over more rows than the least single ones are not told.
    check_cell(np.full(60, 0.1), np.repeat([0, 1], 30), everywhere, **rules)
    # Where each cluster's residuals cancel nothing is added up.
    check_cell(np.tile([1.0, -1.0], 30), codes, everywhere, **rules)


def test_a_second_clustering_would_tell_the_one_who_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    read = sandwich.read_sums

    def kept(totals: Any, n_weights: int, *, bits: int) -> sandwich.Meat:
        opened.append(read(totals, n_weights, bits=bits))
        return opened[-1]

    monkeypatch.setattr(robust.sandwich, "read_sums", kept)
    frames = {user: patients(user) for user in (2, 3, 4)}
    for frame in frames.values():
        frame["unit"] = frame["ward"]
    frames[3].loc[7, "unit"] = "WARD-9"
    sites = sites_of(tmp_path, frames)
    run_order(sites, order([2, 3, 4]), order_id=1)
    with monkeypatch.context() as without:
        without.setattr(
            "agents.training.cohorts.spend_clustering", lambda *_, **__: None
        )
        run_order(sites, order([2, 3, 4], "unit"), order_id=2)
    moved = opened[-1].M - opened[0].M
    # One person's score times two clusters' sums: of rank 2, and not 0.
    assert np.abs(moved).max() > 1e-6
    with pytest.raises(Refused) as error:
        run_order(sites, order([2, 3, 4], "unit"), order_id=3)
    assert error.value.code == "clusters"
    assert "another column" in str(error.value)
    # By the first column anybody may go on.
    again = run_order(sites, order([2, 3, 4]), order_id=4)
    assert again.models[2]["report"]["clusters"] == 120


def test_few_clusters_follow_from_what_several_orders_open() -> None:
    """Three wards, whose sums of 1 and of age are found but for their order, by who moves
    the coefficients and knows the wards' numbers of patients.
    """
    rng = np.random.default_rng(5)
    age = rng.normal(0, 1, 60)
    y = age + rng.normal(0, 1, 60)
    X = np.column_stack([age, np.ones(60)])
    codes = np.arange(60) % 3 * (np.arange(60) % 7 > 0)
    equations, values = [], []
    for _ in range(12):
        coef = rng.normal(size=2)
        sums = sandwich.cluster_scores(X, y - X @ coef, codes)
        factors = np.append(1.0, -coef)
        equations.append(np.outer(factors, factors)[np.triu_indices(3)])
        values.append((sums.T @ sums)[1, 1])
    equations = np.array(equations) * [1, 2, 2, 1, 2, 1]
    found = np.linalg.lstsq(equations, np.array(values), rcond=None)[0]
    # Sums over wards of (sum y, sum age, n) times itself: the hospital's own, to the digit.
    own = sandwich.cluster_scores(
        np.column_stack([y, age, np.ones(60)]), np.ones(60), codes
    )
    assert found == pytest.approx((own.T @ own)[np.triu_indices(3)], rel=1e-8)
    # Fewer wards than products: the sums are those of three wards but for a turn, which
    # three known sums fix.
    gram = np.zeros((3, 3))
    gram[np.triu_indices(3)] = found
    gram = gram + np.triu(gram, 1).T
    turned = np.linalg.cholesky(gram).T
    left, _, right = np.linalg.svd(own @ turned.T)
    assert (left @ right) @ turned == pytest.approx(own, rel=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        {"attributes": ["age", "ward"]},
        {"derive": {"ward": "age >= 60"}, "attributes": ["age"]},
        {"validation_fraction": 0.2},
        {"unique_id": "ward"},
    ],
)
def test_what_does_not_go_with_clusters_by_a_column(changed: dict[str, Any]) -> None:
    with pytest.raises((BadRequest, InvalidInput)) as error:
        parse_training_request(order([2, 3, 4], **changed))
    assert error.value.code in ("cluster", "derive")
