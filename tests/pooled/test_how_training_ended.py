"""Every order says whether training had converged, by what it stopped, and what speaks
against the model: at each hospital and at the coordinator alike.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from agents.training import fold as folds
from agents.training.export import export_model
from agents.training.trainer import Trainer, receive_opening
from analytics.training.outcome import WARNINGS
from deployments.local.one_process import OrderOutcome, run_order
from protocol.errors import ProtocolViolation, Refused
from protocol.messages import Opening
from protocol.study import STUDY
from tests.made_sites import make_sites, order_body
from tests.pairwise import quick

HOSPITALS = (2, 3, 4)
N_ROWS = 60
MAX_ITER = WARNINGS["max_iter"]
CONSTANT = WARNINGS["constant"]
SEPARATED = WARNINGS["separated"]


def made_frames(*, n_crossed: int = 6) -> dict[int, pd.DataFrame]:
    """Two attributes, of which the first tells the classes apart but for the rows that
    are crossed; as text, as two classes and as a number too.
    """
    frames = {}
    for user in HOSPITALS:
        rng = np.random.default_rng(user)
        y = np.arange(N_ROWS) % 2
        x1 = (2.0 * y - 1) * rng.uniform(0.5, 2, N_ROWS)
        x1[:n_crossed] *= -1
        columns = {"id": np.arange(N_ROWS), "x1": x1, "x2": rng.normal(size=N_ROWS)}
        kind = np.where(y == 1, "ill", "well")
        frames[user] = pd.DataFrame({**columns, "y": y, "kind": kind, "value": x1 + y})
    return frames


def run(
    folder: Path,
    frames: dict[int, pd.DataFrame] | None = None,
    *,
    cohort: str = "",
    **order: Any,
) -> OrderOutcome:
    opened = {
        user: {"rows": frame} for user, frame in (frames or made_frames()).items()
    }
    sites = make_sites(folder, opened, cohort=cohort)
    body = order_body(HOSPITALS, **{"attributes": ["x1", "x2"], **order})
    return run_order(sites, body)


def trained(**params: Any) -> dict[str, Any]:
    return {"model_params": params}


def summary_of(outcome: OrderOutcome) -> dict[str, Any]:
    (summary,) = [facts["summary"] for facts in outcome.facts if "summary" in facts]
    found: dict[str, Any] = summary
    return found


def ending(found: dict[str, Any]) -> tuple[bool, str, list[str]]:
    return found["converged"], found["stopped_by"], found["warnings"]


def ending_of(outcome: OrderOutcome) -> tuple[bool, str, list[str]]:
    """Of the final model; all hospitals have in their vaults what the coordinator has."""
    found = ending(summary_of(outcome)["0"])
    for model in outcome.models.values():
        assert ending(model) == found
    return found


LABELS = {"lr": "y", "softmax": "kind", "linear": "value"}
CONVERGENCE = {"diff": 1e-3, "abs": 0.6, "weight_diff": 0.05}


@pytest.mark.parametrize("model_type", quick(list(LABELS), 1))
def test_an_order_that_has_converged_says_so(tmp_path: Path, model_type: str) -> None:
    order = {"model_type": model_type, "label_name": LABELS[model_type]}
    outcome = run(tmp_path, **order, **trained(eps=1e-3, max_iter=60))
    assert ending_of(outcome) == (True, "converged", [])
    assert outcome.models[2]["n_rounds"] < 60


@pytest.mark.parametrize("converge_func", quick(list(CONVERGENCE), 1))
def test_each_rule_of_convergence_ends_as_converged(
    tmp_path: Path, converge_func: str
) -> None:
    rule = {"converge_func": converge_func, "eps": CONVERGENCE[converge_func]}
    outcome = run(tmp_path, **trained(**rule, max_iter=200))
    assert ending_of(outcome) == (True, "converged", [])


def test_an_order_that_ends_by_max_iter_says_so_with_a_warning(tmp_path: Path) -> None:
    outcome = run(tmp_path, **trained(eps=0, max_iter=4))
    assert ending_of(outcome) == (False, "max_iter", [MAX_ITER])


@pytest.mark.thorough
def test_a_last_round_that_has_converged_has_converged(tmp_path: Path) -> None:
    """The number of rounds that it takes, given as max_iter, changes nothing."""
    free = run(tmp_path / "free", **trained(eps=1e-3, max_iter=60))
    n_rounds = free.models[2]["n_rounds"]
    bound = run(tmp_path / "bound", **trained(eps=1e-3, max_iter=n_rounds))
    assert ending_of(bound) == (True, "converged", [])
    one_less = run(tmp_path / "less", **trained(eps=1e-3, max_iter=n_rounds - 1))
    assert ending_of(one_less) == (False, "max_iter", [MAX_ITER])


@pytest.mark.parametrize("model_type", quick(list(LABELS), 2))
def test_a_model_that_is_worse_than_a_constant_is_told_of(
    tmp_path: Path, model_type: str
) -> None:
    """Three quarters of the rows are of one class, or the label is far from 0, and the
    first step is next to none.
    """
    frames = made_frames()
    for frame in frames.values():
        keep = (frame.id % 4 == 0).astype(int)
        frame["y"] = keep
        frame["kind"] = np.where(keep == 1, "ill", "well")
        frame["value"] = frame.value + 40
    order = {"model_type": model_type, "label_name": LABELS[model_type]}
    outcome = run(tmp_path, frames, **order, **trained(learning_rate=1e-6, max_iter=2))
    assert ending_of(outcome) == (False, "max_iter", [MAX_ITER, CONSTANT])


def test_where_hospitals_withhold_their_metrics_it_is_told_too(tmp_path: Path) -> None:
    """One of them has 5 rows of a class, and min_rows is 10."""
    frames = made_frames()
    frames[3]["y"] = (frames[3].id < 5).astype(int)
    outcome = run(tmp_path, frames, **trained(learning_rate=1e-6, max_iter=1))
    last = [facts["round"] for facts in outcome.facts if "round" in facts][-1]
    assert last["loss"] is None
    # The coordinator hears that it is so, and neither the constant's loss nor how many
    # rows there are of each class.
    told = set(summary_of(outcome)["0"])
    assert told == {
        "n_rows",
        "loss",
        "accuracy",
        "auc",
        "ks",
        "held_out",
        "converged",
        "stopped_by",
        "warnings",
    }
    assert ending_of(outcome) == (False, "max_iter", [MAX_ITER, CONSTANT])


@pytest.mark.parametrize("model_type", quick(["lr", "softmax"], 1))
def test_separated_classes_without_a_penalty_are_told_of(
    tmp_path: Path, model_type: str
) -> None:
    """Whether it converges or not: no finite weights are the best ones."""
    frames = made_frames(n_crossed=0)
    order = {"model_type": model_type, "label_name": LABELS[model_type]}
    fine = run(tmp_path / "1", frames, **order, **trained(eps=0, max_iter=9))
    assert ending_of(fine) == (False, "max_iter", [MAX_ITER, SEPARATED])
    coarse = run(tmp_path / "2", frames, **order, **trained(eps=0.02, max_iter=60))
    assert ending_of(coarse) == (True, "converged", [SEPARATED])


def test_classes_that_people_should_look_at_are_named_at_the_hospitals_alone(
    tmp_path: Path,
) -> None:
    """One writes `ILL` for `ill`; another one has a class that nobody else has."""
    frames = made_frames()
    frames[3]["kind"] = frames[3].kind.str.replace("ill", "ILL")
    frames[4].loc[frames[4].id < 12, "kind"] = "unclear"
    order = {"model_type": "softmax", "label_name": "kind"}
    cv = {"need_cv": True, "n_splits": 2}
    cohort = "max_parameter_share = 1"
    rule = trained(eps=0.02, max_iter=60, cv_param=cv)
    outcome = run(tmp_path, frames, cohort=cohort, **order, **rule)
    summary = summary_of(outcome)
    told = [WARNINGS["case"], WARNINGS["one_hospital"]]
    assert summary["0"]["warnings"] == told
    assert summary["1"]["warnings"] == summary["2"]["warnings"] == []
    for model in outcome.models.values():
        assert model["warnings"] == [
            "Classes that differ by case alone are 2 classes: ILL, ill."
            " Write them alike in a view if they mean the same.",
            "At hospital 3 only: class ILL.",
            "At hospital 4 only: class unclear.",
        ]
    for facts in outcome.facts:
        assert not {"ill", "ILL", "unclear"} & set(re.findall(r"\w+", str(facts)))


def test_a_penalty_gives_separated_classes_a_best_model(tmp_path: Path) -> None:
    rule = {"penalty": "L2", "alpha": 0.1, "eps": 1e-3, "max_iter": 200}
    outcome = run(tmp_path, made_frames(n_crossed=0), **trained(**rule))
    assert ending_of(outcome) == (True, "converged", [])


def test_a_penalty_of_no_weight_is_none(tmp_path: Path) -> None:
    rule = {"penalty": "L2", "alpha": 0, "eps": 0.02, "max_iter": 60}
    outcome = run(tmp_path, made_frames(n_crossed=0), **trained(**rule))
    assert ending_of(outcome) == (True, "converged", [SEPARATED])


@pytest.mark.thorough
def test_an_attribute_that_separates_some_rows_ends_by_max_iter(
    tmp_path: Path,
) -> None:
    """All rows that have it are ill, among others that are: its coefficient has no finite
    best value, and what a new study should set does not converge.
    """
    frames = made_frames(n_crossed=20)
    for frame in frames.values():
        frame["x2"] = ((frame.y == 1) & (frame.id < 30)).astype(float)
    outcome = run(tmp_path, frames, **trained(**STUDY))
    assert ending_of(outcome) == (False, "max_iter", [MAX_ITER])
    assert "penalty L2" in MAX_ITER
    rule = {**STUDY, "penalty": "L2", "alpha": 0.01}
    penalised = run(tmp_path / "penalised", frames, **trained(**rule))
    assert ending_of(penalised) == (True, "converged", [])


@pytest.mark.thorough
def test_each_fold_of_cross_validation_says_so_for_itself(tmp_path: Path) -> None:
    cv = {"need_cv": True, "n_splits": 2}
    outcome = run(tmp_path, **trained(eps=1e-3, max_iter=60, cv_param=cv))
    summary = summary_of(outcome)
    for fold in ("1", "2", "0"):
        assert ending(summary[fold]) == (True, "converged", [])


# Columns as hospitals have them


def raw_frames() -> dict[int, pd.DataFrame]:
    """Ages, and a laboratory value of some hundreds, of which one deviation changes the
    log-odds by 1 and by .7.
    """
    frames = {}
    for user in HOSPITALS:
        rng = np.random.default_rng(user)
        age = rng.normal(62, 11, 250)
        level = rng.normal(240, 50, 250)
        log_odds = (age - 62) / 11 - 0.7 * (level - 240) / 50 - 0.4
        y = (rng.random(250) < 1 / (1 + np.exp(-log_odds))).astype(int)
        ids = np.arange(250)
        frames[user] = pd.DataFrame({"id": ids, "x1": age, "x2": level, "y": y})
    return frames


def test_raw_columns_under_the_documents_defaults_are_told_of(tmp_path: Path) -> None:
    """Its order has columns of deviation 1; these make steps of hundreds."""
    defaults = {"penalty": "L2", "alpha": 0.01, "eps": 1e-4, "max_iter": 100}
    cohort = "max_linear_predictor = 1000000\nmax_share = 1"
    outcome = run(tmp_path, raw_frames(), cohort=cohort, **trained(**defaults))
    _, _, warnings = ending_of(outcome)
    assert CONSTANT in warnings
    assert summary_of(outcome)["0"]["loss"] > 10


@pytest.mark.thorough
def test_what_a_new_study_should_set_comes_to_the_estimates_of_one_table(
    tmp_path: Path,
) -> None:
    frames = raw_frames()
    outcome = run(tmp_path, frames, **trained(**STUDY))
    assert ending_of(outcome) == (True, "converged", [])
    fitted = export_model(outcome.models[2], "sklearn")["attributes"]
    table = pd.concat(frames.values())
    exact = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    exact.fit(table[["x1", "x2"]].to_numpy(), table.y.to_numpy())
    np.testing.assert_allclose(fitted["coef_"], exact.coef_, rtol=5e-3)
    np.testing.assert_allclose(fitted["intercept_"], exact.intercept_, rtol=5e-3)


# What the rule of steep weights ends


def test_a_last_step_that_makes_the_model_steep_is_refused_as_any_other(
    tmp_path: Path,
) -> None:
    """Whether a model is kept does not depend on max_iter."""
    for max_iter in (1, 2, 3):
        with pytest.raises(Refused) as caught:
            run(
                tmp_path / str(max_iter),
                **trained(learning_rate=1000.0, max_iter=max_iter),
            )
        assert caught.value.code == "linear_predictor"
        assert "separate" in caught.value.remedy
        assert "penalty" in caught.value.remedy


# What an initiator may not do


@pytest.mark.parametrize("says", [True, False])
def test_an_initiator_that_ends_training_otherwise_than_the_order_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: bool
) -> None:
    """One that goes on would get more rounds than the hospitals have counted."""

    def opened(trainer: Trainer, kind: str, **options: Any) -> Opening:
        if not trainer.order.is_initiator or "decide" not in options:
            return receive_opening(trainer, kind, **options)
        decide = options.pop("decide")
        opening = receive_opening(trainer, kind, decide=lambda sums: says, **options)
        # What it finds itself, it does not tell.
        return Opening(opening.sums, decide(opening.sums))

    monkeypatch.setattr(folds, "receive_opening", opened)
    with pytest.raises(ProtocolViolation) as caught:
        run(tmp_path, **trained(eps=0, max_iter=2))
    assert caught.value.code == "training_end"
