"""How a training order's training ended, in the words of every answer about it.

Beside the keys of the request document, none of which changes. What each fold's summary
says of itself was found by the hospitals (`agents.training.fold_end`).

Decision 77.
"""

from __future__ import annotations

from typing import Any

from api.store.rows import OrderRow

FIELDS = ("converged", "stopped_by", "warnings")


def ending(order: OrderRow) -> dict[str, Any]:
    """`converged`, `stopped_by` and `warnings` of an order, of any kind and state.

    Null and empty while it goes on, and where it has failed: then its `refusal` says
    why. With cross-validation they are those of all its models together: it has
    converged where each of them has; `folds` has those of each, "0" for the final
    model.
    """
    folds = {}
    for name, summary in order.summary.items():
        # Beside the folds stands what their held-out rows are together.
        if name.isdecimal() and "stopped_by" in summary:
            folds[name] = {field: summary[field] for field in FIELDS}
    if not folds:
        return {"converged": None, "stopped_by": None, "warnings": []}
    if len(folds) == 1:
        (only,) = folds.values()
        return only
    has_converged = all(fold["converged"] for fold in folds.values())
    return {
        "converged": has_converged,
        "stopped_by": "converged" if has_converged else "max_iter",
        "warnings": _named(folds),
        "folds": folds,
    }


def _named(folds: dict[str, dict[str, Any]]) -> list[str]:
    """The warnings of all folds, the final model's first."""
    sentences = []
    for fold_name in sorted(folds, key=int):
        whose = f"Fold {fold_name}" if fold_name != "0" else "Final model"
        for sentence in folds[fold_name]["warnings"]:
            sentences.append(f"{whose}: {sentence}")
    return sentences
