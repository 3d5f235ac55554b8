"""An order that is trained by Newton's method: its defaults, and what it cannot have.

Decision 84.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analytics.training.pairs import Pair
from protocol.errors import Problems, bad_request

NEWTON = "newton"
GLM = "glm"
COX = "cox"
NEWTON_MODELS = ("lr", "linear", GLM, COX)

HOSPITAL = "hospital"
"""As `cluster` of a glm: each hospital is one."""

FIRTH = "firth"
FIRTH_PAIRS = (Pair("binomial", "logit"), Pair("poisson", "log"))

# What is meant where an order by newton leaves a field out.
MAX_ITER = 25
MAX_ITER_FIRTH = 100
"""Its steps take two rounds each, and shrink by a factor only."""
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
    filled_params = dict(params)
    if filled_params.get("max_iter") is None:
        is_firth = str(filled_params.get("penalty")).lower() == FIRTH
        filled_params["max_iter"] = MAX_ITER_FIRTH if is_firth else MAX_ITER
    if filled_params.get("eps") is None and filled_params.get("tol") is None:
        filled_params["eps"] = EPS
    return filled_params


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
    filled_params = {"penalty": None, **params}
    if filled_params.get("optimizer") is None:
        filled_params["optimizer"] = NEWTON
    return filled_params


def check_compare(request: Any) -> None:
    """BadRequest for a likelihood-ratio test of what has no likelihood at its maximum."""
    if request.compare is None:
        return
    params = request.model_params
    problems = Problems()
    add = problems.adder("compare")

    if not request.is_newton or request.evaluates is not None:
        add(
            "compare is given, and the order is none that newton trains.",
            "Order glm or cox, or lr or linear with optimizer newton; else leave it out.",
        )
    if params.penalty is not None:
        add("With a penalty no likelihood is at its maximum.", "Give penalty null.")
    if request.robust is not None:
        add(
            "Robust standard errors say that the likelihood is not trusted.",
            "Leave standard_errors and cluster out, or compare.",
        )
    pair = request.pair
    is_quasi = params.dispersion == "estimate" and not (pair and pair.has_dispersion)
    if is_quasi:
        add("A quasi family has no likelihood.", "Leave dispersion out.")
    if request.is_meta or request.has_random_intercept:
        add(
            "A meta-analysis and a random intercept have other likelihoods.",
            "Leave pooling and site_effect out, or compare.",
        )
    if params.cv_param.need_cv or request.validation_fraction is not None:
        add(
            "Held-out rows leave fewer rows than the other model may have had.",
            "Set need_cv to false and leave validation_fraction out.",
        )
    problems.raise_any()


def check_firth(request: Any) -> None:
    """BadRequest where Firth's penalty is ordered of a model that it is not for."""
    params = request.model_params
    if not request.is_firth:
        return
    if not request.is_newton or request.pair not in FIRTH_PAIRS:
        raise bad_request(
            "penalty",
            "Firth's penalty is for binomial with logit and poisson with log, by newton.",
            "Order one of these, as lr with optimizer newton or a glm, or penalty L2.",
        )
    if params.dispersion == "estimate":
        raise bad_request(
            "penalty",
            "Firth's penalty is of a likelihood, and dispersion estimate has none.",
            "Leave dispersion out, or give penalty null.",
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
    problems = Problems()
    add = problems.adder("optimizer")

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
    for param_name, default in _OF_GRADIENTS.items():
        if getattr(params, param_name) != default:
            add(f"{param_name} is given, and newton uses none.", "Leave it out.")
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
    problems.raise_any()
