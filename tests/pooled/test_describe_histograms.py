"""Histograms of `describe`: the bins of one table, judged beside its other columns and
what was answered before, as a histogram that is asked by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.statistics.labels import check_stated
from protocol.errors import ProtocolViolation
from protocol.statistics_described import parts_of
from protocol.statistics_request import parse_statistics_request
from tests.made_statistics import Answered, Hospitals, make_hospitals
from tests.pooled.test_describe import remembered, table_of

USERS = (2, 3, 4)
DATA = dict.fromkeys(USERS, "data.csv")
EDGES: dict[str, list[float]] = {"age": [50, 60, 70], "bmi": [22.5, 27.5]}


def made_tables() -> dict[int, pd.DataFrame]:
    """120 people of each hospital: of each arm 15 in each bin of ages, and of hospital 3
    nobody below 50.
    """
    tables = {}
    for user in USERS:
        place = np.arange(120)
        ages = np.array([45.0, 55.0, 65.0, 75.0])[place // 2 % 4] + place % 5
        if user == 3:
            ages[ages < 50] += 10
        frame = pd.DataFrame({"id": place + 1000 * user, "age": ages})
        frame["bmi"] = np.array([20.0, 25.0, 30.0])[place // 8 % 3]
        frame.loc[::8, "bmi"] = np.nan
        frame["arm"] = np.where(place % 2 == 0, "drug", "placebo")
        tables[user] = frame
    return tables


def made_sites(folder: Path, tables: dict[int, pd.DataFrame]) -> Hospitals:
    made = make_hospitals(folder, USERS)
    for user, frame in tables.items():
        made.write(user, "data.csv", frame)
    made.allow(unique_ids={"*.csv": "id"})
    return made


def ask(made: Hospitals, **fields: Any) -> Answered:
    asked = {"columns": ["age", "bmi"], "histograms": EDGES, **fields}
    return made.ask("describe", DATA, key="age", **asked)


def bins_of(answer: Answered, column: str) -> dict[tuple[str, str], float | str]:
    """By group and bin, of all rows under the group "all"."""
    found = {}
    for (name, over, group, level, _), value in table_of(answer).items():
        if name == column and level:
            found["all" if over == "all" else group, level] = value
    return found


def counted(values: pd.Series[Any], edges: list[float]) -> list[int]:
    """Below the first edge, between each two, above the last, which is in its bin."""
    inner, _ = np.histogram(values.dropna(), edges)
    n_below, n_above = (values < edges[0]).sum(), (values > edges[-1]).sum()
    return [int(n_below), *inner.tolist(), int(n_above)]


@pytest.mark.parametrize(
    "by_arm", [True, pytest.param(False, marks=pytest.mark.thorough)]
)
def test_bins_are_those_of_one_table_and_of_a_histogram_by_itself(
    tmp_path: Path, by_arm: bool
) -> None:
    tables = made_tables()
    made = made_sites(tmp_path, tables)
    fields = {"group_by": ["arm"]} if by_arm else {}
    answer = ask(made, **fields)
    rows = pd.concat(tables.values())
    groups = {"all": rows}
    if by_arm:
        groups |= {str(arm): one for arm, one in rows.groupby("arm")}
    else:
        # Without groups all rows are the one group, which has no column.
        assert "over" not in answer.rows[0]
    for column, edges in EDGES.items():
        expected = [n for one in groups.values() for n in counted(one[column], edges)]
        found = bins_of(answer, column)
        assert len(found) == len(expected)
        in_order = [
            value
            for group in groups
            for (of_group, _), value in found.items()
            if of_group == group
        ]
        assert in_order == expected
        if by_arm and column == "bmi":
            continue
        # Nobody has forgotten it, and the same totals tell nothing more.
        single = made.ask("histogram", DATA, key=column, bins=edges, **fields)
        of_groups = [float(row["histogram"]) for row in single.rows]
        first = len(edges) + 1 if by_arm else 0
        assert of_groups == expected[first:]
    levels = [level for group, level in bins_of(answer, "age") if group == "all"]
    assert levels == ["< 50", "[50, 60)", "[60, 70]", "> 70"]
    people = f"over {len(rows)} people of 3 hospitals"
    for_each = "each group of arm and for each bin" if by_arm else "each bin"
    assert f"n of bmi {people}, for {for_each}" in answer.summary["opened"]


def test_it_is_remembered_as_a_histogram_by_itself(tmp_path: Path) -> None:
    made = made_sites(tmp_path, made_tables())
    fields = {"group_by": ["arm"], "columns": ["age"]}
    assert ask(made, **fields, histograms={"age": EDGES["age"]}).rows
    at_once = remembered(made, 3)
    made.forget()
    assert made.ask("describe", DATA, key="age", **fields).rows
    without = remembered(made, 3)
    single = {"bins": EDGES["age"], "group_by": ["arm"]}
    assert made.ask("histogram", DATA, key="age", **single).rows
    assert at_once == remembered(made, 3)
    assert len(at_once) > len(without)


@pytest.mark.parametrize(
    ("n_few", "is_shown"),
    [(9, False), pytest.param(10, True, marks=pytest.mark.thorough)],
)
def test_a_bin_of_few_people_is_withheld_with_another(
    tmp_path: Path, n_few: int, is_shown: bool
) -> None:
    """Else n of the column less the other bins would tell how many."""
    tables = made_tables()
    tables[2] = tables[2].assign(
        age=np.repeat([45.0, 55.0, 65.0], [50, n_few, 70 - n_few])
    )
    made = made_sites(tmp_path, tables)
    found = bins_of(ask(made, columns=["age"], histograms={"age": [50, 60]}), "age")
    withheld = {level for (_, level), value in found.items() if isinstance(value, str)}
    assert ("[50, 60]" not in withheld) == is_shown
    assert len(withheld) == (0 if is_shown else 2)


@pytest.mark.thorough
def test_hospitals_without_an_id_count_twice_as_of_single_questions(
    tmp_path: Path,
) -> None:
    """15 people of a bin are in the total of their arm, too, and each row may be two."""
    made = made_sites(tmp_path, made_tables())
    made.allow(unique_ids={})
    fields = {"group_by": ["arm"], "columns": ["age"]}
    found = bins_of(ask(made, **fields, histograms={"age": EDGES["age"]}), "age")
    at_once = {key for key, value in found.items() if isinstance(value, float)}
    made.forget()
    assert made.ask("var", DATA, key="age", group_by=["arm"]).rows
    single = made.ask("histogram", DATA, key="age", group_by=["arm"], bins=EDGES["age"])
    shown = [row for row in single.rows if row["histogram"]]
    assert len(shown) == len([key for key in at_once if key[0] != "all"]) == 0


# --- attacks --------------------------------------------------------------------------


def with_few_of_59() -> dict[int, pd.DataFrame]:
    tables = made_tables()
    for frame in tables.values():
        frame["age"] = frame["age"].replace(59.0, 58.0)
    tables[4].loc[[2, 10, 18], "age"] = 59.5
    return tables


@pytest.mark.parametrize(
    "histograms_first", [True, pytest.param(False, marks=pytest.mark.thorough)]
)
def test_bins_a_few_people_apart_are_not_both_told(
    tmp_path: Path, histograms_first: bool
) -> None:
    """Three people of hospital 4 are between 59 and 60: the second pair of edges, in
    either kind of question, would count them.
    """
    made = made_sites(tmp_path, with_few_of_59())
    edges, moved = [50, 60], [50, 59]
    if histograms_first:
        assert made.ask("histogram", DATA, key="age", bins=edges).rows
        answer = ask(made, columns=["age"], histograms={"age": moved})
        found = bins_of(answer, "age")
        assert found["all", "[50, 59]"] == "earlier_cohort 10"
    else:
        assert ask(made, columns=["age"], histograms={"age": edges}).rows
        single = made.ask("histogram", DATA, key="age", bins=moved)
        withheld = [row["withheld"] for row in single.rows]
        assert "earlier_cohort 10" in withheld


@pytest.mark.parametrize(
    ("cut", "is_told"),
    [(60, False), pytest.param(61, True, marks=pytest.mark.thorough)],
)
def test_one_question_cuts_no_few_people_out_by_two_columns(
    tmp_path: Path, cut: int, is_told: bool
) -> None:
    """A derived column is the same age under another name, cut elsewhere or there."""
    made = made_sites(tmp_path, with_few_of_59())
    made.allow(unique_ids={"*.csv": "id"}, row_expressions=True)
    answer = ask(
        made,
        columns=["age", "older"],
        derive={"older": "age + 1"},
        histograms={"age": [50, 60], "older": [51, cut]},
    )
    values = [*bins_of(answer, "age").values(), *bins_of(answer, "older").values()]
    assert ("earlier_cohort 10" not in values) == is_told
    assert all(isinstance(value, float) for value in values) == is_told


def test_a_policy_that_lists_describe_alone_opens_no_bins(tmp_path: Path) -> None:
    made = made_sites(tmp_path, made_tables())
    made.allow([3], methods=["describe"], unique_ids={"*.csv": "id"})
    fields = {"columns": ["age"], "histograms": {"age": [50, 60]}}
    error = made.refused("describe", DATA, key="age", **fields)
    assert error.code == "methods"
    assert "to add histogram to methods" in error.remedy


def test_a_bin_that_there_is_not_is_no_part_of_a_statement() -> None:
    """It would be a row of the result that no hospital can name."""
    body = {
        "method": "describe",
        "columns": ["age"],
        "histograms": {"age": [50, 60]},
        "data_providers": [
            {"name": 2, "data_path": "", "data_type": "csv", "key_column": "age"}
        ],
        "result_receivers": [2],
    }
    (_, part, _) = parts_of(parse_statistics_request(body), {"age": "number"})
    check_stated(part.request, [[("0000",), ("0002",)]])
    with pytest.raises(ProtocolViolation, match="bin that the histogram"):
        check_stated(part.request, [[("0000",)], [("0003",)]])


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"histograms": {"weight": [1, 2]}}, "histograms", "weight"),
        ({"categorical": {"age": {}}}, "histograms", "categorical"),
        ({"histograms": {"age": list(range(600)), "bmi": list(range(600))}}, "histograms", "1200 edges"),
        ({"histograms": {"age": [2, 1]}}, "invalid_input", "rise"),
        ({"histograms": {"age": [1]}}, "invalid_input", "2"),
        ({"columns": ["age", "arm"], "histograms": {"arm": [1, 2]}}, "not_numeric", "arm"),
    ],
)  # fmt: skip
def test_bad_histograms(
    sites: Hospitals, fields: dict[str, Any], code: str, words: str
) -> None:
    asked = {"columns": ["age", "bmi"], "histograms": EDGES, **fields}
    error = sites.refused("describe", DATA, key="age", **asked)
    assert error.code == code
    assert words in error.sentence
    assert error.remedy


def test_histograms_are_of_describe_alone(sites: Hospitals) -> None:
    error = sites.refused("avg", DATA, key="age", histograms={"age": [1, 2]})
    assert error.code == "histograms"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    return made_sites(tmp_path_factory.mktemp("sites"), made_tables())
