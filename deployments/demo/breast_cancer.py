"""The demonstration's data: scikit-learn's breast cancer table.

It is split as in the request document.

`id` is the 0-based row number, y the target; x0..x9 are the "worst" columns, x10..x19
the means, x20..x29 the standard errors, each z-scored over all 569 rows with the
population deviation and kept to 6 decimals. Only the split is stored.
"""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from protocol.machine.disk import make_private_folder, put_in_place

_SPLIT = Path(__file__).with_name("breast_cancer_split.json")


def breast_cancer_tables() -> dict[str, pd.DataFrame]:
    """Tables by part: guest (227 rows), host (228), test (114)."""
    # A second of a processor, which no start needs that finds its tables made.
    from sklearn.datasets import load_breast_cancer

    everything = load_breast_cancer()
    measurements = everything.data
    mean = measurements.mean(axis=0)
    deviation = measurements.std(axis=0)
    scores = (measurements - mean) / deviation
    # scikit-learn's order: means, standard errors, worst.
    means = scores[:, 0:10]
    standard_errors = scores[:, 10:20]
    worst = scores[:, 20:30]
    columns = np.hstack([worst, means, standard_errors])
    n_columns = columns.shape[1]
    column_names = [f"x{number}" for number in range(n_columns)]
    rounded = np.round(columns, 6)
    frame = pd.DataFrame(rounded, columns=column_names)
    numbers = np.arange(len(frame))
    frame.insert(0, "id", numbers)
    frame.insert(1, "y", everything.target)
    split_text = _SPLIT.read_text()
    split = json.loads(split_text)
    tables = {}
    for part, ids in split.items():
        rows = frame.iloc[ids]
        tables[part] = rows.reset_index(drop=True)
    return tables


def make_database(
    path: Path,
    tables: dict[str, pd.DataFrame],
) -> None:
    """A hospital's DuckDB file with these tables in schema data.

    A file that is there already stays as it is.
    """
    if path.exists():
        return
    make_private_folder(path.parent)
    # Under another name until it is whole: who dies here leaves no half database.
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with duckdb.connect(str(unfinished)) as connection:
        connection.execute("CREATE SCHEMA data")
        for table_name, frame in tables.items():
            connection.register("frame", frame)
            copy = f'CREATE TABLE data."{table_name}" AS SELECT * FROM frame'  # noqa: S608
            connection.execute(copy)
            connection.unregister("frame")
    put_in_place(unfinished, path)
