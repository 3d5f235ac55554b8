"""Handwritten digits for ten hospitals, each with its own mixture.

They are scikit-learn's 1,797 images of 8x8 pixels.
`id` is the 0-based row number, y the digit, p0..p63 the pixels row by row, 0 to 1.
Hospital k of n (from 0) gets four times its share of the digits k, k + 1 and k + 2
(modulo 10), and hospitals grow from first to last. The images of a digit are dealt in
the table's order, which is by writer, so hospitals differ in handwriting too. Each
fifth row of a hospital is a test row. Nothing is drawn: the tables are the same on
every computer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

PIXELS = [f"p{number}" for number in range(64)]
SHAPE = [8, 8]
HOSPITALS = tuple(range(2, 12))

# The gate's rules for images: most edge pixels are nearly constant, and a network has
# more parameters than rows.
GATE = "min_varying = 1\nmax_parameter_share = 20\nmini_batches = true"

# A cnn of 1,898 weights that tells 19 of 20 test rows after 20 rounds.
RECIPE: dict[str, Any] = {
    "shape": SHAPE,
    "optimizer": "nesterov_momentum_sgd",
    "learning_rate": 0.1,
    "batch_size": 8,
    "penalty": None,
    "standardize": True,
    "eps": 0,
    "max_iter": 20,
}


def digits_tables(
    hospitals: Sequence[int] = HOSPITALS,
) -> dict[int, dict[str, pd.DataFrame]]:
    """Each hospital's tables: `digits` to train on, and `digits_test`.

    Of ten hospitals the first has 116 to 173 rows, the second 28 to 43.
    """
    everything = load_digits()
    digits = everything.target
    pixels = everything.data / 16
    frame = pd.DataFrame(pixels, columns=PIXELS)
    numbers = np.arange(len(frame))
    frame.insert(0, "id", numbers)
    frame.insert(1, "y", digits)
    owner = _owners(digits, len(hospitals))
    tables = {}
    for hospital_place, user_id in enumerate(hospitals):
        rows = frame[owner == hospital_place]
        tables[user_id] = _tables(rows)
    return tables


def _owners(digits: Any, n_hospitals: int) -> Any:
    """Which hospital, counted from 0, has each row."""
    owner = np.empty(len(digits), dtype=np.int64)
    hospital_places = np.arange(n_hospitals)
    for digit in range(10):
        is_favourite = (digit - hospital_places) % 10 < 3
        favour = np.where(is_favourite, 4, 1)
        weights = (20 + hospital_places) * favour
        rows = np.flatnonzero(digits == digit)
        n_rows = len(rows)
        # Hospital k has the rows up to ends[k], from where the one before it ends.
        ends = n_rows * np.cumsum(weights) // weights.sum()
        numbers = np.arange(n_rows)
        owner[rows] = np.searchsorted(
            ends,
            numbers,
            side="right",
        )
    return owner


def _tables(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    numbers = np.arange(len(rows))
    is_tested = numbers % 5 == 4
    trained = rows[~is_tested]
    tested = rows[is_tested]
    return {
        "digits": trained.reset_index(drop=True),
        "digits_test": tested.reset_index(drop=True),
    }


def digits_order(
    hospitals: Sequence[int] = HOSPITALS,
    **params: Any,
) -> dict[str, Any]:
    """The body of an order that trains a cnn on these tables.

    The first hospital orders; `params` replace those of the recipe.
    """
    user_ids = [str(user_id) for user_id in hospitals]
    trained = dict.fromkeys(user_ids, "SELECT * FROM data.digits")
    tested = dict.fromkeys(user_ids, "SELECT * FROM data.digits_test")
    initiator, *others = hospitals
    return {
        "user_id": initiator,
        "party_id": others,
        "model_type": "cnn",
        "data_info": trained,
        "test_data_info": tested,
        "unique_id": "id",
        "attributes": PIXELS,
        "label_name": "y",
        "model_params": {**RECIPE, **params},
    }
