"""The pictures of docs/notebook.md: what they show is what one table of all rows of the
demonstration's study gives, and their numbers lie beside them.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deployments.demo import study_beside
from deployments.demo.study import COVARIATES, TIMES, TRAINED
from deployments.demo.study_data import study_tables
from deployments.demo.study_figures import draw_forest, draw_survival
from tests.conftest import ROOT

IMAGES = ROOT / "docs" / "images"
REPORTED = ["odds_ratio", "odds_ratio_low", "odds_ratio_high"]
NORMAL = 1.959963984540054
MOST_BYTES = 40_000


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_forest_plot_has_the_odds_ratios_of_all_rows() -> None:
    numbers = pd.read_csv(IMAGES / "study-forest.csv", index_col="term")
    tables = study_tables()
    rows = pd.concat(tables[user]["patients"] for user in TRAINED)
    rows = rows.dropna(subset=COVARIATES)
    X = rows[COVARIATES].assign(sex=(rows["sex"] == "M").astype(float))
    y = rows["high"].to_numpy(float)
    _, *terms = study_beside.logistic(X.to_numpy(float), y)
    assert list(numbers.index) == ["age", "sex[M]", "bmi", "bp"]
    for shown, term in zip(numbers.to_numpy().tolist(), terms, strict=True):
        ends = (0.0, -NORMAL * term.error, NORMAL * term.error)
        wanted = [np.exp(term.value + end) for end in ends]
        assert np.allclose(shown, wanted, rtol=1e-9)


def test_the_survival_curves_have_the_numbers_at_risk_of_all_rows() -> None:
    numbers = pd.read_csv(IMAGES / "study-survival.csv")
    assert set(numbers["time"]) == {0.0, *TIMES}
    everyone = pd.concat(table["followup"] for table in study_tables().values())
    compared: study_beside.Pairs = []
    study_beside.curves(numbers, everyone, compared)
    # Who is at risk at each time of each arm, and the curve where it is exact.
    assert len(compared) == len(numbers) + (numbers["kind"] == "exact").sum()
    for shown, wanted in compared:
        assert shown == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("name", ["study-forest", "study-survival"])
def test_a_picture_is_drawn_of_the_numbers_beside_it(tmp_path: Path, name: str) -> None:
    numbers = pd.read_csv(IMAGES / f"{name}.csv")
    if name == "study-forest":
        names = dict(zip(["value", "low", "high"], REPORTED, strict=True))
        draw_forest(tmp_path, numbers.set_index("term").rename(columns=names))
    else:
        draw_survival(tmp_path, numbers)
    kept, drawn = (IMAGES / f"{name}.svg").read_text(), tmp_path / f"{name}.svg"
    # Not byte for byte: another matplotlib writes another file of the same picture.
    assert texts(kept) == texts(drawn.read_text())
    assert len(kept) < MOST_BYTES
    csv = (IMAGES / f"{name}.csv").read_text()
    assert csv == (tmp_path / f"{name}.csv").read_text()
