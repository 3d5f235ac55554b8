"""An intercept for each hospital, at one hospital: a column of 0 and 1 for each but the
first, of the hospitals' numbers in order.

The products of such a column with the others are that hospital's own sums, so they are
opened only where every hospital's policy says `hospital_sums`, and no more of them than
its rows hide. The model that a hospital keeps has its own intercept, and no such column.
Decision 124.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agents.rows.cohort import Cohort
from agents.training.moments import Scale
from agents.training.trainer import Trainer
from analytics.arrays import Floats
from analytics.training.models import Model
from protocol.errors import Refused


def with_hospitals(trainer: Trainer) -> Trainer:
    """The trainer whose rows have the hospitals' columns behind the others; the same one
    where none are ordered.
    """
    if not trainer.order.request.site_features:
        return trainer
    rows = trainer.rows
    train = _with_hospitals(trainer, rows.train)
    test = rows.test
    if test is not None:
        test = _with_hospitals(trainer, test)
    widened = replace(
        rows,
        train=train,
        test=test,
    )
    return replace(trainer, rows=widened)


def _with_hospitals(trainer: Trainer, cohort: Cohort) -> Cohort:
    of_row = _own_values(trainer)
    own_values = np.tile(of_row, (cohort.n_rows, 1))
    site_features = trainer.order.request.site_features
    attribute_names = (*cohort.attributes, *site_features)
    return replace(
        cohort,
        attributes=attribute_names,
        X=np.hstack([cohort.X, own_values]),
    )


def _own_values(trainer: Trainer) -> Floats:
    """What each of this hospital's rows has in the hospitals' columns."""
    me = trainer.order.me
    # With one for the first, too, they would add up to the intercept's column, and no
    # coefficient of theirs would be determined.
    without_first = sorted(trainer.order.request.hospitals)[1:]
    is_own = [float(hospital == me) for hospital in without_first]
    return np.array(is_own)


def check_own_rows(
    trainer: Trainer,
    n_rows: int,
    *,
    n_rounds: int,
) -> None:
    """Refuses a round after which this hospital's own sums could be solved for its rows.

    Each opens of it alone a sum of each column and two of the label and the weights; so
    many rows are needed as other hospitals' are of a round without such columns. Raises
    Refused (code equations).
    """
    site_features = trainer.order.request.site_features
    n_columns = trainer.model.n_weights - len(site_features)
    needed = n_rounds * (n_columns + 3)
    if site_features and n_rows < needed:
        raise Refused(
            f"After {n_rounds} rounds of {n_columns} coefficients and an intercept for each hospital this one needs"
            f" {needed} rows, so that its own sums cannot be solved for them.",
            remedy="Order fewer attributes or a smaller max_iter, widen the SQL, or leave site_effect out.",
            code="equations",
            threshold=needed,
        )


def own_model(
    trainer: Trainer,
    weights: Floats,
    scale: Scale | None,
) -> tuple[Model, Floats]:
    """What a hospital keeps: the model without the hospitals' columns, and with its own
    intercept.

    weights (d + 1,), the intercept last; scale: what the columns are standardized by, None
    where the weights are of the columns as they came.
    """
    n_sites = len(trainer.order.request.site_features)
    if not n_sites:
        return trainer.model, weights
    own_values = _own_values(trainer)
    if scale is not None:
        own_values = own_values - scale.mean[-n_sites:]
        own_values = own_values / scale.deviation[-n_sites:]
    first_site = -1 - n_sites
    shared = weights[:first_site]
    of_sites = weights[first_site:-1]
    own_effect = float(np.sum(of_sites * own_values))
    intercept = weights[-1] + own_effect
    model = replace(trainer.model, n_features=len(shared))
    return model, np.append(shared, intercept)
