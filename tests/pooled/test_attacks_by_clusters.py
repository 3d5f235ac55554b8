"""What orders with hospitals as clusters tell together: each hospital's own sums.

So they need `regroup` of every hospital (Decision 104); here all have set it.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.training import robust
from analytics.arrays import Floats
from analytics.training import sandwich
from deployments.local.one_process import run_order
from tests.made_sites import make_sites, order_body

N_ROWS = {2: 150, 3: 140, 4: 160, 5: 120, 6: 135}
ATTACKER = 2
N_ORDERS = 12


def patients(user: int) -> pd.DataFrame:
    rng = np.random.default_rng(user)
    n_rows = N_ROWS[user]
    frame = pd.DataFrame({"id": np.arange(n_rows) + 1000 * user})
    frame["age"] = rng.normal(60 + user, 9, n_rows).round(1)
    frame["sex"] = (rng.random(n_rows) < 0.4 + 0.05 * user).astype(int)
    frame["y"] = rng.normal(5, 1, n_rows).round(3)
    return frame


def steered(order: int) -> pd.DataFrame:
    """Rows of the attacker, whose made-up outcomes move the coefficients."""
    rng = np.random.default_rng(100 + order)
    frame = patients(ATTACKER)
    slope, of_men, middle = rng.normal([0, 0, 5], [0.1, 3, 3])
    noise = rng.normal(0, 1, len(frame))
    y = middle + slope * (frame["age"] - 62) + of_men * frame["sex"] + noise
    return frame.assign(y=y.round(3))


@pytest.mark.thorough
def test_a_dozen_orders_tell_each_hospital_s_mean_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: dict[str, float] = {}
    read = sandwich.read_sums

    def kept(totals: Any, n_weights: int, *, bits: int) -> sandwich.Meat:
        meat = read(totals, n_weights, bits=bits)
        opened["squares"] = float(meat.M[-1, -1])
        return meat

    monkeypatch.setattr(robust.sandwich, "read_sums", kept)
    frames = {user: patients(user) for user in N_ROWS}
    pairs = list(combinations_with_replacement(range(4), 2))
    equations, values = [], []
    for number in range(N_ORDERS):
        frames[ATTACKER] = steered(number)
        tables = {user: {"rows": frame} for user, frame in frames.items()}
        sites = make_sites(tmp_path / str(number), tables, regroup=True)
        outcome = run_order(sites, _order())
        intercept, *slopes = [
            term["estimate"] for term in outcome.models[ATTACKER]["report"]["terms"]
        ]
        own = frames[ATTACKER]
        residuals = own["y"] - intercept - own[["age", "sex"]] @ np.array(slopes)
        y = pd.concat(list(frames.values()))["y"]
        in_units = opened["squares"] * _unit(y) ** 2
        # s = (sum of y, of age, of sex, how many) times these
        factors = np.array([1, -slopes[0], -slopes[1], -intercept])
        equations.append(_products(factors, pairs))
        values.append(in_units - float(residuals.sum()) ** 2)
    solved = np.linalg.lstsq(np.array(equations), np.array(values), rcond=None)[0]
    of_pairs = dict(zip(pairs, solved.tolist(), strict=True))
    others = [frames[user] for user in N_ROWS if user != ATTACKER]
    found = _own_sums(of_pairs, others)
    ages = [float(frame["age"].sum()) for frame in others]
    assert min(np.abs(one - ages).max() for one in found) < 0.01


def _order() -> dict[str, Any]:
    params = {"optimizer": "newton", "eps": None, "max_iter": None}
    return order_body(
        sorted(N_ROWS),
        attributes=["age", "sex"],
        label_name="y",
        model_type="glm",
        model_params={**params, "family": "gaussian", "cluster": "hospital"},
    )


def _products(factors: Floats, pairs: list[tuple[int, int]]) -> list[float]:
    found = []
    for one, other in pairs:
        times = 1 if one == other else 2
        found.append(float(times * factors[one] * factors[other]))
    return found


def _unit(y: pd.Series) -> float:
    """In which M's residuals are, of a gaussian label."""
    return float(y.std(ddof=0))


def _own_sums(
    of_pairs: dict[tuple[int, int], float], others: list[pd.DataFrame]
) -> list[Floats]:
    """The two candidates for each hospital's sum of ages: what 1, the row counts and the
    counts of men fix, and the rest of its length along the one direction that is left.
    Only totals and counts are taken from the rows here, which every hospital is told.
    """
    known = np.column_stack(
        [np.ones(4), [len(one) for one in others], [one["sex"].sum() for one in others]]
    )
    total = sum(float(one["age"].sum()) for one in others)
    along = np.array([total, of_pairs[1, 3], of_pairs[1, 2]])
    fixed = np.linalg.lstsq(known.T, along, rcond=None)[0]
    direction = np.linalg.svd(known.T)[2][-1]
    rest = np.sqrt(max(of_pairs[1, 1] - float(fixed @ fixed), 0.0))
    return [fixed + rest * direction, fixed - rest * direction]
