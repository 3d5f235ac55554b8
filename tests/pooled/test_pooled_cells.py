"""Thresholds on the sum: a table of a paper is answered whose parts are small at single
hospitals, and nothing of a cell that is small jointly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents.order.evaluation import evaluate_once
from agents.statistics import audited, pooled_cells
from agents.statistics.audited import memory_of
from protocol.errors import ProtocolViolation
from protocol.shares import cells as protocol_cells
from protocol.shares.cells import Limits
from protocol.statistics_plan import cells_plan
from tasks.hospital import statistics as steps
from tests.made_providers import column
from tests.made_statistics import Hospitals, make_hospitals, no_waiting_for_disks
from tests.pairwise import quick

USERS = (2, 3, 4, 5)
RECEIVER = 7
DATA = dict.fromkeys(USERS, "visits.csv")

TABLE: dict[tuple[str, str], tuple[int, int, int, int]] = {
    ("F", "sle"): (60, 20, 100, 180),
    ("F", "ssc"): (30, 2, 60, 80),
    ("F", "gout"): (3, 0, 20, 40),
    ("M", "sle"): (12, 12, 20, 35),
    ("M", "ssc"): (20, 3, 17, 30),
    ("M", "gout"): (17, 13, 30, 50),
}
"""Patients of four hospitals, 142, 50, 247 and 415, by sex and disease."""


def visits(counts: dict[tuple[str, str], int], seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    labels = [label for label, n in counts.items() for _ in range(n)]
    return pd.DataFrame(
        {
            "id": np.arange(len(labels)) + 10_000 * seed,
            "sex": [sex for sex, _ in labels],
            "disease": [disease for _, disease in labels],
            "x": np.round(rng.normal(50, 10, len(labels)), 2),
            "z": np.round(rng.normal(5, 3, len(labels)), 2),
        }
    )


def parts(table: dict[tuple[str, str], tuple[int, ...]]) -> dict[int, pd.DataFrame]:
    frames = {}
    for place, user in enumerate(USERS[: len(next(iter(table.values())))]):
        frames[user] = visits({label: own[place] for label, own in table.items()}, user)
    return frames


@pytest.fixture
def hospitals(tmp_path: Any) -> Iterator[Hospitals]:
    made = make_hospitals(tmp_path, (*USERS, 6, RECEIVER))
    made.allow(cells="pooled", min_providers=2)
    with no_waiting_for_disks():
        yield made


def write(hospitals: Hospitals, frames: dict[int, pd.DataFrame]) -> dict[int, str]:
    for user, frame in frames.items():
        hospitals.write(user, "visits.csv", frame)
    return dict.fromkeys(frames, "visits.csv")


def crosstab(hospitals: Hospitals, data: dict[int, str], **fields: Any) -> Any:
    fields = {"receivers": [RECEIVER], **fields}
    return hospitals.ask("crosstab", data, columns=["sex", "disease"], **fields)


def cells(answer: Any) -> dict[tuple[str, ...], str]:
    """What stands in each cell: its count, or why there is none."""
    found = {}
    for row in answer.rows:
        why = row.get("withheld") or row["crosstab"]
        found[row["sex"], row["disease"]] = why
    return found


def test_the_table_of_four_hospitals_is_answered_in_full(hospitals: Hospitals) -> None:
    data = write(hospitals, parts(TABLE))
    answer = crosstab(hospitals, data)
    assert cells(answer) == {label: str(sum(own)) for label, own in TABLE.items()}
    assert answer.summary["suppressed"] == []
    assert answer.summary["rows_used"] == {"all": 854}
    opened = [
        "whether n of sex and disease is at least 10, of at least 2 hospitals, for each of 6 pairs of values",
        "n of sex and disease over 854 people of 4 hospitals, for each value of sex and disease",
        "n without a value over all people of 4 hospitals",
    ]
    assert answer.summary["opened"] == answer.notes["opened"] == opened
    for user in USERS:
        entries = hospitals.ledger(user, answer.order_id, "opens")
        totals = [entry["totals"] for entry in entries]
        assert totals == [opened[:1], opened[1:]]
        # Everybody learns the bits, and the receiver the sums.
        assert entries[0]["receivers"] == [str(party) for party in sorted((*USERS, 7))]
        assert entries[1]["receivers"] == ["7"]
    # The same question with a hospital's own thresholds tells next to nothing.
    hospitals.allow(min_providers=2)
    other = crosstab(hospitals, data)
    assert "complement 10" in cells(other).values()


@pytest.mark.parametrize("sum_of_rows", quick([9, 10, 11], 2))
def test_nine_jointly_are_withheld_and_ten_are_shown(
    hospitals: Hospitals, sum_of_rows: int
) -> None:
    """Where one hospital has ten it has named them; nine of others come to it."""
    few = {9: (3, 0, 6, 0), 10: (0, 10, 0, 0), 11: (1, 10, 0, 0)}[sum_of_rows]
    table = {**TABLE, ("F", "gout"): few, ("M", "ssc"): (20, 30, 17, 30)}
    hospitals.allow(cells="pooled", min_providers=1)
    found = cells(crosstab(hospitals, write(hospitals, parts(table))))
    if sum_of_rows >= 10:
        assert found["F", "gout"] == str(sum_of_rows)
        return
    assert found["F", "gout"] == "0 to 9"
    # The margins of F and of gout would tell it, were they alone.
    hidden = {label for label, why in found.items() if why == "complement 10"}
    assert len(hidden) == 3
    assert {sex for sex, _ in hidden} == {"F", "M"}


@pytest.mark.parametrize("few", quick([((0, 0, 0, 0),), ((1, 0, 2, 3),)], 1))
def test_a_cell_that_nobody_has_looks_like_a_small_one(
    hospitals: Hospitals, few: tuple[int, int, int, int]
) -> None:
    table = {**TABLE, ("F", "gout"): few}
    found = cells(crosstab(hospitals, write(hospitals, parts(table))))
    assert found["F", "gout"] == "0 to 9"
    # Nothing has to be hidden behind nothing.
    assert ("complement 10" in found.values()) == any(few)


def test_nine_made_up_rows_of_a_receiver_do_not_open_a_real_one(
    hospitals: Hospitals,
) -> None:
    table = {**TABLE, ("F", "gout"): (12, 1, 0, 0)}
    data = write(hospitals, parts(table))
    open_to_another = cells(crosstab(hospitals, data))
    assert open_to_another["F", "gout"] == "13"
    to_a_provider = crosstab(hospitals, data, receivers=[2])
    assert cells(to_a_provider)["F", "gout"] == "cells 10"
    assert "also without hospital 2, for each" in to_a_provider.summary["opened"][0]


METHODS = [
    "avg",
    "var",
    "crosstab",
    "histogram",
    "count",
    "sum",
    "std",
    "cov",
    "corr",
    "median",
    "min",
    "frequency",
]


@pytest.mark.parametrize("n_hospitals", quick([3, 5], 1))
@pytest.mark.parametrize("method", quick(METHODS, 4))
def test_joint_equals_pooled(
    hospitals: Hospitals, method: str, n_hospitals: int
) -> None:
    """By sex, of which one hospital has two women."""
    users = (2, 3, 4, 5, 6)[:n_hospitals]
    frames = {}
    for place, user in enumerate(users):
        n_women = 2 if place == 1 else 30
        frames[user] = visits({("F", "sle"): n_women, ("M", "sle"): 25 + place}, user)
    data = write(hospitals, frames)
    hospitals.allow(
        cells="pooled", min_providers=2, extremes=True, exact_quantiles=True
    )
    fields: dict[str, Any] = {"receivers": [RECEIVER], "result_alias": "r"}
    labels = ["sex"]
    if method in ("cov", "corr"):
        fields |= {"columns": ["x", "z"]}
    if method == "crosstab":
        fields |= {"columns": ["sex", "disease"]}
        labels = ["sex", "disease"]
    if method == "histogram":
        fields |= {"bins": [0, 50, 100]}
        labels = ["lower", "upper"]
    if method not in ("crosstab", "frequency", "histogram"):
        fields |= {"group_by": ["sex"]}
    key = "sex" if method == "frequency" else "x"
    answer = hospitals.ask(method, data, key=key, **fields)
    found = answer.by(*labels, value="r")
    pooled = pd.concat(frames.values())
    groups = pooled.groupby("sex")
    if method in ("frequency", "crosstab"):
        wanted = dict(pooled.groupby(labels).size().items())
    elif method == "histogram":
        n_below = int((pooled.x < 50).sum())
        n_bins = {("0.0", "50.0"): n_below, ("50.0", "100.0"): len(pooled) - n_below}
        shown = {label: int(n) for label, n in found.items() if n}
        assert shown == n_bins
        assert answer.rows[-1]["withheld"] == "0 to 9"
        return
    elif method in ("cov", "corr"):
        frame_of = {sex: getattr(group[["x", "z"]], method)() for sex, group in groups}
        wanted = {sex: matrix.loc["x", "z"] for sex, matrix in frame_of.items()}
    else:
        wanted = groups.x.agg({"avg": "mean"}.get(method, method)).to_dict()
    as_labels = {k if isinstance(k, tuple) else (k,): v for k, v in wanted.items()}
    assert {label: float(n) for label, n in found.items()} == pytest.approx(as_labels)
    assert "withheld" not in answer.rows[0]


def test_one_hospital_that_asks_for_each_decides_for_all(hospitals: Hospitals) -> None:
    data = write(hospitals, parts(TABLE))
    hospitals.allow(users=[4], min_providers=2)
    mixed = crosstab(hospitals, data)
    hospitals.allow(min_providers=2)
    each = crosstab(hospitals, data)
    assert mixed.rows == each.rows
    assert mixed.summary["rows_used"] == each.summary["rows_used"]


def test_two_rows_that_make_nearly_all_of_a_sum_of_squares_withhold_a_cell(
    hospitals: Hospitals,
) -> None:
    frames = parts(TABLE)
    of_men = frames[4].index[(frames[4].sex == "M")]
    frames[4].loc[of_men[:2], "x"] = 1000.0
    data = write(hospitals, frames)
    fields = {"group_by": ["sex"], "receivers": [RECEIVER]}
    assert [
        row["sum"] for row in hospitals.ask("sum", data, **fields).rows if row["sum"]
    ]
    variance = hospitals.ask("var", data, **fields).rows
    withheld = {row["sex"]: row["withheld"] for row in variance}
    assert withheld["M"] == "max_share 9/10"


def test_two_rows_of_fewer_than_min_rows_are_hidden_by_the_others(
    hospitals: Hospitals,
) -> None:
    frames = parts(TABLE)
    women = frames[2].index[(frames[2].sex == "F") & (frames[2].disease == "gout")]
    frames[2].loc[women, "x"] = [1000.0, 0.0, 0.0]
    data = write(hospitals, frames)
    fields: dict[str, Any] = {"group_by": ["sex", "disease"], "receivers": [RECEIVER]}
    answer = hospitals.ask("sum", data, **fields)
    assert "withheld" not in answer.rows[0]


def test_an_order_computes_once_on_shares(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(hospitals, parts(TABLE))
    codes = []
    answer_of_step = steps.answer

    def again(order: Any, reading: Any) -> Any:
        answered = answer_of_step(order, reading)
        if order.me == 3:
            plan = cells_plan(USERS, (), Limits(10, 2))
            other = {"p3.n": column([1]), "p3.s": column([1])}
            with pytest.raises(ProtocolViolation) as caught:
                evaluate_once(order, plan, other, n_rows=1)
            codes.append(caught.value.code)
        return answered

    monkeypatch.setattr(steps, "answer", again)
    crosstab(hospitals, data)
    assert codes == ["evaluated_twice"]


def test_what_is_told_counts_as_told_before_anything_is_compared(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who dies between the two has told nothing that nobody remembers."""
    data = write(hospitals, parts(TABLE))
    not_committed = []
    evaluate = pooled_cells.evaluate_once

    def look_first(party: Any, *arguments: Any, **named: Any) -> bytes:
        with memory_of(party).opened() as transaction:
            if party.order_id in transaction.orders_under_way():
                not_committed.append(party.me)
        return evaluate(party, *arguments, **named)

    monkeypatch.setattr(pooled_cells, "evaluate_once", look_first)
    crosstab(hospitals, data)
    assert not_committed == []
    # It looks where something would be: before the commit the order is under way.
    monkeypatch.setattr(audited, "commit_totals", lambda party, shown=None: None)
    hospitals.forget()
    crosstab(hospitals, data)
    assert sorted(not_committed) == list(USERS)


# A table that is asked for again

MANY = {("M", "sle"): 25}
"""New patients of every hospital, so that the whole table may be told again."""


def month(
    hospitals: Hospitals,
    frames: dict[int, pd.DataFrame],
    came: dict[int, dict[tuple[str, str], int]],
    number: int,
) -> dict[int, str]:
    """Another month has passed, in which these have come to a hospital, beside many."""
    for user in frames:
        new = visits(MANY | came.get(user, {}), 100 * number + user)
        frames[user] = pd.concat([frames[user], new])
    return write(hospitals, frames)


def rules(answer: Any) -> set[str]:
    return {entry["rule"] for entry in answer.summary["suppressed"]}


# Nine of all hospitals, ten, and further cases.
CAME = [
    ((3, 3, 3, 0),),
    ((3, 3, 3, 1),),
    ((0, 0, 9, 2),),
    ((3, 3, 3, 3),),
    ((0, 9, 0, 0),),
]


@pytest.mark.parametrize("came", quick(CAME, 1))
def test_a_table_of_the_next_month_is_told_of_ten_new_patients_of_all_hospitals(
    hospitals: Hospitals, came: tuple[int, ...]
) -> None:
    """No hospital has ten new ones of a cell."""
    frames = parts(TABLE)
    crosstab(hospitals, write(hospitals, frames))
    new = {user: {("M", "gout"): n} for user, n in zip(USERS, came, strict=True)}
    answer = crosstab(hospitals, month(hospitals, frames, new, 1))
    found = cells(answer)
    if sum(came) < 10:
        assert found["M", "gout"] == "earlier_cohort 10"
        return
    n_before = {label: sum(own) for label, own in TABLE.items()}
    n_before["M", "gout"] += sum(came)
    n_before["M", "sle"] += 4 * 25
    assert found == {label: str(n) for label, n in n_before.items()}
    assert answer.summary["opened"][0].endswith(
        "and none or at least 10 people have come and gone since the last answer, for each of 6 pairs of values"
    )


def test_two_answers_that_differ_by_one_person_jointly_are_not_told(
    hospitals: Hospitals,
) -> None:
    frames = parts(TABLE)
    crosstab(hospitals, write(hospitals, frames))
    is_of_cell = (frames[3].sex == "F") & (frames[3].disease == "sle")
    frames[3] = frames[3].drop(frames[3].index[is_of_cell][0])
    answer = crosstab(hospitals, month(hospitals, frames, {}, 1))
    assert cells(answer)["F", "sle"] == "earlier_cohort 10"
    assert "earlier_cohort" in rules(answer)


def test_rows_that_a_receiver_makes_up_do_not_hide_who_has_come(
    hospitals: Hospitals,
) -> None:
    frames = parts(TABLE)
    crosstab(hospitals, write(hospitals, frames), receivers=[2])
    came = {2: {("M", "gout"): 9}, 3: {("M", "gout"): 1}}
    answer = crosstab(hospitals, month(hospitals, frames, came, 1), receivers=[2])
    assert cells(answer)["M", "gout"] == "earlier_cohort 10"


def test_what_a_receiver_has_of_its_own_hides_nothing_from_itself(
    hospitals: Hospitals,
) -> None:
    """And is no reason to withhold it, as it knows who has come to it."""
    frames = parts(TABLE)
    crosstab(hospitals, write(hospitals, frames), receivers=[2])
    came = {2: {("M", "gout"): 1}}
    answer = crosstab(hospitals, month(hospitals, frames, came, 1), receivers=[2])
    assert cells(answer)["M", "gout"] == str(sum(TABLE["M", "gout"]) + 1)


def test_who_has_moved_to_another_hospital_is_seen_at_both(
    hospitals: Hospitals,
) -> None:
    """Six come at one, and six gone at another: neither is ten."""
    frames = parts(TABLE)
    crosstab(hospitals, write(hospitals, frames))
    is_of_cell = (frames[3].sex == "M") & (frames[3].disease == "gout")
    frames[3] = frames[3].drop(frames[3].index[is_of_cell][:6])
    came = {2: {("M", "gout"): 6}}
    answer = crosstab(hospitals, month(hospitals, frames, came, 1))
    assert cells(answer)["M", "gout"] == "earlier_cohort 10"


def test_what_was_withheld_is_no_earlier_answer(hospitals: Hospitals) -> None:
    """Nine have come since the table was shown, then four more."""
    frames = parts(TABLE)
    crosstab(hospitals, write(hospitals, frames))
    nine = {user: {("M", "gout"): 3} for user in USERS[:3]}
    second = crosstab(hospitals, month(hospitals, frames, nine, 1))
    assert cells(second)["M", "gout"] == "earlier_cohort 10"
    four = {user: {("M", "gout"): 1} for user in USERS}
    third = crosstab(hospitals, month(hospitals, frames, four, 2))
    assert cells(third)["M", "gout"] == str(sum(TABLE["M", "gout"]) + 13)


def test_a_hospital_that_has_forgotten_an_answer_does_not_say_nobody_has_come(
    hospitals: Hospitals,
) -> None:
    frames = parts(TABLE)
    data = write(hospitals, frames)
    crosstab(hospitals, data)
    assert set(cells(crosstab(hospitals, data))) == set(TABLE)
    hospitals.forget(3)
    found = cells(crosstab(hospitals, data))
    assert set(found.values()) == {"earlier_cohort 10"}
    hospitals.forget()
    assert rules(crosstab(hospitals, data)) == set()


def test_of_older_answers_each_hospital_decides_alone(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol_cells, "MOST_EARLIER", 1)
    frames = parts(TABLE)
    crosstab(hospitals, write(hospitals, frames))
    ten = {user: {("M", "gout"): 10} for user in USERS}
    second = crosstab(hospitals, month(hospitals, frames, ten, 1))
    assert rules(second) == set()
    # Ten and three beside the first answer, three beside the last one.
    three = {user: {("M", "gout"): 3} for user in USERS}
    third = crosstab(hospitals, month(hospitals, frames, three, 2))
    assert rules(third) == set()
    came = {user: {("F", "sle"): 3} for user in USERS}
    fourth = crosstab(hospitals, month(hospitals, frames, came, 3))
    assert cells(fourth)["F", "sle"] == "earlier_cohort 10"


def test_hospitals_that_mean_other_earlier_answers_compute_nothing(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(hospitals, parts(TABLE))
    crosstab(hospitals, data)
    decide = pooled_cells.decide

    def without_the_last(party: Any, reading: Any, named: Any, agreed: Any) -> Any:
        if party.me == 3:
            agreed = replace(agreed, earlier=[])
        return decide(party, reading, named, agreed)

    monkeypatch.setattr(pooled_cells, "decide", without_the_last)
    with pytest.raises(ProtocolViolation, match="other thresholds"):
        crosstab(hospitals, data)


def test_a_few_changed_rows_of_a_small_part_close_the_cell(
    hospitals: Hospitals,
) -> None:
    """All hospitals together have one more patient in a cell: the sums would differ by
    theirs.
    """
    fields: dict[str, Any] = {
        "group_by": ["sex", "disease"],
        "receivers": [RECEIVER],
    }
    data = write(hospitals, parts(TABLE))
    first = hospitals.ask("avg", data, **fields)
    assert "withheld" not in first.rows[0]
    assert hospitals.ask("avg", data, **fields).rows == first.rows

    came = {("F", "gout"): 1, ("M", "sle"): 25}
    frames = parts(TABLE)
    frames[2] = pd.concat([frames[2], visits(came, 9)])
    again = hospitals.ask("avg", write(hospitals, frames), **fields)
    withheld = again.by("sex", "disease", value="withheld")
    assert withheld["F", "gout"] == "earlier_cohort 10"
    assert withheld["M", "sle"] in ("", "complement 10")
