"""The fields of a training order, as a data scientist sends them.

What follows from them is in `request.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from analytics.scores import Aggregation
from analytics.training import ModelType
from protocol.fields import (
    Asked,
    Column,
    Number,
    ReaderKey,
    SqlByHospital,
    UserId,
    Whole,
    any_case,
    printable,
)
from protocol.regression_request import Strata, with_newton_models_defaults
from protocol.start_window import AtLeast, StartSeconds
from protocol.study_rows import Categorical, Derive, MissingWord
from protocol.training_request.model_params import ModelParams

Scoring = Literal["none", "round", "full"]


class TrainingBody(Asked):
    """The fields of a training order, and no more."""

    # Who orders; its agent signs the order and opens the sums.
    user_id: UserId
    model_type: Annotated[ModelType, any_case(ModelType)]
    model_params: ModelParams = ModelParams()
    # The other hospitals.
    party_id: Annotated[list[UserId], Field(max_length=1000)]
    # By hospital its SQL, which goes sealed to that hospital; in the order's document
    # are commitments.
    data_info: SqlByHospital
    # By hospital, for those that have rows of their own to test on; or the share of the
    # rows that tests.
    test_data_info: SqlByHospital = Field(default_factory=dict)
    validation_fraction: Annotated[Number, Field(gt=0, lt=1)] | None = None
    # None: the lowest that a policy allows (decision 31).
    scoring: Annotated[Scoring, any_case(Scoring)] | None = None
    aggregation: Annotated[Aggregation, any_case(Aggregation)] = "mean"
    # None: as many as the aggregation bears (`most_attackers`).
    n_attackers: Annotated[Whole, Field(ge=1, le=1000)] | None = None
    # What tells patients apart; the policy names it for each table, and it is no
    # attribute (decision 19).
    unique_id: Column
    attributes: Annotated[list[Column], Field(min_length=1, max_length=10_000)]
    # Of a cox the time until the event or the end of observation.
    label_name: Column
    # Of a cox: 1 where the event was, 0 where a row was censored.
    event_name: Column | None = None
    # Of a cox: the time from which on a row is observed (left truncation).
    entry_name: Column | None = None
    # Of a cox: columns whose levels have a baseline each, at each hospital.
    strata: Strata = Field(default_factory=list)
    # Rows without a value in one of these columns are left out before anything is
    # counted.
    complete_on: list[Column] = Field(default_factory=list, max_length=10_000)
    # Attributes that are no plain numbers of the data: `study_rows.py`.
    categorical: Categorical = Field(default_factory=dict)
    derive: Derive = Field(default_factory=dict)
    missing: MissingWord = "refuse"
    # To whose own key the initiator's agent seals the report.
    reader: ReaderKey | None = None
    # A kept model that this one contains, for a likelihood-ratio test.
    compare: Annotated[Whole, Field(ge=1, lt=2**31)] | None = None
    # The order starts with who has accepted by then, if so many have: `start_window.py`.
    start_within_seconds: StartSeconds | None = None
    at_least: AtLeast | None = None
    purpose: Annotated[str, Field(max_length=500), AfterValidator(printable)] = ""

    @model_validator(mode="before")
    @classmethod
    def _lift(cls, body: Any) -> Any:
        """How gradients are scored and combined may stand beside the other
        model_params, too.
        """
        if not isinstance(body, Mapping):
            return body
        params = with_newton_models_defaults(
            body.get("model_type"), body.get("model_params")
        )
        if not isinstance(params, Mapping):
            return body
        lifted = {}
        for name in ("scoring", "aggregation", "n_attackers"):
            if name not in params:
                continue
            lifted[name] = params[name]
            if body.get(name, params[name]) != params[name]:
                raise ValueError(
                    f"{name} stands in the order and in model_params, and differs; give one of them"
                )
        other_params = {
            name: value for name, value in params.items() if name not in lifted
        }
        return {**body, "model_params": other_params, **lifted}
