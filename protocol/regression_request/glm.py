"""A generalised linear model: family, link, offset and weights."""

from __future__ import annotations

from typing import Any

from analytics.training.pairs import LINKS, Pair
from protocol.errors import bad_request
from protocol.regression_request.newton import GLM, NEWTON

OF_GLM = (
    "family",
    "link",
    "dispersion",
    "offset",
    "weights",
    "weights_type",
    "standard_errors",
    "cluster",
)
"""Fields of model_params that are a glm's alone."""


def glm_pair(params: Any) -> Pair:
    """A glm's family and link, the canonical one where the order names none."""
    return Pair(params.family, params.link or LINKS[params.family][0])


def glm_body(params: Any) -> dict[str, str]:
    """What the order's document says of a glm, written out."""
    pair = glm_pair(params)
    body = {
        "family": pair.family,
        "link": pair.link,
        "dispersion": params.dispersion or default_dispersion(pair),
    }
    if params.offset is not None:
        body["offset"] = params.offset
    if params.weights is not None:
        body["weights"] = params.weights
        body["weights_type"] = params.weights_type or "prior"
    if params.standard_errors not in (None, "model"):
        body["standard_errors"] = params.standard_errors
    if params.cluster is not None:
        body["cluster"] = params.cluster
    return body


def default_dispersion(pair: Pair) -> str:
    return "estimate" if pair.has_dispersion else "fixed"


def check_glm(request: Any) -> None:
    """BadRequest with all that does not go together of a glm; of other models for what
    is a glm's alone.
    """
    params = request.model_params
    if request.model_type != GLM:
        for param_name in OF_GLM:
            if getattr(params, param_name) is not None:
                raise bad_request(
                    param_name,
                    f"{param_name} is given for a model that is no glm.",
                    "Leave it out, or order glm.",
                )
        return
    if params.optimizer != NEWTON:
        raise bad_request(
            "optimizer",
            f"A glm is trained by newton, not by {params.optimizer}.",
            "Give newton, or leave optimizer out.",
        )
    if params.family is None:
        raise bad_request(
            "family",
            "A glm needs a family.",
            f"Give one of {', '.join(LINKS)}.",
        )
    links = LINKS[params.family]
    if params.link is not None and params.link not in links:
        raise bad_request(
            "link",
            f"{params.family} has no link {params.link}.",
            f"Give one of {', '.join(links)}, or leave it out for {links[0]}.",
        )
    if params.dispersion == "estimate" and glm_pair(params).has_theta:
        raise bad_request(
            "dispersion",
            f"{params.family} has theta in the place of a dispersion.",
            "Leave it out, or order poisson with dispersion estimate.",
        )
    if params.penalty is not None and glm_pair(params).has_theta:
        raise bad_request(
            "optimizer",
            f"{params.family} has no penalty: theta would be that of other means.",
            "Give penalty null.",
        )
    if params.dispersion == "fixed" and glm_pair(params).has_dispersion:
        raise bad_request(
            "dispersion",
            f"{params.family} has a dispersion, which is estimated always.",
            "Leave it out; fixed is for binomial and poisson.",
        )


def check_offset(request: Any) -> None:
    """BadRequest for an offset that is no attribute of numbers, or the only one."""
    offset = request.model_params.offset
    if offset is None:
        return
    if offset not in request.attributes:
        raise bad_request(
            "offset",
            f"attributes does not list the offset {offset}.",
            "List it there, derived or not: its coefficient is held at 1.",
        )
    if offset in request.categorical or request.study.knots(offset):
        raise bad_request(
            "offset",
            f"The offset {offset} is a category or a spline, and so no number.",
            "Name an attribute that is one number, such as ln(time) by derive.",
        )
    if len(request.attributes) == 1:
        raise bad_request(
            "offset",
            "The offset is the only attribute, so there is no coefficient to estimate.",
            "List another attribute.",
        )


def check_weights(request: Any) -> None:
    """BadRequest for weights that have another role, or their type alone."""
    weights = request.weights
    if weights is None:
        if request.model_params.weights_type is not None:
            raise bad_request(
                "weights_type",
                "weights_type is given, and no weights.",
                "Name the column of weights, or leave it out.",
            )
        return
    taken_columns = [*request.attributes, request.label_name, request.unique_id]
    if weights in taken_columns:
        raise bad_request(
            "weights",
            f"The column of weights {weights} is an attribute, the label or the unique id, too.",
            "A column has one role: name another one, or leave it out there.",
        )
