"""How good a kept model is on rows of its hospitals: the order that asks for that, and
its own fields.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from protocol.fields import Column, Number, UserId, Whole
from protocol.training_request.request import TrainingRequest

MOST_CALIBRATION_STEPS = 10
"""Rounds in which an evaluation's calibration slope is searched; four to six are usual."""

MOST_GROUPS = 10
"""Subgroups that an evaluation is over."""

THRESHOLD = 0.5
"""Of scores, unless an evaluation names another one."""


def _in_thousandths(value: float) -> float:
    """The calls are read off a histogram of 1,000 bins: any other threshold would be a
    sum more, and many of them would tell single scores to every digit.
    """
    thousandths = round(value * 1000)
    if abs(value * 1000 - thousandths) > 1e-9:
        raise ValueError("must be a multiple of 0.001")
    return thousandths / 1000


Threshold = Annotated[Number, Field(gt=0, lt=1), AfterValidator(_in_thousandths)]
"""Of scores, in thousandths."""


def _once_each(values: list[float]) -> list[float]:
    if len(set(values)) < len(values):
        raise ValueError("names a cut-off twice")
    return sorted(values)


Cutoffs = Annotated[list[Threshold], Field(max_length=20), AfterValidator(_once_each)]
"""Further thresholds, in ascending order."""


class EvaluationRequest(TrainingRequest):
    """A training order without rounds: rows, and a model that its hospitals hold.

    `POST /model/evaluate` makes it of what its body says and what the model's own order
    said of columns (`protocol.evaluation_request`). The train SQL selects the rows.
    """

    model_id: Annotated[Whole, Field(ge=1, lt=2**31)]
    # Who scores as much or more is called positive.
    threshold: Threshold = THRESHOLD
    # The same, for each of these; only the hospitals are told.
    cutoffs: Cutoffs = Field(default_factory=list)
    # Of scores: whether calibration's slope is estimated, by rounds of its own.
    calibration_slope: bool = False
    # A column of few values: the same for each of its subgroups.
    group_by: Column | None = None
    # The hospitals that did not train the model: the initiator seals it to them.
    model_to: list[UserId] = Field(default_factory=list, max_length=1000)

    @property
    def subgroups(self) -> str | None:
        return self.group_by

    @property
    def seals_model_to(self) -> list[int]:
        return self.model_to

    @property
    def outcome_columns(self) -> list[str]:
        """As of training, and the column of subgroups where it is no attribute."""
        columns = super().outcome_columns
        if self.group_by is not None and self.group_by not in self.attributes:
            columns.append(self.group_by)
        return columns

    @property
    def evaluates(self) -> int | None:
        return self.model_id

    @property
    def is_newton(self) -> bool:
        """No: whatever has trained the model, nothing is squared and multiplied."""
        return False
