"""How a model is trained: the fields of `model_params`, with those of its nested
objects.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from analytics.training import (
    Baseline,
    Convergence,
    Dispersion,
    Family,
    InitMethod,
    Link,
    Optimizer,
    Penalty,
    Pooling,
    SiteEffect,
    StandardErrors,
    Ties,
    TimeScale,
    WeightsType,
)
from protocol.fields import Asked, Column, Number, Whole, any_case
from protocol.regression_request import CONFIDENCE, Edges, with_newton_defaults
from protocol.sums import KEY_LENGTHS, EncryptMethod

MODEL_NAMES = {
    "lr": "Logistic Regression",
    "linear": "Linear Regression",
    "glm": "Generalised Linear Model",
    "cox": "Cox Regression",
    "softmax": "Softmax Regression",
    "mlp": "Multilayer Perceptron",
    "cnn": "Convolutional Neural Network",
}

# Units, or channels, of a network's two hidden layers unless an order says otherwise.
HIDDEN: dict[str, tuple[int, ...]] = {
    "mlp": (32, 16),
    "cnn": (8, 16),
}

MOST_CLASSES = 1_000
"""That a model can have."""

DEFAULT_BOUND = 2.0**20


def _none_word(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lower() in ("none", "null", ""):
        return None
    return value


def _method_word(value: Any) -> Any:
    if value is None:
        return "None"
    return value


Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
Tolerance = Annotated[Number, Field(ge=0)]
_Rate = Annotated[Number, Field(ge=0, le=1e6)]
_Convergence = Annotated[Convergence, any_case(Convergence)]
_Units = Annotated[Whole, Field(ge=1, le=1024)]
_Pixels = Annotated[Whole, Field(ge=1, le=10_000)]

HiddenUnits = Annotated[
    list[_Units],
    Field(min_length=2, max_length=2),
]
"""Units, or channels, of the two hidden layers."""

ImageShape = Annotated[
    list[_Pixels],
    Field(min_length=2, max_length=3),
]
"""Height, width and perhaps channels."""


class InitParam(Asked):
    init_method: Annotated[InitMethod | None, any_case(InitMethod)] = None
    init_const: Number = 1.0
    random_seed: Seed = 1
    fit_intercept: bool = True


class EncryptParam(Asked):
    # null is the word None: nothing is encrypted.
    null_is_said = frozenset({"method"})

    method: Annotated[
        EncryptMethod,
        any_case(EncryptMethod),
        BeforeValidator(_method_word),
    ] = "Paillier"
    key_length: Annotated[Whole, Field()] = 2048

    @model_validator(mode="after")
    def _long_enough(self) -> EncryptParam:
        if self.key_length not in KEY_LENGTHS:
            allowed = map(str, KEY_LENGTHS)
            lengths = ", ".join(allowed)
            raise ValueError(
                f"key_length must be one of {lengths} bits; fewer are not safe"
            )
        return self


class CrossValidation(Asked):
    need_cv: bool = False
    n_splits: Annotated[Whole, Field(ge=2, le=50)] = 5
    shuffle: bool = True
    random_seed: Seed = 1


class ModelParams(Asked):
    """How the model is trained (docs/api.md).

    `tol` is `eps`, `early_stop` is `converge_func`.
    """

    # null is no penalty.
    null_is_said = frozenset({"penalty"})

    penalty: Annotated[
        Penalty | None,
        any_case(Penalty),
        BeforeValidator(_none_word),
    ] = "L2"
    optimizer: Annotated[Optimizer, any_case(Optimizer)] = "sgd"
    # Two names for one thing: `tolerance` reads them.
    eps: Tolerance | None = None
    tol: Tolerance | None = None
    alpha: _Rate = 0.01
    max_iter: Annotated[Whole, Field(ge=1, le=10_000)] = 100
    # Two names for one thing: `convergence` reads them.
    converge_func: _Convergence | None = None
    early_stop: _Convergence | None = None
    # -1: all rows in each round.
    batch_size: Annotated[Whole, Field(ge=-1, le=2**31)] = -1
    learning_rate: Annotated[Number, Field(gt=0, le=1e6)] = 0.15
    decay: _Rate = 0.0
    decay_sqrt: bool = True
    # None for those of HIDDEN.
    hidden: HiddenUnits | None = None
    # Of a cnn's images.
    shape: ImageShape | None = None
    init_param: InitParam = InitParam()
    encrypt_param: EncryptParam = EncryptParam()
    cv_param: CrossValidation = CrossValidation()
    standardize: bool = False
    # Of events at one time in a cox; None for efron.
    ties: Annotated[Ties, any_case(Ties)] | None = None
    # Against which function of time a cox tests proportional hazards; None for log.
    hazards_time: Annotated[TimeScale, any_case(TimeScale)] | None = None
    # Of a cox: whose rows have one baseline hazard; None for each hospital's. With joint,
    # between which times events count as at one time.
    baseline: Annotated[Baseline, any_case(Baseline)] | None = None
    edges: Edges | None = None
    # Of a Newton order: all rows together, or a meta-analysis of the hospitals' own
    # estimates.
    pooling: Annotated[Pooling, any_case(Pooling)] = "pooled"
    # An intercept of each hospital's own. random: of a linear model by newton, drawn from
    # one normal distribution; fixed: of any model by newton, a column for each hospital.
    site_effect: Annotated[SiteEffect | None, any_case(SiteEffect)] = None
    # Of the intervals in a Newton order's report.
    confidence: Annotated[Number, Field(ge=0.5, lt=1)] = CONFIDENCE
    # Of a glm; link None is the family's canonical one, dispersion None what the family
    # has.
    family: Annotated[Family | None, any_case(Family)] = None
    link: Annotated[Link | None, any_case(Link)] = None
    dispersion: Annotated[Dispersion | None, any_case(Dispersion)] = None
    # An attribute whose coefficient is 1.
    offset: Column | None = None
    # A column of the data that says how much each row weighs, or how many rows it is.
    weights: Column | None = None
    weights_type: Annotated[WeightsType | None, any_case(WeightsType)] = None
    # Of a glm's report; None is model.
    standard_errors: Annotated[StandardErrors | None, any_case(StandardErrors)] = None
    # Whose rows are alike, so that errors are of them: hospital, each one cluster, or a
    # column, each hospital's values clusters of its own.
    cluster: Column | None = None
    # A larger number in a sum stops the order: the fixed point has no room for it
    # (decision 12).
    bound: Annotated[Number, Field(ge=1, le=2.0**40)] = DEFAULT_BOUND

    @model_validator(mode="before")
    @classmethod
    def _newton(cls, body: Any) -> Any:
        return with_newton_defaults(body)

    @model_validator(mode="after")
    def _consistent(self) -> ModelParams:
        if self.batch_size == 0:
            raise ValueError("batch_size must be -1 (all rows) or at least 1")
        pairs = [
            ("eps", "tol"),
            ("converge_func", "early_stop"),
        ]
        for name, other_name in pairs:
            value = getattr(self, name)
            other_value = getattr(self, other_name)
            are_given = value is not None and other_value is not None
            if are_given and value != other_value:
                raise ValueError(
                    f"{name} and {other_name} are two names for one thing and differ; give one of them"
                )
        return self

    @property
    def tolerance(self) -> float:
        if self.eps is not None:
            return self.eps
        if self.tol is not None:
            return self.tol
        return 1e-4

    @property
    def convergence(self) -> str:
        return self.converge_func or self.early_stop or "diff"
