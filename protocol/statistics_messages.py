"""What hospitals send about an order of joint statistics, beside numbers under masks,
and the readers of it.

`statistics_plan` makes the circuit of an order from the types;
`agents/statistics/groups.py` has the statement that providers of pooled rows seal to
each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from protocol.fields import Strict
from protocol.messages import (
    MOST_ROWS,
    bad_message,
    canonical,
    read_fields,
    read_json,
)


def _tuple_of(value: Any) -> Any:
    """JSON has no tuples: a list stands for one."""
    if isinstance(value, list):
        return tuple(value)
    return value


_Fixed = Annotated[
    tuple[int, int, int, bool],
    BeforeValidator(_tuple_of),
]


class Types(Strict):
    """A provider to everyone, in clear: its columns' types, or that the last result
    stands again.
    """

    # Too few rows have changed since the schedule's last result; columns is empty then.
    repeats: bool
    # By alias.column, the fields of `analytics.statistics.rowwise.Fixed`: two, five,
    # bits, nullable.
    columns: dict[str, _Fixed]


def read_types(data: bytes) -> Types:
    """What a provider announced.

    ProtocolViolation (code bad_message) for anything else.
    """
    return read_json(Types, data, what="A provider's types")


def encode_common_keys(keys: Sequence[str]) -> bytes:
    """The first provider to each receiver, sealed to it: the keys of the joined rows,
    in the order of the rows.
    """
    canonical_text = canonical({"keys": list(keys)})
    return canonical_text.encode()


def read_common_keys(data: bytes, *, n_rows: int) -> list[str]:
    """Inverse of `encode_common_keys`.

    ProtocolViolation (code bad_message) for anything but a text for each row.
    """
    fields = read_fields(data, {"keys": list})
    keys: list[Any] = fields["keys"]
    are_texts = all(isinstance(key, str) for key in keys)
    if len(keys) != n_rows or not are_texts:
        raise bad_message("does not hold a text as key for each row")
    return keys


RowCount = Annotated[int, Field(ge=0, le=MOST_ROWS)]


class Suppressed(Strict):
    """How many groups one rule has withheld."""

    rule: str
    threshold: str
    groups: RowCount


class Report(Strict):
    """A hospital to the coordinator, in clear: how many rows it used, and what rules
    withheld; no name, no value.
    """

    # Null, all three, where one of some provider's would be of a few rows.
    rows_used: RowCount | None = None
    rows_suppressed: RowCount | None = None
    # Rows without a value in a column of the question.
    rows_null: RowCount | None = None
    # Of an order that says what is done where a value is missing: how many rows were
    # selected, left out and used, and in how many the mean stands for a value.
    flow: dict[str, RowCount] | None = None
    # Where thresholds are on the sum, the numbers of all hospitals together in the place
    # of one's own: used, withheld and null, or none of them.
    joint_rows: dict[str, RowCount] | None = None
    # The rest is a receiver's, about the answer that it holds.
    suppressed: list[Suppressed] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    # The totals that were opened for it, in words.
    opened: list[str] = Field(default_factory=list)
    # The order whose result stands again.
    repeats: int | None = None


def read_report(data: bytes) -> Report:
    """What `agents.statistics.answer.report` sends.

    ProtocolViolation (code bad_message) for anything else.
    """
    return read_json(Report, data, what="A hospital's report of a statistics order")
