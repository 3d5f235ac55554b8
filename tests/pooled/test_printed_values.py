"""Numbers that others have printed for tables that others have published, from orders
over hospitals that hold them in parts.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from lifelines.datasets import load_lung
from statsmodels.genmod.tests import results as printed

from analytics.statistics.survival import event_times, log_rank, log_rank_sums
from tests.made_newton import columns_of, run
from tests.pairwise import quick
from tests.pooled.test_glm_orders import dealt

USERS = {"a": 2, "b": 3, "c": 4}


def admissions() -> dict[int, pd.DataFrame]:
    """Three sites of a logistic regression's published example."""
    named = os.environ.get("CONSILIUM_TEST_DATA", "")
    folder = Path(named) / "vantage6"
    if not named or not folder.is_dir():
        pytest.skip("CONSILIUM_TEST_DATA names no folder with vantage6/")
    frames = {}
    for site, user in USERS.items():
        frame = pd.read_csv(folder / f"v6_binomial_{site}.csv")
        frame["rank"] = frame["rank"].astype(str)
        frames[user] = frame.assign(id=np.arange(len(frame)))
    return frames


@pytest.mark.parametrize("method", quick(["Mask", "Paillier", "None"], 1))
def test_admissions_at_three_sites(tmp_path: Path, method: str) -> None:
    outcome = run(
        tmp_path,
        admissions(),
        model_type="glm",
        label_name="admit",
        attributes=["gre", "gpa", "rank"],
        categorical={"rank": {"reference": "1"}},
        model_params={"family": "binomial", "encrypt_param": {"method": method}},
    )
    found = columns_of(outcome, "estimate")
    coefficients = [-3.989979, 0.002264, 0.804038, -0.675443, -1.340204, -1.551464]
    assert found == pytest.approx(coefficients, abs=5e-7)
    deviance = outcome.models[2]["report"]["deviance"]
    assert deviance == pytest.approx(458.517492, abs=5e-7)


def test_low_birth_weight(tmp_path: Path) -> None:
    """Hosmer and Lemeshow 1989: statsmodels prints a deviance of 201.447991."""
    rows = pd.read_csv(Path(printed.__file__).parent / "stata_lbw_glm.csv")
    rows["black"] = (rows.race == "black").astype(int)
    rows["other"] = (rows.race == "other").astype(int)
    names = ["age", "lwt", "black", "other", "smoke", "ptl", "ht", "ui"]
    outcome = run(
        tmp_path,
        dealt(rows.drop(columns=["id", "race"])),
        model_type="lr",
        label_name="low",
        attributes=names,
    )
    report = outcome.models[2]["report"]
    assert report["deviance"] == pytest.approx(201.447991, abs=5e-7)
    se = [1.204574885, 0.036449917, 0.006925765, 0.526405169, 0.439146744]
    assert columns_of(outcome, "se")[:5] == pytest.approx(se, rel=2e-5)


# The National Institute of Standards and Technology's certified values, the intercept first.
LONGLEY = {
    "estimate": [
        -3482258.63459582,
        15.0618722713733,
        -0.0358191792925910,
        -2.02022980381683,
        -1.03322686717359,
        -0.0511041056535807,
        1829.15146461355,
    ],
    "se": [
        890420.383607373,
        84.9149257747669,
        0.0334910077722432,
        0.488399681651699,
        0.214274163161675,
        0.226073200069370,
        455.478499142212,
    ],
}


def test_longley_s_employment(tmp_path: Path) -> None:
    """Longley 1967, where columns are nearly combinations of each other: NIST certifies 15
    digits of the fit, and R prints an AIC of 235.2349.
    """
    data = sm.datasets.longley.load_pandas()
    rows = data.exog.assign(y=data.endog).astype(float)
    outcome = run(
        tmp_path,
        # Sixteen rows are too few for three hospitals' rules on seven coefficients.
        dealt(rows, 1),
        min_hospitals=1,
        model_type="linear",
        attributes=list(data.exog.columns),
    )
    for name, certified in LONGLEY.items():
        assert columns_of(outcome, name) == pytest.approx(certified, rel=1e-10)
    report = outcome.models[2]["report"]
    assert report["aic"] == pytest.approx(235.2349, abs=5e-5)
    residual_error = report["dispersion"] ** 0.5
    assert residual_error == pytest.approx(304.854073561965, rel=1e-10)


@pytest.mark.thorough
def test_visits_of_the_health_insurance_experiment(tmp_path: Path) -> None:
    """Deb and Trivedi 2002: a poisson deviance of 83,934.23786."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = sm.datasets.randhie.load_pandas()
    rows = data.exog.assign(y=data.endog).astype(float).reset_index(drop=True)
    outcome = run(
        tmp_path,
        dealt(rows),
        model_type="glm",
        attributes=list(data.exog.columns),
        model_params={"family": "poisson", "encrypt_param": {"method": "Mask"}},
    )
    deviance = outcome.models[2]["report"]["deviance"]
    assert deviance == pytest.approx(83934.23786, abs=5e-6)


@pytest.mark.parametrize(
    ("columns", "n_rows", "chi2"),
    [([], 228, 10.326742), (["inst"], 227, 10.205656)],
    ids=["all", "with an institution"],
)
def test_lung_by_sex(columns: list[str], n_rows: int, chi2: float) -> None:
    """Therneau and Grambsch 2000: one hospital's sums alone are a log-rank test's."""
    lung = load_lung().dropna(subset=columns)
    assert len(lung) == n_rows
    is_woman = (lung.sex == 2).to_numpy(np.int64)
    died = lung.status.to_numpy(np.int64)
    of_times = event_times(
        lung.time.to_numpy(float), died, is_woman, np.ones_like(died), n_groups=2
    )
    sums = log_rank_sums(of_times)
    n_women = int(is_woman.sum())
    n_women_died = int(died[is_woman == 1].sum())
    found = log_rank(
        {"men": n_rows - n_women, "women": n_women},
        {"men": int(died.sum()) - n_women_died, "women": n_women_died},
        [sums.scores[0], sums.covariances[0][0]],
    )
    assert dict(found)["chi2"] == pytest.approx(chi2, abs=5e-7)
