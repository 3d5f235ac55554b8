"""Predictions as hospital 2's user gets them through the coordinator, in one process."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from agents.order.party import open_party
from agents.site.settings import SiteSettings
from agents.training.inference import answer_request
from protocol.exchange import Address
from protocol.memory_transport import MemoryTransport
from protocol.messages import COORDINATOR, HospitalSql
from protocol.sealing import KEY_BYTES, exchange_public, unseal_from


def predicted(
    sites: Mapping[int, SiteSettings], order_id: int, asked: dict[str, str]
) -> list[dict[str, Any]]:
    """Of the model of order 1; asked: what is sealed to the hospital, "infer" or "rows"."""
    reply_key = secrets.token_bytes(KEY_BYTES)
    own = HospitalSql(secrets.token_bytes(KEY_BYTES), asked)
    document = {
        "kind": "infer",
        "order_id": order_id,
        "model_id": 1,
        "user_id": 2,
        "reply_key": exchange_public(reply_key).hex(),
        "attempt": 0,
        "sql": own.commitment,
    }
    transport = MemoryTransport()
    party = open_party(sites[2], order_id, transport)
    box = own.seal(2, party.identity.public.seal_key)
    answer_request(party, json.dumps(document), box)
    address = Address(order_id, "predictions", attempt=0)
    sent = transport.gather(address, (2,), COORDINATOR, wait_seconds=0)[2]
    answered = unseal_from(reply_key, sent, associated=b"predictions/%d" % order_id)
    entries: list[dict[str, Any]] = json.loads(answered)
    return entries
