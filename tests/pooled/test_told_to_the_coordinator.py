"""What the coordinator was shown in clear counts as told to it: gradients of method None
and predictions. Metrics are of no set of people.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from agents.gate.kept_sets import COORDINATOR as TOLD
from agents.gate.memory import Memory
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from deployments.local.one_process import run_order
from protocol.errors import Refused
from tests.made_predictions import predicted
from tests.made_sites import make_sites, order_body
from tests.pairwise import quick

USERS = (2, 3, 4)
N_ROWS = 60
ALL = "SELECT * FROM data.rows"
TABLE = "data.rows"
Sites = dict[int, SiteSettings]


def made(folder: Path, **policy: Any) -> Sites:
    tables = {}
    for user in USERS:
        rng = np.random.default_rng(user)
        numbers = rng.normal(size=N_ROWS)
        frame = pd.DataFrame({"id": range(N_ROWS), "x1": numbers, "y": [0, 1] * 30})
        tables[user] = {"rows": frame}
    return make_sites(folder, tables, regroup=False, **policy)


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return made(tmp_path)


def train(sites: Sites, order_id: int, method: str) -> None:
    body = order_body(
        USERS,
        attributes=["x1"],
        model_params={"encrypt_param": {"method": method}},
        scoring="none",
    )
    run_order(sites, body, order_id=order_id)


def predict(sites: Sites, order_id: int, sql: str = ALL) -> list[dict[str, Any]]:
    """What hospital 2's user gets through the coordinator, of the model of order 1."""
    return predicted(sites, order_id, {"infer": sql})


def leave_out(sites: Sites, n_rows: int) -> None:
    with duckdb.connect(str(sites[2].state / "hospital.duckdb")) as database:
        database.execute(f"DELETE FROM {TABLE} WHERE id < {n_rows}")


def memory_of(sites: Sites) -> Memory:
    return Memory(Vault(sites[2].vault).cohorts)


def told(sites: Sites) -> list[tuple[str, str, int]]:
    """Of whom the coordinator has something: column, name and how many they are."""
    found = memory_of(sites).list_opened()
    return [
        (one.column, one.name, one.n_members) for one in found if one.receiver == TOLD
    ]


def forget_hospitals(sites: Sites) -> None:
    """What the other hospitals have is in no later order's way."""
    for user in ("3", "4"):
        memory_of(sites).forget(user, TABLE)


def test_metrics_are_of_no_set(sites: Sites) -> None:
    train(sites, 1, "Mask")
    assert told(sites) == []


def test_gradients_in_clear_are_told_to_the_coordinator(sites: Sites) -> None:
    train(sites, 1, "None")
    assert told(sites) == [("x1", "train", N_ROWS), ("y", "train", N_ROWS)]
    forget_hospitals(sites)
    leave_out(sites, 1)
    with pytest.raises(Refused) as caught:
        train(sites, 2, "None")
    assert caught.value.code == "earlier_cohort"
    train(sites, 3, "Mask")


@pytest.mark.parametrize("n_gone", quick([0, 1, 9, 10], 2))
def test_a_model_in_clear_after_predictions_of_a_few_more(
    sites: Sites, n_gone: int
) -> None:
    train(sites, 1, "Mask")
    assert len(predict(sites, 2)) == N_ROWS
    assert told(sites) == [("x1", "predictions", N_ROWS)]
    forget_hospitals(sites)
    leave_out(sites, n_gone)
    if n_gone in (0, 10):
        train(sites, 3, "None")
        return
    with pytest.raises(Refused) as caught:
        train(sites, 3, "None")
    assert caught.value.code == "earlier_cohort"
    train(sites, 4, "Mask")


def test_predictions_are_refused_to_nobody_and_let_no_total_pass(sites: Sites) -> None:
    """Of one patient, and of all but one: as told, they would make a model of these
    people one that tells nothing new.
    """
    train(sites, 1, "Mask")
    assert len(predict(sites, 2)) == N_ROWS
    assert len(predict(sites, 3, f"{ALL} WHERE id = 0")) == 1
    assert len(predict(sites, 4, f"{ALL} WHERE id <> 0")) == N_ROWS - 1
    assert told(sites) == [("x1", "predictions", N_ROWS)]
    forget_hospitals(sites)
    leave_out(sites, 1)
    with pytest.raises(Refused) as caught:
        train(sites, 5, "None")
    assert caught.value.code == "earlier_cohort"


def test_predictions_where_the_coordinator_opens_no_total(tmp_path: Path) -> None:
    sites = made(tmp_path, methods=["Mask"])
    train(sites, 1, "Mask")
    assert len(predict(sites, 2)) == N_ROWS
    assert told(sites) == []
