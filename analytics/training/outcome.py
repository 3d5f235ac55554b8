"""What came of training: by what it stopped, and what speaks against the model.

A warning is a code; `WARNINGS` has the sentences that people read. Pure. The hospitals find it at the
end of each fold, from sums that all of them open (`agents.training.final_sums`), and
the initiator tells the coordinator.

Decision 77.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from analytics.arrays import Ints

StoppedBy = Literal["converged", "max_iter"]
STOPPED_BY = get_args(StoppedBy)

WarningCode = Literal["max_iter", "constant", "separated", "case", "one_hospital"]

WARNINGS: dict[WarningCode, str] = {
    "max_iter": (
        "Training ended by max_iter before it had converged, so the model may be unfinished:"
        " order a larger max_iter, or nesterov_momentum_sgd. Where lr or softmax without a penalty does not end so"
        " either, an attribute may separate a class in some rows, and its coefficient grows: order penalty L2."
    ),
    "constant": (
        "The final loss is not below that of a constant model, which gives every row the same answer, so this model"
        " is of no use: set standardize to true, or order a smaller learning_rate and a larger max_iter."
    ),
    "separated": (
        "The model is right about every training row and has no penalty: the attributes separate the classes, so the"
        " coefficients grow for as long as training lasts, and their sizes mean nothing: order penalty L2."
    ),
    # Of the classes, whose names the coordinator does not know.
    "case": (
        "Some classes differ from another one by case alone, and are classes of their own; the hospitals' pages name"
        " them: write them alike in a view if they mean the same."
    ),
    "one_hospital": (
        "Some classes stand at one hospital only; the hospitals' pages name them: look whether the others write them"
        " otherwise."
    ),
}

# Classifiers whose classes can be separated by planes. A network that is right about
# all of its training rows is nothing unusual.
_LINEAR_CLASSIFIERS = ("lr", "softmax")


def constant_class_loss(n_of_class: Ints) -> float:
    """The loss of the best model that gives every row the same answer: -sum_k p_k log p_k.

    `n_of_class` are the rows of each class, int64 (K,), one or more of them above 0; p
    their shares. It is what an intercept alone comes to.

    >>> import numpy as np
    >>> constant_class_loss(np.array([5, 5])) == math.log(2)
    True
    """
    n_rows = int(n_of_class.sum())
    terms = []
    for count in n_of_class.tolist():
        if count:
            terms.append(count * math.log(n_rows / count))
    return math.fsum(terms) / n_rows


def constant_linear_loss(variance: float) -> float:
    """The same of a linear model, whose best constant is the mean: half the variance."""
    return variance / 2


def warning_codes(
    kind: str,
    *,
    stopped_by: StoppedBy,
    loss: float,
    constant_loss: float,
    n_wrong: int | None,
    is_penalised: bool,
) -> list[WarningCode]:
    """What speaks against a trained model, in the order of `WARNINGS`.

    `loss` is the final one over all training rows, without the penalty, `constant_loss`
    that of the best constant. `n_wrong`: training rows that are called another class
    than theirs; None for a model without classes. Without a wrong one the classes are
    separated by planes, no finite weights have the least loss (Albert and Anderson
    1984), and only a penalty gives some that do not depend on when training stopped.
    """
    codes: list[WarningCode] = []
    if stopped_by == "max_iter":
        codes.append("max_iter")
    if loss >= constant_loss:
        codes.append("constant")
    can_separate = kind in _LINEAR_CLASSIFIERS and not is_penalised
    if can_separate and n_wrong == 0:
        codes.append("separated")
    return codes
