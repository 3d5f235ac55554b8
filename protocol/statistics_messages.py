"""What hospitals send in clear about an order of joint statistics, and the readers of it: types, reports."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, ValidationError

from protocol.errors import ProtocolViolation
from protocol.training_request import Strict


class Types(Strict):
    """A provider to everyone, in clear: its columns' types by alias.column, or that the last result stands again."""

    repeats: bool
    columns: dict[str, tuple[int, int, int, bool]]


def read_types(messages: Mapping[int, bytes]) -> dict[int, Types]:
    """What the providers announced. ProtocolViolation (code bad_message) for anything else."""
    try:
        return {user: Types.model_validate_json(body) for user, body in messages.items()}
    except ValidationError:
        raise ProtocolViolation(
            "A provider's types cannot be read.",
            remedy="Run the same version at all hospitals.",
            code="bad_message",
        ) from None


class Suppressed(Strict):
    """How many groups one rule has withheld."""

    rule: str
    threshold: str
    groups: int


class Report(Strict):
    """A hospital to the coordinator, in clear: how many rows it used, and what rules withheld; no name, no value."""

    rows_used: int = 0
    rows_suppressed: int = 0
    rows_null: int = 0
    suppressed: list[Suppressed] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    repeats: int | None = None


def read_report(data: bytes) -> Report:
    """Inverse of what `report` sends; ProtocolViolation for anything else."""
    try:
        return Report.model_validate_json(data, strict=True)
    except ValidationError:
        raise ProtocolViolation(
            "A hospital's report of a statistics order cannot be read.",
            remedy="Run the same version at all hospitals.",
            code="bad_message",
        ) from None
