"""One hospital in an order of joint statistics: what it verifies, and which of its data it
reads.

Everything here may be run again after a crash: what was read, drawn and sent is kept in
the vault and found there. Read `readings.py` next, then `pooled.py` for rows of all providers one below the
other, `joined_rows.py` and `joined.py` for rows of the same person.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from agents.gate import derived_columns, disclosure, total_rules, totals
from agents.gate.earlier_questions import StatisticsLedger
from agents.gate.memory import Memory
from agents.order.answers import reader_rules
from agents.order.party import AgreedOrder, AskedOrder, Hospital, Party, VerifiedOrder
from agents.order.verifying import (
    read_document,
    read_protocol,
    read_sql,
    verify_signature,
)
from agents.rows.cohort_sql import cohort_name, names_cohort
from agents.rows.dataset import Dataset
from agents.rows.file_rows import FILE_TYPES
from agents.rows.files import check_path
from analytics.statistics.circuit import Plan
from protocol.errors import BadRequest, Rule, check_all, check_rules
from protocol.messages import canonical
from protocol.policy import StatisticsRules
from protocol.statistics_plan import ordered_expression, sketched_plan
from protocol.statistics_request import (
    TALLIED,
    THRESHOLD,
    StatisticsOrder,
    StatisticsRequest,
    read_statistics_document,
)


@dataclass(frozen=True)
class AskedStatistics(AskedOrder):
    """What an order of joint statistics asks of this hospital, as a provider, a receiver,
    or both.
    """

    request: StatisticsRequest
    # The whole document, with what it says beside the request.
    order: StatisticsOrder

    @property
    def is_provider(self) -> bool:
        return self.me in self.request.providers

    @property
    def is_receiver(self) -> bool:
        return self.me in self.request.receivers

    @property
    def readers(self) -> set[int]:
        """Whose earlier answers, of which sketches are kept, this order is compared
        with: who asks, and who opens the counts of a quantile's search.
        """
        readers = {self.request.initiator}
        if self.request.searches:
            readers |= set(self.request.openers) - {self.me}
        return readers

    @property
    def rules(self) -> StatisticsRules:
        assert self.policy.statistics is not None, "only a provider has rules"
        return self.policy.statistics

    @property
    def memory(self) -> Memory:
        return Memory(self.vault.cohorts)

    @property
    def ledger(self) -> StatisticsLedger:
        return StatisticsLedger(self.vault.cohorts)

    @property
    def snapshot(self) -> Path | None:
        """Where its rows are kept between two readings of them; None where nothing is."""
        return None


@dataclass(frozen=True)
class VerifiedStatistics(VerifiedOrder, AskedStatistics):
    """An order of joint statistics that this hospital may take part in."""

    request: StatisticsRequest

    @property
    def snapshot(self) -> Path | None:
        return self.store.folder / "rows.parquet"

    def among(self, hospitals: Collection[int]) -> Self:
        request = self.request.among(hospitals)
        order = self.order.model_copy(update={"request": request})
        return replace(self, request=request, order=order)

    def terms(self) -> dict[str, Any]:
        request = self.request
        data: dict[str, str] = {}
        columns: list[str] = []
        if self.is_provider:
            data = dict(self.sql)
            columns = request.rows.with_plain(columns_of(request, self.me))
        return {
            "kind": "statistics",
            "initiator": request.initiator,
            "parties": request.hospitals,
            "receivers": list(request.receivers),
            "purpose": request.purpose,
            "data": data,
            "columns": columns,
            "method": request.method,
            "scoring": "none",
            "details": self._details(),
        }

    def _details(self) -> dict[str, Any]:
        """What the request says beside the other terms."""
        request = self.request
        shown_apart = {
            "user_id",
            "data_providers",
            "result_receivers",
            "purpose",
            "method",
        }
        details = request.model_dump(
            mode="json", exclude=shown_apart, exclude_none=True
        )
        details["providers"] = list(request.providers)
        if self.is_provider:
            details["own_data"] = _own_data(request, self.me)
        if request.openers != request.receivers:
            details["openers"] = list(request.openers)
        if request.reader is not None:
            details["reader"] = self.policy.reader_words(request.reader)
        if self.order.schedule_id is not None:
            details["schedule_id"] = self.order.schedule_id
        return details


@dataclass(frozen=True)
class AgreedStatistics(VerifiedStatistics, AgreedOrder):
    """An order of joint statistics that every hospital has accepted."""


def verify_order(party: Party) -> VerifiedStatistics:
    """Reads the document and one's own data's place; verifies the signature.

    Nothing is read before this has passed, as in `agents.training.party.verify_order`.
    Who only receives gets nothing sealed. Raises Refused, BadRequest or
    ProtocolViolation.
    """
    document = read_document(party)
    protocol = read_protocol(party, document)
    order = read_statistics_document(document, party.order_id)
    sql = read_sql(party, order.commitments)
    check_all(
        lambda: check_rules(policy_rules(party, order.request)),
        lambda: check_data(party, order.request, sql),
    )
    signed = verify_signature(
        party, document, order.request.initiator, protocol=protocol
    )
    return VerifiedStatistics(
        **vars(party),
        request=order.request,
        sql=sql,
        signed=signed,
        protocol=protocol,
        order=order,
    )


def policy_rules(hospital: Hospital, request: StatisticsRequest) -> list[Rule]:
    """By which rules of its policy this hospital does not take part.

    Who asks must be allowed to; a provider's rules hold for method, receivers, other
    providers and columns. Nothing of the rows is known yet; the gate when they are read
    has the rest. An expression that cannot be parsed is refused by a rule, too.
    """
    policy, me = hospital.policy, hospital.me
    hospital_rules = policy.initiator_rules(request.initiator, own_user_id=me)
    hospital_rules += reader_rules(
        hospital, initiator=request.initiator, reader=request.reader
    )
    if me not in request.providers:
        return hospital_rules
    rules = policy.statistics
    hospital_rules.append(
        Rule(
            "receivers",
            lambda: policy.check_receivers(request.openers, own_user_id=me),
        )
    )
    if request.derive:
        is_foreign = request.initiator != me
        derived = request.rows.derived
        hospital_rules += [
            Rule("derive", lambda: policy.check_derive(is_foreign)),
            Rule("derive", lambda: derived_columns.check_unique_ids(derived, policy)),
        ]
    try:
        row_level_columns = _row_level_columns(request, me)
        circuit = sketched_plan(request)
    except BadRequest as error:
        return [*hospital_rules, Rule(error.code, functools.partial(_raise, error))]
    hospital_rules += disclosure.request_rules(
        rules,
        methods=request.methods,
        n_providers=request.least_providers,
        row_level_columns=row_level_columns,
        disclose=request.disclose,
    )
    if rules is not None:
        hospital_rules += _totals_rules(request, circuit, me, rules)
    return hospital_rules


def _raise(error: BadRequest) -> None:
    raise error


def _totals_rules(
    request: StatisticsRequest, circuit: Plan | None, me: int, rules: StatisticsRules
) -> list[Rule]:
    """Of what would be opened, and of whose columns.

    Asked again of the circuit with announced types, before a key is matched (decision
    44).
    """

    def check_weighing() -> None:
        if circuit is not None:
            disclosure.check_weighing(circuit, me, rules)

    def check_derived() -> None:
        value_columns = _value_columns(request, me)
        derived_columns.check_values(request.rows.derived, value_columns, rules)

    def check_owners() -> None:
        total_rules.check_owners(totals.opened_totals(request, circuit), me, rules)

    return [
        Rule("row_expressions", check_weighing),
        Rule("row_expressions", check_derived),
        Rule("column_names", lambda: total_rules.check_columns(request, me, rules)),
        Rule("own_totals", check_owners),
    ]


def _value_columns(request: StatisticsRequest, user_id: int) -> list[str]:
    """The columns of a pooled statistic that are added up or whose order is searched;
    the others tell groups, values and bins apart.
    """
    if request.is_joined or request.counted_as in TALLIED:
        return []
    return list(request.columns or [request.provider(user_id).key_column])


def _own_data(request: StatisticsRequest, user_id: int) -> dict[str, Any]:
    """A provider's entry, without the path, which is shown by itself."""
    return request.provider(user_id).model_dump(
        mode="json", exclude={"data_path"}, exclude_none=True
    )


def check_data(
    hospital: Hospital, request: StatisticsRequest, sql: Mapping[str, str]
) -> None:
    """What the policy says to the name of a provider's file or table.

    Nothing is opened. Raises Refused (code data_path, files, tables, cohort_name). The rest is known
    when the data are read.
    """
    rules = hospital.policy.statistics
    if hospital.me not in request.providers or rules is None:
        return
    data_type = request.provider(hospital.me).data_type
    data_path = sql["data"]
    if data_type in FILE_TYPES:
        check_path(hospital.settings.data_folder, data_path, rules.files)
    elif names_cohort(data_path):
        hospital.policy.cohort_of(cohort_name(data_path))
    elif data_type == "table":
        hospital.policy.table(data_path)


def columns_of(request: StatisticsRequest, user_id: int) -> list[str]:
    """The columns of a provider's data that an order uses, each once."""
    provider = request.provider(user_id)
    expression = ordered_expression(request)
    if expression is not None:
        column_names = [
            provider.key_column,
            *expression.columns_of(request.alias(user_id)),
        ]
    elif request.is_joined:
        column_names = [provider.key_column]
        if provider.value_column:
            column_names.append(provider.value_column)
    else:
        column_names = list(request.columns or [provider.key_column])
        column_names += request.grouping
    return list(dict.fromkeys(column_names))


def question_of(request: StatisticsRequest) -> str:
    """All that a request over joined rows says of what is computed, as canonical text:
    equal for equal questions, whoever asks and wherever the data are.
    """
    comparison = None
    if request.expression is None:
        threshold = Fraction(request.threshold or THRESHOLD)
        comparison = [request.comparison or ">=", str(threshold)]
    providers = []
    for provider in request.data_providers:
        of_provider = provider.model_dump(
            mode="json", include={"name", "data_alias", "key_column", "value_column"}
        )
        providers.append(of_provider)
    question: list[Any] = [
        request.method,
        request.expression,
        comparison,
        providers,
        # Others would have no result of it.
        sorted(request.receivers),
        list(request.complete_on or []),
        request.result_alias,
        request.result_type,
    ]
    # Left out where nothing is said, so that questions of before stay the same ones.
    if request.missing is not None or request.derive:
        question.append({"missing": request.missing, "derive": request.derive})
    return canonical(question)


def data_name(party: AskedStatistics, dataset: Dataset) -> str:
    """What a provider's data are called from order to order: a file by itself, all that
    is in the database alike.

    Who asks writes the SELECT, and could write each differently; it is known by its
    rows.
    """
    data_kind = party.request.provider(party.me).data_type
    if data_kind in ("table", "sql"):
        return "database"
    return canonical([data_kind, dataset.name])


def read_columns(request: StatisticsRequest, user_id: int) -> list[str]:
    """All columns of a provider's data that are read: those used, and those that a row
    must have a value in to be in the question.
    """
    column_names = [*columns_of(request, user_id), *(request.complete_on or [])]
    return request.rows.plain(column_names)


def _row_level_columns(request: StatisticsRequest, user_id: int) -> list[str]:
    """The columns of this provider that the answer has something of for each person."""
    if not request.is_joined:
        return []
    expression = ordered_expression(request)
    # is_investor_accredited, which has no expression, answers for each person, too.
    if expression is not None and not expression.is_row_level:
        return []
    return columns_of(request, user_id)
