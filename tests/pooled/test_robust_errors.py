"""`standard_errors` and `cluster` of a glm: the sandwich is that of one table of all
hospitals' rows, by statsmodels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from analytics.arrays import Floats
from analytics.training.pairs import LINKS as ALL_LINKS
from analytics.training.pairs import Pair
from deployments.local.one_process import run_order
from protocol.errors import BadRequest, Refused
from protocol.training_request import parse_training_request
from tests.made_newton import ATTRIBUTES, DEALS, columns_of
from tests.made_sites import make_sites, order_body
from tests.pairwise import pairwise, quick
from tests.pooled.test_glm_orders import (
    REFERENCE_LINKS,
    REFERENCES,
    made_rows,
    run_glm,
)

# Of negative_binomial: test_negative_binomial.py.
LINKS = {
    family: links
    for family, links in ALL_LINKS.items()
    if family != "negative_binomial"
}
PAIRS = [Pair(family, link) for family, links in LINKS.items() for link in links]


def robust_errors(
    frames: dict[int, pd.DataFrame], pair: Pair, kind: str, **model: Any
) -> tuple[Floats, Any]:
    """By statsmodels, over standardised columns, in the columns' units."""
    rows = pd.concat([frames[user] for user in sorted(frames)])
    X = np.column_stack([np.ones(len(rows)), rows[ATTRIBUTES]])
    middle, spread = X.mean(axis=0), X.std(axis=0)
    middle[0], spread[0] = 0, 1
    family = REFERENCES[pair.family](link=REFERENCE_LINKS[pair.link]())
    columns = {name: rows[column] for name, column in model.items() if name != "groups"}
    fitted = sm.GLM(rows["y"], (X - middle) / spread, family=family, **columns)
    words: dict[str, Any] = {"maxiter": 100, "tol": 1e-12, "tol_criterion": "params"}
    if kind == "cluster":
        groups = np.unique(rows[model["groups"]], return_inverse=True)[1]
        words.update(cov_kwds={"groups": groups}, use_t=True)
    result = fitted.fit(cov_type=kind, **words)
    T = np.diag(1 / spread)
    T[0] -= middle / spread
    covariance = np.asarray(result.cov_params())
    if not pair.is_canonical:
        # statsmodels takes the observed information there, R the expected one, which is A.
        at = np.asarray(result.params)
        expected = fitted.hessian(at, scale=1, observed=False)
        observed = fitted.hessian(at, scale=1)
        change = np.linalg.solve(expected, observed)
        covariance = change @ covariance @ change.T
    covariance = T @ covariance @ T.T
    return np.sqrt(np.diag(covariance)), result


@pairwise(n_quick=1, pair=PAIRS, n_hospitals=sorted(DEALS), kind=["HC0", "HC1"])
@pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.DomainWarning")
def test_robust_errors_are_those_of_one_table(
    tmp_path: Path, pair: Pair, n_hospitals: int, kind: str
) -> None:
    frames = made_rows(pair, DEALS[n_hospitals])
    outcome = run_glm(tmp_path, frames, pair, model_params={"standard_errors": kind})
    # Of a glm statsmodels' HC1 is its HC0.
    se, _ = robust_errors(frames, pair, "HC0")
    n = sum(DEALS[n_hospitals].values())
    if kind == "HC1":
        se = se * np.sqrt(n / (n - 4))
    report = outcome.models[2]["report"]
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    assert report["standard_errors"] == kind
    assert report["statistic"] == ("t" if pair.has_dispersion else "z")


POISSON = Pair("poisson", "log")


def test_hospitals_are_clusters(tmp_path: Path) -> None:
    frames = made_rows(POISSON, DEALS[5])
    for user, frame in frames.items():
        frame["place"] = user
    outcome = run_glm(tmp_path, frames, POISSON, model_params={"cluster": "hospital"})
    se, result = robust_errors(frames, POISSON, "cluster", groups="place")
    report = outcome.models[2]["report"]
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    age = report["terms"][1]
    expected = 2 * stats.t.sf(abs(age["estimate"] / se[1]), 4)
    assert age["p"] == pytest.approx(expected, rel=1e-8)
    assert result.df_resid_inference == 4
    assert (report["standard_errors"], report["cluster"]) == ("cluster", "hospital")
    assert (report["clusters"], report["df_tests"], report["statistic"]) == (5, 4, "t")
    assert "fewer than 30 clusters" in report["notes"][0]


def test_hospitals_are_clusters_only_where_all_regroup(tmp_path: Path) -> None:
    """A dozen such orders tell each hospital's own sums, whatever the coefficients:
    `test_attacks_by_clusters`.
    """
    frames = made_rows(POISSON, DEALS[5])
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(tmp_path, tables, regroup=False)
    order = order_body(sorted(frames), attributes=["age"], model_type="glm")
    order["model_params"] = {"family": "poisson", "cluster": "hospital"}
    with pytest.raises(Refused) as error:
        run_order(sites, order)
    assert error.value.code == "regroup"


@pytest.mark.parametrize("kind", quick(["HC0", "HC1"], 1))
def test_a_frequency_is_so_many_rows(tmp_path: Path, kind: str) -> None:
    frames = made_rows(POISSON, {2: 60, 3: 50, 4: 40})
    doubled = {}
    for user, frame in frames.items():
        frame["count"] = 1 + np.arange(len(frame)) % 2
        again = frame.loc[frame.index.repeat(frame["count"])].reset_index(drop=True)
        doubled[user] = again.assign(id=np.arange(len(again)))
    weighted = {
        "standard_errors": kind,
        "weights": "count",
        "weights_type": "frequency",
    }
    found = run_glm(tmp_path / "weighted", frames, POISSON, model_params=weighted)
    expected = run_glm(
        tmp_path / "rows", doubled, POISSON, model_params={"standard_errors": kind}
    )
    assert columns_of(found, "se") == pytest.approx(
        columns_of(expected, "se"), rel=1e-9
    )


def test_risk_ratios_of_a_0_1_outcome(tmp_path: Path) -> None:
    """Zou 2004: poisson with log, and robust errors."""
    frames = made_rows(Pair("binomial", "log"), DEALS[3])
    outcome = run_glm(
        tmp_path, frames, POISSON, model_params={"standard_errors": "HC0"}
    )
    se, _ = robust_errors(frames, POISSON, "HC0")
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    report = outcome.models[2]["report"]
    assert report["terms"][1]["rate_ratio"] > 0


def test_no_cell_is_of_two_rows_residuals(tmp_path: Path) -> None:
    """M has the sum of squared residuals of every cell of two columns of 0 and 1. Of one
    patient far out, in a cell that has rows enough, it would be the residual, and with
    the coefficients the label.
    """
    pair = Pair("gaussian", "identity")
    frames = made_rows(pair, {2: 130, 3: 130, 4: 130})
    for user, frame in frames.items():
        frame["arm"] = np.arange(len(frame)) // 2 % 2
        frame["y"] = np.random.default_rng(10 + user).normal(3, 1, len(frame))
    alike = frames[2].index[(frames[2]["sex"] == 1) & (frames[2]["arm"] == 1)]
    frames[2].loc[alike, "y"] = 3.0
    order = {"attributes": [*ATTRIBUTES, "arm"], "is_open": False}
    robust = {"model_params": {"standard_errors": "HC0"}}
    even = run_glm(tmp_path / "even", frames, pair, **order, **robust)
    assert even.models[2]["report"]["standard_errors"] == "HC0"
    frames[2].loc[alike[5], "y"] = 7.5
    with pytest.raises(Refused, match="alike in sex and arm") as error:
        run_glm(tmp_path / "far", frames, pair, **order, **robust)
    assert error.value.code == "max_share"
    model = run_glm(tmp_path / "model", frames, pair, **order)
    assert model.models[2]["report"]["converged"]


def test_no_value_of_three_is_of_one_rows_residual(tmp_path: Path) -> None:
    """M has the squares times 1, x and x^2, which solve for the sum of each of three
    values: of one patient far out the residual.
    """
    pair = Pair("gaussian", "identity")
    frames = made_rows(pair, {2: 130, 3: 130, 4: 130})
    for user, frame in frames.items():
        frame["stage"] = np.arange(len(frame)) % 3
        frame["y"] = np.random.default_rng(10 + user).normal(3, 1, len(frame))
    alike = frames[2].index[frames[2]["stage"] == 2]
    frames[2].loc[alike, "y"] = 3.0
    frames[2].loc[alike[5], "y"] = 7.5
    order = {"attributes": ["age", "stage"], "is_open": False}
    with pytest.raises(Refused, match="alike in stage") as error:
        run_glm(
            tmp_path, frames, pair, **order, model_params={"standard_errors": "HC0"}
        )
    assert error.value.code == "max_share"


@pytest.mark.parametrize(
    ("model_type", "params", "n_rounds"),
    quick(
        [
            ("glm", {"family": "gaussian", "standard_errors": "HC0"}, 6),
            ("glm", {"family": "gaussian"}, 4),
            ("cox", {}, 7),
        ],
        1,
    ),
    ids=["robust", "plain", "cox"],
)
def test_what_a_fold_s_end_opens_is_spent(
    tmp_path: Path, model_type: str, params: dict[str, Any], n_rounds: int
) -> None:
    """Orders of few rounds would open most of their sums for nothing."""
    frames = made_rows(Pair("gaussian", "identity"), {2: 130, 3: 130, 4: 130})
    for frame in frames.values():
        frame["t"] = np.arange(len(frame)) + 1.0
        frame["died"] = np.arange(len(frame)) // 2 % 2
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    cohort = f"max_rounds = {n_rounds - 1}"
    sites = make_sites(tmp_path, tables, regroup=False, cohort=cohort)
    order = order_body(sorted(frames), attributes=["age"], model_type=model_type)
    order["model_params"] = {**params, "optimizer": "newton", "max_iter": 4}
    if model_type == "cox":
        order |= {"label_name": "t", "event_name": "died"}
    with pytest.raises(Refused, match=f"may take {n_rounds}") as error:
        run_order(sites, order)
    assert error.value.code == "max_rounds"


@pytest.mark.parametrize(
    ("field", "users", "params"),
    [
        ("cluster", 3, {"cluster": "hospital"}),
        ("standard_errors", 5, {"cluster": "hospital", "standard_errors": "HC1"}),
        ("standard_errors", 3, {"standard_errors": "HC1", "penalty": "L2", "alpha": 1}),
        ("cluster", 5, {"cluster": "hospital", "penalty": "L2", "alpha": 1}),
    ],
    ids=str,
)
def test_errors_that_an_order_cannot_have(
    field: str, users: int, params: dict[str, Any]
) -> None:
    body = order_body(list(range(2, 2 + users)), model_type="glm")
    body["model_params"] = {"family": "poisson", **params}
    with pytest.raises(BadRequest) as error:
        parse_training_request(body)
    assert error.value.code == field


def test_more_coefficients_than_hospitals_that_are_clusters(tmp_path: Path) -> None:
    """With as many coefficients as hospitals the sums are the hospitals' own, but for a
    turn of them; at 5 to 4 they are let through, above.
    """
    frames = made_rows(POISSON, DEALS[5])
    for frame in frames.values():
        frame["other"] = frame["age"] ** 2
    with pytest.raises(BadRequest) as error:
        run_glm(
            tmp_path,
            frames,
            POISSON,
            attributes=[*ATTRIBUTES, "other"],
            model_params={"cluster": "hospital"},
        )
    assert error.value.code == "cluster"


def test_the_equations_of_the_last_message_count(tmp_path: Path) -> None:
    frames = made_rows(POISSON, DEALS[3])
    plain = run_glm(tmp_path / "model", frames, POISSON)
    robust = run_glm(
        tmp_path / "robust", frames, POISSON, model_params={"standard_errors": "HC0"}
    )
    before, after = plain.models[2]["report"], robust.models[2]["report"]
    assert after["equations"] == before["equations"] + 4 * 5 + 1
    assert (
        columns_of(robust, "estimate").tolist()
        == columns_of(plain, "estimate").tolist()
    )
