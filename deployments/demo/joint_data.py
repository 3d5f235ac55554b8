"""Files for joint statistics at the three hospitals of one machine, each in its own data folder.

Laboratory values are those of scikit-learn's diabetes table (442 patients; Efron, Hastie, Johnstone and Tibshirani
2004), dealt to the hospitals in turn. Prices and units of a drug are drawn, because no open table has them: the first
hospital has the price, each has the units that it gave; most patients were at all three.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes

from protocol.machine.disk import make_private_folder, put_in_place

PRICES, UNITS = "drug_prices.csv", "drug_units.csv"
DOSE_LIMIT = 450
"""Units over a life, as for doxorubicin in mg per square metre."""

LAB_VALUES = {2: "lab_values.csv", 3: "lab_values.csv", 4: "lab_values.parquet"}
"""By hospital; one keeps them as parquet, where numbers are doubles, the others as decimals in text."""

_N_PATIENTS = 120
_SEED = 20_260_101


def data_files(user_id: int) -> dict[str, pd.DataFrame]:
    """A hospital's files by name; none for a hospital other than the three."""
    if user_id not in LAB_VALUES:
        return {}
    files = {LAB_VALUES[user_id]: _lab_values(user_id), UNITS: _units(user_id)}
    return {**files, PRICES: _prices()} if user_id == min(LAB_VALUES) else files


def make_data_files(folder: Path, user_id: int) -> None:
    """Writes those that are missing; a file that is there stays as it is."""
    for name, frame in data_files(user_id).items():
        path = folder / name
        if not path.exists():
            make_private_folder(folder)
            unfinished = path.with_name(f".{name}.new")
            _write(frame, unfinished, as_parquet=path.suffix == ".parquet")
            put_in_place(unfinished, path)


def _write(frame: pd.DataFrame, path: Path, *, as_parquet: bool) -> None:
    if as_parquet:
        duckdb.from_df(frame).write_parquet(str(path))
    else:
        frame.to_csv(path, index=False)


def _lab_values(user_id: int) -> pd.DataFrame:
    """Every third patient: glucose in mg/dl (the table's s6), LDL cholesterol (s2), age and its decade, sex (1, 2)."""
    table = load_diabetes(scaled=False, as_frame=True).frame
    age = table["age"].astype(int)
    decade_begins = age // 10 * 10
    decade = decade_begins.astype(str) + "-" + (decade_begins + 9).astype(str)
    columns = {
        "patient": np.arange(len(table)),
        "age": age,
        "age_group": decade,
        "sex": table["sex"].astype(int),
        "glucose": table["s6"],
        "ldl": table["s2"],
    }
    frame = pd.DataFrame(columns)
    return frame[frame["patient"] % 3 == user_id - min(LAB_VALUES)].reset_index(drop=True)


def _patients(user_id: int) -> list[int]:
    """Nine in ten of all patients, others at each hospital, in an order of its own."""
    drawn = np.random.default_rng([_SEED, user_id]).permutation(_N_PATIENTS)[: _N_PATIENTS * 9 // 10]
    return [1001 + int(number) for number in drawn]


def _prices() -> pd.DataFrame:
    patients = _patients(0)
    cents = np.random.default_rng([_SEED, 0, 1]).integers(1_800, 2_600, len(patients))
    prices = [f"{cent // 100}.{cent % 100:02}" for cent in cents]
    return pd.DataFrame({"id_col": patients, "unit_price": prices})


def _units(user_id: int) -> pd.DataFrame:
    patients = _patients(user_id)
    units = np.random.default_rng([_SEED, user_id, 1]).integers(2, 24, len(patients)) * 10
    return pd.DataFrame({"id_col": patients, "units": units})
