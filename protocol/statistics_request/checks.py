"""What fits together in a question.

Each check raises BadRequest with the field, what is wrong and what to write instead.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from protocol.errors import BadRequest, bad_request
from protocol.fields import describe
from protocol.start_window import check_window
from protocol.statistics_request.field_types import MOST_EDGES
from protocol.statistics_request.methods import (
    MEANT_FOR,
    NEEDED_BY,
    OF_TWO_COLUMNS,
    WITHHELD,
)
from protocol.statistics_request.request import StatisticsRequest
from protocol.statistics_rows import check_missing


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
    _check_window(request)
    return request


def _check_window(request: StatisticsRequest) -> None:
    needs_all = ""
    if request.is_joined:
        needs_all = f"{request.method} joins the rows of the same people at all of its providers"
    providers = {str(provider.name) for provider in request.data_providers}
    receivers = {str(receiver) for receiver in request.result_receivers}
    check_window(request, n_hospitals=len(providers | receivers), needs_all=needs_all)
    only_receive = receivers - providers
    # A hospital may still be named in two ways: then it is looked at when it is resolved.
    are_numbers = all(receiver.isdecimal() for receiver in only_receive)
    if request.at_least is None or not are_numbers:
        return
    if request.at_least <= len(only_receive):
        raise bad_request(
            "at_least",
            f"at_least is {request.at_least}, and {len(only_receive)} hospitals only receive: nobody with rows might be"
            " there.",
            f"Give {len(only_receive) + 1} or more.",
        )


def _check_names(request: StatisticsRequest) -> None:
    provider_names = [provider.name for provider in request.data_providers]
    if len(set(provider_names)) < len(provider_names):
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
    for field_name, methods in MEANT_FOR.items():
        if getattr(request, field_name) is not None and request.method not in methods:
            raise bad_request(
                field_name,
                f"{field_name} is given, and means nothing for {request.method}.",
                f"Leave {field_name} out.",
            )
    for field_name, methods in NEEDED_BY.items():
        if getattr(request, field_name) is None and request.method in methods:
            raise bad_request(
                field_name,
                f"{field_name} is missing, and {request.method} needs it.",
                f"Give {field_name}; see docs/api.md.",
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
    _check_result_columns(request)
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


def _check_result_columns(request: StatisticsRequest) -> None:
    """Each column of the result has a name of its own."""
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
    twice = [column for column in named if named.count(column) > 1]
    if twice:
        raise bad_request(
            "columns",
            f"The result would have two columns {twice[0]}: its own, and the data's of that name.",
            "Rename the column, in a SELECT or in the data.",
        )


def _check_columns(request: StatisticsRequest) -> None:
    columns = request.columns or []
    _check_histograms(request)
    _check_quartiles(request)
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


def _check_histograms(request: StatisticsRequest) -> None:
    """They are of numbers that are described, and all together as long as one may be."""
    histograms = request.histograms or {}
    numbers = set(request.columns or []) - set(request.categorical or {})
    strange = sorted(set(histograms) - numbers)
    if strange:
        raise bad_request(
            "histograms",
            f"histograms names {', '.join(strange)}, which columns does not list, or categorical does.",
            "Name columns of numbers that are described, each as columns spells it.",
        )
    n_edges = sum(len(edges) for edges in histograms.values())
    if n_edges > MOST_EDGES:
        raise bad_request(
            "histograms",
            f"histograms has {n_edges} edges; {MOST_EDGES} are allowed, of all columns together.",
            "Give fewer edges, or describe some of the columns in another question.",
        )


def _check_quartiles(request: StatisticsRequest) -> None:
    """They are of numbers that are described."""
    if request.quartiles is None or request.quartiles is True:
        return
    named = request.quartiles
    numbers = set(request.columns or []) - set(request.categorical or {})
    strange = sorted(set(named) - numbers)
    if strange:
        raise bad_request(
            "quartiles",
            f"quartiles names {', '.join(strange)}, which columns does not list, or categorical does.",
            "Name columns of numbers that are described, each as columns spells it, or give true for all.",
        )
    if len(set(named)) < len(named):
        raise bad_request(
            "quartiles", "quartiles names a column twice.", "Name each column once."
        )


def _check_event(request: StatisticsRequest) -> None:
    """An event that is compared with itself is no event."""
    other_columns = {provider.key_column for provider in request.data_providers}
    other_columns.update(request.group_by or [])
    if request.event_name in other_columns:
        raise bad_request(
            "event_name",
            f"event_name is {request.event_name}, which is the time or makes the groups.",
            "Name the column that says whether the event happened.",
        )
    has_exponents = request.p is not None or request.q is not None
    if has_exponents and request.weights != "fleming_harrington":
        raise bad_request(
            "weights",
            "p or q is given, and they are of weights fleming_harrington.",
            "Leave them out, or give these weights.",
        )


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
