"""The arguments of the analytics endpoints: every spelling that is taken, and errors
that name argument and value.

First the types, which are the OpenAPI description; then the readers, from text to
value.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import WithJsonSchema

from protocol.errors import InvalidInput

NAMES = (
    "order_id",
    "round",
    "number",
    "layers",
    "k",
    "p",
    "metric",
    "normalize",
    "n_attackers",
    "n_selected",
)
INDEXED = re.compile(r"layers(?:\[([0-9]{0,9})\])?")
# What the store's columns hold; a count that is compared with no column may be larger.
LARGEST_INTEGER = 2**31 - 1
LARGEST_COUNT = 2**53
MOST_LETTERS_SHOWN = 60
MOST_LETTERS_OF_A_NUMBER = 400


def _integer(minimum: int, maximum: int = LARGEST_INTEGER) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": minimum, "maximum": maximum})


def _number(**bounds: float) -> WithJsonSchema:
    return WithJsonSchema({"type": "number", **bounds})


def _said(text: str) -> Any:
    return Query(description=text)


# What comes is text; the schema says what is taken, and this module's own errors say
# what was wrong with it.
OrderIdOf = Annotated[
    str | None,
    _integer(1),
    _said(
        "The order. Default: the newest with recorded rounds that the token may read."
    ),
]
RoundOf = Annotated[
    str | None,
    _integer(0),
    Query(alias="round", description="Default: the newest recorded."),
]
NumberOf = Annotated[
    str | None, _integer(1), _said("So many rounds, which end with `round`.")
]
LayersOf = Annotated[
    list[str] | None,
    _said(
        "[\"dense\"] as JSON, ['dense'], comma separated, repeated, or layers[0]=dense. Default: dense."
    ),
]
IntegerOf = Annotated[
    str | None,
    _integer(1, LARGEST_COUNT),
    _said("Neighbours (krum, foolsgold) or clusters (auror)."),
]
ComponentsOf = Annotated[
    str | None,
    _number(exclusiveMinimum=0),
    _said("Components, or the part of the variance below 1."),
]
ShareOf = Annotated[
    str | None,
    _number(exclusiveMinimum=0, maximum=1),
    _said("The part of all clients that the clique has at least."),
]
WeightOf = Annotated[
    str | None, _number(minimum=0), _said("The weight of the step's length.")
]
AttackersOf = Annotated[
    str | None, _integer(0), _said("How many of the clients may be attackers.")
]
SelectedOf = Annotated[
    str | None,
    _integer(1),
    _said("How many clients are averaged. Default: n - n_attackers."),
]
MetricOf = Annotated[str | None, _said("How the difference is measured.")]
NormalizeOf = Annotated[
    str | None,
    WithJsonSchema({"enum": ["minmax"]}),
    _said("minmax: scores from 0 to 1. Default: as they are."),
]


def bad_argument(name: str, value: Any, allowed: str) -> InvalidInput:
    """The one sentence for an argument that cannot be taken."""
    return InvalidInput(
        f"{name} is {shown(value)}.",
        remedy=f"{name} has to be {allowed}.",
        code="argument",
        argument=name,
    )


def missing_argument(name: str, allowed: str) -> InvalidInput:
    return InvalidInput(
        f"{name} is missing.",
        remedy=f"{name} has to be {allowed}.",
        code="argument",
        argument=name,
    )


def shown(value: Any) -> str:
    """A value of the caller's as an answer may hold it."""
    printable_text = ""
    for letter in str(value):
        is_plain = letter.isprintable() and letter != "\ufffd"
        printable_text += letter if is_plain else "?"
    if len(printable_text) > MOST_LETTERS_SHOWN:
        printable_text = f"{printable_text[:MOST_LETTERS_SHOWN]}..."
    return repr(printable_text)


def refuse_unknown(request: Request) -> None:
    """A misspelt argument is an error: without it the answer would be to another
    question.
    """
    for argument_name in request.query_params:
        is_known = argument_name in NAMES or INDEXED.fullmatch(argument_name)
        if not is_known:
            raise InvalidInput(
                f"There is no argument {shown(argument_name)}.",
                remedy=f"Arguments are {', '.join(NAMES)}.",
                code="argument",
                argument=shown(argument_name),
            )


def integer(
    name: str,
    text: str | None,
    *,
    least: int,
    most: int = LARGEST_INTEGER,
    default: int | None = None,
) -> int | None:
    """A whole number from `least` to `most`, written as 3 or 3.0; the default when it
    is not given.
    """
    if text is None:
        return default
    allowed = f"a whole number from {least} to {most}"
    number = _float(name, text, allowed)
    is_in_range = least <= number <= most
    if not is_in_range or not number.is_integer():
        raise bad_argument(name, text, allowed)
    return int(number)


def required_integer(
    name: str, text: str | None, *, least: int, most: int = LARGEST_INTEGER
) -> int:
    number = integer(name, text, least=least, most=most)
    if number is None:
        raise missing_argument(name, f"a whole number of {least} or more")
    return number


def neighbours(text: str | None) -> int:
    """`k`, however many: a score takes as many as there are."""
    return required_integer("k", text, least=1, most=LARGEST_COUNT)


def share(text: str | None, *, default: float | None = None) -> float:
    """`p` of sniper, in (0, 1]."""
    return _number_in(
        "p",
        text,
        "above 0 and at most 1",
        lambda value: 0 < value <= 1,
        default=default,
    )


def components(text: str | None) -> float:
    """`k` of pca: whole, or in (0, 1)."""

    def may_be(value: float) -> bool:
        is_share = 0 < value < 1
        is_count = value >= 1 and value.is_integer()
        return is_share or is_count

    return _number_in(
        "k", text, "a whole number of 1 or more, or above 0 and below 1", may_be
    )


def weight(text: str | None) -> float:
    """`p` of zeno, 0 or more."""
    return _number_in("p", text, "a number of 0 or more", lambda value: value >= 0)


def _number_in(
    name: str,
    text: str | None,
    allowed: str,
    may_be: Callable[[float], bool],
    *,
    default: float | None = None,
) -> float:
    """A finite number that may be; the default when it is not given."""
    if text is None and default is not None:
        return default
    if text is None:
        raise missing_argument(name, allowed)
    number = _float(name, text, allowed)
    if not may_be(number):
        raise bad_argument(name, text, allowed)
    return number


def _float(name: str, text: str, allowed: str) -> float:
    # Python would also read 1_000, digits of other scripts, and as many of them as are
    # sent.
    is_plain = (
        text.isascii() and "_" not in text and len(text) <= MOST_LETTERS_OF_A_NUMBER
    )
    number = math.nan
    if is_plain:
        with contextlib.suppress(ValueError):
            number = float(text)
    if not math.isfinite(number):
        raise bad_argument(name, text, allowed)
    return number


def choice(
    name: str, text: str | None, words: Iterable[str], *, default: str | None
) -> str | None:
    """One of the words, in any case."""
    if text is None:
        return default
    if text.lower() not in words:
        raise bad_argument(name, text, " or ".join(words))
    return text.lower()


def layers_of(request: Request) -> list[str] | None:
    """The layers that were asked for, in every spelling; None when none were.

    >>> _split("['conv1', 'conv2']"), _split('["conv1","conv2"]'), _split("conv1, conv2"), _split("dense")
    (['conv1', 'conv2'], ['conv1', 'conv2'], ['conv1', 'conv2'], ['dense'])
    """
    placed_texts: list[tuple[int, str]] = []
    for argument_name, query_text in request.query_params.multi_items():
        name_match = INDEXED.fullmatch(argument_name)
        if name_match:
            layer_place = int(name_match[1] or 0)
            placed_texts.append((layer_place, query_text))
    if not placed_texts:
        return None
    layer_names: list[str] = []
    for _, layers_text in sorted(placed_texts, key=lambda pair: pair[0]):
        layer_names += _split(layers_text)
    is_each_once = len(set(layer_names)) == len(layer_names)
    if not layer_names or not all(layer_names) or not is_each_once:
        sent_text = ",".join(layers_text for _, layers_text in placed_texts)
        raise bad_argument("layers", sent_text, "one or more layers, each named once")
    return layer_names


def _split(text: str) -> list[str]:
    """JSON, Python's way to write a list, or names between commas."""
    text = text.strip()
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):  # not JSON; nesting beyond the stack
        parsed = None
    if isinstance(parsed, list) and all(isinstance(name, str) for name in parsed):
        return parsed
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1].strip()
        if not text:
            return []
    layer_names = []
    for quoted_name in text.split(","):
        without_quotes = quoted_name.strip().strip("'\"")
        layer_names.append(without_quotes.strip())
    return layer_names
