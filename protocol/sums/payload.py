"""The bytes of a contribution to a sum, and of the sum while it is still sealed.

`secure_sum` seals, adds and opens what stands in them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from phe.paillier import PaillierPublicKey

from protocol.errors import other_version
from protocol.sums import EncryptMethod, packing, paillier
from protocol.sums.masks import Words

VERSION = 2
CODES: dict[EncryptMethod, int] = {"Paillier": 1, "Mask": 2, "None": 3}
_METHODS = {code: method for method, code in CODES.items()}
_HEADER = struct.Struct(">BBBBHII")
_WORD_BYTES = 8

TAG_WORDS = 2
"""One tag of 64 bits and no second: it is guessed online, once in 2^63, and the first
wrong guess ends the order.
"""

CHECK_WORDS = 2
"""Of Mask and None, behind the tag: the row count, and a 1 for each member."""


class SumKind(IntEnum):
    """What the words are: reals weighted by rows, or exact counts of weight one."""

    MEAN = 1
    COUNTS = 2


@dataclass(frozen=True)
class Payload:
    """A contribution, or the sum of several.

    Encoded: version, method, kind, 0 (1 byte each), n_members (2), d (4), bytes of the
    body (4), big-endian; body.
    """

    method: EncryptMethod
    kind: SumKind
    n_members: int  # 1 of a contribution, K of a total
    d: int  # values, without tag and check words
    body: bytes  # ciphertexts big-endian, or words little-endian

    def encode(self) -> bytes:
        header = _HEADER.pack(
            VERSION,
            CODES[self.method],
            self.kind,
            0,
            self.n_members,
            self.d,
            len(self.body),
        )
        return header + self.body

    @staticmethod
    def decode(data: bytes, *, public: PaillierPublicKey | None) -> Payload:
        """Inverse of `encode`; `public` is needed for Paillier.

        ProtocolViolation `payload` unless header and length are exactly those of such a
        payload.
        """
        if len(data) < _HEADER.size:
            raise other_version("payload", "A payload is shorter than its header.")
        version, code, kind, zero, n_members, d, body_size = _HEADER.unpack_from(data)
        is_known = version == VERSION and code in _METHODS and kind in list(SumKind)
        if not is_known or zero or not n_members or not d:
            raise other_version(
                "payload", "A payload's header is not one of this version."
            )
        payload = Payload(
            method=_METHODS[code],
            kind=SumKind(kind),
            n_members=n_members,
            d=d,
            body=data[_HEADER.size :],
        )
        expected_size = _body_bytes(payload.method, d, public)
        if body_size != len(payload.body) or body_size != expected_size:
            raise other_version(
                "payload", "A payload is not as long as its header says."
            )
        return payload


def _body_bytes(method: EncryptMethod, d: int, public: PaillierPublicKey | None) -> int:
    """The bytes of a body with d values and what stands behind them."""
    if method != "Paillier":
        n_words = d + TAG_WORDS + CHECK_WORDS
        return _WORD_BYTES * n_words
    if public is None:
        raise other_version(
            "payload", "The public key to read a payload with is missing."
        )
    # The row count stands in every plaintext, in place of check words.
    n_words = d + TAG_WORDS
    n_ciphertexts = packing.n_plaintexts(n_words, paillier.key_bits(public))
    return ciphertext_bytes(public) * n_ciphertexts


class BodySum:
    """Bodies added one by one: products modulo n^2, or sums modulo 2^64.

    The coordinator runs it.
    """

    def __init__(self, method: EncryptMethod, public: PaillierPublicKey | None) -> None:
        self._method = method
        self._public = public
        # One of the two, by the method.
        self._words: Words | None = None
        self._products: list[int] | None = None

    def add(self, body: bytes) -> None:
        """Adds a body as long as the first; ProtocolViolation for a ciphertext out of
        range.
        """
        if self._method == "Paillier":
            self._multiply(body)
        elif self._words is None:
            self._words = words_of(body).copy()
        else:
            self._words += words_of(body)  # wraps modulo 2^64

    def _multiply(self, body: bytes) -> None:
        ciphertexts = split_ciphertexts(body, ciphertext_bytes(self._public))
        factors = [ciphertexts]
        if self._products is not None:
            factors.append(self._products)
        self._products = paillier.add(self._public, factors)

    def encode(self) -> bytes:
        """The body of the sum of one body or more."""
        if self._method == "Paillier":
            assert self._products is not None  # one was added
            return join_ciphertexts(self._products, ciphertext_bytes(self._public))
        assert self._words is not None
        return self._words.astype("<u8", copy=False).tobytes()


def ciphertext_bytes(public: PaillierPublicKey) -> int:
    """The bytes of a number below n^2."""
    return paillier.key_bits(public) // 4


def join_ciphertexts(numbers: list[int], width: int) -> bytes:
    """A body under Paillier: numbers of `width` bytes each, big-endian."""
    return b"".join(number.to_bytes(width, "big") for number in numbers)


def split_ciphertexts(body: bytes, width: int) -> list[int]:
    """Inverse of `join_ciphertexts`."""
    starts = range(0, len(body), width)
    return [int.from_bytes(body[start : start + width], "big") for start in starts]


def words_of(body: bytes) -> Words:
    """The words of a body under Mask and None."""
    return np.frombuffer(body, dtype="<u8").astype(np.uint64, copy=False)
