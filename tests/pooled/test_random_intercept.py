"""`site_effect` random: as statsmodels' mixed model of one table, where policies allow it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from agents.training import random_intercept
from deployments.local.one_process import run_order
from protocol.errors import ConsiliumError
from protocol.messages import GROUP, KINDS
from protocol.training_request import parse_training_request
from tests.made_sites import make_sites, order_body
from tests.made_statistics import no_waiting_for_disks

USERS = (2, 3, 4, 5, 6)
PARAMS: dict[str, Any] = {
    "optimizer": "newton",
    "eps": None,
    "max_iter": None,
    "site_effect": "random",
}
LINEAR: dict[str, Any] = {
    "model_type": "linear",
    "attributes": ["age", "sex"],
    "label_name": "bp",
    "scoring": None,
}


@pytest.fixture(autouse=True)
def _fast() -> Iterator[None]:
    with no_waiting_for_disks():
        yield


def patients(user: int, n_women: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(user)
    n_rows = 60 + 15 * user
    frame = pd.DataFrame({"id": np.arange(n_rows) + 1000 * user})
    frame["age"] = np.round(rng.normal(50 + 2 * user, 9, n_rows), 1)
    frame["sex"] = (np.arange(n_rows) < n_women).astype(int)
    noise = rng.normal(0, 11, n_rows) + rng.normal(0, 9)
    frame["bp"] = np.round(100 + 0.6 * frame["age"] + 4 * frame["sex"] + noise, 1)
    return frame


def order(
    folder: Path, frames: dict[int, pd.DataFrame], allowing: tuple[int, ...] = USERS
) -> Any:
    sites = make_sites(folder, {user: {"rows": rows} for user, rows in frames.items()})
    for user in allowing:
        policy = sites[user].policy
        text = policy.read_text().replace("[orders]", "[orders]\nhospital_sums = true")
        pooled = '\n[statistics]\nmethods = ["count"]\ncells = "pooled"\n'
        policy.write_text(text + pooled)
    body = order_body(sorted(frames), model_params=PARAMS, **LINEAR)
    return run_order(sites, body)


def code_of(*args: Any, **changes: Any) -> str:
    try:
        order(*args, **changes)
    except ConsiliumError as error:
        return error.code
    return ""


def test_as_a_mixed_model_of_one_table(tmp_path: Path) -> None:
    frames = {user: patients(user) for user in USERS}
    report = order(tmp_path, frames).models[3]["report"]
    parts = [frame.assign(hospital=user) for user, frame in frames.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = smf.mixedlm("bp ~ age + sex", pd.concat(parts), groups="hospital")
        expected = model.fit(reml=True, gtol=1e-10)
    terms = pd.DataFrame(report["terms"])
    assert terms["term"].tolist() == ["(Intercept)", "age", "sex"]
    wanted = expected.fe_params.to_numpy()
    assert terms["estimate"].to_numpy() == pytest.approx(wanted, rel=1e-5)
    assert report["variance_residual"] == pytest.approx(expected.scale, rel=1e-4)
    between = float(expected.cov_re.iloc[0, 0])
    assert report["variance_between"] == pytest.approx(between, rel=1e-2)
    # By their variances: statsmodels' own errors are of a curvature, by differences.
    inverse = np.zeros((3, 3))
    for frame in frames.values():
        X = np.column_stack([np.ones(len(frame)), frame["age"], frame["sex"]])
        V = between * np.ones((len(X), len(X))) + expected.scale * np.eye(len(X))
        inverse += X.T @ np.linalg.solve(V, X)
    errors = np.sqrt(np.diag(np.linalg.inv(inverse)))
    assert terms["se"].to_numpy() == pytest.approx(errors, rel=1e-3)
    assert report["reml_criterion"] == pytest.approx(-2 * expected.llf, rel=1e-6)
    assert report["site_effect"] == "random"


def test_one_hospital_that_does_not_say_so_is_told_of_by_nobody(tmp_path: Path) -> None:
    frames = {user: patients(user) for user in USERS}
    assert code_of(tmp_path, frames, allowing=(2, 3, 4, 5)) == "hospital_sums"


def test_few_women_of_one_hospital_would_be_its_own_sum(tmp_path: Path) -> None:
    """Where thresholds are on the sum: its sum is told by itself."""
    frames = {user: patients(user, 4 if user == 3 else 30) for user in USERS}
    assert code_of(tmp_path, frames) == "min_varying"


def test_own_sums_that_do_not_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = random_intercept.tell_own_sums

    def lie(trainer: Any, fold: int, rows: Any) -> None:
        if trainer.order.me == 4:
            rows = rows._replace(y=rows.y + 1)
        tell(trainer, fold, rows)

    monkeypatch.setattr(random_intercept, "tell_own_sums", lie)
    frames = {user: patients(user) for user in USERS}
    assert code_of(tmp_path, frames) == "own_sums"


def test_the_coordinator_reads_no_own_sum() -> None:
    assert KINDS["own_sums"] == GROUP


def test_what_goes_with_no_random_intercept() -> None:
    body = order_body(USERS[:4], **LINEAR | {"model_type": "lr"}, model_params=PARAMS)
    with pytest.raises(ConsiliumError) as caught:
        parse_training_request(body)
    assert caught.value.code == "site_effect"
