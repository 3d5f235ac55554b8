"""`model_type: glm`: the fit is that of one table of all hospitals' rows, by statsmodels
and by what R prints of known examples.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.tools.sm_exceptions import DomainWarning

from agents.gate.training_totals import training_totals
from agents.order.party import open_party
from agents.site.settings import load_settings
from agents.training.export import export_model
from agents.training.inference import predict, predict_values
from analytics.arrays import Floats
from analytics.training.families import is_null_with_offset
from analytics.training.pairs import LINKS as ALL_LINKS
from analytics.training.pairs import Pair
from protocol.errors import BadRequest, ConsiliumError, InvalidInput, Refused
from protocol.memory_transport import MemoryTransport
from protocol.message_plan import training_plan
from protocol.training_request import (
    order_document,
    parse_training_request,
    read_order_document,
)
from tests.made_newton import ATTRIBUTES, DEALS, columns_of, run
from tests.made_sites import order_body
from tests.pairwise import pairwise, quick

# Of negative_binomial: test_negative_binomial.py.
LINKS = {
    family: links
    for family, links in ALL_LINKS.items()
    if family != "negative_binomial"
}
PAIRS = [Pair(family, link) for family, links in LINKS.items() for link in links]

REFERENCES = {
    "gaussian": sm.families.Gaussian,
    "binomial": sm.families.Binomial,
    "poisson": sm.families.Poisson,
    "gamma": sm.families.Gamma,
    "inverse_gaussian": sm.families.InverseGaussian,
}
REFERENCE_LINKS = {
    "identity": sm.families.links.Identity,
    "log": sm.families.links.Log,
    "inverse": sm.families.links.InversePower,
    "inverse_squared": sm.families.links.InverseSquared,
    "sqrt": sm.families.links.Sqrt,
    "logit": sm.families.links.Logit,
    "probit": sm.families.links.Probit,
    "cloglog": sm.families.links.CLogLog,
}


def made_rows(pair: Pair, n_of: dict[int, int]) -> dict[int, pd.DataFrame]:
    """Attributes of far different sizes, and labels of a family at means by a link."""
    frames = {}
    for user, n_rows in n_of.items():
        rng = np.random.default_rng(user)
        age = rng.normal(60 + user, 9, n_rows)
        dose = rng.gamma(2, 3e-4, n_rows)
        sex = np.arange(n_rows) % 2
        effect = 0.02 * (age - 63) + 300 * (dose - 6e-4) + 0.3 * sex
        mu = made_means(pair, effect)
        y = made_labels(pair.family, mu, rng)
        columns = {"age": age, "dose": dose, "sex": sex, "y": y}
        frames[user] = pd.DataFrame({"id": np.arange(n_rows), **columns})
    return frames


def made_means(pair: Pair, effect: Floats) -> Floats:
    if pair.family == "binomial":
        eta = -1.5 + 0.3 * effect if pair.link == "log" else effect - 0.2
    elif pair.link == "log":
        eta = 1 + effect
    else:
        eta = 3 + 0.4 * effect
    return REFERENCE_LINKS[pair.link]().inverse(eta)


def made_labels(family: str, mu: Floats, rng: np.random.Generator) -> Floats:
    if family == "binomial":
        return (rng.uniform(size=len(mu)) < mu).astype(float)
    if family == "poisson":
        return rng.poisson(mu).astype(float)
    if family == "gaussian":
        return mu * rng.normal(1, 0.1, len(mu))
    if family == "gamma":
        return rng.gamma(9, mu / 9)
    return rng.wald(mu, 12 * mu)


class Fit(NamedTuple):
    estimate: Floats  # the intercept first
    se: Floats
    result: Any


def pooled_fit(
    frames: dict[int, pd.DataFrame],
    pair: Pair,
    *,
    offset: str | None = None,
    weights: dict[str, str] | None = None,
) -> Fit:
    """By statsmodels, over standardised columns, in the columns' units."""
    rows = pd.concat([frames[user] for user in sorted(frames)])
    X = np.column_stack([np.ones(len(rows)), rows[ATTRIBUTES]])
    middle, spread = X.mean(axis=0), X.std(axis=0)
    middle[0], spread[0] = 0, 1
    family = REFERENCES[pair.family](link=REFERENCE_LINKS[pair.link]())
    with warnings.catch_warnings():
        # Of links that allow means which the family does not know.
        warnings.simplefilter("ignore", DomainWarning)
        model = sm.GLM(
            rows["y"],
            (X - middle) / spread,
            family=family,
            offset=None if offset is None else rows[offset],
            **{name: rows[column] for name, column in (weights or {}).items()},
        )
    result = model.fit(maxiter=100, tol=1e-12, tol_criterion="params")
    T = np.diag(1 / spread)
    T[0] -= middle / spread
    covariance = T @ np.asarray(result.cov_params()) @ T.T
    return Fit(T @ np.asarray(result.params), np.sqrt(np.diag(covariance)), result)


def run_glm(
    folder: Path, frames: dict[int, pd.DataFrame], pair: Pair, **order: Any
) -> Any:
    params = {"family": pair.family, "link": pair.link}
    params.update(order.pop("model_params", {}))
    return run(
        folder, frames, min_hospitals=1, model_type="glm", model_params=params, **order
    )


@pairwise(
    n_quick=2,
    pair=PAIRS,
    n_hospitals=sorted(DEALS),
    method=["Mask", "Paillier", "None"],
)
def test_a_glm_is_that_of_one_table(
    tmp_path: Path, pair: Pair, n_hospitals: int, method: str
) -> None:
    frames = made_rows(pair, DEALS[n_hospitals])
    outcome = run_glm(
        tmp_path, frames, pair, model_params={"encrypt_param": {"method": method}}
    )
    b, se, result = pooled_fit(frames, pair)
    report = outcome.models[2]["report"]
    assert report["converged"]
    assert (np.abs(columns_of(outcome, "estimate") - b) <= 1e-9 * se).all()
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    assert report["deviance"] == pytest.approx(result.deviance, rel=1e-9)
    assert report["null_deviance"] == pytest.approx(result.null_deviance, rel=1e-9)
    assert report["dispersion"] == pytest.approx(result.scale, rel=1e-9)
    assert report["statistic"] == ("t" if pair.has_dispersion else "z")
    assert (report["family"], report["link"]) == (pair.family, pair.link)
    own = outcome.models[2]
    intercept, *slopes = columns_of(outcome, "estimate")
    assert own["layers"]["dense"] == pytest.approx([*slopes, intercept], rel=1e-9)


@pytest.mark.parametrize(
    ("pair", "name"),
    [
        pytest.param(Pair("poisson", "log"), "rate_ratio"),
        pytest.param(Pair("binomial", "log"), "risk_ratio", marks=pytest.mark.thorough),
        pytest.param(
            Pair("gamma", "log"), "ratio_of_means", marks=pytest.mark.thorough
        ),
        pytest.param(Pair("binomial", "probit"), None, marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_exp_of_an_estimate_is_named_by_what_it_is(
    tmp_path: Path, pair: Pair, name: str | None
) -> None:
    outcome = run_glm(tmp_path, made_rows(pair, DEALS[3]), pair)
    age = outcome.models[2]["report"]["terms"][1]
    named = {
        field
        for field in age
        if "ratio" in field and not field.endswith(("_low", "_high"))
    }
    assert named == ({name} if name else set())
    if name:
        assert age[name] == pytest.approx(np.exp(age["estimate"]))


def dealt(frame: pd.DataFrame, n_hospitals: int = 3) -> dict[int, pd.DataFrame]:
    frame = frame.assign(id=np.arange(len(frame)))
    return {
        2 + place: frame.iloc[place::n_hospitals].reset_index(drop=True)
        for place in range(n_hospitals)
    }


def test_dobson_s_counts(tmp_path: Path) -> None:
    """R's example of glm: Dobson (1990) page 93."""
    rows = pd.DataFrame(
        {
            "y": [18.0, 17, 15, 20, 10, 20, 25, 13, 12],
            "outcome": [1, 2, 3] * 3,
            "treatment": [1] * 3 + [2] * 3 + [3] * 3,
        }
    )
    for name in ("outcome", "treatment"):
        for level in (2, 3):
            rows[f"{name}{level}"] = (rows[name] == level).astype(float)
    attributes = ["outcome2", "outcome3", "treatment2", "treatment3"]
    # Nine rows are too few for three hospitals' rules on five coefficients.
    outcome = run_glm(
        tmp_path,
        dealt(rows, 1),
        Pair("poisson", "log"),
        attributes=attributes,
    )
    expected = [3.0445, -0.4543, -0.2930, 0, 0]
    assert columns_of(outcome, "estimate") == pytest.approx(expected, abs=5e-5)
    errors = [0.1709, 0.2022, 0.1927, 0.2000, 0.2000]
    assert columns_of(outcome, "se") == pytest.approx(errors, abs=5e-5)
    report = outcome.models[2]["report"]
    assert report["deviance"] == pytest.approx(5.1291, abs=5e-5)
    assert report["null_deviance"] == pytest.approx(10.5814, abs=5e-5)
    assert report["aic"] == pytest.approx(56.7613, abs=5e-5)
    assert report["df_residual"] == 4
    assert report["rounds"] == 5


def test_clotting_times(tmp_path: Path) -> None:
    """R's example of glm: McCullagh and Nelder (1989), pages 300-2, lot 1."""
    times = [118.0, 58, 42, 35, 27, 25, 21, 19, 18]
    u = [5, 10, 15, 20, 30, 40, 60, 80, 100]
    rows = pd.DataFrame({"y": times, "log_u": np.log(u)})
    outcome = run_glm(
        tmp_path, dealt(rows, 1), Pair("gamma", "inverse"), attributes=["log_u"]
    )
    estimates = columns_of(outcome, "estimate")
    assert estimates == pytest.approx([-0.01655438, 0.01534311], abs=5e-9)
    errors = [0.0009275454, 0.0004149591]
    assert columns_of(outcome, "se") == pytest.approx(errors, rel=1e-5)
    report = outcome.models[2]["report"]
    assert report["deviance"] == pytest.approx(0.01673, abs=5e-6)
    assert report["null_deviance"] == pytest.approx(3.51283, abs=5e-6)
    assert report["dispersion"] == pytest.approx(0.002446059, rel=1e-5)
    assert report["aic"] == pytest.approx(37.9899, abs=5e-5)


def test_quasi_poisson_has_a_dispersion_and_no_likelihood(tmp_path: Path) -> None:
    pair = Pair("poisson", "log")
    frames = made_rows(pair, DEALS[3])
    outcome = run_glm(tmp_path, frames, pair, model_params={"dispersion": "estimate"})
    _, se, result = pooled_fit(frames, pair)
    report = outcome.models[2]["report"]
    dispersion = result.pearson_chi2 / result.df_resid
    assert report["dispersion"] == pytest.approx(dispersion, rel=1e-9)
    found = columns_of(outcome, "se")
    assert found == pytest.approx(se * np.sqrt(dispersion), rel=1e-9)
    assert report["statistic"] == "t"
    assert report["aic"] is None
    assert report["log_likelihood"] is None


# An offset


@pytest.mark.parametrize(
    "pair",
    [
        Pair("poisson", "log"),
        pytest.param(Pair("gamma", "log"), marks=pytest.mark.thorough),
        pytest.param(Pair("gamma", "inverse"), marks=pytest.mark.thorough),
        pytest.param(Pair("gaussian", "identity"), marks=pytest.mark.thorough),
        pytest.param(Pair("binomial", "cloglog"), marks=pytest.mark.thorough),
        pytest.param(Pair("binomial", "logit"), marks=pytest.mark.thorough),
        pytest.param(Pair("binomial", "probit"), marks=pytest.mark.thorough),
        pytest.param(Pair("poisson", "sqrt"), marks=pytest.mark.thorough),
        pytest.param(Pair("gaussian", "log"), marks=pytest.mark.thorough),
        pytest.param(Pair("gaussian", "inverse"), marks=pytest.mark.thorough),
        pytest.param(Pair("inverse_gaussian", "log"), marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_an_offset_is_that_of_one_table(tmp_path: Path, pair: Pair) -> None:
    """A derived one, the second of four columns of the model."""
    frames = made_rows(pair, {2: 130, 3: 30, 4: 160})
    for user, frame in frames.items():
        rng = np.random.default_rng(user)
        frame["time"] = rng.uniform(1.0, 2.0, len(frame))
        frame["log_time"] = np.log(frame["time"])
    outcome = run_glm(
        tmp_path,
        frames,
        pair,
        attributes=["age", "exposure", "dose", "sex"],
        derive={"exposure": "ln(time)"},
        model_params={"offset": "exposure"},
    )
    b, se, result = pooled_fit(frames, pair, offset="log_time")
    report = outcome.models[2]["report"]
    assert [term["term"] for term in report["terms"]] == ["(Intercept)", *ATTRIBUTES]
    assert (np.abs(columns_of(outcome, "estimate") - b) <= 1e-9 * se).all()
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    assert report["deviance"] == pytest.approx(result.deviance, rel=1e-9)
    assert report["df_residual"] == result.df_resid
    assert report["offset"] == "exposure"
    assert report["null_deviance"] == pytest.approx(
        null_deviance_of(frames, pair), rel=1e-9
    )
    # The kept model has it as a column with a coefficient of 1.
    age, exposure, dose, sex, intercept = outcome.models[2]["layers"]["dense"]
    assert exposure == pytest.approx(1, rel=1e-12)
    assert [intercept, age, dose, sex] == pytest.approx(list(b), rel=1e-6)
    # Of four coefficients, not of five: 10 + 4 + 2 numbers a round, and of the null model
    # 1 + 1 + 2 where that has no formula.
    n_of_round = 16 if is_null_with_offset(pair) else 20
    assert report["equations"] == n_of_round * report["rounds"]


def test_few_rows_do_not_make_up_the_null_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attribute takes the offset back, so that all rows weigh alike in the model; in the
    null model all are sure but five.
    """
    frames = {}
    for user in (2, 3, 4):
        rng = np.random.default_rng(user)
        exposure = rng.choice([-8.0, 8.0], 120) + rng.normal(0, 0.3, 120)
        exposure[:5] = rng.normal(0, 0.3, 5)
        frame = pd.DataFrame({"id": np.arange(120), "exposure": exposure})
        frame["against"] = exposure + rng.normal(0, 0.5, 120)
        frame["y"] = rng.integers(0, 2, 120)
        frames[user] = frame
    words: dict[str, Any] = {
        "model_type": "glm",
        "attributes": ["exposure", "against"],
        "model_params": {"family": "binomial", "offset": "exposure"},
        "is_open": False,
    }
    with pytest.raises(Refused) as error:
        run(tmp_path / "refused", frames, **words)
    assert error.value.code in ("dominance", "max_share")
    monkeypatch.setattr("agents.training.null_model.check_probe", lambda *_, **__: None)
    assert run(tmp_path / "told", frames, **words).models


def null_deviance_of(frames: dict[int, pd.DataFrame], pair: Pair) -> float:
    """statsmodels' own one is as far as its usual steps go."""
    rows = pd.concat(frames.values())
    family = REFERENCES[pair.family](link=REFERENCE_LINKS[pair.link]())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DomainWarning)
        model = sm.GLM(
            rows["y"], np.ones(len(rows)), family=family, offset=rows["log_time"]
        )
    fitted = model.fit(maxiter=100, tol=1e-12, tol_criterion="params")
    return float(fitted.deviance)


def test_two_rows_do_not_make_up_the_product_of_label_and_offset(
    tmp_path: Path,
) -> None:
    """It is opened for the null deviance. Two rows of an offset far from the others' would
    tell their labels by it.
    """
    pair = Pair("poisson", "log")
    frames = made_rows(pair, {2: 120, 3: 120, 4: 120})
    for user, frame in frames.items():
        rng = np.random.default_rng(40 + user)
        frame["exposure"] = rng.normal(0, 1e-3, len(frame))
        if user == 2:
            frame.loc[:1, "exposure"] = 3.0
        frame["y"] = rng.poisson(20 * np.exp(frame["exposure"])).astype(float)
    order = {"attributes": ["exposure", *ATTRIBUTES], "is_open": False}
    with pytest.raises(Refused) as error:
        run_glm(tmp_path, frames, pair, model_params={"offset": "exposure"}, **order)
    assert error.value.code == "max_share"


@pytest.mark.thorough
def test_a_constant_offset_shifts_the_intercept(tmp_path: Path) -> None:
    pair = Pair("poisson", "log")
    frames = made_rows(pair, DEALS[3])
    for frame in frames.values():
        frame["same"] = 0.75
    without = run_glm(tmp_path / "without", frames, pair)
    shifted = run_glm(
        tmp_path / "with",
        frames,
        pair,
        attributes=["same", *ATTRIBUTES],
        model_params={"offset": "same"},
    )
    _, se, _ = pooled_fit(frames, pair)
    gap = columns_of(shifted, "estimate") - columns_of(without, "estimate")
    gap[0] += 0.75
    assert (np.abs(gap) <= 1e-9 * se).all()


def test_an_offset_in_which_few_rows_weigh(tmp_path: Path) -> None:
    """exp of it is how much each row counts: here that of nine, whose time is 1e6."""
    pair = Pair("poisson", "log")
    frames = made_rows(pair, {2: 60, 3: 60, 4: 60})
    for frame in frames.values():
        frame["exposure"] = np.random.default_rng(1).uniform(0, 1, 60)
    frames[3].loc[:8, "exposure"] = np.log(1e6)
    order = {
        "attributes": ["age", "dose", "exposure"],
        "model_params": {"offset": "exposure"},
        "is_open": False,
    }
    with pytest.raises(Refused) as error:
        run_glm(tmp_path, frames, pair, **order)
    assert error.value.code == "dominance"


@pytest.mark.parametrize(
    "change",
    [
        {"attributes": ["x1", "x2"]},
        {"attributes": ["x1", "t"], "categorical": {"t": {}}},
        {"attributes": ["x1", "t"], "derive": {"t": "ns(x2, 1, 2, 3)"}},
        {"attributes": ["t"]},
    ],
    ids=["unlisted", "category", "spline", "alone"],
)
def test_an_offset_is_an_attribute_of_numbers(change: dict[str, Any]) -> None:
    body = {**body_of({"family": "poisson", "offset": "t"}), **change}
    with pytest.raises(BadRequest) as error:
        parse_training_request(body)
    assert error.value.code == "offset"


def test_an_offset_is_in_the_document() -> None:
    body = body_of({"family": "poisson", "offset": "x1"})
    request = parse_training_request(body)
    document = order_document(1, request, {2: "a", 3: "b", 4: "c"})
    read, _ = read_order_document(document, 1)
    assert read.model_params.offset == "x1"


@pytest.mark.thorough
def test_the_order_of_hospitals_does_not_matter(tmp_path: Path) -> None:
    pair = Pair("gamma", "log")
    frames = made_rows(pair, DEALS[3])
    turned = dict(zip(frames, reversed(list(frames.values())), strict=True))
    first = run_glm(tmp_path / "a", frames, pair)
    second = run_glm(tmp_path / "b", turned, pair)
    _, se, _ = pooled_fit(frames, pair)
    gap = columns_of(first, "estimate") - columns_of(second, "estimate")
    assert (np.abs(gap) <= 1e-9 * se).all()


@pytest.mark.thorough
def test_cross_validation_of_a_glm(tmp_path: Path) -> None:
    pair = Pair("poisson", "log")
    folds = {"cv_param": {"need_cv": True, "n_splits": 2}}
    frames = made_rows(pair, {2: 130, 3: 90, 4: 130})
    outcome = run_glm(tmp_path, frames, pair, model_params=folds)
    (summary,) = [facts["summary"] for facts in outcome.facts if "summary" in facts]
    assert summary["held_out"]["n_rows"] == 350
    assert summary["held_out"]["rmse"] == pytest.approx(
        summary["held_out"]["mse"] ** 0.5
    )
    assert summary["0"]["loss"] is None


def test_a_binomial_glm_is_lr(tmp_path: Path) -> None:
    pair = Pair("binomial", "logit")
    frames = made_rows(pair, DEALS[3])
    glm = run_glm(tmp_path / "glm", frames, pair)
    lr = run(tmp_path / "lr", frames, min_hospitals=1, model_type="lr")
    own, other = glm.models[2]["report"], lr.models[2]["report"]
    assert own["null_deviance"] == pytest.approx(other.pop("null_deviance"))
    assert own.pop("null_deviance") > own["deviance"]
    assert own.pop("deviance") == pytest.approx(other.pop("deviance"), rel=1e-14)
    for name in ("log_likelihood", "aic"):
        assert own.pop(name) == pytest.approx(other.pop(name), rel=1e-14)
    assert own == other
    assert glm.models[2]["layers"] == lr.models[2]["layers"]


# Weights


def weighted_rows(pair: Pair) -> dict[int, pd.DataFrame]:
    frames = made_rows(pair, {2: 130, 3: 30, 4: 160})
    for user, frame in frames.items():
        rng = np.random.default_rng(user)
        frame["m"] = rng.integers(0, 4, len(frame))
        frame["part"] = rng.uniform(0.5, 3.0, len(frame))
    return frames


@pairwise(
    n_quick=2,
    pair=[
        Pair("poisson", "log"),
        Pair("gaussian", "identity"),
        Pair("gamma", "log"),
        Pair("binomial", "logit"),
        Pair("binomial", "cloglog"),
        Pair("inverse_gaussian", "inverse_squared"),
    ],
    weights_type=["prior", "frequency"],
)
def test_weights_are_those_of_one_table(
    tmp_path: Path, pair: Pair, weights_type: str
) -> None:
    frames = weighted_rows(pair)
    column, of_reference = "part", "var_weights"
    if weights_type == "frequency":
        column, of_reference = "m", "freq_weights"
    outcome = run_glm(
        tmp_path,
        frames,
        pair,
        model_params={"weights": column, "weights_type": weights_type},
    )
    b, se, result = pooled_fit(frames, pair, weights={of_reference: column})
    report = outcome.models[2]["report"]
    assert (np.abs(columns_of(outcome, "estimate") - b) <= 1e-9 * se).all()
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    assert report["deviance"] == pytest.approx(result.deviance, rel=1e-9)
    assert report["null_deviance"] == pytest.approx(result.null_deviance, rel=1e-9)
    assert report["dispersion"] == pytest.approx(result.scale, rel=1e-9)
    assert report["df_residual"] == result.df_resid
    assert (report["weights"], report["weights_type"]) == (column, weights_type)


@pytest.mark.parametrize(
    "pair", quick([Pair(family, links[0]) for family, links in LINKS.items()], 1)
)
def test_a_frequency_is_so_many_rows(tmp_path: Path, pair: Pair) -> None:
    """A weight of 2 is a doubled row, one of 0 a dropped one."""
    frames = weighted_rows(pair)
    weighted = run_glm(
        tmp_path / "weighted",
        frames,
        pair,
        model_params={"weights": "m", "weights_type": "frequency"},
    ).models[2]["report"]
    doubled = {}
    for user, frame in frames.items():
        rows = frame.loc[frame.index.repeat(frame["m"])]
        doubled[user] = rows.assign(id=np.arange(len(rows)))
    plain = run_glm(tmp_path / "doubled", doubled, pair).models[2]["report"]
    for name in ("deviance", "null_deviance", "log_likelihood", "aic", "dispersion"):
        assert weighted[name] == pytest.approx(plain[name], rel=1e-9)
    assert (weighted["n"], weighted["df_residual"]) == (
        plain["n"],
        plain["df_residual"],
    )
    assert weighted["notes"] == plain["notes"]
    for one, other in zip(weighted["terms"], plain["terms"], strict=True):
        assert one["se"] == pytest.approx(other["se"], rel=1e-9)
        assert abs(one["estimate"] - other["estimate"]) <= 1e-9 * other["se"]


@pytest.mark.thorough
def test_the_likelihood_of_precisions(tmp_path: Path) -> None:
    """Of gaussian a prior weight is a precision, as R counts it."""
    pair = Pair("gaussian", "identity")
    frames = weighted_rows(pair)
    report = run_glm(tmp_path, frames, pair, model_params={"weights": "part"}).models[
        2
    ]["report"]
    _, _, result = pooled_fit(frames, pair, weights={"var_weights": "part"})
    rows = pd.concat(frames.values())
    variance = report["deviance"] / len(rows)
    expected = stats.norm.logpdf(
        rows["y"], result.fittedvalues, np.sqrt(variance / rows["part"])
    )
    assert report["log_likelihood"] == pytest.approx(expected.sum(), rel=1e-9)
    assert report["aic"] == pytest.approx(2 * 5 - 2 * expected.sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("value", "weights_type", "code"),
    quick(
        [
            (-1.0, "prior", "weights"),
            (np.inf, "prior", "weights"),
            (1.5, "frequency", "weights"),
            (np.nan, "prior", "null"),
        ],
        2,
    ),
)
def test_a_weight_that_is_none(
    tmp_path: Path, value: float, weights_type: str, code: str
) -> None:
    pair = Pair("poisson", "log")
    frames = made_rows(pair, {2: 40, 3: 40, 4: 40})
    for frame in frames.values():
        frame["m"] = 1.0
    frames[2].loc[7, "m"] = value
    params = {"weights": "m", "weights_type": weights_type}
    with pytest.raises(BadRequest, match=r"\bm\b") as error:
        run_glm(tmp_path, frames, pair, model_params=params)
    assert error.value.code == code
    assert str(value) not in str(error.value)


@pytest.mark.parametrize("weights_type", ["prior", "frequency"])
def test_weights_that_are_all_0_are_refused(tmp_path: Path, weights_type: str) -> None:
    frames = made_rows(Pair("poisson", "log"), {2: 40, 3: 40, 4: 40})
    for frame in frames.values():
        frame["m"] = 0.0
    params = {"weights": "m", "weights_type": weights_type}
    with pytest.raises(BadRequest, match="All weights in m are 0") as error:
        run_glm(tmp_path, frames, Pair("poisson", "log"), model_params=params)
    assert error.value.code == "weights"
    assert error.value.remedy


@pytest.mark.parametrize("constant", quick([1.0, 2.0], 1))
def test_constant_weights_change_no_estimate(tmp_path: Path, constant: float) -> None:
    """Those of 1 equal none; of poisson others divide variances by themselves."""
    pair = Pair("poisson", "log")
    frames = made_rows(pair, DEALS[3])
    plain = run_glm(tmp_path / "plain", frames, pair)
    for frame in frames.values():
        frame["m"] = constant
    weighted = run_glm(
        tmp_path / "weighted", frames, pair, model_params={"weights": "m"}
    )
    se = columns_of(plain, "se")
    gap = columns_of(weighted, "estimate") - columns_of(plain, "estimate")
    assert (np.abs(gap) <= 1e-9 * se).all()
    expected = se / np.sqrt(constant)
    assert columns_of(weighted, "se") == pytest.approx(expected, rel=1e-9)


def test_few_rows_do_not_have_all_the_weight(tmp_path: Path) -> None:
    pair = Pair("gaussian", "identity")
    frames = made_rows(pair, {2: 60, 3: 60, 4: 60})
    for user, frame in frames.items():
        frame["m"] = np.random.default_rng(user).uniform(0.5, 1.5, 60)
    frames[4].loc[:2, "m"] = 50
    order = {"attributes": ["age", "dose"], "model_params": {"weights": "m"}}
    with pytest.raises(Refused) as error:
        run_glm(tmp_path / "three", frames, pair, is_open=False, **order)
    assert error.value.code == "min_varying"
    frames[4].loc[:10, "m"] = 8
    more = run_glm(tmp_path / "eleven", frames, pair, is_open=False, **order)
    assert more.models[2]["report"]["n"] == 180


@pytest.mark.parametrize(
    ("code", "params"),
    [
        ("weights", {"weights": "x1"}),
        ("weights", {"weights": "y"}),
        ("weights_type", {"weights_type": "frequency"}),
    ],
)
def test_weights_have_a_column_of_their_own(code: str, params: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as error:
        parse_training_request(body_of({"family": "poisson", **params}))
    assert error.value.code == code


def test_weights_are_in_the_document_and_among_what_is_opened() -> None:
    body = body_of({"family": "poisson", "weights": "m"})
    request = parse_training_request(body)
    document = order_document(1, request, {2: "a", 3: "b", 4: "c"})
    read, _ = read_order_document(document, 1)
    assert (read.weights, read.model_params.weights_type) == ("m", "prior")
    assert all((2, "m") in total.parts for total in training_totals(read)[-2:])


# The kept model


def test_predictions_are_means(tmp_path: Path) -> None:
    """With the offset of each row, and none where the family has no such mean."""
    pair = Pair("gamma", "inverse")
    frames = made_rows(pair, DEALS[3])
    for frame in frames.values():
        frame["shift"] = np.random.default_rng(5).uniform(0, 1, len(frame))
    outcome = run_glm(
        tmp_path,
        frames,
        pair,
        attributes=[*ATTRIBUTES, "shift"],
        model_params={"offset": "shift"},
    )
    b = columns_of(outcome, "estimate")
    settings = load_settings(tmp_path / "hospital-3")
    party = open_party(settings, 1, MemoryTransport())
    predicted = predict(party, 1, "SELECT * FROM data.rows WHERE id < 5")
    own = frames[3].head(5)
    eta = b[0] + own[ATTRIBUTES].to_numpy() @ b[1:] + own["shift"].to_numpy()
    expected = list(1 / eta)
    assert [row["label"] for row in predicted] == pytest.approx(expected, rel=1e-9)
    far = {"age": 60.0, "dose": 0.0, "sex": 0, "shift": -1000.0}
    (row,) = predict_values(party, 1, [far])
    assert row["label"] is None
    assert row["reason"] == "a mean that gamma does not know"


def test_an_export_has_family_and_link(tmp_path: Path) -> None:
    pair = Pair("poisson", "sqrt")
    outcome = run_glm(tmp_path, made_rows(pair, DEALS[3]), pair)
    exported = export_model(outcome.models[2], "json")
    assert (exported["family"], exported["link"]) == ("poisson", "sqrt")
    assert len(exported["dense"]) == 4
    with pytest.raises(BadRequest, match="scikit-learn has no glm model"):
        export_model(outcome.models[2], "sklearn")


# What is refused


@pytest.mark.parametrize(
    ("family", "bad", "asked"),
    quick(
        [
            ("poisson", -1.0, "a whole number of 0 or more"),
            ("poisson", 1.5, "a whole number of 0 or more"),
            ("gamma", 0.0, "above 0"),
            ("inverse_gaussian", -2.0, "above 0"),
            ("binomial", 0.5, "other than 0 and 1"),
        ],
        2,
    ),
)
def test_a_label_that_the_family_does_not_know(
    tmp_path: Path, family: str, bad: float, asked: str
) -> None:
    pair = Pair(family, LINKS[family][0])
    frames = made_rows(pair, {2: 40, 3: 40, 4: 40})
    frames[2].loc[7, "y"] = bad
    with pytest.raises(BadRequest, match=asked) as error:
        run_glm(tmp_path, frames, pair)
    assert error.value.code == "label"
    assert str(bad) not in str(error.value)


def test_a_count_that_no_row_of_a_level_has_is_separated(tmp_path: Path) -> None:
    pair = Pair("poisson", "log")
    frames = made_rows(pair, DEALS[3])
    for frame in frames.values():
        frame.loc[frame["sex"] == 1, "y"] = 0.0
    with pytest.raises((BadRequest, Refused)) as error:
        run_glm(tmp_path, frames, pair)
    assert error.value.code in ("separated", "linear_predictor")


@pytest.mark.parametrize("n_counts", quick([0, 1], 1))
@pytest.mark.parametrize(
    "pair",
    quick(
        [
            Pair("poisson", "log"),
            Pair("negative_binomial", "log"),
            Pair("poisson", "sqrt"),
            Pair("poisson", "identity"),
        ],
        2,
    ),
    ids=str,
)
def test_no_count_at_all_is_said_in_the_first_round(
    tmp_path: Path, pair: Pair, n_counts: int
) -> None:
    frames = made_rows(Pair("poisson", "log"), {2: 90, 3: 80, 4: 70})
    for frame in frames.values():
        frame["y"] = 0.0
    frames[3].loc[: n_counts - 1, "y"] = 1.0
    with pytest.raises((BadRequest, Refused)) as error:
        run_glm(tmp_path, frames, pair)
    if n_counts:
        assert error.value.code != "no_events"
        return
    assert error.value.code == "no_events"
    assert "above 0 in y" in str(error.value)
    assert "label_name" in error.value.remedy


@pytest.mark.thorough
def test_no_count_at_all_of_weighted_rows(tmp_path: Path) -> None:
    frames = weighted_rows(Pair("poisson", "log"))
    for frame in frames.values():
        frame["y"] = 0.0
    with pytest.raises(BadRequest) as error:
        run_glm(
            tmp_path,
            frames,
            Pair("poisson", "log"),
            model_params={"weights": "part"},
        )
    assert error.value.code == "no_events"


def test_one_row_is_no_hospital_s_weight(tmp_path: Path) -> None:
    """W of gamma with the inverse link is mu^2: the largest times outweigh the rest."""
    pair = Pair("gamma", "inverse")
    frames = made_rows(pair, {2: 60, 3: 60, 4: 60})
    frames[3].loc[:1, "y"] = 300.0
    with pytest.raises(Refused) as error:
        run_glm(tmp_path, frames, pair, is_open=False)
    assert error.value.code in ("max_share", "dominance")


@pytest.mark.parametrize(
    ("field", "params"),
    [
        ("family", {}),
        ("link", {"family": "gamma", "link": "logit"}),
        ("dispersion", {"family": "gamma", "dispersion": "fixed"}),
        ("optimizer", {"family": "gamma", "optimizer": "adam"}),
        ("optimizer", {"family": "gamma", "penalty": "L1"}),
    ],
)
def test_what_does_not_go_together(field: str, params: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as error:
        parse_training_request(body_of(params))
    assert error.value.code == field


def test_words_of_a_glm_are_for_a_glm() -> None:
    body = order_body((2, 3, 4), model_params={"family": "gamma"})
    with pytest.raises(BadRequest, match="no glm") as error:
        parse_training_request(body)
    assert error.value.code == "family"
    with pytest.raises(InvalidInput, match="family"):
        parse_training_request(body_of({"family": "weibull"}))


def body_of(params: dict[str, Any] | None) -> dict[str, Any]:
    body = order_body((2, 3, 4), model_type="GLM")
    body["model_params"] = params
    return body


def test_what_an_order_leaves_out_is_written_out() -> None:
    request = parse_training_request(body_of({"family": "Poisson"}))
    document = order_document(1, request, {2: "a", 3: "b", 4: "c"})
    read, _ = read_order_document(document, 1)
    params = read.model_params
    assert (params.link, params.dispersion) == ("log", "fixed")
    assert (params.optimizer, params.penalty) == ("newton", None)
    assert (params.max_iter, params.tolerance) == (25, 1e-8)
    assert training_plan(read, most_bytes=2**25).kinds["gradient"].last_round == 25
    of_lr = parse_training_request(order_body((2, 3, 4)))
    assert "family" not in order_document(1, of_lr, {2: "a", 3: "b", 4: "c"})


def test_means_out_of_a_family_s_range_are_named(tmp_path: Path) -> None:
    """A line through counts that fall to 0 is below it somewhere."""
    pair = Pair("poisson", "identity")
    frames = made_rows(pair, {2: 60, 3: 60, 4: 60})
    for frame in frames.values():
        frame["age"] = np.linspace(-1, 1, 60) ** 3
        frame["y"] = np.where(frame["age"] > 0, np.round(20 * frame["age"]), 0.0)
    with pytest.raises(ConsiliumError) as error:
        run_glm(tmp_path, frames, pair, attributes=["age"])
    assert error.value.code == "mean_range"
    assert "link log" in str(error.value.remedy)
