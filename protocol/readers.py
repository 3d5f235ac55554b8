"""Answers sealed to the person who reads them: HPKE (RFC 9180), base mode, X25519 with
HKDF-SHA256 and ChaCha20-Poly1305, as the `cryptography` package has it.

The reader's client has the private key. The hospital's agent signs an answer and seals
it to the public one; the coordinator passes on what it cannot open. In order: keys and
their fingerprints; what an answer belongs to; sealing and opening; the record by which
a sealed answer travels and lies in files.

HPKE says nothing of who sealed: without the signature inside, whoever knows the public
key could make up an answer.

Decision 96.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from protocol.errors import BadRequest, ProtocolViolation
from protocol.sealing import (
    KEY_BYTES,
    SIGNATURE_BYTES,
    Identity,
    PublicIdentity,
    exchange_public,
)

AnswerKind = Literal["report", "evaluation", "predictions", "statistics"]
ANSWER_KINDS: tuple[str, ...] = get_args(AnswerKind)

TOPIC = "answer"
"""The exchange's name of a sealed answer's message."""

FINGERPRINT = r"[0-9a-f]{4}(-[0-9a-f]{4}){7}"
"""How one is written: 128 bits in groups of four hex digits."""

_DOMAIN = b"consilium/v1/"
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_TAG_BYTES = 16
_LENGTH_BYTES = 8
_HEAD_BYTES = 2 * KEY_BYTES + SIGNATURE_BYTES + _LENGTH_BYTES
_LEAST_BLOCK = 4096


# Keys


def reader_fingerprint(public: bytes) -> str:
    """SHA-256 over a reader's public key (32 bytes), written as a hospital's is, to be
    compared by telephone.

    >>> reader_fingerprint(bytes(32))[:14]
    '17de-b062-c614'
    """
    digest = hashlib.sha256(_DOMAIN + b"reader" + public).hexdigest()
    groups = [digest[begin : begin + 4] for begin in range(0, 32, 4)]
    return "-".join(groups)


def is_fingerprint(text: str) -> bool:
    return re.fullmatch(FINGERPRINT, text) is not None


def check_reader_key(text: str) -> str:
    """A public key as a request carries it: 64 hex digits, of a point that X25519 can
    be used with. ValueError says what is wrong.
    """
    lower = text.lower()
    if re.fullmatch("[0-9a-f]{64}", lower) is None:
        raise ValueError("must be a reader's public key, 64 hex digits")
    try:
        # Points of low order give everyone the same secret: sealing to one is refused
        # here, before an order is made.
        _SUITE.encrypt(b"", X25519PublicKey.from_public_bytes(bytes.fromhex(lower)))
    except ValueError:
        raise ValueError("is no usable X25519 key") from None
    return lower


# Whom a hospital lists


class ReadersProblem(NamedTuple):
    """Why a list of readers is none: a sentence's end behind the section's name."""

    sentence: str
    remedy: str


def readers_problem(values: Any) -> ReadersProblem | None:
    """What is wrong with a policy's `[readers]`; None for names with a fingerprint each.

    Two names of one fingerprint are wrong: who takes one of them off would think that
    the key is gone.
    """
    if not isinstance(values, Mapping):
        return ReadersProblem(
            "is no table of names and fingerprints", f"Write {READERS_WANTED}."
        )
    wrong = []
    names_of: dict[str, list[str]] = {}
    for name, written in values.items():
        is_name = name.isprintable() and name.strip() == name != "" and len(name) <= 100
        fingerprint = written.strip().lower() if isinstance(written, str) else ""
        if not is_name or not is_fingerprint(fingerprint):
            wrong.append(name if name.isprintable() else "a name")
        else:
            names_of.setdefault(fingerprint, []).append(name)
    if wrong:
        return ReadersProblem(
            f"has no fingerprint for {', '.join(wrong)}", f"Write {READERS_WANTED}."
        )
    for alike_names in names_of.values():
        if len(alike_names) > 1:
            return ReadersProblem(
                f"gives {' and '.join(alike_names)} the same fingerprint",
                "Keep one of the names: a key is one person's.",
            )
    return None


READERS_WANTED = (
    'each name with the fingerprint that the person\'s client shows, as lin = "6e59-..."'
    " with eight groups of four hex digits"
)


# What an answer belongs to


@dataclass(frozen=True)
class AnswerPlace:
    """Which answer it is; opened with another place than it was sealed with, it does
    not open.
    """

    order_id: int
    kind: str  # one of ANSWER_KINDS
    hospital: int  # the user id of the hospital that sealed it

    def info(self, reader: bytes) -> bytes:
        """HPKE's info: the place, and to whose key (32 bytes)."""
        info_fields = {
            "order_id": self.order_id,
            "kind": self.kind,
            "hospital": self.hospital,
            "reader": reader.hex(),
        }
        # As `protocol.messages.canonical`, which a client does not have to import.
        canonical_text = json.dumps(info_fields, sort_keys=True, separators=(",", ":"))
        return _DOMAIN + b"answer/" + canonical_text.encode()


@dataclass(frozen=True)
class OpenedAnswer:
    """What was sealed, and by whom."""

    payload: bytes
    hospital: PublicIdentity  # whose signature is inside


# Sealing, at the hospital


def seal_answer(
    reader: bytes, payload: bytes, *, place: AnswerPlace, identity: Identity
) -> bytes:
    """enc (32) || ciphertext, of identity (64) || signature (64) || length (8) || payload
    || zeros.

    The hospital's agent runs it. reader: an X25519 public key, 32 bytes; BadRequest
    (code reader) for one of low order. The signature is over place, reader and payload,
    so that a reader cannot seal it on to somebody else as theirs.

    Disclosure: to the reader the payload; to who passes it on its size in steps of an
    eighth and of 4,096 bytes at the least, so that one prediction's size is not its
    class.
    """
    info = place.info(reader)
    signed = identity.sign(_to_sign(info, payload))
    length = len(payload).to_bytes(_LENGTH_BYTES, "big")
    head = identity.public.verify_key + identity.public.seal_key + signed + length
    plaintext = head + payload
    plaintext += bytes(_padded(len(plaintext)) - len(plaintext))
    try:
        reader_key = X25519PublicKey.from_public_bytes(reader)
        return bytes(_SUITE.encrypt(plaintext, reader_key, info))
    except ValueError:
        raise BadRequest(
            "The reader's key is no usable X25519 key.",
            remedy="Send the order with the key that the reader's client shows.",
            code="reader",
        ) from None


def _to_sign(info: bytes, payload: bytes) -> bytes:
    digest = hashlib.sha256(payload).digest()
    return _DOMAIN + b"sealed-answer" + hashlib.sha256(info).digest() + digest


def _padded(n_bytes: int) -> int:
    """The next multiple of an eighth of the largest power of two in it."""
    block = max(_LEAST_BLOCK, (1 << (n_bytes.bit_length() - 1)) // 8)
    n_blocks = -(-n_bytes // block)
    return n_blocks * block


# Opening, at the reader's client


def open_from_hospital(
    private: bytes, sealed: bytes, *, place: AnswerPlace
) -> OpenedAnswer:
    """Inverse of `seal_answer`.

    The reader's client runs it. private: X25519, 32 bytes. ProtocolViolation: code
    sealed_short where bytes are missing, cannot_unseal where it was sealed to another
    key or place, or altered, bad_signature where no hospital's key signed it.
    """
    if len(sealed) < KEY_BYTES + _TAG_BYTES + _padded(_HEAD_BYTES):
        raise ProtocolViolation(
            f"The sealed answer has {len(sealed)} bytes, fewer than any has: it is cut short.",
            remedy="Fetch it again.",
            code="sealed_short",
        )
    reader = exchange_public(private)
    info = place.info(reader)
    try:
        private_key = X25519PrivateKey.from_private_bytes(private)
        plaintext = _SUITE.decrypt(sealed, private_key, info)
    except (InvalidTag, ValueError):
        raise ProtocolViolation(
            f"The sealed answer does not open as {place.kind} of order {place.order_id}.",
            remedy="It was sealed to another reader or belongs to another order, or it was cut short or altered: "
            "fetch it again, with the key whose fingerprint the order shows.",
            code="cannot_unseal",
        ) from None
    return _verified(plaintext, info)


def _verified(plaintext: bytes, info: bytes) -> OpenedAnswer:
    hospital = PublicIdentity(
        plaintext[:KEY_BYTES], plaintext[KEY_BYTES : 2 * KEY_BYTES]
    )
    signature = plaintext[2 * KEY_BYTES : 2 * KEY_BYTES + SIGNATURE_BYTES]
    length = int.from_bytes(plaintext[_HEAD_BYTES - _LENGTH_BYTES : _HEAD_BYTES], "big")
    payload = plaintext[_HEAD_BYTES : _HEAD_BYTES + length]
    hospital.verify(_to_sign(info, payload), signature)
    return OpenedAnswer(payload, hospital)


# The record


@dataclass(frozen=True)
class SealedAnswer:
    """A sealed answer with what is needed to open it, as the API gives it and as it
    lies in a file.
    """

    place: AnswerPlace
    reader: str  # whose, as a fingerprint
    sealed: bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "order_id": self.place.order_id,
            "kind": self.place.kind,
            "hospital": self.place.hospital,
            "reader": self.reader,
            "sealed": base64.b64encode(self.sealed).decode(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SealedAnswer:
        """Inverse of `to_json`. ProtocolViolation (code sealed_record) for anything
        else.
        """
        try:
            place = AnswerPlace(
                _whole(data["order_id"]), str(data["kind"]), _whole(data["hospital"])
            )
            reader = str(data["reader"])
            sealed = base64.b64decode(data["sealed"], validate=True)
            is_ours = data["version"] == 1 and place.kind in ANSWER_KINDS
        except (KeyError, TypeError, ValueError, binascii.Error):
            is_ours = False
        if not is_ours or not is_fingerprint(reader):
            raise ProtocolViolation(
                "This is no sealed answer, or one that was altered or cut short.",
                remedy="Fetch it again: GET /orders/{order_id}/answer.",
                code="sealed_record",
            )
        return cls(place, reader, sealed)

    @classmethod
    def read(cls, text: str | bytes) -> SealedAnswer:
        """From a file's text: the record, or the API's whole answer around it."""
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = {}
        if isinstance(record, Mapping) and isinstance(record.get("data"), Mapping):
            record = record["data"]
        return cls.from_json(record if isinstance(record, Mapping) else {})

    def open(self, private: bytes) -> OpenedAnswer:
        """What is in it, for the reader whose X25519 key this is.

        ProtocolViolation as `open_from_hospital`; code another_reader where the record
        names one.
        """
        own_fingerprint = reader_fingerprint(exchange_public(private))
        if own_fingerprint != self.reader:
            raise ProtocolViolation(
                f"This answer is sealed to the reader {self.reader}, and the key here is {own_fingerprint}.",
                remedy="Open it with that reader's key, or send the order again with this one.",
                code="another_reader",
            )
        return open_from_hospital(private, self.sealed, place=self.place)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("no whole number")
    return value
