"""Patients of a study at the four hospitals of one machine, and where each keeps them.

`patients` is scikit-learn's diabetes table (442 patients; Efron, Hastie, Johnstone and
Tibshirani 2004), dealt unevenly, with gaps; `followup` is drawn from a seed, because no
open table of several hospitals has survival times. One hospital keeps its tables in
PostgreSQL and one in MariaDB where an address of theirs is given, all others in DuckDB.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import sqlalchemy as sa

from deployments.demo.breast_cancer import make_database

HOSPITALS = (2, 3, 4, 5)
N_PATIENTS = {
    2: 190,
    3: 105,
    4: 85,
    5: 62,
}
N_FOLLOWED = {
    2: 480,
    3: 330,
    4: 290,
    5: 260,
}
GAPS = 0.04
"""Of body mass index and blood pressure, each."""

_SEED = 20_260_202
_LONGEST_DAYS = 900
_WITH_SCHEMA = ("postgresql",)
"""Databases in which a schema is made; MariaDB's is the database of the address."""


def study_tables() -> dict[int, dict[str, pd.DataFrame]]:
    """By hospital its two tables."""
    patients = _patients()
    tables = {}
    first_row = 0
    for hospital in HOSPITALS:
        last_row = first_row + N_PATIENTS[hospital]
        rows = patients.iloc[first_row:last_row]
        tables[hospital] = {
            "patients": rows.reset_index(drop=True),
            "followup": _followup(hospital),
        }
        first_row = last_row
    return tables


def _patients() -> pd.DataFrame:
    """`high` is whether the disease's progression is above the median."""
    # A second of a processor, which no start needs that shows something else.
    from sklearn.datasets import load_diabetes

    published = load_diabetes(scaled=False, as_frame=True).frame
    n_rows = len(published)
    shuffler = np.random.default_rng(_SEED)
    order = shuffler.permutation(n_rows)
    shuffled = published.iloc[order]
    shuffled = shuffled.reset_index(drop=True)
    is_male = shuffled["sex"] == 1
    progression = shuffled["target"]
    is_high = progression > progression.median()
    columns = {
        "id": np.arange(1, n_rows + 1),
        "age": shuffled["age"].astype(int),
        "sex": np.where(is_male, "M", "F"),
        "bmi": shuffled["bmi"],
        "bp": shuffled["bp"],
        "ldl": shuffled["s2"],
        "progression": progression.astype(int),
        "high": is_high.astype(int),
    }
    frame = pd.DataFrame(columns)
    # Its own draws: gaps stay where they are whatever is drawn for the order of rows.
    generator = np.random.default_rng([_SEED, 1])
    for column in ("bmi", "bp"):
        draws = generator.uniform(size=n_rows)
        is_missing = draws < GAPS
        frame.loc[is_missing, column] = np.nan
    return frame


def _followup(hospital: int) -> pd.DataFrame:
    """Days until death or the end of follow-up; arm b halves the hazard, about."""
    n_rows = N_FOLLOWED[hospital]
    generator = np.random.default_rng([_SEED, 2, hospital])
    years = generator.normal(63, 9, n_rows).round()
    age = years.astype(int)
    arm = generator.choice(["a", "b"], n_rows)
    of_age = 0.04 * (age - 63)
    of_arm = 0.7 * (arm == "b")
    # Hospitals differ in whom they treat: the baseline is each one's own.
    of_hospital = 0.2 * (hospital - 3)
    hazard = np.exp(of_age - of_arm + of_hospital) / 500
    until_death = np.ceil(generator.exponential(1 / hazard))
    until_end = np.ceil(
        generator.uniform(
            366,
            _LONGEST_DAYS,
            n_rows,
        )
    )
    days = np.minimum(until_death, until_end)
    has_died = until_death <= until_end
    columns = {
        "id": 1000 * hospital + np.arange(n_rows),
        "age": age,
        "arm": arm,
        "days": days.astype(int),
        "died": has_died.astype(int),
    }
    return pd.DataFrame(columns)


def put_tables(
    url: str,
    tables: Mapping[str, pd.DataFrame],
) -> None:
    """Writes a hospital's tables into its database, in schema `data` but of MariaDB.

    A DuckDB file that is there stays as it is; elsewhere tables of these names are made
    anew. Raises sqlalchemy's errors for a database that cannot be reached.
    """
    address = sa.make_url(url)
    if address.drivername == "duckdb":
        assert address.database is not None
        make_database(Path(address.database), dict(tables))
        return
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            schema = None
            if address.get_backend_name() in _WITH_SCHEMA:
                schema = "data"
                connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS data"))
            for table_name, frame in tables.items():
                frame.to_sql(
                    table_name,
                    connection,
                    schema=schema,
                    index=False,
                    if_exists="replace",
                )
    finally:
        engine.dispose()


def kind_of(url: str) -> str:
    """duckdb, postgresql or mysql."""
    return sa.make_url(url).get_backend_name()


def schema_of(url: str) -> str:
    """Under which schema the tables are named in orders and policies."""
    address = sa.make_url(url)
    if kind_of(url) in ("mysql", "mariadb"):
        assert address.database is not None
        return address.database
    return "data"
