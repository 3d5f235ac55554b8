"""What the initiator tells of all hospitals' rows: read and checked before anybody sees it.

The coordinator cannot compute it, as the sums that it is made of are sealed; it checks
that nothing but numbers, words and codes of the known ones stands there. Pure.

Decisions 77 and 87.
"""

from __future__ import annotations

import json
from typing import Any

from analytics.training.outcome import STOPPED_BY, WARNINGS
from protocol.training_request import TrainingRequest
from tasks.coordinator.order import Record
from tasks.coordinator.reported_metrics import COUNTED, MEASURED, is_metric
from tasks.coordinator.reports import names_rules, wrong_report

PooledMetrics = dict[str, Any]
"""What the initiator made of a fold's sums, by what training stopped, and codes of
warnings; `read_pooled` has its parts.
"""
_EVALUATED = {
    *MEASURED,
    "log_loss",
    "brier",
    "auc_se",
    "mean_deviance",
    *("calibration_slope", "calibration_slope_se"),
    *("calibration_intercept", "calibration_intercept_se"),
    *("calibration_in_the_large", "calibration_in_the_large_se"),
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
}
"""What the initiator tells of a model on new rows (decision 87)."""
POOLED = (
    *("loss", "auc", "ks", "concordance"),
    *("mse", "rmse", "mae", "accuracy", "f1", "f1_macro"),
)
"""What the initiator makes of the hospitals' sealed sums, beside counts of calls."""


def read_pooled(body: bytes, initiator: int) -> PooledMetrics:
    """What the initiator made of a fold's sums, checked.

    `training`, `held_out` and `all_folds`, the last two null or absent where there are
    no such rows. In each are numbers, or null where a metric is not defined. Further
    `stopped_by`, and under `warnings` codes of `analytics.training.outcome`.
    ProtocolViolation (code report) for anything else.
    """
    sentence = f"Hospital {initiator} tells no metrics of all hospitals' rows."
    wrong = wrong_report(sentence, initiator)
    metrics: list[tuple[str, Any]] = []
    try:
        pooled: PooledMetrics = json.loads(body)
        is_outcome = _is_outcome(pooled["stopped_by"], pooled["warnings"])
        metrics.extend(pooled["training"].items())
        for part in ("held_out", "all_folds"):
            if pooled.get(part) is not None:
                metrics.extend(pooled[part].items())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise wrong from None
    if not is_outcome:
        raise wrong
    for metric_name, value in metrics:
        if metric_name not in POOLED and metric_name not in COUNTED:
            raise wrong
        may_be_null = metric_name in POOLED
        if not (value is None and may_be_null) and not is_metric(metric_name, value):
            raise wrong
    return pooled


def read_evaluated(body: bytes, initiator: int) -> PooledMetrics:
    """What the initiator made of an evaluation's sums, checked.

    `metrics`, each a number or null, and `withheld`: null, or the rule by which there
    are none. ProtocolViolation (code report) for anything else.
    """
    sentence = f"Hospital {initiator} tells no metrics of all hospitals' rows."
    wrong = wrong_report(sentence, initiator)
    try:
        evaluated: PooledMetrics = json.loads(body)
        is_good = _is_evaluated(evaluated)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise wrong from None
    if not is_good:
        raise wrong
    return evaluated


def _is_evaluated(evaluated: PooledMetrics) -> bool:
    """Whether an evaluation has metrics that it may have, each a number or null."""
    metrics = evaluated["metrics"]
    withheld = evaluated["withheld"]
    if set(evaluated) != {"metrics", "withheld"}:
        return False
    rules = {} if withheld is None else {"train": withheld}
    if not isinstance(metrics, dict) or not names_rules({"withheld": rules}):
        return False
    if not set(metrics) <= _EVALUATED:
        return False
    return all(
        value is None or is_metric(name, value) for name, value in metrics.items()
    )


def check_end(request: TrainingRequest, record: Record, pooled: PooledMetrics) -> None:
    """Whether a fold that is said to have ended by max_iter has taken as many rounds.

    ProtocolViolation (code report) for one that has not.
    """
    by_max_iter = pooled["stopped_by"] == "max_iter"
    if by_max_iter and record["round"] != request.model_params.max_iter:
        sentence = (
            f"Hospital {request.user_id} says that training ended by max_iter, "
            f"after {record['round']} rounds."
        )
        raise wrong_report(sentence, request.user_id)


def _is_outcome(stopped_by: Any, warnings: Any) -> bool:
    """Whether these are a word that training stops by, and codes of warnings."""
    if stopped_by not in STOPPED_BY or not isinstance(warnings, list):
        return False
    return all(isinstance(code, str) and code in WARNINGS for code in warnings)
