"""Which models an order trains, one after the other, and how many rows each leaves out
to be tested on.
"""

from __future__ import annotations

from protocol.training_request.request import TrainingRequest


def rounds_done(n_recorded: int, max_iter: int) -> int:
    """The rounds whose step has been taken, of so many records: each is made before its
    round's step, and the last one of a fold, after at most `max_iter` steps, is the
    trained model's.
    """
    n_in_each_fold = max_iter + 1
    # Rounded up.
    n_folds_begun = -(-n_recorded // n_in_each_fold)
    return n_recorded - n_folds_begun


def folds(request: TrainingRequest) -> list[int]:
    """1..n_splits for cross-validation, then 0: the final model on all rows."""
    cv = request.model_params.cv_param
    if not cv.need_cv:
        return [0]
    return [*range(1, cv.n_splits + 1), 0]


def n_held_out(request: TrainingRequest, n_rows: int, fold: int) -> int:
    """How many of a hospital's rows a fold holds out: known to all from the row count;
    which ones, to nobody else.
    """
    if fold > 0:
        # As equal as they can be: the first folds have one row more each.
        n_splits = request.model_params.cv_param.n_splits
        n_in_each, n_left = divmod(n_rows, n_splits)
        return n_in_each + 1 if fold <= n_left else n_in_each
    if request.validation_fraction is None:
        return 0
    return round(request.validation_fraction * n_rows)


def has_held_out(request: TrainingRequest, fold: int) -> bool:
    """Whether rows that did not train a fold's model test it, at any hospital: known to
    all from the document.
    """
    return (
        fold > 0
        or request.validation_fraction is not None
        or bool(request.test_data_info)
    )
