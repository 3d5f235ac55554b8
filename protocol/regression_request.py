"""What an order may say where `optimizer` is newton, as that of a glm and a cox always is, and what
nothing follows from then.

Decisions 84 and 89.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analytics.training.families import LINKS, Pair
from protocol.errors import BadRequest, bad_request, check_all

NEWTON = "newton"
GLM = "glm"
COX = "cox"
NEWTON_MODELS = ("lr", "linear", GLM, COX)
OF_GLM = ("family", "link", "dispersion", "offset", "weights", "weights_type")
"""Fields of model_params that are a glm's alone."""
MAX_ITER = 25
EPS = 1e-8
CONFIDENCE = 0.95

# Of gradients, so that with newton they may say their default only.
_OF_GRADIENTS: dict[str, Any] = {
    "learning_rate": 0.15,
    "decay": 0.0,
    "decay_sqrt": True,
    "batch_size": -1,
    "bound": 2.0**20,
}


def with_newton_defaults(params: Any) -> Any:
    """The body of model_params, with what newton means where a field is left out."""
    if not isinstance(params, Mapping):
        return params
    optimizer = params.get("optimizer")
    if not isinstance(optimizer, str) or optimizer.lower() != NEWTON:
        return params
    found = dict(params)
    if found.get("max_iter") is None:
        found["max_iter"] = MAX_ITER
    if found.get("eps") is None and found.get("tol") is None:
        found["eps"] = EPS
    return found


def with_newton_models_defaults(model_type: Any, params: Any) -> Any:
    """The same of a glm or a cox: it is trained by newton, and without a penalty, which
    leaves no standard errors.
    """
    if not isinstance(model_type, str) or model_type.lower() not in (GLM, COX):
        return params
    if params is None:
        params = {}
    if not isinstance(params, Mapping):
        return params
    found = {"penalty": None, **params}
    if found.get("optimizer") is None:
        found["optimizer"] = NEWTON
    return found


def check_cox(request: Any) -> None:
    """BadRequest with all that does not go together of a cox; of other models for what is
    a cox's alone.
    """
    params = request.model_params
    problems: list[BadRequest] = []
    if request.model_type != COX:
        remedy = "Leave it out, or order cox."
        if request.event_name is not None:
            sentence = "event_name is given for a model that is no cox."
            problems.append(bad_request("event_name", sentence, remedy))
        if params.ties is not None:
            sentence = "ties is given for a model that is no cox."
            problems.append(bad_request("ties", sentence, remedy))
    else:
        if params.optimizer != NEWTON:
            sentence = f"A cox is trained by newton, not by {params.optimizer}."
            problems.append(bad_request("optimizer", sentence, "Leave optimizer out."))
        if request.event_name is None:
            sentence = "A cox needs the column of events, 1 where the event was, 0 where a row was censored."
            problems.append(bad_request("event_name", sentence, "Give event_name."))
    check_all(*[_raiser(error) for error in problems])


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
    return body


def default_dispersion(pair: Pair) -> str:
    return "estimate" if pair.has_dispersion else "fixed"


def check_glm(request: Any) -> None:
    """BadRequest with all that does not go together of a glm; of other models for what
    is a glm's alone.
    """
    params = request.model_params
    if request.model_type != GLM:
        for name in OF_GLM:
            if getattr(params, name) is not None:
                raise bad_request(
                    name,
                    f"{name} is given for a model that is no glm.",
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
    taken = [*request.attributes, request.label_name, request.unique_id]
    if weights in taken:
        raise bad_request(
            "weights",
            f"The column of weights {weights} is an attribute, the label or the unique id, too.",
            "A column has one role: name another one, or leave it out there.",
        )


def check_newton(request: Any) -> None:
    """BadRequest with all that newton cannot honour; of other orders for `confidence`."""
    params = request.model_params
    if not request.is_newton:
        if params.confidence != CONFIDENCE:
            raise bad_request(
                "confidence",
                "confidence is given, and only optimizer newton makes intervals.",
                "Leave it out, or order newton.",
            )
        return
    problems: list[BadRequest] = []

    def add(sentence: str, remedy: str) -> None:
        problems.append(bad_request("optimizer", sentence, remedy))

    if request.model_type not in NEWTON_MODELS:
        add(
            f"newton is for {', '.join(NEWTON_MODELS)}, not for {request.model_type}.",
            "Order one of these, or another optimizer.",
        )
    if params.penalty == "L1":
        add(
            "newton has no L1: the penalty has no second derivative at 0.",
            "Give penalty null or L2.",
        )
    for name, default in _OF_GRADIENTS.items():
        if getattr(params, name) != default:
            add(f"{name} is given, and newton uses none.", "Leave it out.")
    if params.convergence != "diff":
        add(
            "newton stops by the deviance, which is diff.",
            "Leave converge_func and early_stop out.",
        )
    if params.tolerance == 0:
        add("With eps 0 newton never stops.", "Give eps above 0, such as 1e-8.")
    if request.init_method != "zeros":
        add(
            "newton starts from the labels, not from weights.",
            "Leave init_method out.",
        )
    # A cox has none, whatever is said.
    if not params.init_param.fit_intercept and request.model_type != COX:
        add(
            "newton has an intercept always.",
            "Leave fit_intercept out, or order another optimizer.",
        )
    if request.is_scored:
        add(
            "Scores are of gradients, and newton sends none.",
            "Give scoring none.",
        )
    if request.aggregation != "mean":
        add(
            f"{request.aggregation} judges gradients, and newton sends none.",
            "Order mean.",
        )
    check_all(*[_raiser(error) for error in problems])


def _raiser(error: BadRequest) -> Any:
    def raise_it() -> None:
        raise error

    return raise_it
