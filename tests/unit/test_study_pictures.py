"""Pictures and tables of a study: what is drawn is what the frames have."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from api.client import study_pictures
from protocol.errors import BadRequest


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    with matplotlib.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


def report(ratio: str | None = "odds_ratio") -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "term": ["(Intercept)", "age", "sex[M]", "log_years"],
            "estimate": [-1.5, 0.25, -0.5, 1.0],
            "low": [-2.0, 0.1, -1.25, np.nan],
            "high": [-1.0, 0.4, 0.25, np.nan],
        }
    ).set_index("term")
    if ratio:
        frame[ratio] = np.exp(frame["estimate"])
        frame[f"{ratio}_low"] = np.exp(frame["low"])
        frame[f"{ratio}_high"] = np.exp(frame["high"])
    return frame


@pytest.mark.parametrize("ratio", [None, *study_pictures.RATIOS])
def test_a_forest_plot_draws_the_report_s_numbers(ratio: str | None) -> None:
    found = report(ratio)
    axes = study_pictures.forest(found, title="a model")
    numbers = study_pictures.forest_numbers(found)
    # The intercept, and what has no interval, is not drawn.
    assert list(numbers.index) == ["age", "sex[M]"]
    name = ratio or "estimate"
    assert numbers["value"].tolist() == found.loc[["age", "sex[M]"], name].tolist()
    low = f"{ratio}_low" if ratio else "low"
    assert numbers["low"].tolist() == found.loc[["age", "sex[M]"], low].tolist()
    (drawn, _, (bars,)) = axes.containers[0]
    assert list(drawn.get_xdata()) == numbers["value"].tolist()
    ends = [segment[:, 0].tolist() for segment in bars.get_segments()]
    wanted = numbers[["low", "high"]].to_numpy()
    assert np.allclose(ends, wanted, rtol=1e-12)
    assert axes.get_xscale() == ("log" if ratio else "linear")
    assert [label.get_text() for label in axes.get_yticklabels()] == list(numbers.index)
    axes.figure.canvas.draw()


def test_terms_are_chosen_and_ordered() -> None:
    shown = study_pictures.forest_numbers(report(), ["sex[M]", "(Intercept)"])
    assert list(shown.index) == ["sex[M]", "(Intercept)"]


def test_a_roc_curve_goes_through_its_points_and_the_corners() -> None:
    points = pd.DataFrame({"sensitivity": [0.4, 0.9], "specificity": [0.95, 0.6]})
    line = study_pictures.roc(points).lines[0]
    assert np.allclose(line.get_xdata(), [0, 0.05, 0.4, 1])
    assert list(line.get_ydata()) == [0, 0.4, 0.9, 1]


def test_calibration_draws_observed_by_predicted() -> None:
    ranges = pd.DataFrame(
        {"n": [40, 80], "predicted": [0.1, 0.6], "observed": [0.2, 0.5]}
    )
    (drawn,) = study_pictures.calibration(ranges).collections
    assert isinstance(drawn, PathCollection)
    assert drawn.get_offsets().tolist() == [[0.1, 0.2], [0.6, 0.5]]
    assert drawn.get_sizes().tolist() == [100.0, 200.0]


def curve(arm: str, survival: list[float], at_risk: list[int]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "arm": arm,
            "kind": ["exact", "life_table"],
            "time": [30.0, 90.0],
            "survival": survival,
            "low": [survival[0] - 0.1, survival[1] - 0.1],
            "high": [survival[0] + 0.05, survival[1] + 0.1],
            "lower_bound": [np.nan, survival[1] - 0.02],
            "upper_bound": [np.nan, survival[1] + 0.02],
            "at_risk": at_risk,
        }
    )


def test_survival_curves_are_steps_with_their_numbers_at_risk() -> None:
    summary = pd.DataFrame({"arm": ["drug"], "kind": ["median"], "low": [30.0]})
    frame = pd.concat(
        [
            curve("drug", [0.9, 0.7], [80, 41]),
            curve("none", [0.8, 0.5], [77, 30]),
            summary,
        ]
    )
    axes = study_pictures.kaplan_meier(frame)
    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn["arm drug"].get_ydata()) == [1.0, 0.9, 0.7]
    assert list(drawn["arm none"].get_xdata()) == [0.0, 30.0, 90.0]
    assert drawn["arm drug"].get_drawstyle() == "steps-post"
    # Two groups, each with the bounds of its life table.
    assert len(axes.lines) == 6
    below = [text.get_text() for text in axes.texts]
    assert below == ["At risk", "arm drug", "80", "41", "arm none", "77", "30"]
    # Each number below its time, and all of them on the picture.
    assert [text.xy[0] for text in axes.texts[2:4]] == [30.0, 90.0]
    figure = axes.figure
    figure.canvas.draw()
    for text in axes.texts:
        box = text.get_window_extent()
        assert figure.bbox.contains(box.x0, box.y0), text
        assert figure.bbox.contains(box.x1, box.y1), text


@pytest.mark.parametrize(
    ("low", "high", "ticks"), [(0.9, 2.5, {"1", "2"}), (0.05, 30, {"0.1", "1", "10"})]
)
def test_ratios_are_read_without_powers_of_ten(
    low: float, high: float, ticks: set[str]
) -> None:
    found = report().assign(odds_ratio_low=low, odds_ratio=1.5, odds_ratio_high=high)
    axes = study_pictures.forest(found)
    axes.figure.canvas.draw()
    shown = {label.get_text() for label in axes.get_xticklabels()}
    assert ticks <= shown
    assert not any("$" in text for text in shown)


def test_many_times_are_shown_as_far_as_they_are_read() -> None:
    n = 30
    rows = curve("x", [0.9, 0.7], [80, 41]).drop(columns="arm").iloc[[0] * n]
    frame = rows.assign(time=np.arange(n) * 10.0, at_risk=np.arange(n)[::-1])
    axes = study_pictures.kaplan_meier(frame)
    assert len(axes.texts) <= 2 + study_pictures.MOST_TIMES
    assert len(study_pictures.kaplan_meier_numbers(frame)) == n


def test_a_curve_without_groups_is_one() -> None:
    frame = curve("x", [0.9, 0.7], [80, 41]).drop(columns="arm")
    assert study_pictures.kaplan_meier(frame).lines[0].get_label() == "all"
    with pytest.raises(BadRequest) as caught:
        study_pictures.kaplan_meier(frame.assign(kind="median"))
    assert caught.value.code == "no_table"


def test_a_histogram_has_a_bar_for_each_closed_bin_of_each_group() -> None:
    frame = pd.DataFrame(
        {
            "sex": ["F", "F", "F", "M", "M"],
            "lower": [None, 20.0, 40.0, 20.0, 40.0],
            "upper": [20.0, 40.0, 60.0, 40.0, 60.0],
            "age": [3, 12, 14, 11, None],
        }
    )
    axes = study_pictures.histogram(frame)
    bars = [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in axes.patches]
    assert bars == [(20, 20, 12), (40, 20, 14), (20, 20, 11)]
    ungrouped = study_pictures.histogram(frame[frame["sex"] == "F"].drop(columns="sex"))
    assert [bar.get_height() for bar in ungrouped.patches] == [12, 14]


DESCRIBED = [
    ("age", "all", None, None, "n", 271),
    ("age", "all", None, None, "mean", "61.2"),
    ("age", "all", None, None, "sd", 9.1),
    ("age", "group", "drug", None, "mean", 60.0),
    ("age", "group", "drug", None, "sd", 8.0),
    # Of a histogram, which no paper's table has.
    ("age", "all", None, "[50, 60)", "n", 31),
    ("age", "groups", None, None, "smd", 0.052),
    ("stage", "all", None, "II", "n", 80),
    ("stage", "all", None, "II", "share", 0.25),
    ("stage", "group", "drug", "II", "n", None),
]


def test_a_first_table_is_one_that_a_paper_takes() -> None:
    columns = ["column", "over", "arm", "level", "quantity", "table1"]
    table = study_pictures.first_table(pd.DataFrame(DESCRIBED, columns=columns))
    assert list(table.columns) == ["all", "arm drug", "SMD"]
    assert table.loc[("age", "")].tolist() == ["61.2 (9.1)", "60 (8)", "0.052"]
    assert table.loc[("stage", "II")].tolist() == ["80 (25.0 %)", "-", ""]
    for printed in (table.to_html(), table.to_csv()):
        assert "61.2 (9.1)" in printed


def test_a_first_table_has_medians_between_their_quartiles() -> None:
    columns = ["column", "over", "arm", "level", "quantity", "table1"]
    rows = [*DESCRIBED]
    for name, value in (("q1", 54.0), ("median", 61.53333), ("q3", "68.25")):
        rows.append(("age", "all", None, None, name, value))
        rows.append(("age", "group", "drug", None, name, None))
    frame = pd.DataFrame(rows, columns=columns)
    table = study_pictures.first_table(frame)
    assert table.loc[("age", "")].tolist() == ["61.2 (9.1)", "60 (8)", "0.052"]
    medians = table.loc[("age", "median [Q1, Q3]")].tolist()
    assert medians == ["61.53 [54, 68.25]", "-", ""]
    # Beside the mean, with every digit.
    numbers = study_pictures.first_table_numbers(frame)
    assert numbers.loc[("age", "", "all"), "median"] == 61.53333


def test_a_first_table_without_groups_has_one_column() -> None:
    rows = [(c, level, q, v) for c, over, _, level, q, v in DESCRIBED if over == "all"]
    frame = pd.DataFrame(rows, columns=["column", "level", "quantity", "table1"])
    table = study_pictures.first_table(frame)
    assert table["all"].tolist() == ["61.2 (9.1)", "80 (25.0 %)"]


# What was drawn, as csv: every digit of the answer's


def digits(seed: int, n: int) -> list[float]:
    """Numbers with all 17 digits."""
    return list(np.random.default_rng(seed).uniform(0.1, 0.9, n))


def curves() -> pd.DataFrame:
    frame = pd.concat(
        [curve("none", digits(1, 2), [77, 30]), curve("drug", digits(2, 2), [80, 41])]
    )
    summary = pd.DataFrame({"arm": ["drug"], "kind": ["median"], "low": [30.0]})
    # Rows of an answer may come in any order.
    return pd.concat([summary, frame.iloc[::-1]], ignore_index=True)


def bins() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sex": ["F", "F", "M"],
            "lower": [None, *digits(3, 2)],
            "upper": [0.1, *np.add(digits(4, 2), 1)],
            "age": [3, 12, 11],
            "withheld": None,
        }
    )


ROC_POINTS = pd.DataFrame({"sensitivity": digits(5, 3), "specificity": digits(6, 3)})
RANGES = pd.DataFrame(
    {"n": [40, 80], "predicted": digits(7, 2), "observed": digits(8, 2)}
)
LABELS = {
    "forest": ["term"],
    "roc": [],
    "calibration": [],
    "kaplan_meier": ["arm", "time"],
    "histogram": ["sex", "lower", "upper"],
}
FRAMES = {
    "forest": report("odds_ratio"),
    "roc": ROC_POINTS,
    "calibration": RANGES,
    "kaplan_meier": curves(),
    "histogram": bins(),
}
REPORTED = {"value": "odds_ratio", "low": "odds_ratio_low", "high": "odds_ratio_high"}


@pytest.mark.parametrize("name", list(FRAMES))
def test_the_csv_beside_a_picture_has_the_answer_s_numbers(name: str) -> None:
    frame = FRAMES[name]
    numbers = getattr(study_pictures, f"{name}_numbers")(frame)
    text = numbers.to_csv(index=name == "forest")
    again = pd.read_csv(io.StringIO(text))
    assert len(again) == {"forest": 2, "roc": 3, "kaplan_meier": 4}.get(name, 2)
    told = frame.reset_index()
    if name == "forest":
        told = told[["term", *REPORTED.values()]].set_axis(
            ["term", *REPORTED], axis="columns"
        )
    if not LABELS[name]:
        told = told[list(again.columns)]
        assert again.to_numpy().tolist() == told.to_numpy().tolist()
    else:
        # The answer's own row of each, whatever the order.
        beside = again.merge(told, how="left", on=LABELS[name], suffixes=("", "_told"))
        for column in again.columns.difference(LABELS[name]):
            drawn, wanted = beside[column], beside[f"{column}_told"]
            assert ((drawn == wanted) | (drawn.isna() & wanted.isna())).all(), column


def ends(axes: matplotlib.axes.Axes) -> set[float]:
    """All heights of a picture's lines and bars."""
    found: set[float] = set()
    for line in axes.lines:
        found |= {float(y) for y in line.get_ydata()}
    for bar in axes.patches:
        found.add(float(bar.get_height()))
    return found


def test_what_is_drawn_is_in_the_csv_and_the_other_way_round() -> None:
    numbers = study_pictures.kaplan_meier_numbers(curves())
    drawn = ends(study_pictures.kaplan_meier(curves()))
    bounds = numbers[["lower_bound", "upper_bound"]].stack()
    # Each curve starts at 1, which nobody has to say.
    assert drawn == {1.0, *numbers["survival"], *bounds.dropna()}
    roc = study_pictures.roc(ROC_POINTS)
    assert ends(roc) == {
        0.0,
        1.0,
        *study_pictures.roc_numbers(ROC_POINTS)["sensitivity"],
    }
    points = study_pictures.calibration_numbers(RANGES)[["predicted", "observed"]]
    (scatter,) = study_pictures.calibration(RANGES).collections
    assert scatter.get_offsets().tolist() == points.to_numpy().tolist()
    bars = study_pictures.histogram_numbers(bins())
    assert ends(study_pictures.histogram(bins())) == set(bars["age"])


def test_the_numbers_of_a_first_table_are_not_rounded() -> None:
    columns = ["column", "over", "arm", "level", "quantity", "table1"]
    exact = [("age", "all", None, None, "sd", 1 / 3), *DESCRIBED]
    exact.remove(("age", "all", None, None, "sd", 9.1))
    frame = pd.DataFrame(exact, columns=columns)
    table = study_pictures.first_table(frame)
    numbers = study_pictures.first_table_numbers(frame)
    # A row for each cell that has something to say.
    assert len(numbers) == (table != "").sum().sum()
    text = numbers.to_csv()
    again = pd.read_csv(io.StringIO(text))
    numbers_of = {row[0] for row in exact if row[4] == "mean"}
    # The bins of a histogram stand in no first table.
    shown = [row for row in exact if not (row[3] and row[0] in numbers_of)]
    for row in shown:
        name = {"all": "all", "groups": "SMD"}.get(row[1], f"arm {row[2]}")
        level = row[3] or ""
        here = (again["column"] == row[0]) & (again["group"] == name)
        (found,) = again[here & (again["level"].fillna("") == level)][row[4]]
        assert pd.isna(found) if row[5] is None else found == float(row[5])


def test_a_first_table_in_latex_needs_no_jinja2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    columns = ["column", "over", "arm", "level", "quantity", "table1"]
    odd = [("stage_x", "all", None, "I & II {50 %} <\\#$^~", "n", 80)]
    frame = pd.DataFrame([*DESCRIBED, *odd], columns=columns)
    table = study_pictures.first_table(frame)
    assert table.to_latex().splitlines() == [
        r"\begin{tabular}{llrrr}",
        r"\hline",
        r" & level & all & arm drug & SMD \\",
        r"\hline",
        r"age &  & 61.2 (9.1) & 60 (8) & 0.052 \\",
        r"stage & II & 80 (25.0 \%) & - &  \\",
        r"stage\_x & I \& II \{50 \%\} \textless{}\textbackslash{}\#\$\textasciicircum{}\textasciitilde{}"
        r" & 80 &  &  \\",
        r"\hline",
        r"\end{tabular}",
    ]
    assert table[["all"]].to_latex().startswith(r"\begin{tabular}{llr}")
    assert table.to_latex(tmp_path / "table1.tex") is None
    assert (tmp_path / "table1.tex").read_text("utf-8") == table.to_latex()
    # HTML escapes what it has to, and csv keeps the texts.
    assert "I &amp; II {50 %} &lt;" in table.to_html()
    again = pd.read_csv(io.StringIO(table.to_csv()), index_col=[0, 1], dtype=str)
    assert again.fillna("").to_numpy().tolist() == table.to_numpy().tolist()
