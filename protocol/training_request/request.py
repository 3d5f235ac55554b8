"""What follows from the fields of a training order: who takes part, what the model is,
what a round opens.

Nothing is checked here: `checks.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Self

from analytics.scores import most_attackers
from analytics.training import Baseline, Ties, TimeScale
from analytics.training.design import feature_name
from analytics.training.pairs import LEAST_SQUARES, LOGISTIC, Pair
from protocol.regression_request import COX, FIRTH, GLM, HOSPITAL, NEWTON, glm_pair
from protocol.start_window import smallest, with_fields
from protocol.study_rows import StudyRows, study_rows
from protocol.training_request.body import TrainingBody
from protocol.training_request.model_params import HIDDEN

CHOOSING = ("multi_krum", "minimum_diameter")
"""The aggregations by which the coordinator chooses a round's members (decision 30)."""

MOST_COMPARED_BYTES = 2**27
"""Of a round's aggregates without each member, which all hospitals receive."""


class TrainingRequest(TrainingBody):
    """The body of POST /model/train."""

    @property
    def evaluates(self) -> int | None:
        """Of which model the order asks how good it is on these rows; None for an order
        that trains one.
        """
        return None

    @property
    def seals_model_to(self) -> list[int]:
        """The hospitals to which an evaluation's initiator seals the model; none of
        training.
        """
        return []

    @property
    def subgroups(self) -> str | None:
        """By which column an evaluation has subgroups; None without, and of training."""
        return None

    @property
    def initiator(self) -> int:
        return self.user_id

    @property
    def hospitals(self) -> list[int]:
        """Everybody who takes part, the initiator included, sorted."""
        everybody = {self.user_id, *self.party_id}
        return sorted(everybody)

    def among(self, hospitals: Collection[int]) -> Self:
        """The same order as if these of its hospitals alone had been asked."""
        parties = [user_id for user_id in self.party_id if user_id in hospitals]
        data_info = texts_of(self.data_info, hospitals)
        test_data_info = texts_of(self.test_data_info, hospitals)
        return with_fields(
            self,
            party_id=parties,
            data_info=data_info,
            test_data_info=test_data_info,
        )

    @property
    def smallest(self) -> Self:
        """The order with as few hospitals as it may start with; itself where it waits
        for all.
        """
        if self.at_least is None:
            return self
        fewest = smallest(
            self.hospitals,
            self.user_id,
            self.at_least,
        )
        return self.among(fewest)

    @cached_property
    def study(self) -> StudyRows:
        """What the order asks of its rows. BadRequest where that does not fit together."""
        return study_rows(
            columns=self.attributes,
            categorical=self.categorical,
            derive=self.derive,
            missing=self.missing,
            complete_on=self.complete_on,
            roles=self.roles,
        )

    @property
    def roles(self) -> dict[str, str]:
        """By the name of a field the column that it names, which is no attribute."""
        roles = {
            "label_name": self.label_name,
            "unique_id": self.unique_id,
        }
        for field_name in ("event_name", "entry_name", "weights", "cluster_column"):
            column = getattr(self, field_name)
            if column is not None:
                role = field_name.removesuffix("_column")
                roles[role] = column
        for place, column in enumerate(self.strata):
            roles[f"strata[{place}]"] = column
        return roles

    @property
    def ties(self) -> Ties:
        return self.model_params.ties or "efron"

    @property
    def baseline(self) -> Baseline:
        return self.model_params.baseline or "hospital"

    @property
    def edges(self) -> list[float]:
        """Of a joint baseline; none without."""
        return self.model_params.edges or []

    @property
    def hazards_time(self) -> TimeScale:
        return self.model_params.hazards_time or "log"

    @property
    def weights(self) -> str | None:
        """The column of the rows' weights; None where all weigh the same."""
        return self.model_params.weights

    @property
    def counts_weights(self) -> bool:
        """Whether a weight is how many rows a row stands for."""
        return self.model_params.weights_type == "frequency"

    @property
    def cluster(self) -> str | None:
        return self.model_params.cluster

    @property
    def cluster_column(self) -> str | None:
        """Whose values are clusters; None without, and where each hospital is one."""
        is_column = self.cluster != HOSPITAL and self.evaluates is None
        if not is_column:
            return None
        return self.cluster

    @property
    def robust(self) -> str | None:
        """How standard errors are made that do not rest on the model's variance: HC0, HC1
        or cluster; None where they do.
        """
        if self.cluster is not None:
            return "cluster"
        errors = self.model_params.standard_errors
        return None if errors == "model" else errors

    @property
    def rounds_at_the_end(self) -> int:
        """As many rounds' sums of products does the end of each fold open, beside them
        (decision 109).
        """
        if not self.is_newton:
            return 0
        if self.model_type == COX:
            # The test of proportional hazards.
            return 3
        # A and M at the estimate.
        return 0 if self.robust is None else 2

    @property
    def outcome_columns(self) -> list[str]:
        """What is read beside the attributes: the label, what else a cox has of times,
        weights and clusters.
        """
        columns = [
            self.label_name,
            self.event_name,
            self.entry_name,
            *self.strata,
            self.weights,
            self.cluster_column,
        ]
        return [column for column in columns if column is not None]

    @property
    def is_open(self) -> bool:
        """Whether the coordinator may see every gradient: the initiator's choice, which
        every policy must allow.
        """
        return self.model_params.encrypt_param.method == "None"

    @property
    def is_scored(self) -> bool:
        return self.scoring in ("round", "full")

    @property
    def columns_with_moments(self) -> list[str]:
        """The columns of the data whose joint mean and variance each fold begins with,
        or that of what is made of them: attributes that are standardized, and behind
        them a label that is no class.
        """
        columns: list[str] = []
        if self.scales_attributes:
            columns.extend(self.study.plain)
        if self.has_number_label:
            columns.append(self.label_name)
        return columns

    @property
    def pair(self) -> Pair | None:
        """Family and link of a generalised linear model, lr and linear among them."""
        if self.model_type == GLM:
            return glm_pair(self.model_params)
        pairs = {
            "lr": LOGISTIC,
            "linear": LEAST_SQUARES,
        }
        return pairs.get(self.model_type)

    @property
    def family(self) -> str:
        """Of a glm; "" of other models."""
        if self.model_type != GLM:
            return ""
        pair = glm_pair(self.model_params)
        return pair.family

    @property
    def link(self) -> str:
        """As `family`."""
        if self.model_type != GLM:
            return ""
        pair = glm_pair(self.model_params)
        return pair.link

    @property
    def has_binary_label(self) -> bool:
        """Whether labels are 0 and 1, and one number answers the probability of 1."""
        pair = self.pair
        return pair is not None and pair.is_binary

    @property
    def has_number_label(self) -> bool:
        """Whether the label is a number and no class."""
        pair = self.pair
        return pair is not None and not pair.is_binary

    @property
    def has_class_label(self) -> bool:
        return not self.has_number_label and self.model_type != COX

    @property
    def estimates_dispersion(self) -> bool:
        """Whether a report's standard errors have a dispersion, and its tests are t's."""
        pair = self.pair
        if pair is None:
            return False
        is_ordered = self.model_params.dispersion == "estimate"
        return pair.has_dispersion or is_ordered

    @property
    def is_newton(self) -> bool:
        """Whether sums of squares and products are added up in place of gradients."""
        return self.model_params.optimizer == NEWTON

    @property
    def has_random_intercept(self) -> bool:
        """Whether every hospital has an intercept of its own."""
        site_effect = self.model_params.site_effect
        return site_effect == "random" and self.evaluates is None

    @property
    def has_fixed_intercepts(self) -> bool:
        """Whether every hospital but the first has a column of its own."""
        site_effect = self.model_params.site_effect
        return site_effect == "fixed" and self.evaluates is None

    @property
    def site_features(self) -> list[str]:
        """The names of these columns, which stand behind all others; none without."""
        if not self.has_fixed_intercepts:
            return []
        _, *later_hospitals = sorted(self.hospitals)
        return [feature_name(HOSPITAL, str(user_id)) for user_id in later_hospitals]

    @property
    def tells_own_sums(self) -> bool:
        """Whether each hospital's own sums are told."""
        return self.has_random_intercept or bool(self.site_features)

    @property
    def is_meta(self) -> bool:
        """Whether hospitals' own estimates are combined, and no rows."""
        pooling = self.model_params.pooling
        return pooling == "meta" and self.evaluates is None

    @property
    def scales_attributes(self) -> bool:
        """Whether training sees attributes in joint units; newton does so always, and
        gives its model back in the columns' own unless the order standardizes.
        """
        return self.model_params.standardize or self.is_newton

    @property
    def takes_moments(self) -> bool:
        return bool(self.columns_with_moments)

    @property
    def is_penalised(self) -> bool:
        params = self.model_params
        is_of_size = params.penalty in ("L1", "L2")
        return is_of_size and params.alpha > 0

    @property
    def is_firth(self) -> bool:
        """Whether the likelihood is Firth's, which has standard errors."""
        return self.model_params.penalty == FIRTH

    def compares_openly(self, n_members: int, n_weights: int) -> bool:
        """Whether a round's aggregates without each member go to all hospitals, so that
        all test rows count.

        They hold every member's gradient, so only with method None, and scoring full
        that every policy must allow.
        """
        is_small = 8 * n_members * n_weights <= MOST_COMPARED_BYTES
        return self._may_compare_openly and is_small

    @property
    def _may_compare_openly(self) -> bool:
        holds_out = self.validation_fraction is not None
        is_tested = bool(self.test_data_info) or holds_out
        return self.is_open and self.scoring == "full" and is_tested

    @property
    def regroups(self) -> bool:
        """Whether what is opened tells what one hospital alone has: two sums over some
        of the hospitals only, those that a rule chooses, and with method None all but
        each one; or sums of squares of each hospital's own, over several orders
        (decision 104).
        """
        by_hospital = self.cluster == HOSPITAL
        return self.chooses or self._may_compare_openly or by_hospital

    @property
    def chooses(self) -> bool:
        """Whether each round's sum is over the hospitals that the coordinator chooses
        by their rotated gradients.
        """
        return self.aggregation in CHOOSING

    @property
    def most_left_out(self) -> int:
        """How many hospitals a round's sum may be without."""
        return self.assumed_attackers if self.chooses else 0

    @property
    def assumed_attackers(self) -> int:
        """`n_attackers`, by default as many as the rule bears with so many hospitals; 0
        for the mean.
        """
        if self.n_attackers:
            return self.n_attackers
        n_hospitals = len(self.hospitals)
        return most_attackers(self.aggregation, n_hospitals)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units of the hidden layers; none for a model without."""
        given_units = self.model_params.hidden
        if given_units is not None:
            return tuple(given_units)
        return HIDDEN.get(self.model_type, ())

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and perhaps channels of an image; nothing for a model of no
        images.
        """
        return tuple(self.model_params.shape or ())

    @property
    def init_method(self) -> str:
        """As ordered, or else one that this model type can train from."""
        ordered = self.model_params.init_param.init_method
        if ordered:
            return ordered
        if self.hidden:
            return "random_normal"
        return "zeros"

    def sql_of(self, user_id: int) -> dict[str, str]:
        """One hospital's own SQL texts, by what they are for."""
        sql_texts = {"train": self.data_info[user_id]}
        if user_id in self.test_data_info:
            sql_texts["test"] = self.test_data_info[user_id]
        return sql_texts


def texts_of(texts: Mapping[int, str], hospitals: Collection[int]) -> dict[int, str]:
    return {user_id: text for user_id, text in texts.items() if user_id in hospitals}
