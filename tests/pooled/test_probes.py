"""Who steers a model's weights can aim its gradient at single rows: such a round leaves no
hospital, and ordinary training does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analytics.training.gradients import local_gradient, row_weights
from analytics.training.models import Model
from deployments.local.one_process import run_order
from protocol.errors import Refused
from protocol.memory_transport import MemoryTransport
from tests.made_sites import make_sites, order_body

HOSPITALS = (2, 3, 4)
N_ROWS = 60


def table(user: int) -> pd.DataFrame:
    """Two attributes of which the first tells the classes apart, a few rows in between."""
    rng = np.random.default_rng(user)
    y = np.arange(N_ROWS) % 2
    x1 = (2.0 * y - 1) * rng.uniform(1, 3, N_ROWS)
    return pd.DataFrame(
        {"id": np.arange(N_ROWS), "x1": x1, "x2": rng.normal(size=N_ROWS), "y": y}
    )


def run(
    folder: Path, frames: dict[int, pd.DataFrame], cohort: str = "", **order: Any
) -> MemoryTransport:
    """The messages of an order that has ended well; else what it ended with is raised."""
    opened = {user: {"rows": frame} for user, frame in frames.items()}
    transport = MemoryTransport()
    sites = make_sites(folder, opened, cohort=cohort)
    body = order_body(HOSPITALS, **{"attributes": ["x1", "x2"], **order})
    run_order(sites, body, transport=transport)
    return transport


def started_at(weight: float, **params: Any) -> dict[str, Any]:
    start = {"init_method": "const", "init_const": weight, "fit_intercept": False}
    return {"model_params": {"init_param": start, **params}}


@pytest.mark.parametrize(("model_type", "label"), [("lr", "y"), ("softmax", "kind")])
def test_a_steep_start_leaves_no_hospital(
    tmp_path: Path, model_type: str, label: str
) -> None:
    """Weights of 1,000 cut the rows in two by a plane. Equal ones of softmax cut none,
    so a learning rate takes them there.
    """
    frames = {user: table(user) for user in HOSPITALS}
    for frame in frames.values():
        frame["kind"] = np.where(frame.y == 1, "ill", "well")
    start = started_at(1000.0)
    if model_type == "softmax":
        start = started_at(0.0, learning_rate=1000.0)
    with pytest.raises(Refused) as caught:
        run(tmp_path, frames, model_type=model_type, label_name=label, **start)
    assert caught.value.code == "linear_predictor"


def test_an_ordinary_start_is_trained(tmp_path: Path) -> None:
    frames = {user: table(user) for user in HOSPITALS}
    transport = run(tmp_path, frames, **started_at(1.0))
    assert transport.facts[1]


def test_a_policy_may_allow_a_steeper_model(tmp_path: Path) -> None:
    frames = {user: table(user) for user in HOSPITALS}
    rules = "max_linear_predictor = 100000\nmax_share = 1"
    assert run(tmp_path, frames, rules, **started_at(1000.0)).facts[1]


def test_two_rows_that_make_up_a_round_leave_no_hospital(tmp_path: Path) -> None:
    """All others are far on their own side, and enter with next to nothing."""
    frames = {user: table(user) for user in HOSPITALS}
    run(tmp_path / "none", frames, attributes=["x1"], **started_at(9.0))
    frames[3].loc[[0, 1], "y"] = [1, 0]
    with pytest.raises(Refused) as caught:
        run(tmp_path, frames, attributes=["x1"], **started_at(9.0))
    assert caught.value.code == "max_share"


def test_a_label_far_out_makes_up_a_round_of_linear(tmp_path: Path) -> None:
    frames = {user: table(user) for user in HOSPITALS}
    for frame in frames.values():
        frame["value"] = frame.x2
    order = {"model_type": "linear", "label_name": "value"}
    run(tmp_path / "ordinary", frames, **order)
    frames[4].loc[7, "value"] = 1e6
    with pytest.raises(Refused) as caught:
        run(tmp_path / "far", frames, **order)
    assert caught.value.code == "max_share"


@pytest.mark.parametrize("batch_size", [-1, 7])
@pytest.mark.parametrize(
    "model",
    [Model("lr", 3), Model("linear", 3), Model("softmax", 3, classes=(0, 1, 2))],
    ids=lambda model: model.kind,
)
def test_the_weights_are_those_of_the_gradient(model: Model, batch_size: int) -> None:
    """The gradient's intercept is the sum of residuals, each over the rows of its batch;
    their sizes are the weights where all residuals have one sign.
    """
    rng = np.random.default_rng(5)
    X = rng.normal(size=(20, 3))
    y = np.zeros(20) if model.kind != "softmax" else np.zeros(20, dtype=np.int64)
    start = rng.normal(size=model.n_weights)
    if model.kind == "linear":
        start[-1] = 100.0
    walk = {"batch_size": batch_size, "learning_rate": 0.1}
    found = row_weights(model, start, X, y, **walk)
    gradient = local_gradient(model, start, X, y, **walk)
    width = model.n_features + 1
    of_intercepts = np.abs(gradient[width - 1 :: width]).sum()
    assert of_intercepts == pytest.approx(found.weights.sum())
