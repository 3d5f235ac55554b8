"""The csv beside each picture of the hospital's own page: read again, it has the report's
numbers to the last digit, and what is drawn lies where they say.
"""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import numpy as np
import pytest

from agents.page import curves, forest
from agents.page.report import shown_evaluation
from agents.training.report_text import as_csv, evaluation_as_csv

RNG = np.random.default_rng(17)


def digits(n: int) -> list[float]:
    """Numbers with all 17 digits, none of them at an edge."""
    return [float(number) for number in RNG.uniform(0.1, 0.9, n)]


def term(name: str) -> dict[str, Any]:
    low, estimate, high = sorted(digits(3))
    found: dict[str, Any] = {"term": name, "se": digits(1)[0], "p": None}
    found |= {"low": low, "estimate": estimate, "high": high}
    for ending, value in (("", estimate), ("_low", low), ("_high", high)):
        found[f"odds_ratio{ending}"] = math.exp(value)
    return found


REPORT = {"terms": [term("age"), term("sex[M]"), term("bmi")], "n": 300}
EVALUATED: dict[str, Any] = {
    "n": 340,
    "n_left_out": 0,
    "metrics": {"auc": digits(1)[0], "brier": digits(1)[0]},
    "roc": [
        {"threshold": threshold, "sensitivity": sensitivity, "specificity": specificity}
        for threshold, sensitivity, specificity in zip(
            digits(4), sorted(digits(4)), sorted(digits(4), reverse=True), strict=True
        )
    ],
    "calibration": [
        {
            "low": low,
            "high": high,
            "n": 85,
            "predicted": predicted,
            "observed": observed,
        }
        for low, high, predicted, observed in zip(
            digits(4), digits(4), sorted(digits(4)), digits(4), strict=True
        )
    ],
}


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def number(text: str) -> float | None:
    return float(text) if text else None


def test_the_csv_of_a_forest_plot_has_the_reports_numbers() -> None:
    again = rows_of(as_csv(REPORT))
    assert [row["term"] for row in again] == ["age", "sex[M]", "bmi"]
    for row, told in zip(again, REPORT["terms"], strict=True):
        for name in told.keys() - {"term"}:
            assert number(row[name]) == told[name]
    picture = forest.draw(REPORT)
    assert picture is not None
    # On an axis of logarithms a line is as long as its interval is wide.
    rates = []
    for drawn, row in zip(picture.rows, again, strict=True):
        width = float(row["high"]) - float(row["low"])
        rates.append((drawn.high - drawn.low) / width)
        share = (float(row["estimate"]) - float(row["low"])) / width
        assert drawn.x == pytest.approx(
            drawn.low + share * (drawn.high - drawn.low), abs=0.2
        )
    assert rates == pytest.approx([rates[0]] * 3, rel=0.01)


@pytest.mark.parametrize("table", ["roc", "calibration"])
def test_the_csv_of_a_curve_has_the_evaluations_numbers(table: str) -> None:
    again: list[dict[str, float]] = [{} for _ in EVALUATED[table]]
    for row in rows_of(evaluation_as_csv(EVALUATED)):
        if row["table"] == table:
            again[int(row["line"]) - 1][row["name"]] = float(row["value"])
    assert again == EVALUATED[table]
    kept = {"model_id": 4, "report": EVALUATED}
    charts = {chart.name: chart for chart in shown_evaluation(kept)["charts"]}
    line = charts[f"picture.{table}"].lines[-1]
    drawn = [tuple(map(float, place.split(","))) for place in line.points.split()]
    if table == "roc":
        # The corners are nobody's numbers.
        drawn = drawn[1:-1]
        wanted = [(1 - row["specificity"], row["sensitivity"]) for row in again]
    else:
        wanted = [(row["predicted"], row["observed"]) for row in again]
    for (x, y), (across, up) in zip(drawn, wanted, strict=True):
        assert (x - curves.LEFT) / curves.PLOT_WIDTH == pytest.approx(across, abs=1e-3)
        assert (y - curves.TOP) / curves.PLOT_HEIGHT == pytest.approx(1 - up, abs=1e-3)


def test_people_find_a_line_by_what_stands_first() -> None:
    tables = shown_evaluation({"model_id": 4, "report": EVALUATED})["tables"]
    assert list(tables["calibration"][0])[:3] == ["low", "high", "n"]
    assert next(iter(tables["roc"][0])) == "threshold"
