"""`penalty: firth`: the maximum of Firth's penalised likelihood over one table of all
hospitals' rows, where an attribute separates the labels, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analytics.arrays import Floats
from analytics.training.pairs import Pair
from protocol.errors import BadRequest, Refused
from protocol.training_request import parse_training_request
from tests.made_newton import ATTRIBUTES, DEALS, columns_of, run
from tests.made_sites import order_body
from tests.pairwise import quick
from tests.pooled.test_glm_orders import dealt, made_rows, run_glm

LOGISTIC = Pair("binomial", "logit")
POISSON = Pair("poisson", "log")
FIRTH = {"penalty": "firth"}


def penalised_fit(X: Floats, y: Floats, pair: Pair) -> tuple[Floats, Floats]:
    """Estimates and standard errors of rows X (n, p): Newton's method on Firth's score, whose
    derivative is a difference.
    """
    middle, spread = X.mean(axis=0), X.std(axis=0)
    is_constant = spread == 0
    middle[is_constant], spread[is_constant] = 0, 1
    Z = (X - middle) / spread

    def parts(b: Floats) -> tuple[Floats, Floats]:
        if pair == LOGISTIC:
            mu = 1 / (1 + np.exp(-Z @ b))
            W, more = mu * (1 - mu), 0.5 - mu
        else:
            mu = np.exp(Z @ b)
            W, more = mu, np.full(len(y), 0.5)
        A = Z.T @ (Z * W[:, None])
        h = W * np.einsum("ij,jk,ik->i", Z, np.linalg.inv(A), Z)
        return Z.T @ (y - mu + h * more), A

    b = np.zeros(Z.shape[1])
    if pair == POISSON:
        b[is_constant] = np.log(y.mean() + 0.1)
    for _ in range(200):
        score, A = parts(b)
        step = np.linalg.solve(A, score)
        b = b + step / max(1.0, np.abs(step).max())
    T = np.diag(1 / spread)
    T[is_constant] -= middle / spread
    covariance = T @ np.linalg.inv(parts(b)[1]) @ T.T
    return T @ b, np.sqrt(np.diag(covariance))


def pooled_fit(
    frames: dict[int, pd.DataFrame], pair: Pair, attributes: list[str] = ATTRIBUTES
) -> tuple[Floats, Floats]:
    rows = pd.concat([frames[user] for user in sorted(frames)])
    X = np.column_stack([np.ones(len(rows)), rows[attributes]]).astype(float)
    return penalised_fit(X, rows["y"].to_numpy(dtype=float), pair)


@pytest.mark.parametrize(
    ("pair", "n_hospitals", "method"),
    quick(
        [
            (LOGISTIC, 3, "Paillier"),
            (POISSON, 5, "Mask"),
            (LOGISTIC, 1, "Mask"),
            (LOGISTIC, 2, "None"),
            (POISSON, 2, "Paillier"),
            (LOGISTIC, 5, "Mask"),
        ],
        1,
    ),
    ids=str,
)
def test_it_is_that_of_one_table(
    tmp_path: Path, pair: Pair, n_hospitals: int, method: str
) -> None:
    frames = made_rows(pair, DEALS[n_hospitals])
    if pair == LOGISTIC:
        # Every row of one sex has the same label: without a penalty it has no estimate.
        for frame in frames.values():
            frame.loc[frame["sex"] == 1, "y"] = 1.0
    params = {**FIRTH, "encrypt_param": {"method": method}}
    outcome = run_glm(tmp_path, frames, pair, model_params=params)
    b, se = pooled_fit(frames, pair)
    report = outcome.models[2]["report"]
    assert report["converged"]
    assert (np.abs(columns_of(outcome, "estimate") - b) <= 1e-9 * se).all()
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    assert (report["penalty"], report["aic"], report["statistic"]) == (
        "firth",
        None,
        "z",
    )


def test_a_table_of_four_has_half_a_patient_more_in_each(tmp_path: Path) -> None:
    """Of one factor the estimate is the log odds ratio with 1/2 added to each cell (Haldane
    1956, Anscombe 1956), which Firth 1993 shows to be his.
    """
    rows = pd.DataFrame({"x": [0.0] * 30 + [1.0] * 30, "y": [0.0] * 60})
    rows.loc[:11, "y"] = 1.0
    rows.loc[30:, "y"] = 1.0
    outcome = run_glm(
        tmp_path, dealt(rows, 1), LOGISTIC, attributes=["x"], model_params=FIRTH
    )
    intercept, slope = columns_of(outcome, "estimate")
    of_reference = np.log(12.5 / 18.5)
    assert intercept == pytest.approx(of_reference, abs=1e-9)
    assert slope == pytest.approx(np.log(30.5 / 0.5) - of_reference, abs=1e-8)


def test_a_separated_order_names_it(tmp_path: Path) -> None:
    frames = made_rows(LOGISTIC, DEALS[3])
    for frame in frames.values():
        frame.loc[frame["sex"] == 1, "y"] = 1.0
    with pytest.raises(BadRequest) as error:
        run_glm(tmp_path, frames, LOGISTIC)
    assert error.value.code == "separated"
    assert "firth" in error.value.remedy


def test_two_rows_do_not_make_up_the_leverages(tmp_path: Path) -> None:
    """The second message weighs rows by them: where two patients are far out in the
    difference of two columns, and in neither of these, it would be theirs.
    """
    frames = made_rows(POISSON, {2: 40, 3: 600, 4: 600})
    for user, frame in frames.items():
        rng = np.random.default_rng(30 + user)
        frame["age"] = rng.normal(0, 1, len(frame))
        frame["far"] = frame["age"] + rng.normal(0, 1e-3, len(frame))
        frame["y"] = rng.poisson(20, len(frame)).astype(float)
    frames[2].loc[0, "far"] += 2.0
    frames[2].loc[1, "far"] -= 2.0
    order = {"attributes": ["age", "far"], "is_open": False}
    assert run_glm(tmp_path / "plain", frames, POISSON, **order)
    with pytest.raises(Refused) as error:
        run_glm(tmp_path / "firth", frames, POISSON, model_params=FIRTH, **order)
    assert error.value.code == "max_share"


def test_messages_of_scores_count_a_third(tmp_path: Path) -> None:
    frames = made_rows(POISSON, DEALS[3])
    outcome = run_glm(tmp_path, frames, POISSON, model_params=FIRTH)
    report = outcome.models[2]["report"]
    n_steps = (report["rounds"] - 1) // 2
    n_counted = report["rounds"] - n_steps + -(-n_steps // 3)
    assert report["equations"] == 16 * n_counted


@pytest.mark.thorough
def test_lr_by_newton_has_it_too(tmp_path: Path) -> None:
    frames = made_rows(LOGISTIC, DEALS[3])
    outcome = run(tmp_path, frames, model_params=FIRTH)
    b, se = pooled_fit(frames, LOGISTIC)
    assert (np.abs(columns_of(outcome, "estimate") - b) <= 1e-9 * se).all()


@pytest.mark.parametrize(
    ("field", "params"),
    [
        ("penalty", {"family": "binomial", "link": "probit"}),
        ("penalty", {"family": "gamma"}),
        ("penalty", {"family": "poisson", "dispersion": "estimate"}),
        ("standard_errors", {"family": "poisson", "standard_errors": "HC0"}),
        ("optimizer", {"family": "negative_binomial"}),
        ("pooling", {"family": "poisson", "pooling": "meta"}),
    ],
    ids=str,
)
def test_what_has_no_such_penalty(field: str, params: dict[str, Any]) -> None:
    body = order_body((2, 3, 4), model_type="glm")
    body["model_params"] = {**FIRTH, **params}
    with pytest.raises(BadRequest) as error:
        parse_training_request(body)
    assert error.value.code == field


def test_gradients_have_no_such_penalty() -> None:
    body = order_body((2, 3, 4), model_params=FIRTH)
    with pytest.raises(BadRequest, match="by newton") as error:
        parse_training_request(body)
    assert error.value.code == "penalty"
