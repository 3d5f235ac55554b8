"""What single fields of a question may hold."""

from __future__ import annotations

import itertools
import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from protocol.fields import Column, Number, UserId, Whole, printable

DataType = Literal["csv", "parquet", "json", "table", "sql"]
DATA_TYPES: tuple[str, ...] = get_args(DataType)
Normalisation = Literal["text", "integer", "casefold"]
ResultType = Literal["csv", "json"]

MOST_COLUMNS = 50
"""Of a matrix, and of a table that describes them."""

MOST_NAME_BYTES = 200

_ALIAS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def _alias(text: str) -> str:
    if not _ALIAS.fullmatch(text):
        raise ValueError(
            "must be a name of letters, digits and _ that does not start with a digit"
        )
    return text


def _file_name(text: str) -> str:
    """Every receiver writes a file of this name, on whatever system it has."""
    has_forbidden = any(letter in text for letter in '/\\:*?"<>|')
    if text.startswith(".") or has_forbidden or text != text.strip():
        raise ValueError(
            "must be usable as a file's name: without / \\ : * ? \" < > |, no dot or blank at its start"
        )
    if not text.isprintable() or len(text.encode()) > MOST_NAME_BYTES:
        raise ValueError(
            f"must be usable as a file's name: at most {MOST_NAME_BYTES} bytes that can be printed"
        )
    return text


def _decimal(value: Any) -> str:
    """A decimal as text, so that no digit is lost; a float is the shortest decimal that
    reads as it.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number")
    decimal_text = repr(value) if isinstance(value, float) else str(value)
    try:
        number = Decimal(decimal_text)
    except InvalidOperation:
        raise ValueError("must be a number") from None
    n_digits = len(number.as_tuple().digits)
    # Written out, 1e999999999 would fill the memory.
    if not number.is_finite() or abs(number.adjusted()) > 300 or n_digits > 300:
        raise ValueError("must be a finite number of at most 300 digits")
    return format(number, "f")


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _rising(edges: list[float]) -> list[float]:
    for lower, upper in itertools.pairwise(edges):
        if lower >= upper:
            raise ValueError("must rise from edge to edge")
    return edges


def _digits(digits: tuple[int, int]) -> tuple[int, int]:
    n_digits, n_after_point = digits
    if not 0 <= n_after_point <= n_digits:
        raise ValueError(
            "must be [digits in all, digits after the point], the second not above the first"
        )
    return digits


Party = (
    UserId
    | Annotated[str, Field(min_length=1, max_length=200), AfterValidator(printable)]
)
"""A hospital as an analyst names it: its user id, or its name."""

Columns = Annotated[list[Column], Field(min_length=1, max_length=MOST_COLUMNS)]

Alias = Annotated[str, AfterValidator(_alias)]
"""What a provider's data are called in an expression."""

ResultName = Annotated[
    str,
    Field(min_length=1, max_length=100),
    AfterValidator(printable),
    AfterValidator(_file_name),
]

DecimalText = Annotated[str, BeforeValidator(_decimal)]

Share = Annotated[Number, Field(ge=0, le=1)]
Shares = Annotated[
    list[Share],
    BeforeValidator(_as_list),
    Field(min_length=1, max_length=20),
]
"""One of them, or a list."""

MOST_EDGES = 1001
"""Of a histogram, and of all that one question asks for."""

Edges = Annotated[
    list[Number], Field(min_length=2, max_length=MOST_EDGES), AfterValidator(_rising)
]
"""Given by the question, and never made of data (decision 41)."""

Digits = Annotated[
    tuple[
        Annotated[Whole, Field(ge=1, le=300)],
        Annotated[Whole, Field(ge=0, le=300)],
    ],
    AfterValidator(_digits),
]
"""Of a number: in all, and after the point."""
