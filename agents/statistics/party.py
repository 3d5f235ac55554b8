"""One hospital in an order of joint statistics: what it verifies, and what it reads.

Everything here may be run again after a crash: what was read, drawn and sent is kept in
the vault and found there. Read `pooled.py` next for rows of all providers one below the
other, `joined_rows.py` and `joined.py` for rows of the same person.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agents.gate import derived_columns, disclosure, totals
from agents.gate.earlier_questions import StatisticsLedger
from agents.gate.memory import Memory
from agents.order.party import (
    AgreedOrder,
    AskedOrder,
    Hospital,
    Party,
    VerifiedOrder,
    read_document,
    read_sql,
    verify_signature,
)
from agents.rows.dataset import Dataset
from agents.rows.file_rows import FILE_TYPES
from agents.rows.files import check_path
from agents.rows.reading import open_dataset
from agents.rows.study_dataset import prepare_question
from analytics.statistics.circuit import Plan
from protocol.errors import BadRequest, Rule, check_all, check_rules
from protocol.fields import Strict
from protocol.messages import canonical
from protocol.policy import StatisticsRules
from protocol.statistics_plan import ordered_expression, sketched_plan
from protocol.statistics_request import (
    RANKED,
    TALLIED,
    THRESHOLD,
    StatisticsOrder,
    StatisticsRequest,
    read_statistics_document,
)
from protocol.statistics_rows import QuestionRows


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
        if self.request.method in RANKED:
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
    order = read_statistics_document(document, party.order_id)
    sql = read_sql(party, order.commitments)
    check_all(
        lambda: check_rules(policy_rules(party, order.request)),
        lambda: check_data(party, order.request, sql),
    )
    signed = verify_signature(party, document, order.request.initiator)
    return VerifiedStatistics(
        **vars(party), request=order.request, sql=sql, signed=signed, order=order
    )


def policy_rules(hospital: Hospital, request: StatisticsRequest) -> list[Rule]:
    """By which rules of its policy this hospital does not take part.

    Who asks must be allowed to; a provider's rules hold for method, receivers, other
    providers and columns. Nothing of the rows is known yet; the gate when they are read
    has the rest. An expression that cannot be parsed is refused by a rule, too.
    """
    policy, me = hospital.policy, hospital.me
    found = policy.initiator_rules(request.initiator, own_user_id=me)
    if me not in request.providers:
        return found
    rules = policy.statistics
    found.append(
        Rule(
            "receivers",
            lambda: policy.check_receivers(request.openers, own_user_id=me),
        )
    )
    if request.derive:
        is_foreign = request.initiator != me
        derived = request.rows.derived
        found += [
            Rule("derive", lambda: policy.check_derive(is_foreign)),
            Rule("derive", lambda: derived_columns.check_unique_ids(derived, policy)),
        ]
    try:
        row_level_columns = _row_level_columns(request, me)
        circuit = sketched_plan(request)
    except BadRequest as error:
        return [*found, Rule(error.code, functools.partial(_raise, error))]
    found += disclosure.request_rules(
        rules,
        method=request.method,
        n_providers=len(request.providers),
        row_level_columns=row_level_columns,
        disclose=request.disclose,
    )
    if rules is not None:
        found += _totals_rules(request, circuit, me, rules)
    return found


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
        values = _value_columns(request, me)
        derived_columns.check_values(request.rows.derived, values, rules)

    def check_owners() -> None:
        totals.check_owners(totals.opened_totals(request, circuit), me, rules)

    return [
        Rule("row_expressions", check_weighing),
        Rule("row_expressions", check_derived),
        Rule("column_names", lambda: totals.check_columns(request, me, rules)),
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

    Nothing is opened. Raises Refused (code data_path, files, tables). The rest is known
    when the data are read.
    """
    rules = hospital.policy.statistics
    if hospital.me not in request.providers or rules is None:
        return
    data_type = request.provider(hospital.me).data_type
    data_path = sql["data"]
    if data_type in FILE_TYPES:
        check_path(hospital.settings.data_folder, data_path, rules.files)
    elif data_type == "table":
        hospital.policy.table(data_path)


def columns_of(request: StatisticsRequest, user_id: int) -> list[str]:
    """The columns of a provider's data that an order uses, each once."""
    provider = request.provider(user_id)
    expression = ordered_expression(request)
    if expression is not None:
        used = [provider.key_column, *expression.columns_of(request.alias(user_id))]
    elif request.is_joined:
        used = [provider.key_column]
        if provider.value_column:
            used.append(provider.value_column)
    else:
        used = list(request.columns or [provider.key_column])
        used += request.grouping
    return list(dict.fromkeys(used))


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
    said: list[Any] = [
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
        said.append({"missing": request.missing, "derive": request.derive})
    return canonical(said)


def data_name(party: AskedStatistics, dataset: Dataset) -> str:
    """What a provider's data are called from order to order: a file by itself, all that
    is in the database alike.

    Who asks writes the SELECT, and could write each differently; it is known by its
    rows.
    """
    kind = party.request.provider(party.me).data_type
    if kind in ("table", "sql"):
        return "database"
    return canonical([kind, dataset.name])


def read_columns(request: StatisticsRequest, user_id: int) -> list[str]:
    """All columns of a provider's data that are read: those used, and those that a row
    must have a value in to be in the question.
    """
    needed = [*columns_of(request, user_id), *(request.complete_on or [])]
    return request.rows.plain(needed)


def _row_level_columns(request: StatisticsRequest, user_id: int) -> list[str]:
    """The columns of this provider that the answer has something of for each person."""
    if not request.is_joined:
        return []
    expression = ordered_expression(request)
    # is_investor_accredited, which has no expression, answers for each person, too.
    if expression is not None and not expression.is_row_level:
        return []
    return columns_of(request, user_id)


# A provider's data, read once


class PartReading(Strict):
    """What a provider keeps of one of the questions that `describe` asks at once."""

    tallies: dict[str, list[int]] = Field(default_factory=dict)
    # The rule that withholds a group, and its threshold as the policy writes it.
    withheld: dict[str, tuple[str, str]] = Field(default_factory=dict)


class LogRankPart(Strict):
    """A provider's part of a log-rank test, in units of
    1 / `analytics.statistics.survival.UNIT`: by its own groups, in order.
    """

    groups: list[str]
    scores: list[int]
    covariances: list[list[int]]


class Reading(Strict):
    """What a provider keeps of its data for one order.

    Of pooled rows, numbers by group; of joined ones, its columns' types. A group's key
    is its label, the values of the group columns, as canonical JSON.
    """

    n_rows: int
    # Rows that are in no group because a column of the question has no value there.
    n_null: int = 0
    # Rows that were read, left out of these for a missing value, and such in which the
    # mean stands for one.
    n_selected: int = 0
    n_left_out: int = 0
    n_filled: int = 0
    # Of a question with categories: how many rows have each level, before all agree on
    # the levels; and then these.
    level_counts: dict[str, dict[str, int]] = Field(default_factory=dict)
    levels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    # A schedule's rows have changed by so few that its last result stands again; the
    # rest is empty then.
    repeats: bool = False
    # A quantile's column holds whole numbers of 64 bits, and this hospital's policy
    # lets single ones be known.
    whole: bool = False
    n_rows_of: dict[str, int] = Field(default_factory=dict)
    # Integers of any size, which are added up over the providers
    # (`agents.statistics.sums.N_NUMBERS`).
    tallies: dict[str, list[int]] = Field(default_factory=dict)
    log_rank: LogRankPart | None = None
    # The rule that withholds a group, and its threshold as the policy writes it.
    withheld: dict[str, tuple[str, str]] = Field(default_factory=dict)
    # Where the policy says `cells = "pooled"`: why a group of min_rows rows or more is
    # withheld, and which smaller ones are not let be shown.
    withheld_of_pooled: dict[str, tuple[str, str]] = Field(default_factory=dict)
    vetoed: list[str] = Field(default_factory=list)
    # Earlier answers that receivers have of such cells, by order and who is left out
    # (`pooled_cells.left_out`); who has changed since, by order and cell: the fewest and
    # the most who have come, the same of those gone, whether too few by this hospital
    # alone; and the fewest that its policy lets be compared.
    earlier: list[tuple[int, int]] = Field(default_factory=list)
    changes: dict[int, dict[str, tuple[int, int, int, int, bool]]] = Field(
        default_factory=dict
    )
    min_changed: int = 1
    # Of describe: what each column is of, and what the questions are (`Part.name`).
    kinds: dict[str, Literal["number", "category"]] = Field(default_factory=dict)
    parts: dict[str, PartReading] = Field(default_factory=dict)
    # By alias.column, the fields of `analytics.statistics.rowwise.Fixed`.
    types: dict[str, tuple[int, int, int, bool]] = Field(default_factory=dict)


@contextmanager
def open_data(
    party: AskedStatistics,
    *,
    again: bool = False,
    and_numbers: bool = False,
    levels: Mapping[str, tuple[str, ...]] | None = None,
) -> Iterator[Dataset]:
    """This provider's rows, from where the order's sealed data_path says, within its
    policy: those that the question is over.

    and_numbers: all columns of numbers, beside those that the question uses. again: they
    are read more than once in this order, and every time as they were the first time.
    levels: of categories, once they are agreed on.
    """
    request = party.request
    rows = request.rows
    if request.is_joined:
        # Its derived columns are written out in the expression.
        rows = QuestionRows(missing=rows.missing)
    complete_on = request.complete_on or []
    # A quantile's rounds and a join read more than once: from a snapshot, as the rows
    # may change meanwhile.
    snapshot = None
    if again:
        snapshot = party.snapshot
    with open_dataset(
        party.settings,
        party.policy,
        data_path=party.sql["data"],
        data_type=request.provider(party.me).data_type,
        requester=request.initiator,
        columns=read_columns(request, party.me),
        and_numbers=and_numbers,
        complete_on=complete_on if rows.is_plain else (),
        snapshot=snapshot,
    ) as dataset:
        if not rows.is_plain:
            columns = columns_of(request, party.me)
            dataset = prepare_question(
                dataset,
                rows,
                columns=columns,
                complete_on=complete_on,
                min_rows=party.rules.min_rows,
            )
        yield replace(dataset, levels=dict(levels or {}))


def keep_reading(
    party: VerifiedStatistics, make: Callable[[], Reading], *, name: str = "reading"
) -> Reading:
    """The reading of this order; made by the first call, and found by every later one.

    name: of one that is made after another.
    """

    def read() -> bytes:
        return make().model_dump_json().encode()

    # A second reading after a crash could find other rows, and the two would differ by
    # a few people (decision 14).
    kept = party.store.once(name, read)
    return Reading.model_validate_json(kept)
