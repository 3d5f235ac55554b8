"""What an order may say where `optimizer` is newton, as that of a cox always is, and what
nothing follows from then.

Decisions 84 and 89.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protocol.errors import BadRequest, bad_request, check_all

NEWTON = "newton"
COX = "cox"
NEWTON_MODELS = ("lr", "linear", COX)
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


def with_cox_defaults(model_type: Any, params: Any) -> Any:
    """The same of a cox: it is trained by newton, and without a penalty, which leaves no
    standard errors.
    """
    is_cox = isinstance(model_type, str) and model_type.lower() == COX
    if not is_cox:
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
