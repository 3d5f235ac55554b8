"""The study of heart disease over four hospitals: categories, derived columns and gaps,
by Newton's method, beside one table of all rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from deployments.local.one_process import run_order
from tests.made_heart import heart_tables, made_tables
from tests.made_sites import make_sites, order_body
from tests.pairwise import quick

NEAR = 1e-6
"""Of the maximum-likelihood estimate, which six rounds come to."""

ATTRIBUTES = ["age", "cp", "trestbps", "thalach", "oldpeak"]


def report_of(
    folder: Path, tables: dict[int, pd.DataFrame], **params: Any
) -> dict[str, Any]:
    sites = make_sites(folder, {user: {"rows": rows} for user, rows in tables.items()})
    # These hospitals' policies open small cells: few at Switzerland's are healthy.
    for path in folder.rglob("policy.toml"):
        with path.open("a") as policy:
            policy.write("min_rows = 1\nmin_varying = 1\nmax_parameter_share = 100\n")
    body = order_body(
        sorted(tables),
        attributes=ATTRIBUTES,
        categorical={"cp": {"reference": 4}},
        missing="drop",
        model_params={
            "optimizer": "newton",
            "penalty": None,
            "eps": None,
            "max_iter": None,
            **params,
        },
    )
    report: dict[str, Any] = run_order(sites, body).models[2]["report"]
    return report


def pooled_fit(tables: dict[int, pd.DataFrame]) -> Any:
    rows = pd.concat([tables[user] for user in sorted(tables)])
    rows = rows[[*ATTRIBUTES, "y"]].dropna()
    X = pd.DataFrame({"(Intercept)": np.ones(len(rows)), "age": rows["age"]})
    for level in (1, 2, 3):
        X[f"cp[{level}]"] = (rows["cp"] == level).astype(float)
    for name in ("trestbps", "thalach", "oldpeak"):
        X[name] = rows[name]
    model = sm.GLM(rows["y"], X, family=sm.families.Binomial())
    return model.fit(tol=1e-14, maxiter=50)


def assert_inflation(found: list[dict[str, Any]], fit: Any) -> None:
    """Fox and Monette's factors, from the pooled fit's covariance by determinants."""
    of_slopes = fit.cov_params().drop("(Intercept)").drop(columns="(Intercept)")
    deviations = np.sqrt(np.diag(of_slopes))
    R = of_slopes / np.outer(deviations, deviations)
    assert [entry["term"] for entry in found] == ATTRIBUTES
    for entry in found:
        own = [name for name in R.columns if name.split("[")[0] == entry["term"]]
        others = [name for name in R.columns if name not in own]
        dets = [np.linalg.det(R.loc[names, names]) for names in (own, others)]
        expected = dets[0] * dets[1] / np.linalg.det(R)
        assert entry["df"] == len(own)
        assert entry["gvif"] == pytest.approx(expected, rel=1e-6)
        assert entry["scaled"] == pytest.approx(expected ** (0.5 / len(own)), rel=1e-6)


@pytest.mark.parametrize("read", quick([made_tables, heart_tables], 1))
def test_a_study_of_four_hospitals_is_that_of_one_table(
    tmp_path: Path, read: Any
) -> None:
    tables = read()
    fit = pooled_fit(tables)
    report = report_of(tmp_path / "whole", tables)
    terms = pd.DataFrame(report["terms"]).set_index("term")
    assert list(terms.index) == list(fit.params.index)
    wrong = np.abs(terms["estimate"] - fit.params)
    assert (wrong <= 1e-9 * fit.bse).all()
    assert terms["se"].to_numpy() == pytest.approx(fit.bse.to_numpy(), rel=1e-7)
    assert report["n"] == fit.nobs
    assert report["deviance"] == pytest.approx(fit.deviance, rel=1e-9)
    assert report["null_deviance"] == pytest.approx(fit.null_deviance, rel=1e-9)
    assert report["aic"] == pytest.approx(fit.aic, rel=1e-9)
    assert_inflation(report["inflation"], fit)
    after_six = report_of(tmp_path / "six", tables, max_iter=6)
    terms = pd.DataFrame(after_six["terms"]).set_index("term")
    assert (np.abs(terms["estimate"] - fit.params) <= NEAR).all()
