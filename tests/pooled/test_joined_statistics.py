"""Statistics over the rows of the same person at several hospitals: what exact
arithmetic gives on the joined table.
"""

from __future__ import annotations

import shutil
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.made_statistics import Hospitals, make_hospitals
from tests.pairwise import quick

ROW_LEVEL = ["id", "id_col", "patient", "unit_price", "units", "assets", "x"]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    made = make_hospitals(tmp_path_factory.mktemp("sites"), (2, 3, 4, 5))
    made.allow(row_level=ROW_LEVEL, row_expressions=True)
    return made


@pytest.fixture(autouse=True)
def without_a_past(hospitals: Hospitals) -> None:
    hospitals.forget()


def shuffled(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    return frame.sample(frac=1, random_state=seed)


# --- the document's request -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sold(hospitals: Hospitals) -> pd.DataFrame:
    """Prices at hospital 2, units at hospital 3; half of the keys are common, one price
    and one unit are missing.
    """
    prices = pd.DataFrame(
        {"id_col": range(40), "unit_price": [f"{i * 7 % 11}.{i:02}" for i in range(40)]}
    )
    units = pd.DataFrame(
        {"id_col": range(20, 60), "units": [3 * i - 100 for i in range(40)]}
    ).astype({"units": "Int64"})
    prices.loc[25, "unit_price"], units.loc[10, "units"] = None, pd.NA
    hospitals.write(2, "prices.csv", shuffled(prices))
    hospitals.write(3, "units.csv", shuffled(units, 1))
    return prices.merge(units, on="id_col")


def test_the_document_s_request(hospitals: Hospitals, sold: pd.DataFrame) -> None:
    """Price times units for each common key; both receive the same file, and 5, which
    only receives, too.
    """
    answer = hospitals.ask(
        "custom",
        {2: "prices.csv", 3: "units.csv"},
        key="id_col",
        expression="df1.unit_price * df2.units",
        result_alias="total_value",
        receivers=[2, 3, 5],
        extra={2: {"data_alias": "df1"}, 3: {"data_alias": "df2"}},
    )
    assert [row["id_col"] for row in answer.rows] == [str(i) for i in range(20, 40)]
    expected = [
        None if pd.isna(p) or pd.isna(u) else Decimal(p) * int(u)
        for p, u in zip(sold.unit_price, sold.units, strict=True)
    ]
    assert [
        Decimal(row["total_value"]) if row["total_value"] else None
        for row in answer.rows
    ] == expected
    assert expected.count(None) == 2
    assert answer.summary["notes"][0].startswith("2 joined rows have no value")
    assert answer.summary["rows_used"] == {"2": 20, "3": 20}


def test_complete_cases_are_left_out_before_they_are_matched(
    hospitals: Hospitals,
) -> None:
    """Whoever lacks a value is a person whom this provider does not have."""
    for user, name, column in ((2, "p.csv", "price"), (3, "u.csv", "units")):
        values = [float(i) for i in range(30)]
        gap = [None if i < user else 1 for i in range(30)]
        frame = pd.DataFrame({"id_col": range(30), column: values, "seen": gap})
        hospitals.write(user, name, frame)
    answer = hospitals.ask(
        "custom",
        {2: "p.csv", 3: "u.csv"},
        key="id_col",
        expression="sum(df1.price + df2.units)",
        complete_on=["seen"],
    )
    assert answer.number == 2 * sum(range(3, 30))
    assert all("over 27 people" in total for total in answer.summary["opened"])
    # Two and three rows are few.
    assert answer.summary["rows_used"] == answer.summary["rows_null"] == {}


def test_unmatched_keys_are_counted_at_home_only(
    hospitals: Hospitals, sold: pd.DataFrame
) -> None:
    """Of an aggregate, keys without a value do not count among those to match."""
    hospitals.write(
        2,
        "some.csv",
        pd.DataFrame({"id_col": range(40), "unit_price": [*range(39), None]}),
    )
    hospitals.write(
        3, "few.csv", pd.DataFrame({"id_col": range(20, 45), "units": range(25)})
    )
    answer = hospitals.ask(
        "custom",
        {2: "some.csv", 3: "few.csv"},
        key="id_col",
        expression="sum(df1.unit_price * df2.units)",
    )
    for user, n_unmatched in ((2, 20), (3, 6)):
        (entry,) = hospitals.ledger(user, answer.order_id, "matched")
        assert (entry["n_common"], entry["n_unmatched"]) == (19, n_unmatched)
    assert answer.summary["rows_null"] == {}
    assert "unmatched" not in str(answer.summary) + str(answer.notes)


AGGREGATES: dict[str, Any] = {
    "sum(df1.unit_price * df2.units)": lambda p, u: sum(
        a * b for a, b in zip(p, u, strict=True)
    ),
    "avg(df1.unit_price - df2.units / 4)": lambda p, u: (
        sum(a - b / 4 for a, b in zip(p, u, strict=True)) / len(p)
    ),
    "var(df1.unit_price + df2.units)": lambda p, u: Fraction(
        np.var([float(a + b) for a, b in zip(p, u, strict=True)], ddof=1)
    ),
    "count(df2.units) / count(df1.unit_price)": lambda p, u: Fraction(1),
    "sum(case when df2.units > 0 then df1.unit_price else 0 end)": lambda p, u: sum(
        a for a, b in zip(p, u, strict=True) if b > 0
    ),
}


@pytest.mark.parametrize("expression", quick(AGGREGATES, 3))
def test_aggregates(hospitals: Hospitals, sold: pd.DataFrame, expression: str) -> None:
    """Rows without a value count in none of them; nobody's columns need be open row by
    row.
    """
    hospitals.allow(row_expressions=True)
    answer = hospitals.ask(
        "custom", {2: "prices.csv", 3: "units.csv"}, key="id_col", expression=expression
    )
    hospitals.allow(row_level=ROW_LEVEL, row_expressions=True)
    whole = sold.dropna()
    prices, units = (
        [Fraction(p) for p in whole.unit_price],
        [Fraction(int(u)) for u in whole.units],
    )
    assert answer.text.startswith("custom\n")
    assert answer.number == pytest.approx(
        float(AGGREGATES[expression](prices, units)),
        rel=1e-15 if "var" not in expression else 1e-12,
    )


def test_division_by_zero_is_null_and_counted(hospitals: Hospitals) -> None:
    frame = pd.DataFrame(
        {"id": range(12), "x": [*range(11), None], "y": [0, 0, *range(2, 12)]}
    )
    for user in (2, 3):
        hospitals.write(user, "ratio.parquet", frame)
    hospitals.allow(row_level=["id", "x", "y"])
    answer = hospitals.ask(
        "custom",
        dict.fromkeys((2, 3), "ratio.parquet"),
        key="id",
        expression="df1.x / df1.y + df2.x",
    )
    hospitals.allow(row_level=ROW_LEVEL, row_expressions=True)
    assert [row["custom"] for row in answer.rows] == [
        "",
        "",
        *(str(i + 1) for i in range(2, 11)),
        "",
    ]
    assert [note[0] for note in answer.summary["notes"][:2]] == ["3", "2"]


# --- keys -----------------------------------------------------------------------------------------------------------

KEYS = {
    "text": (
        [f" P{i}é " for i in range(12)] + ["007"],
        [f"P{i}e\u0301" for i in range(12)] + ["7"],
        12,
    ),
    "casefold": (
        [f"Straße {i}" for i in range(12)] + ["x"],
        [f"STRASSE {i} " for i in range(12)] + ["X"],
        13,
    ),
    "integer": (
        [f"{i:06}" for i in range(12)] + ["+12"],
        [str(i) for i in range(12)] + ["0012"],
        13,
    ),
}


@pytest.mark.parametrize("normalisation", quick(KEYS, 1))
def test_keys_that_are_written_differently(
    hospitals: Hospitals, normalisation: str
) -> None:
    left, right, n_common = KEYS[normalisation]
    hospitals.write(
        2, f"{normalisation}.csv", pd.DataFrame({"patient": left, "x": range(13)})
    )
    hospitals.write(
        3,
        f"{normalisation}.parquet",
        pd.DataFrame({"id": right, "x": np.arange(13) * 100}),
    )
    answer = hospitals.ask(
        "custom",
        {2: f"{normalisation}.csv", 3: f"{normalisation}.parquet"},
        key={2: "patient", 3: "id"},
        key_normalisation=normalisation,
        expression="df1.x + df2.x",
    )
    found = answer.by("patient", value="custom")
    assert sorted(map(int, found.values())) == [101 * i for i in range(n_common)]
    if normalisation == "integer":
        assert list(found) == [(str(i),) for i in range(13)]


def test_numbers_as_keys_are_the_same_in_every_type(hospitals: Hospitals) -> None:
    """5 in a csv, 5.0 in a parquet, 5 in a table: one person; without a key no person."""
    keys = [float(i) for i in range(11)]
    hospitals.write(
        2,
        "typed.csv",
        pd.DataFrame({"id": [*range(11), None], "x": range(12)}).astype(
            {"id": "Int64"}
        ),
    )
    hospitals.write(
        3, "typed.parquet", pd.DataFrame({"id": [*keys, None], "x": range(12)})
    )
    hospitals.write(4, "data.pooled", pd.DataFrame({"id": range(11), "x": range(11)}))
    answer = hospitals.ask(
        "custom",
        {2: "typed.csv", 3: "typed.parquet", 4: "data.pooled"},
        key="id",
        expression="df1.x + df2.x + df3.x",
        receivers=[3],
        initiator=2,
    )
    assert answer.by("id", value="custom") == {(str(i),): str(3 * i) for i in range(11)}
    assert answer.summary["rows_null"] == {}


@pytest.mark.parametrize(
    ("n_common", "code"),
    quick([(0, "min_rows"), (9, "min_rows"), (10, ""), (11, "")], 2),
)
def test_fewer_common_keys_than_min_rows(
    hospitals: Hospitals, n_common: int, code: str
) -> None:
    hospitals.write(
        2, f"common{n_common}.csv", pd.DataFrame({"id": range(30), "x": range(30)})
    )
    hospitals.write(
        3,
        f"common{n_common}.csv",
        pd.DataFrame({"id": range(30 - n_common, 60), "x": range(30 + n_common)}),
    )
    order: dict[str, Any] = {"key": "id", "expression": "sum(df1.x * df2.x)"}
    data = dict.fromkeys((2, 3), f"common{n_common}.csv")
    if not code:
        answer = hospitals.ask("custom", data, **order)
        assert answer.number == sum((30 - n_common + i) * i for i in range(n_common))
        return
    error = hospitals.refused("custom", data, **order)
    assert (error.code, error.detail["threshold"]) == (code, 10)
    assert str(n_common) not in error.sentence.replace("10", "")


@pytest.mark.parametrize(
    ("n_repeated", "told"), [(3, "Fewer than 10 keys"), (11, "11 keys")]
)
def test_repeated_keys(hospitals: Hospitals, n_repeated: int, told: str) -> None:
    repeated = pd.DataFrame(
        {"id": [*range(30), *range(n_repeated)], "x": range(30 + n_repeated)}
    )
    hospitals.write(2, "once.csv", pd.DataFrame({"id": range(30), "x": range(30)}))
    hospitals.write(3, f"twice{n_repeated}.csv", repeated)
    error = hospitals.refused(
        "custom",
        {2: "once.csv", 3: f"twice{n_repeated}.csv"},
        key="id",
        expression="df1.x * df2.x",
    )
    assert error.code == "repeated_keys"
    assert error.sentence.startswith(told)


# --- row by row only where the policy says so -----------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["id_col", "units"])
def test_a_column_that_is_not_open_row_by_row(
    hospitals: Hospitals, sold: pd.DataFrame, closed: str
) -> None:
    hospitals.allow((3,), row_level=[name for name in ROW_LEVEL if name != closed])
    order: dict[str, Any] = {
        "key": "id_col",
        "expression": "df1.unit_price * df2.units",
    }
    error = hospitals.refused("custom", {2: "prices.csv", 3: "units.csv"}, **order)
    hospitals.allow(row_level=ROW_LEVEL, row_expressions=True)
    assert (error.code, error.detail["columns"]) == ("row_level", [closed])


# --- is_investor_accredited -----------------------------------------------------------------------------------------


def write_assets(hospitals: Hospitals, name: str, sums: list[int]) -> None:
    """Each person's assets in three parts, of which no two tell whether the sum reaches
    the threshold.
    """
    rng = np.random.default_rng(5)
    first, second = (
        rng.integers(-(10**6), 10**6, len(sums)),
        rng.integers(-(10**6), 10**6, len(sums)),
    )
    parts = {2: first, 3: second, 4: np.array(sums) - first - second}
    for user, part in parts.items():
        frame = pd.DataFrame({"id": range(len(sums)), "assets": part, "name": "person"})
        hospitals.write(user, name, shuffled(frame, user))


SUMS = [3_000_000 + d for d in (-1, 0, 1)] * 4
EXPECTED = {
    ">=": "false true true",
    ">": "false false true",
    "<=": "true true false",
    "<": "true false false",
}


@pytest.mark.parametrize("comparison", quick(EXPECTED, 2))
def test_thresholds_just_below_at_and_above(
    hospitals: Hospitals, comparison: str
) -> None:
    """The value column is the only one of numbers beside the key; the threshold is
    3,000,000 where none is named.
    """
    name = f"assets{list(EXPECTED).index(comparison)}.csv"
    write_assets(hospitals, name, SUMS)
    fields = (
        {} if comparison == ">=" else {"comparison": comparison, "threshold": 3_000_000}
    )
    answer = hospitals.ask(
        "is_investor_accredited",
        dict.fromkeys((2, 3, 4), name),
        key="id",
        receivers=[2, 4],
        **fields,
    )
    assert [row["id"] for row in answer.rows] == [str(i) for i in range(12)]
    assert [row["is_investor_accredited"] for row in answer.rows] == EXPECTED[
        comparison
    ].split() * 4


def test_one_threshold_for_the_same_people(hospitals: Hospitals) -> None:
    """Again with the same one is fine; another is refused, however it is asked for;
    others' sums are not.
    """
    write_assets(hospitals, "once.parquet", SUMS)
    data = dict.fromkeys((2, 3, 4), "once.parquet")
    order: dict[str, Any] = {
        "key": "id",
        "extra": {user: {"value_column": "assets"} for user in data},
    }
    first = hospitals.ask("is_investor_accredited", data, threshold="3000000", **order)
    again = hospitals.ask("is_investor_accredited", data, threshold=3e6, **order)
    assert first.text == again.text
    assert (first.summary["repeats"], again.summary["repeats"]) == (
        None,
        first.order_id,
    )
    error = hospitals.refused(
        "is_investor_accredited", data, threshold=3_000_001, **order
    )
    assert error.code == "threshold"
    assert (
        hospitals.refused("is_investor_accredited", data, comparison=">", **order).code
        == "threshold"
    )
    sums = "df1.assets + df2.assets + df3.assets > 2000000"
    assert (
        hospitals.refused("custom", data, expression=sums, key="id").code == "threshold"
    )


def test_a_column_that_moves_between_equal_questions_learns_nothing(
    hospitals: Hospitals,
) -> None:
    """Hospital 2 halves what is unknown of each of 3's values by an own column that
    moves, and the question stays the same: twenty would read twenty bits of each.
    """
    secret = np.random.default_rng(3).integers(0, 1024, 12)
    rows = pd.DataFrame({"id": range(12), "x": secret})
    hospitals.write(3, "moved.csv", rows)
    low, high = np.zeros(12, dtype=int), np.full(12, 1024)
    first = 0
    for number in range(4):
        middle = (low + high) // 2
        own = rows.assign(x=5000 - middle)
        hospitals.write(2, "moved.csv", own)
        answer = hospitals.ask(
            "is_investor_accredited",
            dict.fromkeys((2, 3), "moved.csv"),
            key="id",
            threshold=5000,
        )
        first = first or answer.order_id
        assert answer.summary["repeats"] == (first if number else None)
        is_above = np.array(
            [row["is_investor_accredited"] == "true" for row in answer.rows]
        )
        low, high = np.where(is_above, middle, low), np.where(is_above, high, middle)
    # One bit of each was read.
    reached = ((low <= secret) & (secret < high)).sum()
    assert reached < 12
    assert "compared before" in answer.summary["notes"][-1]


def test_who_has_no_result_of_the_earlier_comparison_gets_none(
    hospitals: Hospitals,
) -> None:
    """Others than who received it, and who has deleted it."""
    write_assets(hospitals, "held.csv", SUMS)
    data = dict.fromkeys((2, 3, 4), "held.csv")
    order: dict[str, Any] = {"key": "id", "receivers": [5]}
    first = hospitals.ask("is_investor_accredited", data, **order)
    others = {**order, "receivers": [2, 5]}
    error = hospitals.refused("is_investor_accredited", data, **others)
    assert error.code == "threshold"
    shutil.rmtree(hospitals.sites[5].results_folder / str(first.order_id))
    error = hospitals.refused("is_investor_accredited", data, **order)
    assert error.code == "threshold"
    assert f"order {first.order_id}" in error.sentence


def test_which_column_is_meant_must_be_clear(hospitals: Hospitals) -> None:
    write_assets(hospitals, "two.csv", SUMS)
    hospitals.write(
        3,
        "two.csv",
        pd.DataFrame({"id": range(12), "assets": range(12), "x": range(12)}),
    )
    error = hospitals.refused(
        "is_investor_accredited", dict.fromkeys((2, 3, 4), "two.csv"), key="id"
    )
    assert error.code == "value_column"


def test_thresholds_of_decimals_over_two_hospitals(hospitals: Hospitals) -> None:
    """0.1 + 0.2 reaches 0.3: decimals are the decimals that are written."""
    for user, value in ((2, "0.1"), (3, "0.2")):
        hospitals.write(
            user, "tenths.csv", pd.DataFrame({"id": range(12), "x": [value] * 12})
        )
    answer = hospitals.ask(
        "is_investor_accredited",
        dict.fromkeys((2, 3), "tenths.csv"),
        key="id",
        threshold=0.3,
    )
    assert [row["is_investor_accredited"] for row in answer.rows] == ["true"] * 12
