"""Matrices of covariances and correlations, and tests of hypotheses, over 1, 2, 3 and 5
hospitals: those of one table, as numpy and SciPy compute them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from protocol.errors import BadRequest
from tests.made_statistics import Answered, Hospitals, make_hospitals
from tests.pairwise import quick

EVERYBODY = (2, 3, 4, 5, 6)
DEALS = [[*EVERYBODY], [4], [2, 4], [2, 3, 4]]
PATHS = {
    user: f"visits.{kind}"
    for user, kind in {
        2: "csv",
        3: "parquet",
        4: "json",
        5: "csv",
        6: "parquet",
    }.items()
}


def made_frames() -> dict[int, pd.DataFrame]:
    """Hospital 3 is tiny, and lacks one arm of three and one stage."""
    rng = np.random.default_rng(11)
    frames = {}
    for user, n in {2: 160, 3: 24, 4: 200, 5: 140, 6: 120}.items():
        place = np.arange(n)
        arms = np.array(["a", "b"] if user == 3 else ["a", "b", "c"])
        arm = arms[place % len(arms)]
        stage = place % 2 + 1 if user == 3 else place // 7 % 3 + 1
        x = rng.normal(50, 9, n) + 3 * (arm == "b")
        y = 0.5 * x + rng.normal(0, 4, n)
        z = np.round(rng.gamma(2, 3, n), 2)
        died = rng.random(n) < 0.3 + 0.1 * stage
        # Enough of each for the policies of these hospitals.
        frame = pd.DataFrame(
            {
                "x": x,
                "y": y,
                "z": z,
                "arm": arm,
                "stage": stage,
                "died": died.astype(int),
                "sex": np.where(place % 2 == 0, "F", "M"),
            }
        )
        if user != 3:
            frame.loc[::17, "y"] = np.nan
            frame.loc[5::13, "arm"] = None
        frames[user] = frame
    return frames


FRAMES = made_frames()


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    made = make_hospitals(tmp_path_factory.mktemp("sites"), (*EVERYBODY, 7))
    made.allow(min_rows=2, max_share=1)
    for user, frame in FRAMES.items():
        made.write(user, PATHS[user], frame)
    return made


@pytest.fixture(autouse=True)
def without_a_past(hospitals: Hospitals) -> None:
    hospitals.forget()


def pooled(users: Sequence[int], *columns: str) -> pd.DataFrame:
    table = pd.concat([FRAMES[user] for user in users], ignore_index=True)
    return table.dropna(subset=list(columns))


def ask(
    hospitals: Hospitals, method: str, users: Sequence[int], **fields: Any
) -> Answered:
    return hospitals.ask(method, {user: PATHS[user] for user in users}, **fields)


def quantities(answer: Answered) -> dict[str, float]:
    (name,) = set(answer.rows[0]) - {"quantity"}
    return {row["quantity"]: float(row[name]) for row in answer.rows}


def by_arm(users: Sequence[int], column: str = "x") -> list[np.ndarray]:
    table = pooled(users, "arm", column)
    return [table.loc[table.arm == arm, column].to_numpy() for arm in "abc"]


# --- matrices -------------------------------------------------------------------------


@pytest.mark.parametrize("users", quick(DEALS, 1))
@pytest.mark.parametrize("method", quick(["cov", "corr"], 1))
def test_a_matrix_is_that_of_the_complete_pooled_rows(
    hospitals: Hospitals, users: Sequence[int], method: str
) -> None:
    names = ["x", "y", "z", "stage", "died"]
    answer = ask(hospitals, method, users, columns=names, receivers=users[:1])
    table = pooled(users, *names)[names]
    expected = table.cov() if method == "cov" else table.corr()
    assert [row["column"] for row in answer.rows] == names
    found = np.array([answer.column(name) for name in names])
    np.testing.assert_allclose(found, expected.to_numpy(), rtol=1e-11, atol=1e-13)
    # Rounded once, so that it is its own mirror image to the last bit.
    assert (found == found.T).all()
    if method == "corr":
        assert (np.diag(found) == 1).all()


def test_a_matrix_agrees_with_each_pair_by_itself(hospitals: Hospitals) -> None:
    matrix = ask(hospitals, "cov", (2, 4, 5), columns=["x", "z", "stage"])
    hospitals.forget()
    pair = ask(hospitals, "cov", (2, 4, 5), columns=["z", "stage"])
    assert matrix.by("column", value="stage")["z",] == pair.text.split()[1]


@pytest.mark.thorough
def test_fifty_columns_and_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    made = make_hospitals(tmp_path, (2, 3, 4))
    names = [f"v{place}" for place in range(50)]
    frames = {}
    for user in (2, 3, 4):
        frame = pd.DataFrame(rng.normal(size=(80, 50)), columns=names)
        frame["sex"] = np.where(np.arange(80) % 2 == 0, "F", "M")
        frames[user] = frame
        made.write(user, "wide.parquet", frame)
    answer = made.ask(
        "corr",
        dict.fromkeys(frames, "wide.parquet"),
        columns=names,
        group_by=["sex"],
        key="v0",
    )
    table = pd.concat(frames.values())
    for sex in "FM":
        found = [row for row in answer.rows if row["sex"] == sex]
        values = np.array([[float(row[name]) for name in names] for row in found])
        expected = table.loc[table.sex == sex, names].corr().to_numpy()
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12)
    opened = answer.summary["opened"]
    assert any("sum of products of each two of 50 columns" in line for line in opened)


def test_few_people_of_two_values_are_in_no_product(tmp_path: Path) -> None:
    """n, sums and products of 0 and 1 are a cross table: nine people of a cell of one
    hospital keep the matrix back, ten do not.
    """
    for n_both, is_answered in ((9, False), (10, True)):
        made = make_hospitals(tmp_path / str(n_both), (2, 3, 4))
        for user in (2, 3, 4):
            few = n_both if user == 3 else 20
            a = np.r_[np.ones(few + 20), np.zeros(40)]
            b = np.r_[np.ones(few), np.zeros(20), np.ones(20), np.zeros(20)]
            made.write(
                user,
                "visits.csv",
                pd.DataFrame({"a": a, "b": b, "x": np.arange(a.size)}),
            )
        data = dict.fromkeys((2, 3, 4), "visits.csv")
        for columns in (["a", "b"], ["a", "b", "x"]):
            made.forget()
            if is_answered:
                assert made.ask("corr", data, columns=columns).rows
            else:
                error = made.refused("corr", data, columns=columns)
                assert error.code == "pair_rows"
                assert "10" in error.sentence


def test_a_matrix_over_all_but_few_people_of_an_earlier_answer(tmp_path: Path) -> None:
    """Three people without z: a difference of the two answers would be theirs."""
    made = make_hospitals(tmp_path, (2, 3, 4))
    for user in (2, 3, 4):
        frame = pd.DataFrame(
            np.random.default_rng(user).normal(size=(60, 3)), columns=list("xyz")
        )
        if user == 4:
            frame.loc[:2, "z"] = np.nan
        made.write(user, "data.pooled", frame)
    data = dict.fromkeys((2, 3, 4), "data.pooled")
    assert made.ask("corr", data, columns=["x", "y"]).rows
    assert made.refused("corr", data, columns=["x", "y", "z"]).code == "earlier_cohort"
    error = made.refused("correlation_test", data, columns=["x", "z"])
    assert error.code == "earlier_cohort"


# --- tests ----------------------------------------------------------------------------


@pytest.mark.parametrize("users", quick(DEALS, 1))
@pytest.mark.parametrize("equal_var", quick([None, True], 1), ids=["welch", "student"])
def test_two_groups_are_compared_as_by_scipy(
    hospitals: Hospitals, users: Sequence[int], equal_var: bool | None
) -> None:
    found = quantities(
        ask(hospitals, "ttest", users, group_by=["sex"], equal_var=equal_var)
    )
    table = pooled(users)
    groups = [table.loc[table.sex == sex, "x"] for sex in "FM"]
    expected = stats.ttest_ind(*groups, equal_var=bool(equal_var))
    interval = expected.confidence_interval()
    assert found["t"] == pytest.approx(expected.statistic, rel=1e-10)
    assert found["df"] == pytest.approx(expected.df, rel=1e-10)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert found["low"] == pytest.approx(interval.low, rel=1e-9)
    assert found["high"] == pytest.approx(interval.high, rel=1e-9)
    assert (found["n[F]"], found["n[M]"]) == tuple(len(group) for group in groups)


@pytest.mark.parametrize("users", quick(DEALS, 1))
@pytest.mark.parametrize("equal_var", quick([None, False], 1), ids=["classic", "welch"])
def test_several_groups_are_compared_as_by_scipy(
    hospitals: Hospitals, users: Sequence[int], equal_var: bool | None
) -> None:
    """One hospital lacks an arm, and rows without an arm are in none."""
    found = quantities(
        ask(hospitals, "anova", users, group_by=["arm"], equal_var=equal_var)
    )
    groups = by_arm(users)
    expected = stats.f_oneway(*groups, equal_var=equal_var is not False)
    assert found["F"] == pytest.approx(expected.statistic, rel=1e-10)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert found["n[b]"] == len(groups[1])
    everything = np.concatenate(groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    total = ((everything - everything.mean()) ** 2).sum()
    assert found["eta2"] == pytest.approx(1 - within / total, rel=1e-9)


@pytest.mark.parametrize("users", quick(DEALS, 1))
def test_tables_are_tested_as_by_scipy(
    hospitals: Hospitals, users: Sequence[int]
) -> None:
    found = quantities(ask(hospitals, "chi2", users, columns=["arm", "died"]))
    table = pooled(users, "arm")
    counts = pd.crosstab(table.arm, table.died)
    expected = stats.chi2_contingency(counts)
    assert found["chi2"] == pytest.approx(expected.statistic, rel=1e-11)
    assert found["df"] == expected.dof
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-10)
    assert found["n[b, 1]"] == counts.loc["b", 1]
    cramer = stats.contingency.association(counts, method="cramer")
    assert found["cramer_v"] == pytest.approx(cramer, rel=1e-10)


@pytest.mark.parametrize("correction", quick([None, False], 1))
def test_a_table_of_two_by_two(hospitals: Hospitals, correction: bool | None) -> None:
    users = EVERYBODY
    answer = ask(
        hospitals, "chi2", users, columns=["sex", "died"], correction=correction
    )
    found = quantities(answer)
    table = pooled(users)
    counts = pd.crosstab(table.sex, table.died).to_numpy()
    expected = stats.chi2_contingency(counts, correction=correction is None)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-10)
    assert found["fisher_p"] == pytest.approx(
        stats.fisher_exact(counts).pvalue, rel=1e-10
    )
    odds = stats.contingency.odds_ratio(counts, kind="sample")
    interval = odds.confidence_interval()
    assert found["odds_ratio"] == pytest.approx(odds.statistic, rel=1e-12)
    assert found["low"] == pytest.approx(interval.low, rel=1e-9)
    assert found["high"] == pytest.approx(interval.high, rel=1e-9)


@pytest.mark.parametrize("users", quick(DEALS, 1))
def test_correlations_and_pairs(hospitals: Hospitals, users: Sequence[int]) -> None:
    found = quantities(ask(hospitals, "correlation_test", users, columns=["x", "y"]))
    table = pooled(users, "y")
    expected = stats.pearsonr(table.x, table.y)
    interval = expected.confidence_interval()
    assert found["r"] == pytest.approx(expected.statistic, rel=1e-12)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-8, abs=1e-300)
    assert found["low"] == pytest.approx(interval.low, rel=1e-9)
    hospitals.forget()
    paired = quantities(
        ask(hospitals, "paired_ttest", users, key="change", derive={"change": "x - y"})
    )
    pairs = stats.ttest_rel(table.x, table.y)
    assert paired["t"] == pytest.approx(pairs.statistic, rel=1e-9)
    assert paired["df"] == pairs.df
    assert paired["high"] == pytest.approx(pairs.confidence_interval().high, rel=1e-9)


@pytest.mark.parametrize("users", quick(DEALS, 1))
def test_a_trend_is_that_of_the_regression_on_scores(
    hospitals: Hospitals, users: Sequence[int]
) -> None:
    """Its chi2 is n r^2, of Pearson's r between score and outcome."""
    found = quantities(ask(hospitals, "trend", users, columns=["stage", "died"]))
    table = pooled(users)
    r = stats.pearsonr(table.stage, table.died).statistic
    assert found["chi2"] == pytest.approx(len(table) * r**2, rel=1e-9)
    slope = stats.linregress(table.stage, table.died).slope
    assert found["slope"] == pytest.approx(slope, rel=1e-9)


@pytest.mark.thorough
def test_tests_with_thresholds_on_the_sum(tmp_path: Path) -> None:
    """One hospital has two women with the disease: no threshold of its own forbids the
    table, and the test is that of all rows.
    """
    made = make_hospitals(tmp_path, (2, 3, 4))
    made.allow(cells="pooled", min_providers=3)
    frames = {}
    for user, n_few in {2: 40, 3: 2, 4: 60}.items():
        sex = ["F"] * (50 + n_few) + ["M"] * 100
        died = [0] * 50 + [1] * n_few + [0] * 60 + [1] * 40
        x = np.random.default_rng(user).normal(size=len(sex))
        frames[user] = pd.DataFrame({"sex": sex, "died": died, "x": x})
        made.write(user, "visits.csv", frames[user])
    data = dict.fromkeys(frames, "visits.csv")
    table = pd.concat(frames.values())
    found = quantities(made.ask("chi2", data, columns=["sex", "died"], receivers=[2]))
    expected = stats.chi2_contingency(pd.crosstab(table.sex, table.died))
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-10)
    made.forget()
    found = quantities(made.ask("ttest", data, group_by=["sex"], receivers=[2]))
    groups = [table.loc[table.sex == sex, "x"] for sex in "FM"]
    expected = stats.ttest_ind(*groups, equal_var=False)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-9)


# --- published values -----------------------------------------------------------------


@pytest.mark.thorough
def test_r_s_own_examples(tmp_path: Path) -> None:
    """sleep, PlantGrowth and Agresti's table of gender and party, dealt to two."""
    made = make_hospitals(tmp_path, (2, 3))
    made.allow(min_rows=1, max_share=1)
    for site in made.sites.values():
        text = site.policy.read_text()
        site.policy.write_text(
            text.replace("[cohort]\n", "[cohort]\nmin_rows = 1\n", 1)
        )
    sleep = {
        "x": [
            0.7,
            -1.6,
            -0.2,
            -1.2,
            -0.1,
            3.4,
            3.7,
            0.8,
            0.0,
            2.0,
            1.9,
            0.8,
            1.1,
            0.1,
            -0.1,
            4.4,
            5.5,
            1.6,
            4.6,
            3.4,
        ],
        "g": [1] * 10 + [2] * 10,
    }
    found = quantities(deal(made, "ttest", pd.DataFrame(sleep), group_by=["g"]))
    assert found["t"] == pytest.approx(-1.8608, abs=5e-5)
    assert found["df"] == pytest.approx(17.776, abs=5e-4)
    assert found["p"] == pytest.approx(0.07939, abs=5e-6)

    plants = {
        "x": [
            4.17,
            5.58,
            5.18,
            6.11,
            4.50,
            4.61,
            5.17,
            4.53,
            5.33,
            5.14,
            4.81,
            4.17,
            4.41,
            3.59,
            5.87,
            3.83,
            6.03,
            4.89,
            4.32,
            4.69,
            6.31,
            5.12,
            5.54,
            5.50,
            5.37,
            5.29,
            4.92,
            6.15,
            5.80,
            5.26,
        ],
        "g": ["ctrl"] * 10 + ["trt1"] * 10 + ["trt2"] * 10,
    }
    found = quantities(deal(made, "anova", pd.DataFrame(plants), group_by=["g"]))
    assert found["F"] == pytest.approx(4.846, abs=5e-4)
    assert found["p"] == pytest.approx(0.01591, abs=5e-6)

    counts = {
        ("F", "D"): 762,
        ("F", "I"): 327,
        ("F", "R"): 468,
        ("M", "D"): 484,
        ("M", "I"): 239,
        ("M", "R"): 477,
    }
    voters = pd.DataFrame(
        [pair for pair, n in counts.items() for _ in range(n)], columns=["x", "g"]
    )
    found = quantities(deal(made, "chi2", voters, columns=["x", "g"]))
    assert found["chi2"] == pytest.approx(30.07, abs=5e-3)
    assert found["df"] == 2
    assert found["p"] == pytest.approx(2.954e-07, rel=5e-4)


def deal(made: Hospitals, method: str, table: pd.DataFrame, **fields: Any) -> Answered:
    """The rows dealt in turn."""
    made.forget()
    for place, user in enumerate((2, 3)):
        made.write(user, f"{method}.csv", table[place::2])
    return made.ask(method, dict.fromkeys((2, 3), f"{method}.csv"), **fields)


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "fields", "word"),
    quick(
        [
            ("ttest", {"group_by": ["arm"]}, "two groups"),
            ("trend", {"columns": ["arm", "died"]}, "no numbers"),
            ("trend", {"columns": ["died", "arm"]}, "two values, and has more"),
            (
                "anova",
                {"group_by": ["one"], "derive": {"one": "x > -1000"}},
                "rows have fewer",
            ),
        ],
        1,
    ),
)
def test_groups_that_no_test_compares(
    hospitals: Hospitals, method: str, fields: dict[str, Any], word: str
) -> None:
    error = hospitals.refused(
        method, {user: PATHS[user] for user in (2, 4, 5)}, **fields
    )
    assert error.code == "test_groups"
    assert word in error.sentence


@pytest.mark.parametrize(
    ("method", "fields", "code"),
    [
        ("ttest", {}, "group_by"),
        ("anova", {"group_by": ["arm", "sex"]}, "group_by"),
        ("chi2", {"columns": ["arm"]}, "columns"),
        ("chi2", {"columns": ["arm", "died", "sex"]}, "columns"),
        ("chi2", {"columns": ["arm", "died"], "group_by": ["sex"]}, "group_by"),
        ("corr", {"columns": ["x", "y", "x"]}, "columns"),
        ("corr", {"columns": [f"v{place}" for place in range(51)]}, "invalid_input"),
        ("corr", {"columns": ["x", "y", "column"]}, "columns"),
        ("avg", {"equal_var": True}, "equal_var"),
        ("ttest", {"group_by": ["arm"], "correction": True}, "correction"),
        ("ttest", {"group_by": ["arm"], "missing": "mean"}, "missing"),
    ],
)
def test_fields_that_do_not_fit(
    hospitals: Hospitals, method: str, fields: dict[str, Any], code: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        ask(hospitals, method, (2, 4, 5), **fields)
    assert refused.value.code == code
    assert refused.value.remedy


def test_a_withheld_group_leaves_no_test(tmp_path: Path) -> None:
    """Nothing is opened of the others."""
    made = make_hospitals(tmp_path, (2, 3, 4))
    for user in (2, 3, 4):
        n_few = 9 if user == 4 else 30
        group = ["a"] * 40 + ["b"] * 40 + ["c"] * n_few
        frame = pd.DataFrame({"x": np.arange(len(group)) % 13 + 1.5, "g": group})
        made.write(user, "visits.csv", frame)
    error = made.refused(
        "anova", dict.fromkeys((2, 3, 4), "visits.csv"), group_by=["g"]
    )
    assert error.code in ("min_rows", "complement")
    assert "needs all groups" in error.sentence
    assert not made.ledger(2, made.last, "opens")


def test_too_few_degrees_of_freedom_give_no_test(tmp_path: Path) -> None:
    made = make_hospitals(tmp_path, (2,))
    made.allow(max_share=1)
    for n, is_answered in ((11, False), (12, True)):
        rng = np.random.default_rng(n)
        frame = pd.DataFrame({"x": rng.normal(size=n), "y": rng.normal(size=n)})
        made.write(2, f"few{n}.csv", frame)
        answer = made.ask("correlation_test", {2: f"few{n}.csv"}, columns=["x", "y"])
        assert bool(answer.rows) is is_answered
        notes = " ".join(answer.summary["notes"])
        assert ("fewer than 10 degrees of freedom" in notes) is not is_answered


# --- ranks ----------------------------------------------------------------------------


@pytest.mark.parametrize("users", quick(DEALS, 1))
def test_ranks_of_a_table_are_those_of_the_pooled_rows(
    hospitals: Hospitals, users: Sequence[int]
) -> None:
    """Stages as they are: hospital 3 lacks one of them, and one arm."""
    table = pooled(users, "stage", "arm")
    answer = ask(hospitals, "kruskal", users, columns=["stage", "arm"])
    groups = [rows.to_numpy() for _, rows in table.groupby("arm")["stage"]]
    expected = stats.kruskal(*groups)
    found = quantities(answer)
    assert found["H"] == pytest.approx(expected.statistic, rel=1e-10)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert any("grouped" in note for note in answer.summary["notes"])
    hospitals.forget()

    answer = ask(hospitals, "mann_whitney", users, columns=["stage", "sex"])
    table = pooled(users, "stage")
    groups = [rows.to_numpy() for _, rows in table.groupby("sex")["stage"]]
    expected = stats.mannwhitneyu(*groups, method="asymptotic")
    found = quantities(answer)
    assert found["U"] == expected.statistic
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-10)


def test_ranks_need_numbers_and_groups(hospitals: Hospitals) -> None:
    for method, columns in (
        ("mann_whitney", ["stage", "arm"]),
        ("mann_whitney", ["arm", "sex"]),
        ("kruskal", ["arm", "sex"]),
    ):
        data = {user: PATHS[user] for user in (2, 4)}
        error = hospitals.refused(method, data, columns=columns)
        assert error.code == "test_groups"
        hospitals.forget()
