"""A question of joint statistics: every field that an analyst may send, checked before
anything runs.

The coordinator checks a request with it, and every hospital checks the signed document
with it again. Where a provider's data are (a path, a table, a SELECT) is in no
document: it goes sealed to that provider alone (decision 40).

In order: the fields, the request, what fits together, names resolved to user ids, the
order's document. `statistics_plan.py` makes the circuit of a joined request.

Decision 41.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from analytics.statistics.expression import ExpressionError
from analytics.statistics.reading import parse_expression
from protocol.errors import BadRequest, NotFound, bad_request
from protocol.fields import (
    Asked,
    Column,
    Number,
    Strict,
    UserId,
    Whole,
    any_case,
    describe,
    printable,
)
from protocol.messages import canonical
from protocol.statistics_rows import QuestionRows, check_missing, question_rows
from protocol.study_rows import Categorical, Derive, MissingWord

Pooled = Literal[
    "sum",
    "avg",
    "var",
    "std",
    "count",
    "min",
    "max",
    "median",
    "quantile",
    "histogram",
    "cov",
    "corr",
    "frequency",
    "crosstab",
    "describe",
    "ttest",
    "paired_ttest",
    "anova",
    "chi2",
    "trend",
    "correlation_test",
    "logrank",
    "kaplan_meier",
    "mann_whitney",
    "kruskal",
]
POOLED: tuple[str, ...] = get_args(Pooled)
"""Over the rows of all providers, one below the other (formulas.md 5.1)."""

Joined = Literal["custom", "is_investor_accredited"]
JOINED: tuple[str, ...] = get_args(Joined)
"""Over the rows of the same person at several providers (formulas.md 5.2)."""

Method = Literal[Pooled, Joined]
DataType = Literal["csv", "parquet", "json", "table", "sql"]
DATA_TYPES: tuple[str, ...] = get_args(DataType)
Normalisation = Literal["text", "integer", "casefold"]
ResultType = Literal["csv", "json"]
RANKED = ("min", "max", "median", "quantile")
"""Found by rounds of counts below pivots."""

TALLIED = ("histogram", "frequency", "crosstab")
"""Whose groups are values or bins, and whose values are how many rows each has."""

TEST_COUNTED_AS = {
    "ttest": "var",
    "paired_ttest": "var",
    "anova": "var",
    "chi2": "crosstab",
    "trend": "crosstab",
    "correlation_test": "corr",
    "logrank": "count",
    "kaplan_meier": "histogram",
    "mann_whitney": "crosstab",
    "kruskal": "crosstab",
}
"""A test is computed by the receivers from what another method opens, and is judged as
that one (decision 85).
"""

OF_RANKS = ("mann_whitney", "kruskal")
"""Tests of a table of values by groups, whose ranks are those of the values."""

OF_TWO_COLUMNS = ("crosstab", "chi2", "trend", "correlation_test", *OF_RANKS)
OF_COLUMNS = ("cov", "corr", "describe", *OF_TWO_COLUMNS)
MOST_COLUMNS = 50
"""Of a matrix, and of a table that describes them."""

MOST_TEST_GROUPS = 20
"""Of logrank."""

THRESHOLD = "3000000"
"""Of is_investor_accredited, unless a request gives one."""

DIGITS = (18, 6)
"""Of a column of doubles in an expression, unless a request gives others: in all, and
after the point.
"""

MOST_NAME_BYTES = 200
MATRIX_ROW = "column"
"""The column of a matrix, and of describe's result, that names a column of the data."""

CURVE = (
    "kind",
    "time",
    "survival",
    "se",
    "low",
    "high",
    "lower_bound",
    "upper_bound",
    "at_risk",
    "events",
    "censored",
)
"""The columns of survival curves."""

QUANTITY = "quantity"
"""The column of a test's result, and of describe's, that says what each value is."""

OVER, LEVEL = "over", "level"
"""The columns of describe's result that say whether a value is of all rows, of a group or
of two groups, and of which level of a category.
"""

WITHHELD = "withheld"
"""The column of a pooled result that says which rule withholds a row."""
BY_GROUPS = tuple(
    method
    for method in POOLED
    if method
    not in (
        "frequency",
        "crosstab",
        "paired_ttest",
        "chi2",
        "trend",
        "correlation_test",
        *OF_RANKS,
    )
)
"""The pooled methods that can be asked for each group."""

_ALIAS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_DOES_NOT_FIT = {
    "expression": ("custom",),
    "threshold": ("is_investor_accredited",),
    "comparison": ("is_investor_accredited",),
    "quantile": ("quantile",),
    "bins": ("histogram", "kaplan_meier"),
    "ddof": ("var", "std", "cov"),
    "columns": OF_COLUMNS,
    "group_by": BY_GROUPS,
    "event_name": ("logrank", "kaplan_meier"),
    "equal_var": ("ttest", "anova"),
    "correction": ("chi2",),
    "key_normalisation": JOINED,
}
"""Fields that mean something for these methods only; a field is never ignored."""

_NEEDED = {
    "expression": ("custom",),
    "quantile": ("quantile",),
    "bins": ("histogram", "kaplan_meier"),
    "columns": OF_COLUMNS,
    "group_by": ("ttest", "anova", "logrank"),
    "event_name": ("logrank", "kaplan_meier"),
}


def _alias(text: str) -> str:
    if not _ALIAS.fullmatch(text):
        raise ValueError(
            "must be a name of letters, digits and _ that does not start with a digit"
        )
    return text


def _file_name(text: str) -> str:
    """Every receiver writes a file of this name, on whatever system it has."""
    has_forbidden = any(letter in text for letter in '/\\:*?"<>|')
    if text.startswith(".") or has_forbidden or text != text.strip():
        raise ValueError(
            "must be usable as a file's name: without / \\ : * ? \" < > |, no dot or blank at its start"
        )
    if not text.isprintable() or len(text.encode()) > MOST_NAME_BYTES:
        raise ValueError(
            f"must be usable as a file's name: at most {MOST_NAME_BYTES} bytes that can be printed"
        )
    return text


def _decimal(value: Any) -> str:
    """A decimal as text, so that no digit is lost; a float is the shortest decimal that
    reads as it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number")
    text = repr(value) if isinstance(value, float) else str(value)
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError("must be a number") from None
    # Written out, 1e999999999 would fill the memory.
    if (
        not number.is_finite()
        or abs(number.adjusted()) > 300
        or len(number.as_tuple().digits) > 300
    ):
        raise ValueError("must be a finite number of at most 300 digits")
    return format(number, "f")


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _rising(edges: list[float]) -> list[float]:
    for lower, upper in itertools.pairwise(edges):
        if lower >= upper:
            raise ValueError("must rise from edge to edge")
    return edges


def _digits(digits: tuple[int, int]) -> tuple[int, int]:
    n_digits, n_after_point = digits
    if not 0 <= n_after_point <= n_digits:
        raise ValueError(
            "must be [digits in all, digits after the point], the second not above the first"
        )
    return digits


Party = (
    UserId
    | Annotated[str, Field(min_length=1, max_length=200), AfterValidator(printable)]
)
"""A hospital as an analyst names it: its user id, or its name."""

Share = Annotated[Number, Field(ge=0, le=1)]
Edges = Annotated[
    list[Number], Field(min_length=2, max_length=1001), AfterValidator(_rising)
]
Digits = tuple[
    Annotated[Whole, Field(ge=1, le=300)], Annotated[Whole, Field(ge=0, le=300)]
]


class Provider(Asked):
    """One hospital's data.

    `data_path` is empty in a document: it goes sealed to that hospital.
    """

    name: Party
    # A file, a table or a SELECT.
    data_path: Annotated[str, Field(max_length=20_000)]
    data_type: Annotated[DataType, any_case(DataType)]
    # What rows are joined by; of pooled rows the column that the statistic is of.
    key_column: Column
    # What the data are called in an expression.
    data_alias: Annotated[str, AfterValidator(_alias)] | None = None
    # Of is_investor_accredited, the column that is added up.
    value_column: Column | None = None
    # Of numbers in an expression: in all, and after the point.
    digits: Annotated[Digits, AfterValidator(_digits)] | None = None


class StatisticsRequest(Asked):
    """The body of POST /runModelTrainTask.

    After `resolve`, providers and receivers are user ids.
    """

    data_providers: Annotated[list[Provider], Field(min_length=1, max_length=100)]
    result_receivers: Annotated[list[Party], Field(min_length=1, max_length=100)]
    method: Annotated[Method, any_case(Method)]
    expression: (
        Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(printable)]
        | None
    ) = None
    result_alias: Annotated[
        str,
        Field(min_length=1, max_length=100),
        AfterValidator(printable),
        AfterValidator(_file_name),
    ] = ""
    columns: (
        Annotated[list[Column], Field(min_length=1, max_length=MOST_COLUMNS)] | None
    ) = None
    group_by: Annotated[list[Column], Field(min_length=1, max_length=5)] | None = None
    # Of logrank, whose key_column is a time: 1 where the event happened at it, 0 where
    # the row was last seen without it.
    event_name: Column | None = None
    # Rows without a value in one of these columns are left out before anything is
    # counted, at every provider.
    complete_on: Annotated[list[Column], Field(min_length=1, max_length=100)] | None = (
        None
    )
    # Columns whose levels the hospitals agree on, columns made of others, and what is
    # done where a value is missing: `statistics_rows.py`.
    categorical: Categorical | None = None
    derive: Derive | None = None
    missing: MissingWord | None = None
    ddof: Annotated[Whole, Field(ge=0, le=1)] | None = None
    # Of ttest and anova, whether the groups have one variance; of chi2, whether a table
    # of two by two is corrected for continuity.
    equal_var: bool | None = None
    correction: bool | None = None
    threshold: Annotated[str, BeforeValidator(_decimal)] | None = None
    comparison: Literal[">=", ">", "<=", "<"] | None = None
    quantile: (
        Annotated[
            list[Share], BeforeValidator(_as_list), Field(min_length=1, max_length=20)
        ]
        | None
    ) = None
    bins: Edges | None = None
    key_normalisation: Annotated[Normalisation, any_case(Normalisation)] | None = None
    result_type: Annotated[ResultType, any_case(ResultType)] = "csv"
    timeout_seconds: Annotated[Number, Field(ge=1, le=86_400)] | None = None
    disclose: bool = False
    user_id: UserId | None = None
    purpose: Annotated[str, Field(max_length=500), AfterValidator(printable)] = ""

    @model_validator(mode="before")
    @classmethod
    def _name_result(cls, body: Any) -> Any:
        """Empty texts are fields left out; a result without a name is called as its
        method.
        """
        if not isinstance(body, Mapping):
            return body
        optional = {
            "expression",
            "columns",
            "group_by",
            "event_name",
            "complete_on",
            "categorical",
            "derive",
            "missing",
            "threshold",
            "comparison",
            "quantile",
            "bins",
            "result_alias",
        }
        kept = {}
        for name, value in body.items():
            is_left_out = name in optional and value in ("", None, [], {})
            if not is_left_out:
                kept[name] = value
        method = kept.get("method")
        if isinstance(method, str) and method:
            kept.setdefault("result_alias", method.lower())
        return kept

    @cached_property
    def rows(self) -> QuestionRows:
        """What the question asks of its rows. BadRequest where that does not fit
        together.
        """
        return question_rows(
            categorical=self.categorical or {},
            labels=_labels(self),
            derive=self.derive or {},
            # A row without a value is in no test, and no group of its own.
            missing=self.missing or ("drop" if self.is_test else None),
            named=_named(self),
            keys=[provider.key_column for provider in self.data_providers],
            method=self.method,
            is_joined=self.is_joined,
            complete_on=self.complete_on or [],
        )

    @property
    def providers(self) -> tuple[int, ...]:
        """The providers' user ids, sorted; only of a resolved request."""
        return tuple(
            sorted(self._id(provider.name) for provider in self.data_providers)
        )

    @property
    def receivers(self) -> tuple[int, ...]:
        return tuple(sorted(self._id(name) for name in self.result_receivers))

    @property
    def openers(self) -> tuple[int, ...]:
        """Who opens the sums: the receivers, and of a quantile's search every provider
        too, to check what is asked.
        """
        return tuple(self.hospitals) if self.method in RANKED else self.receivers

    @property
    def hospitals(self) -> list[int]:
        """Everybody who takes part, sorted."""
        return sorted({*self.providers, *self.receivers})

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
        return self.method == "avg" and any(
            provider.key_column in categories for provider in self.data_providers
        )

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
    def grouping(self) -> list[str]:
        """The columns whose values name groups: of logrank the event is one, as its rows
        are counted by group and event (decision 86).
        """
        grouping = list(self.group_by or [])
        if self.event_name is not None:
            grouping.append(self.event_name)
        return grouping

    @property
    def is_matrix(self) -> bool:
        """Whether it is a row for each of three columns or more."""
        return self.method in ("cov", "corr") and len(self.columns or []) > 2

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
            groups = [OVER, *self.group_by] if self.group_by else []
            return [MATRIX_ROW, *groups, LEVEL, QUANTITY]
        if self.is_joined:
            own_columns = [first_key]
        elif self.is_matrix:
            own_columns = [MATRIX_ROW]
        else:
            own_columns = {
                "histogram": ["lower", "upper"],
                "frequency": [first_key],
                "crosstab": self.columns or [],
                "quantile": ["q"],
            }.get(self.counted_as, [])
        return [*(self.group_by or []), *own_columns]

    def provider(self, user_id: int) -> Provider:
        return next(
            provider for provider in self.data_providers if provider.name == user_id
        )

    def alias(self, user_id: int) -> str:
        """What a provider's data are called in an expression: df1, df2, ... in the
        request's order unless it says.
        """
        given = self.provider(user_id).data_alias
        if given:
            return given
        place = [provider.name for provider in self.data_providers].index(user_id)
        return f"df{place + 1}"

    @staticmethod
    def _id(name: Any) -> int:
        assert isinstance(name, int), "the request has not been resolved"
        return name


def parse_statistics_request(body: Any) -> StatisticsRequest:
    """A checked request.

    BadRequest for a malformed field and for a combination that cannot be honoured.
    """
    try:
        request = StatisticsRequest.model_validate(body)
    except ValidationError as error:
        described = describe(error)
        raise BadRequest(
            described.sentence,
            remedy=described.remedy,
            code=described.code,
            **described.detail,
        ) from None
    _check_names(request)
    _check_fields(request)
    return request


def _check_names(request: StatisticsRequest) -> None:
    names = [provider.name for provider in request.data_providers]
    if len(set(names)) < len(names):
        raise bad_request(
            "data_providers",
            "data_providers names a hospital twice.",
            "Give each hospital one entry.",
        )
    if len(set(request.result_receivers)) < len(request.result_receivers):
        raise bad_request(
            "result_receivers",
            "result_receivers names a hospital twice.",
            "Name each hospital once.",
        )
    aliases = [
        provider.data_alias or f"df{i}"
        for i, provider in enumerate(request.data_providers, start=1)
    ]
    if len({alias.lower() for alias in aliases}) < len(aliases):
        raise bad_request(
            "data_alias",
            "Two providers' data have the same data_alias.",
            "Give each its own.",
        )


def _check_fields(request: StatisticsRequest) -> None:
    for name, methods in _DOES_NOT_FIT.items():
        if getattr(request, name) is not None and request.method not in methods:
            raise bad_request(
                name,
                f"{name} is given, and means nothing for {request.method}.",
                f"Leave {name} out.",
            )
    for name, methods in _NEEDED.items():
        if getattr(request, name) is None and request.method in methods:
            raise bad_request(
                name,
                f"{name} is missing, and {request.method} needs it.",
                f"Give {name}; see docs/api.md.",
            )
    _check_columns(request)
    if request.method == "kaplan_meier" and request.bins and request.bins[0] <= 0:
        raise bad_request(
            "bins",
            "bins begins at 0 or below, and kaplan_meier counts from 0.",
            "Begin with the first time at which the curve is asked.",
        )
    _check_event(request)
    if request.group_by and len(set(request.group_by)) < len(request.group_by):
        raise bad_request(
            "group_by", "group_by names a column twice.", "Name each column once."
        )
    complete_on = request.complete_on or []
    if len(set(complete_on)) < len(complete_on):
        raise bad_request(
            "complete_on", "complete_on names a column twice.", "Name each column once."
        )
    if request.result_alias in [*request.label_columns, WITHHELD]:
        raise bad_request(
            "result_alias",
            "result_alias is the name of another column of the result.",
            "Choose another.",
        )
    named = list(request.label_columns)
    if request.is_matrix:
        named += request.value_columns
    if not request.is_joined:
        named.append(WITHHELD)
    twice = [name for name in named if named.count(name) > 1]
    if twice:
        raise bad_request(
            "columns",
            f"The result would have two columns {twice[0]}: its own, and the data's of that name.",
            "Rename the column, in a SELECT or in the data.",
        )
    if request.is_share and request.group_by:
        raise bad_request(
            "group_by",
            "group_by is given, and the mean of a category has a row for each of its levels.",
            "Ask the crosstab of both columns.",
        )
    method = "the mean of a category" if request.is_share else request.method
    check_missing(request.missing, method, is_grouped=request.group_by is not None)
    _ = request.rows
    _check_joined_fields(request)


def _check_columns(request: StatisticsRequest) -> None:
    columns = request.columns or []
    if len(set(columns)) < len(columns):
        raise bad_request(
            "columns",
            "columns names one column twice.",
            "Name each column once, two of them at least.",
        )
    if len(columns) == 1 and not request.describes:
        raise bad_request(
            "columns",
            f"columns names one column, and {request.method} is of two or more.",
            "Name two columns.",
        )
    if len(columns) > 2 and request.method in OF_TWO_COLUMNS:
        raise bad_request(
            "columns",
            f"columns names {len(columns)} columns, and {request.method} is of two.",
            "Name two columns.",
        )
    n_groups = len(request.group_by or [])
    if request.describes and set(columns) & set(request.group_by or []):
        raise bad_request(
            "columns",
            "columns names a column of group_by, whose groups hold one value of it each.",
            "Leave it out of columns.",
        )
    if (request.is_test or request.describes) and n_groups > 1:
        raise bad_request(
            "group_by",
            f"group_by names {n_groups} columns, and {request.method} compares the groups of one.",
            "Name one column, or derive one of several.",
        )


def _check_event(request: StatisticsRequest) -> None:
    """An event that is compared with itself is no event."""
    others = {provider.key_column for provider in request.data_providers}
    others.update(request.group_by or [])
    if request.event_name in others:
        raise bad_request(
            "event_name",
            f"event_name is {request.event_name}, which is the time or makes the groups.",
            "Name the column that says whether the event happened.",
        )


def _labels(request: StatisticsRequest) -> list[str]:
    """The columns whose values name groups, values or pairs of values."""
    names = list(request.group_by or [])
    if request.counted_as == "crosstab" or request.describes:
        names += request.columns or []
    if request.counted_as == "frequency":
        names += [provider.key_column for provider in request.data_providers]
    return names


def _named(request: StatisticsRequest) -> set[str]:
    """The columns that a question names, of whatever provider."""
    names = {provider.key_column for provider in request.data_providers}
    for listed in (request.columns, request.grouping, request.complete_on):
        names.update(listed or [])
    if request.derive and request.expression is not None:
        aliases = {
            provider.data_alias or f"df{place}": None
            for place, provider in enumerate(request.data_providers, start=1)
        }
        try:
            expression = parse_expression(request.expression, aliases)
        except ExpressionError as error:
            raise bad_request("expression", error.sentence, error.remedy) from None
        names.update(column for _, column in expression.columns)
    return names


def _check_joined_fields(request: StatisticsRequest) -> None:
    has_digits = any(provider.digits for provider in request.data_providers)
    has_value_column = any(provider.value_column for provider in request.data_providers)
    if has_digits and not request.is_joined:
        raise bad_request(
            "digits",
            f"digits is given, and {request.method} takes every number as it is.",
            "Leave it out.",
        )
    if has_value_column and request.method != "is_investor_accredited":
        raise bad_request(
            "value_column",
            f"value_column is given, and means nothing for {request.method}.",
            "Leave it out.",
        )
    is_unnamed = any(not provider.value_column for provider in request.data_providers)
    compares = request.method == "is_investor_accredited"
    if request.missing is not None and compares and is_unnamed:
        raise bad_request(
            "value_column",
            "value_column is missing, and missing looks at the columns that are named.",
            "Give each provider's value_column.",
        )
    if request.is_joined and len(request.data_providers) < 2:
        raise bad_request(
            "data_providers",
            f"{request.method} joins the data of two providers or more.",
            "Add a provider.",
        )


def resolve(
    request: StatisticsRequest, names: Mapping[int, str], *, initiator: int
) -> StatisticsRequest:
    """The request as it was sent, with user ids in place of names, and who asks.

    `names` are the registered hospitals'. NotFound for one that is not among them;
    BadRequest when two entries are one hospital, when a provider's data have no place,
    or when who asks is no party.
    """
    known = {str(user): user for user in names}
    for user, name in names.items():
        known[name] = user

    def user_of(name: int | str) -> int:
        if str(name) not in known:
            raise NotFound(
                f"There is no hospital {name}.",
                remedy="GET /hospitals lists them.",
                code="user",
            )
        return known[str(name)]

    body = _sent(request)
    body["data_providers"] = [
        {**provider.model_dump(mode="json"), "name": user_of(provider.name)}
        for provider in request.data_providers
    ]
    body["result_receivers"] = [user_of(name) for name in request.result_receivers]
    body["user_id"] = initiator
    # Checked again: two names of one hospital were two entries so far.
    resolved = parse_statistics_request(body)
    if not all(provider.data_path.strip() for provider in resolved.data_providers):
        raise bad_request(
            "data_path",
            "A provider's data_path is empty.",
            "Name its file, table or SELECT.",
        )
    if initiator not in resolved.hospitals:
        raise bad_request(
            "user_id",
            "Who asks is neither a provider nor a receiver.",
            "A hospital's user asks for what that hospital takes part in.",
        )
    return resolved


def _sent(request: StatisticsRequest) -> dict[str, Any]:
    """The request's fields without those that were left out of it."""
    return request.model_dump(mode="json", exclude_none=True)


def statistics_document(
    order_id: int,
    request: StatisticsRequest,
    commitments: Mapping[int, str],
    *,
    schedule_id: int | None = None,
    repeats: int | None = None,
    reply_key: str | None = None,
) -> str:
    """What the initiator's agent signs and every party checks: the question, with
    commitments for where the data are.

    repeats: the schedule's last order with a result, which stands again where the rows
    have hardly changed. reply_key: a one-time X25519 key of the API, where the answer
    shall carry the values.
    """
    body = _sent(request)
    body["data_providers"] = [
        {**provider, "data_path": ""} for provider in body["data_providers"]
    ]
    return canonical(
        {
            "version": 1,
            "kind": "statistics",
            "order_id": order_id,
            "schedule_id": schedule_id,
            "repeats": repeats,
            "reply_key": reply_key,
            "request": body,
            "data": {str(user): text for user, text in commitments.items()},
        }
    )


class StatisticsOrder(Strict):
    """A statistics order as its parties read it."""

    request: StatisticsRequest
    # By provider, `HospitalSql.commitment` of where its data are.
    commitments: dict[int, str]
    schedule_id: int | None = None
    # The schedule's last order with a result, which stands again where the rows have
    # hardly changed.
    repeats: int | None = None
    # A one-time X25519 key of the API in hex, where the answer shall carry the values.
    reply_key: str | None = None


def read_statistics_document(text: str, order_id: int) -> StatisticsOrder:
    """The order inside a document, checked again at a hospital; its providers come
    without data_path.
    """
    # The coordinator sends it, and may send anything.
    try:
        document = json.loads(text)
        said = (document["version"], document["kind"], document["order_id"])
        is_fit = said == (1, "statistics", order_id)
        commitments = {
            int(user): str(value) for user, value in document["data"].items()
        }
        optional = {
            name: document[name] for name in ("schedule_id", "repeats", "reply_key")
        }
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ):
        raise bad_request(
            "document", "The order's document is not readable.", "Send the order again."
        ) from None
    if not is_fit:
        raise bad_request(
            "document",
            "The document belongs to another order or version.",
            "Send the order again.",
        )
    request = parse_statistics_request(document["request"])
    try:
        order = StatisticsOrder(request=request, commitments=commitments, **optional)
    except ValidationError as error:
        raise describe(error) from None
    parties = [provider.name for provider in request.data_providers]
    parties += request.result_receivers
    is_resolved = all(isinstance(user, int) for user in (*parties, request.user_id))
    if not is_resolved or set(commitments) != set(request.providers):
        raise bad_request(
            "document",
            "The document does not say who takes part.",
            "Send the order again.",
        )
    return order
