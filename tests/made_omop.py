"""An OMOP CDM of a hospital, made from a seed: persons, conditions and measurements, as
many as a cohort definition needs.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

DEFINITION = Path(__file__).parents[1] / "deployments/sites/cohorts/diabetes_v1.sql"
DIABETES, KIDNEY, HBA1C, PRESSURE = 201826, 46271022, 3004410, 3004249
COVARIATES = ["age", "female", "hba1c", "sbp"]
OTHERS = (320128, 255848)
"""Conditions that the definition does not ask for."""


def omop_tables(seed: int, n_persons: int = 300) -> dict[str, pd.DataFrame]:
    """By name the tables person, condition_occurrence and measurement."""
    rng = np.random.default_rng(seed)
    ids = 100_000 * seed + np.arange(n_persons)
    person = pd.DataFrame(
        {
            "person_id": ids,
            "gender_concept_id": rng.choice([8507, 8532], n_persons),
            "year_of_birth": rng.integers(1930, 1990, n_persons),
        }
    )
    conditions: list[tuple[int, int, pd.Timestamp]] = []
    measurements: list[tuple[int, int, pd.Timestamp, float]] = []
    for place, one in enumerate(ids.tolist()):
        index = pd.Timestamp("2015-01-01") + pd.Timedelta(days=int(rng.integers(900)))
        later = index + pd.Timedelta(days=200)
        conditions.append((one, int(rng.choice(OTHERS)), index))
        # Every sixth person has no second diagnosis, or none at all.
        for day in [index, later][: 2 - (place % 6 == 0) - (place % 12 == 0)]:
            conditions.append((one, DIABETES, day))
        hba1c = round(float(rng.normal(7.5, 1.2)), 1)
        pressure = round(float(rng.normal(140, 15)))
        risk = 1 / (1 + np.exp(-(hba1c - 7.5) - (pressure - 140) / 20))
        if rng.random() < risk:
            conditions.append((one, KIDNEY, index + pd.Timedelta(days=700)))
        before = index - pd.Timedelta(days=30)
        measurements.append((one, HBA1C, before, hba1c))
        measurements.append((one, HBA1C, later, hba1c + 5))
        measurements.append((one, PRESSURE, before, float(pressure)))
    names = ["person_id", "condition_concept_id", "condition_start_date"]
    occurrences = pd.DataFrame(conditions, columns=names)
    occurrences.insert(0, "condition_occurrence_id", range(len(occurrences)))
    names = ["person_id", "measurement_concept_id", "measurement_date"]
    measured = pd.DataFrame(measurements, columns=[*names, "value_as_number"])
    measured.insert(0, "measurement_id", range(len(measured)))
    return {
        "person": person,
        "condition_occurrence": occurrences,
        "measurement": measured,
    }


def fill_omop(path: Path, tables: dict[str, pd.DataFrame]) -> None:
    """The tables in the schema omop of a DuckDB file, dates as dates."""
    with duckdb.connect(str(path)) as database:
        database.execute("CREATE SCHEMA IF NOT EXISTS omop")
        for name, frame in tables.items():
            database.register("frame", frame)
            cells = [
                f"CAST({column} AS DATE) AS {column}"
                if column.endswith("_date")
                else column
                for column in frame.columns
            ]
            database.execute(
                f"CREATE OR REPLACE TABLE omop.{name} AS SELECT {', '.join(cells)} FROM frame"
            )


def expected_cohort(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """What the definition says, by pandas."""
    conditions = tables["condition_occurrence"]
    diabetes = conditions[conditions.condition_concept_id == DIABETES]
    days = diabetes.groupby("person_id").condition_start_date.agg(["min", "count"])
    found = tables["person"].set_index("person_id").join(days, how="inner")
    found = found[found["count"] >= 2]
    found["age"] = found["min"].dt.year - found.year_of_birth
    found = found[found.age >= 18]
    found["female"] = (found.gender_concept_id == 8532).astype(int)
    measured = tables["measurement"].set_index("person_id")
    for name, concept in (("hba1c", HBA1C), ("sbp", PRESSURE)):
        of_concept = measured[measured.measurement_concept_id == concept]
        of_concept = of_concept.join(found["min"], how="inner")
        before = of_concept[of_concept.measurement_date <= of_concept["min"]]
        found[name] = before.groupby("person_id").value_as_number.last()
    kidney = conditions[conditions.condition_concept_id == KIDNEY].person_id
    found["ckd"] = found.index.isin(kidney).astype(int)
    return found[[*COVARIATES, "ckd"]].reset_index().sort_values("person_id")
