"""Attacks on one patient, or on one hospital's own sum, over real agents, processes and
HTTP: what somebody with a token, or with an agent of their own making, has tried. Each is
refused by the rule's name, and beside it the question that it hides behind is answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.strict_federation import (
    FOUR,
    N_PATIENTS,
    NAMES,
    NINE,
    USERS,
    Strict,
    make_strict,
    order,
    patients,
    question,
)

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(900)]

N_RACES = 4
N_LARGE = 300_000
RACES = [f"data.race_{number}" for number in range(N_RACES)]
TABLES = [
    "data.corrected",
    "data.answered",
    "data.unrelated",
    "data.fewer",
    "data.folds",
    "data.members",
    "data.steep",
    "data.two_rows",
    "data.rounds",
    "data.small",
    "data.complete",
    "data.seen_by_two",
    "data.batches",
    "data.derived",
    "data.greedy",
    "data.lying",
    "data.ninths",
    *RACES,
]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    made = make_strict(tmp_path_factory.mktemp("strict"), TABLES)
    made.start()
    yield made
    assert made.stop() == 0, made.logs()[-3000:]


# --- one answer: who is in a total, and with which weight ----------------------------


N_PEOPLE = 80
FIRST, SECOND, PATIENT = range(20), range(20, 40), [N_PEOPLE - 1]
SUM = "sum(df1.x + df2.x + df3.x)"


def people() -> pd.DataFrame:
    """Whom all hospitals know."""
    number = np.arange(N_PEOPLE)
    columns = {"id": number, "x": 50 + number * 7 % 31, "z": 20 + number * 11 % 37}
    return pd.DataFrame(columns)


def write_people(strict: Strict, name: str) -> None:
    for user in USERS:
        strict.write_file(user, name, people())


def joined(name: str, expression: str) -> dict[str, Any]:
    return question("custom", name, column="id", expression=expression)


# One for each rule; tests/pooled/test_named_attacks.py has the others.
WEIGHED = {
    "three sums in the digits of one": (
        "sum(df1.x + 1e-20 * df2.x + 1e-40 * df3.x)",
        "row_expressions",
    ),
    "one hospital's own": ("sum(df2.x)", "own_totals"),
    "a column times zero": ("sum(df1.x + 0 * df2.x + df3.x)", "min_providers"),
}  # fmt: skip


@pytest.mark.parametrize("what", WEIGHED)
def test_a_total_that_does_more_than_add_hospitals_up(
    strict: Strict, what: str
) -> None:
    expression, rule = WEIGHED[what]
    write_people(strict, "weighed.csv")
    strict.ask(joined("weighed.csv", expression), 4).assert_refused(rule)


def test_a_total_that_only_adds_hospitals_up_is_answered(strict: Strict) -> None:
    write_people(strict, "weighed.csv")
    answer = strict.ask(joined("weighed.csv", SUM), 4)
    assert answer.number(4) == 3 * people().x.sum()


def test_another_column_under_a_common_name(strict: Strict) -> None:
    """A constant that one hospital adds under another name leaves the others' sum."""
    body = question("sum", "data.answered", column={2: "age", 3: "age", 4: "n"})
    strict.ask(body, 4).assert_refused("column_names")
    assert strict.ask(question("count", "data.answered"), 4).number(4) == 240


# --- answers together: people -------------------------------------------------------


def test_a_patient_fewer_between_two_models(strict: Strict) -> None:
    """And at one hospital only, by a WHERE that the others do not see."""

    def sent(sql: str) -> Any:
        return strict.train(order("data.fewer", sql={2: sql}))

    sent("SELECT * FROM data.fewer").assert_answered()
    one_fewer = sent("SELECT * FROM data.fewer WHERE n >= 1")
    one_fewer.assert_refused("earlier_cohort", by=[2])
    sent("SELECT * FROM data.fewer WHERE n >= 10").assert_answered()


def test_a_corrected_value_between_two_orders(strict: Strict) -> None:
    """The same patients by their ids, of whom one has another age since."""
    strict.train(order("data.corrected")).assert_answered()
    strict.ask(question("avg", "data.corrected", column="crp"), 4).assert_answered()
    corrected = patients(3)
    corrected.loc[7, ["age", "crp"]] += 1
    strict.write(3, "data.corrected", corrected)
    strict.train(order("data.corrected")).assert_refused("earlier_cohort", by=[3])
    asked = strict.ask(question("var", "data.corrected", column="crp"), 4)
    asked.assert_refused("earlier_cohort", by=[3])
    strict.write(3, "data.corrected", patients(3))
    strict.train(order("data.corrected")).assert_answered()


def test_four_sets_of_keys_that_a_partner_chooses(strict: Strict) -> None:
    """A, A without twenty, A without twenty others, A without all forty and one person:
    the fourth tells what that person adds at the others.
    """
    name, everybody = "keys.csv", people()
    write_people(strict, name)
    gone: Iterable[int]
    for gone in ([], FIRST, SECOND):
        strict.write_file(2, name, everybody.drop(index=list(gone)))
        strict.ask(joined(name, SUM), 2).assert_answered()
    both = [*FIRST, *SECOND]
    strict.write_file(2, name, everybody.drop(index=[*both, *PATIENT]))
    strict.ask(joined(name, SUM), 4).assert_refused("earlier_cohort")
    strict.write_file(2, name, everybody.drop(index=both))
    rest = everybody.drop(index=both)
    assert strict.ask(joined(name, SUM), 4).number(4) == 3 * rest.x.sum()


def test_two_users_whose_answers_pass_through_the_coordinator(strict: Strict) -> None:
    """Each has one answer; with `disclose` the coordinator reads both."""
    table = "data.seen_by_two"
    fewer = dict.fromkeys(USERS, table) | {2: f"SELECT * FROM {table} WHERE n >= 1"}
    with strict.allowing("statistics", "disclose = true"):
        first = question("avg", table, disclose=True)
        strict.ask(first, 4).assert_answered()
        second = question("avg", fewer, receivers=[3], disclose=True)
        strict.ask(second, 3).assert_refused("earlier_cohort", by=[2])
        strict.ask({**second, "disclose": False}, 3).assert_answered()


def test_unchanged_rows_and_columns_of_the_same_name_are_no_attack(
    strict: Strict,
) -> None:
    """The mean and then the median of a whole column; sex of two unrelated tables, of
    which one has a patient fewer.
    """
    every = question("avg", "data.answered", column="n", receivers=USERS)
    strict.ask(every, 4).assert_answered()
    strict.ask({**every, "method": "median"}, 4).assert_answered()
    sex = question("frequency", "data.answered", column="sex")
    strict.ask(sex, 4).assert_answered()
    strict.write(2, "data.unrelated", patients(2).iloc[1:])
    other = question("frequency", "data.unrelated", column="sex")
    strict.ask(other, 4).assert_answered()


# --- answers together: hospitals ----------------------------------------------------


def test_rounds_over_some_of_the_hospitals(strict: Strict) -> None:
    body = order("data.members", users=FOUR, scoring="round", attributes=NINE)
    some = strict.train({**body, "aggregation": "minimum_diameter"})
    some.assert_refused("regroup")
    strict.train({**body, "aggregation": "mean"}).assert_answered()


def test_mini_batches_weigh_hospitals_and_rows(strict: Strict) -> None:
    """79 rows and one, beside all 80: the last patient's row."""
    strict.train(order("data.batches")).assert_answered()
    batched = strict.train(order("data.batches", params={"batch_size": 79}))
    batched.assert_refused("mini_batches")
    strict.train(order("data.batches", params={"batch_size": 80})).assert_answered()


# --- two orders at once -------------------------------------------------------------


@pytest.fixture(scope="module")
def races(strict: Strict) -> list[str]:
    """The same large table under other names at hospital 2: each race is of its own."""
    with strict.database(2) as database:
        database.register("frame", patients(2, N_LARGE))
        database.execute("CREATE TABLE data.large AS SELECT * FROM frame")
        for table in RACES:
            database.execute(f"DROP TABLE {table}")
            database.execute(f"CREATE VIEW {table} AS SELECT * FROM data.large")
    return RACES


def states(outcomes: list[Any]) -> list[str]:
    return sorted(outcome.order["state"] for outcome in outcomes)


@pytest.mark.timeout(1800)
def test_two_orders_at_once_a_patient_apart(strict: Strict, races: list[str]) -> None:
    """Both passed in 3 of 9 tries, before check and reserve were one act."""
    for number, table in enumerate(races):
        fewer = {2: f"SELECT * FROM {table} WHERE n >= 1"}
        if number % 2:
            sent = [
                lambda table=table: strict.ask(question("avg", table), 4),
                lambda table=table, fewer=fewer: strict.ask(
                    question("avg", dict.fromkeys(USERS, table) | fewer), 4
                ),
            ]
        else:
            sent = [
                lambda table=table: strict.train(order(table)),
                lambda table=table, fewer=fewer: strict.train(order(table, sql=fewer)),
            ]
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(send) for send in sent]
            outcomes = [future.result() for future in futures]
        assert states(outcomes) == ["failed", "success"], table
        (refused,) = [one for one in outcomes if one.order["state"] == "failed"]
        refused.assert_refused("earlier_cohort", by=[2])


# --- one model as a probe -----------------------------------------------------------


def test_a_model_so_steep_that_its_gradient_is_one_side_of_a_plane(
    strict: Strict,
) -> None:
    def started_at(weight: float) -> dict[str, Any]:
        init = {"init_method": "const", "init_const": weight}
        return order("data.steep", params={"init_param": init})

    strict.train(started_at(1000.0)).assert_refused("linear_predictor")
    strict.train(started_at(0.5)).assert_answered()


def test_a_round_that_two_rows_make_up(strict: Strict) -> None:
    """All others are far on their own side of the plane."""
    for user in USERS:
        rows = patients(user)
        rows["x1"] = (2.0 * rows.y - 1) * (1 + rows.age / 40)
        if user == 3:
            rows.loc[[0, 1], "y"] = [1, 0]
        strict.write(user, "data.two_rows", rows)

    def started_at(weight: float) -> dict[str, Any]:
        init = {"init_method": "const", "init_const": weight, "fit_intercept": False}
        params = {"init_param": init, "standardize": False}
        return order("data.two_rows", attributes=["x1"], params=params)

    strict.train(started_at(9.0)).assert_refused("max_share", by=[3])
    strict.train(started_at(0.1)).assert_answered()


def test_more_rounds_than_a_receiver_may_have(strict: Strict) -> None:
    with strict.allowing("cohort", "max_rounds = 5"):
        strict.train(order("data.rounds", params={"max_iter": 4})).assert_answered()
        two_more = order("data.rounds", params={"max_iter": 2})
        strict.train(two_more).assert_refused("max_rounds")
        strict.train(order("data.rounds", params={"max_iter": 1})).assert_answered()


def test_scores_of_a_model_of_few_coefficients(strict: Strict) -> None:
    """Their lengths and angles give it away; one of ten coefficients is scored."""
    rule = {"rule": "min_scored_coefficients", "threshold": 10}

    def scored(attributes: list[str]) -> tuple[int, list[Any]]:
        body = order("data.small", attributes=attributes, scoring="full")
        trained = strict.train(body)
        trained.assert_answered()
        reports = []
        for record in strict.order(trained.order_id)["rounds"]:
            reports += record["hospitals"].values()
        with strict.client(4) as client:
            query = {"order_id": trained.order_id, "round": 0}
            return client.get("/client_grad", params=query).status_code, reports

    status, reports = scored(NINE[:4])
    assert status != 200
    assert [report["withheld"]["scores"] for report in reports] == [rule] * len(reports)
    status, reports = scored(NINE)
    assert status == 200
    assert all("scores" not in report.get("withheld", {}) for report in reports)


def test_columns_that_an_order_computes(strict: Strict) -> None:
    """Age, and age with 100 more for one patient: the difference is that one's."""
    attributes = {"attributes": ["older", "bmi"], "derive": {"older": "age + bmi"}}
    body = order("data.derived", **attributes)
    strict.train(body).assert_refused("derive", by=[2, 3])
    with strict.allowing("orders", "derive = true"):
        one = {"older": "case when n = 79 then age + 100 else age end"}
        marked = {"attributes": ["older", "age"], "derive": one}
        strict.train({**body, **marked}).assert_refused("min_varying")
        strict.train(body).assert_answered()


# --- single values ------------------------------------------------------------------


PIVOTS = """
import numpy as np
from agents.statistics import quantile_rounds
from protocol.messages import EVERYONE

def name_many(party, searches, round_):
    pivots = [np.linspace(20, 80, 20_000)]
    body = quantile_rounds._encode(pivots)
    quantile_rounds.send(
        party, "pivots", lambda: body, recipient=EVERYONE, round=round_
    )
    return pivots

quantile_rounds._agree_on_pivots = name_many
"""


def test_a_receiver_of_a_quantile_that_names_20_000_pivots(
    strict: Strict, tmp_path: Path
) -> None:
    """One changed agent read 100 of 100 values."""
    median = question("median", "data.greedy", receivers=USERS)
    # The first receiver names them.
    with strict.changed_agent(2, PIVOTS, tmp_path):
        greedy = strict.ask(median, 4)
    refusal = greedy.order["refusal"]
    assert (refusal["code"], "pivots" in refusal["sentence"]) == ("bad_message", True)
    for user in USERS:
        assert not (strict.state(user) / "results" / str(greedy.order_id)).exists()
    of_two = {**median, "data_providers": median["data_providers"][:2]}
    strict.ask({**of_two, "result_receivers": [NAMES[2], NAMES[3]]}, 2).assert_refused(
        "min_providers"
    )
    strict.ask(median, 4).assert_answered()


LOOKS_AWAY = """
from agents.statistics import audited
from agents.training import cohorts

audited.check_hospitals = lambda party: True
cohorts.check_hospitals = lambda order: None
"""


def test_an_agent_that_checks_nothing_is_alone_with_that(
    strict: Strict, tmp_path: Path
) -> None:
    """Hospitals 3, 4 and 5 join to read hospital 2, and 4 follows no rule."""
    strict.ask(question("avg", "data.lying", users=FOUR), 4).assert_answered()
    with strict.changed_agent(4, LOOKS_AWAY, tmp_path):
        without = strict.ask(question("avg", "data.lying", users=(3, 4, 5)), 4)
        without.assert_refused("earlier_hospitals", by=[3, 5])
        same = question("count", "data.lying", users=FOUR)
        assert strict.ask(same, 4).number(4) == 4 * N_PATIENTS


# --- few of one hospital ------------------------------------------------------------


def test_made_up_rows_open_no_real_one(strict: Strict) -> None:
    """With thresholds on the sum: of gout hospital 2 has one patient, and hospital 4,
    which receives, says that it has twelve.
    """
    n_gout = {2: 1, 3: 0, 4: 12}
    for user in USERS:
        kinds = ["sle"] * 40 + ["ssc"] * 30 + ["gout"] * n_gout[user]
        numbers = 1000 * user + np.arange(len(kinds))
        frame = pd.DataFrame({"id": numbers, "disease": kinds})
        strict.write_file(user, "visits.csv", frame)
    body = question("frequency", "visits.csv", column="disease")
    with strict.allowing("statistics", 'cells = "pooled"'):
        answer = strict.ask(body, 4)
    rows = {row["disease"]: row for row in answer.table(4)}
    assert (rows["gout"]["frequency"], bool(rows["gout"]["withheld"])) == ("", True)
    assert "90" in {row["frequency"] for row in rows.values()}


def test_counts_of_a_few_rows_follow_from_no_others(strict: Strict) -> None:
    """Used 40, 37, 40 told that three patients of hospital 3 have no value."""
    for user, n_null in {2: 0, 3: 3, 4: 0}.items():
        frame = people().head(40)
        frame["x"] = frame["x"].where(frame["id"] >= n_null)
        strict.write_file(user, "gaps.csv", frame)
        strict.write_file(user, "whole.csv", people().head(40))
    counts = ("rows_used", "rows_suppressed", "rows_null")
    gaps = strict.ask(question("avg", "gaps.csv", column="x"), 4).extra
    assert [gaps[name] for name in counts] == [{}, {}, {}]
    whole = strict.ask(question("avg", "whole.csv", column="x"), 4).extra
    assert set(whole["rows_used"].values()) == {40}


def test_a_fold_with_few_of_a_class_shows_no_hospitals_calls(strict: Strict) -> None:
    """A fold's counts tn 1, fp 1 were labels of two patients."""

    def reports(table: str) -> list[dict[str, Any]]:
        folds = {"need_cv": True, "n_splits": 2, "shuffle": True}
        trained = strict.train(order(table, params={"cv_param": folds}))
        trained.assert_answered()
        found = []
        for record in strict.order(trained.order_id)["rounds"]:
            found += record["hospitals"].values()
        return found

    few = patients(3)
    few["y"] = (few["n"] < 12).astype(int)
    strict.write(3, "data.folds", few)
    rule = {"rule": "min_rows", "threshold": 10}
    for report in reports("data.folds"):
        for part in {"train", "test"} & set(report):
            assert set(report[part].values()) == {None}
            assert report["withheld"][part] == rule
    shown = reports("data.ninths")
    assert all("withheld" not in report for report in shown)
