"""A Cox regression: ties, strata, and whose rows have one baseline hazard.

Decision 89.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from protocol.errors import Problems
from protocol.fields import Column, Number
from protocol.regression_request.newton import COX, NEWTON


def _rising(edges: list[float]) -> list[float]:
    for lower, upper in itertools.pairwise([0.0, *edges]):
        if lower >= upper:
            raise ValueError("must be times above 0 that rise")
    return edges


Edges = Annotated[
    list[Number], Field(min_length=1, max_length=200), AfterValidator(_rising)
]
"""Of a cox with a joint baseline: times."""

Strata = Annotated[list[Column], Field(max_length=10)]
"""Of a cox: columns whose levels have a baseline each."""

LEAST_ROUNDS_OF_JOINT = 10
"""Six to come to rest, one of counts, three of joint sums."""


def check_cox(request: Any) -> None:
    """BadRequest with all that does not go together of a cox; of other models for what is
    a cox's alone.
    """
    problems = Problems()
    if request.model_type == COX:
        _check_fields_of_cox(request, problems)
    else:
        _check_no_fields_of_cox(request, problems)
    problems.raise_any()


def _check_no_fields_of_cox(request: Any, problems: Problems) -> None:
    params = request.model_params
    remedy = "Leave it out, or order cox."
    no_cox = "is given for a model that is no cox."
    # A field is never ignored: what means nothing for this model is refused.
    if request.event_name is not None:
        problems.add("event_name", f"event_name {no_cox}", remedy)
    if request.entry_name is not None:
        problems.add("entry_name", f"entry_name {no_cox}", remedy)
    if request.strata:
        problems.add("strata", f"strata {no_cox}", remedy)
    if params.ties is not None:
        problems.add("ties", f"ties {no_cox}", remedy)
    if params.baseline is not None or params.edges is not None:
        problems.add("baseline", f"baseline or edges {no_cox}", remedy)
    if params.hazards_time is not None:
        problems.add("hazards_time", f"hazards_time {no_cox}", remedy)


def _check_fields_of_cox(request: Any, problems: Problems) -> None:
    params = request.model_params
    if params.optimizer != NEWTON:
        problems.add(
            "optimizer",
            f"A cox is trained by newton, not by {params.optimizer}.",
            "Leave optimizer out.",
        )
    if request.event_name is None:
        problems.add(
            "event_name",
            "A cox needs the column of events, 1 where the event was, 0 where a row was censored.",
            "Give event_name.",
        )
    _check_baseline(request, problems)
    if params.hazards_time is not None and request.is_penalised:
        problems.add(
            "hazards_time",
            "hazards_time is given with a penalty, at whose estimate proportional hazards are not tested.",
            "Leave it out, or give penalty null.",
        )
    if len(set(request.strata)) < len(request.strata):
        problems.add("strata", "strata names a column twice.", "Name each column once.")


def _check_baseline(request: Any, problems: Problems) -> None:
    params = request.model_params
    add = problems.adder("baseline")

    if request.baseline != "joint":
        if params.edges is not None:
            add(
                "edges is given, and each hospital has a baseline of its own.",
                "Leave it out, or give baseline joint.",
            )
        return
    if params.edges is None:
        add(
            "A joint baseline needs edges, between which events count as at one time.",
            "Give a few times in edges, such as those of a life table.",
        )
    if request.entry_name is not None or request.strata:
        add(
            "A joint baseline has neither entry_name nor strata.",
            "Leave them out, or order baseline hospital.",
        )
    if params.hazards_time is not None:
        add(
            "hazards_time is given, and with a joint baseline proportional hazards are not tested.",
            "Leave it out, or order baseline hospital.",
        )
    has_tests = request.test_data_info or request.validation_fraction is not None
    if has_tests or params.cv_param.need_cv:
        add(
            "A joint baseline is of all rows: none are held out.",
            "Leave cross-validation, validation_fraction and test_data_info out.",
        )
    if request.is_penalised:
        add("A joint baseline has no penalty.", "Give penalty null.")
    if params.max_iter < LEAST_ROUNDS_OF_JOINT:
        add(
            f"With max_iter {params.max_iter} there is no room for the rounds of a joint baseline.",
            f"Give max_iter of {LEAST_ROUNDS_OF_JOINT} or more.",
        )
