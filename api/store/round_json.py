"""JSON that stands beside a round's numbers, of senders who may be hostile."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from protocol.errors import InvalidInput, TooLarge
from protocol.fields import describe
from protocol.messages import canonical

MOST_FACTS_BYTES = 2**20

Model = TypeVar("Model", bound=BaseModel)


def parse_json(text: bytes | str) -> Any:
    """JSON of a sender who may be hostile: no NaN, no name twice, no nesting beyond the
    stack.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_once_each, parse_constant=_no_constant
        )
    except _NotTaken as error:
        raise InvalidInput(
            str(error), remedy="Send each name once, and finite numbers."
        ) from None
    except (ValueError, RecursionError):
        raise _not_json() from None


class _NotTaken(ValueError):
    """JSON to Python, but not to us."""


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two values under one name two readers could take different ones: what was
    # checked would not be what is used.
    by_name = dict(pairs)
    if len(by_name) < len(pairs):
        raise _NotTaken("The body has a name twice in one object.")
    return by_name


def _no_constant(name: str) -> Any:
    raise _NotTaken(f"The body holds {name}, which is no JSON number.")


def parse_facts(model: type[Model], value: Any) -> Model:
    """What was sent beside the numbers."""
    # Pydantic describes every mistake; the length bounds how many there can be.
    if _length(value) > MOST_FACTS_BYTES:
        raise TooLarge(
            f"What stands beside the gradients has more than {MOST_FACTS_BYTES} bytes.",
            remedy="Leave out the rest.",
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise describe(error) from None


def _length(value: Any) -> int:
    try:
        return len(canonical(value))
    except (ValueError, RecursionError):
        # Infinity, from a number of many digits; nesting.
        raise _not_json() from None


def _not_json() -> InvalidInput:
    return InvalidInput(
        "The body is not JSON.",
        remedy="Send a JSON object as docs/api.md describes it.",
    )
