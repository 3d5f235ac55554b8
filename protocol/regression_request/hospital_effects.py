"""What is of each hospital by itself in an order by newton: its own estimates in a
meta-analysis, its own intercept in a model of all.
"""

from __future__ import annotations

from typing import Any

from protocol.errors import Problems
from protocol.regression_request.newton import COX, HOSPITAL

LEAST_RANDOM = 5
"""Hospitals that a variance between them is estimated of."""

MOST_OWN_ROUNDS = 10
"""That a hospital's own fit may need in a meta-analysis."""


def check_meta(request: Any) -> None:
    """BadRequest with all that does not go together with `pooling` meta."""
    if not request.is_meta:
        return
    params = request.model_params
    problems = Problems()
    add = problems.adder("pooling")

    if not request.is_newton or request.model_type == COX:
        add(
            "A meta-analysis is of lr, linear or glm by newton.",
            "Order one of these with optimizer newton, or pooling pooled.",
        )
    if request.is_penalised or request.is_firth:
        add(
            "A penalty leaves no standard errors to weigh estimates by.",
            "Give penalty null.",
        )
    if request.pair is not None and request.pair.has_theta:
        add(
            "Each hospital would have a theta of its own, and estimates of different models.",
            "Order family poisson, or pooling pooled.",
        )
    if not params.init_param.fit_intercept:
        add(
            "A meta-analysis combines estimates of models with an intercept.",
            "Leave fit_intercept out, or order pooling pooled.",
        )
    if request.is_open:
        add(
            "With method None the coordinator would see each hospital's estimates.",
            "Order Paillier or Mask.",
        )
    if request.robust is not None:
        add(
            "Robust standard errors are of all rows together.",
            "Leave standard_errors and cluster out, or order pooling pooled.",
        )
    holds_out = params.cv_param.need_cv or request.validation_fraction is not None
    if holds_out or request.test_data_info:
        add(
            "A meta-analysis tests no model on other rows.",
            "Leave cv_param, validation_fraction and test_data_info out.",
        )
    if params.max_iter < MOST_OWN_ROUNDS:
        add(
            "max_iter is too small: each hospital fits by itself.",
            f"Give {MOST_OWN_ROUNDS} or more, or leave it out.",
        )
    problems.raise_any()


def check_site_effect(request: Any) -> None:
    """BadRequest with all that does not go together with `site_effect`."""
    if request.has_fixed_intercepts:
        _check_fixed_intercepts(request)
    if not request.has_random_intercept:
        return
    params = request.model_params
    problems = Problems()
    add = problems.adder("site_effect")

    pair = request.pair
    is_linear = pair is not None and pair.is_least_squares
    if not request.is_newton or not is_linear:
        add(
            "A random intercept is of linear by newton, or of a gaussian glm with link identity.",
            "Order one of these, or leave site_effect out.",
        )
    if params.penalty is not None:
        add("A random intercept has no penalty.", "Give penalty null.")
    if not params.init_param.fit_intercept:
        add(
            "A random intercept is about one of all hospitals.",
            "Leave fit_intercept out, or leave site_effect out.",
        )
    if len(request.hospitals) < LEAST_RANDOM:
        add(
            f"A variance between hospitals is of {LEAST_RANDOM} at least.",
            "Add hospitals, or leave site_effect out.",
        )
    incompatible = {
        "offset": params.offset is not None,
        "weights": params.weights is not None,
        "robust standard errors": request.robust is not None,
        "pooling meta": request.is_meta,
        "method None": request.is_open,
        "cross-validation": params.cv_param.need_cv,
        "validation_fraction": request.validation_fraction is not None,
        "test_data_info": bool(request.test_data_info),
    }
    for setting, is_given in incompatible.items():
        if is_given:
            add(
                f"{setting} does not go with a random intercept.",
                "Leave one of them out.",
            )
    problems.raise_any()


def _check_fixed_intercepts(request: Any) -> None:
    """All that does not go together with a column for each hospital."""
    params = request.model_params
    problems = Problems()
    add = problems.adder("site_effect")

    if not request.is_newton or request.model_type == COX:
        add(
            "Intercepts for each hospital are of lr, linear or glm by newton.",
            "Order one of these with optimizer newton, or leave site_effect out; a cox has baselines by hospital.",
        )
    if params.penalty is not None:
        add("Intercepts for each hospital have no penalty.", "Give penalty null.")
    if not params.init_param.fit_intercept:
        add(
            "The first hospital's intercept is that of the model.",
            "Leave fit_intercept out, or leave site_effect out.",
        )
    attribute_names = [*request.attributes, *request.categorical]
    if HOSPITAL in [name.lower() for name in attribute_names]:
        add(
            "An attribute is named hospital, as the columns for the hospitals are.",
            "Leave it out, or name it otherwise in a view.",
        )
    incompatible = {
        "pooling meta": request.is_meta,
        "compare": request.compare is not None,
        "cross-validation": params.cv_param.need_cv,
        "validation_fraction": request.validation_fraction is not None,
    }
    for setting, is_given in incompatible.items():
        if is_given:
            add(
                f"{setting} does not go with an intercept for each hospital.",
                "Leave one of them out.",
            )
    problems.raise_any()
