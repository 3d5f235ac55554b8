"""How a training order's training ended, in words: whether it had converged, and what
speaks against the model.
"""

from __future__ import annotations

from typing import Any

from api.pages.frame import Safe, note
from api.pages.visit import Visit

STOPPED_BY = {
    "converged": "it had converged",
    "max_iter": "by max_iter, before it had converged",
}


def stopped_by_words(visit: Visit, order: dict[str, Any]) -> str:
    """Empty while it goes on, where it failed, and of other orders."""
    if order["stopped_by"] is None:
        return ""
    return visit.t(STOPPED_BY[order["stopped_by"]])


def warning_notes(visit: Visit, order: dict[str, Any]) -> Safe:
    """A note for each warning; of cross-validation with the fold that it is of."""
    t = visit.t
    if "folds" not in order:
        notes = [note(t(sentence)) for sentence in order["warnings"]]
        return Safe("".join(notes))
    notes = []
    for fold, ending in sorted(order["folds"].items(), key=_by_number):
        whose = t("Fold {n}", n=fold) if fold != "0" else t("Final model")
        for sentence in ending["warnings"]:
            notes.append(note(f"{whose}: {t(sentence)}"))
    return Safe("".join(notes))


def _by_number(entry: tuple[str, Any]) -> int:
    fold, _ = entry
    return int(fold)
