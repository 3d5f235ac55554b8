"""What an agent reports of its policy, for the coordinator to show.

Each key stands here by name, so that a new key of the policy is not reported by itself,
and none has a default but null: what an agent does not say is not shown as if it had
said it.

Its words, lists and numbers are not those of this version: hospitals do not upgrade on
one day, and a rule such as `approval` must be known of an agent that has a method or a
model type more.

Decision 50.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from protocol.policy.keys import COHORT_NAME, ONE_LINE, ScoringLevel

ToldWord = Annotated[str, Field(max_length=40, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
ToldWords = Annotated[tuple[ToldWord, ...], Field(max_length=100)]
ToldUsers = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(max_length=10_000)
]
ToldNumber = Annotated[int, Field(ge=0, lt=2**63)]


class _Told(BaseModel):
    model_config = ConfigDict(
        # What a later version tells more is not shown by this one.
        extra="ignore",
        frozen=True,
        # `model_types` is a key.
        protected_namespaces=(),
    )


class OrdersTold(_Told):
    """Who may order there, who may receive, and what; `min_rows`, `regroup`,
    `max_rounds` and `budget_days` are those of `[cohort]`.
    """

    initiators: ToldUsers
    receivers: ToldUsers
    methods: ToldWords
    model_types: ToldWords
    min_hospitals: ToldNumber
    min_rows: ToldNumber
    regroup: bool
    max_rounds: ToldNumber
    budget_days: ToldNumber
    scoring: ScoringLevel
    min_scored_coefficients: ToldNumber
    score_readers: ToldWord
    approval: ToldWord
    hospital_sums: bool
    # None of an agent of before there was more than one.
    oldest_protocol: ToldNumber | None = None
    # None of an agent of before there were such masks.
    sparse_masks: bool | None = None


class InferenceTold(_Told):
    """Whether its own user may ask for predictions, and whether these may pass through
    the coordinator.
    """

    allowed: bool
    return_predictions: bool


class StatisticsTold(_Told):
    """The joint statistics in which it takes part."""

    methods: ToldWords
    min_providers: ToldNumber
    own_totals: bool
    min_rows: ToldNumber
    cells: ToldWord
    regroup: bool
    extremes: bool
    exact_quantiles: bool
    disclose: bool
    row_expressions: bool
    threshold_days: ToldNumber
    sparse_masks: bool | None = None


class CohortTold(_Told):
    """A cohort that its hospital lets be told (`cohorts.NAME.told`)."""

    name: Annotated[str, Field(pattern=f"^{COHORT_NAME}$")]
    description: Annotated[str, Field(max_length=300, pattern=ONE_LINE)]


class PolicyTold(_Told):
    """What an agent reports of its policy: rules, and nothing of tables, columns, files
    or rows; of cohorts the names and descriptions that it lets be told.

    For people to look at. What is allowed is decided at the hospital, by the policy
    itself.
    """

    orders: OrdersTold
    inference: InferenceTold
    statistics: StatisticsTold | None = None
    # An agent that tells none has none that it tells: an earlier version knows of none.
    cohorts: Annotated[tuple[CohortTold, ...], Field(max_length=1_000)] = ()
