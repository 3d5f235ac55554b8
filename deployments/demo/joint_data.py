"""Files for joint statistics at the three hospitals of one machine.

Laboratory values are those of scikit-learn's diabetes table (442 patients; Efron,
Hastie, Johnstone and Tibshirani 2004), dealt to the hospitals in turn. Prices and units
of a drug are drawn, because no open table has them: the first hospital has the price,
each has the units that it gave; most patients were at all three.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from protocol.machine.disk import make_private_folder, put_in_place

PRICES = "drug_prices.csv"
UNITS = "drug_units.csv"
DOSE_LIMIT = 450
"""Units over a life, as for doxorubicin in mg per square metre."""

LAB_VALUES = {
    2: "lab_values.csv",
    3: "lab_values.csv",
    4: "lab_values.parquet",
}
"""By hospital; one keeps them as parquet, where numbers are doubles, the others as
decimals in text.
"""

_N_PATIENTS = 120
_SEED = 20_260_101


def make_data_files(folder: Path, user_id: int) -> None:
    """Writes those that are missing; a file that is there stays as it is.

    None for a hospital other than the three.
    """
    for file_name in _file_names(user_id):
        file_path = folder / file_name
        if file_path.exists():
            continue
        make_private_folder(folder)
        unfinished = file_path.with_name(f".{file_name}.new")
        frame = _file(file_name, user_id)
        is_parquet = file_path.suffix == ".parquet"
        _write(frame, unfinished, as_parquet=is_parquet)
        put_in_place(unfinished, file_path)


def _file_names(user_id: int) -> list[str]:
    if user_id not in LAB_VALUES:
        return []
    file_names = [LAB_VALUES[user_id], UNITS]
    # One hospital has the price: a product needs two hospitals' columns.
    if user_id == min(LAB_VALUES):
        file_names.append(PRICES)
    return file_names


def _file(name: str, user_id: int) -> pd.DataFrame:
    if name == UNITS:
        return _units(user_id)
    if name == PRICES:
        return _prices()
    return _lab_values(user_id)


def _write(
    frame: pd.DataFrame,
    path: Path,
    *,
    as_parquet: bool,
) -> None:
    if as_parquet:
        relation = duckdb.from_df(frame)
        relation.write_parquet(str(path))
    else:
        frame.to_csv(path, index=False)


def _lab_values(user_id: int) -> pd.DataFrame:
    """Every third patient.

    Glucose in mg/dl (the table's s6), LDL cholesterol (s2), age and its decade, sex
    (1, 2).
    """
    # A second of a processor, which no start needs that finds its files made.
    from sklearn.datasets import load_diabetes

    published = load_diabetes(scaled=False, as_frame=True).frame
    age = published["age"].astype(int)
    decade_begins = age // 10 * 10
    decade_ends = decade_begins + 9
    decade = decade_begins.astype(str) + "-" + decade_ends.astype(str)
    columns = {
        "patient": np.arange(len(published)),
        "age": age,
        "age_group": decade,
        "sex": published["sex"].astype(int),
        "glucose": published["s6"],
        "ldl": published["s2"],
    }
    frame = pd.DataFrame(columns)
    hospital_place = user_id - min(LAB_VALUES)
    is_own = frame["patient"] % 3 == hospital_place
    rows = frame[is_own]
    return rows.reset_index(drop=True)


def _patients(user_id: int) -> list[int]:
    """Nine in ten of all patients, others at each hospital, in an order of its own."""
    n_drawn = _N_PATIENTS * 9 // 10
    generator = np.random.default_rng([_SEED, user_id])
    shuffled = generator.permutation(_N_PATIENTS)
    drawn_numbers = shuffled[:n_drawn]
    return [1001 + int(number) for number in drawn_numbers]


def _prices() -> pd.DataFrame:
    patients = _patients(0)
    generator = np.random.default_rng([_SEED, 0, 1])
    cents = generator.integers(1_800, 2_600, len(patients))
    # As text: a price is a decimal, which no double holds.
    prices = []
    for price in cents:
        whole = price // 100
        rest = price % 100
        prices.append(f"{whole}.{rest:02}")
    columns = {
        "id_col": patients,
        "unit_price": prices,
    }
    return pd.DataFrame(columns)


def _units(user_id: int) -> pd.DataFrame:
    patients = _patients(user_id)
    generator = np.random.default_rng([_SEED, user_id, 1])
    units = 10 * generator.integers(
        2,
        24,
        len(patients),
    )
    columns = {
        "id_col": patients,
        "units": units,
    }
    return pd.DataFrame(columns)
