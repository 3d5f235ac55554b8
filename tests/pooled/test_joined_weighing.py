"""Aggregates over joined rows with `row_expressions = false`: what would read patients, and what is answered."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pandas as pd
import pytest

from agents.statistics import party
from protocol.errors import ConsiliumError
from tests.made_statistics import Hospitals, make_hospitals, no_waiting_for_disks

N_PATIENTS = 16
SECRET = [3 + 7 * i % 11 for i in range(N_PATIENTS)]
"""x of hospital 3, no two of which make nine tenths of its sum."""


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    """Hospital 2 brings a column of ones and one 0 for each patient; 3 and 4 have values of the same people."""
    made = make_hospitals(tmp_path_factory.mktemp("sites"), (2, 3, 4))
    made.allow(row_level=["id", "x", "z"])
    ids = range(N_PATIENTS)
    markers = {f"w{i}": [int(i != row) for row in ids] for i in ids}
    made.write(2, "rows.csv", pd.DataFrame({"id": ids, "u": [5 + i % 4 for i in ids], **markers}))
    made.write(3, "rows.csv", pd.DataFrame({"id": ids, "x": SECRET, "y": [i * i % 13 for i in ids]}))
    made.write(4, "rows.csv", pd.DataFrame({"id": ids, "z": [20 + i % 3 for i in ids]}))
    with no_waiting_for_disks():
        yield made


def ask(hospitals: Hospitals, expression: str, users: tuple[int, ...] = (2, 3), **fields: Any) -> Fraction:
    """The answer, to the first of these hospitals, which asks: their data are a, b and c."""
    data = dict.fromkeys(users, "rows.csv")
    aliases = {user: {"data_alias": "abc"[user - 2]} for user in users}
    fields = {"key": "id", "receivers": [2], "extra": aliases, **fields}
    return Fraction(hospitals.ask("custom", data, expression=expression, **fields).rows[0]["custom"])


def code_of(hospitals: Hospitals, expression: str, users: tuple[int, ...] = (2, 3)) -> str:
    with pytest.raises(ConsiliumError) as caught:
        ask(hospitals, expression, users)
    return caught.value.code


def test_no_patient_is_read_by_the_variance_of_a_marker_and_a_value(hospitals: Hospitals) -> None:
    """var(w + x) - var(w - x) is 4 cov(w, x), and with one 0 in w that is the mean less x of one patient."""
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


def test_two_hospitals_sums_are_not_told_apart_by_their_digits(hospitals: Hospitals) -> None:
    """sum(x + 10^-20 z + 10^-40 u) holds each hospital's own sum, in digits of its own."""
    text = "sum(b.x + 1e-20 * c.z + 1e-40 * a.u)"
    assert code_of(hospitals, text, (2, 3, 4)) == "row_expressions"


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
def test_what_weighs_rows_is_refused_before_one_is_read(hospitals: Hospitals, expression: str) -> None:
    """Hospital 3 decides for its own column, whatever the others say, and answers nobody."""
    with pytest.raises(ConsiliumError) as caught:
        ask(hospitals, expression)
    assert caught.value.code == "row_expressions"
    assert REFUSED[expression] in caught.value.sentence
    assert "row_expressions" in caught.value.remedy
    assert hospitals.ledger(3, hospitals.last, "answered") == []


def test_a_hospital_that_is_only_added_decides_for_itself(hospitals: Hospitals) -> None:
    """Hospitals 2 and 3 let their rows be weighed; the third's sum would stand in digits of its own."""
    hospitals.allow((2, 3), row_level=["id", "x", "z"], row_expressions=True)
    weighed = "sum(1e-20 * a.u * b.x)"
    try:
        assert code_of(hospitals, weighed.replace(")", " + c.z)"), (2, 3, 4)) == "row_expressions"
        expected = sum(u * x for u, x in zip((5 + i % 4 for i in range(N_PATIENTS)), SECRET, strict=True))
        assert ask(hospitals, weighed) == Fraction(expected, 10**20)
    finally:
        hospitals.allow((2, 3), row_level=["id", "x", "z"])


def test_the_circuit_that_is_computed_is_asked_too(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was said before types were announced: before a key is matched, the rule is asked again."""
    monkeypatch.setattr(party, "sketched_plan", lambda request: None)
    assert code_of(hospitals, "var(a.u + b.x)") == "row_expressions"
    assert not any(hospitals.ledger(user, hospitals.last, "matched") for user in (2, 3))


@pytest.mark.parametrize("n_missing", [0, 3])
def test_columns_that_may_miss_values_are_added_up(hospitals: Hospitals, n_missing: int) -> None:
    """A question has one set of rows: those that miss nothing that it names, at any hospital."""
    n_rows, name = 20, f"holes{n_missing}.csv"
    whole = pd.DataFrame({"id": range(n_rows), "u": range(n_rows), "x": [i % 5 for i in range(n_rows)]})
    holes = whole.assign(x=[None] * n_missing + whole.x.tolist()[n_missing:])
    hospitals.write(2, name, whole)
    hospitals.write(3, name, holes)
    aliases = {2: {"data_alias": "a"}, 3: {"data_alias": "b"}}
    text = "sum(a.u + b.x) + count(a.u) / count(*) + var(a.u)"
    answer = hospitals.ask("custom", dict.fromkeys((2, 3), name), key="id", expression=text, extra=aliases)
    kept = whole[n_missing:]
    assert answer.number == pytest.approx(kept.u.sum() + kept.x.sum() + 1 + kept.u.var(), rel=1e-12)
    assert answer.summary["rows_used"] == {"2": n_rows - n_missing, "3": n_rows - n_missing}


def test_two_people_that_dominate_a_sum_in_which_values_are_missing(hospitals: Hospitals) -> None:
    """A column with a hole is no way around max_share."""
    people = pd.DataFrame({"id": range(20), "x": [4000, -5000, *[35] * 17, None]})
    hospitals.write(2, "holes.csv", people.assign(x=range(20)))
    hospitals.write(3, "holes.csv", people)
    data = dict.fromkeys((2, 3), "holes.csv")
    assert hospitals.refused("custom", data, key="id", expression="sum(df1.x + df2.x)").code == "max_share"


def test_the_document_s_questions_need_columns_for_single_rows_only(hospitals: Hospitals) -> None:
    """A value for each person is ruled by row_level: with it, both are answered where row_expressions is false."""
    ids = range(N_PATIENTS)
    product = hospitals.ask(
        "custom", dict.fromkeys((3, 4), "rows.csv"), key="id", expression="df1.x * df2.z", receivers=[3, 4]
    )
    assert product.column("custom") == [x * (20 + i % 3) for i, x in zip(ids, SECRET, strict=True)]
    columns = {3: {"value_column": "x"}, 4: {"value_column": "z"}}
    reached = hospitals.ask(
        "is_investor_accredited", dict.fromkeys((3, 4), "rows.csv"), key="id", threshold=30, extra=columns
    )
    expected = ["true" if x + 20 + i % 3 >= 30 else "false" for i, x in zip(ids, SECRET, strict=True)]
    assert [row["is_investor_accredited"] for row in reached.rows] == expected
    assert set(expected) == {"true", "false"}
