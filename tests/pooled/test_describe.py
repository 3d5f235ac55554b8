"""A paper's first table in one question, over 1, 2, 3 and 5 hospitals: the numbers of one
table, as pandas computes them, and of each column what the single questions would give.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.site.vault import Vault
from tests.made_statistics import Answered, Hospitals, make_hospitals
from tests.pairwise import pairwise, quick

EVERYBODY = (2, 3, 4, 5, 6)
DEALS = [EVERYBODY, (4,), (2, 4), (2, 3, 4)]
PATHS = {2: "a.csv", 3: "a.parquet", 4: "a.json", 5: "a.csv", 6: "a.parquet"}
NUMBERS = ("age", "bmi")
CATEGORIES = ("sex", "stage")
COLUMNS = [*NUMBERS, *CATEGORIES]


def made_frames() -> dict[int, pd.DataFrame]:
    """Hospital 3 is tiny and lacks a stage, and nobody there lacks a value."""
    rng = np.random.default_rng(5)
    frames = {}
    for user, n in {2: 150, 3: 16, 4: 210, 5: 120, 6: 110}.items():
        stages = ["I", "II"] if user == 3 else ["I", "II", "III"]
        frame = pd.DataFrame(
            {
                "age": rng.normal(60, 9, n),
                "bmi": rng.normal(25, 3, n).round(1),
                "arm": np.where(np.arange(n) % 2 == 0, "drug", "placebo"),
                "sex": np.where(np.arange(n) // 2 % 2 == 0, "F", "M"),
                "stage": np.array(stages)[np.arange(n) // 4 % len(stages)],
            }
        )
        if user != 3:
            frame.loc[::7, "bmi"] = np.nan
            frame.loc[1::11, "stage"] = None
        frames[user] = frame
    return frames


FRAMES = made_frames()


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    made = make_hospitals(tmp_path_factory.mktemp("sites"), EVERYBODY)
    made.allow(min_rows=2, max_share=1)
    for user, frame in FRAMES.items():
        made.write(user, PATHS[user], frame)
    return made


@pytest.fixture(autouse=True)
def without_a_past(hospitals: Hospitals) -> None:
    hospitals.forget()


Key = tuple[str, str, str, str, str]
"""Column, over, group, level and quantity of a row."""


def ask(
    hospitals: Hospitals, users: Sequence[int] = (2, 3, 4), **fields: Any
) -> Answered:
    data = {user: PATHS[user] for user in users}
    asked = {"columns": COLUMNS, **fields}
    return hospitals.ask("describe", data, key="age", **asked)


def table_of(answer: Answered, group: str = "arm") -> dict[Key, float | str]:
    """By row the number, or in its place what withholds it."""
    found: dict[Key, float | str] = {}
    for row in answer.rows:
        key = (
            row["column"],
            row.get("over", "all"),
            row.get(group, ""),
            row["level"],
            row["quantity"],
        )
        assert key not in found
        if row["withheld"]:
            assert row["describe"] == ""
            found[key] = row["withheld"]
        else:
            found[key] = float(row["describe"])
    return found


def described(over: str, group: str, rows: pd.DataFrame) -> dict[Key, float]:
    """What pandas says of one table."""
    found: dict[Key, float] = {}
    for name in NUMBERS:
        x = rows[name].dropna()
        quantities = {"n": len(x), "mean": x.mean(), "sd": x.std()}
        quantities["missing"] = rows[name].isna().sum()
        for quantity, value in quantities.items():
            found[name, over, group, "", quantity] = float(value)
    for name in CATEGORIES:
        texts = rows[name].dropna()
        found[name, over, group, "", "n"] = float(len(texts))
        found[name, over, group, "", "missing"] = float(rows[name].isna().sum())
        for level, n in texts.value_counts().items():
            found[name, over, group, str(level), "n"] = float(n)
            found[name, over, group, str(level), "share"] = n / len(texts)
    return found


def difference(name: str, table: pd.DataFrame) -> float:
    """The standardised mean difference, written out another way than the code's."""
    groups = [rows[name].dropna() for _, rows in table.groupby("arm")]
    if name in NUMBERS:
        first, second = groups
        spread = np.sqrt(np.mean([first.var(), second.var()]))
        return float(abs(first.mean() - second.mean()) / spread)
    levels = sorted(set(groups[0]) | set(groups[1]))
    # All levels but the last as columns of 0 and 1: their covariances, of all rows, are
    # the multinomial's.
    dummies = [
        np.column_stack([(rows == level).astype(float) for level in levels[:-1]])
        for rows in groups
    ]
    away = dummies[0].mean(axis=0) - dummies[1].mean(axis=0)
    covariance = sum(
        np.cov(one, rowvar=False, ddof=0).reshape(away.size, away.size)
        for one in dummies
    )
    return float(np.sqrt(away @ np.linalg.pinv(covariance / 2) @ away))


@pairwise(users=DEALS, by_arm=[True, False], result_type=["csv", "json"], n_quick=1)
def test_the_table_is_that_of_the_pooled_rows(
    hospitals: Hospitals, users: Sequence[int], by_arm: bool, result_type: str
) -> None:
    fields = {"group_by": ["arm"]} if by_arm else {}
    answer = ask(hospitals, users, result_type=result_type, **fields)
    table = pd.concat([FRAMES[user] for user in users], ignore_index=True)
    expected = described("all", "", table)
    if by_arm:
        for arm, rows in table.groupby("arm"):
            expected |= described("group", str(arm), rows)
        for name in COLUMNS:
            expected[name, "groups", "", "", "smd"] = difference(name, table)
    if result_type == "json":
        rows = json.loads(answer.text)
        assert {row["withheld"] for row in rows} == {None}
        values = [row["describe"] for row in rows]
        assert len(values) == len(expected)
        np.testing.assert_allclose(sorted(values), sorted(expected.values()), rtol=1e-9)
        return
    found = table_of(answer)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-12, abs=1e-12), key
    assert [row["column"] for row in answer.rows if row["quantity"] == "missing"][
        :1
    ] == ["age"]


def test_each_column_is_what_the_single_questions_say(hospitals: Hospitals) -> None:
    """To the last digit, and known to the gate as the same totals: they pass after it,
    though nobody forgets it.
    """
    data = {user: PATHS[user] for user in (2, 4, 5)}
    found = ask(hospitals, (2, 4, 5), group_by=["arm"])
    for method, quantity in (("avg", "mean"), ("std", "sd"), ("count", "n")):
        single = hospitals.ask(method, data, key="bmi", group_by=["arm"])
        ours = {
            row["arm"]: row["describe"]
            for row in found.rows
            if (row["column"], row["over"], row["quantity"])
            == ("bmi", "group", quantity)
        }
        assert ours == {row["arm"]: row[method] for row in single.rows}
    pairs = hospitals.ask("crosstab", data, columns=["stage", "arm"])
    of_levels = {
        (row["level"], row["arm"]): row["describe"]
        for row in found.rows
        if row["level"] and row["quantity"] == "n" and row["over"] == "group"
        if row["column"] == "stage"
    }
    of_pairs = {
        (row["stage"], row["arm"]): row["crosstab"]
        for row in pairs.rows
        if row["stage"]
    }
    assert of_levels == of_pairs


@pytest.mark.thorough
def test_what_is_opened_is_said_as_of_the_single_questions(
    hospitals: Hospitals,
) -> None:
    answer = ask(hospitals, group_by=["arm"])
    opened = answer.summary["opened"]
    n = sum(len(FRAMES[user]) for user in (2, 3, 4))
    people = f"over {n} people of 3 hospitals"
    assert opened == [
        f"n, sum, sum of squares and n without a value of age {people}, for each group of arm",
        f"n, sum, sum of squares and n without a value of bmi {people}, for each group of arm",
        f"n and n without a value of sex {people}, for each group of arm",
        f"n of sex and arm {people}, for each value of sex and arm",
        f"n and n without a value of stage {people}, for each group of arm",
        f"n of stage and arm {people}, for each value of stage and arm",
    ]
    (entry,) = hospitals.ledger(3, answer.order_id, "opens")
    assert entry["totals"] == opened
    # How many rows have a value at each hospital would tell its small groups.
    assert not answer.summary["rows_used"]


@pytest.mark.thorough
def test_groups_that_are_not_two_have_no_difference(hospitals: Hospitals) -> None:
    answer = ask(hospitals, (2, 4), columns=["age"], group_by=["stage"])
    assert not any(row["quantity"] == "smd" for row in answer.rows)
    assert any("smd compares two groups" in note for note in answer.summary["notes"])
    # Rows without a stage are a group, which has no name.
    groups = {row["stage"] for row in answer.rows if row["over"] == "group"}
    assert groups == {"", "I", "II", "III"}


@pytest.mark.thorough
def test_derived_columns_agreed_levels_and_complete_rows(hospitals: Hospitals) -> None:
    fields = {"categorical": {"stage": {}}, "group_by": ["sex"], "missing": "drop"}
    answer = ask(
        hospitals,
        (2, 4),
        columns=["both", "stage"],
        derive={"both": "age + bmi"},
        **fields,
    )
    table = pd.concat([FRAMES[2], FRAMES[4]]).dropna(subset=["stage", "bmi"])
    found = table_of(answer, "sex")
    for sex, rows in table.groupby("sex"):
        both = rows.age + rows.bmi
        assert found["both", "group", str(sex), "", "mean"] == pytest.approx(
            both.mean(), rel=1e-12
        )
        n_third = (rows.stage == "III").sum()
        assert found["stage", "group", str(sex), "III", "n"] == n_third
    assert found["both", "all", "", "", "missing"] == 0
    # One that weighs rows is no more allowed than in a question by itself.
    old = {"columns": ["old"], "derive": {"old": "age >= 65"}}
    data = {user: PATHS[user] for user in (2, 4)}
    error = hospitals.refused("describe", data, key="age", **old)
    assert error.code == "row_expressions"


# --- what is withheld -----------------------------------------------------------------


def made_tables(**of_three: Any) -> dict[int, pd.DataFrame]:
    """90 people of each of three hospitals, whom the policy tells apart by an id."""
    tables = {}
    for user in (2, 3, 4):
        place = np.arange(90)
        rng = np.random.default_rng(user)
        frame = pd.DataFrame(
            {
                "age": rng.normal(60, 9, 90),
                "bmi": rng.normal(25, 3, 90),
                "arm": np.where(place % 2 == 0, "a", "b"),
                "stage": np.array(["I", "II", "III"])[place % 3],
                "seen": np.where(place < 3, np.nan, 1.0),
            }
        )
        tables[user] = frame.assign(**of_three) if user == 3 else frame
    return tables


DATA = dict.fromkeys((2, 3, 4), "data.pooled")


def made_sites(folder: Path, tables: dict[int, pd.DataFrame]) -> Hospitals:
    made = make_hospitals(folder, (2, 3, 4))
    for user, frame in tables.items():
        made.write(user, "data.pooled", frame)
    return made


def few_of(n_few: int, few: str, others: Sequence[str]) -> np.ndarray:
    texts = np.array(others, dtype=object)[np.arange(90) % len(others)]
    texts[:n_few] = few
    return texts


@pytest.mark.parametrize(("n_few", "is_shown"), quick([(9, False), (10, True)], 1))
def test_a_level_of_few_people_is_withheld_and_the_rest_is_answered(
    tmp_path: Path, n_few: int, is_shown: bool
) -> None:
    tables = made_tables(stage=few_of(n_few, "III", ["I", "II"]))
    made = made_sites(tmp_path, tables)
    answer = made.ask("describe", DATA, key="age", columns=["age", "stage"])
    found = table_of(answer)
    table = pd.concat(tables.values())
    assert found["age", "all", "", "", "mean"] == pytest.approx(table.age.mean())
    assert found["stage", "all", "", "", "n"] == 270
    shown = found["stage", "all", "", "III", "n"]
    assert shown == (60 + n_few if is_shown else "min_rows 10")
    withheld = {
        key[3]: value
        for key, value in found.items()
        if key[0] == "stage" and isinstance(value, str)
    }
    # Another level goes with it, or all minus the others would tell it.
    assert len(withheld) == (0 if is_shown else 2)


@pytest.mark.thorough
@pytest.mark.parametrize(("n_few", "is_shown"), [(9, False), (10, True)])
def test_a_group_of_few_people_is_withheld_with_another(
    tmp_path: Path, n_few: int, is_shown: bool
) -> None:
    tables = made_tables(arm=few_of(n_few, "c", ["a", "b"]))
    for user in (2, 4):
        tables[user]["arm"] = few_of(30, "c", ["a", "b"])
    made = made_sites(tmp_path, tables)
    fields = {"columns": ["age"], "group_by": ["arm"]}
    found = table_of(made.ask("describe", DATA, key="age", **fields))
    of_group = found["age", "group", "c", "", "mean"]
    assert isinstance(of_group, float) == is_shown
    assert isinstance(found["age", "all", "", "", "mean"], float) == is_shown
    withheld = [key for key, one in found.items() if one == "complement 10"]
    assert bool(withheld) != is_shown


@pytest.mark.parametrize(("n_few", "is_told"), [(9, False), (10, True)])
def test_how_many_lack_a_value_is_told_where_they_are_not_few(
    tmp_path: Path, n_few: int, is_told: bool
) -> None:
    tables = made_tables()
    for user in (2, 3, 4):
        tables[user].loc[: (n_few if user == 3 else 20) - 1, "bmi"] = np.nan
    made = made_sites(tmp_path, tables)
    answer = made.ask("describe", DATA, key="age", columns=["bmi", "age"])
    found = table_of(answer)
    told = found["bmi", "all", "", "", "missing"]
    assert told == (50.0 if is_told else "min_rows 10")
    assert found["age", "all", "", "", "missing"] == 0


def test_a_column_that_one_hospital_alone_lacks_tells_nothing_of_it(
    tmp_path: Path,
) -> None:
    """Its 30 people without a value are one hospital's own total."""
    tables = made_tables()
    tables[3].loc[:29, "bmi"] = np.nan
    made = made_sites(tmp_path, tables)
    made.allow(min_providers=2, own_totals=False)
    found = table_of(made.ask("describe", DATA, key="age", columns=["bmi"]))
    assert found["bmi", "all", "", "", "missing"] == "min_providers 2"
    assert isinstance(found["bmi", "all", "", "", "mean"], float)


# --- beside other answers -------------------------------------------------------------


def test_a_column_is_withheld_where_an_earlier_answer_is_a_few_people_away(
    tmp_path: Path,
) -> None:
    made = made_sites(tmp_path, made_tables())
    fewer = {"complete_on": ["seen"]}
    assert made.ask("avg", DATA, key="age", **fewer).number
    answer = made.ask("describe", DATA, key="age", columns=["age", "bmi", "stage"])
    found = table_of(answer)
    for quantity in ("n", "mean", "sd"):
        assert found["age", "all", "", "", quantity] == "earlier_cohort 10"
    assert isinstance(found["bmi", "all", "", "", "mean"], float)
    assert isinstance(found["stage", "all", "", "III", "n"], float)
    # What it withheld has not left.
    assert made.ask("std", DATA, key="age", **fewer).number


def test_later_questions_are_held_against_it_column_by_column(tmp_path: Path) -> None:
    made = made_sites(tmp_path, made_tables())
    fewer = {"complete_on": ["seen"]}
    fields = {"columns": ["bmi", "arm"]}
    assert made.ask("describe", DATA, key="age", **fields).rows
    assert made.refused("avg", DATA, key="bmi", **fewer).code == "earlier_cohort"
    assert made.refused("median", DATA, key="bmi", **fewer).code == "earlier_cohort"
    # Nobody has asked of ages.
    assert made.ask("avg", DATA, key="age", **fewer).number
    # The same people again tell nothing more.
    assert made.ask("var", DATA, key="bmi").number
    again = table_of(made.ask("describe", DATA, key="age", **fields))
    assert not any(isinstance(value, str) for value in again.values())


def remembered(made: Hospitals, user: int) -> set[tuple[str, str, int]]:
    """By column, the names of all totals that have left, and of how many people."""
    vault = Vault(made.sites[user].vault)
    with sqlite3.connect(vault.cohorts / "cohorts.sqlite") as database:
        rows = database.execute(
            "SELECT columns.name, opened.name, n_members FROM opened"
            " JOIN sets ON in_set = sets.number JOIN columns ON in_column = columns.number"
            " WHERE has_left"
        )
        return set(rows)


def test_it_is_remembered_as_the_single_questions_are(tmp_path: Path) -> None:
    """Of stages that are written as numbers: of texts there is no `count`."""
    tables = made_tables()
    for frame in tables.values():
        frame["stage"] = frame["stage"].str.len()
    made = made_sites(tmp_path, tables)
    levels = {"categorical": {"stage": {}}}
    fields = {"columns": ["age", "stage"], "group_by": ["arm"], **levels}
    assert made.ask("describe", DATA, key="age", **fields).rows
    at_once = remembered(made, 3)
    made.forget()
    assert made.ask("var", DATA, key="age", group_by=["arm"]).rows
    assert made.ask("count", DATA, key="stage", group_by=["arm"]).rows
    pairs = {"columns": ["stage", "arm"], **levels}
    assert made.ask("crosstab", DATA, key="age", **pairs).rows
    assert at_once == remembered(made, 3)
    assert len(at_once) > 10


def test_two_of_its_own_columns_a_few_people_apart(tmp_path: Path) -> None:
    """Under `arm` the people with an age and those with a bmi are 3 apart: as of two
    questions one after the other, the second is withheld; over the same complete rows
    both are answered.
    """
    tables = made_tables()
    for user in (2, 3, 4):
        tables[user].loc[[0, 2, 4], "bmi"] = np.nan
    made = made_sites(tmp_path, tables)
    fields = {"columns": ["age", "bmi"], "group_by": ["arm"]}
    found = table_of(made.ask("describe", DATA, key="age", **fields))
    assert isinstance(found["age", "group", "a", "", "mean"], float)
    assert found["bmi", "group", "a", "", "mean"] == "earlier_cohort 10"
    assert found["bmi", "groups", "", "", "smd"] == "groups"
    made.forget()
    complete = made.ask("describe", DATA, key="age", complete_on=["bmi"], **fields)
    assert not any(isinstance(one, str) for one in table_of(complete).values())


@pytest.mark.thorough
def test_a_scheduled_table_stands_again_where_hardly_anybody_has_come(
    tmp_path: Path,
) -> None:
    made = made_sites(tmp_path, made_tables())
    fields = {"columns": ["age", "stage"]}
    first = made.ask("describe", DATA, key="age", **fields)
    tables = made_tables()
    for user, frame in tables.items():
        made.write(user, "data.pooled", frame.iloc[: 87 if user == 3 else 90])
    again = made.ask("describe", DATA, key="age", repeats=first.order_id, **fields)
    assert again.summary["repeats"] == first.order_id
    assert [row["describe"] for row in again.rows] == [
        row["describe"] for row in first.rows
    ]
    # Asked by itself, all that has changed is withheld.
    found = table_of(made.ask("describe", DATA, key="age", **fields))
    assert found["age", "all", "", "", "mean"] == "earlier_cohort 10"


def test_pooled_cells_are_judged_by_each_hospital_here(tmp_path: Path) -> None:
    """Nine people of one hospital would pass on the sum: not in this question."""
    tables = made_tables(stage=few_of(9, "III", ["I", "II"]))
    made = made_sites(tmp_path, tables)
    made.allow(min_providers=2, cells="pooled", own_totals=False)
    answer = made.ask("describe", DATA, key="age", columns=["stage"])
    assert table_of(answer)["stage", "all", "", "III", "n"] == "min_rows 10"


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"columns": ["age", "age"]}, "columns", "twice"),
        ({"columns": [f"c{place}" for place in range(51)]}, "invalid_input", "50"),
        ({"columns": []}, "columns", "missing"),
        ({"columns": ["age"], "group_by": ["arm", "sex"]}, "group_by", "one"),
        ({"columns": ["age", "arm"], "group_by": ["arm"]}, "columns", "group_by"),
        ({"columns": ["age"], "missing": "mean"}, "missing", "mean"),
        ({"columns": ["age"], "bins": [0, 1]}, "bins", "nothing"),
        ({"columns": ["age"], "group_by": ["level"]}, "columns", "level"),
        ({"columns": ["age"], "result_alias": "quantity"}, "result_alias", "column"),
        ({"columns": ["age", "nowhere"]}, "missing_column", "nowhere"),
    ],
)
def test_bad_questions(
    hospitals: Hospitals, fields: dict[str, Any], code: str, words: str
) -> None:
    data = {user: PATHS[user] for user in (2, 4)}
    error = hospitals.refused("describe", data, key="age", **fields)
    assert error.code == code
    assert words in error.sentence
    assert error.remedy


def test_a_text_of_too_many_values_and_numbers_beside_texts(tmp_path: Path) -> None:
    made = make_hospitals(tmp_path, (2, 3, 4))
    for user in (2, 3, 4):
        frame = pd.DataFrame({"age": np.arange(1100.0)})
        frame["name"] = [f"person {place}" for place in range(1100)]
        codes = "I" if user == 3 else 1
        made.write(user, "v.csv", frame.assign(stage=codes))
    data = dict.fromkeys((2, 3, 4), "v.csv")
    error = made.refused("describe", data, key="age", columns=["age", "name"])
    assert error.code == "levels"
    assert "name" in error.sentence
    assert "person" not in error.sentence
    error = made.refused("describe", data, key="age", columns=["age", "stage"])
    assert error.code == "levels"
    assert "stage" in error.sentence
    made.allow(methods=["var", "frequency"])
    error = made.refused("describe", data, key="age", columns=["age"])
    assert error.code == "methods"
