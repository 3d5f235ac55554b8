"""A provider's data of one order of joint statistics: opened, read once, and what is kept
of them.

A reading is made through the gate (`pooled.py`, `described_rows.py`, `joined_rows.py`)
and found again by every later step, after a crash too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pydantic import Field

from agents.rows.dataset import Dataset
from agents.rows.reading import open_dataset
from agents.rows.study_dataset import prepare_question
from agents.statistics.party import (
    AskedStatistics,
    VerifiedStatistics,
    columns_of,
    read_columns,
)
from protocol.fields import Strict
from protocol.statistics_described import Kind
from protocol.statistics_rows import QuestionRows

Rule = tuple[str, str]
"""The one that withholds a group, and its threshold as the policy writes it."""

Change = tuple[int, int, int, int, bool]
"""As `Reading.changes` has it."""

FixedType = tuple[int, int, int, bool]
"""The fields of `analytics.statistics.rowwise.Fixed`."""

Levels = Mapping[str, tuple[str, ...]]
"""Of each category, in order."""


class PartReading(Strict):
    """What a provider keeps of one of the questions that `describe` asks at once."""

    tallies: dict[str, list[int]] = Field(default_factory=dict)
    # The rule that withholds a group, and its threshold as the policy writes it.
    withheld: dict[str, Rule] = Field(default_factory=dict)
    # As of a whole `Reading`.
    whole: bool = False


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
    withheld: dict[str, Rule] = Field(default_factory=dict)
    # Where the policy says `cells = "pooled"`: why a group of min_rows rows or more is
    # withheld, and which smaller ones are not let be shown.
    withheld_of_pooled: dict[str, Rule] = Field(default_factory=dict)
    vetoed: list[str] = Field(default_factory=list)
    # Earlier answers that receivers have of such cells, by order and who is left out
    # (`pooled_cells.left_out`); who has changed since, by order and cell: the fewest and
    # the most who have come, the same of those gone, whether too few by this hospital
    # alone; and the fewest that its policy lets be compared.
    earlier: list[tuple[int, int]] = Field(default_factory=list)
    changes: dict[int, dict[str, Change]] = Field(default_factory=dict)
    min_changed: int = 1
    # Of describe: what each column is of, and what the questions are (`Part.name`).
    kinds: dict[str, Kind] = Field(default_factory=dict)
    parts: dict[str, PartReading] = Field(default_factory=dict)
    # By alias.column.
    types: dict[str, FixedType] = Field(default_factory=dict)


@contextmanager
def open_data(
    party: AskedStatistics,
    *,
    again: bool = False,
    and_numbers: bool = False,
    levels: Levels | None = None,
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
    provider = request.provider(party.me)
    complete_on = request.complete_on or []
    complete_when_read: Sequence[str] = ()
    if rows.is_plain:
        complete_when_read = complete_on
    # A quantile's rounds and a join read more than once: from a snapshot, as the rows
    # may change meanwhile. So does an order that may start with fewer hospitals, when
    # they are known.
    snapshot = None
    if again or request.start_within_seconds is not None:
        snapshot = party.snapshot
    with open_dataset(
        party.settings,
        party.policy,
        data_path=party.sql["data"],
        data_type=provider.data_type,
        requester=request.initiator,
        columns=read_columns(request, party.me),
        and_numbers=and_numbers,
        complete_on=complete_when_read,
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
        agreed_levels = dict(levels or {})
        yield replace(dataset, levels=agreed_levels)


def keep_reading(
    party: VerifiedStatistics,
    make: Callable[[], Reading],
    *,
    name: str = "reading",
) -> Reading:
    """The reading of this order; made by the first call, and found by every later one.

    name: of one that is made after another.
    """

    def read() -> bytes:
        reading_text = make().model_dump_json()
        return reading_text.encode()

    # A second reading after a crash could find other rows, and the two would differ by
    # a few people (decision 14).
    reading_bytes = party.store.once(name, read)
    return Reading.model_validate_json(reading_bytes)
