"""The document of a question, which the initiator's agent signs and every party reads and
checks again.

Decision 40.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from protocol.errors import bad_request
from protocol.fields import Strict, describe
from protocol.messages import canonical
from protocol.start_window import check_no_window
from protocol.statistics_request.checks import parse_statistics_request
from protocol.statistics_request.request import StatisticsRequest
from protocol.versions import PROTOCOL, document_version


def sent_fields(request: StatisticsRequest) -> dict[str, Any]:
    """The request's fields without those that were left out of it."""
    return request.model_dump(mode="json", exclude_none=True)


def statistics_document(
    order_id: int,
    request: StatisticsRequest,
    commitments: Mapping[int, str],
    *,
    schedule_id: int | None = None,
    repeats: int | None = None,
    reply_key: str | None = None,
    protocol: int = PROTOCOL,
) -> str:
    """What the initiator's agent signs and every party checks: the question, with
    commitments for where the data are.

    repeats: the schedule's last order with a result, which stands again where the rows
    have hardly changed. reply_key: a one-time X25519 key of the API, where the answer
    shall carry the values. protocol: in which number all of the order is written.
    """
    request_body = sent_fields(request)
    request_body["data_providers"] = [
        {**provider, "data_path": ""} for provider in request_body["data_providers"]
    ]
    return canonical(
        {
            "version": document_version(protocol),
            "kind": "statistics",
            "order_id": order_id,
            "schedule_id": schedule_id,
            "repeats": repeats,
            "reply_key": reply_key,
            "request": request_body,
            "data": {str(user): commitment for user, commitment in commitments.items()},
        }
    )


class StatisticsOrder(Strict):
    """A statistics order as its parties read it."""

    request: StatisticsRequest
    # By provider, `HospitalSql.commitment` of where its data are.
    commitments: dict[int, str]
    schedule_id: int | None = None
    # The schedule's last order with a result, which stands again where the rows have
    # hardly changed.
    repeats: int | None = None
    # A one-time X25519 key of the API in hex, where the answer shall carry the values.
    reply_key: str | None = None


def read_statistics_document(text: str, order_id: int) -> StatisticsOrder:
    """The order inside a document, checked again at a hospital; its providers come
    without data_path.
    """
    # The coordinator sends it, and may send anything.
    try:
        document = json.loads(text)
        kind_and_order = (document["kind"], document["order_id"])
        is_fit = kind_and_order == ("statistics", order_id)
        commitments = {
            int(user): str(commitment) for user, commitment in document["data"].items()
        }
        optional = {
            name: document[name] for name in ("schedule_id", "repeats", "reply_key")
        }
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ):
        raise bad_request(
            "document", "The order's document is not readable.", "Send the order again."
        ) from None
    if not is_fit:
        raise bad_request(
            "document",
            "The document belongs to another order.",
            "Send the order again.",
        )
    request = parse_statistics_request(document["request"])
    try:
        order = StatisticsOrder(request=request, commitments=commitments, **optional)
    except ValidationError as error:
        raise describe(error) from None
    parties = [provider.name for provider in request.data_providers]
    parties += request.result_receivers
    if order.schedule_id is not None:
        check_no_window(request)
    is_resolved = all(isinstance(party, int) for party in (*parties, request.user_id))
    if not is_resolved or set(commitments) != set(request.providers):
        raise bad_request(
            "document",
            "The document does not say who takes part.",
            "Send the order again.",
        )
    return order
