"""Two answers that count people value by value: no difference of one value's counts is
that of a few people, though the two are over people who differ by many.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.made_statistics import (
    Answered,
    Hospitals,
    make_hospitals,
    no_waiting_for_disks,
)
from tests.pairwise import pairwise, quick

USERS, RECEIVER = (2, 3, 4), 5
FIELDS: dict[str, dict[str, Any]] = {
    "frequency": {"key": "disease"},
    "crosstab": {"columns": ["sex", "disease"]},
    "histogram": {"key": "age", "bins": [0, 30, 60, 90]},
    "count": {"key": "age", "group_by": ["disease"]},
}
RARE = {
    "frequency": ("hiv",),
    "crosstab": ("F", "hiv"),
    "histogram": ("60.0", "90.0"),
    "count": ("hiv",),
}


@pytest.fixture
def hospitals(tmp_path: Path) -> Iterator[Hospitals]:
    made = make_hospitals(tmp_path, (*USERS, RECEIVER))
    with no_waiting_for_disks():
        yield made


def people(user: int, n_rare: int, n_common: int) -> pd.DataFrame:
    """The rare ones come first: women of 70 with hiv."""
    n = n_rare + n_common
    return pd.DataFrame(
        {
            "id": [*range(n_rare), *range(1000, 1000 + n_common)],
            "disease": ["hiv"] * n_rare + ["flu"] * n_common,
            "sex": ["F"] * n_rare + ["F", "M"] * (n_common // 2) + ["M"] * (n % 1),
            "age": [70.0] * n_rare + np.resize([20.0, 50.0], n_common).tolist(),
        }
    ).assign(id=lambda frame: frame.id + 10_000 * user)


def ask(
    hospitals: Hospitals, method: str, frames: dict[int, pd.DataFrame], **more: Any
) -> Answered:
    for user, frame in frames.items():
        hospitals.write(user, "data.pooled", frame)
    data = dict.fromkeys(USERS, "data.pooled")
    fields = {"key": "id", "receivers": [RECEIVER], "result_alias": "n"}
    return hospitals.ask(method, data, **{**fields, **FIELDS.get(method, {}), **more})


def told(answer: Answered, method: str) -> str:
    """What stands beside the rare value."""
    labels = {
        "frequency": ("disease",),
        "crosstab": ("sex", "disease"),
        "histogram": ("lower", "upper"),
        "count": ("disease",),
    }[method]
    return answer.by(*labels, value="n").get(RARE[method], "")


@pytest.mark.parametrize("n_rare_less", quick([9, 10, 0, 1], 1))
@pairwise(n_quick=4, method=list(FIELDS), cells=["each", "pooled"])
def test_of_one_value_a_few_people_fewer(
    hospitals: Hospitals, method: str, n_rare_less: int, cells: str
) -> None:
    """The second answer is over thirty people fewer at one hospital, of whom one has
    the rare value; asked by themselves, theirs would be withheld.
    """
    hospitals.allow(cells=cells, min_providers=2)
    frames = {user: people(user, 40, 100) for user in USERS}
    assert told(ask(hospitals, method, frames), method) == "120"
    # The same again tells nothing.
    assert told(ask(hospitals, method, frames), method) == "120"
    fewer = people(2, 40 - n_rare_less, 100 - 40)
    again = ask(hospitals, method, {**frames, 2: fewer})
    shown = "" if 0 < n_rare_less < 10 else str(120 - n_rare_less)
    assert told(again, method) == shown


OVER_OTHERS = [
    ("each", "count", "avg"),
    ("each", "frequency", "avg"),
    ("each", "avg", "frequency"),
    ("each", "avg", "crosstab"),
    ("each", "histogram", "avg"),
    # Where the sum decides, a group is compared with the same group only.
    ("pooled", "frequency", "avg"),
    ("pooled", "avg", "count"),
]


@pytest.mark.parametrize("n_rare_less", quick([9, 10], 1))
@pytest.mark.parametrize(("cells", "first", "then"), quick(OVER_OTHERS, 3))
def test_a_few_of_a_group_have_no_value_in_another_column(
    hospitals: Hospitals, cells: str, first: str, then: str, n_rare_less: int
) -> None:
    """A mean by disease is over those with a weight, whose number in each group its
    receivers open: less than all of the group by those without one.
    """
    hospitals.allow(cells=cells, min_providers=2)
    frames = {user: people(user, 40, 100) for user in USERS}
    for frame in frames.values():
        frame["weight"] = np.resize([60.0, 70.0, 80.0], len(frame))
    frames[2].loc[: n_rare_less - 1, "weight"] = None
    frames[2].loc[110:, "weight"] = None
    more: dict[str, dict[str, Any]] = {
        "avg": {"key": "weight", "group_by": ["disease"]},
        "crosstab": {"columns": ["disease", "sex"]},
        "histogram": {"group_by": ["disease"], "bins": [0, 100]},
    }
    assert has_rare(ask(hospitals, first, frames, **more.get(first, {})))
    again = ask(hospitals, then, frames, **more.get(then, {}))
    assert has_rare(again) is (n_rare_less == 10)


def has_rare(answer: Answered) -> bool:
    """Whether something is told of those with hiv."""
    return any(row["disease"] == "hiv" and row["n"] for row in answer.rows)


def test_whole_rows_count_once_within_a_question_and_twice_between_two(
    hospitals: Hospitals,
) -> None:
    """A file without an id: values of ten people are told at the first question, and
    twelve people fewer are few.
    """
    hospitals.allow(min_providers=2)

    def counted(n_rare: int) -> str:
        for user in USERS:
            n_own = n_rare if user == 2 else 40
            frame = people(user, n_own, 100)
            hospitals.write(user, "people.csv", frame)
        data = dict.fromkeys(USERS, "people.csv")
        answer = hospitals.ask(
            "frequency", data, key="disease", receivers=[RECEIVER], result_alias="n"
        )
        return answer.by("disease", value="n")[("hiv",)]

    assert counted(10) == "90"
    assert counted(10) == "90"
    assert counted(30) == "110"


@pytest.mark.parametrize("cells", quick(["each", "pooled"], 1))
def test_a_few_who_came_to_have_no_value(hospitals: Hospitals, cells: str) -> None:
    """They are a value, too, where values are counted."""
    hospitals.allow(cells=cells, min_providers=2)
    frames = {user: people(user, 40, 100) for user in USERS}
    for frame in frames.values():
        frame.loc[40:59, "disease"] = None
    first = ask(hospitals, "frequency", frames)
    assert first.by("disease", value="n")[("",)] == "60"
    # Thirty people fewer, one of them without a value.
    left = frames[2].drop(index=[59, *range(100, 129)])
    again = ask(hospitals, "frequency", {**frames, 2: left})
    assert again.by("disease", value="n").get(("",), "") == ""


@pytest.mark.parametrize("edge", [30, 31])
def test_edges_that_are_moved_count_nobody_between(
    hospitals: Hospitals, edge: int
) -> None:
    frames = {user: people(user, 40, 100) for user in USERS}
    for frame in frames.values():
        frame.loc[139, "age"] = 30.5
    first = ask(hospitals, "histogram", frames, bins=[0, 30, 60, 90])
    assert first.by("lower", "upper", value="n")["0.0", "30.0"] == "150"
    again = ask(hospitals, "histogram", frames, bins=[0, edge, 60, 90])
    found = again.by("lower", "upper", value="n")["0.0", f"{edge:.1f}"]
    # One person of each hospital lies between the two edges.
    assert found == ("150" if edge == 30 else "")
