"""Why a Newton order ends without a model, in words.

Decision 84.
"""

from __future__ import annotations

from agents.training import cox
from agents.training.trainer import Trainer
from analytics.training.newton import NewtonState
from analytics.training.newton_report import INTERCEPT
from analytics.training.normal_equations import Collinear
from analytics.training.pairs import Pair
from protocol.errors import BadRequest
from protocol.regression_request import FIRTH, FIRTH_PAIRS


def collinear(
    trainer: Trainer, names: list[str], error: Collinear, *, n_rows: int
) -> BadRequest:
    """names: of the columns with an estimated coefficient, without the intercept; n_rows: of
    all hospitals.
    """
    is_cox = trainer.model.kind == "cox"
    has_intercept = trainer.model.fit_intercept and not is_cox
    n_coefficients = len(names) + (1 if has_intercept else 0)
    if n_rows < n_coefficients:
        # Whatever the columns hold.
        return BadRequest(
            "The model has more coefficients than all hospitals together have rows.",
            remedy="Order fewer attributes, merge levels by derive, or widen the SQL.",
            code="collinear",
        )
    names = [*names, INTERCEPT]
    is_moved = has_intercept or is_cox
    constant = "constant" if is_moved else "0"
    return BadRequest(
        f"{names[error.column]} is {constant} over all rows, or a combination of the columns before it, so that its"
        " coefficient is any number.",
        remedy="Leave it out, or order penalty L2.",
        code="collinear",
        columns=[names[error.column]],
    )


def no_mean(pair: Pair) -> BadRequest:
    # Every predictor of theirs is a mean that the family knows.
    safe_link = "logit" if pair.is_binary else "log"
    return BadRequest(
        f"The first coefficients give some row a mean that {pair.family} does not know: link {pair.link} does not keep"
        " means within its range.",
        remedy=f"Order link {safe_link}.",
        code="mean_range",
    )


def no_counts(trainer: Trainer) -> BadRequest:
    return BadRequest(
        f"No row of any hospital has a count above 0 in {trainer.order.request.label_name}.",
        remedy="Choose rows with counts, and look whether label_name is the column that is meant.",
        code="no_events",
    )


def no_overdispersion() -> BadRequest:
    return BadRequest(
        "The counts vary no more than those of poisson do around their means, so that theta grows without end.",
        remedy="Order family poisson.",
        code="no_overdispersion",
    )


def check_separated(trainer: Trainer, after: NewtonState) -> None:
    """Raises BadRequest (code separated)."""
    is_cox = trainer.model.kind == "cox"
    pair = trainer.model.pair
    can_separate = pair is None or not pair.has_dispersion
    request = trainer.order.request
    if request.is_penalised or request.is_firth or not can_separate:
        return
    if after.is_separating:
        if is_cox:
            raise cox.monotone()
        raise BadRequest(
            "The deviance has come to rest and a coefficient still grows: an attribute separates the classes (or of"
            " poisson the rows with a count from those without), and no finite coefficient is the best.",
            remedy=f"Order penalty {_penalty_for(pair)}, or leave out the attribute that separates them.",
            code="separated",
        )


def _penalty_for(pair: Pair | None) -> str:
    """Of separated rows."""
    return f"{FIRTH} or L2" if pair in FIRTH_PAIRS else "L2"
