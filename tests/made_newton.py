"""Newton orders over made rows, whole, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analytics.arrays import Floats
from deployments.local.one_process import OrderOutcome, run_order
from tests.made_sites import make_sites, order_body

ATTRIBUTES = ["age", "dose", "sex"]


def run(
    folder: Path,
    frames: dict[int, pd.DataFrame],
    *,
    min_hospitals: int = 3,
    is_open: bool = True,
    **order: Any,
) -> OrderOutcome:
    params = {"optimizer": "newton", "eps": None, "max_iter": None, "penalty": None}
    params.update(order.pop("model_params", {}))
    sites = make_sites(
        folder,
        {user: {"rows": frame} for user, frame in frames.items()},
        min_hospitals=min_hospitals,
    )
    if is_open:
        open_policies(folder)
    body = order_body(
        sorted(frames), **{"attributes": ATTRIBUTES, "model_params": params, **order}
    )
    return run_order(sites, body)


def open_policies(folder: Path) -> None:
    for path in folder.rglob("policy.toml"):
        text = path.read_text()
        path.write_text(
            text + "min_rows = 1\nmin_varying = 1\nmax_parameter_share = 100\n"
        )


def columns_of(outcome: OrderOutcome, name: str) -> Floats:
    reports = [model["report"] for model in outcome.models.values()]
    # Every hospital has the same bits.
    assert all(report == reports[0] for report in reports)
    return np.array([term[name] for term in reports[0]["terms"]])


DEALS = {
    1: {2: 300},
    2: {2: 150, 3: 170},
    3: {2: 130, 3: 20, 4: 160},
    5: {2: 80, 3: 70, 4: 12, 5: 90, 6: 75},
}
