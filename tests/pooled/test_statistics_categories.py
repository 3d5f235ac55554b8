"""Categories of a question of joint statistics: levels that all hospitals name alike,
and what becomes of rare ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from protocol.errors import BadRequest
from protocol.statistics_request import parse_statistics_request
from tests.made_statistics import Hospitals, make_hospitals

USERS = (2, 3, 4)
PATHS = {2: "patients.csv", 3: "patients.parquet", 4: "data.rows"}


def patients(user: int, n: int = 120) -> pd.DataFrame:
    """Codes 1 and 2 everywhere, as doubles at one hospital; 7, 8 and 9 are of few rows,
    24 together, at each.
    """
    rng = np.random.default_rng(user)
    frame = pd.DataFrame({"id": np.arange(n) + 1000 * user})
    codes = np.array([1, 2] * (n // 2))
    codes[:8], codes[8:16], codes[16:24] = 7, 8, 9
    frame["cp"] = codes.astype(float if user == 3 else int)
    frame["sex"] = np.where(np.arange(n) // 2 % 2 == 0, "F", "M")
    frame["chol"] = rng.integers(100, 400, n)
    return frame


FRAMES = {user: patients(user) for user in USERS}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    hospitals = make_hospitals(tmp_path_factory.mktemp("sites"), USERS)
    for user in USERS:
        hospitals.write(user, PATHS[user], FRAMES[user])
    return hospitals


@pytest.fixture
def hospitals(made: Hospitals) -> Hospitals:
    made.forget()
    made.allow(max_share=1, extremes=True, exact_quantiles=True)
    return made


def ask(hospitals: Hospitals, method: str, **fields: Any) -> Any:
    return hospitals.ask(method, PATHS, categorical={"cp": {}}, **fields)


def coded() -> pd.DataFrame:
    """All rows, the rare codes as one level."""
    frame = pd.concat(FRAMES.values(), ignore_index=True)
    named = frame["cp"].isin([1, 2])
    texts = frame["cp"].astype(int).astype(str)
    return frame.assign(cp=texts.where(named, "other"))


def test_rare_levels_are_one_and_no_row_is_lost(hospitals: Hospitals) -> None:
    answer = ask(hospitals, "frequency", key="cp")
    expected = coded()["cp"].value_counts()
    assert answer.by("cp", value="frequency") == {
        (level,): str(n) for level, n in expected.items()
    }
    assert answer.summary["suppressed"] == []
    # Without the field nobody names them.
    hospitals.forget()
    plain = hospitals.ask("frequency", PATHS, key="cp")
    assert plain.summary["suppressed"]


@pytest.mark.thorough
def test_groups_of_levels(hospitals: Hospitals) -> None:
    for method, of in (("avg", "mean"), ("median", "median")):
        hospitals.forget()
        answer = ask(hospitals, method, key="chol", group_by=["cp"])
        expected = getattr(coded().groupby("cp")["chol"], of)()
        found = {
            level: float(value)
            for (level,), value in answer.by("cp", value=method).items()
        }
        assert found == pytest.approx(dict(expected), rel=1e-12)


def test_the_mean_of_a_category_is_the_share_of_each_level(
    hospitals: Hospitals,
) -> None:
    """That of its 0/1 column, of all rows with a value."""
    answer = ask(hospitals, "avg", key="cp")
    expected = pd.get_dummies(coded()["cp"]).mean()
    found = {level: float(v) for (level,), v in answer.by("cp", value="avg").items()}
    assert found == pytest.approx(dict(expected), rel=1e-15)
    assert any("n with a value" in line for line in answer.notes["opened"])


@pytest.mark.thorough
def test_shares_count_withheld_levels_and_no_gaps(hospitals: Hospitals) -> None:
    frame = patients(4)
    frame["cp"] = frame["cp"].astype(object)
    frame.loc[12:35, "cp"] = None
    frame.loc[36:37, "cp"] = 3
    hospitals.write(4, "gaps.csv", frame)
    more = patients(2)
    more.loc[20:45, "cp"] = 3
    hospitals.write(2, "more.csv", more)
    data = {2: "more.csv", 4: "gaps.csv"}
    answer = hospitals.ask("avg", data, key="cp", categorical={"cp": {}})
    found = answer.by("cp", value="avg")
    both = pd.concat([frame, more])["cp"].dropna().astype(int)
    # Two rows of it are too few at one hospital.
    assert found["3",] == ""
    shown = {level: float(v) for (level,), v in found.items() if v}
    assert shown
    for level, share in shown.items():
        rare = ~both.isin([1, 2, 3])
        expected = rare.mean() if level == "other" else (both == int(level)).mean()
        assert share == pytest.approx(expected, rel=1e-15)


@pytest.mark.thorough
def test_pairs_of_levels(hospitals: Hospitals) -> None:
    hospitals.allow(unique_ids={"*": "id"})
    answer = hospitals.ask(
        "crosstab",
        PATHS,
        key="cp",
        columns=["cp", "sex"],
        categorical={"cp": {}, "sex": {}},
    )
    frame = coded()
    expected = pd.crosstab(frame["cp"], frame["sex"]).stack()
    found = answer.by("cp", "sex", value="crosstab")
    assert {pair: int(value) for pair, value in found.items()} == dict(expected)


def test_a_few_rows_of_rare_levels_end_the_order(hospitals: Hospitals) -> None:
    few = patients(4).assign(cp=[5, 6, *[1, 2] * 59])
    hospitals.write(4, "few.csv", few)
    data = {**PATHS, 4: "few.csv"}
    error = hospitals.refused("frequency", data, key="cp", categorical={"cp": {}})
    assert error.code == "rare_levels"
    assert "derive" in error.remedy
    assert "5" not in str(error)


@pytest.mark.thorough
def test_a_policy_may_refuse_all_rare_levels(hospitals: Hospitals) -> None:
    text = hospitals.policies[3]
    hospitals.policies[3] = text.replace(
        "[cohort]\n", '[cohort]\nrare_levels = "refuse"\n'
    )
    hospitals.allow()
    error = hospitals.refused("frequency", PATHS, key="cp", categorical={"cp": {}})
    hospitals.policies[3] = text
    assert error.code == "rare_levels"


@pytest.mark.thorough
def test_numbers_and_texts_are_two_codings(hospitals: Hospitals) -> None:
    texts = patients(4).assign(cp=["typical", "atypical"] * 60)
    hospitals.write(4, "texts.csv", texts)
    data = {**PATHS, 4: "texts.csv"}
    error = hospitals.refused("frequency", data, key="cp", categorical={"cp": {}})
    assert error.code == "levels"
    assert "view" in error.remedy


def test_rare_people_are_known_again_by_their_own_value(hospitals: Hospitals) -> None:
    """That a level is called `other` hides from no later question who is in it."""
    ask(hospitals, "sum", key="chol", group_by=["cp"])
    text = hospitals.policies[2]
    for user, policy in hospitals.policies.items():
        hospitals.policies[user] = policy.replace("derive = false", "derive = true")
    hospitals.allow(max_share=1)
    # One code of the rare ones, whose people are too few to be told apart.
    derive = {"some": "case when cp in (1, 7) then 1 else 0 end"}
    answer = hospitals.ask("sum", PATHS, key="chol", group_by=["some"], derive=derive)
    hospitals.policies[2] = text
    assert all(row["sum"] == "" for row in answer.rows)


@pytest.mark.parametrize(
    ("method", "fields", "said"),
    [
        ("std", {"categorical": {"cp": {}}}, "no use for its levels"),
        ("histogram", {"categorical": {"cp": {}}, "bins": [0, 1]}, "no use"),
        ("frequency", {"categorical": {"sex": {}}}, "no use"),
        ("frequency", {"categorical": {"cp": {"reference": 1}}}, "Leave the reference"),
        (
            "frequency",
            {"categorical": {"cp": {}}, "derive": {"cp": "sex + 1"}},
            "in categorical and in derive",
        ),
    ],
)
def test_where_levels_mean_nothing_they_are_refused(
    method: str, fields: dict[str, Any], said: str
) -> None:
    providers = [
        {"name": user, "data_path": "a.csv", "data_type": "csv", "key_column": "cp"}
        for user in USERS
    ]
    question = {
        "method": method,
        "data_providers": providers,
        "result_receivers": [2],
        **fields,
    }
    with pytest.raises(BadRequest) as caught:
        parse_statistics_request(question)
    assert caught.value.code == "categorical"
    assert said in str(caught.value)
