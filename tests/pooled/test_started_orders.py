"""Orders that start with who is there: hospital 5 is away or late, and the others' result
is that of an order in which nobody else was asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.site.ledger import Ledger
from agents.site.settings import SiteSettings
from agents.site.vault import Vault
from deployments.local.one_process import run_order
from protocol.errors import ConsiliumError, Refused
from tests.made_newton import ATTRIBUTES, columns_of
from tests.made_sites import make_sites, order_body
from tests.made_study import N_PATIENTS, RULES, USERS, Study, make_study
from tests.made_windows import WINDOW, late_at, over_when_accepted
from tests.pairwise import quick
from tests.pooled.test_newton_orders import made_rows, pooled_fit

FOUR = (2, 3, 4, 5)
FRAMES = made_rows({2: 200, 3: 150, 4: 230, 5: 170})


@pytest.fixture
def sites(tmp_path: Path) -> dict[int, SiteSettings]:
    tables = {user: {"rows": frame} for user, frame in FRAMES.items()}
    return make_sites(tmp_path, tables)


def body_of(hospitals: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    changes = {"model_params": {"standardize": True}, **changes}
    return order_body(hospitals, attributes=ATTRIBUTES, scoring="none", **changes)


@pytest.mark.parametrize("method", quick(["Mask", "Paillier"], 1))
@pytest.mark.parametrize("optimizer", ["newton", "sgd"])
def test_a_model_is_that_of_the_hospitals_that_were_there(
    sites: dict[int, SiteSettings], method: str, optimizer: str
) -> None:
    params: dict[str, Any] = {"encrypt_param": {"method": method}}
    if optimizer == "newton":
        params |= {"optimizer": "newton", "eps": 1e-8, "max_iter": 25}
    else:
        params |= {"standardize": True}
    body = body_of(FOUR, model_params=params, **WINDOW)
    with over_when_accepted(USERS):
        started = run_order(sites, body, away=[5], order_id=1)
    alone = run_order(sites, body_of(FOUR[:3], model_params=params), order_id=2)
    assert sorted(started.models) == [2, 3, 4]
    for user in USERS:
        assert started.models[user]["layers"] == alone.models[user]["layers"]
        assert started.models[user]["hospitals"] == [2, 3, 4]
    if optimizer == "newton":
        b, se, _ = pooled_fit({user: FRAMES[user] for user in USERS}, "lr")
        assert (np.abs(columns_of(started, "estimate") - b) <= 1e-9 * se).all()
    assert {"party": [2, 3, 4]} in started.facts
    assert not Vault(sites[5].vault).orders()


def test_it_starts_at_once_when_all_have_accepted(
    sites: dict[int, SiteSettings],
) -> None:
    """A day would be longer than this test."""
    window = {"start_within_seconds": 86_400, "at_least": 3}
    started = run_order(sites, body_of(FOUR, **window))
    assert {"party": [2, 3, 4, 5]} in started.facts
    alone = run_order(sites, body_of(FOUR), order_id=2)
    assert started.models[5]["layers"] == alone.models[5]["layers"]


@pytest.mark.parametrize("moment", quick(["accepts", "begins"], 1))
def test_a_late_hospital_is_told_so_and_keeps_nothing(
    sites: dict[int, SiteSettings], moment: str
) -> None:
    with late_at(5, moment=moment, initiator=2, in_time=USERS):
        started = run_order(sites, body_of(FOUR, **WINDOW))
    assert sorted(started.models) == [2, 3, 4]
    vault = Vault(sites[5].vault)
    assert vault.orders() == []
    assert vault.models() == []
    ended = sites[5].vault / "ended" / "1.json"
    assert json.loads(ended.read_text())["content"]["outcome"] == "late"
    events = [entry["event"] for entry in Ledger(sites[5].ledger).entries()]
    assert events.count("late") == 1
    assert ("answered" in events) == (moment == "accepts")
    left = [
        entry["kind"]
        for entry in Ledger(sites[5].ledger).entries()
        if entry["event"] == "left"
    ]
    # Who comes when the party is named reads no row.
    assert left == (["acceptance"] if moment == "accepts" else [])
    # No rows, no keys: what is left in the vault are its own keys, the memory of the
    # gate, in which nothing stands, and the mark.
    kept = sorted(
        str(path.relative_to(sites[5].vault))
        for path in sites[5].vault.rglob("*")
        if path.is_file()
    )
    assert set(kept) <= {
        "cohorts/cohorts.sqlite",
        "cohorts/key",
        "cohorts/.lock",
        "ended/1.json",
        "identity.json",
        "ended/.lock",
        ".lock",
    }, kept
    # The order that it was late for is no reason to refuse another one.
    models = run_order(sites, body_of(FOUR), order_id=2).models
    assert sorted(models) == list(FOUR)


def test_too_few_end_the_order(sites: dict[int, SiteSettings]) -> None:
    window = {"start_within_seconds": 0.2, "at_least": 4}
    with over_when_accepted(USERS), pytest.raises(ConsiliumError) as caught:
        run_order(sites, body_of(FOUR, **window), away=[5])
    error = caught.value
    assert error.code == "too_few_accepted"
    assert "3 of 4 hospitals" in error.sentence
    assert "hospital 5" in error.sentence
    assert error.detail["hospitals"] == [5]


@pytest.mark.parametrize(("at_least", "is_refused"), [(2, True), (3, False)])
def test_a_policy_judges_by_the_fewest_that_an_order_may_start_with(
    sites: dict[int, SiteSettings], at_least: int, is_refused: bool
) -> None:
    """Also where all four come."""
    body = body_of(FOUR, start_within_seconds=86_400, at_least=at_least)
    if not is_refused:
        assert sorted(run_order(sites, body).models) == list(FOUR)
        return
    with pytest.raises(Refused) as caught:
        run_order(sites, body)
    assert caught.value.code == "min_hospitals"
    assert "raise at_least" in caught.value.remedy


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path)


def ask(study: Study, method: str, away: tuple[int, ...], **fields: Any) -> Any:
    data = dict.fromkeys(FOUR, "data.pooled")
    in_time = [user for user in FOUR if user not in away]
    with over_when_accepted(in_time):
        return study.hospitals.ask(method, data, away=away, **{"key": "age", **fields})


@pytest.mark.parametrize(
    "method", quick(["avg", "median", "histogram", "frequency"], 1)
)
def test_statistics_are_those_of_the_hospitals_that_were_there(
    study: Study, method: str
) -> None:
    fields: dict[str, Any] = {}
    if method == "histogram":
        fields["bins"] = [20, 50, 80]
    if method == "frequency":
        fields["key"] = "sex"
    started = ask(study, method, (5,), **WINDOW, **fields)
    study.hospitals.forget()
    key = {"key": "age", **fields}.pop("key")
    fields.pop("key", None)
    alone = study.answer(method, key, users=USERS, **fields)
    assert started.text == alone.text
    assert started.summary["rows_used"] == alone.summary["rows_used"]


@pytest.mark.parametrize("own_totals", [False, True])
def test_a_hospital_that_is_left_alone_with_the_receivers(
    study: Study, own_totals: bool
) -> None:
    """Rules that hold for two with rows are asked again when only one of them is there."""
    rules = {**RULES, "min_providers": 1, "own_totals": own_totals}
    study.hospitals.allow(**rules)
    window = {"start_within_seconds": 60, "at_least": 2}
    data = dict.fromkeys((2, 3), "data.pooled")

    def ask_of_both() -> Any:
        with over_when_accepted((2, 4)):
            return study.hospitals.ask(
                "avg",
                data,
                key="age",
                receivers=[4],
                initiator=4,
                away=[3],
                **window,
            )

    if own_totals:
        assert ask_of_both().summary["rows_used"] == {"2": N_PATIENTS}
        return
    with pytest.raises(Refused) as caught:
        ask_of_both()
    assert caught.value.code == "own_totals"


def test_an_order_that_began_without_one_and_a_later_one_with_it(study: Study) -> None:
    """The difference would be what hospital 5 alone has; why the first was of fewer is
    said.
    """
    ask(study, "avg", (5,), **WINDOW)
    refused = study.hospitals.refused(
        "avg", dict.fromkeys(FOUR, "data.pooled"), key="age"
    )
    assert refused.code == "earlier_hospitals"
    assert (
        "Order 1 began without hospital 5 (start_within_seconds)." in refused.sentence
    )
    assert refused.detail["hospitals"] == [5]
    # The same hospitals as then may be asked again.
    assert study.answer("count", "age").number == 3 * N_PATIENTS


def test_an_order_with_it_and_a_later_one_that_begins_without_it(
    study: Study,
) -> None:
    study.answer("avg", "age", users=FOUR)
    with pytest.raises(ConsiliumError) as caught:
        ask(study, "avg", (5,), **WINDOW)
    assert caught.value.code == "earlier_hospitals"
    assert (
        "Order 2 began without hospital 5 (start_within_seconds)."
        in caught.value.sentence
    )


def test_who_lets_itself_be_told_may_come_later(study: Study) -> None:
    study.let_be_told(5)
    ask(study, "avg", (5,), **WINDOW)
    assert study.answer("count", "age", users=FOUR).number == 4 * N_PATIENTS


def test_a_model_without_one_and_a_later_one_with_it(study: Study) -> None:
    order: dict[str, Any] = {"complete_on": ["age"], "users": FOUR}
    with over_when_accepted(USERS):
        models = study.train(["age"], away=[5], **order, **WINDOW)
    assert sorted(models) == list(USERS)
    refusal = study.refusal_of_model(["age"], **order)
    assert refusal.code == "earlier_hospitals"
    assert "Order 1 began without hospital 5" in refusal.sentence
