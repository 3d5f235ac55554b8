"""Models, their losses and gradients, optimizers, metrics and folds.

The words of a training order stand here, so that a request is read without loading what
computes.
"""

from typing import Literal

ModelType = Literal["lr", "linear", "glm", "cox", "softmax", "mlp", "cnn"]
"""The kinds of `models`."""

Family = Literal["gaussian", "binomial", "poisson", "gamma", "inverse_gaussian"]
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

InitMethod = Literal["zeros", "ones", "const", "random_normal", "random_uniform"]
"""How `initial_weights` draws; a network takes the last two."""

Ties = Literal["efron", "breslow"]
"""How a Cox regression takes events at one time."""

Penalty = Literal["L1", "L2"]
GradientOptimizer = Literal[
    "sgd", "nesterov_momentum_sgd", "adam", "rmsprop", "adagrad"
]
Optimizer = Literal[GradientOptimizer, "newton"]
Convergence = Literal["diff", "abs", "weight_diff"]
"""What `optimizers` steps with and stops by; newton is `newton`."""
