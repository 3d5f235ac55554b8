"""A label in any unit trains as well as one near 1, and every answer is in its own unit:
a cost is 1e6 in yuan, a concentration 1e-7 in grams.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from agents.order.party import open_party
from agents.site.settings import SiteSettings
from agents.training.export import export_model
from agents.training.inference import predict
from analytics.training.descent import Trained, train
from analytics.training.models import Model
from deployments.local.one_process import OrderOutcome, run_order
from protocol.errors import BadRequest
from protocol.memory_transport import MemoryTransport
from tests.made_sites import make_sites, order_body
from tests.pairwise import pairwise, quick

HOSPITALS = (2, 3, 4)
NAMES = ["age", "days"]
METHODS = ["Mask", "Paillier", "None"]
UNITS = [1e-7, 1e9, 1.0, 1e6]
N_ROWS = (80, 50, 30)


def made_frames(unit: float) -> dict[int, pd.DataFrame]:
    """A cost that two attributes explain but for a tenth of its deviation."""
    frames = {}
    for user, n_rows in zip(HOSPITALS, N_ROWS, strict=True):
        rng = np.random.default_rng(user)
        age = rng.normal(60, 12, n_rows)
        days = rng.gamma(2.0, 4.0, n_rows)
        cost = 3 + 0.02 * age + 0.1 * days + rng.normal(0, 0.1, n_rows)
        columns = {"id": np.arange(n_rows), "age": age, "days": days}
        # Attributes that need no scale of their own.
        columns |= {"z1": (age - 60) / 12, "z2": (days - 8) / 5.7}
        frames[user] = pd.DataFrame({**columns, "cost": unit * cost})
    return frames


def sites_of(folder: Path, frames: dict[int, pd.DataFrame]) -> dict[int, SiteSettings]:
    opened = {user: {"rows": frame} for user, frame in frames.items()}
    return make_sites(folder, opened)


def linear(attributes: list[str] = NAMES, **params: Any) -> dict[str, Any]:
    return order_body(
        HOSPITALS,
        model_type="linear",
        attributes=attributes,
        label_name="cost",
        model_params=params,
    )


def pooled(frames: dict[int, pd.DataFrame], attributes: list[str]) -> tuple[Any, Any]:
    table = pd.concat([frame.sort_values("id") for frame in frames.values()])
    return table[attributes].to_numpy(), table["cost"].to_numpy()


def standardized(
    frames: dict[int, pd.DataFrame], *, has_intercept: bool = True, **options: Any
) -> tuple[Trained, float, float]:
    """Gradient descent on one table whose columns are z-scored, the label too; with the
    label's center and unit.
    """
    X, y = pooled(frames, NAMES)
    center = y.mean() if has_intercept else 0.0
    unit = float(np.sqrt(np.mean((y - center) ** 2)))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    model = Model("linear", 2, has_intercept)
    found = train(model, [(X, (y - center) / unit)], **options)
    return found, float(center), unit


def dense(outcome: OrderOutcome) -> Any:
    """The weights, which all hospitals hold bit for bit."""
    weights = [np.ravel(model["layers"]["dense"]) for model in outcome.models.values()]
    for own in weights:
        assert np.array_equal(own, weights[0])
    return weights[0]


def last_round(outcome: OrderOutcome) -> Any:
    return [facts["round"] for facts in outcome.facts if "round" in facts][-1]


# The request document's own defaults, but for standardize and the method.
DEFAULTS: dict[str, Any] = {
    "standardize": True,
    "penalty": "L2",
    "alpha": 0.01,
    "eps": 1e-4,
    "max_iter": 100,
}


@pytest.mark.parametrize("unit", quick(UNITS, 1))
@pytest.mark.parametrize("method", quick(METHODS, 1))
def test_a_label_of_any_size_trains_with_the_defaults_of_standardize(
    tmp_path: Path, method: str, unit: float
) -> None:
    frames = made_frames(unit)
    body = linear(**DEFAULTS, encrypt_param={"method": method})
    outcome = run_order(sites_of(tmp_path, frames), body)
    expected, center, scale = standardized(
        frames, penalty="L2", alpha=0.01, learning_rate=0.15, max_iter=100
    )
    model = outcome.models[4]
    assert model["n_rounds"] == expected.n_rounds
    own = expected.weights * scale
    own[-1] += center
    np.testing.assert_allclose(dense(outcome), own, rtol=1e-9)
    losses = np.array(expected.losses) * scale**2
    np.testing.assert_allclose(model["losses"], losses, rtol=1e-9)
    # The spread that is left is a tenth of a unit.
    for report in last_round(outcome)["hospitals"].values():
        assert report["train"]["rmse"] == pytest.approx(0.1 * unit, rel=0.35)
        assert report["train"]["r2"] > 0.9


@pairwise(n_quick=1, optimizer=["sgd", "adam"], penalty=["L1", "L2", None])
def test_optimizers_and_penalties_work_on_the_standardized_label(
    tmp_path: Path, optimizer: str, penalty: str | None
) -> None:
    frames = made_frames(1e6)
    options: dict[str, Any] = {"penalty": penalty, "optimizer": optimizer}
    body = linear(**{**DEFAULTS, **options, "eps": 0, "max_iter": 20})
    outcome = run_order(sites_of(tmp_path, frames), body)
    expected, center, scale = standardized(
        frames, alpha=0.01, learning_rate=0.15, max_iter=20, eps=0, **options
    )
    own = expected.weights * scale
    own[-1] += center
    rtol = 1e-9 if optimizer == "sgd" else 1e-6
    coef, intercept = dense(outcome)[:-1], dense(outcome)[-1]
    np.testing.assert_allclose(coef, own[:-1], rtol=rtol)
    # The mean is right from the start: adam divides what rounding leaves of its gradient
    # by a root as small.
    atol = 1e-9 if optimizer == "sgd" else 0.1 * scale
    assert intercept == pytest.approx(own[-1], rel=1e-9, abs=atol)


def test_without_an_intercept_the_label_is_not_moved(tmp_path: Path) -> None:
    frames = made_frames(1e6)
    init = {"fit_intercept": False}
    body = linear(standardize=True, max_iter=20, init_param=init)
    outcome = run_order(sites_of(tmp_path, frames), body)
    expected, _, scale = standardized(
        frames, has_intercept=False, learning_rate=0.15, max_iter=20, eps=0
    )
    np.testing.assert_allclose(dense(outcome), expected.weights * scale, rtol=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "unit"),
    quick([("adam", 1e6), *(("sgd", unit) for unit in UNITS), ("adam", 1.0)], 1),
)
def test_unstandardized_it_is_gradient_descent_in_the_labels_own_unit(
    tmp_path: Path, optimizer: str, unit: float
) -> None:
    """Steps, penalties and convergence are those of the raw label; only what is sealed
    has a scale of its own.
    """
    frames = made_frames(unit)
    options: dict[str, Any] = {"penalty": "L1", "alpha": 0.01, "optimizer": optimizer}
    body = linear(["z1", "z2"], max_iter=20, **options)
    outcome = run_order(sites_of(tmp_path, frames), body)
    X, y = pooled(frames, ["z1", "z2"])
    expected = train(
        Model("linear", 2), [(X, y)], learning_rate=0.15, max_iter=20, eps=0, **options
    )
    atol = (1e-9 if optimizer == "sgd" else 1e-6) * np.abs(expected.weights).max()
    np.testing.assert_allclose(dense(outcome), expected.weights, rtol=0, atol=atol)
    np.testing.assert_allclose(
        outcome.models[2]["losses"], expected.losses, rtol=1e-6 if unit < 1 else 1e-9
    )


def test_a_constant_label_is_learnt(tmp_path: Path) -> None:
    frames = {user: frame.assign(cost=5e8) for user, frame in made_frames(1).items()}
    gate = {"cohort": "min_varying = 1"}
    opened = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(tmp_path, opened, **gate)
    assert dense(run_order(sites, linear(standardize=True))).tolist() == [0, 0, 5e8]


def test_predictions_and_exports_are_in_the_labels_unit(tmp_path: Path) -> None:
    frames = made_frames(1e6)
    sites = sites_of(tmp_path, frames)
    body = linear(**{**DEFAULTS, "penalty": None, "eps": 1e-12, "max_iter": 300})
    outcome = run_order(sites, body)
    X, y = pooled(frames, NAMES)
    with_ones = np.column_stack([X, np.ones(len(X))])
    exact, *_ = np.linalg.lstsq(with_ones, y, rcond=None)
    fitted = export_model(outcome.models[3], "sklearn")["attributes"]
    found = [*fitted["coef_"], fitted["intercept_"]]
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    party = open_party(sites[3], 1, MemoryTransport())
    predicted = predict(party, 1, "SELECT * FROM data.rows WHERE id < 5")
    own = frames[3].head(5)
    expected = own[NAMES].to_numpy() @ exact[:2] + exact[2]
    np.testing.assert_allclose([row["label"] for row in predicted], expected, rtol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("method", "aggregation"),
    quick(
        [
            ("Mask", "multi_krum"),
            ("None", "mean"),
            ("None", "median"),
            ("None", "trimmed_mean"),
            ("None", "multi_krum"),
            ("Mask", "mean"),
        ],
        1,
    ),
)
def test_scored_rounds_are_in_the_labels_unit(
    tmp_path: Path, method: str, aggregation: str
) -> None:
    """The same order in yuan and in ten thousands of them: the same steps, losses 1e8
    times as large, gradients 1e4 times.
    """
    small = scored(tmp_path / "small", 1.0, method, aggregation)
    large = scored(tmp_path / "large", 1e4, method, aggregation)
    np.testing.assert_allclose(large.weights, 1e4 * small.weights, rtol=1e-9)
    assert large.loss == pytest.approx(1e8 * small.loss, rel=1e-5)
    np.testing.assert_allclose(large.lengths, 1e4 * small.lengths, rtol=1e-6, atol=1e-6)
    # What a round would have been without a hospital, of its held-out rows.
    for hospital, without in small.left_out.items():
        larger = large.left_out[hospital]
        assert larger["loss"] == pytest.approx(1e8 * without["loss"], rel=1e-5)


class Scored(NamedTuple):
    """What is known of an order whose rounds are scored."""

    weights: Any
    loss: float  # of the last round
    # Of what is kept of round 3: gradients, or columns of triangular factors.
    lengths: Any
    left_out: dict[str, Any]  # leave-one-out metrics of round 2


def scored(folder: Path, unit: float, method: str, aggregation: str) -> Scored:
    frames = made_frames(unit)
    frames |= {user + 3: frame for user, frame in made_frames(unit).items()}
    hospitals = sorted(frames)
    opened = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(folder, opened, cohort="min_rows = 1\nmax_parameter_share = 5")
    texts = {str(user): "SELECT * FROM data.rows" for user in hospitals}
    params = {
        "standardize": True,
        "max_iter": 4,
        "encrypt_param": {"method": method},
    }
    body = order_body(
        hospitals,
        model_type="linear",
        attributes=NAMES,
        label_name="cost",
        aggregation=aggregation,
        scoring="full",
        test_data_info=texts,
        model_params=params,
    )
    transport = MemoryTransport()
    outcome = run_order(sites, body, transport=transport)
    left_out: dict[str, Any] = {}
    for facts in outcome.facts:
        about = facts.get("leave_one_out", {})
        if about.get("round") == 2:
            left_out = about["clients"]
    assert left_out
    kept = safetensors.numpy.load(transport.rounds[1][3])
    lengths = []
    for name in sorted(kept):
        values = kept[name]
        if name.startswith("between/"):
            # The third is a product of two gradients, the others are lengths.
            values[:, 2] = np.sqrt(np.abs(values[:, 2]))
        lengths.append(np.atleast_1d(np.linalg.norm(values, axis=0)))
    return Scored(
        weights=dense(outcome),
        loss=last_round(outcome)["loss"],
        lengths=np.concatenate(lengths),
        left_out=left_out,
    )


@pytest.mark.thorough
def test_cross_validation_tells_errors_in_the_labels_unit(tmp_path: Path) -> None:
    frames = made_frames(1e6)
    folds = {"need_cv": True, "n_splits": 3}
    outcome = run_order(sites_of(tmp_path, frames), linear(**DEFAULTS, cv_param=folds))
    (summary,) = [facts["summary"] for facts in outcome.facts if "summary" in facts]
    for fold in ("1", "2", "3"):
        held_out = summary[fold]["held_out"]
        assert held_out["rmse"] == pytest.approx(1e5, rel=0.35)
        assert held_out["loss"] == pytest.approx(held_out["rmse"] ** 2 / 2)
    assert summary["held_out"]["rmse"] == pytest.approx(1e5, rel=0.35)


# What is still too large


def raw_order(frames: dict[int, pd.DataFrame], **params: Any) -> dict[str, Any]:
    """A logistic order on a raw column of a hundred millions."""
    for frame in frames.values():
        frame["y"] = (frame.cost > frame.cost.median()).astype(int)
        frame["income"] = 1e8 * (frame.age - 20)
    changes = {"attributes": ["days", "income"], "label_name": "y"}
    return order_body(HOSPITALS, **changes, model_params={"max_iter": 1, **params})


def test_an_error_names_the_attribute_and_a_bound_that_would_do(
    tmp_path: Path,
) -> None:
    frames = made_frames(1.0)
    body = raw_order(frames)
    cohort = "max_linear_predictor = 1000000000000000000"
    opened = {user: {"rows": frame} for user, frame in frames.items()}
    sites = make_sites(tmp_path, opened, cohort=cohort)
    bound = 2**20
    order_id = 1
    # Each hospital speaks for its own rows.
    while (error := refusal_of(sites, body, order_id, bound)) is not None:
        assert error.code == "bound_exceeded"
        assert error.sentence == (
            f"In round 0: This hospital's part in the sum is beyond the bound of {bound}: the gradient of income."
        )
        assert "standardize" in error.remedy
        (word,) = re.findall(r"a bound of (\d+),", error.remedy)
        assert int(word) > bound
        bound = int(word)
        assert np.log2(bound) % 4 == 0
        order_id += 1
    assert order_id > 1


def refusal_of(
    sites: dict[int, SiteSettings], body: dict[str, Any], order_id: int, bound: int
) -> BadRequest | None:
    """None of an order that is trained."""
    params = {**body["model_params"], "bound": bound}
    try:
        run_order(sites, {**body, "model_params": params}, order_id=order_id)
    except BadRequest as error:
        return error
    return None


def test_a_label_that_no_sum_holds_is_named(tmp_path: Path) -> None:
    frames = made_frames(1e40)
    with pytest.raises(BadRequest) as caught:
        run_order(sites_of(tmp_path, frames), linear(standardize=True))
    assert caught.value.code == "wide"
    assert "cost" in caught.value.sentence
    assert "age" not in caught.value.sentence


def test_an_error_names_intercept_and_loss(tmp_path: Path) -> None:
    """A start far from any label: the label's scale is that of the label."""
    frames = made_frames(1.0)
    init = {"init_method": "const", "init_const": 1e12}
    body = linear(["z1", "z2"], init_param=init)
    with pytest.raises(BadRequest) as caught:
        run_order(sites_of(tmp_path, frames), body)
    for name in ("the gradient of the intercept", "the loss", "the gradient of z2"):
        assert name in caught.value.sentence
    # No bound that an order may have is large enough for that loss.
    assert "a bound of" not in caught.value.remedy
