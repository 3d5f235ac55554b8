"""Models, their losses and gradients, optimizers, metrics and folds.

The words of a training order stand here, so that a request is read without loading what
computes.
"""

from typing import Literal

ModelType = Literal["lr", "linear", "glm", "cox", "softmax", "mlp", "cnn"]
"""The kinds of `models`."""

Family = Literal[
    "gaussian",
    "binomial",
    "poisson",
    "gamma",
    "inverse_gaussian",
    "negative_binomial",
]
Link = Literal[
    "identity",
    "log",
    "inverse",
    "inverse_squared",
    "sqrt",
    "logit",
    "probit",
    "cloglog",
]
"""Of a glm; which go together is in `families`."""

Dispersion = Literal["fixed", "estimate"]
WeightsType = Literal["prior", "frequency"]
StandardErrors = Literal["model", "HC0", "HC1"]

InitMethod = Literal["zeros", "ones", "const", "random_normal", "random_uniform"]
"""How `initial_weights` draws; a network takes the last two."""

Ties = Literal["efron", "breslow"]
"""How a Cox regression takes events at one time."""
Baseline = Literal["hospital", "joint"]
"""Whose rows have one baseline hazard in a Cox regression."""
TimeScale = Literal["log", "identity"]
"""Against which function of time a Cox regression's proportional hazards are tested."""

Pooling = Literal["pooled", "meta"]
"""Whether a Newton order is of all rows together or of hospitals' own estimates."""

SiteEffect = Literal["random", "fixed"]
"""What hospitals' intercepts are: drawn from one distribution, or a column for each."""

GradientPenalty = Literal["L1", "L2"]
Penalty = Literal["L1", "L2", "firth"]
GradientOptimizer = Literal[
    "sgd", "nesterov_momentum_sgd", "adam", "rmsprop", "adagrad"
]
Optimizer = Literal[GradientOptimizer, "newton"]
Convergence = Literal["diff", "abs", "weight_diff"]
"""What `optimizers` steps with and stops by; newton is `newton`."""
