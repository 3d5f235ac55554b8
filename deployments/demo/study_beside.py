"""What one table of all hospitals' rows gives: by statsmodels and lifelines where they
are installed, else by plain NumPy.

Nothing here is of Consilium's own mathematics, so that it can be held against it.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analytics.arrays import Floats

Pairs = list[tuple[float, float]]
# Of Newton's method, without a test for its end: these data are there long before.
_STEPS = 30


class Estimate(NamedTuple):
    value: float
    error: float  # standard error


def libraries() -> list[str]:
    """Those of the field that are installed here."""
    installed = []
    if _has_statsmodels():
        installed.append("statsmodels")
    if _has_lifelines():
        installed.append("lifelines")
    return installed


def _has_statsmodels() -> bool:
    module_spec = importlib.util.find_spec("statsmodels")
    return module_spec is not None


def _has_lifelines() -> bool:
    module_spec = importlib.util.find_spec("lifelines")
    return module_spec is not None


# --- models -----------------------------------------------------------------------------


def logistic(X: Floats, y: Floats) -> list[Estimate]:
    """The intercept first. X: (n, d); y: 0 or 1, (n,)."""
    design = _with_intercept(X)
    if _has_statsmodels():
        models: Any = importlib.import_module("statsmodels.api")
        family = models.families.Binomial()
        model = models.GLM(y, design, family=family)
        # By default it stops earlier, at digits that are compared here; and the deviance
        # stands still while estimates still move.
        fit = model.fit(tol=1e-13, tol_criterion="params")
        return _estimates(fit.params, fit.bse)
    n_weights = design.shape[1]
    coef = np.zeros(n_weights)
    for _ in range(_STEPS):
        reversed_predictors = -design @ coef
        mu = 1 / (1 + np.exp(reversed_predictors))
        variances = mu * (1 - mu)
        weighted = design * variances[:, None]
        information = design.T @ weighted
        score = design.T @ (y - mu)
        newton_step = np.linalg.solve(information, score)
        coef = coef + newton_step
    covariance = np.linalg.inv(information)
    return _estimates(coef, _errors(covariance))


def linear(X: Floats, y: Floats) -> list[Estimate]:
    """The intercept first. X: (n, d); y: (n,)."""
    design = _with_intercept(X)
    if _has_statsmodels():
        models: Any = importlib.import_module("statsmodels.api")
        model = models.OLS(y, design)
        fit = model.fit()
        return _estimates(fit.params, fit.bse)
    coef, *_ = np.linalg.lstsq(
        design,
        y,
        rcond=None,
    )
    n_rows, n_weights = design.shape
    residuals = y - design @ coef
    squares = np.sum(residuals**2)
    variance = squares / (n_rows - n_weights)
    information = design.T @ design
    covariance = variance * np.linalg.inv(information)
    return _estimates(coef, _errors(covariance))


def cox(hospitals: Sequence[pd.DataFrame]) -> list[Estimate]:
    """Age and arm b, stratified by hospital, ties by Efron."""
    frames = []
    for number, frame in enumerate(hospitals):
        in_b = frame["arm"] == "b"
        columns = {
            "age": frame["age"],
            "b": in_b.astype(float),
            "days": frame["days"],
            "died": frame["died"],
            "hospital": number,
        }
        frames.append(pd.DataFrame(columns))
    rows = pd.concat(frames, ignore_index=True)
    term_names = ["age", "b"]
    if _has_lifelines():
        lifelines: Any = importlib.import_module("lifelines")
        fitter = lifelines.CoxPHFitter()
        fitter.fit(
            rows,
            "days",
            "died",
            strata=["hospital"],
            # By default it stops where the likelihood stands still, which is earlier.
            fit_options={
                "precision": 1e-14,
                "r_precision": 1e-16,
                "max_steps": 100,
            },
        )
        estimates = fitter.params_[term_names]
        errors = fitter.standard_errors_[term_names]
        return _estimates(estimates, errors)
    # Coefficients do not change by it, and exponentials stay near 1.
    center = rows[term_names].mean()
    coef = np.zeros(2)
    for _ in range(_STEPS):
        score = np.zeros(2)
        information = np.zeros((2, 2))
        for _, stratum in rows.groupby("hospital"):
            centered = stratum[term_names] - center
            own_score, own_information = _efron(
                centered.to_numpy(float),
                stratum["days"],
                stratum["died"],
                coef,
            )
            score += own_score
            information += own_information
        newton_step = np.linalg.solve(information, score)
        coef = coef + newton_step
    covariance = np.linalg.inv(information)
    return _estimates(coef, _errors(covariance))


def _efron(
    X: Floats,
    times: Any,
    events: Any,
    coef: Floats,
) -> tuple[Floats, Floats]:
    """Score and information of one stratum at coef."""
    times = np.asarray(times)
    events = np.asarray(events)
    had_event = events == 1
    risk = np.exp(X @ coef)
    n_weights = len(coef)
    score = np.zeros(n_weights)
    information = np.zeros((n_weights, n_weights))
    for time in np.unique(times[had_event]):
        at_risk = times >= time
        leaves = (times == time) & had_event
        n_leaving = int(leaves.sum())
        score += X[leaves].sum(axis=0)
        for place in range(n_leaving):
            # Of n who leave at one time the k-th finds k / n of each of them gone.
            gone = place / n_leaving * risk * leaves
            weights = risk * at_risk - gone
            total_weight = weights.sum()
            mean = weights @ X / total_weight
            score -= mean
            weighted = X * weights[:, None]
            second_moment = X.T @ weighted / total_weight
            information += second_moment - np.outer(mean, mean)
    return score, information


def _with_intercept(X: Floats) -> Floats:
    ones = np.ones(len(X))
    return np.column_stack([ones, X])


def _errors(covariance: Any) -> Any:
    variances = np.diag(covariance)
    return np.sqrt(variances)


def _estimates(values: Any, errors: Any) -> list[Estimate]:
    pairs = zip(
        np.asarray(values),
        np.asarray(errors),
        strict=True,
    )
    estimates = []
    for value, error in pairs:
        estimate = Estimate(float(value), float(error))
        estimates.append(estimate)
    return estimates


# --- statistics -------------------------------------------------------------------------


def table_1(
    joint: pd.DataFrame,
    everyone: pd.DataFrame,
    compared: Pairs,
) -> list[list[str]]:
    """Lines as a paper has them; each number of the joint answer goes to compared, beside
    what pandas says of all complete rows.
    """
    rows = everyone.dropna(subset=["bmi", "bp"])
    high = rows["high"]
    groups = {
        "all": rows,
        "0": rows[high == 0],
        "1": rows[high == 1],
    }
    group_sizes = [str(len(members)) for members in groups.values()]
    lines = [["n", *group_sizes, ""]]
    for column in ("age", "bmi", "bp"):
        lines.append(_mean_line(joint, column, groups, compared))
    lines.append(_women_line(joint, groups, compared))
    return lines


def _mean_line(
    joint: pd.DataFrame,
    name: str,
    groups: Mapping[str, pd.DataFrame],
    compared: Pairs,
) -> list[str]:
    """A number's mean and standard deviation in each group, which go to compared, and
    the difference of the groups.
    """
    line = [f"{name}, mean (SD)"]
    for group, group_rows in groups.items():
        mean = _cell(joint, name, group, "mean")
        spread = _cell(joint, name, group, "sd")
        column = group_rows[name]
        compared += [(mean, column.mean()), (spread, column.std())]
        line.append(f"{mean:.2f} ({spread:.2f})")
    difference = _difference(joint, name)
    return [*line, f"{difference:.3f}"]


def _women_line(
    joint: pd.DataFrame,
    groups: Mapping[str, pd.DataFrame],
    compared: Pairs,
) -> list[str]:
    """How many are women in each group and their share, which go to compared, and the
    difference of the groups.
    """
    line = ["sex F, n (%)"]
    for group, group_rows in groups.items():
        count = _cell(joint, "sex", group, "n", level="F")
        share = _cell(joint, "sex", group, "share", level="F")
        is_female = group_rows["sex"] == "F"
        compared += [(count, is_female.sum()), (share, is_female.mean())]
        percent = 100 * share
        line.append(f"{count:.0f} ({percent:.1f})")
    difference = _difference(joint, "sex")
    return [*line, f"{difference:.3f}"]


def _cell(
    joint: pd.DataFrame,
    column: str,
    group: str,
    quantity: str,
    level: str | None = None,
) -> float:
    of_group = joint["over"] == "all"
    if group != "all":
        in_groups = joint["over"] == "group"
        label = joint["high"].astype(str)
        of_group = in_groups & (label == group)
    of_column = joint["column"] == column
    of_kind = joint["quantity"] == quantity
    is_it = of_group & of_column & of_kind
    if level is not None:
        is_it &= joint["level"] == level
    return _first(joint, is_it, "table_1")


def of_quantity(joint: pd.DataFrame, quantity: str) -> float:
    """A number of a test's answer."""
    column = next(name for name in joint.columns if name != "quantity")
    is_it = joint["quantity"] == quantity
    return _first(joint, is_it, column)


def _difference(joint: pd.DataFrame, column: str) -> float:
    of_column = joint["column"] == column
    is_difference = joint["quantity"] == "smd"
    return _first(joint, of_column & is_difference, "table_1")


def _first(
    joint: pd.DataFrame,
    is_it: pd.Series,
    column: str,
) -> float:
    values = joint.loc[is_it, column]
    return float(values.iloc[0])


def curves(
    joint: pd.DataFrame,
    everyone: pd.DataFrame,
    compared: Pairs,
) -> list[list[str]]:
    """A line for each arm and time. What is compared is the number at risk: the curve
    itself is exact only where the answer says so, and else between two bounds.
    """
    lines = []
    is_curve = joint["kind"].isin(["exact", "life_table"])
    for _, curve_row in joint[is_curve].iterrows():
        told_at_risk = curve_row["at_risk"]
        if told_at_risk is None or pd.isna(told_at_risk):
            continue
        arm = curve_row["arm"]
        arm_rows = everyone[everyone["arm"] == arm]
        time = float(curve_row["time"])
        is_later = arm_rows["days"] > time
        n_at_risk = int(is_later.sum())
        curve = _kaplan_meier(arm_rows, time)
        joint_at_risk = float(told_at_risk)
        compared.append((joint_at_risk, n_at_risk))
        survival = float(curve_row["survival"])
        curve_kind = curve_row["kind"]
        if curve_kind == "exact":
            compared.append((survival, curve))
        lines.append(
            [
                str(arm),
                f"{time:.0f}",
                f"{survival:.4f} ({curve_kind})",
                f"{joint_at_risk:.0f}",
                f"{curve:.4f}",
            ]
        )
    return lines


def _kaplan_meier(rows: pd.DataFrame, time: float) -> float:
    times = rows["days"].to_numpy()
    events = rows["died"].to_numpy() == 1
    survival = 1.0
    for moment in np.unique(times[events]):
        if moment <= time:
            dies = events & (times == moment)
            n_dead = np.sum(dies)
            n_at_risk = np.sum(times >= moment)
            survival *= 1 - n_dead / n_at_risk
    return float(survival)


def log_rank(hospitals: Sequence[pd.DataFrame]) -> float:
    """Chi-squared of arm, stratified by hospital."""
    difference = 0.0
    variance = 0.0
    for frame in hospitals:
        times = frame["days"].to_numpy()
        events = frame["died"].to_numpy() == 1
        in_a = frame["arm"].to_numpy() == "a"
        for moment in np.unique(times[events]):
            at_risk = times >= moment
            leaves = events & (times == moment)
            n_at_risk = at_risk.sum()
            dead = leaves.sum()
            n_in_a = (at_risk & in_a).sum()
            dead_in_a = (leaves & in_a).sum()
            share = n_in_a / n_at_risk
            difference += dead_in_a - dead * share
            # One row alone has no variance: it would be zero divided by zero.
            if n_at_risk > 1:
                of_dead = dead * (n_at_risk - dead) / (n_at_risk - 1)
                variance += of_dead * share * (1 - share)
    return float(difference * difference / variance)


def judged(
    terms: pd.Series,
    everyone: pd.DataFrame,
) -> dict[str, float]:
    """Of a logistic model with these coefficients on complete rows: mean log loss and
    Brier score.
    """
    rows = everyone.dropna(subset=["bmi", "bp"])
    is_male = rows["sex"] == "M"
    weighted_sum = (
        terms["(Intercept)"]
        + terms["age"] * rows["age"]
        + terms["sex[M]"] * is_male
        + terms["bmi"] * rows["bmi"]
        + terms["bp"] * rows["bp"]
    )
    predictors = weighted_sum.to_numpy(float)
    y = rows["high"].to_numpy(float)
    odds = np.exp(predictors)
    inverse_odds = np.exp(-predictors)
    mu = 1 / (1 + inverse_odds)
    # log1p, as 1 + a small number loses its digits; fsum below rounds once.
    losses = np.where(
        y > 0,
        np.log1p(inverse_odds),
        np.log1p(odds),
    )
    squares = (mu - y) ** 2
    n_rows = len(y)
    return {
        "log_loss": math.fsum(losses) / n_rows,
        "brier": math.fsum(squares) / n_rows,
    }
