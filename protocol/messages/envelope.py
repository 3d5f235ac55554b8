"""The envelope of every message.

envelope = header (fixed, 113 bytes) || body || Ed25519 signature (64 bytes)

The signature covers a domain tag, the header and SHA-256 of the body; the header is the
associated data of the body's encryption. A receiver compares every header field with
what it waits for, so a message cannot be moved to another order, round, sender or
recipient. JSON or fixed binary; never pickle.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from protocol import sealing
from protocol.errors import ProtocolViolation
from protocol.messages.json_text import bad_message
from protocol.messages.kinds import CLEAR, GROUP, KIND_SINCE
from protocol.sealing import SIGNATURE_BYTES, Identity, PublicIdentity, Session
from protocol.versions import OLDEST_PROTOCOL, PROTOCOL, SPOKEN

# Magic, protocol number, then the fields of Header in their order, and three bytes of zeros:
# 113 bytes, big-endian.
_HEADER = struct.Struct(">4sB32s16sHIHII32sQB3x")
_KIND_BYTES = 16
_MAGIC = b"CNSL"
_SIGN_DOMAIN = b"consilium/v1/envelope"
_NO_CONTEXT = bytes(32)
# The nonce before a body, and the tag of ChaCha20-Poly1305 behind it.
_SEALING_BYTES = sealing.NONCE_BYTES + 16

Random = Callable[[int], bytes]


@dataclass(frozen=True)
class Header:
    """Everything that says which message this is."""

    # One of KINDS.
    kind: str
    # User ids; EVERYONE as recipient for what all parties read.
    sender: int
    recipient: int
    # `run_context` of the order's run (32 bytes); zeros before there is one.
    context: bytes = _NO_CONTEXT
    fold: int = 0
    round: int = 0
    attempt: int = 0
    # `members_digest` of the parties of the run; zeros before there is one.
    members: bytes = _NO_CONTEXT
    # Bytes of the body as it is sent, sealed or not.
    length: int = 0
    # CLEAR, PAIR or GROUP.
    seal: int = 0
    # In which number it is written: that of its order.
    protocol: int = PROTOCOL

    def encode(self) -> bytes:
        encoded_kind = self.kind.encode()
        if len(encoded_kind) > _KIND_BYTES:
            raise ValueError(f"the kind {self.kind} is longer than {_KIND_BYTES} bytes")
        return _HEADER.pack(
            _MAGIC,
            self.protocol,
            self.context,
            encoded_kind.ljust(_KIND_BYTES, b"\0"),
            self.fold,
            self.round,
            self.attempt,
            self.sender,
            self.recipient,
            self.members,
            self.length,
            self.seal,
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        if len(data) < _HEADER.size:
            raise bad_message("is shorter than its header")
        (
            magic,
            protocol,
            context,
            kind,
            fold,
            round_,
            attempt,
            sender,
            recipient,
            members,
            length,
            seal,
        ) = _HEADER.unpack(data[: _HEADER.size])
        if magic != _MAGIC:
            raise bad_message("is none of Consilium's")
        if protocol not in SPOKEN:
            raise bad_message(
                f"is written in protocol {protocol}, and this release speaks {SPOKEN}"
            )
        header = cls(
            kind=kind.rstrip(b"\0").decode("latin-1"),
            sender=sender,
            recipient=recipient,
            context=context,
            fold=fold,
            round=round_,
            attempt=attempt,
            members=members,
            length=length,
            seal=seal,
            protocol=protocol,
        )
        # One header has one encoding, so that no bit of it can change and the message
        # still be taken.
        if not kind.isascii() or header.encode() != data[: _HEADER.size]:
            raise bad_message("has a header that is not written as it should be")
        return header

    @property
    def info(self) -> bytes:
        """Names this message in key derivations: purpose, fold, round, attempt,
        members, sender, recipient.
        """
        numbers = (self.fold, self.round, self.attempt, self.sender, self.recipient)
        return self.kind.encode() + b"/%d/%d/%d/%d/%d/" % numbers + self.members


def members_digest(members: Sequence[int]) -> bytes:
    """SHA-256 over the sorted user ids of a message's members."""
    members_text = json.dumps(sorted(members))
    return hashlib.sha256(b"members" + members_text.encode()).digest()


def write_envelope(
    identity: Identity,
    header: Header,
    payload: bytes,
    *,
    session: Session | None = None,
    random_bytes: Random = secrets.token_bytes,
) -> bytes:
    """Seals `payload` as the header says and signs it. Runs at a hospital, only from
    its release door.

    A clear body is for what the coordinator may read (contributions under encryption,
    metrics, row counts).
    """
    if header.protocol < KIND_SINCE.get(header.kind, OLDEST_PROTOCOL):
        raise ValueError(f"protocol {header.protocol} has no kind {header.kind}")
    if header.seal == CLEAR:
        associated = replace(header, length=len(payload)).encode()
        body = payload
    else:
        associated = replace(header, length=len(payload) + _SEALING_BYTES).encode()
        message_key = _message_key(session, header)
        body = sealing.seal(
            message_key, payload, associated=associated, random_bytes=random_bytes
        )
    signature = identity.sign(_signed_bytes(associated, body))
    return associated + body + signature


def read_envelope(
    envelope: bytes,
    expected: Header,
    identity: PublicIdentity | None,
    *,
    session: Session | None = None,
) -> bytes:
    """The payload, after every header field and the signature have been found as
    expected.

    `identity` None skips the signature: only the coordinator does so, for messages
    whose sender its exchange has authenticated by token; it has no pins to check
    against.
    """
    header, body = _split(envelope)
    if header.protocol != expected.protocol:
        raise _other_protocol(header, expected.protocol)
    if header != replace(expected, length=len(body)):
        raise bad_message(f"of kind {expected.kind} is not the one that is waited for")
    associated = envelope[: _HEADER.size]
    # The signature before anything is opened: nothing of a body whose sender is not
    # known is used.
    if identity is not None:
        signature = envelope[-SIGNATURE_BYTES:]
        identity.verify(_signed_bytes(associated, body), signature)
    if header.seal == CLEAR:
        return body
    message_key = _message_key(session, header, reading=True)
    return sealing.unseal(message_key, body, associated=associated)


def peek_envelope(
    envelope: bytes,
    *,
    kind: str,
    sender: int,
    fold: int = 0,
    round: int = 0,
    protocol: int | None = None,
) -> bytes:
    """The clear body of a message to the coordinator, which has no pins: its exchange
    knows the sender by token. `protocol` is the order's number; None for who only shows
    it.
    """
    header, body = _split(envelope)
    if protocol not in (None, header.protocol):
        raise _other_protocol(header, protocol)
    header_fields = (
        header.kind,
        header.sender,
        header.fold,
        header.round,
        header.seal,
        header.length,
    )
    if header_fields != (kind, sender, fold, round, CLEAR, len(body)):
        raise bad_message(f"of kind {kind} is not the one that is waited for")
    return body


def _other_protocol(header: Header, protocol: int | None) -> ProtocolViolation:
    """An order has one number; no party takes a message of it in another."""
    return bad_message(
        f"is written in protocol {header.protocol}, and its order in {protocol}"
    )


def _split(envelope: bytes) -> tuple[Header, bytes]:
    """Header and body.

    What is too short to hold a signature behind its header is no envelope.
    """
    header = Header.decode(envelope)
    if len(envelope) < _HEADER.size + SIGNATURE_BYTES:
        raise bad_message("is shorter than its header and signature")
    return header, envelope[_HEADER.size : -SIGNATURE_BYTES]


def _message_key(
    session: Session | None, header: Header, *, reading: bool = False
) -> bytes:
    """The key of this one message: its header is in the derivation."""
    if session is None:
        raise bad_message("is sealed, and no session is open for it")
    if header.seal == GROUP:
        return session.group_key(header.info)
    peer = header.sender if reading else header.recipient
    return session.pair_key(peer, header.info)


def _signed_bytes(associated: bytes, body: bytes) -> bytes:
    return _SIGN_DOMAIN + associated + hashlib.sha256(body).digest()
