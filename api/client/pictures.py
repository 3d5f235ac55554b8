"""Pictures of an order, by matplotlib, which is imported when one is asked for."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from api.client.results import Scores


def plot_loss(metrics: pd.DataFrame, axes: Axes | None = None, *, title: str = "") -> Axes:
    """The joint loss of each fold's training rows by round, and in the final model's fold each hospital's own, on its
    training rows and, dotted, on its held-out rows."""
    axes = axes or plt.subplots()[1]
    for fold, rows in metrics.groupby("fold"):
        joint = rows.groupby("round")["loss"].first()
        if fold == 0:
            axes.plot(joint.index, joint, color="black", linewidth=2, label="all hospitals, training rows")
        else:
            axes.plot(joint.index, joint, color="grey", linestyle="--", label=f"fold {fold}, training rows")
    final = metrics[metrics["fold"] == 0]
    for number, (hospital, rows) in enumerate(final.groupby("hospital")):
        for name, line, which in (("train", "-", "training rows"), ("test", ":", "held-out rows")):
            if f"{name}_loss" in rows:
                label = f"hospital {hospital}, {which}"
                axes.plot(rows["round"], rows[f"{name}_loss"], line, color=f"C{number}", label=label)
    axes.set(xlabel="round", ylabel="loss", title=title)
    axes.legend()
    return axes


def plot_scores(scores: Scores, axes: Axes | None = None, *, title: str = "") -> Axes:
    """A field for each hospital and score with its value; its colour is the value's place between the score's
    smallest and largest."""
    frame = pd.concat([scores.anomaly, scores.contribution], axis=1)
    shades = (frame - frame.min()) / (frame.max() - frame.min())
    if axes is None:
        axes = plt.subplots(
            figsize=(2 + 0.9 * len(frame.columns), 2 + 0.4 * len(frame)), layout="constrained"
        )[1]
    axes.imshow(shades.fillna(0.0), cmap="Oranges", vmin=0, vmax=1.5, aspect="auto")
    for row, values in enumerate(frame.to_numpy()):
        for column, value in enumerate(values):
            axes.text(column, row, "" if pd.isna(value) else f"{value:.3g}", ha="center", va="center")
    axes.set_xticks(range(len(frame.columns)), list(frame.columns), rotation=45, ha="right")
    axes.set_yticks(range(len(frame)), [f"hospital {hospital}" for hospital in frame.index])
    axes.set_title(title)
    return axes
