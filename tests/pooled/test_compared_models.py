"""`compare`: the likelihood-ratio test of a model beside a kept one that it contains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from lifelines import CoxPHFitter
from scipy import stats

from agents.site.settings import SiteSettings
from deployments.local.one_process import run_order
from protocol.errors import ConsiliumError, Refused
from protocol.training_request import parse_training_request
from tests.made_newton import DEALS, open_policies
from tests.made_sites import make_sites, order_body
from tests.pairwise import quick

# lifelines calls pandas as pandas 4 will not allow.
pytestmark = pytest.mark.filterwarnings("ignore:Starting with pandas version 4.0")

Frames = dict[int, pd.DataFrame]


def made_rows(n_of: dict[int, int]) -> Frames:
    frames = {}
    for user, n_rows in n_of.items():
        rng = np.random.default_rng(user)
        age = rng.normal(60, 9, n_rows)
        arm = rng.choice(["a", "b", "c"], n_rows)
        eta = 0.05 * (age - 60) + 0.6 * (arm == "b")
        columns = {
            "id": np.arange(n_rows),
            "age": age,
            "bmi": rng.normal(27, 4, n_rows),
            "arm": arm,
            "y": (rng.uniform(size=n_rows) < 1 / (1 + np.exp(-eta))).astype(int),
            "count": rng.poisson(np.exp(0.3 * eta + 1)),
            "cost": np.exp(eta + rng.normal(0, 0.5, n_rows)),
            "days": np.ceil(rng.exponential(300 * np.exp(-eta))) + 1,
            "died": rng.integers(0, 2, n_rows),
        }
        frames[user] = pd.DataFrame(columns)
    return frames


def study(folder: Path, frames: Frames) -> dict[int, SiteSettings]:
    tables = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(folder, tables, min_hospitals=1)
    open_policies(folder)
    return sites


def body(frames: Frames, attributes: list[str], **fields: Any) -> dict[str, Any]:
    made = {
        "model_type": "lr",
        "label_name": "y",
        "model_params": {"optimizer": "newton", "penalty": None},
        **fields,
    }
    if "arm" in attributes:
        made.setdefault("categorical", {"arm": {"reference": "a"}})
    made["model_params"] = {
        "encrypt_param": {"method": "Mask"},
        **made["model_params"],
    }
    params = {"eps": None, "max_iter": None, **made.pop("model_params")}
    return order_body(
        sorted(frames), **{"attributes": attributes, "model_params": params, **made}
    )


def design(frames: Frames, *, has_arm: bool) -> pd.DataFrame:
    rows = pd.concat(frames.values())
    X = sm.add_constant(rows[["age", "bmi"]])
    if has_arm:
        X = X.assign(b=(rows["arm"] == "b") * 1.0, c=(rows["arm"] == "c") * 1.0)
    return X


FAMILIES: dict[str, tuple[dict[str, Any], Any]] = {
    "lr": ({}, sm.families.Binomial()),
    "poisson": (
        {
            "model_type": "glm",
            "label_name": "count",
            "model_params": {"family": "poisson"},
        },
        sm.families.Poisson(),
    ),
    "linear": (
        {"model_type": "linear", "label_name": "cost"},
        sm.families.Gaussian(),
    ),
}


@pytest.mark.parametrize("n_hospitals", quick([3, 1, 2, 5], 1))
@pytest.mark.parametrize("kind", quick(list(FAMILIES), 1))
def test_the_test_is_that_of_one_table(
    tmp_path: Path, kind: str, n_hospitals: int
) -> None:
    order, family = FAMILIES[kind]
    frames = made_rows(DEALS[n_hospitals])
    sites = study(tmp_path, frames)
    run_order(sites, body(frames, ["age", "bmi"], **order))
    larger = body(frames, ["age", "bmi", "arm"], compare=1, **order)
    outcome = run_order(sites, larger, order_id=2)
    label = pd.concat(frames.values())[order.get("label_name", "y")]
    likelihoods = []
    for has_arm in (False, True):
        X = design(frames, has_arm=has_arm)
        fit = sm.GLM(label, X, family=family).fit(tol=1e-14)
        if kind == "linear":
            # Of the maximum likelihood's own variance, as R's logLik.
            fit = sm.OLS(label, X).fit()
        likelihoods.append(fit.llf)
    chi2 = 2 * (likelihoods[1] - likelihoods[0])
    for model in outcome.models.values():
        found = model["report"]["comparison"]
        assert (found["model_id"], found["df"]) == (1, 2)
        assert found["chi2"] == pytest.approx(chi2, rel=1e-8)
        assert found["p"] == pytest.approx(stats.chi2.sf(chi2, 2), rel=1e-7)


def test_of_a_cox_it_is_that_of_partial_likelihoods(tmp_path: Path) -> None:
    frames = made_rows(DEALS[3])
    sites = study(tmp_path, frames)
    order = {
        "model_type": "cox",
        "label_name": "days",
        "event_name": "died",
        "model_params": {},
    }
    run_order(sites, body(frames, ["age", "bmi"], **order))
    larger = body(frames, ["age", "bmi", "arm"], compare=1, **order)
    outcome = run_order(sites, larger, order_id=2)
    likelihoods = []
    for has_arm in (False, True):
        rows = design(frames, has_arm=has_arm).drop(columns="const")
        of_all = pd.concat(frames.values())
        rows = rows.assign(
            days=of_all["days"],
            died=of_all["died"],
            site=np.repeat(list(frames), [len(frame) for frame in frames.values()]),
        )
        fit = CoxPHFitter().fit(
            rows.reset_index(drop=True),
            "days",
            "died",
            strata=["site"],
            fit_options={"precision": 1e-14, "r_precision": 1e-16, "max_steps": 100},
        )
        likelihoods.append(fit.log_likelihood_)
    found = outcome.models[2]["report"]["comparison"]
    chi2 = 2 * (likelihoods[1] - likelihoods[0])
    assert found["chi2"] == pytest.approx(chi2, rel=1e-7)


def changed(frames: Frames, column: str) -> Frames:
    """One patient's value of hospital 3 is another one now."""
    later = {user: frame.copy() for user, frame in frames.items()}
    later[3].loc[0, column] = later[3].loc[0, column] + 1
    return later


@pytest.mark.parametrize("column", quick(["age", "id", "y"], 1))
def test_rows_that_have_changed_are_refused(tmp_path: Path, column: str) -> None:
    frames = made_rows(DEALS[3])
    if column == "id":
        frames[3]["id"] = frames[3]["id"] * 10
    if column == "y":
        frames[3].loc[0, "y"] = 0
    sites = study(tmp_path, frames)
    run_order(sites, body(frames, ["age"]))
    (sites[3].state / "hospital.duckdb").unlink()
    study(tmp_path, changed(frames, column))
    with pytest.raises(Refused, match="not those that model 1 was trained on") as error:
        run_order(sites, body(frames, ["age", "bmi"], compare=1), order_id=2)
    assert error.value.code == "compare"


# What the order says, and the reason.
OTHERS: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "no column more": (["age", "bmi"], {}, "it has no column more"),
    "a column less": (["age", "arm"], {}, "attributes that the order lacks"),
    "another label": (["age", "bmi", "arm"], {"label_name": "died"}, "label_name"),
    "another family": (
        ["age", "bmi", "arm"],
        {
            "model_type": "glm",
            "model_params": {"family": "binomial", "link": "probit"},
        },
        "model_type, family, link",
    ),
    "weights": (
        ["age", "bmi", "arm"],
        {
            "model_type": "glm",
            "model_params": {"family": "binomial", "weights": "count"},
        },
        "weights",
    ),
    "a model that is not there": (["age", "bmi"], {"compare": 9}, "9"),
}


@pytest.mark.parametrize("what", quick(list(OTHERS), 1))
def test_what_is_no_smaller_model_of_the_same_is_refused(
    tmp_path: Path, what: str
) -> None:
    attributes, fields, needle = OTHERS[what]
    frames = made_rows(DEALS[3])
    for frame in frames.values():
        frame["count"] += 1
    sites = study(tmp_path, frames)
    run_order(sites, body(frames, ["age", "bmi"]))
    order = body(frames, attributes, **{"compare": 1, **fields})
    with pytest.raises(ConsiliumError, match=needle) as error:
        run_order(sites, order, order_id=2)
    assert error.value.code in ("compare", "no_model")


@pytest.mark.parametrize(
    "params",
    [
        {"penalty": "L2"},
        {"penalty": "firth"},
        {"optimizer": "sgd"},
        {"cv_param": {"need_cv": True, "n_splits": 3}},
    ],
)
def test_an_order_without_a_likelihood_s_maximum_is_refused(
    params: dict[str, Any],
) -> None:
    frames = made_rows({2: 5, 3: 5, 4: 5})
    made = body(frames, ["age"], compare=1)
    made["model_params"] = {**made["model_params"], **params}
    with pytest.raises(ConsiliumError) as error:
        parse_training_request(made)
    assert error.value.code == "compare"
