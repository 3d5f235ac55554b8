"""Newton orders without an intercept: the fit is that of one table of all hospitals' rows
by statsmodels without a constant.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.tools.sm_exceptions import DomainWarning

from analytics.arrays import Floats
from analytics.training import families, pairs
from analytics.training.pairs import Pair
from deployments.local.one_process import OrderOutcome
from protocol.errors import BadRequest, Refused
from protocol.training_request import parse_training_request
from tests.made_newton import ATTRIBUTES, DEALS, columns_of, run
from tests.made_sites import order_body
from tests.pairwise import pairwise
from tests.pooled.test_glm_orders import (
    PAIRS,
    REFERENCE_LINKS,
    REFERENCES,
    made_labels,
)

NO_INTERCEPT = {"init_param": {"fit_intercept": False}}
OFFSET_PAIRS = [
    Pair("poisson", "log"),
    Pair("gamma", "log"),
    Pair("gaussian", "identity"),
    Pair("gamma", "inverse"),
]


def made_rows(pair: Pair, n_of: dict[int, int]) -> dict[int, pd.DataFrame]:
    """Attributes of far different sizes and far from 0; labels of gaussian, gamma and
    inverse_gaussian in thousands, but of log, where their unit is no factor of the model.
    """
    frames = {}
    for user, n_rows in n_of.items():
        rng = np.random.default_rng(user)
        age = rng.normal(60 + user, 9, n_rows)
        dose = rng.gamma(2, 3e-4, n_rows)
        sex = np.arange(n_rows) % 2
        eta = 0.02 * age + 300 * dose + 0.3 * sex
        if pair.is_binary:
            eta = -0.01 * age + 500 * dose + 0.3 * sex
        if pair.is_binary and pair.link == "log":
            eta = -0.012 * age - 200 * dose - 0.2 * sex
        y = made_labels(pair.family, REFERENCE_LINKS[pair.link]().inverse(eta), rng)
        if pair.has_dispersion and pair.link != "log":
            y = 1000 * y
        columns = {"age": age, "dose": dose, "sex": sex, "y": y}
        columns["time"] = rng.uniform(1.0, 2.0, n_rows)
        columns["part"] = rng.uniform(0.5, 3.0, n_rows)
        frames[user] = pd.DataFrame({"id": np.arange(n_rows), **columns})
    return frames


class Reference(NamedTuple):
    estimate: Floats
    se: Floats
    result: Any


def pooled_fit(
    frames: dict[int, pd.DataFrame],
    family: Any,
    *,
    cov_type: str = "nonrobust",
    **model: Any,
) -> Reference:
    """By statsmodels, over columns divided by their size, in the columns' units."""
    rows = pooled(frames)
    X = rows[ATTRIBUTES].to_numpy(dtype=float)
    size = np.sqrt(np.mean(X**2, axis=0))
    with warnings.catch_warnings():
        # Of links that allow means which the family does not know.
        warnings.simplefilter("ignore", DomainWarning)
        fitted = sm.GLM(rows["y"].to_numpy(dtype=float), X / size, family, **model)
        result = fitted.fit(
            maxiter=200,
            tol=1e-13,
            tol_criterion="params",
            cov_type=cov_type,
        )
    return Reference(
        np.asarray(result.params) / size, np.asarray(result.bse) / size, result
    )


def pooled(frames: dict[int, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([frames[user] for user in sorted(frames)])


def reference_family(pair: Pair) -> Any:
    return REFERENCES[pair.family](link=REFERENCE_LINKS[pair.link]())


def run_glm(
    folder: Path, frames: dict[int, pd.DataFrame], pair: Pair, **order: Any
) -> OrderOutcome:
    params = {"family": pair.family, "link": pair.link, **NO_INTERCEPT}
    params.update(order.pop("model_params", {}))
    return run(
        folder, frames, min_hospitals=1, model_type="glm", model_params=params, **order
    )


def check_estimates(outcome: OrderOutcome, expected: Reference) -> None:
    b, se, result = expected
    report = outcome.models[2]["report"]
    assert report["converged"]
    assert [term["term"] for term in report["terms"]] == ATTRIBUTES
    assert (np.abs(columns_of(outcome, "estimate") - b) <= 1e-9 * se).all()
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    assert report["deviance"] == pytest.approx(result.deviance, rel=1e-9)
    assert report["df_residual"] == result.df_resid


@pairwise(
    n_quick=1,
    pair=PAIRS,
    n_hospitals=sorted(DEALS),
    method=["Mask", "Paillier", "None"],
)
def test_a_glm_is_that_of_one_table(
    tmp_path: Path, pair: Pair, n_hospitals: int, method: str
) -> None:
    frames = made_rows(pair, DEALS[n_hospitals])
    outcome = run_glm(
        tmp_path,
        frames,
        pair,
        model_params={**NO_INTERCEPT, "encrypt_param": {"method": method}},
    )
    expected = pooled_fit(frames, reference_family(pair))
    check_estimates(outcome, expected)
    report = outcome.models[2]["report"]
    assert report["dispersion"] == pytest.approx(expected.result.scale, rel=1e-9)
    # Of three coefficients: 6 + 3 + 2 numbers a round.
    assert report["equations"] == 11 * report["rounds"]
    y = pooled(frames)["y"].to_numpy(dtype=float)
    at = families.means(pair, np.zeros(len(y)))
    null_deviance = None
    if families.is_valid(pair, at):
        of_zero = reference_family(pair).deviance(y, at.mu)
        null_deviance = pytest.approx(of_zero, rel=1e-9)
    assert report["null_deviance"] == null_deviance
    model = outcome.models[2]
    assert model["layers"]["dense"] == pytest.approx(expected.estimate, rel=1e-6)
    assert not model["fit_intercept"]


@pairwise(
    n_quick=1,
    kind=["lr", "linear"],
    n_hospitals=[2, 5, 1, 3],
    standardize=[True, False],
)
def test_lr_and_linear_are_those_of_one_table(
    tmp_path: Path, kind: str, n_hospitals: int, standardize: bool
) -> None:
    pair = Pair("binomial", "logit") if kind == "lr" else pairs.LEAST_SQUARES
    frames = made_rows(pair, DEALS[n_hospitals])
    outcome = run(
        tmp_path,
        frames,
        min_hospitals=1,
        model_type=kind,
        label_name="y",
        model_params={**NO_INTERCEPT, "standardize": standardize},
    )
    expected = pooled_fit(frames, reference_family(pair))
    check_estimates(outcome, expected)
    report, model = outcome.models[2]["report"], outcome.models[2]
    y = pooled(frames)["y"].to_numpy(dtype=float)
    null_deviance = 2 * len(y) * np.log(2) if kind == "lr" else np.sum(y**2)
    assert report["null_deviance"] == pytest.approx(null_deviance, rel=1e-9)
    # Predictions are those of the estimates, however the model is kept.
    assert (model["standardize"] is not None) == standardize
    X = frames[2][ATTRIBUTES].to_numpy(dtype=float)
    own = np.array(model["layers"]["dense"])
    if standardize:
        mean, size = model["standardize"]
        assert mean == [0.0, 0.0, 0.0]
        own = own / np.array(size)
    assert X @ own == pytest.approx(X @ expected.estimate, rel=1e-9)


@pytest.mark.thorough
def test_a_column_of_ones_is_the_intercept(tmp_path: Path) -> None:
    frames = made_rows(pairs.LEAST_SQUARES, DEALS[3])
    for frame in frames.values():
        frame["one"] = 1
    linear = {"model_type": "linear", "label_name": "y"}
    with_one = run(
        tmp_path / "one",
        frames,
        attributes=[*ATTRIBUTES, "one"],
        model_params=NO_INTERCEPT,
        **linear,
    )
    with_intercept = run(tmp_path / "intercept", frames, **linear)
    *slopes, one = columns_of(with_one, "estimate")
    found = columns_of(with_intercept, "estimate")
    assert [one, *slopes] == pytest.approx(list(found), rel=1e-9)
    *errors, error = columns_of(with_one, "se")
    expected = columns_of(with_intercept, "se")
    assert [error, *errors] == pytest.approx(list(expected), rel=1e-9)


@pytest.mark.parametrize(
    "pair",
    [
        OFFSET_PAIRS[1],
        *[
            pytest.param(pair, marks=pytest.mark.thorough)
            for pair in OFFSET_PAIRS
            if pair != OFFSET_PAIRS[1]
        ],
    ],
    ids=str,
)
def test_an_offset_is_that_of_one_table(tmp_path: Path, pair: Pair) -> None:
    frames = made_rows(pair, {2: 130, 3: 30, 4: 160})
    for frame in frames.values():
        if pair.link == "inverse":
            # So that the offset is no more than the rest.
            frame["y"] /= 1000
    outcome = run_glm(
        tmp_path,
        frames,
        pair,
        attributes=["age", "exposure", "dose", "sex"],
        derive={"exposure": "ln(time)"},
        model_params={**NO_INTERCEPT, "offset": "exposure"},
    )
    offset = np.log(pooled(frames)["time"].to_numpy())
    expected = pooled_fit(frames, reference_family(pair), offset=offset)
    check_estimates(outcome, expected)
    null_deviance = None
    if families.is_null_with_offset(pair):
        y = pooled(frames)["y"].to_numpy(dtype=float)
        at = families.means(pair, offset)
        of_offset = float(np.sum(families.unit_deviances(pair, y, at)))
        null_deviance = pytest.approx(of_offset, rel=1e-9)
    report = outcome.models[2]["report"]
    assert report["null_deviance"] == null_deviance
    age, exposure, dose, sex = outcome.models[2]["layers"]["dense"]
    assert exposure == pytest.approx(1, rel=1e-12)
    assert [age, dose, sex] == pytest.approx(list(expected.estimate), rel=1e-6)


def test_an_offset_far_from_the_others_is_refused_without_an_intercept(
    tmp_path: Path,
) -> None:
    """It is judged by its distance from the joint mean, and not from 0: the rows of this
    hospital would have all of the weight.
    """
    pair = Pair("poisson", "log")
    frames = made_rows(pair, {2: 60, 3: 60, 4: 60})
    for user, frame in frames.items():
        frame["far"] = 5.0 + 0.01 * np.arange(60)
        if user == 3:
            frame["far"] += 12
    order = {"attributes": [*ATTRIBUTES, "far"], "is_open": False}
    params = {**NO_INTERCEPT, "offset": "far"}
    with pytest.raises(Refused, match="offset of this hospital's rows") as refused:
        run_glm(tmp_path, frames, pair, model_params=params, **order)
    assert refused.value.code == "dominance"


@pytest.mark.thorough
@pytest.mark.parametrize("weights_type", ["prior", "frequency"])
@pytest.mark.parametrize(
    "pair",
    [Pair("gaussian", "log"), Pair("binomial", "probit"), Pair("gamma", "inverse")],
    ids=str,
)
def test_weights_are_those_of_one_table(
    tmp_path: Path, pair: Pair, weights_type: str
) -> None:
    frames = made_rows(pair, {2: 130, 3: 30, 4: 160})
    for frame in frames.values():
        if weights_type == "frequency":
            frame["part"] = np.arange(len(frame)) % 4
    params = {**NO_INTERCEPT, "weights": "part", "weights_type": weights_type}
    outcome = run_glm(tmp_path, frames, pair, model_params=params)
    m = pooled(frames)["part"].to_numpy(dtype=float)
    name = "var_weights" if weights_type == "prior" else "freq_weights"
    check_estimates(outcome, pooled_fit(frames, reference_family(pair), **{name: m}))
    y = pooled(frames)["y"].to_numpy(dtype=float)
    at = families.means(pair, np.zeros(len(y)))
    null_deviance = None
    if families.is_valid(pair, at):
        of_zero = float(np.sum(m * families.unit_deviances(pair, y, at)))
        null_deviance = pytest.approx(of_zero, rel=1e-9)
    assert outcome.models[2]["report"]["null_deviance"] == null_deviance


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["HC0", "HC1"])
def test_robust_errors_are_those_of_one_table(tmp_path: Path, kind: str) -> None:
    pair = Pair("poisson", "log")
    frames = made_rows(pair, DEALS[3])
    params = {**NO_INTERCEPT, "standard_errors": kind}
    outcome = run_glm(tmp_path, frames, pair, model_params=params)
    b, se, result = pooled_fit(frames, reference_family(pair), cov_type="HC0")
    if kind == "HC1":
        # R's, by n - p, which statsmodels leaves out of a glm's.
        n = len(pooled(frames))
        se = se * np.sqrt(n / (n - len(b)))
    check_estimates(outcome, Reference(b, se, result))


@pytest.mark.thorough
def test_clusters_may_be_as_few_as_columns_and_one(tmp_path: Path) -> None:
    """5 hospitals for 4 columns: with an intercept they would be too few."""
    pair = Pair("poisson", "log")
    frames = made_rows(pair, DEALS[5])
    order: dict[str, Any] = {
        "attributes": [*ATTRIBUTES, "time"],
        "model_params": {**NO_INTERCEPT, "cluster": "hospital"},
    }
    outcome = run_glm(tmp_path, frames, pair, **order)
    assert outcome.models[2]["report"]["clusters"] == 5
    order["model_params"] = {
        "cluster": "hospital",
        "init_param": {"fit_intercept": True},
    }
    with pytest.raises(BadRequest, match="the intercept among them"):
        run_glm(tmp_path / "more", frames, pair, **order)


def test_a_negative_binomial_is_that_of_one_table(tmp_path: Path) -> None:
    pair = Pair("negative_binomial", "log")
    frames = made_rows(Pair("poisson", "log"), DEALS[3])
    for user, frame in frames.items():
        rng = np.random.default_rng(user)
        frame["y"] = rng.poisson(frame["y"] * rng.gamma(2, 0.5, len(frame)))
    outcome = run_glm(tmp_path, frames, pair)
    report = outcome.models[2]["report"]
    family = sm.families.NegativeBinomial(alpha=1 / report["theta"])
    check_estimates(outcome, pooled_fit(frames, family))
    y = pooled(frames)["y"].to_numpy(dtype=float)
    of_one = family.deviance(y, np.ones(len(y)))
    assert report["null_deviance"] == pytest.approx(of_one, rel=1e-9)
    # The likelihood is highest at that theta.
    around = [
        pooled_fit(frames, sm.families.NegativeBinomial(alpha=alpha)).result.llf
        for alpha in np.array([0.98, 1.0, 1.02]) / report["theta"]
    ]
    assert max(around) == around[1]


@pytest.mark.thorough
def test_firth_s_score_is_0_at_the_estimates(tmp_path: Path) -> None:
    """sex separates the labels in part; leverages have no column of ones in them."""
    frames = made_rows(Pair("binomial", "logit"), DEALS[3])
    for frame in frames.values():
        frame.loc[frame["sex"] == 1, "y"] = 1.0
    params = {**NO_INTERCEPT, "penalty": "firth"}
    outcome = run(tmp_path, frames, model_params=params)
    X = pooled(frames)[ATTRIBUTES].to_numpy(dtype=float)
    y = pooled(frames)["y"].to_numpy(dtype=float)
    mu = 1 / (1 + np.exp(-X @ columns_of(outcome, "estimate")))
    W = mu * (1 - mu)
    covariance = np.linalg.inv(X.T @ (X * W[:, None]))
    leverages = W * np.sum((X @ covariance) * X, axis=1)
    step = covariance @ X.T @ (y - mu + leverages * (0.5 - mu))
    se = np.sqrt(np.diag(covariance))
    assert (np.abs(step) <= 1e-8 * se).all()
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-8)


@pytest.mark.thorough
@pytest.mark.parametrize("standardize", [False, True])
def test_a_penalty_is_of_columns_that_are_divided_only(
    tmp_path: Path, standardize: bool
) -> None:
    """Its score is 0 there: X' (y - mu) = N alpha b."""
    pair = Pair("binomial", "logit")
    frames = made_rows(pair, DEALS[3])
    params = {**NO_INTERCEPT, "penalty": "L2", "alpha": 0.1, "standardize": standardize}
    outcome = run(tmp_path, frames, model_params=params)
    X = pooled(frames)[ATTRIBUTES].to_numpy(dtype=float)
    if standardize:
        X = X / np.sqrt(np.mean(X**2, axis=0))
    b = np.array(outcome.models[2]["layers"]["dense"])
    y = pooled(frames)["y"].to_numpy(dtype=float)
    score = X.T @ (y - 1 / (1 + np.exp(-X @ b)))
    assert score == pytest.approx(0.1 * len(y) * b, rel=1e-7, abs=1e-7)
    assert {term["se"] for term in outcome.models[2]["report"]["terms"]} == {None}


# What is refused


def test_a_column_of_zeros_has_no_coefficient(tmp_path: Path) -> None:
    frames = made_rows(pairs.LEAST_SQUARES, DEALS[3])
    for frame in frames.values():
        frame["none"] = 0.0
    with pytest.raises(BadRequest, match=r"^none is 0 over all rows") as error:
        run_glm(
            tmp_path, frames, pairs.LEAST_SQUARES, attributes=["age", "sex", "none"]
        )
    assert error.value.code == "collinear"


def test_a_cell_of_few_people_is_none_without_an_intercept_either(
    tmp_path: Path,
) -> None:
    frames = made_rows(pairs.LEAST_SQUARES, {2: 400, 3: 400, 4: 400})
    for frame in frames.values():
        frame["rare"] = (np.arange(400) < 40).astype(int)
        frame.loc[:39, "sex"] = (np.arange(40) < 3).astype(int)
    with pytest.raises(Refused, match=r"table of rare and sex.* has a cell"):
        run_glm(
            tmp_path,
            frames,
            pairs.LEAST_SQUARES,
            is_open=False,
            attributes=["age", "rare", "sex"],
        )


@pytest.mark.parametrize(
    ("code", "change", "word"),
    [
        ("pooling", {"pooling": "meta"}, "estimates of models with an intercept"),
        ("site_effect", {"site_effect": "random"}, "about one of all hospitals"),
    ],
)
def test_what_needs_an_intercept_says_so(
    code: str, change: dict[str, Any], word: str
) -> None:
    params = {"optimizer": "newton", "penalty": None, "eps": 1e-8, **NO_INTERCEPT}
    params.update(change)
    body = order_body((2, 3, 4, 5, 6, 7), model_type="linear", model_params=params)
    with pytest.raises(BadRequest, match=word) as error:
        parse_training_request(body)
    assert error.value.code == code
