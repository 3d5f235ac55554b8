"""What follows from the fields of a question: who takes part, how rows are counted, which
columns the result has.

Whether fields fit together is asked in `checks.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Any, Self

from analytics.statistics.expression import ExpressionError
from analytics.statistics.reading import parse_expression
from protocol.errors import bad_request
from protocol.start_window import incomplete, with_fields
from protocol.statistics_request.body import Provider, StatisticsBody
from protocol.statistics_request.methods import (
    CURVE,
    JOINED,
    LEVEL,
    MATRIX_ROW,
    OVER,
    QUANTITY,
    RANKED,
    TALLIED,
    TEST_COUNTED_AS,
)
from protocol.statistics_rows import QuestionRows, question_rows


class StatisticsRequest(StatisticsBody):
    """The body of POST /runModelTrainTask.

    After `resolve`, providers and receivers are user ids.
    """

    @cached_property
    def rows(self) -> QuestionRows:
        """What the question asks of its rows. BadRequest where that does not fit
        together.
        """
        missing = self.missing or None
        if missing is None and self.is_test:
            # A row without a value is in no test, and no group of its own.
            missing = "drop"
        key_columns = [provider.key_column for provider in self.data_providers]
        return question_rows(
            categorical=self.categorical or {},
            labels=_labels(self),
            derive=self.derive or {},
            missing=missing,
            named=_named(self),
            keys=key_columns,
            method=self.method,
            is_joined=self.is_joined,
            complete_on=self.complete_on or [],
        )

    @property
    def providers(self) -> tuple[int, ...]:
        """The providers' user ids, sorted; only of a resolved request."""
        user_ids = [self._id(provider.name) for provider in self.data_providers]
        user_ids.sort()
        return tuple(user_ids)

    @property
    def receivers(self) -> tuple[int, ...]:
        user_ids = [self._id(receiver) for receiver in self.result_receivers]
        user_ids.sort()
        return tuple(user_ids)

    @property
    def openers(self) -> tuple[int, ...]:
        """Who opens sums: the receivers, and of a quantile's search every provider too,
        to check what is asked. Of `describe` with quartiles the other sums are opened by
        the receivers alone.
        """
        if not self.searches:
            return self.receivers
        return tuple(self.hospitals)

    @property
    def searches(self) -> bool:
        """Whether rows are counted below pivots, in rounds."""
        return self.method in RANKED or self.quartiles is not None

    @property
    def hospitals(self) -> list[int]:
        """Everybody who takes part, sorted."""
        everybody = {*self.providers, *self.receivers}
        return sorted(everybody)

    def among(self, hospitals: Collection[int]) -> Self:
        """The same order as if these of its hospitals alone had been asked.

        Conflict (code too_few_accepted) where none of them has rows, or none receives.
        """
        providers = [
            provider for provider in self.data_providers if provider.name in hospitals
        ]
        receivers = [name for name in self.result_receivers if name in hospitals]
        if not providers:
            raise incomplete("no provider had accepted in time")
        if not receivers:
            raise incomplete("no receiver had accepted in time")
        return with_fields(
            self,
            data_providers=providers,
            result_receivers=receivers,
        )

    @property
    def least_providers(self) -> int:
        """The fewest providers that it may start with; all where it waits for all."""
        if self.at_least is None:
            return len(self.providers)
        without_rows = set(self.receivers) - set(self.providers)
        return self.at_least - len(without_rows)

    @property
    def initiator(self) -> int:
        assert self.user_id is not None, "the request has not been resolved"
        return self.user_id

    @property
    def is_joined(self) -> bool:
        """Whether it is over the rows of the same person at several providers."""
        return self.method in JOINED

    @property
    def counted_as(self) -> str:
        """The method that says how its rows are counted: means of the 0/1 columns of a
        category's levels come of the frequencies of these, and a test of what it is
        computed from.
        """
        if self.is_share:
            return "frequency"
        return TEST_COUNTED_AS.get(self.method, self.method)

    @property
    def is_share(self) -> bool:
        """Whether it is the mean of the 0/1 columns of a category's levels."""
        categories = self.categorical or {}
        if self.method != "avg":
            return False
        key_columns = [provider.key_column for provider in self.data_providers]
        return any(key_column in categories for key_column in key_columns)

    @property
    def is_test(self) -> bool:
        return self.method in TEST_COUNTED_AS

    @property
    def is_binned(self) -> bool:
        """Whether rows are counted between the edges of `bins`."""
        return self.counted_as == "histogram"

    @property
    def describes(self) -> bool:
        """Whether it is many questions in one: `statistics_described.py`."""
        return self.method == "describe"

    @property
    def methods(self) -> list[str]:
        """What a hospital's policy has to list: of describe with histograms or quartiles
        these too, since a policy that lists describe alone was written when it had none.
        """
        methods: list[str] = [self.method]
        if self.histograms:
            methods.append("histogram")
        if self.quartiles is not None:
            methods.append("quantile")
        return methods

    def has_quartiles(self, column: str) -> bool:
        """Whether `quartiles` asks for those of a column of numbers."""
        if self.quartiles is True:
            return True
        named = self.quartiles or []
        return column in named

    @property
    def grouping(self) -> list[str]:
        """The columns whose values name groups: of logrank the event is one, as its rows
        are counted by group and event (decision 86).
        """
        grouping = list(self.group_by or [])
        if self.event_name is not None:
            grouping.append(self.event_name)
        return grouping

    @property
    def exponents(self) -> tuple[int, int]:
        """p and q of fleming_harrington: early differences unless the question says."""
        if self.p is None and self.q is None:
            return 1, 0
        return self.p or 0, self.q or 0

    @property
    def is_matrix(self) -> bool:
        """Whether it is a row for each of three columns or more."""
        columns = self.columns or []
        return self.method in ("cov", "corr") and len(columns) > 2

    @property
    def value_columns(self) -> list[str]:
        """The columns of a result behind those that name its rows."""
        if self.is_matrix:
            return list(self.columns or [])
        if self.method == "kaplan_meier":
            return list(CURVE)
        return [self.result_alias]

    @property
    def has_cells(self) -> bool:
        """Whether its pooled answer has a row for each value, bin or group."""
        is_by_group = self.group_by is not None or self.counted_as in TALLIED
        # Of describe each hospital's rows decide, whatever its policy says of cells.
        return is_by_group and not self.is_joined and not self.describes

    @property
    def label_columns(self) -> list[str]:
        """The columns of a result that name its rows."""
        first_key = self.data_providers[0].key_column
        if self.method == "kaplan_meier":
            return list(self.group_by or [])
        if self.is_test:
            return [QUANTITY]
        if self.describes:
            groups = [MATRIX_ROW]
            if self.group_by:
                groups = [MATRIX_ROW, OVER, *self.group_by]
            return [*groups, LEVEL, QUANTITY]
        if self.is_joined:
            own_columns = [first_key]
        elif self.is_matrix:
            own_columns = [MATRIX_ROW]
        else:
            by_method = {
                "histogram": ["lower", "upper"],
                "frequency": [first_key],
                "crosstab": self.columns or [],
                "quantile": ["q"],
            }
            own_columns = by_method.get(self.counted_as, [])
        groups = self.group_by or []
        return [*groups, *own_columns]

    def provider(self, user_id: int) -> Provider:
        return next(
            provider for provider in self.data_providers if provider.name == user_id
        )

    def alias(self, user_id: int) -> str:
        """What a provider's data are called in an expression: df1, df2, ... in the
        request's order unless it says.
        """
        given_alias = self.provider(user_id).data_alias
        if given_alias:
            return given_alias
        provider_names = [provider.name for provider in self.data_providers]
        provider_place = provider_names.index(user_id)
        return f"df{provider_place + 1}"

    @staticmethod
    def _id(name: Any) -> int:
        assert isinstance(name, int), "the request has not been resolved"
        return name


def _labels(request: StatisticsRequest) -> list[str]:
    """The columns whose values name groups, values or pairs of values."""
    label_columns = list(request.group_by or [])
    if request.counted_as == "crosstab" or request.describes:
        label_columns += request.columns or []
    if request.counted_as == "frequency":
        label_columns += [provider.key_column for provider in request.data_providers]
    return label_columns


def _named(request: StatisticsRequest) -> set[str]:
    """The columns that a question names, of whatever provider."""
    column_names = {provider.key_column for provider in request.data_providers}
    of_question = [
        request.columns,
        request.grouping,
        request.complete_on,
    ]
    for listed in of_question:
        column_names.update(listed or [])
    if request.derive and request.expression is not None:
        aliases: dict[str, None] = {}
        for provider_place, provider in enumerate(request.data_providers, start=1):
            alias = provider.data_alias or f"df{provider_place}"
            aliases[alias] = None
        try:
            expression = parse_expression(request.expression, aliases)
        except ExpressionError as error:
            raise bad_request("expression", error.sentence, error.remedy) from None
        for _, column in expression.columns:
            column_names.add(column)
    return column_names
