"""A question of joint statistics: every field that an analyst may send, checked before
anything runs.

The coordinator checks a request with it, and every hospital checks the signed document
with it again. Where a provider's data are (a path, a table, a SELECT) is in no
document: it goes sealed to that provider alone.

To read in this order: `methods` (what can be asked), `field_types` and `body` (the
fields), `request` (what follows from them), `checks` (what fits
together), `resolving` (names become user ids), `document` (what is signed).
`protocol.statistics_plan` makes the circuit of a joined request.
"""

from __future__ import annotations

from protocol.statistics_request.checks import parse_statistics_request
from protocol.statistics_request.document import (
    StatisticsOrder,
    read_statistics_document,
    statistics_document,
)
from protocol.statistics_request.field_types import (
    DATA_TYPES,
    MOST_COLUMNS,
    MOST_NAME_BYTES,
)
from protocol.statistics_request.methods import (
    BY_GROUPS,
    CURVE,
    DIGITS,
    JOINED,
    MOST_TEST_GROUPS,
    OF_COLUMNS,
    OF_RANKS,
    POOLED,
    QUARTILES,
    RANKED,
    SUMS_OF_DESCRIBE,
    TALLIED,
    THRESHOLD,
    WITHHELD,
    Method,
)
from protocol.statistics_request.request import StatisticsRequest
from protocol.statistics_request.resolving import resolve

__all__ = [
    "BY_GROUPS",
    "CURVE",
    "DATA_TYPES",
    "DIGITS",
    "JOINED",
    "MOST_COLUMNS",
    "MOST_NAME_BYTES",
    "MOST_TEST_GROUPS",
    "OF_COLUMNS",
    "OF_RANKS",
    "POOLED",
    "QUARTILES",
    "RANKED",
    "SUMS_OF_DESCRIBE",
    "TALLIED",
    "THRESHOLD",
    "WITHHELD",
    "Method",
    "StatisticsOrder",
    "StatisticsRequest",
    "parse_statistics_request",
    "read_statistics_document",
    "resolve",
    "statistics_document",
]
