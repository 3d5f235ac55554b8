"""The exchange: bytes addressed to somebody, put once, read when they are there.

A message is named by (run, topic, fold, round, attempt, sender, recipient). Putting the
same bytes again is fine, other bytes under the same name are a Conflict. Reading waits
at the coordinator (long polling) and wakes at once. The transport is an argument: HTTP
to the coordinator's API, or memory within one process.

To read in this order: `party` (`Exchange`, which agents and tasks call), `transport`
(what it needs), `over_http` (one of them; `protocol.memory_transport` is another),
`frames` (addresses, and several messages in one body). `api/routes/exchange.py` is the
other side of HTTP.
"""

from __future__ import annotations

from protocol.exchange.frames import (
    AT_ONCE_BYTES,
    FRAME_BYTES,
    LARGE_BYTES,
    MOST_HEADS_BYTES,
    TOGETHER_BYTES,
    Address,
    Counted,
    Named,
    Sent,
    Topic,
    Used,
    decode_frames,
    decode_sent,
    encode_frames,
    encode_sent,
    frame_head,
    is_worth_reading,
    read_at_once,
)
from protocol.exchange.over_http import HttpTransport, error_of
from protocol.exchange.party import (
    LONGEST_PAUSE_SECONDS,
    LONGEST_WAIT_SECONDS,
    Exchange,
)
from protocol.exchange.transport import Transport

__all__ = [
    "AT_ONCE_BYTES",
    "FRAME_BYTES",
    "LARGE_BYTES",
    "LONGEST_PAUSE_SECONDS",
    "LONGEST_WAIT_SECONDS",
    "MOST_HEADS_BYTES",
    "TOGETHER_BYTES",
    "Address",
    "Counted",
    "Exchange",
    "HttpTransport",
    "Named",
    "Sent",
    "Topic",
    "Transport",
    "Used",
    "decode_frames",
    "decode_sent",
    "encode_frames",
    "encode_sent",
    "error_of",
    "frame_head",
    "is_worth_reading",
    "read_at_once",
]
