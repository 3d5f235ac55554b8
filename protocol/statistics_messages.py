"""What hospitals send about an order of joint statistics, beside numbers under masks, and the readers of it.

`statistics_plan` makes the circuit of an order from the types; `agents/statistics/groups.py` has the statement that
providers of pooled rows seal to each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from protocol.messages import bad_message, canonical, read_fields, read_json
from protocol.training_request import Strict


class Types(Strict):
    """A provider to everyone, in clear: its columns' types, or that the last result stands again."""

    # Too few rows have changed since the schedule's last result; columns is empty then.
    repeats: bool
    # By alias.column, the fields of `analytics.statistics.rowwise.Fixed`: two, five, bits, nullable.
    columns: dict[str, tuple[int, int, int, bool]]


def read_types(messages: Mapping[int, bytes]) -> dict[int, Types]:
    """What the providers announced. ProtocolViolation (code bad_message) for anything else."""
    return {user: read_json(Types, body, what="A provider's types") for user, body in messages.items()}


def encode_common_keys(keys: Sequence[str]) -> bytes:
    """The first provider to each receiver, sealed to it: the keys of the joined rows, in the order of the rows."""
    return canonical({"keys": list(keys)}).encode()


def read_common_keys(data: bytes, *, n_rows: int) -> list[str]:
    """Inverse of `encode_common_keys`. ProtocolViolation (code bad_message) for anything but a text for each row."""
    keys: list[Any] = read_fields(data, {"keys": list})["keys"]
    if len(keys) != n_rows or not all(isinstance(key, str) for key in keys):
        raise bad_message("does not hold a text as key for each row")
    return keys


class Suppressed(Strict):
    """How many groups one rule has withheld."""

    rule: str
    threshold: str
    groups: int


class Report(Strict):
    """A hospital to the coordinator, in clear: how many rows it used, and what rules withheld; no name, no value."""

    rows_used: int = 0
    rows_suppressed: int = 0
    # Rows without a value in a column of the question.
    rows_null: int = 0
    # The rest is a receiver's, about the answer that it holds.
    suppressed: list[Suppressed] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    # The order whose result stands again.
    repeats: int | None = None


def read_report(data: bytes) -> Report:
    """What `agents.statistics.answer.report` sends. ProtocolViolation (code bad_message) for anything else."""
    return read_json(Report, data, what="A hospital's report of a statistics order")
