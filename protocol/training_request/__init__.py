"""The training order: every field a data scientist may send, checked before anything
runs.

One class serves both sides: the coordinator checks a request with it, and every
hospital checks the signed document with it again, because a hospital believes nothing
that the coordinator says.

To read in this order: `model_params` and `body` (the fields), `request` and
`evaluation` (what follows from them), `held_out` (which rows are held out), `checks` (what
fits together), `document` (what is signed). `protocol.regression_request` has what
Newton's method adds, `protocol.statistics_request` is the same for joint statistics.
"""

from __future__ import annotations

from analytics.scores import Aggregation
from analytics.training import ModelType, Optimizer, Penalty
from protocol.sums import EncryptMethod
from protocol.training_request.body import Scoring
from protocol.training_request.checks import (
    check_training_request,
    parse_training_request,
)
from protocol.training_request.document import order_document, read_order_document
from protocol.training_request.evaluation import (
    MOST_CALIBRATION_STEPS,
    MOST_GROUPS,
    Cutoffs,
    EvaluationRequest,
    Threshold,
)
from protocol.training_request.held_out import (
    folds,
    has_held_out,
    n_held_out,
    rounds_done,
)
from protocol.training_request.model_params import (
    HIDDEN,
    MODEL_NAMES,
    MOST_CLASSES,
    EncryptParam,
    ModelParams,
)
from protocol.training_request.request import TrainingRequest

__all__ = [
    "HIDDEN",
    "MODEL_NAMES",
    "MOST_CALIBRATION_STEPS",
    "MOST_CLASSES",
    "MOST_GROUPS",
    "Aggregation",
    "Cutoffs",
    "EncryptMethod",
    "EncryptParam",
    "EvaluationRequest",
    "ModelParams",
    "ModelType",
    "Optimizer",
    "Penalty",
    "Scoring",
    "Threshold",
    "TrainingRequest",
    "check_training_request",
    "folds",
    "has_held_out",
    "n_held_out",
    "order_document",
    "parse_training_request",
    "read_order_document",
    "rounds_done",
]
