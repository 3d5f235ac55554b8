"""What trained models are worth on the rows of all hospitals: on those that trained them, and on those held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from api.pages.frame import Safe, number, shown, table
from api.pages.visit import Visit

METRICS = ("loss", "accuracy", "auc", "ks", "f1", "f1_macro", "mse", "rmse", "mae")


def pooled_metrics(visit: Visit, summary: Mapping[str, Any]) -> Safe:
    """A row for each fold's training rows and its held-out rows, and for those of all folds; nothing before the end."""
    t, rows = visit.t, list(_rows(visit, summary))
    if not rows:
        return Safe("")
    there = [name for name in METRICS if any(name in found for _, _, found in rows)]
    cells = [
        (part, which, number(found["n_rows"]), *(number(found.get(name)) for name in there))
        for part, which, found in rows
    ]
    heads = [t("Model"), t("On"), t("Rows"), *map(t, there)]
    about = t("Held-out rows: a fold's own part, the validation part, or the rows of the test SQL")
    return Safe(f"<h2>{shown(t('All hospitals together'))}</h2>{table(heads, cells, caption=about)}")


def _rows(visit: Visit, summary: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(model, which rows, metrics), the final model first."""
    t = visit.t
    for fold in sorted(int(name) for name in summary if name.isdecimal()):
        found = summary[str(fold)]
        model = t("Fold {n}", n=fold) if fold else t("Final model")
        yield model, t("training rows"), found
        if found.get("held_out"):
            yield model, t("held-out rows"), found["held_out"]
    if summary.get("held_out"):
        yield t("All folds"), t("held-out rows"), summary["held_out"]
