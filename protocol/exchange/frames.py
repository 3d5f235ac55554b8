"""By what messages are named, and how several of them stand in one body.

Decisions 144 and 153.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from protocol.errors import InvalidInput, ProtocolViolation, Unavailable

LARGE_BYTES = 2**20
"""From here a message is kept as a file, and read by itself as soon as it is there."""

AT_ONCE_BYTES = 2**22
"""Of messages that are read together, where they are read as they come."""

TOGETHER_BYTES = LARGE_BYTES
"""Of messages that are put together: larger ones go one by one, each into its file."""

MOST_TOGETHER = 16
"""Messages that are put together; a round has two."""

MOST_HEADS_BYTES = 2**13
"""What stands before messages that are put together."""

# Sender and length.
_FRAME = struct.Struct(">IQ")

FRAME_BYTES = _FRAME.size
"""What stands before a message in a body of several."""


@dataclass(frozen=True)
class Address:
    """Names a set of messages: one per sender and recipient."""

    # The order's number.
    run: int
    # An envelope's kind, or what the coordinator gives: document, total, common.
    topic: str
    fold: int = 0
    round: int = 0
    attempt: int = 0

    @property
    def path(self) -> str:
        return (
            f"/exchange/{self.run}/{self.topic}/{self.fold}/{self.round}/{self.attempt}"
        )


@dataclass(frozen=True)
class Sent:
    """A message on its way to one recipient, or to everyone."""

    address: Address
    recipient: int
    body: bytes


@dataclass(frozen=True)
class Used:
    """Messages that nobody reads again: those of an address for one recipient."""

    address: Address
    recipient: int


Topic = Annotated[str, Field(max_length=32, pattern=r"^[a-z_-]+$")]
Counted = Annotated[int, Field(ge=0, lt=2**31)]


class Named(BaseModel):
    """How a call names messages within its order: those of an address for one
    recipient.
    """

    topic: Topic
    fold: Counted
    round: Counted
    attempt: Counted
    recipient: Counted

    def address_in(self, run: int) -> Address:
        return Address(run, self.topic, self.fold, self.round, self.attempt)


def named(messages: Sent | Used) -> dict[str, Any]:
    """What `Named` reads."""
    address = messages.address
    return {
        "topic": address.topic,
        "fold": address.fold,
        "round": address.round,
        "attempt": address.attempt,
        "recipient": messages.recipient,
    }


def encode_frames(messages: Mapping[int, bytes]) -> bytes:
    """Several senders' messages in one body: (sender u32, length u64, bytes)*."""
    frames = []
    for sender, message_body in messages.items():
        frames.append(frame_head(sender, len(message_body)))
        frames.append(message_body)
    return b"".join(frames)


def frame_head(sender: int, n_bytes: int) -> bytes:
    """What stands before one sender's message: sender u32, length u64."""
    return _FRAME.pack(sender, n_bytes)


def decode_frames(data: bytes) -> dict[int, bytes]:
    """Inverse of `encode_frames`.

    A cut body raises Unavailable, so that it is asked for again. A sender that stands
    there twice is a ProtocolViolation: nobody may choose which of the two is read.
    """
    messages: dict[int, bytes] = {}
    frame_start = 0
    while frame_start < len(data):
        body_start = frame_start + _FRAME.size
        if len(data) < body_start:
            raise cut_short()
        sender, length = _FRAME.unpack_from(data, frame_start)
        frame_end = body_start + length
        if len(data) < frame_end:
            raise cut_short()
        if sender in messages:
            raise other_senders()
        messages[sender] = data[body_start:frame_end]
        frame_start = frame_end
    return messages


class _Head(Named):
    """What stands before messages that are put together, of one of them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    n_bytes: Counted


_HEADS = TypeAdapter(
    Annotated[list[_Head], Field(min_length=1, max_length=MOST_TOGETHER)]
)
_HEADS_LENGTH = struct.Struct(">I")


def encode_sent(messages: Sequence[Sent]) -> bytes:
    """Messages of one order in one body: length u32 of the heads, the heads as JSON,
    then the bodies in the heads' order.
    """
    heads = []
    for message in messages:
        heads.append({**named(message), "n_bytes": len(message.body)})
    written = json.dumps(heads, separators=(",", ":")).encode()
    bodies = [message.body for message in messages]
    return b"".join([_HEADS_LENGTH.pack(len(written)), written, *bodies])


def decode_sent(run: int, data: bytes) -> list[Sent]:
    """Inverse of `encode_sent`, of the order `run`. InvalidInput for any other body."""
    try:
        (n_heads_bytes,) = _HEADS_LENGTH.unpack_from(data)
        body_start = _HEADS_LENGTH.size + n_heads_bytes
        heads = _HEADS.validate_json(data[_HEADS_LENGTH.size : body_start])
    except (struct.error, ValidationError):
        raise _not_sent_so() from None
    if body_start + sum(head.n_bytes for head in heads) != len(data):
        raise _not_sent_so()
    messages = []
    for head in heads:
        address = head.address_in(run)
        body_end = body_start + head.n_bytes
        messages.append(Sent(address, head.recipient, data[body_start:body_end]))
        body_start = body_end
    return messages


def _not_sent_so() -> InvalidInput:
    return InvalidInput(
        "The body is not a list of messages with their bytes behind it.",
        remedy="Update the agent.",
    )


def is_worth_reading(n_bytes: Mapping[int, int], n_senders: int) -> bool:
    """Whether `gather_some` is answered, by the sizes of what is there: with all of the
    senders, or with a large message.
    """
    if len(n_bytes) == n_senders:
        return True
    return max(n_bytes.values(), default=0) >= LARGE_BYTES


def read_at_once(n_bytes: Mapping[int, int]) -> list[int]:
    """Whose messages `gather_some` answers with, by their sizes: one or more."""
    chosen: list[int] = []
    total_bytes = 0
    # The largest first: what is left waits for its like.
    for sender in sorted(n_bytes, key=lambda sender: -n_bytes[sender]):
        total_bytes += n_bytes[sender]
        if chosen and total_bytes > AT_ONCE_BYTES:
            break
        chosen.append(sender)
    return chosen


def cut_short() -> Unavailable:
    return Unavailable(
        "The coordinator's answer was cut short.", remedy="It is asked again."
    )


def other_senders() -> ProtocolViolation:
    return ProtocolViolation(
        "The coordinator answered with messages of other senders than those that were asked for.",
        remedy="Nothing of it was used; if this repeats, the coordinator leaves hospitals out.",
        code="other_senders",
    )
