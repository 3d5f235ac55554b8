"""Quartiles of `describe`: the medians of one table, searched for all columns in the same
rounds, each judged and remembered as a quantile that is asked by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.statistics import quantile_rounds, sums
from analytics.statistics.quantiles import MOST_ROUNDS
from protocol.statistics_request import QUARTILES
from tests.made_statistics import (
    Answered,
    Hospitals,
    make_hospitals,
    no_waiting_for_disks,
)
from tests.pairwise import pairwise
from tests.pooled.test_describe import (
    EVERYBODY,
    FRAMES,
    PATHS,
    Key,
    few_of,
    made_sites,
    made_tables,
    remembered,
    table_of,
)

NAMES = ("q1", "median", "q3")
NUMBERS = ("age", "bmi", "stay")
DATA = {user: PATHS[user] for user in (2, 3, 4)}


def made_frames() -> dict[int, pd.DataFrame]:
    """With a column of whole numbers that many people share."""
    frames = {}
    for user, frame in FRAMES.items():
        stays = np.arange(len(frame)) ** 2 % 17
        frames[user] = frame.assign(stay=stays, id=np.arange(len(frame)))
    return frames


TABLES = made_frames()


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    made = make_hospitals(tmp_path_factory.mktemp("sites"), EVERYBODY)
    made.allow(min_rows=2, max_share=1, exact_quantiles=True)
    for user, frame in TABLES.items():
        made.write(user, PATHS[user], frame)
    with no_waiting_for_disks():
        yield made


@pytest.fixture(autouse=True)
def without_a_past(hospitals: Hospitals) -> None:
    hospitals.forget()


def ask(made: Hospitals, users: Sequence[int] = (2, 3, 4), **fields: Any) -> Answered:
    data = {user: PATHS[user] for user in users}
    asked = {"columns": [*NUMBERS, "sex"], "quartiles": True, **fields}
    return made.ask("describe", data, key="age", **asked)


def quartiles_of(answer: Answered) -> dict[Key, float | str]:
    table = table_of(answer)
    return {key: value for key, value in table.items() if key[-1] in NAMES}


def expected_of(over: str, group: str, rows: pd.DataFrame) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for column in NUMBERS:
        values = np.quantile(rows[column].dropna(), QUARTILES)
        for name, value in zip(NAMES, values, strict=True):
            found[column, over, group, "", name] = float(value)
    return found


@pairwise(
    users=[(2, 4), EVERYBODY, (4,), (2, 3, 4)],
    by_arm=[True, False],
    result_type=["csv", "json"],
    n_quick=1,
)
def test_they_are_those_of_the_pooled_rows(
    hospitals: Hospitals, users: Sequence[int], by_arm: bool, result_type: str
) -> None:
    """To the last bit, as numpy's are those of pandas."""
    fields = {"group_by": ["arm"]} if by_arm else {}
    answer = ask(hospitals, users, result_type=result_type, **fields)
    table = pd.concat([TABLES[user] for user in users], ignore_index=True)
    expected = expected_of("all", "", table)
    if by_arm:
        for arm, rows in table.groupby("arm"):
            expected |= expected_of("group", str(arm), rows)
    if result_type == "csv":
        assert quartiles_of(answer) == expected
        return
    rows = [row for row in json.loads(answer.text) if row["quantity"] in NAMES]
    assert [row["withheld"] for row in rows] == [None] * len(expected)
    assert sorted(row["describe"] for row in rows) == sorted(expected.values())


@pytest.mark.thorough
@pytest.mark.parametrize("exact", [True, False])
def test_they_are_what_the_single_question_says(
    hospitals: Hospitals, exact: bool
) -> None:
    """To the last digit, and known to the gate as the same totals: it passes after them,
    though nobody forgets them. Where a policy lets no single value be known, neither
    tells one.
    """
    hospitals.allow(min_rows=5, max_share=1, exact_quantiles=exact)
    answer = ask(hospitals, group_by=["arm"])
    said = {
        (row["column"], row["arm"], row["quantity"]): row["describe"]
        for row in answer.rows
        if row["quantity"] in NAMES
    }
    for column in ("bmi", "stay"):
        for group_by in (["arm"], None):
            fields = {"quantile": list(QUARTILES), "group_by": group_by}
            single = hospitals.ask("quantile", DATA, key=column, **fields)
            names = dict(zip(map(str, QUARTILES), NAMES, strict=True))
            for row in single.rows:
                key = (column, row.get("arm", ""), names[row["q"]])
                assert said[key] == row["quantile"]
    notes = " ".join(answer.summary["notes"])
    assert ("as finely as 5 rows allow" in notes) == (not exact)
    hospitals.allow(min_rows=2, max_share=1, exact_quantiles=True)


def test_all_columns_are_searched_in_the_same_rounds(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[int] = []
    agree = quantile_rounds._agree_on_pivots

    def noting(party: Any, searches: Any, round_: int) -> Any:
        if party.me == 2:
            rounds.append(round_)
        return agree(party, searches, round_)

    monkeypatch.setattr(quantile_rounds, "_agree_on_pivots", noting)
    answer = ask(hospitals, (2, 4), columns=["age", "bmi"])
    assert all(isinstance(value, float) for value in quartiles_of(answer).values())
    # Two sums and the numbers of rows go before, and no pivot is left in the last one.
    assert rounds == list(range(3, 3 + len(rounds)))
    assert len(rounds) <= MOST_ROUNDS + 1


def test_only_the_counts_are_opened_by_every_provider(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the ledger of each says what is opened by whom."""
    sent: set[tuple[int, int, int]] = set()
    send = sums.send

    def noting(party: Any, kind: str, make: Any, **rest: Any) -> None:
        if kind == "unmask":
            sent.add((rest["round"], party.me, rest["recipient"]))
        send(party, kind, make, **rest)

    monkeypatch.setattr(sums, "send", noting)
    answer = ask(hospitals, (2, 3), columns=["age"], receivers=[3])
    assert sent == {(0, 2, 3), (1, 2, 3), (1, 3, 2)}
    entries = hospitals.ledger(2, answer.order_id, "opens")
    said = {tuple(entry["receivers"]): entry["totals"] for entry in entries}
    people = (
        f"of age over {sum(len(TABLES[user]) for user in (2, 3))} people of 2 hospitals"
    )
    assert said == {
        ("3",): [f"n, sum, sum of squares and n without a value {people}"],
        ("2", "3"): [f"n and n below each searched value {people}"],
    }
    assert answer.summary["opened"] == [
        text for texts in said.values() for text in texts
    ]
    assert any(
        "knows how many rows of the other" in note for note in answer.summary["notes"]
    )


@pytest.mark.thorough
def test_named_columns_alone_are_searched(hospitals: Hospitals) -> None:
    answer = ask(hospitals, (2, 4), quartiles=["bmi"], missing="drop")
    assert {key[0] for key in quartiles_of(answer)} == {"bmi"}
    derived = {"columns": ["both"], "derive": {"both": "age + bmi"}, "quartiles": True}
    found = quartiles_of(ask(hospitals, (2, 4), **derived))
    table = pd.concat([TABLES[2], TABLES[4]])
    median = (table.age + table.bmi).median()
    assert found["both", "all", "", "", "median"] == pytest.approx(median, rel=1e-15)


# --- what a policy says of it ---------------------------------------------------------

POOLED_DATA = dict.fromkeys((2, 3, 4), "data.pooled")


def test_a_policy_that_lists_describe_alone_searches_nothing(tmp_path: Path) -> None:
    made = made_sites(tmp_path, made_tables())
    made.allow([3], methods=["describe"])
    fields = {"columns": ["age"], "quartiles": True}
    error = made.refused("describe", POOLED_DATA, key="age", **fields)
    assert error.code == "methods"
    assert "to add quantile to methods" in error.remedy


def test_every_provider_must_be_a_receiver_by_every_policy(tmp_path: Path) -> None:
    """As of a quantile: each opens the counts."""
    made = made_sites(tmp_path, made_tables())
    lists = "initiators = [2, 3, 4]\nreceivers = [3, 4]"
    made.policies[4] = made.policies[4].replace("initiators = [2, 3, 4]", lists)
    assert lists in made.policies[4]
    made.allow([4])
    asked = {"key": "age", "columns": ["age"], "receivers": [3]}
    error = made.refused("describe", POOLED_DATA, **asked, quartiles=True)
    assert error.code == "receivers"
    assert made.ask("describe", POOLED_DATA, **asked).rows


def test_they_are_remembered_as_single_questions_are(tmp_path: Path) -> None:
    made = made_sites(tmp_path, made_tables())
    fields = {"columns": ["age"], "group_by": ["arm"]}
    assert made.ask("describe", POOLED_DATA, key="age", **fields, quartiles=True).rows
    at_once = remembered(made, 3)
    made.forget()
    assert made.ask("describe", POOLED_DATA, key="age", **fields).rows
    without = remembered(made, 3)
    for group_by in (["arm"], None):
        single = {"quantile": [0.5], "group_by": group_by}
        assert made.ask("quantile", POOLED_DATA, key="age", **single).rows
    assert at_once == remembered(made, 3)
    assert len(at_once) > len(without)


@pytest.mark.parametrize(
    ("n_few", "is_shown"),
    [(9, False), pytest.param(10, True, marks=pytest.mark.thorough)],
)
def test_a_group_of_few_people_has_none(
    tmp_path: Path, n_few: int, is_shown: bool
) -> None:
    """Nor has a second one, by which those of all would tell it; nothing is told less
    because they are asked for, too.
    """
    tables = made_tables(arm=few_of(n_few, "c", ["a", "b"]))
    for user in (2, 4):
        tables[user]["arm"] = few_of(30, "c", ["a", "b"])
    made = made_sites(tmp_path, tables)
    fields = {"columns": ["age"], "group_by": ["arm"]}
    answer = made.ask("describe", POOLED_DATA, key="age", **fields, quartiles=True)
    found = table_of(answer)
    medians = [found["age", "group", arm, "", "median"] for arm in ("a", "b", "c")]
    n_told = sum(isinstance(median, float) for median in medians)
    assert n_told == (3 if is_shown else 1)
    assert isinstance(medians[2], float) == is_shown
    made.forget()
    plain = table_of(made.ask("describe", POOLED_DATA, key="age", **fields))
    assert plain.items() <= found.items()


def test_an_earlier_answer_a_few_people_away_withholds_them_alone(
    tmp_path: Path,
) -> None:
    made = made_sites(tmp_path, made_tables())
    fewer = {"complete_on": ["seen"]}
    assert made.ask("median", POOLED_DATA, key="age", **fewer).rows
    fields = {"columns": ["age", "bmi"], "quartiles": True}
    found = table_of(made.ask("describe", POOLED_DATA, key="age", **fields))
    for quantity in ("mean", "q1", "median", "q3"):
        assert found["age", "all", "", "", quantity] == "earlier_cohort 10"
        assert isinstance(found["bmi", "all", "", "", quantity], float)
    # And the other way round.
    assert (
        made.refused("median", POOLED_DATA, key="bmi", **fewer).code == "earlier_cohort"
    )


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"quartiles": ["weight"]}, "quartiles", "weight"),
        ({"quartiles": ["age"], "categorical": {"age": {}}}, "quartiles", "categorical"),
        ({"quartiles": ["age", "age"]}, "quartiles", "twice"),
        ({"quartiles": 3}, "invalid_input", "quartiles"),
        ({"quartiles": ["sex"]}, "not_numeric", "sex"),
    ],
)  # fmt: skip
def test_bad_quartiles(
    hospitals: Hospitals, fields: dict[str, Any], code: str, words: str
) -> None:
    asked = {"columns": ["age", "bmi", "sex"], **fields}
    error = hospitals.refused("describe", DATA, key="age", **asked)
    assert error.code == code
    assert words in error.sentence
    assert error.remedy


def test_quartiles_are_of_describe_alone(hospitals: Hospitals) -> None:
    assert hospitals.refused("avg", DATA, key="age", quartiles=True).code == "quartiles"


def test_without_them_the_question_is_the_one_of_before(hospitals: Hospitals) -> None:
    answer = ask(hospitals, (2, 4), quartiles=False)
    assert not quartiles_of(answer)
