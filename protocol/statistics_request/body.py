"""The fields of a question, as an analyst sends them.

What follows from them is in `request.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from analytics.statistics import EventWeights
from protocol.fields import (
    Asked,
    Column,
    Number,
    ReaderKey,
    UserId,
    Whole,
    any_case,
    printable,
)
from protocol.start_window import AtLeast, StartSeconds
from protocol.statistics_request.field_types import (
    Alias,
    Columns,
    DataType,
    DecimalText,
    Digits,
    Edges,
    Normalisation,
    Party,
    ResultName,
    ResultType,
    Shares,
)
from protocol.statistics_request.methods import Method
from protocol.study_rows import Categorical, Derive, MissingWord


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
    data_alias: Alias | None = None
    # Of is_investor_accredited, the column that is added up.
    value_column: Column | None = None
    # Of numbers in an expression: in all, and after the point.
    digits: Digits | None = None


class StatisticsBody(Asked):
    """The fields of a question, and no more.

    After `resolve`, providers and receivers are user ids.
    """

    data_providers: Annotated[list[Provider], Field(min_length=1, max_length=100)]
    result_receivers: Annotated[list[Party], Field(min_length=1, max_length=100)]
    method: Annotated[Method, any_case(Method)]
    expression: (
        Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(printable)]
        | None
    ) = None
    result_alias: ResultName = ""
    columns: Columns | None = None
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
    # Of logrank, by what event times weigh; p and q of fleming_harrington. No other
    # numbers: of many, each question would tell of other times (decision 93).
    weights: Annotated[EventWeights, any_case(EventWeights)] | None = None
    p: Annotated[Whole, Field(ge=0, le=1)] | None = None
    q: Annotated[Whole, Field(ge=0, le=1)] | None = None
    threshold: DecimalText | None = None
    comparison: Literal[">=", ">", "<=", "<"] | None = None
    quantile: Shares | None = None
    bins: Edges | None = None
    # Of describe: by column of numbers, the edges between which its rows are counted, too.
    histograms: dict[Column, Edges] | None = None
    # Of describe: of which columns of numbers the median and the first and third
    # quartile are told, too; true: of all. Numpy's definition ("linear", R's type 7), as
    # `quantile` of [0.25, 0.5, 0.75] has it, which the policy must list, too.
    quartiles: Literal[True] | Columns | None = None
    key_normalisation: Annotated[Normalisation, any_case(Normalisation)] | None = None
    result_type: Annotated[ResultType, any_case(ResultType)] = "csv"
    timeout_seconds: Annotated[Number, Field(ge=1, le=86_400)] | None = None
    # The order starts with who has accepted by then, if so many have: `start_window.py`.
    start_within_seconds: StartSeconds | None = None
    at_least: AtLeast | None = None
    disclose: bool = False
    # To whose own key the hospital that asks seals the answer.
    reader: ReaderKey | None = None
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
            "histograms",
            "quartiles",
            "result_alias",
        }
        given_fields = {}
        for field_name, field_value in body.items():
            is_left_out = field_name in optional and field_value in ("", None, [], {})
            if field_name == "quartiles" and field_value is False:
                is_left_out = True
            if not is_left_out:
                given_fields[field_name] = field_value
        method = given_fields.get("method")
        if isinstance(method, str) and method:
            given_fields.setdefault("result_alias", method.lower())
        return given_fields
