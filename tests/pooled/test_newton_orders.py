"""`optimizer: newton`: estimates, standard errors and the rest of a report are those of one
table of all hospitals' rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analytics.arrays import Floats
from deployments.local.one_process import OrderOutcome
from protocol.errors import BadRequest, Refused
from protocol.training_request import parse_training_request
from tests.made_newton import ATTRIBUTES, DEALS, columns_of, run
from tests.made_sites import order_body
from tests.pairwise import pairwise, quick


def made_rows(n_of: dict[int, int]) -> dict[int, pd.DataFrame]:
    """Attributes of far different sizes, a 0/1 column, a class and a number."""
    frames = {}
    for user, n_rows in n_of.items():
        rng = np.random.default_rng(user)
        age = rng.normal(60 + user, 9, n_rows)
        dose = rng.gamma(2, 3e-4, n_rows)
        sex = np.arange(n_rows) % 2
        eta = -6 + 0.08 * age + 700 * dose + 0.5 * sex
        y = (rng.uniform(size=n_rows) < 1 / (1 + np.exp(-eta))).astype(int)
        value = 1e5 + 300 * eta + rng.normal(0, 900, n_rows)
        columns = {"age": age, "dose": dose, "sex": sex, "y": y, "value": value}
        frames[user] = pd.DataFrame({"id": np.arange(n_rows), **columns})
    return frames


def pooled_fit(
    frames: dict[int, pd.DataFrame], kind: str
) -> tuple[Floats, Floats, float]:
    """Estimates, standard errors, deviance of one table, the intercept first, by
    numpy.
    """
    rows = pd.concat([frames[user] for user in sorted(frames)])
    X = np.column_stack([np.ones(len(rows)), rows[ATTRIBUTES]])
    middle, spread = X.mean(axis=0), X.std(axis=0)
    middle[0], spread[0] = 0, 1
    Z = (X - middle) / spread
    y = rows["y" if kind == "lr" else "value"].to_numpy(float)
    b = np.zeros(Z.shape[1])
    for _ in range(30):
        mu = Z @ b if kind == "linear" else 1 / (1 + np.exp(-Z @ b))
        W = np.ones(len(y)) if kind == "linear" else mu * (1 - mu)
        b = b + np.linalg.solve(Z.T @ (Z * W[:, None]), Z.T @ (y - mu))
    A = Z.T @ (Z * W[:, None])
    T = np.diag(1 / spread)
    T[0] -= middle / spread
    covariance = T @ np.linalg.inv(A) @ T.T
    if kind == "linear":
        deviance = float(np.sum((y - Z @ b) ** 2))
        covariance = covariance * deviance / (len(y) - len(b))
    else:
        deviance = float(2 * np.sum(np.logaddexp(0, -(2 * y - 1) * (Z @ b))))
    return T @ b, np.sqrt(np.diag(covariance)), deviance


@pairwise(
    n_quick=2,
    kind=["lr", "linear"],
    n_hospitals=sorted(DEALS),
    method=["Mask", "Paillier", "None"],
)
def test_estimates_and_errors_are_those_of_one_table(
    tmp_path: Path, kind: str, n_hospitals: int, method: str
) -> None:
    frames = made_rows(DEALS[n_hospitals])
    outcome = run(
        tmp_path,
        frames,
        min_hospitals=1,
        model_type=kind,
        label_name="y" if kind == "lr" else "value",
        model_params={"encrypt_param": {"method": method}},
    )
    b, se, deviance = pooled_fit(frames, kind)
    assert (np.abs(columns_of(outcome, "estimate") - b) <= 1e-9 * se).all()
    assert columns_of(outcome, "se") == pytest.approx(se, rel=1e-9)
    report = outcome.models[2]["report"]
    assert report["deviance"] == pytest.approx(deviance, rel=1e-9)
    assert report["converged"]
    assert [term["term"] for term in report["terms"]] == ["(Intercept)", *ATTRIBUTES]
    wald = b / se
    if kind == "lr":
        expected = 2 * stats.norm.sf(np.abs(wald))
    else:
        expected = 2 * stats.t.sf(np.abs(wald), report["df_residual"])
    assert columns_of(outcome, "p") == pytest.approx(expected, rel=1e-6)
    assert report["rounds"] == (2 if kind == "linear" else report["rounds"]) <= 10
    low, high = columns_of(outcome, "low"), columns_of(outcome, "high")
    assert ((low < b) & (b < high)).all()


def test_the_kept_model_is_the_report_s(tmp_path: Path) -> None:
    frames = made_rows(DEALS[3])
    outcome = run(tmp_path, frames)
    model = outcome.models[3]
    intercept, *slopes = columns_of(outcome, "estimate")
    assert model["layers"]["dense"] == pytest.approx([*slopes, intercept], rel=1e-9)
    assert model["standardize"] is None
    other = run(tmp_path / "z", frames, model_params={"standardize": True})
    assert other.models[3]["standardize"] is not None
    again = columns_of(other, "estimate")
    assert again == pytest.approx(columns_of(outcome, "estimate"), rel=1e-9)
    assert columns_of(other, "se") == pytest.approx(columns_of(outcome, "se"), rel=1e-9)


@pytest.mark.thorough
@pairwise(n_quick=1, kind=["lr", "linear"], standardize=[False, True])
def test_a_penalty_gives_the_gradient_order_s_optimum_without_errors(
    tmp_path: Path, kind: str, standardize: bool
) -> None:
    frames = made_rows({2: 60, 3: 50, 4: 40})
    for frame in frames.values():
        # Of sizes that a gradient order without standardize can train on.
        frame["age"] = (frame["age"] - 60) / 10
        frame["dose"] *= 1000
        frame["value"] = (frame["value"] - 1e5) / 1e3
    order = {"model_type": kind, "label_name": "y" if kind == "lr" else "value"}
    shared = {"penalty": "L2", "alpha": 0.1, "standardize": standardize}
    newton = run(tmp_path / "n", frames, model_params=shared, **order)
    gradient = run(
        tmp_path / "g",
        frames,
        model_params={
            **shared,
            "optimizer": "nesterov_momentum_sgd",
            "max_iter": 400,
            "learning_rate": 0.2,
            "eps": 0,
        },
        scoring="none",
        **order,
    )
    found = newton.models[2]["layers"]["dense"]
    assert found == pytest.approx(gradient.models[2]["layers"]["dense"], abs=2e-5)
    report = newton.models[2]["report"]
    assert [term["se"] for term in report["terms"]] == [None] * 4
    assert "penalty" in report["notes"][0]


def test_cross_validation_reports_held_out_rows(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        made_rows(DEALS[3]),
        model_params={"cv_param": {"need_cv": True, "n_splits": 2}},
    )
    summary = summary_of(outcome)
    assert summary["held_out"]["n_rows"] == 310
    assert 0.5 < summary["held_out"]["auc"] < summary["0"]["auc"]
    assert outcome.models[2]["report"]["n"] == 310


def summary_of(outcome: OrderOutcome) -> dict[str, Any]:
    (summary,) = [facts["summary"] for facts in outcome.facts if "summary" in facts]
    found: dict[str, Any] = summary
    return found


def test_the_coordinator_learns_no_deviance(tmp_path: Path) -> None:
    frames = made_rows(DEALS[3])
    outcome = run(tmp_path, frames)
    summary = summary_of(outcome)["0"]
    assert summary["converged"]
    assert summary["loss"] is None
    assert "accuracy" not in summary
    records = [facts["round"] for facts in outcome.facts if "round" in facts]
    assert len(records) == outcome.models[2]["report"]["rounds"] + 1
    for record in records:
        assert record["loss"] is None
        for report in record["hospitals"].values():
            assert set(report["train"].values()) == {None}
            assert report["withheld"]["train"] == {"rule": "newton", "threshold": 0}


# Attacks, and what is refused


def test_no_two_way_table_has_a_cell_of_few_people(tmp_path: Path) -> None:
    """Each column alone passes min_varying; together they single out three people."""
    frames = made_rows({2: 400, 3: 400, 4: 400})
    frame = frames[3]
    frame["rare"] = (np.arange(400) < 40).astype(int)
    # Of those 40, three have sex 1 and 37 sex 0.
    frame.loc[:39, "sex"] = (np.arange(40) < 3).astype(int)
    for user in (2, 4):
        frames[user]["rare"] = (np.arange(400) % 3 == 0).astype(int)
    order = {"is_open": False, "attributes": ["age", "rare", "sex"]}
    with pytest.raises(Refused, match=r"table of rare and sex.* has a cell") as refused:
        run(tmp_path / "few", frames, **order)
    assert refused.value.code == "min_rows"
    # With 13 it is a table like any other.
    frame.loc[:39, "sex"] = (np.arange(40) < 13).astype(int)
    frame["y"] = (np.arange(400) // 2) % 2
    assert run(tmp_path / "more", frames, **order).models[2]["report"]["n"] == 1200


def test_a_gradient_order_over_such_columns_is_not_looked_at_so(tmp_path: Path) -> None:
    frames = made_rows({2: 400, 3: 400, 4: 400})
    for frame in frames.values():
        frame["rare"] = (np.arange(400) < 40).astype(int)
        frame.loc[:39, "sex"] = (np.arange(40) < 3).astype(int)
    run(
        tmp_path,
        frames,
        is_open=False,
        attributes=["rare", "sex"],
        model_params={"optimizer": "sgd", "max_iter": 2},
    )


def test_two_rows_do_not_make_up_a_round(tmp_path: Path) -> None:
    """All rows of a hospital but two are told apart by far, so that these two alone have
    a weight in A.
    """
    frames = made_rows({2: 60, 3: 60, 4: 60})
    for user, frame in frames.items():
        rng = np.random.default_rng(10 + user)
        frame["y"] = np.arange(60) % 2
        far = 25 if user == 3 else 0.3
        frame["age"] = far * (2 * frame["y"] - 1) + rng.normal(0, 0.5, 60)
        if user == 3:
            frame.loc[:1, "age"] = 0.0
        frame["dose"] = rng.normal(size=60)
    with pytest.raises(Refused, match="Two rows make up more than"):
        run(tmp_path, frames, attributes=["age", "dose"])


def test_rounds_end_where_the_others_rows_hide_nothing(tmp_path: Path) -> None:
    """Hospital 2 has 300 rows, the others 12: two rounds of 4 coefficients need 14."""
    frames = made_rows({2: 300, 3: 6, 4: 6})
    with pytest.raises(Refused, match="the other hospitals need 14 rows") as refused:
        run(tmp_path, frames)
    assert refused.value.code == "equations"


def test_rounds_of_earlier_folds_count(tmp_path: Path) -> None:
    """linear takes two rounds. Of 3 folds the third one's first is the fifth, which needs
    35 rows: the others have 34 at the most in a fold. One fold alone would need 14.
    """
    frames = made_rows({2: 300, 3: 25, 4: 25})
    order = {"model_type": "linear", "label_name": "value"}
    with pytest.raises(Refused, match=r"After 5 rounds .* need 35 rows"):
        run(tmp_path / "few", frames, model_params=folded(3), **order)
    more = made_rows({2: 300, 3: 35, 4: 35})
    outcome = run(tmp_path / "more", more, model_params=folded(2), **order)
    # 16 numbers a round: 10 of A, 4 of c, the deviance, and whether all means are valid.
    assert outcome.models[2]["report"]["equations"] == 6 * 16


def folded(n_splits: int) -> dict[str, Any]:
    return {"cv_param": {"need_cv": True, "n_splits": n_splits}}


def test_a_model_has_few_coefficients_for_its_rows(tmp_path: Path) -> None:
    frames = made_rows({2: 300, 3: 300, 4: 39})
    with pytest.raises(Refused, match="it allows 1/10 parameters per row"):
        run(tmp_path, frames, is_open=False, attributes=["age", "dose", "sex"])


def test_a_collinear_column_is_named(tmp_path: Path) -> None:
    frames = made_rows(DEALS[3])
    for frame in frames.values():
        frame["twice"] = 2 * frame["age"] + 1
    with pytest.raises(BadRequest, match=r"^twice is constant .* combination") as error:
        run(tmp_path, frames, attributes=["age", "twice"])
    assert error.value.code == "collinear"


@pytest.mark.parametrize("kind", ["lr", "linear"])
def test_more_coefficients_than_rows_are_no_fault_of_a_column(
    tmp_path: Path, kind: str
) -> None:
    frame = wide_rows(n_rows=5)
    with pytest.raises(BadRequest, match="more coefficients than") as error:
        fit_wide(tmp_path, frame, kind)
    assert error.value.code == "collinear"
    assert "fewer attributes" in error.value.remedy


def test_as_many_coefficients_as_rows_have_no_errors_and_say_so(
    tmp_path: Path,
) -> None:
    report = fit_wide(tmp_path, wide_rows(n_rows=7), "linear").models[2]["report"]
    assert report["df_residual"] == 0
    assert [term["se"] for term in report["terms"]] == [None] * 7
    assert any("as many coefficients as rows" in note for note in report["notes"])


def wide_rows(*, n_rows: int) -> pd.DataFrame:
    """Six attributes."""
    rng = np.random.default_rng(1)
    names = [f"x{place}" for place in range(6)]
    frame = pd.DataFrame(rng.normal(size=(n_rows, 6)), columns=names)
    return frame.assign(
        id=np.arange(n_rows), y=np.arange(n_rows) % 2, value=rng.normal(size=n_rows)
    )


def fit_wide(folder: Path, frame: pd.DataFrame, kind: str) -> OrderOutcome:
    return run(
        folder,
        {2: frame},
        min_hospitals=1,
        model_type=kind,
        label_name="y" if kind == "lr" else "value",
        attributes=[f"x{place}" for place in range(6)],
    )


@pytest.mark.parametrize(("max_iter", "is_noted"), quick([(2, True), (25, False)], 1))
def test_estimates_before_convergence_are_said_to_be_none(
    tmp_path: Path, max_iter: int, is_noted: bool
) -> None:
    outcome = run(tmp_path, made_rows(DEALS[3]), model_params={"max_iter": max_iter})
    report = outcome.models[2]["report"]
    assert report["converged"] is not is_noted
    notes = [note for note in report["notes"] if "not converged" in note]
    assert bool(notes) is is_noted
    if is_noted:
        assert "max_iter" in notes[0]
        assert "firth" in notes[0]


def test_classes_that_a_column_separates_in_part_end_the_order(tmp_path: Path) -> None:
    frames = made_rows(DEALS[3])
    for frame in frames.values():
        frame["sign"] = ((frame["y"] == 1) & (frame["sex"] == 1)).astype(int)
    with pytest.raises((BadRequest, Refused)) as error:
        run(tmp_path, frames, attributes=["age", "sign"])
    assert error.value.code in ("separated", "linear_predictor")
    kept = run(
        tmp_path / "penalty",
        frames,
        attributes=["age", "sign"],
        model_params={"penalty": "L2"},
    )
    assert kept.models[2]["converged"]


def test_two_hospitals_need_a_policy_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="minimum of 3"):
        run(tmp_path, made_rows(DEALS[2]))


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("L1", {"model_params": {"penalty": "L1"}}),
        ("softmax", {"model_type": "softmax"}),
        ("learning_rate", {"model_params": {"learning_rate": 0.3}}),
        ("batch_size", {"model_params": {"batch_size": 20}}),
        ("eps", {"model_params": {"eps": 0}}),
        ("early_stop", {"model_params": {"converge_func": "abs"}}),
        ("init_method", {"model_params": {"init_param": {"init_method": "ones"}}}),
        ("Scores", {"scoring": "full"}),
        ("confidence", {"model_params": {"optimizer": "sgd", "confidence": 0.9}}),
    ],
)
def test_what_newton_cannot_honour_is_refused(
    word: str, change: dict[str, Any]
) -> None:
    params = {"optimizer": "newton", "eps": 1e-8, **change.get("model_params", {})}
    body = order_body((2, 3, 4), **{**change, "model_params": params})
    with pytest.raises(BadRequest, match=word) as error:
        parse_training_request(body)
    assert error.value.code in ("optimizer", "confidence")


def test_all_that_newton_cannot_honour_is_said_at_once() -> None:
    params = {"optimizer": "newton", "penalty": "L1", "decay": 1, "eps": 1e-8}
    with pytest.raises(BadRequest) as error:
        parse_training_request(order_body((2, 3, 4), model_params=params))
    assert "L1" in str(error.value)
    assert "decay" in str(error.value)


def test_newton_has_its_own_defaults() -> None:
    body = order_body((2, 3, 4))
    body["model_params"] = {"optimizer": "Newton", "eps": None}
    params = parse_training_request(body).model_params
    assert (params.max_iter, params.tolerance, params.confidence) == (25, 1e-8, 0.95)
