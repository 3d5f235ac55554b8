"""What trained models are worth on the rows of all hospitals: on those that trained
them, and on those held out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from api.pages.frame import Safe, number, shown, table
from api.pages.visit import Visit

METRICS = (
    "loss",
    "log_loss",
    "brier",
    "accuracy",
    "auc",
    "auc_se",
    "ks",
    "concordance",
    "f1",
    "f1_macro",
    "sensitivity",
    "specificity",
    "mse",
    "rmse",
    "mae",
    "r2",
    "mean_deviance",
    "calibration_slope",
    "calibration_intercept",
    "calibration_in_the_large",
)


class Line(NamedTuple):
    """A row of the table."""

    model: str
    which: str  # training or held-out rows
    metrics: Mapping[str, Any]


def pooled_metrics(visit: Visit, summary: Mapping[str, Any]) -> Safe:
    """A row for each fold's training rows and its held-out rows, and for those of all
    folds; of an evaluation one for its rows. Nothing before the end.
    """
    t = visit.t
    lines = list(_lines(visit, summary))
    if not lines:
        return Safe("")
    measured: set[str] = set()
    has_held_out = False
    for line in lines:
        has_held_out = has_held_out or line.which == t("held-out rows")
        for metric, value in line.metrics.items():
            if value is not None:
                measured.add(metric)
    # A set of texts has another order after each start.
    metrics = [metric for metric in METRICS if metric in measured]
    rows = []
    for line in lines:
        n_rows = number(line.metrics["n_rows"])
        values = [number(line.metrics.get(metric)) for metric in metrics]
        rows.append([line.model, line.which, n_rows, *values])
    heads = [t("Model"), t("On"), t("Rows"), *map(t, metrics)]
    caption = ""
    if has_held_out:
        caption = t(
            "Held-out rows: a fold's own part, the validation part, or the rows of the test SQL"
        )
    caption = f"{caption}. {_flow(visit, summary)}".strip(". ")
    title = shown(t("All hospitals together"))
    return Safe(f"<h2>{title}</h2>{table(heads, rows, caption=caption)}")


def _flow(visit: Visit, summary: Mapping[str, Any]) -> str:
    """How many rows were left out, where some were and it is told."""
    rows = summary.get("rows", {})
    if not rows.get("left_out"):
        return ""
    return visit.t(
        "Of {selected} rows selected, {left_out} were left out and {used} used",
        selected=rows["selected"],
        left_out=rows["left_out"],
        used=rows["used"],
    )


def _lines(visit: Visit, summary: Mapping[str, Any]) -> Iterator[Line]:
    """The final model first, which is fold 0."""
    t = visit.t
    evaluation = summary.get("evaluation")
    if evaluation:
        measured = {"n_rows": evaluation["n_rows"], **evaluation["metrics"]}
        yield Line(t("Model {n}", n=evaluation["model_id"]), t("new rows"), measured)
    folds = [int(fold_name) for fold_name in summary if fold_name.isdecimal()]
    for fold in sorted(folds):
        training = summary[str(fold)]
        model = t("Fold {n}", n=fold) if fold else t("Final model")
        yield Line(model, t("training rows"), training)
        if training.get("held_out"):
            yield Line(model, t("held-out rows"), training["held_out"])
    if summary.get("held_out"):
        yield Line(t("All folds"), t("held-out rows"), summary["held_out"])
