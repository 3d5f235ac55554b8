"""Readers of sealed answers: keys, hospitals that list them, and what is opened."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from agents.site.settings import SiteSettings
from protocol.exchange import Address
from protocol.memory_transport import MemoryTransport
from protocol.messages import COORDINATOR
from protocol.readers import TOPIC, AnswerPlace, open_from_hospital, reader_fingerprint
from protocol.sealing import exchange_public

LIN = hashlib.sha256(b"lin").digest()
WANG = hashlib.sha256(b"wang").digest()
# What a coordinator might put into an order in a reader's place.
COORDINATORS_OWN = hashlib.sha256(b"coordinator").digest()


def public(private: bytes) -> str:
    """As an order carries it."""
    return exchange_public(private).hex()


def fingerprint(private: bytes) -> str:
    return reader_fingerprint(exchange_public(private))


def list_readers(site: SiteSettings, **readers: bytes) -> None:
    """The policy's `[readers]`, which replace those that stand there."""
    before = site.policy.read_text().partition("\n[readers]\n")[0]
    lines = "".join(
        f'{name} = "{fingerprint(private)}"\n' for name, private in readers.items()
    )
    # Sections behind it, none; keys without a section must not follow.
    assert not re.search(r"^\[readers\]", before, re.MULTILINE)
    site.policy.write_text(f"{before}\n[readers]\n{lines}")


def sealed(transport: MemoryTransport, order_id: int, hospital: int) -> bytes:
    """What went to the coordinator."""
    found = transport.gather(
        Address(order_id, TOPIC), (hospital,), COORDINATOR, wait_seconds=0
    )
    assert found is not None, "nothing was sealed"
    return found[hospital]


def opened(
    transport: MemoryTransport,
    order_id: int,
    kind: str,
    *,
    hospital: int = 2,
    private: bytes = LIN,
) -> Any:
    place = AnswerPlace(order_id, kind, hospital)
    box = sealed(transport, order_id, hospital)
    return json.loads(open_from_hospital(private, box, place=place).payload)
