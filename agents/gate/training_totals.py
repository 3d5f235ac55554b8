"""What a training order opens, as a list of totals (`totals.py`): every party opens every
sum. With method None the coordinator sees each hospital's part, and so opens all sums.

Decision 87.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from agents.gate.kept_sets import COORDINATOR
from agents.gate.totals import OpenedTotal, few
from analytics.training.cox_joint import ROUNDS as JOINT_ROUNDS
from protocol.training_request import TrainingRequest


def training_totals(request: TrainingRequest) -> list[OpenedTotal]:
    """What an order opens that trains a model, or judges one on new rows."""
    order = _Order(request)
    totals = [order.total("n", order.inputs, order.columns, order.each_fold)]
    if request.evaluates is not None:
        return [*totals, *_of_evaluation(order)]
    totals += _before_the_rounds(order)
    of_rounds = _in_rounds(request)
    in_each = f"in each round{order.each_fold}"
    totals.append(order.total(of_rounds, order.inputs, order.columns, in_each))
    if request.baseline == "joint":
        totals += _of_joint_baseline(order)
    at_end = f"at the end{order.each_fold}"
    scores = _at_end(request)
    totals.append(order.total(scores, order.inputs, order.columns, at_end))
    return totals


@dataclass(frozen=True)
class _Order:
    """What all totals of one order have in common."""

    request: TrainingRequest

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """The columns that leave in sums; a derived column's totals depend on those
        that it is made of.
        """
        return tuple(self.request.study.plain)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        column_names = [*self.attributes, *self.request.outcome_columns]
        return tuple(dict.fromkeys(column_names))

    @cached_property
    def inputs(self) -> str:
        return few([*self.attributes, *self.request.outcome_columns])

    @cached_property
    def each_fold(self) -> str:
        folds = self.request.model_params.cv_param
        return (
            f" for each of {folds.n_splits} folds and all rows" if folds.need_cv else ""
        )

    @cached_property
    def receivers(self) -> tuple[str, ...]:
        hospitals = tuple(str(hospital) for hospital in self.request.hospitals)
        return (*hospitals, COORDINATOR) if self.request.is_open else hospitals

    @cached_property
    def complete_columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.columns, *self.request.complete_on]))

    def total(
        self, what: str, subject: str, names: Sequence[str], repeated: str
    ) -> OpenedTotal:
        """One total over the same columns of every hospital."""
        hospitals = self.request.hospitals
        parts = {}
        for hospital in hospitals:
            for column in names:
                parts[hospital, column] = Fraction(1)
        return OpenedTotal(
            what=what,
            subject=subject,
            parts=parts,
            receivers=self.receivers,
            complete_in=dict.fromkeys(hospitals, self.complete_columns),
            repeated=repeated.strip(),
            is_count=what == "n",
        )


def _before_the_rounds(order: _Order) -> list[OpenedTotal]:
    """Counts of rows and levels, means of missing values, moments."""
    request = order.request
    study = request.study
    totals = []
    if study.needs_counts:
        totals.append(order.total("n", "rows selected and left out", order.columns, ""))
    levels = (
        f"each level of {few(list(study.categorical))}" if study.categorical else ""
    )
    for column in study.categorical:
        totals.append(order.total("n", levels, [column], ""))
    if study.missing == "mean":
        numbers = [
            column for column in order.attributes if column not in study.categorical
        ]
        for column in numbers:
            subject = f"each of {few(numbers)}"
            totals.append(order.total("n and sum", subject, [column], ""))
    with_moments = request.columns_with_moments
    for column in with_moments:
        subject = f"each of {few(with_moments)}"
        for what in ("sum", "sum of squares"):
            totals.append(order.total(what, subject, [column], order.each_fold))
    return totals


def _in_rounds(request: TrainingRequest) -> str:
    """What each round opens, in words."""
    gradients = "sum of gradients and loss"
    if request.is_newton:
        gradients = (
            "weighted sums of each column and of each product of two columns, the deviance, and at how many hospitals"
            " the model gives a mean out of range"
        )
    if request.model_type == "cox":
        gradients = (
            "sums over all events, of each column and of each product of two columns among those at risk, and the"
            " partial likelihood"
        )
        if request.strata:
            gradients += f", within each stratum of {few(request.strata)}"
    if request.tells_own_sums:
        gradients += ", and each hospital's own sum of each column, by itself"
    if request.is_meta:
        gradients = (
            "sums over hospitals of w, w^2, w b and w b^2, and of w*, w* b and w* b^2, of each coefficient's estimate b"
            " with its weights"
        )
    if request.weights is not None:
        gradients += f", each row weighted by {request.weights}"
    if request.model_params.offset is not None:
        gradients += f", off the offset {request.model_params.offset}"
    if request.robust is not None:
        gradients += ", at the end with squared residuals as weights, too"
    if request.cluster_column is not None:
        gradients += f", these summed within clusters of {request.cluster_column}"
    return gradients


def _of_joint_baseline(order: _Order) -> list[OpenedTotal]:
    """What Cox's model opens at the edges of a baseline that all hospitals share."""
    n_edges = len(order.request.edges)
    before = f"before {n_edges} times and after them, of which some may be one"
    at_risk = "sums over all at risk, and over events, of each column and of each product of two columns"
    in_rounds = f"at these times in {JOINT_ROUNDS} rounds"
    counted = "n of events and of others who leave"
    return [
        order.total(counted, order.inputs, order.columns, before),
        order.total(at_risk, order.inputs, order.columns, in_rounds),
    ]


def _at_end(request: TrainingRequest) -> str:
    """What is opened when the rounds of a fold are over, in words."""
    if request.baseline == "joint":
        return "n of events and counts of pairs that the model orders rightly"
    if request.model_type == "cox":
        of_time = "the time" if request.hazards_time == "identity" else "log time"
        return (
            "n of events, counts of pairs that the model orders rightly, the partial likelihood, and the sums of the"
            f" rounds times {of_time} and its square"
        )
    scores = "sum of loss and counts of classes, calls and scores of training and held-out rows"
    if request.model_type == "glm":
        scores += ", Pearson's chi2, null deviance and the rest of the log-likelihood"
    return scores


def _of_evaluation(order: _Order) -> list[OpenedTotal]:
    """What an order opens that judges a model on new rows."""
    request = order.request
    totals = [order.total("n", "rows left out", order.columns, "")]
    what = "sum of loss, and counts of classes and of calls"
    if request.has_binary_label:
        what = (
            "sums of log loss and of squared error, counts of calls at 0.5, and counts of scores in 1,000 bins"
            " by class"
        )
    elif request.has_number_label:
        for moment in ("sum", "sum of squares"):
            totals.append(
                order.total(moment, request.label_name, [request.label_name], "")
            )
        what = "sums of squared and of absolute error"
        if request.family:
            what += ", and the deviance"
    elif request.model_type == "cox":
        what = "n of events, and counts of pairs of one hospital's rows"
    of_model = f"model {request.evaluates} on {order.inputs}"
    totals.append(order.total(what, of_model, order.columns, ""))
    if request.subgroups is not None:
        totals.append(
            order.total(
                what, of_model, order.columns, f"for each group of {request.subgroups}"
            )
        )
    if getattr(request, "calibration_slope", False):
        what = "weighted sums of the score's logit and its square, and the deviance"
        totals.append(order.total(what, of_model, order.columns, "in each round"))
    return totals
