"""Four hospitals' tables of heart disease, as raw as such tables are: codes, gaps, an
impossible zero, levels that one hospital lacks.

Made from a seed in the shape of the UCI Machine Learning Repository's Heart Disease
tables (Janosi, Steinbrunn, Pfisterer, Detrano 1988); those themselves are read from the
folder that CONSILIUM_TEST_DATA names, where it is set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analytics.training.design import natural_spline

N_PATIENTS = {"cleveland": 303, "hungarian": 294, "switzerland": 123, "longbeach": 200}
USERS = {"cleveland": 2, "hungarian": 3, "switzerland": 4, "longbeach": 5}

# What a study orders of these tables.
STUDY: dict[str, Any] = {
    "attributes": [
        "age",
        "cp",
        "restecg",
        "log_bp",
        "thalach",
        "old",
        "age_bp",
        "oldpeak",
        "age_ns",
    ],
    "categorical": {"cp": {"reference": 4}, "restecg": {}},
    "derive": {
        "log_bp": "ln(trestbps)",
        "old": "age >= 65",
        "age_bp": "age * trestbps / 100",
        "age_ns": "ns(age, 35, 55, 70)",
    },
}
PLAIN = ["age", "cp", "restecg", "trestbps", "thalach", "oldpeak"]


def made_tables(seed: int = 7) -> dict[int, pd.DataFrame]:
    """By hospital: id, six columns, and y, whether there is disease."""
    rng = np.random.default_rng(seed)
    tables: dict[int, pd.DataFrame] = {}
    for name, n in N_PATIENTS.items():
        frame = pd.DataFrame({"id": np.arange(1, n + 1)})
        frame["age"] = rng.integers(29, 78, n)
        shares = [0.1, 0.2, 0.3, 0.4] if name != "switzerland" else [0, 0.2, 0.2, 0.6]
        frame["cp"] = rng.choice([1, 2, 3, 4], n, p=shares)
        frame["restecg"] = rng.choice([0, 1, 2], n, p=[0.5, 0.25, 0.25])
        frame["trestbps"] = np.round(rng.normal(132, 18, n))
        frame["thalach"] = np.round(rng.normal(140, 25, n))
        frame["oldpeak"] = np.round(np.maximum(rng.normal(0.9, 1.1, n), 0), 1)
        risk = 0.05 * (frame.age - 54) + 0.8 * (frame.cp == 4) + 0.5 * frame.oldpeak
        frame["y"] = (rng.random(n) < 1 / (1 + np.exp(1 - risk))).astype(int)
        # A pressure of 0 is none: its logarithm does not exist.
        zeros = rng.choice(n, 12, replace=False)
        frame.loc[zeros, "trestbps"] = 0
        for column in ("trestbps", "thalach", "oldpeak"):
            n_gaps = n // 12
            frame.loc[rng.choice(n, n_gaps, replace=False), column] = np.nan
        tables[USERS[name]] = frame
    return tables


def heart_tables() -> dict[int, pd.DataFrame]:
    """The repository's own tables; skips where they are not."""
    named = os.environ.get("CONSILIUM_TEST_DATA", "")
    folder = Path(named) / "heart"
    if not named or not folder.is_dir():
        pytest.skip("CONSILIUM_TEST_DATA names no folder with heart/")
    tables: dict[int, pd.DataFrame] = {}
    for name, user in USERS.items():
        frame = pd.read_csv(folder / f"{name}.csv")
        frame["y"] = (frame["num"] > 0).astype(int)
        tables[user] = frame[["id", *PLAIN, "y"]]
    return tables


# What one table of all hospitals' rows gives


def derived_by_hand(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that STUDY derives, by numpy."""
    made = frame.copy()
    with np.errstate(divide="ignore"):
        logarithm = np.log(made["trestbps"].to_numpy(dtype=float))
    made["log_bp"] = np.where(np.isfinite(logarithm), logarithm, np.nan)
    made["old"] = (made["age"] >= 65).astype(float)
    made["age_bp"] = made["age"] * made["trestbps"] / 100
    return made


def used_rows(
    tables: dict[int, pd.DataFrame], missing: dict[str, Any]
) -> dict[int, pd.DataFrame]:
    """By hospital the rows that the order is over, in order of ids."""
    decide = missing.get("complete_on")
    if decide is None:
        decide = [name for name in STUDY["attributes"] if name != "age_ns"]
    found: dict[int, pd.DataFrame] = {}
    for user, frame in tables.items():
        made = derived_by_hand(frame).sort_values("id")
        found[user] = made.dropna(subset=decide).reset_index(drop=True)
    return found


def pooled_design(rows: dict[int, pd.DataFrame], *, reference: str) -> Any:
    """The matrix of the pooled rows by scikit-learn, hospital after hospital."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    pooled = pd.concat(rows.values(), ignore_index=True)
    parts: list[Any] = []
    for name in STUDY["attributes"]:
        if name in STUDY["categorical"]:
            levels = sorted(pooled[name].unique())
            given = STUDY["categorical"][name].get("reference")
            drop = float(reference) if given is None else given
            part: Any = OneHotEncoder(
                categories=[levels], drop=[drop], sparse_output=False
            )
            column = name
        elif name == "age_ns":
            part, column = FunctionTransformer(_spline), "age"
        else:
            part, column = SimpleImputer(), name
        parts.append((name, part, [column]))
    return ColumnTransformer(parts).fit_transform(pooled)


def _spline(column: Any) -> Any:
    return natural_spline(np.asarray(column, dtype=float).ravel(), (35, 55, 70))
