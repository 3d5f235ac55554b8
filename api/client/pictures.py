"""Pictures of an order, by matplotlib.

`orders` imports this module when the first picture is drawn.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from api.client.results import Scores


class RowsDrawn(NamedTuple):
    """How the losses on some of a hospital's rows are drawn."""

    column: str  # of the frame of metrics
    line: str  # matplotlib's style
    label: str


ROWS_DRAWN = (
    RowsDrawn("train_loss", "-", "training rows"),
    RowsDrawn("test_loss", ":", "held-out rows"),
)

# The darkest colour is for 1; a field of it would hide its own text.
DARKEST_SHADE = 1.5


def plot_loss(
    metrics: pd.DataFrame, axes: Axes | None = None, *, title: str = ""
) -> Axes:
    """The joint loss of each fold's training rows by round, and in the final model's
    fold each hospital's own, on its training rows and, dotted, on its held-out rows.
    """
    if axes is None:
        _, axes = plt.subplots()
    for fold, rows in metrics.groupby("fold"):
        joint_loss = rows.groupby("round")["loss"].first()
        style: dict[str, Any]
        if fold == 0:
            style = {
                "color": "black",
                "linewidth": 2,
                "label": "all hospitals, training rows",
            }
        else:
            style = {
                "color": "grey",
                "linestyle": "--",
                "label": f"fold {fold}, training rows",
            }
        axes.plot(joint_loss.index, joint_loss, **style)
    # Fold 0 is the model on all training rows, which is the one that is kept.
    final = metrics[metrics["fold"] == 0]
    for number, (hospital, rows) in enumerate(final.groupby("hospital")):
        for curve in ROWS_DRAWN:
            if curve.column not in rows:
                continue
            axes.plot(
                rows["round"],
                rows[curve.column],
                curve.line,
                color=f"C{number}",
                label=f"hospital {hospital}, {curve.label}",
            )
    axes.set(xlabel="round", ylabel="loss", title=title)
    axes.legend()
    return axes


def plot_scores(scores: Scores, axes: Axes | None = None, *, title: str = "") -> Axes:
    """A field for each hospital and score with its value; its colour is the value's
    place between the score's smallest and largest.
    """
    frame = pd.concat([scores.anomaly, scores.contribution], axis=1)
    smallest = frame.min()
    shades = (frame - smallest) / (frame.max() - smallest)
    if axes is None:
        width = 2 + 0.9 * len(frame.columns)
        height = 2 + 0.4 * len(frame)
        _, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.imshow(
        shades.fillna(0.0), cmap="Oranges", vmin=0, vmax=DARKEST_SHADE, aspect="auto"
    )
    for row, values in enumerate(frame.to_numpy()):
        for column, value in enumerate(values):
            if pd.notna(value):
                axes.text(column, row, f"{value:.3g}", ha="center", va="center")
    scores_drawn = list(frame.columns)
    axes.set_xticks(range(len(scores_drawn)), scores_drawn, rotation=45, ha="right")
    hospitals = [f"hospital {hospital}" for hospital in frame.index]
    axes.set_yticks(range(len(frame)), hospitals)
    axes.set_title(title)
    return axes
