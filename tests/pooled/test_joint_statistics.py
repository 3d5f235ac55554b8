"""Joint equals pooled: every statistic over 1, 2, 3 and 5 hospitals is that of one
table, rounded once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from protocol.errors import BadRequest
from tests.made_statistics import (
    Answered,
    Hospitals,
    make_hospitals,
)
from tests.pairwise import pairwise, quick

PATHS = {
    2: "visits.csv",
    3: "visits.parquet",
    4: "visits.json",
    5: "data.pooled",
    6: "SELECT x, z, g, h FROM data.pooled",
}
QUANTILES = [0, 0.07, 0.25, 0.3, 0.5, 0.95, 1]
BINS = [-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0]
Expect = Callable[[pd.DataFrame], Any]


# --- exact arithmetic on one table ----------------------------------------------------------------------------------


def exact(table: pd.DataFrame, column: str = "x") -> list[Fraction]:
    """A column as numbers of type: what is written in csv and json files is a decimal."""
    return list(table.loc[table[column].notna(), f"exact {column}"])


def variance(x: list[Fraction], ddof: int = 1) -> Fraction:
    mean = sum(x) / len(x)
    return sum((v - mean) ** 2 for v in x) / (len(x) - ddof)


def root(value: Fraction) -> float:
    with localcontext(prec=80):
        return float((Decimal(value.numerator) / Decimal(value.denominator)).sqrt())


def covariance(table: pd.DataFrame) -> Fraction:
    both = table.dropna(subset=["x", "z"])
    x, z = exact(both, "x"), exact(both, "z")
    mean_x, mean_z = sum(x) / len(x), sum(z) / len(x)
    return sum((a - mean_x) * (b - mean_z) for a, b in zip(x, z, strict=True)) / (
        len(x) - 1
    )


def correlation(table: pd.DataFrame) -> float:
    both = table.dropna(subset=["x", "z"])
    size = root(
        covariance(both) ** 2 / variance(exact(both)) / variance(exact(both, "z"))
    )
    return size if covariance(both) > 0 else -size


EXPECTED: dict[str, Expect] = {
    "sum": lambda t: float(sum(exact(t))),
    "avg": lambda t: float(sum(exact(t)) / t.x.count()),
    "var": lambda t: float(variance(exact(t))),
    "std": lambda t: root(variance(exact(t))),
    "count": lambda t: t.x.count(),
    "min": lambda t: t.x.min(),
    "max": lambda t: t.x.max(),
    "median": lambda t: np.quantile(t.x.dropna(), 0.5),
    "cov": lambda t: float(covariance(t)),
    "corr": correlation,
}
"""Of methods that answer with one number."""


def joined_counts(table: pd.DataFrame, *columns: str) -> dict[tuple[str, ...], str]:
    return {
        tuple("" if pd.isna(part) else str(part) for part in label): str(len(group))
        for label, group in table.groupby(list(columns), dropna=False)
    }


# --- the hospitals --------------------------------------------------------------------------------------------------


def make_visits() -> dict[int, pd.DataFrame]:
    """One hospital is tiny and has group a only; one lacks group c; x and z lack
    values, h a label.
    """
    rng = np.random.default_rng(7)
    frames = {}
    for user, (n, groups) in {
        2: (70, "abc"),
        3: (12, "a"),
        4: (80, "ab"),
        5: (90, "abc"),
        6: (60, "abc"),
    }.items():
        x, z = rng.normal(size=n), np.round(rng.normal(5, 3, n), 2)
        g = np.array([groups[i % len(groups)] for i in range(n)])
        h = (
            np.where(np.arange(n) % 2 == 0, "young", None)
            if n > 12
            else np.array(["young"] * n)
        )
        x[20::23], z[21::19] = np.nan, np.nan
        frames[user] = pd.DataFrame({"x": x, "z": z, "g": g, "h": h})
    return frames


VISITS = make_visits()


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    """Policies that tell extremes and exact quantiles, of one provider too, and of sums
    that few rows dominate.
    """
    return made_hospitals(tmp_path_factory.mktemp("sites"))


@pytest.fixture(autouse=True)
def without_a_past(hospitals: Hospitals) -> None:
    hospitals.forget()


def made_hospitals(folder: Path) -> Hospitals:
    made = make_hospitals(folder, (2, 3, 4, 5, 6, 7))
    made.allow(extremes=True, exact_quantiles=True, max_share=1, min_rows=10)
    for user, frame in VISITS.items():
        made.write(user, PATHS[user] if user < 5 else "data.pooled", frame)
    return made


def pooled(users: tuple[int, ...]) -> pd.DataFrame:
    return pd.concat(
        [with_exact(VISITS[user], is_text=user in (2, 4)) for user in users],
        ignore_index=True,
    )


def with_exact(frame: pd.DataFrame, *, is_text: bool) -> pd.DataFrame:
    def number(value: float) -> Fraction | None:
        return None if np.isnan(value) else Fraction(repr(value) if is_text else value)

    return frame.assign(
        **{
            f"exact {name}": frame[name].map(number)
            for name in frame.columns.intersection(["x", "z"])
        }
    )


def ask(
    hospitals: Hospitals, method: str, users: tuple[int, ...], **fields: Any
) -> Answered:
    if method in ("cov", "corr"):
        fields = {"columns": ["x", "z"], **fields}
    return hospitals.ask(method, {user: PATHS[user] for user in users}, **fields)


# --- every method, every number of hospitals -------------------------------------------------------------------------


@pytest.mark.parametrize("method", EXPECTED)
def test_a_number_over_five_hospitals(hospitals: Hospitals, method: str) -> None:
    """Hospital 7 has no data and asks; of the providers one receives too."""
    answer = ask(hospitals, method, (2, 3, 4, 5, 6), receivers=[3, 7], initiator=7)
    assert answer.number == EXPECTED[method](pooled((2, 3, 4, 5, 6)))
    assert answer.text.startswith(f"{method}\n")
    # Few values are missing at each, and how many nobody tells.
    assert answer.summary["rows_used"] == answer.summary["rows_null"] == {}


@pairwise(n_quick=3, users=[(2, 3, 6), (3, 5), (4,)], method=["max", "corr", "std"])
def test_a_number_over_fewer(
    hospitals: Hospitals, method: str, users: tuple[int, ...]
) -> None:
    assert ask(hospitals, method, users, receivers=users[:1]).number == EXPECTED[
        method
    ](pooled(users))


@pytest.mark.parametrize("method", quick(list(reversed(EXPECTED)), 1))
def test_complete_cases_are_the_same_rows_for_every_method(
    hospitals: Hospitals, method: str
) -> None:
    users = (2, 3, 4, 5, 6)
    answer = ask(hospitals, method, users, complete_on=["h", "x", "z"])
    complete = pooled(users).dropna(subset=["h", "x", "z"])
    assert answer.number == EXPECTED[method](complete)
    n_left_out = {}
    for user in (2, 4, 5, 6):
        frame = VISITS[user]
        n_left_out[str(user)] = len(frame) - len(frame.dropna(subset=["h", "x", "z"]))
    assert min(n_left_out.values()) >= 10
    assert answer.summary["rows_null"] == {**n_left_out, "3": 0}


def test_complete_cases_of_counts_and_groups(tmp_path: Path) -> None:
    """At hospitals of its own: beside the counts of all rows these would be refused."""
    hospitals = made_hospitals(tmp_path)
    users = (2, 5, 6)
    complete = pooled(users).dropna(subset=["z"])
    counts = ask(hospitals, "frequency", users, key="h", complete_on=["z"])
    assert counts.by("h", value="frequency") == joined_counts(complete, "h")
    means = ask(hospitals, "avg", users, group_by=["g"], complete_on=["z"])
    for group in "abc":
        x = exact(complete[complete.g == group])
        assert float(means.by("g", value="avg")[group,]) == float(sum(x) / len(x))


def test_complete_cases_name_a_column_that_is_not_there(hospitals: Hospitals) -> None:
    with pytest.raises(BadRequest) as refused:
        ask(hospitals, "avg", (2, 3, 5), complete_on=["weight"])
    assert refused.value.code == "missing_column"


@pytest.mark.parametrize("users", quick([[5], [2, 3, 4, 5, 6], [2, 4], [2, 3, 5]], 1))
def test_quantiles_are_numpy_s_to_the_last_bit(
    hospitals: Hospitals, users: list[int]
) -> None:
    answer = ask(hospitals, "quantile", users, quantile=QUANTILES)
    assert answer.column("q") == QUANTILES
    assert (
        answer.column("quantile")
        == np.quantile(pooled(users).x.dropna(), QUANTILES).tolist()
    )
    assert [
        note
        for note in answer.summary["notes"]
        if "knows how many rows of the other" not in note
    ] == []


@pytest.mark.parametrize("users", quick([((2, 4, 5),), ((4,),), ((2, 4, 5, 6),)], 1))
def test_a_histogram_is_numpy_s_within_its_edges(
    hospitals: Hospitals, users: tuple[int, ...]
) -> None:
    """A withheld bin says so, all others are numpy's; bins beyond the edges come with
    an open end.
    """
    policies = hospitals.policies
    # The table's own min_rows holds for its bins, too.
    hospitals.policies = {
        user: text.replace("[cohort]\n", "[cohort]\nmin_rows = 1\n")
        for user, text in policies.items()
    }
    hospitals.allow(min_rows=1)
    answer = ask(hospitals, "histogram", users, bins=BINS)
    hospitals.policies = policies
    hospitals.allow(extremes=True, exact_quantiles=True, max_share=1, min_rows=10)
    x = pooled(users).x.dropna()
    inside = [row for row in answer.rows if row["lower"] and row["upper"]]
    assert [(float(row["lower"]), float(row["upper"])) for row in inside] == list(
        itertools.pairwise(BINS)
    )
    assert [int(row["histogram"]) for row in inside] == np.histogram(x, BINS)[
        0
    ].tolist()
    outside = [row for row in answer.rows if row not in inside]
    assert [(row["lower"], row["upper"], int(row["histogram"])) for row in outside] == [
        ("", "-2.0", (x < -2).sum()),
        ("3.0", "", (x > 3).sum()),
    ]


@pytest.mark.parametrize("users", quick([((2, 3, 4, 5, 6),), ((2,),)], 1))
def test_counts_of_values(hospitals: Hospitals, users: tuple[int, ...]) -> None:
    assert ask(hospitals, "frequency", users, key="h").by(
        "h", value="frequency"
    ) == joined_counts(pooled(users), "h")
    # Among rows without an id its cells are too few people apart from these counts.
    hospitals.forget()
    crossed = ask(hospitals, "crosstab", users, columns=["g", "h"])
    assert crossed.by("g", "h", value="crosstab") == joined_counts(
        pooled(users), "g", "h"
    )


GROUPED: dict[str, dict[str, Any]] = {
    "avg": {},
    "var": {"ddof": 0},
    "median": {},
    "count": {},
    "corr": {},
}


@pytest.mark.parametrize("method", quick(list(GROUPED), 1))
def test_by_groups_that_some_hospitals_lack(hospitals: Hospitals, method: str) -> None:
    answer = ask(hospitals, method, (3, 4, 6), group_by=["g"], **GROUPED[method])
    found = answer.by("g", value=method)
    expected = dict(list(pooled((3, 4, 6)).groupby("g")))
    assert list(found) == [("a",), ("b",), ("c",)]
    for (name,), value in found.items():
        group = expected[name]
        if method == "var":
            assert float(value) == float(variance(exact(group), 0))
        else:
            assert float(value) == EXPECTED[method](group)


def test_by_two_columns_of_which_one_lacks_a_label(hospitals: Hospitals) -> None:
    answer = ask(
        hospitals,
        "sum",
        (2, 4, 5),
        group_by=["g", "h"],
        result_alias="total",
        result_type="json",
    )
    (content,) = set(answer.files.values())
    found = {(row["g"], row["h"]): row["total"] for row in json.loads(content)}
    groups = pooled((2, 4, 5)).groupby(["g", "h"], dropna=False)
    assert found == {
        (g, None if pd.isna(h) else h): EXPECTED["sum"](group)
        for (g, h), group in groups
    }
    assert len(found) == 6


# --- exactness ------------------------------------------------------------------------------------------------------

HARD: dict[str, Any] = {
    "offset": lambda rng: 1e15 + rng.integers(0, 8, 40) / 8,
    "large": lambda rng: rng.normal(size=40) * 10.0 ** rng.integers(-300, 150, 40),
    "subnormal": lambda rng: rng.integers(-9, 9, 40) * 5e-324,
    "cancelling": lambda rng: np.concatenate(
        [rng.normal(size=20) * 1e16, [3e-17] * 20]
    ),
    "near": lambda rng: 1e9 + np.array([1.0, 2.0, 3.0] * 20),
    "constant": lambda rng: np.full(40, 0.1),
}


@pytest.fixture(scope="module")
def hard(hospitals: Hospitals) -> pd.DataFrame:
    """Columns that lose all digits in floating point, over two hospitals; what cancels,
    cancels between them.
    """
    rng = np.random.default_rng(3)
    first = pd.DataFrame({name: pd.Series(make(rng)) for name, make in HARD.items()})
    second = first.sample(frac=1, random_state=1)
    second["cancelling"] = -second.cancelling.where(
        second.cancelling.abs() > 1, -second.cancelling
    )
    hospitals.write(2, "hard.csv", first.map(repr).replace("nan", ""))
    hospitals.write(3, "hard.parquet", second)
    return pd.concat(
        [
            first.map(lambda v: Fraction(repr(v)) if v == v else None),
            second.map(lambda v: v if v == v else None),
        ]
    )


@pytest.mark.parametrize("column", HARD)
@pytest.mark.parametrize("method", quick(["var", "avg", "sum", "std"], 1))
def test_every_digit_is_right(
    hospitals: Hospitals, hard: pd.DataFrame, column: str, method: str
) -> None:
    if method in ("sum", "std") and column in ("offset", "large", "near"):
        return  # avg and var are these but for a factor and a root
    x = [Fraction(value) for value in hard[column].dropna()]
    mean = sum(x) / len(x)
    expected = {
        "sum": lambda: float(sum(x)),
        "avg": lambda: float(mean),
        "var": lambda: float(variance(x)),
        "std": lambda: root(variance(x)),
    }[method]()
    answer = hospitals.ask(
        method, {2: "hard.csv", 3: "hard.parquet"}, key=column, receivers=[2]
    )
    assert answer.number == expected
    if column == "constant" and method == "var":
        assert (
            expected > 0
        )  # the decimal 0.1 in the text and the double 0.1 are not the same number


@pytest.mark.parametrize("method", ["var", "std"])
def test_a_constant_column_has_no_spread(hospitals: Hospitals, method: str) -> None:
    for user in (2, 3):
        hospitals.write(user, "constant.parquet", pd.DataFrame({"x": np.full(30, 0.1)}))
    assert (
        hospitals.ask(method, dict.fromkeys((2, 3), "constant.parquet")).text
        == f"{method}\n0.0\n"
    )


LONG = 110_105_194_912_310_000  # 18 digits; doubles are 16 apart there
WHOLE_PATHS = {2: "whole.csv", 3: "whole.json", 4: "whole.parquet", 5: "data.pooled"}


def whole_rows(hospitals: Hospitals, base: int, groups: int = 1) -> list[list[int]]:
    """Of hospitals with four kinds of data; one row of each has no value. All values by
    group, in order.
    """
    by_group: list[list[int]] = [[] for _ in range(groups)]
    for user, path in WHOLE_PATHS.items():
        own: list[int | None] = [
            base + (7 * row + user) % 101 for row in range(24 if user == 3 else 41)
        ]
        own[5] = None
        rows = [{"x": value, "g": f"g{row % groups}"} for row, value in enumerate(own)]
        for row, value in enumerate(own):
            if value is not None:
                by_group[row % groups].append(value)
        if path.endswith(".json"):
            hospitals.write(user, path, "\n".join(map(json.dumps, rows)).encode())
        else:
            hospitals.write(
                user, path, pd.DataFrame(rows).assign(x=pd.array(own, dtype="Int64"))
            )
    return [sorted(values) for values in by_group]


@pytest.fixture
def keeping_visits(hospitals: Hospitals) -> Iterator[Hospitals]:
    """Hospital 5's table has the visits again afterwards."""
    yield hospitals
    hospitals.write(5, PATHS[5], VISITS[5])


@pytest.mark.parametrize("q", quick([0.1, 1, 0.5, 0, 0.25], 1))
def test_quantiles_of_long_whole_numbers_have_every_digit(
    keeping_visits: Hospitals, q: float
) -> None:
    (values,) = whole_rows(keeping_visits, LONG)
    place = Fraction(str(q)) * (len(values) - 1)
    below, above = values[int(place)], values[min(int(place) + 1, len(values) - 1)]
    told = keeping_visits.ask("quantile", WHOLE_PATHS, quantile=q).rows[0]["quantile"]
    assert Fraction(told) == below + (place - int(place)) * (above - below)
    assert "e" not in told


@pytest.mark.thorough
def test_the_least_of_long_whole_numbers_by_group(keeping_visits: Hospitals) -> None:
    by_group = whole_rows(keeping_visits, LONG, groups=2)
    answer = keeping_visits.ask("min", WHOLE_PATHS, group_by=["g"])
    assert answer.by("g", value="min") == {
        (f"g{i}",): str(min(values)) for i, values in enumerate(by_group)
    }


@pytest.mark.thorough
def test_quantiles_of_small_whole_numbers_are_written_as_those_of_doubles(
    keeping_visits: Hospitals,
) -> None:
    """One provider with a column of doubles has all search among them."""
    texts = []
    (values,) = whole_rows(keeping_visits, 1)
    for kind in ("INTEGER", "DOUBLE"):
        path = keeping_visits.sites[4].data_folder / "typed.parquet"
        source = keeping_visits.sites[4].data_folder / WHOLE_PATHS[4]
        duckdb.sql(f"SELECT x::{kind} AS x, g FROM '{source}'").write_parquet(str(path))
        data = {**WHOLE_PATHS, 4: "typed.parquet"}
        texts.append(keeping_visits.ask("quantile", data, quantile=QUANTILES).text)
        assert (
            keeping_visits.ask("median", data).text == f"median\n{np.median(values)}\n"
        )
        assert keeping_visits.ask("max", data).text == f"max\n{float(values[-1])}\n"
    assert texts[0] == texts[1]
    assert [
        float(row.split(",")[1]) for row in texts[0].splitlines()[1:]
    ] == np.quantile(values, QUANTILES).tolist()


def test_what_is_told_of_long_numbers_without_leave_has_not_become_finer(
    keeping_visits: Hospitals,
) -> None:
    """A double that at least min_rows rows are nearest to, as of every other column;
    their last digits are not told.
    """
    (values,) = whole_rows(keeping_visits, LONG)
    keeping_visits.allow((2,), max_share=1)
    answer = keeping_visits.ask("median", WHOLE_PATHS)
    keeping_visits.allow(
        (2,), extremes=True, exact_quantiles=True, max_share=1, min_rows=10
    )
    assert "e+17" in answer.text
    assert answer.number == np.median([float(value) for value in values])
    assert sum(float(value) == answer.number for value in values) >= 10


def test_what_lies_outside_the_range_of_doubles_has_no_value(
    hospitals: Hospitals,
) -> None:
    for user in (2, 3):
        hospitals.write(
            user, "huge.parquet", pd.DataFrame({"x": 1.7e308 - np.arange(30) * 1e306})
        )
    answer = hospitals.ask("var", dict.fromkeys((2, 3), "huge.parquet"))
    assert answer.text == 'var\n""\n'
    assert "1.8e308" in answer.summary["notes"][0]


def test_a_hospital_without_a_value_adds_nothing(hospitals: Hospitals) -> None:
    hospitals.write(2, "empty.csv", pd.DataFrame({"x": [None] * 20, "y": range(20)}))
    answer = hospitals.ask("avg", {2: "empty.csv", 3: PATHS[3]})
    assert answer.number == EXPECTED["avg"](pooled((3,)))
    assert answer.summary["rows_used"] == {"2": 0, "3": 12}
    assert answer.summary["rows_null"] == {"2": 20, "3": 0}


@pytest.mark.parametrize(
    ("method", "value"), [("avg", '""'), ("count", "0"), ("median", '""')]
)
def test_no_value_anywhere(hospitals: Hospitals, method: str, value: str) -> None:
    for user in (2, 3):
        hospitals.write(
            user, "empty.csv", pd.DataFrame({"x": [None] * 20, "y": range(20)})
        )
    answer = hospitals.ask(method, dict.fromkeys((2, 3), "empty.csv"))
    assert answer.text == f"{method}\n{value}\n"
    assert answer.summary["notes"] == ["No row has a value."]


@pytest.mark.parametrize(
    ("users", "is_said"), quick([((2, 5), True), ((5,), False), ((2, 4, 5), False)], 1)
)
def test_of_two_providers_each_is_said_to_know_the_other_s_counts(
    hospitals: Hospitals, users: tuple[int, ...], is_said: bool
) -> None:
    """Each opens the joint counts of the search, and takes its own off."""
    notes = ask(hospitals, "median", users).summary["notes"]
    assert any("knows how many rows of the other" in note for note in notes) == is_said
    assert ask(hospitals, "avg", users).summary["notes"] == []


# --- what is told less finely ---------------------------------------------------------------------------------------


@pytest.fixture
def careful(hospitals: Hospitals) -> Any:
    """Policies with their defaults but for the number of providers: no extremes, no
    exact quantiles.
    """
    hospitals.allow(max_share=1)
    yield hospitals
    hospitals.allow(extremes=True, exact_quantiles=True, max_share=1, min_rows=10)


@pytest.mark.parametrize(
    ("method", "q"), quick([("min", 0.05), ("max", 0.95), ("median", 0.5)], 1)
)
def test_without_leave_quantiles_are_places_among_min_rows_rows(
    careful: Hospitals, method: str, q: float
) -> None:
    """One hospital of two says no: the value lies where at least ten rows lie, and near
    the true one.
    """
    careful.allow((2,), extremes=True, exact_quantiles=True, max_share=1)
    answer = ask(careful, method, (2, 5))
    x = np.sort(pooled((2, 5)).x.dropna())
    true = np.quantile(x, q)
    assert answer.number not in x
    assert answer.number != true
    assert (np.abs(x - answer.number) < 1).sum() >= 10
    assert abs(answer.number - true) < 1
    assert "as 10 rows allow" in answer.summary["notes"][0]
    assert len(answer.summary["notes"]) == (2 if method == "median" else 3)


@pytest.mark.thorough
def test_extremes_are_no_quantiles_either(careful: Hospitals) -> None:
    """Where exact quantiles are allowed and extremes are not, the 0-quantile is not the
    least value.
    """
    careful.allow(exact_quantiles=True, max_share=1)
    x = np.sort(pooled((2, 5)).x.dropna())
    assert ask(careful, "min", (2, 5)).number == np.quantile(x, 0.05)
    assert ask(careful, "max", (2, 5)).number == np.quantile(x, 0.95)
    assert (
        ask(careful, "quantile", (2, 5), quantile=[0.05, 0.5]).column("quantile")
        == np.quantile(x, [0.05, 0.5]).tolist()
    )
    outer = ask(careful, "quantile", (2, 5), quantile=[0, 1])
    assert set(outer.column("quantile")).isdisjoint(x)
    assert "rows allow" in outer.summary["notes"][0]


def test_extremes_alone_are_exact(careful: Hospitals) -> None:
    careful.allow(extremes=True, max_share=1)
    assert ask(careful, "min", (2, 5)).number == pooled((2, 5)).x.min()
    assert ask(careful, "median", (2, 5)).number != np.quantile(
        pooled((2, 5)).x.dropna(), 0.5
    )


@pytest.mark.parametrize("n_rows", quick([9, 10, 11], 2))
def test_a_group_of_min_rows_rows_is_told(careful: Hospitals, n_rows: int) -> None:
    """Below it the group is withheld, unnamed, and the next smallest with it."""
    names = ["a"] * 30 + ["b"] * 12 + ["c"] * n_rows
    for user in (4, 5):
        careful.write(
            user,
            f"groups{n_rows}.csv",
            pd.DataFrame({"x": np.arange(len(names)), "g": names}),
        )
    answer = careful.ask(
        "avg", dict.fromkeys((4, 5), f"groups{n_rows}.csv"), group_by=["g"]
    )
    if n_rows >= 10:
        assert answer.by("g", value="avg") == {
            ("a",): "14.5",
            ("b",): "35.5",
            ("c",): str(41.5 + n_rows / 2),
        }
        return
    assert answer.text == "g,avg,withheld\na,14.5,\nb,,complement 10\n"
    assert answer.summary["suppressed"] == [
        {"rule": "complement", "threshold": "10", "groups": 1},
        {"rule": "min_rows", "threshold": "10", "groups": 1},
    ]
    assert answer.summary["rows_suppressed"] == {"4": 21, "5": 21}
    assert [entry["group"] for entry in answer.notes["withheld"]] == [["b"], None]


def test_small_and_empty_bins_look_the_same(careful: Hospitals) -> None:
    x = [0.5] * 20 + [1.5] * 3 + [3.5] * 20 + [9] * 20
    for user in (4, 5):
        careful.write(user, "bins.csv", pd.DataFrame({"x": x}))
    answer = careful.ask(
        "histogram", dict.fromkeys((4, 5), "bins.csv"), bins=[0, 1, 2, 3, 4]
    )
    assert answer.text == (
        "lower,upper,histogram,withheld\n3.0,4.0,40,\n4.0,,40,\n"
        "0.0,1.0,,complement 10\n,0.0,,min_rows 10\n1.0,2.0,,min_rows 10\n2.0,3.0,,min_rows 10\n"
    )


def test_no_place_is_told_among_fewer_rows_than_another_policy_wants(
    careful: Hospitals,
) -> None:
    """Hospital 2 alone has group a, in twelve rows; hospital 3 wants 50 rows wherever a
    value is told.
    """
    careful.allow((3,), min_rows=50, max_share=1)
    for user, group, n_rows in ((2, "a", 12), (3, "b", 60)):
        careful.write(
            user, "wants.csv", pd.DataFrame({"x": np.arange(n_rows), "g": group})
        )
    answer = careful.ask("median", dict.fromkeys((2, 3), "wants.csv"), group_by=["g"])
    found = answer.by("g", value="median")
    assert found["a",] == ""
    assert 20 < float(found["b",]) < 40
    assert "Among fewer than 50 rows no place is told." in answer.summary["notes"]
