"""Aggregates over joined rows with `row_expressions = false`: what would read patients,
and what is answered.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from agents.statistics import party
from protocol.errors import ConsiliumError
from tests.made_statistics import Hospitals, make_hospitals
from tests.pairwise import quick

N_PATIENTS = 16
SECRET = [3 + 7 * i % 11 for i in range(N_PATIENTS)]
"""x of hospital 3, no two of which make nine tenths of its sum."""


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    """Hospital 2 brings a column of ones and one 0 for each patient; 3 and 4 have
    values of the same people.
    """
    return made_hospitals(tmp_path_factory.mktemp("sites"))


def made_hospitals(folder: Path) -> Hospitals:
    made = make_hospitals(folder, (2, 3, 4))
    made.allow(row_level=["id", "x", "z"])
    ids = range(N_PATIENTS)
    markers = {f"w{i}": [int(i != row) for row in ids] for i in ids}
    made.write(
        2,
        "rows.csv",
        pd.DataFrame({"id": ids, "u": [5 + i % 4 for i in ids], **markers}),
    )
    made.write(
        3,
        "rows.csv",
        pd.DataFrame({"id": ids, "x": SECRET, "y": [i * i % 13 for i in ids]}),
    )
    made.write(4, "rows.csv", pd.DataFrame({"id": ids, "z": [20 + i % 3 for i in ids]}))
    return made


def ask(
    hospitals: Hospitals,
    expression: str,
    users: tuple[int, ...] = (2, 3),
    **fields: Any,
) -> Fraction:
    """The answer, to the first of these hospitals, which asks: their data are a, b and
    c.
    """
    data = dict.fromkeys(users, "rows.csv")
    aliases = {user: {"data_alias": "abc"[user - 2]} for user in users}
    fields = {"key": "id", "receivers": [2], "extra": aliases, **fields}
    return Fraction(
        hospitals.ask("custom", data, expression=expression, **fields).rows[0]["custom"]
    )


def code_of(
    hospitals: Hospitals, expression: str, users: tuple[int, ...] = (2, 3)
) -> str:
    with pytest.raises(ConsiliumError) as caught:
        ask(hospitals, expression, users)
    return caught.value.code


def test_no_patient_is_read_by_the_variance_of_a_marker_and_a_value(
    hospitals: Hospitals,
) -> None:
    """var(w + x) - var(w - x) is 4 cov(w, x), and with one 0 in w that is the mean less
    x of one patient.
    """
    mean = ask(hospitals, "avg(b.x)")
    found, codes = [], set()
    for patient in range(N_PATIENTS):
        w = f"a.w{patient}"
        try:
            covariance = ask(hospitals, f"(var({w} + b.x) - var({w} - b.x)) / 4")
        except ConsiliumError as error:
            codes.add(error.code)
        else:
            found.append(round(mean - covariance * (N_PATIENTS - 1)))
    assert found == []
    assert codes == {"row_expressions"}


def test_two_hospitals_sums_are_not_told_apart_by_their_digits(
    hospitals: Hospitals,
) -> None:
    """sum(x + 10^-20 z + 10^-40 u) holds each hospital's own sum, in digits of its own."""
    text = "sum(b.x + 1e-20 * c.z + 1e-40 * a.u)"
    assert code_of(hospitals, text, (2, 3, 4)) == "row_expressions"


def test_a_value_for_each_person_is_ruled_by_row_level(hospitals: Hospitals) -> None:
    """A product of two hospitals' columns, and sums against a threshold, are answered
    with `row_expressions = false`.
    """
    product = hospitals.ask(
        "custom",
        {3: "rows.csv", 4: "rows.csv"},
        key="id",
        receivers=[3, 4],
        expression="df1.x * df2.z",
    )
    expected = [x * (20 + i % 3) for i, x in enumerate(SECRET)]
    assert product.column("custom") == expected
    accredited = hospitals.ask(
        "is_investor_accredited",
        {3: "rows.csv", 4: "rows.csv"},
        key="id",
        receivers=[3],
        threshold=30,
        extra={3: {"value_column": "x"}, 4: {"value_column": "z"}},
    )
    verdicts = [row["is_investor_accredited"] for row in accredited.rows]
    sums = [x + 20 + i % 3 for i, x in enumerate(SECRET)]
    assert verdicts == [str(total >= 30).lower() for total in sums]


def test_columns_that_cancel_cover_nobody(hospitals: Hospitals) -> None:
    """All three bring keys; it counts whose columns are left in the total."""
    hospitals.allow((3,), row_level=["x"], min_providers=3, own_totals=False)
    try:
        assert ask(hospitals, "sum(a.u + b.x + c.z)", (2, 3, 4)) > 0
        text = "sum(b.x + 0 * a.u + c.z)"
        assert code_of(hospitals, text, (2, 3, 4)) == "min_providers"
        text = "sum(b.x + 0 * a.u + c.z - c.z)"
        assert code_of(hospitals, text, (2, 3, 4)) == "own_totals"
    finally:
        hospitals.allow((3,), row_level=["id", "x", "z"])


def test_a_column_that_hardly_varies_covers_nobody(hospitals: Hospitals) -> None:
    """w0 is 1 for all people but one: who knows that has the sum of hospital 3."""
    assert ask(hospitals, "sum(a.u + b.x)") > 0
    assert code_of(hospitals, "sum(a.w0 + b.x)") == "own_totals"


def test_the_totals_are_listed_before_a_share_leaves(hospitals: Hospitals) -> None:
    """In each provider's ledger, and beside the answer."""
    answered = hospitals.ask(
        "custom",
        {2: "rows.csv", 3: "rows.csv"},
        key="id",
        receivers=[2],
        expression="avg(df1.u + df2.x)",
    )
    expected = [
        "n over 16 people of 2 hospitals",
        "sum of df1.u + df2.x over 16 people of 2 hospitals",
    ]
    assert answered.summary["opened"] == expected
    assert answered.notes["opened"] == expected
    for user in (2, 3):
        (opens,) = hospitals.ledger(user, answered.order_id, "opens")
        assert (opens["totals"], opens["receivers"]) == (expected, ["2"])
        left = hospitals.ledger(user, answered.order_id, "left")
        shown = [entry["at"] for entry in left if entry["kind"] in ("share", "opened")]
        assert all(opens["at"] <= moment for moment in shown)


def test_a_pooled_order_lists_its_totals(hospitals: Hospitals) -> None:
    data = dict.fromkeys((2, 3, 4), "rows.csv")
    answered = hospitals.ask("var", data, key="id", receivers=[4])
    expected = ["n, sum and sum of squares of id over 48 people of 3 hospitals"]
    assert answered.summary["opened"] == answered.notes["opened"] == expected
    for user in data:
        (opens,) = hospitals.ledger(user, answered.order_id, "opens")
        assert opens["totals"] == expected


REFUSED = {
    "sum(a.u * b.x)": "multiplies, compares or divides",
    "var(a.u + b.x)": "multiplies, compares or divides",
    "sum(case when b.id = 7 then 1000 * b.x else b.x end)": "multiplies, compares or divides",
    "sum(b.x * b.x * b.x)": "multiplies, compares or divides",
    "sum(a.u) + 0 * count(1 / (b.id - 7))": "multiplies, compares or divides",
    "sum(a.u + 1000 * b.x)": "factors other than 1 and -1",
    "avg(1000 * b.x)": "factors other than 1 and -1",
}


@pytest.mark.parametrize("expression", REFUSED)
def test_what_weighs_rows_is_refused_before_one_is_read(
    hospitals: Hospitals, expression: str
) -> None:
    """Hospital 3 decides for its own column, whatever the others say, and answers
    nobody.
    """
    with pytest.raises(ConsiliumError) as caught:
        ask(hospitals, expression)
    assert caught.value.code == "row_expressions"
    assert REFUSED[expression] in caught.value.sentence
    assert "row_expressions" in caught.value.remedy
    assert hospitals.ledger(3, hospitals.last, "answered") == []


def test_a_hospital_that_is_only_added_decides_for_itself(hospitals: Hospitals) -> None:
    """Hospitals 2 and 3 let their rows be weighed; the third's sum would stand in
    digits of its own.
    """
    hospitals.allow((2, 3), row_level=["id", "x", "z"], row_expressions=True)
    weighed = "sum(1e-20 * a.u * b.x)"
    try:
        assert (
            code_of(hospitals, weighed.replace(")", " + c.z)"), (2, 3, 4))
            == "row_expressions"
        )
        expected = sum(
            u * x
            for u, x in zip((5 + i % 4 for i in range(N_PATIENTS)), SECRET, strict=True)
        )
        assert ask(hospitals, weighed) == Fraction(expected, 10**20)
    finally:
        hospitals.allow((2, 3), row_level=["id", "x", "z"])


def test_the_circuit_that_is_computed_is_asked_too(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was said before types were announced: before a key is matched, the rule
    is asked again.
    """
    monkeypatch.setattr(party, "sketched_plan", lambda request: None)
    assert code_of(hospitals, "var(a.u + b.x)") == "row_expressions"
    assert not any(hospitals.ledger(user, hospitals.last, "matched") for user in (2, 3))


@pytest.mark.parametrize("n_missing", quick([3, 0], 1))
def test_columns_that_may_miss_values_are_added_up(
    hospitals: Hospitals, n_missing: int
) -> None:
    """A question has one set of rows: those that miss nothing that it names, at any
    hospital.
    """
    n_rows, name = 20, f"holes{n_missing}.csv"
    whole = pd.DataFrame(
        {"id": range(n_rows), "u": range(n_rows), "x": [i % 5 for i in range(n_rows)]}
    )
    holes = whole.assign(x=[None] * n_missing + whole.x.tolist()[n_missing:])
    hospitals.write(2, name, whole)
    hospitals.write(3, name, holes)
    aliases = {2: {"data_alias": "a"}, 3: {"data_alias": "b"}}
    text = "sum(a.u + b.x) + count(a.u) / count(*) + var(a.u)"
    answer = hospitals.ask(
        "custom", dict.fromkeys((2, 3), name), key="id", expression=text, extra=aliases
    )
    kept = whole[n_missing:]
    assert answer.number == pytest.approx(
        kept.u.sum() + kept.x.sum() + 1 + kept.u.var(), rel=1e-12
    )
    people = f"over {n_rows - n_missing} people"
    assert all(people in total for total in answer.summary["opened"])


def test_two_people_that_dominate_a_sum_in_which_values_are_missing(
    hospitals: Hospitals,
) -> None:
    """A column with a hole is no way around max_share."""
    people = pd.DataFrame({"id": range(20), "x": [4000, -5000, *[35] * 17, None]})
    hospitals.write(2, "holes.csv", people.assign(x=range(20)))
    hospitals.write(3, "holes.csv", people)
    data = dict.fromkeys((2, 3), "holes.csv")
    assert (
        hospitals.refused(
            "custom", data, key="id", expression="sum(df1.x + df2.x)"
        ).code
        == "max_share"
    )


def test_the_document_s_questions_need_columns_for_single_rows_only(
    tmp_path: Path,
) -> None:
    """A value for each person is ruled by row_level: with it, both are answered where
    row_expressions is false. At hospitals that have compared nothing before.
    """
    hospitals = made_hospitals(tmp_path)
    ids = range(N_PATIENTS)
    product = hospitals.ask(
        "custom",
        dict.fromkeys((3, 4), "rows.csv"),
        key="id",
        expression="df1.x * df2.z",
        receivers=[3, 4],
    )
    assert product.column("custom") == [
        x * (20 + i % 3) for i, x in zip(ids, SECRET, strict=True)
    ]
    columns = {3: {"value_column": "x"}, 4: {"value_column": "z"}}
    reached = hospitals.ask(
        "is_investor_accredited",
        dict.fromkeys((3, 4), "rows.csv"),
        key="id",
        threshold=30,
        extra=columns,
    )
    expected = [
        "true" if x + 20 + i % 3 >= 30 else "false"
        for i, x in zip(ids, SECRET, strict=True)
    ]
    assert [row["is_investor_accredited"] for row in reached.rows] == expected
    assert set(expected) == {"true", "false"}


@pytest.mark.thorough
def test_another_column_of_one_hospital_beside_the_same_of_the_others(
    tmp_path: Path,
) -> None:
    """The difference of the two answers would be of that hospital's columns alone."""
    hospitals = make_hospitals(tmp_path, (2, 3, 4))
    hospitals.allow(min_providers=3, own_totals=False, regroup=False)
    people = pd.Series(range(40))
    table = pd.DataFrame({"id_col": people, "x": people % 7, "y": people % 5})
    data = {}
    for user in (2, 3, 4):
        hospitals.write(user, f"of-{user}.csv", table)
        data[user] = f"of-{user}.csv"
    first = hospitals.ask(
        "custom", data, key="id_col", expression="sum(df1.x + df2.x + df3.x)"
    )
    assert first.number == 3 * table.x.sum()
    again = hospitals.ask(
        "custom", data, key="id_col", expression="sum(df3.x + df1.x + df2.x)"
    )
    assert again.number == first.number
    refused = hospitals.refused(
        "custom", data, key="id_col", expression="sum(df1.x + df2.y + df3.x)"
    )
    assert refused.code == "earlier_hospitals"
    assert refused.detail["hospitals"] == [3]
    # Hospital 3, whose other column it is, has not allowed it of the first one.
    hospitals.allow(min_providers=3, own_totals=False, regroup=True)
    still = hospitals.refused(
        "custom", data, key="id_col", expression="sum(df1.x + df2.y + df3.x)"
    )
    assert still.code == "earlier_hospitals"
    hospitals.forget()
    hospitals.allow(min_providers=3, own_totals=False, regroup=False)
    hospitals.allow([3], min_providers=3, own_totals=False, regroup=True)
    hospitals.ask("custom", data, key="id_col", expression="sum(df1.x + df2.x + df3.x)")
    answered = hospitals.ask(
        "custom", data, key="id_col", expression="sum(df1.x + df2.y + df3.x)"
    )
    assert answered.number == 2 * table.x.sum() + table.y.sum()
