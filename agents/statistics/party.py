"""One hospital in an order of joint statistics: what its policy says to the order, and what it reads, once.

Everything here may be run again after a crash: what was read, drawn and sent is kept in the vault and found there.
Read `pooled.py` next for rows of all providers one below the other, `joined_rows.py` and `joined.py` for rows of the
same person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from agents.gate import disclosure
from agents.gate.earlier_questions import StatisticsLedger
from agents.order.party import Party
from agents.rows.dataset import FILE_TYPES, Dataset, open_dataset
from agents.rows.files import check_path
from protocol.policy import StatisticsRules
from protocol.statistics_plan import ordered_expression, sketched_plan
from protocol.statistics_request import RANKED, StatisticsOrder, StatisticsRequest, read_statistics_document
from protocol.training_request import Strict


@dataclass
class StatisticsParty(Party):
    """A hospital in an order of joint statistics: a provider, a receiver, or both."""

    request: StatisticsRequest = field(init=False)
    order: StatisticsOrder = field(init=False)

    def read_document(self, document: str) -> Mapping[int, str]:
        self.order = read_statistics_document(document, self.order_id)
        self.request = self.order.request
        return self.order.commitments

    def check_policy(self) -> None:
        """Who asks must be allowed to; a provider's rules hold for method, receivers, other providers and columns.

        Nothing of the rows is known yet; `check_data`, and the gate when they are read, have the rest.
        """
        self.policy.check_initiator(self.request.initiator, own_user_id=self.me)
        if self.is_provider:
            self.policy.check_receivers(self.request.openers, own_user_id=self.me)
            disclosure.check_request(
                self.policy.statistics,
                method=self.request.method,
                n_providers=len(self.request.providers),
                row_level_columns=_row_level_columns(self.request, self.me),
                disclose=self.request.disclose,
            )
            # Asked again of the circuit with announced types, before a key is matched (decision 44).
            circuit = sketched_plan(self.request)
            if circuit is not None:
                disclosure.check_weighing(circuit, self.me, self.rules)

    def terms(self) -> dict[str, Any]:
        request = self.request
        shown_apart = {"user_id", "data_providers", "result_receivers", "purpose", "method"}
        details = request.model_dump(mode="json", exclude=shown_apart, exclude_none=True)
        details["providers"] = list(request.providers)
        if self.is_provider:
            details["own_data"] = _own_data(request, self.me)
        if request.openers != request.receivers:
            details["openers"] = list(request.openers)
        if self.order.schedule_id is not None:
            details["schedule_id"] = self.order.schedule_id
        return {
            "kind": "statistics",
            "initiator": request.initiator,
            "parties": request.hospitals,
            "receivers": list(request.receivers),
            "purpose": request.purpose,
            "data": self.sql.sql if self.is_provider else {},
            "columns": columns_of(request, self.me) if self.is_provider else [],
            "method": request.method,
            "scoring": "none",
            "details": details,
        }

    @property
    def is_provider(self) -> bool:
        return self.me in self.request.providers

    @property
    def is_receiver(self) -> bool:
        return self.me in self.request.receivers

    @property
    def readers(self) -> set[int]:
        """Whose earlier answers this order is compared with: who asks, and who opens the counts of a quantile's search.

        A provider of such a question learns as much as its receivers do, but for its own rows, which it knows.
        """
        readers = {self.request.initiator}
        if self.request.method in RANKED:
            readers |= set(self.request.openers) - {self.me}
        return readers

    @property
    def rules(self) -> StatisticsRules:
        assert self.policy.statistics is not None, "check_policy has not passed"
        return self.policy.statistics

    @property
    def ledger(self) -> StatisticsLedger:
        return StatisticsLedger(self.vault.cohorts)


def _own_data(request: StatisticsRequest, user_id: int) -> dict[str, Any]:
    """A provider's entry, without the path, which is shown by itself."""
    return request.provider(user_id).model_dump(mode="json", exclude={"data_path"}, exclude_none=True)


def check_data(party: StatisticsParty) -> None:
    """What the policy says to the name of a provider's file or table, before anybody is asked and anything is opened.

    Raises Refused (code data_path, files, tables). The rest is known when the data are read.
    """
    if not party.is_provider:
        return
    data_type = party.request.provider(party.me).data_type
    data_path = party.sql.sql["data"]
    if data_type in FILE_TYPES:
        check_path(party.settings.data_folder, data_path, party.rules.files)
    elif data_type == "table":
        party.policy.table(data_path)


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
        used += request.group_by or []
    return list(dict.fromkeys(used))


def _row_level_columns(request: StatisticsRequest, user_id: int) -> list[str]:
    """Of which columns of this provider the answer would hold something for each person."""
    expression = ordered_expression(request)
    # is_investor_accredited, which has no expression, answers for each person, too.
    is_row_level = request.is_joined and (expression is None or expression.is_row_level)
    return columns_of(request, user_id) if is_row_level else []


# A provider's data, read once


class Reading(Strict):
    """What a provider keeps of its data for one order: by group for pooled rows, its columns' types for joined ones.

    A group's key is its label, the values of the group columns, as canonical JSON.
    """

    n_rows: int
    # Rows that are in no group because a column of the question has no value there.
    n_null: int = 0
    # A schedule's rows have changed by so few that its last result stands again; the rest is empty then.
    repeats: bool = False
    # A quantile's column holds whole numbers of 64 bits, and this hospital's policy lets single ones be known.
    whole: bool = False
    n_rows_of: dict[str, int] = Field(default_factory=dict)
    # Integers of any size, which are added up over the providers (`agents.statistics.sums.N_NUMBERS`).
    tallies: dict[str, list[int]] = Field(default_factory=dict)
    # The rule that withholds a group, and its threshold as the policy writes it.
    withheld: dict[str, tuple[str, str]] = Field(default_factory=dict)
    # By alias.column, the fields of `analytics.statistics.rowwise.Fixed`.
    types: dict[str, tuple[int, int, int, bool]] = Field(default_factory=dict)


def open_data(
    party: StatisticsParty, columns: Sequence[str] | None, *, again: bool = False
) -> AbstractContextManager[Dataset]:
    """This provider's data, where the order's sealed data_path says, within its policy; None for all columns.

    again: they are read more than once in this order, and every time as they were the first time.
    """
    # A quantile's rounds and a join read more than once: from a snapshot, as the rows may change meanwhile.
    snapshot = party.store.folder / "rows.parquet" if again else None
    return open_dataset(
        party.settings,
        party.policy,
        data_path=party.sql.sql["data"],
        data_type=party.request.provider(party.me).data_type,
        requester=party.request.initiator,
        columns=columns,
        snapshot=snapshot,
    )


def keep_reading(party: StatisticsParty, make: Callable[[], Reading]) -> Reading:
    """The reading of this order; made by the first call, and found by every later one."""
    # A second reading after a crash could find other rows, and the two would differ by a few people (decision 14).
    kept = party.store.once("reading", lambda: make().model_dump_json().encode())
    return Reading.model_validate_json(kept)
