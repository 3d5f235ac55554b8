"""`pooling` meta: each hospital's own estimates, combined as statsmodels combines them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from agents.training import meta
from agents.training.report_text import as_csv
from analytics.arrays import Floats
from deployments.local.one_process import run_order
from protocol.errors import ConsiliumError
from protocol.training_request import parse_training_request
from tests.made_sites import make_sites, order_body
from tests.made_statistics import no_waiting_for_disks
from tests.pairwise import quick

USERS = (2, 3, 4, 5, 6, 7)
FAMILIES: dict[str, Any] = {
    "gaussian": sm.families.Gaussian(),
    "binomial": sm.families.Binomial(),
    "poisson": sm.families.Poisson(),
}


@pytest.fixture(autouse=True)
def _fast() -> Iterator[None]:
    with no_waiting_for_disks():
        yield


def patients(user: int) -> pd.DataFrame:
    """Hospitals that differ in who comes, and in what dose does."""
    rng = np.random.default_rng(user)
    n_rows = 90 + 40 * user
    frame = pd.DataFrame({"id": np.arange(n_rows) + 1000 * user})
    frame["age"] = np.round(rng.normal(60 + user, 9, n_rows), 1)
    frame["dose"] = np.round(rng.gamma(2, 3e-3, n_rows), 6)
    frame["days"] = np.round(rng.uniform(1, 3, n_rows), 2)
    eta = -3 + 0.04 * frame["age"] + (20 + 25 * user) * frame["dose"]
    frame["gaussian"] = np.round(1e3 + 40 * eta + rng.normal(0, 60, n_rows), 2)
    p = 1 / (1 + np.exp(-eta))
    frame["binomial"] = (rng.random(n_rows) < p).astype(int)
    frame["poisson"] = rng.poisson(np.exp(eta / 2) * frame["days"])
    return frame


def order(
    folder: Path,
    frames: dict[int, pd.DataFrame],
    family: str,
    *,
    policy: dict[str, Any] | None = None,
    hospital_sums: bool = False,
    sites: Any = None,
    order_id: int = 1,
    **params: Any,
) -> Any:
    if sites is None:
        tables = {user: {"rows": rows} for user, rows in frames.items()}
        sites = make_sites(folder, tables, **(policy or {}))
    if hospital_sums:
        for site in sites.values():
            text = site.policy.read_text()
            allowed = text.replace("[orders]", "[orders]\nhospital_sums = true")
            site.policy.write_text(allowed)
    body = order_body(
        sorted(frames),
        model_type="glm",
        attributes=["age", "dose", *(["log_days"] if family == "poisson" else [])],
        derive={"log_days": "ln(days)"} if family == "poisson" else {},
        label_name=family,
        scoring=None,
        model_params={
            "optimizer": "newton",
            "eps": None,
            "max_iter": None,
            "pooling": "meta",
            "family": family,
            "offset": "log_days" if family == "poisson" else None,
            **params,
        },
    )
    return run_order(sites, body, order_id=order_id)


def own_estimates(
    frames: dict[int, pd.DataFrame], family: str
) -> tuple[Floats, Floats]:
    """By hospital and coefficient, the intercept first, with standard errors."""
    estimates, errors = [], []
    for frame in frames.values():
        X = sm.add_constant(frame[["age", "dose"]])
        offset = np.log(frame["days"]) if family == "poisson" else None
        model = sm.GLM(frame[family], X, family=FAMILIES[family], offset=offset)
        fit = model.fit(tol=1e-14, maxiter=100)
        estimates.append(fit.params.to_numpy())
        errors.append(fit.bse.to_numpy())
    return np.array(estimates), np.array(errors)


@pytest.mark.parametrize("family", quick(["binomial", "gaussian", "poisson"], 1))
def test_estimates_are_combined_as_by_statsmodels(tmp_path: Path, family: str) -> None:
    frames = {user: patients(user) for user in USERS}
    outcome = order(tmp_path, frames, family)
    model = outcome.models[2]
    report = model["report"]
    assert report["pooling"] == "meta"
    assert "not those of all rows" in report["notes"][0]
    assert (report["hospitals"], report["rounds"]) == (6, 2)
    estimates, errors = own_estimates(frames, family)
    for place, term in enumerate(report["terms"]):
        b, se = estimates[:, place], errors[:, place]
        found = combine_effects(b, np.square(se), method_re="dl", use_t=True)
        near = pytest.approx
        assert term["estimate"] == near(found.mean_effect_re, rel=1e-7)
        assert term["se"] == near(found.sd_eff_w_re_hksj, rel=1e-6)
        assert term["fixed"] == near(found.mean_effect_fe, rel=1e-7)
        assert term["fixed_se"] == near(found.sd_eff_w_fe, rel=1e-7)
        assert term["q"] == near(found.q, rel=1e-6)
        assert term["tau2"] == near(max(found.tau2, 0), rel=1e-6, abs=1e-12)
        assert term["i2"] == near(max(found.i2, 0), rel=1e-6, abs=1e-9)
        low, high = found.conf_int(use_t=True)[3]
        assert (term["low"], term["high"]) == (near(low), near(high))
        reach = stats.t.ppf(0.975, 4) * np.sqrt(
            max(found.tau2, 0) + found.sd_eff_w_re**2
        )
        assert term["prediction_high"] - term["estimate"] == near(reach, rel=1e-6)
    # The kept model is the random effects'.
    intercept, *slopes = [term["estimate"] for term in report["terms"]]
    offset = [1.0] if family == "poisson" else []
    weights = np.ravel(model["layers"]["dense"])
    assert weights == pytest.approx([*slopes, *offset, intercept], rel=1e-9)
    assert "prediction_low" in as_csv(report).splitlines()[0]
    if family == "binomial":
        ratio = report["terms"][1]["odds_ratio"]
        assert ratio == pytest.approx(np.exp(slopes[0]))


def code_of(*args: Any, **changes: Any) -> str:
    try:
        order(*args, **changes)
    except ConsiliumError as error:
        return error.code
    return ""


def test_of_five_hospitals_single_estimates_would_follow(tmp_path: Path) -> None:
    frames = {user: patients(user) for user in USERS[:5]}
    assert code_of(tmp_path / "few", frames, "gaussian") == "meta_orders"
    told = code_of(tmp_path / "told", frames, "gaussian", hospital_sums=True)
    assert told == ""


def test_a_second_order_needs_eight_hospitals(tmp_path: Path) -> None:
    """Another label too: the same people's sums stand in its estimates."""
    frames = {user: patients(user) for user in USERS}
    tables = {user: {"rows": rows} for user, rows in frames.items()}
    sites = make_sites(tmp_path, tables)
    order(tmp_path, frames, "gaussian", sites=sites)
    again = code_of(tmp_path, frames, "binomial", sites=sites, order_id=2)
    assert again == "meta_orders"


@pytest.mark.thorough
def test_the_same_rows_without_one_hospital(tmp_path: Path) -> None:
    """Less the sums of six are those of the seventh alone."""
    frames = {user: patients(user) for user in (*USERS, 8)}
    tables = {user: {"rows": rows} for user, rows in frames.items()}
    sites = make_sites(tmp_path, tables, regroup=False)
    order(tmp_path, frames, "gaussian", sites=sites, hospital_sums=True)
    fewer = {user: frames[user] for user in USERS}
    code = code_of(tmp_path, fewer, "gaussian", sites=sites, order_id=2)
    assert code == "earlier_hospitals"


@pytest.mark.thorough
def test_a_hospital_whose_rows_determine_no_estimate(tmp_path: Path) -> None:
    frames = {user: patients(user) for user in USERS}
    frames[4]["dose"] = 0.002
    assert code_of(tmp_path / "constant", frames, "gaussian") == "own_fit"
    frames[4]["dose"] = np.arange(len(frames[4])) / 100
    frames[4]["gaussian"] = 3 + frames[4]["age"] - frames[4]["dose"]
    # Estimates without error have no weight that could be added.
    assert code_of(tmp_path / "exact", frames, "gaussian") == "own_fit"


def test_few_women_of_one_hospital_are_not_hidden_by_those_of_others(
    tmp_path: Path,
) -> None:
    """Where thresholds are on the sum: an estimate is of one hospital's rows."""
    frames = {user: patients(user) for user in USERS}
    for user, frame in frames.items():
        n_women = 4 if user == 3 else 60
        frame["dose"] = np.where(np.arange(len(frame)) < n_women, 1, 0)
    tables = {user: {"rows": rows} for user, rows in frames.items()}
    sites = make_sites(tmp_path, tables)
    for site in sites.values():
        pooled = '\n[statistics]\nmethods = ["count"]\ncells = "pooled"\n'
        site.policy.write_text(site.policy.read_text() + pooled)
    assert code_of(tmp_path, frames, "gaussian", sites=sites) == "min_varying"


def test_sums_that_are_of_no_estimates_end_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = meta.meta_analysis.first_sums
    monkeypatch.setattr(meta.meta_analysis, "first_sums", lambda b, se: -honest(b, se))
    frames = {user: patients(user) for user in USERS}
    assert code_of(tmp_path, frames, "gaussian") == "meta"


@pytest.mark.parametrize(
    "changes",
    [
        {"penalty": "L2"},
        {"penalty": "firth", "family": "poisson"},
        {"family": "negative_binomial"},
        {"encrypt_param": {"method": "None"}},
        {"cv_param": {"need_cv": True}},
        {"max_iter": 1},
    ],
)
def test_what_goes_with_no_meta_analysis(changes: dict[str, Any]) -> None:
    params = {
        "optimizer": "newton",
        "eps": None,
        "max_iter": None,
        "pooling": "meta",
        "family": "gaussian",
    }
    body = order_body(USERS, model_type="glm", model_params={**params, **changes})
    with pytest.raises(ConsiliumError) as caught:
        parse_training_request(body)
    assert caught.value.code == "pooling"
