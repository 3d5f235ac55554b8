"""Attempts to have of single people by derived columns what no plain column tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.gate.derived_columns import check_values, is_sum
from agents.statistics.groups import pools_cells
from analytics.statistics.derived import parse_derived
from protocol.errors import Refused
from protocol.policy import StatisticsRules
from protocol.statistics_request import parse_statistics_request
from tests.made_statistics import Hospitals, make_hospitals

USERS = (2, 3, 4)
THOROUGH = pytest.mark.thorough
# One patient of hospital 4 is of this age, nobody else.
PICKED = 91


def patients(user: int, n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(user)
    frame = pd.DataFrame({"id": np.arange(n) + 1000 * user})
    frame["age"] = np.arange(n) % 60 + 25
    frame["chol"] = rng.integers(100, 400, n)
    frame["cost"] = rng.integers(10, 90, n)
    frame["site"] = user
    if user == 4:
        frame.loc[40, "age"] = PICKED
        frame["gap"] = np.where(frame["age"] == PICKED, np.nan, 1.0)
    else:
        frame["gap"] = 1.0
    return frame


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    hospitals = make_hospitals(tmp_path_factory.mktemp("sites"), USERS)
    for user in USERS:
        hospitals.write(user, "data.rows", patients(user))
    return hospitals


@pytest.fixture
def hospitals(made: Hospitals) -> Hospitals:
    made.forget()
    open_to(made)
    return made


def open_to(hospitals: Hospitals, *, derive: bool = True, **rules: Any) -> None:
    said = "derive = true" if derive else "derive = false"
    for user, text in hospitals.policies.items():
        lines = [line for line in text.splitlines() if not line.startswith("derive")]
        place = lines.index("[orders]") + 1
        hospitals.policies[user] = "\n".join([*lines[:place], said, *lines[place:]])
    hospitals.allow(**{"min_providers": 2, "own_totals": False, **rules})


def ask(hospitals: Hospitals, method: str, **fields: Any) -> Any:
    data = dict.fromkeys(USERS, "data.rows")
    return hospitals.ask(method, data, receivers=[2], **fields)


def refused(hospitals: Hospitals, method: str, **fields: Any) -> Any:
    data = dict.fromkeys(USERS, "data.rows")
    return hospitals.refused(method, data, receivers=[2], **fields)


WEIGHTS = {
    "a factor": "1000 * chol",
    "a small factor": "chol + cost / 1000000",
    "a product": "chol * gap",
    "one patient": f"case when age = {PICKED} then chol else 0 end",
    "a comparison": f"age = {PICKED}",
    "a constant that rounds": "chol + 1e17",
    "constants that cancel but round": "least(chol + 1e17, 1e18) - 1e17",
    "a column twice": "chol + cost + chol",
    "a function": "ln(chol)",
    "what leaves rows out": f"chol / (age - {PICKED})",
    "what is nothing": "chol - chol",
}


@pytest.mark.parametrize("trick", WEIGHTS)
def test_what_weighs_rows_is_not_added_up(trick: str) -> None:
    derived = {"trick": parse_derived(WEIGHTS[trick])}
    with pytest.raises(Refused) as caught:
        check_values(derived, ["trick"], StatisticsRules(methods=("sum",)))
    assert caught.value.code == "row_expressions"
    check_values(derived, ["chol"], StatisticsRules(methods=("sum",)))
    allowed = StatisticsRules(methods=("sum",), row_expressions=True)
    check_values(derived, ["trick"], allowed)


def test_weights_do_not_hide_in_steps() -> None:
    derived = {
        "one": parse_derived("chol - cost"),
        "two": parse_derived("one + cost"),
        "half": parse_derived("chol / 2"),
        "three": parse_derived("half + cost"),
        "four": parse_derived("two + chol"),
    }
    assert is_sum("one", derived)
    assert is_sum("two", derived)
    assert not is_sum("three", derived)
    assert not is_sum("four", derived)


@pytest.mark.parametrize(
    "method",
    [
        "median",
        pytest.param("sum", marks=THOROUGH),
        pytest.param("count", marks=THOROUGH),
        pytest.param("std", marks=THOROUGH),
    ],
)
def test_the_hospital_refuses_to_add_up_or_to_search(
    hospitals: Hospitals, method: str
) -> None:
    trick = f"case when age = {PICKED} then chol else 1000000 end"
    error = refused(hospitals, method, key="trick", derive={"trick": trick})
    assert error.code == "row_expressions"
    assert "frequency" in error.remedy


def test_without_the_policy_s_word_nothing_is_derived(hospitals: Hospitals) -> None:
    open_to(hospitals, derive=False)
    error = refused(hospitals, "sum", key="both", derive={"both": "chol + cost"})
    assert error.code == "derive"
    error = hospitals.refused(
        "custom",
        {2: "data.rows", 3: "data.rows"},
        key="id",
        expression="sum(df1.both + df2.cost)",
        derive={"both": "chol + cost"},
    )
    assert error.code == "derive"


def test_nobody_is_picked_by_the_unique_id(hospitals: Hospitals) -> None:
    derive = {"trick": "case when id = 4040 then 1 else 0 end"}
    assert refused(hospitals, "frequency", key="trick", derive=derive).code == "derive"


def test_groups_that_differ_in_one_patient_are_withheld(hospitals: Hospitals) -> None:
    """Under other names, with labels exchanged, and of another method."""
    first = ask(
        hospitals, "sum", key="chol", group_by=["old"], derive={"old": "age >= 60"}
    )
    assert all(row["sum"] for row in first.rows)
    swapped = {"young": f"case when age >= 60 and age <> {PICKED} then 0 else 1 end"}
    answer = ask(hospitals, "avg", key="chol", group_by=["young"], derive=swapped)
    assert all(row["avg"] == "" for row in answer.rows)
    assert answer.summary["suppressed"]
    answer = ask(hospitals, "frequency", key="young", derive=swapped)
    assert all(row["frequency"] == "" for row in answer.rows)


def test_a_sum_is_remembered_under_the_columns_that_it_is_made_of(
    hospitals: Hospitals,
) -> None:
    """The one without `gap` is in the mean of chol, and not in that of the sum."""
    ask(hospitals, "avg", key="chol")
    error = refused(hospitals, "avg", key="both", derive={"both": "chol + gap"})
    assert error.code == "earlier_cohort"


@pytest.mark.parametrize(
    "chosen",
    [
        f"case when age <> {PICKED} then 1 end",
        f"case when gap is null then 1 when age <> {PICKED - 50} then 1 end",
        pytest.param(f"1 / (age - {PICKED})", marks=THOROUGH),
        pytest.param(f"exp(1000 * (age - {PICKED - 1}))", marks=THOROUGH),
    ],
)
def test_no_expression_leaves_out_a_few(hospitals: Hospitals, chosen: str) -> None:
    """How many people an answer is over is told."""
    open_to(hospitals, row_expressions=True)
    for question in ({"method": "count"}, {"method": "histogram", "bins": [0, 2]}):
        error = refused(hospitals, key="few", derive={"few": chosen}, **question)
        assert error.code == "min_rows"
        assert "case ... else" in error.remedy


def test_a_condition_on_the_site_leaves_nobody_s_own_sum(hospitals: Hospitals) -> None:
    open_to(hospitals, row_expressions=True)
    own = {"own": "case when site = 4 then chol else 0 end"}
    assert refused(hospitals, "sum", key="own", derive=own).code == "own_totals"


def test_what_a_policy_says_of_its_columns_holds_for_no_derived_one(
    hospitals: Hospitals,
) -> None:
    """`same_as` would let a constant stand in place of a hospital's column."""
    question = {"derive": {"cost": "site + age"}, "method": "sum"}
    providers = [
        {"name": user, "data_path": "a.csv", "data_type": "csv", "key_column": key}
        for user, key in ((2, "chol"), (3, "cost"), (4, "chol"))
    ]
    with pytest.raises(Exception, match="another column at another"):
        parse_statistics_request(
            {**question, "data_providers": providers, "result_receivers": [2]}
        )


def test_cells_that_an_expression_names_are_judged_by_each_hospital() -> None:
    """On the sum a cell is compared with the same cell of before: an expression could
    call it otherwise each time.
    """
    rules = StatisticsRules(methods=("frequency",), cells="pooled")
    providers = [
        {"name": user, "data_path": "a.csv", "data_type": "csv", "key_column": "old"}
        for user in USERS
    ]
    question = {
        "method": "frequency",
        "data_providers": providers,
        "result_receivers": [2],
    }
    assert pools_cells(parse_statistics_request(question), rules)
    derived = {**question, "derive": {"old": "age >= 60"}}
    assert not pools_cells(parse_statistics_request(derived), rules)


@pytest.mark.parametrize(
    "expression",
    [
        "sum(df1.trick + df2.cost)",
        pytest.param("var(df1.trick)", marks=THOROUGH),
        pytest.param("avg(df1.trick + df2.cost)", marks=THOROUGH),
    ],
)
def test_joined_totals_are_judged_as_written_out(
    hospitals: Hospitals, expression: str
) -> None:
    trick = f"case when age = {PICKED} then 1000 * chol else chol end"
    error = hospitals.refused(
        "custom",
        {2: "data.rows", 3: "data.rows"},
        key="id",
        expression=expression,
        derive={"trick": trick},
    )
    assert error.code == "row_expressions"
