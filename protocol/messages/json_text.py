"""How bodies are written as JSON and read again, where the sender may be hostile."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from protocol.errors import ProtocolViolation

Model = TypeVar("Model", bound=BaseModel)


def bad_message(fault: str) -> ProtocolViolation:
    """The error of a message that is not what its receiver waits for: "A message is
    shorter than its header."

    `fault` holds nothing of the message, which may come from somebody hostile.
    """
    return ProtocolViolation(
        f"A message {fault}.",
        remedy="Nothing of it was used. If all sides run the same version, it was altered on its way.",
        code="bad_message",
    )


def canonical(value: Any) -> str:
    """JSON with sorted keys and no blanks: one text for one value."""
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )


def to_json(value: dict[str, Any]) -> bytes:
    return canonical(value).encode()


def parse_json(data: bytes) -> Any:
    """Any JSON value of a sender who may be hostile: no NaN or Infinity, and no nesting
    that exhausts the stack.
    """

    def refuse(_constant: str) -> None:
        raise ValueError

    try:
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise bad_message("is not JSON") from None


def read_json(model: type[Model], data: bytes, *, what: str) -> Model:
    """A message whose body is one of the protocol's models as JSON.

    ProtocolViolation (code bad_message) for anything else; its sentence names `what`
    and holds nothing of the message.
    """
    try:
        return model.model_validate_json(data, strict=True)
    except ValidationError:
        raise ProtocolViolation(
            f"{what} cannot be read.",
            remedy="Nothing of it was used. Run the same version at all hospitals.",
            code="bad_message",
        ) from None


def read_fields(
    data: bytes,
    fields: dict[str, type],
    *,
    optional: dict[str, type] | None = None,
) -> dict[str, Any]:
    """A message whose body is a JSON object with exactly these fields, each exactly of
    its type, and any of those in `optional`.

    For what is no model: texts arrive as they were sent, half surrogate pairs too,
    which pydantic would not parse. ProtocolViolation (code bad_message) for anything
    else.
    """
    values = parse_json(data)
    expected = dict(fields)
    if isinstance(values, dict):
        for field_name, type_ in (optional or {}).items():
            if field_name in values:
                expected[field_name] = type_
    check_fields(values, expected)
    checked: dict[str, Any] = values
    return checked


def check_fields(values: Any, fields: dict[str, type]) -> None:
    if not isinstance(values, dict) or set(values) != set(fields):
        raise bad_message("has other fields than it should")
    for name, type_ in fields.items():
        # A bool is an int only to isinstance.
        if type(values[name]) is not type_:
            raise bad_message(f"has a field {name} of another type than it should")


def bytes_of_hex(text: str, length: int | None = None) -> bytes:
    try:
        decoded_bytes = bytes.fromhex(text)
    except ValueError:
        raise bad_message("has a field that is not hexadecimal") from None
    if length is not None and len(decoded_bytes) != length:
        raise bad_message("has a field of another length than it should")
    return decoded_bytes
