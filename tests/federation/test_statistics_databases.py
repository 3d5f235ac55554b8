"""Categories, derived columns and missing values of joint statistics over three kinds of
databases and a file: the answers are those of the pooled table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from tests.made_databases import MARIADB, POSTGRES, create_schema, drop_schema
from tests.made_statistics import (
    Answered,
    Hospitals,
    make_hospitals,
    no_waiting_for_disks,
)

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

SCHEMA = f"consilium_rows_{os.getpid()}"
PATHS = {2: "patients.csv", 3: f"{SCHEMA}.rows", 4: f"{SCHEMA}.rows", 5: "data.rows"}
KINDS = {
    "id": "INTEGER",
    "age": "NUMERIC(5, 1)",
    "chol": "BIGINT",
    "cost": "DOUBLE PRECISION",
    "cp": "SMALLINT",
    "sex": "CHAR(3)",
}


def patients(user: int, n: int = 80) -> pd.DataFrame:
    rng = np.random.default_rng(user)
    codes = rng.integers(1, 4, n)
    codes[:6], codes[6:12] = 8, 9
    frame = pd.DataFrame({"id": np.arange(n) + 1000 * user})
    frame["age"] = np.round(rng.uniform(20, 90, n), 1)
    frame["chol"] = rng.integers(100, 400, n)
    frame["cost"] = np.round(rng.normal(100, 20, n), 2)
    frame["cp"] = codes
    frame["sex"] = np.where(rng.random(n) < 0.5, "F", "M")
    frame.loc[20:34, "age"] = np.nan
    return frame


FRAMES = {user: patients(user) for user in PATHS}
POOLED = pd.concat(FRAMES.values(), ignore_index=True)


def write(engine: sa.Engine, frame: pd.DataFrame) -> None:
    columns = ", ".join(f"{name} {kind}" for name, kind in KINDS.items())
    values = ", ".join(f":{name}" for name in frame.columns)
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {SCHEMA}.rows ({columns})")
        connection.execute(
            sa.text(f"INSERT INTO {SCHEMA}.rows VALUES ({values})"), rows
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    """Hospital 2 keeps a file and its codes as texts of doubles, 3 is on PostgreSQL, 4 on
    MariaDB, 5 on DuckDB.
    """
    hospitals = make_hospitals(tmp_path_factory.mktemp("sites"), PATHS)
    texts = FRAMES[2].assign(cp=[f"{code}.0" for code in FRAMES[2]["cp"]])
    hospitals.write(2, PATHS[2], texts)
    hospitals.write(5, PATHS[5], FRAMES[5])
    for user, url in ((3, POSTGRES), (4, MARIADB)):
        create_schema(url, SCHEMA)
        write(sa.create_engine(url, poolclass=sa.pool.NullPool), FRAMES[user])
        hospitals.sites[user] = replace(hospitals.sites[user], data_url=url)
        text = hospitals.policies[user]
        hospitals.policies[user] = text.replace('"data.rows"', f'"{SCHEMA}.rows"')
    with no_waiting_for_disks():
        yield hospitals
    for url in (POSTGRES, MARIADB):
        drop_schema(url, SCHEMA)


@pytest.fixture
def hospitals(made: Hospitals) -> Hospitals:
    made.forget()
    made.allow(max_share=1, min_rows=3, row_expressions=True, exact_quantiles=True)
    return made


def ask(hospitals: Hospitals, method: str, **fields: Any) -> Answered:
    return hospitals.ask(method, PATHS, receivers=[2], **fields)


def test_levels_are_one_whatever_the_column_s_type(hospitals: Hospitals) -> None:
    hospitals.allow(max_share=1, min_rows=7)
    answer = ask(hospitals, "frequency", key="cp", categorical={"cp": {}})
    codes = POOLED["cp"].astype(str).where(POOLED["cp"] < 8, "other")
    assert answer.by("cp", value="frequency") == {
        (level,): str(n) for level, n in codes.value_counts().items()
    }


def test_derived_groups_over_complete_rows(hospitals: Hospitals) -> None:
    answer = ask(
        hospitals,
        "avg",
        key="cost",
        group_by=["kind"],
        derive={"kind": "case when age >= 60 and sex = 'F' then 1 else 0 end"},
        missing="drop",
    )
    complete = POOLED.dropna(subset=["age"])
    kind = ((complete["age"] >= 60) & (complete["sex"] == "F")).astype(int).astype(str)
    found = {label: float(v) for (label,), v in answer.by("kind", value="avg").items()}
    assert found == pytest.approx(dict(complete.groupby(kind)["cost"].mean()))
    assert answer.summary["flow"]["all"] == {
        "selected": 320,
        "left_out": 60,
        "used": 260,
    }


@pytest.mark.parametrize("method", ["avg", "var", "median"])
def test_functions_of_columns(hospitals: Hospitals, method: str) -> None:
    answer = ask(hospitals, method, key="rate", derive={"rate": "ln(chol) * cost / 7"})
    rate = np.log(POOLED["chol"]) * POOLED["cost"] / 7
    of = {"avg": "mean"}.get(method, method)
    assert answer.number == pytest.approx(getattr(rate, of)(), rel=1e-12)


def test_means_in_the_place_of_gaps(hospitals: Hospitals) -> None:
    answer = ask(hospitals, "std", key="age", missing="mean")
    filled = POOLED["age"].fillna(POOLED["age"].mean())
    assert answer.number == pytest.approx(filled.std(), rel=1e-12)


def test_gaps_are_named(hospitals: Hospitals) -> None:
    error = hospitals.refused("avg", PATHS, key="age", missing="refuse")
    assert error.code == "null"
    assert "without a value (NULL) in age" in str(error)
