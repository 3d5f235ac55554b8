"""What a question of joint statistics says of its rows: missing values, derived columns
and categories, as those of one table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from protocol.errors import BadRequest
from protocol.statistics_request import parse_statistics_request
from tests.made_statistics import Hospitals, make_hospitals
from tests.pairwise import quick

USERS = (2, 3, 4, 5)
PATHS = {
    2: "patients.csv",
    3: "patients.parquet",
    4: "data.rows",
    5: "SELECT age, chol, cp, sex, cost FROM data.rows",
}


def patients(user: int, n: int = 60) -> pd.DataFrame:
    """Ages and costs with gaps, codes as whole numbers at some hospitals and as doubles
    at others. One hospital is small.
    """
    n = 25 if user == 3 else n
    rng = np.random.default_rng(user)
    frame = pd.DataFrame({"id": np.arange(n) + 1000 * user})
    frame["age"] = rng.integers(20, 90, n).astype(float)
    frame["chol"] = rng.integers(100, 400, n)
    frame["cp"] = rng.integers(1, 4, n).astype(float if user == 2 else int)
    frame["sex"] = np.where(np.arange(n) % 2 == 0, "F", "M")
    frame["cost"] = np.round(rng.normal(100, 20, n), 2)
    if user != 5:
        frame.loc[:11, "age"] = np.nan
    return frame


FRAMES = {user: patients(user) for user in USERS}


def pooled(users: tuple[int, ...] = USERS) -> pd.DataFrame:
    return pd.concat([FRAMES[user] for user in users], ignore_index=True)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    made = make_hospitals(tmp_path_factory.mktemp("sites"), (*USERS, 6))
    for user, frame in FRAMES.items():
        made.write(user, PATHS[user] if user < 4 else "data.rows", frame)
    return made


@pytest.fixture(autouse=True)
def fresh(hospitals: Hospitals) -> None:
    hospitals.forget()
    open_to(hospitals)


def open_to(hospitals: Hospitals, *, derive: bool = True, **rules: Any) -> None:
    policies = hospitals.policies
    said = "derive = true" if derive else "derive = false"
    for user, text in policies.items():
        lines = [line for line in text.splitlines() if not line.startswith("derive")]
        place = lines.index("[orders]") + 1
        policies[user] = "\n".join([*lines[:place], said, *lines[place:]])
    rules = {"extremes": True, "exact_quantiles": True, "max_share": 1, **rules}
    hospitals.allow(**rules)


def ask(
    hospitals: Hospitals,
    method: str,
    users: tuple[int, ...] = USERS,
    **fields: Any,
) -> Any:
    return hospitals.ask(method, {user: PATHS[user] for user in users}, **fields)


def refused(
    hospitals: Hospitals, method: str, users: tuple[int, ...] = USERS, **fields: Any
) -> Any:
    return hospitals.refused(method, {user: PATHS[user] for user in users}, **fields)


# Missing values


def test_a_question_without_missing_is_answered_as_ever(hospitals: Hospitals) -> None:
    answer = ask(hospitals, "avg", key="age")
    assert answer.number == pytest.approx(pooled()["age"].mean(), rel=1e-15)
    assert "flow" not in answer.summary
    assert answer.summary["rows_null"] == {"2": 12, "3": 12, "4": 12, "5": 0}


def test_drop_leaves_out_rows_without_a_value_and_says_how_many(
    hospitals: Hospitals,
) -> None:
    answer = ask(hospitals, "avg", key="cost", group_by=["sex"], missing="drop")
    expected = pooled().groupby("sex")["cost"].mean()
    found = answer.by("sex", value="avg")
    assert {k: float(v) for (k,), v in found.items()} == pytest.approx(dict(expected))
    hospitals.forget()
    answer = ask(hospitals, "corr", columns=["age", "cost"], missing="drop")
    both = pooled().dropna(subset=["age", "cost"])
    assert answer.number == pytest.approx(both["age"].corr(both["cost"]), rel=1e-12)
    flow = answer.summary["flow"]
    assert flow["2"] == {"selected": 60, "left_out": 12, "used": 48}
    assert flow["all"] == {"selected": 205, "left_out": 36, "used": 169}


@pytest.mark.thorough
def test_dropped_rows_are_no_group_and_no_value(hospitals: Hospitals) -> None:
    """Without the field, those without an age are a value of it."""
    open_to(hospitals, min_rows=3)
    bands = {"derive": {"old": "age >= 60"}, "group_by": ["old"]}
    users = (2, 4, 5)
    answer = ask(hospitals, "count", users, key="cost", **bands)
    assert ("",) in answer.by("old", value="count")
    hospitals.forget()
    answer = ask(hospitals, "count", users, key="cost", missing="drop", **bands)
    n_old = (pooled(users)["age"] >= 60).sum()
    n_all = pooled(users)["age"].notna().sum()
    assert answer.by("old", value="count") == {
        ("0",): str(n_all - n_old),
        ("1",): str(n_old),
    }


@pytest.mark.thorough
def test_drop_of_a_few_rows_tells_nobody_how_many(hospitals: Hospitals) -> None:
    few = patients(6)
    few.loc[3:, "age"] = 50.0
    few.loc[:2, "age"] = np.nan
    hospitals.write(6, "patients.csv", few)
    data = {2: PATHS[2], 5: PATHS[5], 6: "patients.csv"}
    answer = hospitals.ask("sum", data, key="age", missing="drop")
    assert answer.summary["flow"] == answer.summary["rows_null"] == {}


def test_refuse_names_every_column_with_gaps(hospitals: Hospitals) -> None:
    error = refused(hospitals, "cov", columns=["age", "cost"], missing="refuse")
    assert error.code == "null"
    assert "12 rows without a value (NULL) in age" in str(error)
    assert "missing drop" in error.remedy
    assert ask(hospitals, "sum", key="cost", missing="refuse").number == pytest.approx(
        pooled()["cost"].sum()
    )


@pytest.mark.parametrize("method", quick(["sum", "avg", "var", "std"], 1))
def test_the_mean_stands_for_missing_numbers(hospitals: Hospitals, method: str) -> None:
    age = pooled()["age"]
    filled = age.fillna(age.mean())
    names = {"avg": "mean"}
    expected = getattr(filled, names.get(method, method))()
    answer = ask(hospitals, method, key="age", missing="mean")
    assert answer.number == pytest.approx(expected, rel=1e-12)
    assert answer.summary["flow"]["all"] == {
        "selected": 205,
        "left_out": 0,
        "used": 205,
        "filled": 36,
    }
    assert "n without a value" in answer.notes["opened"][0]


def test_a_mean_for_a_few_rows_is_refused(hospitals: Hospitals) -> None:
    """The answer would tell how many they are."""
    few = patients(6)
    few.loc[:, "age"] = 50.0
    few.loc[:2, "age"] = np.nan
    hospitals.write(6, "patients.csv", few)
    error = hospitals.refused(
        "var", {5: PATHS[5], 6: "patients.csv"}, key="age", missing="mean"
    )
    assert error.code == "min_rows"
    assert "missing drop" in error.remedy


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("median", {}),
        ("count", {}),
        ("frequency", {}),
        ("cov", {"columns": ["age", "cost"]}),
        ("avg", {"group_by": ["sex"]}),
    ],
)
def test_where_a_mean_means_nothing_it_is_refused(
    method: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_statistics_request(body(method, missing="mean", **fields))
    assert caught.value.code == "missing"
    assert "missing drop" in caught.value.remedy


def body(method: str, **fields: Any) -> dict[str, Any]:
    providers = [
        {"name": user, "data_path": "a.csv", "data_type": "csv", "key_column": "age"}
        for user in (2, 3, 4)
    ]
    return {
        "method": method,
        "data_providers": providers,
        "result_receivers": [2],
        **fields,
    }


def test_quantiles_over_complete_rows(hospitals: Hospitals) -> None:
    answer = ask(hospitals, "median", key="cost", complete_on=["age"], missing="drop")
    assert answer.number == pooled().dropna(subset=["age"])["cost"].median()


@pytest.mark.thorough
def test_all_rows_left_out_at_one_hospital(hospitals: Hospitals) -> None:
    empty = patients(6).assign(age=np.nan)
    hospitals.write(
        6, "patients.parquet", empty.assign(age=None).astype({"age": float})
    )
    error = hospitals.refused(
        "avg", {2: PATHS[2], 6: "patients.parquet"}, key="age", missing="drop"
    )
    assert error.code == "min_rows"


# Derived columns


def test_a_sum_of_columns_is_added_up_as_a_column(hospitals: Hospitals) -> None:
    frame = pooled()
    total = frame["chol"] - frame["cost"]
    derive = {"rest": "chol - cost"}
    answer = ask(hospitals, "avg", key="rest", derive=derive)
    assert answer.number == pytest.approx(total.mean(), rel=1e-12)
    hospitals.forget()
    answer = ask(hospitals, "std", key="rest", derive=derive, group_by=["sex"])
    expected = total.groupby(frame["sex"]).std()
    assert {
        label: float(value) for (label,), value in answer.by("sex", value="std").items()
    } == pytest.approx(dict(expected), rel=1e-12)


@pytest.mark.parametrize(
    "method",
    quick(["frequency", "group_by", "histogram", "crosstab"], 1),
)
def test_derived_columns_tell_groups_apart(hospitals: Hospitals, method: str) -> None:
    """A step that another derived column uses, and texts that are compared."""
    users = (2, 4, 5)
    open_to(hospitals, min_rows=3)
    frame = pooled(users).dropna(subset=["age"])
    derive = {
        "decade": "age / 10",
        "band": "case when decade >= 6 and sex = 'F' then 1 when decade < 4 then 2 else 3 end",
    }
    band = np.select(
        [(frame.age >= 60) & (frame.sex == "F"), frame.age < 40], [1, 2], 3
    )
    fields: dict[str, Any] = {"derive": derive, "missing": "drop"}
    if method == "frequency":
        answer = ask(hospitals, "frequency", users, key="band", **fields)
        found = answer.by("band", value="frequency")
        expected = pd.Series(band).value_counts()
    elif method == "histogram":
        answer = ask(
            hospitals, "histogram", users, key="band", bins=[0, 1.5, 3], **fields
        )
        found = {(row["lower"],): row["histogram"] for row in answer.rows}
        expected = pd.Series({"0.0": (band == 1).sum(), "1.5": (band > 1).sum()})
        found = {key: value for key, value in found.items() if key[0] in expected.index}
    elif method == "crosstab":
        answer = ask(hospitals, "crosstab", users, columns=["band", "sex"], **fields)
        found = answer.by("band", "sex", value="crosstab")
        expected = pd.crosstab(band, frame["sex"].to_numpy()).stack()
        expected = expected[expected > 0]
    else:
        answer = ask(hospitals, "sum", users, key="chol", group_by=["band"], **fields)
        found = answer.by("band", value="sum")
        expected = frame["chol"].groupby(band).sum()
    shown = {key: float(value) for key, value in found.items() if value}
    assert shown
    for key, value in shown.items():
        parts = [
            float(part) if part.replace(".", "").isdigit() else part for part in key
        ]
        label = tuple(parts) if len(parts) > 1 else parts[0]
        by_label = {
            (tuple(k) if isinstance(k, tuple) else float(k)): v
            for k, v in expected.items()
        }
        assert value == by_label[label]


@pytest.mark.thorough
def test_a_policy_that_allows_expressions_adds_up_anything(
    hospitals: Hospitals,
) -> None:
    open_to(hospitals, row_expressions=True)
    frame = pooled()
    derive = {"log": "ln(chol)", "old": "cost >= 100"}
    answer = ask(hospitals, "corr", columns=["log", "old"], derive=derive)
    expected = np.log(frame["chol"]).corr((frame["cost"] >= 100).astype(float))
    assert answer.number == pytest.approx(expected, rel=1e-12)
    hospitals.forget()
    answer = ask(
        hospitals, "quantile", key="log", derive={"log": "ln(chol)"}, quantile=[0.2]
    )
    assert answer.column("quantile") == pytest.approx(
        [np.quantile(np.log(frame["chol"]), 0.2)], rel=1e-14
    )


def test_joined_rows_have_derived_columns_written_out(hospitals: Hospitals) -> None:
    """Exactly, and judged as the expression that they stand for."""
    left = pd.DataFrame({"id": range(40), "w": np.arange(40) / 4, "h": 2})
    right = pd.DataFrame({"id": range(40), "x": np.arange(40) % 7})
    hospitals.write(2, "left.csv", left)
    hospitals.write(3, "right.csv", right)
    data = {2: "left.csv", 3: "right.csv"}
    open_to(hospitals, row_level=["id", "w", "h", "x"], min_providers=2)
    fields: dict[str, Any] = {
        "key": "id",
        "derive": {"both": "w + h", "twice": "2 * both"},
    }
    answer = hospitals.ask(
        "custom", data, expression="df1.twice + df2.x", result_alias="v", **fields
    )
    assert answer.column("v") == list(2 * (left.w + 2) + right.x)
    hospitals.forget()
    answer = hospitals.ask(
        "custom",
        data,
        expression="sum(df1.both + df2.x)",
        result_alias="v",
        key="id",
        derive={"both": "w + h"},
    )
    assert answer.number == (left.w + 2 + right.x).sum()
    error = hospitals.refused(
        "custom", data, expression="sum(df1.twice + df2.x)", result_alias="v", **fields
    )
    assert error.code == "row_expressions"


# Bad input


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"derive": {"old": "age >="}}, "cannot be read"),
        ({"derive": {"old": "agee(age)"}}, "no function"),
        ({"derive": {"old": "old + 1"}}, "has the name of a column"),
        ({"derive": {"Age": "age + 1"}, "key": "Age"}, "case alone"),
        ({"derive": {"a": "b + 1", "b": "a + 1"}, "key": "a"}, "in a circle"),
        ({"derive": {"old": "age >= 60"}}, "does not use"),
        (
            {"derive": {"old": "age >= 60"}, "key": "old", "group_by": ["Old"]},
            "case alone",
        ),
        ({"derive": {"s": "ns(age, 30, 50, 70)"}, "key": "s"}, "spline"),
        (
            {"derive": {"old": "age >= 60"}, "keys": ["old", "age", "old"]},
            "another column at another",
        ),
        (
            {
                "method": "is_investor_accredited",
                "derive": {"old": "age + 60"},
                "value_column": "old",
            },
            "adds up columns of the data",
        ),
        (
            {
                "method": "custom",
                "expression": "df1.b + df2.x",
                "derive": {"b": "a + 1"},
                "key": "b",
            },
            "matched and chosen",
        ),
    ],
)
def test_a_wrong_derive_is_refused_with_what_to_do(
    fields: dict[str, Any], said: str
) -> None:
    given = dict(fields)
    keys = given.pop("keys", None) or [given.pop("key", "age")] * 3
    value_column = given.pop("value_column", None)
    question = body(given.pop("method", "avg"), **given)
    for provider, key in zip(question["data_providers"], keys, strict=True):
        provider["key_column"] = key
        if value_column:
            provider["value_column"] = value_column
    with pytest.raises(BadRequest) as caught:
        parse_statistics_request(question)
    assert caught.value.code == "derive"
    assert said in str(caught.value)
    assert caught.value.remedy


def test_joined_rows_say_which_functions_they_do_not_have(hospitals: Hospitals) -> None:
    error = refused(
        hospitals,
        "custom",
        (2, 3),
        key="id",
        expression="df1.log + df2.cost",
        derive={"log": "ln(chol)"},
    )
    assert error.code == "expression"
    assert "derive.log uses ln, which joined rows do not have" in str(error)


def test_texts_are_no_numbers(hospitals: Hospitals) -> None:
    error = refused(hospitals, "frequency", key="d", derive={"d": "sex + 1"})
    assert error.code == "not_numeric"
