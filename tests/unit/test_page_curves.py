"""Curves and bars of the hospital's page: where numbers are drawn, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from agents.page import curves
from agents.page.curves import LEFT, PLOT_HEIGHT, PLOT_WIDTH, TOP

EVALUATED: dict[str, Any] = {
    "auc": 0.75,
    "roc": [
        {"threshold": 0.8, "sensitivity": 0.5, "specificity": 1.0},
        {"threshold": 0.2, "sensitivity": 1.0, "specificity": 0.5},
    ],
    "calibration": [
        {
            "low": 0.0,
            "high": 0.5,
            "n": 20,
            "events": 5,
            "predicted": 0.25,
            "observed": 0.25,
        },
        {
            "low": 0.5,
            "high": 1.0,
            "n": 20,
            "events": 15,
            "predicted": 0.75,
            "observed": 0.75,
        },
    ],
}


def point(time: str, survival: str, **more: str) -> dict[str, str]:
    values = {"kind": "kaplan_meier", "time": time, "survival": survival}
    return {**values, "low": "", "high": "", "at_risk": "50", **more}


def places(line: curves.Line) -> list[tuple[float, ...]]:
    return [tuple(map(float, place.split(","))) for place in line.points.split()]


def test_an_roc_curve_goes_from_corner_to_corner() -> None:
    chart = curves.roc(EVALUATED)
    assert chart is not None
    guide, curve = chart.lines
    bottom = TOP + PLOT_HEIGHT
    assert places(curve) == [
        (LEFT, bottom),
        (LEFT, TOP + PLOT_HEIGHT / 2),
        (LEFT + PLOT_WIDTH / 2, TOP),
        (LEFT + PLOT_WIDTH, TOP),
    ]
    assert places(guide)[-1] == (LEFT + PLOT_WIDTH, TOP)


def test_a_calibrated_model_lies_on_the_diagonal() -> None:
    chart = curves.calibration(EVALUATED)
    assert chart is not None
    for dot, share in zip(chart.dots, (0.25, 0.75), strict=True):
        assert dot.x == LEFT + PLOT_WIDTH * share
        assert dot.y == TOP + PLOT_HEIGHT * (1 - share)
    assert "n 20" in chart.dots[0].words


@pytest.mark.parametrize("report", [{}, {"roc": [], "calibration": []}, {"mse": 1.0}])
def test_what_has_no_curve_has_no_picture(report: dict[str, Any]) -> None:
    assert curves.roc(report) is None
    assert curves.calibration(report) is None


def test_survival_goes_down_in_steps_and_says_who_is_at_risk() -> None:
    """Values are texts, as the csv of a result has them."""
    rows = [
        {"arm": "a", **point("5", "0.8", low="0.7", high="0.9", at_risk="40")},
        {"arm": "a", **point("10", "0.5", low="", high="", at_risk="20")},
        {"arm": "b", **point("10", "1.0", at_risk="30")},
        {"arm": "a", **point("", "", kind="median", low="7", high="9")},
    ]
    chart = curves.survival(rows)
    assert chart is not None
    top, bottom = TOP, TOP + PLOT_HEIGHT
    middle, right = LEFT + PLOT_WIDTH / 2, LEFT + PLOT_WIDTH
    curve = next(line for line in chart.lines if line.look == "curve g0")
    at_80 = pytest.approx(top + PLOT_HEIGHT * 0.2)
    assert places(curve) == [
        (LEFT, top),
        (middle, top),
        (middle, at_80),
        (right, at_80),
        (right, (top + bottom) / 2),
    ]
    assert [look for look, _ in chart.legend] == ["g0", "g1"]
    assert [tick.text for tick in chart.at_risk[0].numbers] == ["40", "20"]
    assert chart.at_risk[0].numbers[1].at == right
    # The interval of b is not there; that of a once.
    bands = [line.look for line in chart.lines if line.look.startswith("band")]
    assert bands == ["band g0", "band g0"]


@pytest.mark.parametrize("name", ["drug", "treatment"])
def test_a_long_name_has_a_line_of_its_own_above_its_numbers(name: str) -> None:
    """Cut short, two arms would be one."""
    arms = [f"{name}, {letter}" if name == "treatment" else name for letter in "ab"]
    rows = [{"arm": arm, **point("10", "0.5")} for arm in arms]
    chart = curves.survival(rows)
    assert chart is not None
    assert [line.name for line in chart.at_risk] == list(dict.fromkeys(arms))
    ys: list[float] = []
    for line in chart.at_risk:
        ys += [line.name_y, line.y]
    assert ys == sorted(ys)
    apart = {line.y - line.name_y for line in chart.at_risk}
    assert apart == {curves.RISK_HEIGHT if name == "treatment" else 0}
    under = chart.height - curves.LEGEND_HEIGHT * len(chart.legend)
    assert chart.at_risk[-1].y < under


def test_bars_of_groups_stand_side_by_side_and_withheld_ones_are_not_there() -> None:
    rows = [
        {"sex": "F", "lower": "", "upper": "50", "n": "30", "withheld": ""},
        {"sex": "F", "lower": "50", "upper": "", "n": "60", "withheld": ""},
        {"sex": "M", "lower": "", "upper": "50", "n": "", "withheld": "min_rows"},
        {"sex": "M", "lower": "50", "upper": "", "n": "15", "withheld": ""},
    ]
    chart = curves.histogram(rows, "n")
    assert chart is not None
    assert [bar.words for bar in chart.bars] == [
        "F < 50: 30",
        "F >= 50: 60",
        "M >= 50: 15",
    ]
    assert [bar.height for bar in chart.bars] == [
        PLOT_HEIGHT / 2,
        PLOT_HEIGHT,
        PLOT_HEIGHT / 4,
    ]
    first, second, third = chart.bars
    assert first.x < second.x < third.x
    assert third.x - second.x == pytest.approx(second.width, abs=0.2)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"sex": "F"}],
        [point("0", "1.0")],
        [point("x", "nan")],
        [{"g": str(n), **point("5", "0.5")} for n in range(curves.MOST_GROUPS + 1)],
    ],
)
def test_rows_of_any_form_are_no_error(rows: list[dict[str, Any]]) -> None:
    for method in ("kaplan_meier", "histogram", "avg", "None"):
        assert curves.of_result(rows, method=method, alias="n") == []


@pytest.mark.parametrize(
    ("text", "found"),
    [("1.5", 1.5), (2, 2.0), ("", None), (None, None), (True, None), ("inf", None)],
)
def test_a_number_is_read_from_a_text(text: Any, found: float | None) -> None:
    assert curves.number(text) == found
