"""The sections of policy.toml that say who may order what, and when rows are enough:
[orders], [cohort] and [inference].

What is wrong is reported in the order of the fields.

Decisions 15 and 31.
"""

from __future__ import annotations

from fractions import Fraction

from pydantic import BaseModel, ConfigDict, Field

from protocol.policy.keys import (
    Approval,
    Count,
    EncryptMethods,
    Flag,
    Initiators,
    ModelTypes,
    ProtocolNumber,
    RareLevels,
    Ratio,
    Receivers,
    ScoreReaders,
    ScoringLevel,
    Share,
    Varying,
)
from protocol.versions import OLDEST_PROTOCOL


class Rules(BaseModel):
    """A section of the file."""

    model_config = ConfigDict(
        # true is not 1, and 3.0 is not 3.
        strict=True,
        # A rule that is misspelled must not be a rule that is not there.
        extra="forbid",
        frozen=True,
        # `model_types` is a key.
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


class OrderRules(Rules):
    """Who may order here, who may receive, and what."""

    initiators: Initiators
    """User ids that may order here; your own hospital's too, if its users may."""

    receivers: Receivers = Field(default_factory=lambda before: before["initiators"])
    """User ids that may receive aggregates and models of orders with your rows.

    Default: the initiators.
    """

    methods: EncryptMethods
    """How gradients are encrypted.

    None shows gradients and model to the coordinator.
    """

    model_types: ModelTypes
    """The models that may be trained."""

    sign: Flag
    """Whether this hospital's agent signs orders of its own users."""

    min_hospitals: Count = 3
    """The fewest hospitals in any sum. Of two, each can subtract itself."""

    scoring: ScoringLevel = "none"
    """The most that an order may have the coordinator learn of single gradients."""

    min_scored_coefficients: Count = 10
    """The fewest coefficients, intercepts counted, of a layer that is scored by itself.

    A smaller one is scored with its neighbour, a smaller model is trained unscored.
    """

    score_readers: ScoreReaders = "parties"
    """Who may read scores; one hospital with operator decides for the order."""

    approval: Approval = "automatic"
    """With manual, a person here decides on every order that the policy allows."""

    derive: Flag = False
    """Whether other hospitals' orders may compute columns from this hospital's.

    Who computes columns weighs rows: by two orders whose columns differ in one person
    it can have that person's values.
    """

    oldest_protocol: ProtocolNumber = OLDEST_PROTOCOL
    """The oldest protocol in which an order may be written.

    Default: the oldest that the agent's release speaks.
    """

    hospital_sums: Flag = False
    """Whether what this hospital's rows give by themselves may be told to the hospitals
    of an order: its own sums, estimates, means.
    """

    sparse_masks: Flag = False
    """Whether in orders of more than 64 hospitals each may mask with some of the others
    only, if all policies say so: that hides single hospitals while at most a third of
    them collude, not any two from all others (protocol.sums.mask_graph).
    """


class GateNumbers(Rules):
    """What a set of rows has to pass before a model is trained or tested on it
    (agents.gate.cohort_gate).
    """

    min_rows: Count = 10
    """The fewest rows of a cohort, of a held-out part, and of the difference between
    two cohorts.
    """

    min_varying: Varying = Field(default_factory=lambda before: before["min_rows"])
    """A feature in which fewer rows than this differ from its commonest value is
    refused. Default: min_rows.
    """

    max_parameter_share: Ratio = Fraction(1, 3)
    """The most model parameters for each row: a number, or a fraction in quotes."""


class CohortRules(GateNumbers):
    """The gate's numbers for every table that does not set its own."""

    max_rows: Count = 1_000_000
    """The most rows that one SQL may read."""

    max_linear_predictor: Ratio = Fraction(30)
    """The largest linear predictor of lr and softmax that nine tenths of the rows may
    have in a round, and all rows ten times that: beyond, the order ends.
    """

    max_share: Share = Fraction(9, 10)
    """The most that two rows may make up of a round's gradient: of the sum of |p - y| of
    lr and softmax, of |residual| of linear.
    """

    max_rounds: Count = 20_000
    """The most rounds that a receiver may have of a table's people in `budget_days`."""

    budget_days: Count = 30
    """For so many days the rounds of an order count, and after an upgrade that writes
    values otherwise the sets of people of before.
    """

    regroup: Flag = False
    """Whether models over other hospitals than before, or rounds over some of an
    order's hospitals, may tell by the difference what this hospital alone has.
    """

    mini_batches: Flag = False
    """Whether an order may walk rows in mini-batches, this hospital's or another's of the
    order. They weigh hospitals and rows: models that differ in batch_size alone tell one
    hospital's gradient and single rows.
    """

    risk_sets: Flag = False
    """Whether a Cox order may have one baseline hazard for all hospitals. Its hospitals
    learn sums over those at risk at given times, and by their differences can read
    covariates of people who leave between two of them.
    """

    rare_levels: RareLevels = "other"
    """What becomes of rows whose level of a category no hospital has min_rows rows of:
    with other they are one level, where they are min_rows rows themselves; with refuse
    the order ends.
    """


class InferenceRules(Rules):
    """Whether models may be applied to this hospital's rows."""

    allowed: Flag = False
    """Whether its own users may have models applied to its rows."""

    return_predictions: Flag = False
    """Whether predictions may pass through the coordinator's memory."""

    expressions: Flag = False
    """Whether SQL that comes through the coordinator may hold expressions: cells could
    leave as predictions.
    """

    rows: Flag = False
    """Whether a model may be applied to values that come with the request: who asks
    often enough has the model.
    """
