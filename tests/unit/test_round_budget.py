"""How many rounds a receiver may have of a population in budget_days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from agents.check.site import check_rounds
from agents.gate.round_budget import RoundBudget, Spent
from agents.site.vault import Vault
from deployments.local.one_process import run_order
from protocol.errors import Refused
from protocol.memory_transport import MemoryTransport
from protocol.policy import CohortRules
from tests.made_sites import make_sites, order_body

NOW = datetime(2026, 11, 26, tzinfo=UTC)
RULES = CohortRules(max_rounds=100, budget_days=30)


def commit(budget: RoundBudget, order_id: int, n_rounds: int, **changed: Any) -> None:
    given: dict[str, Any] = {
        "receivers": ["2", "3"],
        "populations": ["data.rows"],
        "rules": RULES,
        "now": NOW,
        **changed,
    }
    budget.commit(order_id, n_rounds=n_rounds, **given)


@pytest.mark.parametrize(
    ("n_more", "is_allowed"), [(39, True), (40, True), (41, False)]
)
def test_rounds_add_up_to_the_budget(
    tmp_path: Path, n_more: int, is_allowed: bool
) -> None:
    budget = RoundBudget(tmp_path)
    commit(budget, 1, 60)
    if is_allowed:
        commit(budget, 2, n_more)
        return
    with pytest.raises(Refused, match="40 of 100 rounds left") as caught:
        commit(budget, 2, n_more)
    assert caught.value.code == "max_rounds"
    # What was refused is not counted, for no receiver.
    assert [one.n_rounds for one in budget.spent(rules=RULES, now=NOW)] == [60, 60]


def test_each_receiver_and_population_has_its_own(tmp_path: Path) -> None:
    budget = RoundBudget(tmp_path)
    commit(budget, 1, 100)
    commit(budget, 2, 100, receivers=["4"])
    commit(budget, 3, 100, populations=["data.other"])
    with pytest.raises(Refused):
        commit(budget, 4, 1, receivers=["4", "5"])
    # Case does not make another table.
    with pytest.raises(Refused):
        commit(budget, 5, 1, populations=["DATA.ROWS"])


def test_an_order_that_starts_again_counts_once(tmp_path: Path) -> None:
    budget = RoundBudget(tmp_path)
    commit(budget, 1, 100)
    commit(RoundBudget(tmp_path), 1, 100)
    assert budget.spent(rules=RULES, now=NOW)[0] == Spent("2", "data.rows", 100)


def test_rounds_count_for_budget_days(tmp_path: Path) -> None:
    budget = RoundBudget(tmp_path)
    commit(budget, 1, 100)
    with pytest.raises(Refused):
        commit(budget, 2, 1, now=NOW + timedelta(days=29, hours=23))
    commit(budget, 2, 1, now=NOW + timedelta(days=30, seconds=1))


def people() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame({"id": range(90), "x1": rng.normal(size=90), "y": [0, 1] * 45})


def test_an_order_takes_its_rounds_of_every_hospital(tmp_path: Path) -> None:
    """Three folds and the model of all rows, five rounds each: 20 of 39, twice refused."""
    tables = {user: {"rows": people()} for user in (2, 3, 4)}
    sites = make_sites(tmp_path, tables, cohort="max_rounds = 39\nmin_rows = 1")
    folds = {"need_cv": True, "n_splits": 3}
    body = order_body((2, 3, 4), attributes=["x1"], model_params={"cv_param": folds})
    run_order(sites, body)
    rules = CohortRules(max_rounds=39)
    budget = RoundBudget(Vault(sites[3].vault).cohorts)
    spent = budget.spent(rules=rules, now=datetime.now(UTC))
    assert spent == [Spent("2", "data.rows", 20), Spent("4", "data.rows", 20)]
    (finding,) = check_rounds(sites[3])
    assert "19 of 39" in finding.sentence
    transport = MemoryTransport()
    with pytest.raises(Refused) as caught:
        run_order(sites, body, order_id=2, transport=transport)
    assert caught.value.code == "max_rounds"


def test_rounds_of_a_view_are_those_of_its_people(tmp_path: Path) -> None:
    """Five rounds of the table, and five of a view of it: 10 of 9."""
    tables = {user: {"rows": people(), "seen": people()} for user in (2, 3, 4)}
    sites = make_sites(tmp_path, tables, cohort="max_rounds = 9")
    for site in sites.values():
        with duckdb.connect(str(site.state / "hospital.duckdb")) as database:
            database.execute("DROP TABLE data.seen")
            database.execute("CREATE VIEW data.seen AS SELECT * FROM data.rows")
        # The section of the view is the last one.
        same = 'same_people_as = "data.rows"\n'
        site.policy.write_text(site.policy.read_text() + same)
    run_order(sites, order_body((2, 3, 4), attributes=["x1"]))
    through_view = dict.fromkeys("234", "SELECT * FROM data.seen")
    body = order_body((2, 3, 4), attributes=["x1"], data_info=through_view)
    with pytest.raises(Refused) as caught:
        run_order(sites, body, order_id=2)
    assert caught.value.code == "max_rounds"
