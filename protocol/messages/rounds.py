"""The payloads of a training order's rounds, but for gradients that are shown
(`vectors.py`).

Each owns encode and decode.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from analytics.arrays import Floats, Ints
from protocol.messages.json_text import bad_message, parse_json, read_fields, to_json
from protocol.sealing import Session

_TAG_BYTES = 32
# The length of a report in JSON, between tag and report.
_REPORT_LENGTH = struct.Struct(">I")
_REPORT_BEGINS = _TAG_BYTES + _REPORT_LENGTH.size

# Whether training ends, and the number of sums.
_OPENING_HEAD = struct.Struct(">BQ")
_INT64 = np.dtype(">i8")


@dataclass(frozen=True)
class Contribution:
    """A hospital to the coordinator: its part of a sum, as the order's method seals it,
    and a report in clear.
    """

    part: bytes
    # HMAC of its replicated state under the order secret (32 bytes): equal at every
    # hospital or the order stops.
    tag: bytes
    # Metrics of this hospital, JSON, rounded; the coordinator may read them.
    report: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        report = to_json(self.report)
        n_bytes = len(report)
        length = _REPORT_LENGTH.pack(n_bytes)
        return self.tag + length + report + self.part

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < _REPORT_BEGINS:
            raise bad_message("of kind contribution is too short")
        tag = data[:_TAG_BYTES]
        (report_length,) = _REPORT_LENGTH.unpack_from(data, _TAG_BYTES)
        report_end = _REPORT_BEGINS + report_length
        if len(data) < report_end:
            raise bad_message("of kind contribution is shorter than it says")
        report_bytes = data[_REPORT_BEGINS:report_end]
        report = parse_json(report_bytes)
        if not isinstance(report, dict):
            raise bad_message("has a report that is not an object")
        return cls(
            part=data[report_end:],
            tag=tag,
            report=report,
        )


@dataclass(frozen=True)
class Choice:
    """The coordinator to all hospitals: whose gradients a round's sum is over, and why
    others are left out.
    """

    members: tuple[int, ...]
    left_out: dict[int, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        reasons = {}
        for user_id, reason in self.left_out.items():
            reasons[str(user_id)] = reason
        choice_fields = {
            "members": list(self.members),
            "left_out": reasons,
        }
        return to_json(choice_fields)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        field_kinds: dict[str, type] = {
            "members": list,
            "left_out": dict,
        }
        choice_fields = read_fields(data, field_kinds)
        members = choice_fields["members"]
        are_ids = all(type(user_id) is int for user_id in members)
        if not are_ids or members != sorted(set(members)):
            raise bad_message("of kind choice has members that are no sorted user ids")
        reasons = choice_fields["left_out"]
        left_out = {}
        for user_id, reason in reasons.items():
            is_text = isinstance(reason, str)
            if not user_id.isdecimal() or not is_text:
                raise bad_message("of kind choice has reasons that are none")
            left_out[int(user_id)] = reason
        return cls(tuple(members), left_out)


@dataclass(frozen=True)
class Opening:
    """Initiator to all parties, sealed to the group: the opened sum, and whether
    training ends with this round.
    """

    sums: Ints
    stop: bool

    def encode(self) -> bytes:
        n_sums = len(self.sums)
        opening_head = _OPENING_HEAD.pack(self.stop, n_sums)
        numbers = self.sums.astype(_INT64).tobytes()
        return opening_head + numbers

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < _OPENING_HEAD.size:
            raise bad_message("of kind opening is too short")
        stop, n_sums = _OPENING_HEAD.unpack_from(data)
        numbers = data[_OPENING_HEAD.size :]
        n_bytes = _INT64.itemsize * n_sums
        if stop > 1 or len(numbers) != n_bytes:
            raise bad_message("of kind opening has another length than it says")
        big_endian = np.frombuffer(numbers, dtype=_INT64)
        sums = big_endian.astype(np.int64)
        return cls(sums, bool(stop))


def state_tag(
    session: Session,
    weights: Floats,
    info: bytes,
) -> bytes:
    """HMAC-SHA256 of the weights' bytes under a group key: lets the coordinator
    compare, and shows it nothing.
    """
    state_key = session.group_key(b"state/" + info)
    # One byte order, so that equal weights have equal tags on every processor.
    big_endian = weights.astype(">f8")
    written = big_endian.tobytes()
    return hmac.digest(state_key, written, "sha256")
