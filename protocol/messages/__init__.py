"""What parties say to each other: one envelope, and the payloads that travel in it.

To read in this order: `kinds` (which messages there are, and how each is sealed),
`envelope` (header, signature, encryption), `agreement` (payloads by which parties agree
on an order), `rounds` and `vectors` (payloads of a training order's rounds),
`json_text` (how bodies are written and read). `protocol.sealing` has the keys, `protocol.exchange` carries the
envelopes, `protocol.statistics_messages` has payloads of joint statistics, `sums/` and
`shares/` the binary ones.
"""

from __future__ import annotations

from protocol.messages.agreement import (
    Acceptance,
    HospitalSql,
    PooledThresholds,
    Setup,
    SignedOrder,
    run_context,
)
from protocol.messages.envelope import (
    Header,
    members_digest,
    peek_envelope,
    read_envelope,
    write_envelope,
)
from protocol.messages.json_text import bad_message, canonical, read_fields, read_json
from protocol.messages.kinds import (
    CLEAR,
    COORDINATOR,
    EVERYONE,
    GROUP,
    KIND_SINCE,
    KINDS,
    MOST_ROWS,
    MOST_TYPED_ROWS,
    PAIR,
)
from protocol.messages.rounds import Choice, Contribution, Opening, state_tag
from protocol.messages.vectors import Vectors

__all__ = [
    "CLEAR",
    "COORDINATOR",
    "EVERYONE",
    "GROUP",
    "KINDS",
    "KIND_SINCE",
    "MOST_ROWS",
    "MOST_TYPED_ROWS",
    "PAIR",
    "Acceptance",
    "Choice",
    "Contribution",
    "Header",
    "HospitalSql",
    "Opening",
    "PooledThresholds",
    "Setup",
    "SignedOrder",
    "Vectors",
    "bad_message",
    "canonical",
    "members_digest",
    "peek_envelope",
    "read_envelope",
    "read_fields",
    "read_json",
    "run_context",
    "state_tag",
    "write_envelope",
]
