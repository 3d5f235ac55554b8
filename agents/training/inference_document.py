"""What the coordinator sends for an inference order, checked before anything is done with
it: it may send anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from agents.order.party import Party
from protocol.errors import Refused
from protocol.messages import MOST_TYPED_ROWS
from protocol.readers import check_reader_key
from protocol.sealing import KEY_BYTES


def read_document(party: Party, document: str) -> dict[str, Any]:
    """What the coordinator has sent, checked before anything is done with it.

    Raises Refused (code document).
    """
    refusal = Refused(
        "This inference order is not for this hospital.",
        remedy="Send it again.",
        code="document",
    )
    try:
        request: dict[str, Any] = json.loads(document)
        is_fit = _is_for(request, party) and _is_whole(request)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise refusal from None
    if not is_fit:
        raise refusal
    return request


def _is_for(request: dict[str, Any], party: Party) -> bool:
    if request["kind"] != "infer":
        return False
    is_this_order = request["order_id"] == party.order_id
    is_from_us = request["user_id"] == party.me
    return bool(is_this_order and is_from_us)


def _is_whole(request: dict[str, Any]) -> bool:
    """Whether its fields are what the answer is made with."""
    for field_name in ("model_id", "attempt"):
        # A bool is an int to isinstance, but not to type.
        if type(request[field_name]) is not int or request[field_name] < 0:
            return False
    if "reader" in request:
        check_reader_key(request["reader"])
        return "reply_key" not in request and "sql" in request
    reply_key = bytes.fromhex(request["reply_key"])
    return len(reply_key) == KEY_BYTES and "sql" in request


def read_values(row_source: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows as the coordinator sealed them, which may seal anything."""
    try:
        rows = json.loads(row_source["rows"])
    except (KeyError, ValueError, RecursionError):
        rows = None
    is_fit = isinstance(rows, list) and 1 <= len(rows) <= MOST_TYPED_ROWS
    if not is_fit or not all(_is_row(row) for row in rows):
        raise Refused(
            "What was sent is no list of rows.",
            remedy="Send it again.",
            code="document",
        )
    return list(rows)


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict):
        return False
    for cell_value in row.values():
        if isinstance(cell_value, float) and not math.isfinite(cell_value):
            return False
        if not isinstance(cell_value, str | int | float | None):
            return False
    return True
