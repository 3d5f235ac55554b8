"""One face for the three ways to add vectors of several hospitals: Paillier, Mask, None.

    seal(keys, values, info)           at each hospital     value -> word (-> plaintext) -> masked (-> ciphertext)
    add(method, payloads, public)      at the coordinator   adds what it cannot read
    open_sum(keys, total, info)        at the initiator     the sum only, and only if all members are in it
    mean(keys, sums)                   at every hospital    the weighted mean

| method   | a word is            | hidden from the coordinator by | from the holder of the private key by |
|----------|----------------------|--------------------------------|---------------------------------------|
| Paillier | a slot of a plaintext | encryption                    | pair masks modulo n                   |
| Mask     | an integer mod 2^64  | pair masks and group masks     | pair masks (there is no private key)  |
| None     | an integer mod 2^64  | nothing                        | nothing                               |

Every mask and the tag are derived from the caller's `info` (purpose, fold, round, attempt) and from all that members
must agree on: method, kind, length, members, row counts, bound, public key. Group masks ride under Paillier too: they
hide nothing there, but make a sum that is opened under other terms, or replayed from another round, come out as noise.

After the values stand two words of tag, the halves of a linear authenticator (`masks`), under a key that the members
hold and the coordinator does not; the row count stands in every plaintext, and Mask and None carry two check words
more, the row count and a 1.

Detected under every method, None too: whatever makes a value of the total another one than the sum of exactly the
members' contributions of this info and these terms; one missing, doubled or replayed, words altered, swapped or
scaled, a number of the coordinator's choice added under encryption. It goes unseen with a probability of 2^-63 per
attempt, and a wrong guess ends the order. Not detected: a member that seals untrue values or tells the coordinator
the group key, and an initiator that passes on other sums than it opened.

One `info` may seal one vector only: sealed again with other values, the difference of the two would be in clear,
and with it a relation between the tag's factors.

What it is made of: `fixed_point` (values to words), `masks` (masks and tags), `paillier` (words to ciphertexts). Sums
of joint statistics are `exact_sum`, not this.

Decision 10.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from phe.paillier import PaillierPrivateKey, PaillierPublicKey

from protocol.errors import BadRequest, ProtocolViolation
from protocol.sums import EncryptMethod, masks, paillier
from protocol.sums.fixed_point import SUM_BITS, FixedPoint
from protocol.sums.paillier import Obfuscators

VERSION = 2
_CODES: dict[EncryptMethod, int] = {"Paillier": 1, "Mask": 2, "None": 3}
_HEADER = struct.Struct(">BBBBHII")
_TERMS = b"consilium/secure-sum/terms/1"
_CHECK_WORDS = 2
_TAG_WORDS = 2
"""One tag of 64 bits and no second: it is guessed online, once in 2^63, and the first wrong guess ends the order."""

_HALF_BITS = 32
_HALF_MAX = (1 << _HALF_BITS) - 1
_WORD_BYTES = 8
_SUM_LIMIT = 1 << SUM_BITS


class SumKind(IntEnum):
    """What the words are: reals weighted by rows, or exact counts of weight one."""

    MEAN = 1
    COUNTS = 2


@dataclass(frozen=True)
class SumKeys:
    """What one party holds of an order to take part in sums over `members`.

    ProtocolViolation `sum_keys` when the fields do not fit together.
    """

    method: EncryptMethod
    me: int  # this party's user id
    members: tuple[int, ...]  # user ids, sorted
    n_rows: Mapping[int, int]  # the rows of each member, and of nobody else
    pair_keys: Mapping[int, bytes] = field(repr=False)  # 32 bytes by peer; a sum may leave some peers out
    group_key: bytes = field(repr=False)  # 32 bytes from the order secret
    bound: float = 2.0**20  # B, the largest coordinate that the order allows
    public: PaillierPublicKey | None = None  # needed for Paillier
    obfuscators: Obfuscators | None = field(default=None, repr=False)  # without, they are made when sealing

    def __post_init__(self) -> None:
        _require(self.method in get_args(EncryptMethod), "The method is not Paillier, Mask or None.")
        is_sorted = list(self.members) == sorted(set(self.members))
        _require(bool(self.members) and is_sorted, "Members are not sorted.")
        # A payload has 16 bits for the number of members, the terms have 64 unsigned bits for an id.
        in_range = self.members[0] >= 0 and len(self.members) < 2**16
        _require(in_range, "A member's id or their number is out of range.")
        _require(set(self.n_rows) == set(self.members), "The row counts are not those of the members.")
        _require(min(self.n_rows.values()) >= 0, "A row count is negative.")
        _require(self.method != "Paillier" or self.public is not None, "The order's public key is missing.")
        _require(len(self.group_key) == masks.KEY_BYTES, "The group key has another length.")

    @property
    def n_rows_total(self) -> int:
        """N, the rows of all members."""
        return sum(self.n_rows.values())

    @property
    def fixed_point(self) -> FixedPoint:
        """The scale of weighted means."""
        return FixedPoint(self.n_rows_total, self.bound)

    def own_rows(self) -> int:
        """n_i of this party. ProtocolViolation `sum_keys` when it is not a member and so cannot seal."""
        _require(self.me in self.members, "This hospital is not a member of the sum.")
        return self.n_rows[self.me]

    def peers(self) -> dict[int, bytes]:
        """The pair keys shared with the other members. ProtocolViolation `sum_keys` when one is missing."""
        others = [member for member in self.members if member != self.me]
        _require(set(others) <= set(self.pair_keys), "A pair key is missing.")
        return {member: self.pair_keys[member] for member in others}


def seal(keys: SumKeys, values: NDArray[np.float64], *, info: bytes) -> bytes:
    """A hospital's contribution n_i * values, for the coordinator. A hospital runs it.

    `values` is float64 (d,), d >= 1, each |value| <= bound; `info` names purpose, fold, round and attempt, and is
    used once. Raises BadRequest `bound_exceeded` and `headroom` of FixedPoint (`headroom` also when a word of one row
    is too small for half a tag: never up to 2^29 rows), ProtocolViolation `sum_keys`, and `forked_obfuscators` of
    Obfuscators.

    Disclosure: Paillier and Mask: the length d and nothing else, while the coordinator and a member do not
    conspire; None: the weighted values themselves. It needs the release door.
    """
    words = keys.fixed_point.encode(values, keys.own_rows())
    return _seal(keys, words, kind=SumKind.MEAN, info=info)


def seal_counts(keys: SumKeys, counts: NDArray[np.int64], *, info: bytes) -> bytes:
    """A hospital's exact integers (histograms, contingency tables), with weight one and no scaling.

    `counts` is int64 (d,), d >= 1, each |count| <= 2^62 // K for K members: BadRequest `bound_exceeded` beyond.
    Roles, pre-conditions, errors and disclosure as `seal`; `open_sum` gives the exact sums.
    """
    keys.own_rows()
    counts = np.asarray(counts)
    if counts.dtype.kind not in "iu" or counts.ndim != 1:
        raise BadRequest(
            "Counts are not one flat vector of integers.",
            remedy="Round and flatten them.",
            code="shape",
        )
    limit = _SUM_LIMIT // len(keys.members)
    too_large = (counts > limit) | (counts < -limit)
    if too_large.any():
        raise BadRequest(
            "A count is too large to add exactly.",
            remedy="Count fewer rows.",
            code="bound_exceeded",
        )
    return _seal(keys, counts.astype(np.int64), kind=SumKind.COUNTS, info=info)


def add(
    method: EncryptMethod, payloads: Mapping[int, bytes], *, public: PaillierPublicKey | None = None
) -> bytes:
    """The sum of contributions, still sealed, by user id of the sender. The coordinator runs it.

    Paillier: products of ciphertexts modulo n^2 (`public` is needed); Mask and None: words modulo 2^64. Nothing
    is decoded but the headers. ProtocolViolation `payload` when a payload is malformed or their shapes differ.
    """
    messages = [_Payload.decode(payloads[sender], public=public) for sender in sorted(payloads)]
    shapes = {(message.method, message.kind, message.d) for message in messages}
    if len(shapes) != 1:
        raise _bad_payload("The contributions differ in method, kind or length.")
    first = messages[0]
    # A total that is added again would count some member twice.
    are_single = all(message.n_members == 1 for message in messages)
    if first.method != method or not are_single:
        raise _bad_payload("A payload is not a single contribution of this method.")
    body = _add_bodies(method, [message.body for message in messages], public)
    total = _Payload(method=method, kind=first.kind, n_members=len(messages), d=first.d, body=body)
    return total.encode()


def open_sum(
    keys: SumKeys, total: bytes, *, info: bytes, private_key: PaillierPrivateKey | None = None
) -> NDArray[np.int64]:
    """The summed words int64 (d,) of a total: for `mean`, or exact when they were counts. The initiator runs it.

    `info` and the terms in `keys` must be those of every contribution; `private_key` is needed for Paillier.
    ProtocolViolation `sum_mismatch` when the check fields do not add up to N rows (counts: K) and K members or the
    tag is not that of the sums, `payload` when the total is malformed, of another method or number of members.
    """
    message = _Payload.decode(total, public=keys.public)
    if message.method != keys.method or message.n_members != len(keys.members):
        raise _bad_payload("The total is of another method or of another number of members.")
    terms = _terms(keys, kind=message.kind, d=message.d, info=info)
    if keys.method == "Paillier":
        tagged = _open_paillier(keys, message, terms, private_key)
    else:
        tagged = _open_words(keys, message, terms)
    return _strip_tag(keys, tagged, message.kind, terms)


def mean(keys: SumKeys, sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """sum_i n_i v_i / N as float64 (d,), bit for bit the same at every hospital that runs it."""
    return keys.fixed_point.decode(sums)


# Sealing and opening ------------------------------------------------------------------------------------------


def _seal(keys: SumKeys, words: NDArray[np.int64], *, kind: SumKind, info: bytes) -> bytes:
    """The payload of words int64 (d,) and their tag, by the order's method."""
    if not words.size:
        raise BadRequest("A contribution is empty.", remedy="Send one value or more.", code="shape")
    terms = _terms(keys, kind=kind, d=words.size, info=info)
    tagged = np.append(words, _tag_words(keys, words, kind, terms))
    if keys.method == "Paillier":
        body = _seal_paillier(keys, tagged, kind, terms)
    else:
        body = _seal_words(keys, tagged, kind, terms)
    contribution = _Payload(method=keys.method, kind=kind, n_members=1, d=words.size, body=body)
    return contribution.encode()


def _tag_words(keys: SumKeys, words: NDArray[np.int64], kind: SumKind, terms: bytes) -> NDArray[np.int64]:
    """The low and high half of this member's padded tag. A member without rows has nothing but zeros to tag.

    A half is at most the largest word of weight one, so halves add up within the words' own range.
    """
    if _offset(keys, kind, 1) < _HALF_MAX:
        raise BadRequest("So many rows leave no room for a tag.", remedy="Order fewer rows.", code="headroom")
    if not _weight(keys, kind, keys.me):
        return np.zeros(_TAG_WORDS, dtype=np.int64)
    # t_i = sum_j r_j m_ij + s_i mod q (masks): without the pad s_i, as many tags as words would give r away.
    pad = masks.tag_pad(keys.group_key, keys.me, terms)
    tag = (masks.tag(keys.group_key, words, terms) + pad) % masks.TAG_MODULUS
    low, high = tag & _HALF_MAX, tag >> _HALF_BITS
    return np.array([low, high], dtype=np.int64)


def _strip_tag(keys: SumKeys, tagged: NDArray[np.int64], kind: SumKind, terms: bytes) -> NDArray[np.int64]:
    """The sums without the tag, once they fit it: sum_i t_i = sum_j r_j sum_i m_ij + sum_i s_i mod q."""
    sums = tagged[:-_TAG_WORDS]
    low, high = tagged[-_TAG_WORDS:].tolist()
    found = (low + (high << _HALF_BITS)) % masks.TAG_MODULUS
    expected = masks.tag(keys.group_key, sums, terms)
    for member in keys.members:
        if _weight(keys, kind, member):
            expected += masks.tag_pad(keys.group_key, member, terms)
    expected %= masks.TAG_MODULUS
    # In constant time: how far a forged tag agrees is not shown to who measures.
    if not hmac.compare_digest(expected.to_bytes(_WORD_BYTES, "big"), found.to_bytes(_WORD_BYTES, "big")):
        raise paillier.sum_mismatch()
    return sums.copy()


def _seal_paillier(keys: SumKeys, words: NDArray[np.int64], kind: SumKind, terms: bytes) -> bytes:
    """c = (1 + n (m + pair mask + group mask)) h^x mod n^2 for each plaintext m (paillier). A hospital runs it."""
    public = keys.public
    assert public is not None  # SumKeys refuses Paillier without it
    modulus = int(public.n)
    weight = _weight(keys, kind, keys.me)
    offset = _offset(keys, kind, weight)
    plaintexts = paillier.pack(words, weight=weight, offset=offset, bits=paillier.key_bits(public))
    # Under the encryption too (decision 9): the initiator has the private key, and must not read one hospital's sum.
    pair_masks = masks.mask_modulo(keys.peers(), keys.me, modulus, len(plaintexts), terms)
    group_masks = masks.group_modulo(keys.group_key, keys.me, modulus, len(plaintexts), terms)
    masked = [
        (plaintext + pair_mask + group_mask) % modulus
        for plaintext, pair_mask, group_mask in zip(plaintexts, pair_masks, group_masks, strict=True)
    ]
    stock = Obfuscators(public) if keys.obfuscators is None else keys.obfuscators
    ciphertexts = paillier.encrypt(public, masked, stock)
    return _join(ciphertexts, _ciphertext_bytes(public))


def _seal_words(keys: SumKeys, words: NDArray[np.int64], kind: SumKind, terms: bytes) -> bytes:
    """Words and check words modulo 2^64; under Mask plus pair and group masks. A hospital runs it."""
    weight = _weight(keys, kind, keys.me)
    check_words = np.array([weight, 1], dtype=np.int64)
    sealed = np.append(words, check_words).view(np.uint64)
    if keys.method == "Mask":
        sealed = sealed + masks.mask_words(keys.peers(), keys.me, sealed.size, terms)
        sealed = sealed + masks.group_words(keys.group_key, keys.me, sealed.size, terms)
    return sealed.astype("<u8").tobytes()


def _open_paillier(
    keys: SumKeys, message: _Payload, terms: bytes, private_key: PaillierPrivateKey | None
) -> NDArray[np.int64]:
    """The summed words and tag halves: Dec(c) less all group masks; pair masks cancel. The initiator runs it."""
    public = keys.public
    if public is None or private_key is None or private_key.public_key != public:
        raise ProtocolViolation("The private key of this order is missing.", remedy="Open at the initiator.")
    modulus = int(public.n)
    ciphertexts = _split(message.body, _ciphertext_bytes(public))
    plaintexts = paillier.decrypt(private_key, ciphertexts)
    for member in keys.members:
        group_masks = masks.group_modulo(keys.group_key, member, modulus, len(plaintexts), terms)
        plaintexts = [
            (plaintext - group_mask) % modulus
            for plaintext, group_mask in zip(plaintexts, group_masks, strict=True)
        ]
    weight = _total_weight(keys, message.kind)
    offset = _offset(keys, message.kind, weight)
    n_words = message.d + _TAG_WORDS
    return paillier.unpack(plaintexts, n_words, weight=weight, offset=offset, bits=paillier.key_bits(public))


def _open_words(keys: SumKeys, message: _Payload, terms: bytes) -> NDArray[np.int64]:
    """The same of Mask and None, once the check words are N (of counts K) and K."""
    words = _words_of(message.body)
    if keys.method == "Mask":
        for member in keys.members:
            words = words - masks.group_words(keys.group_key, member, words.size, terms)
    tagged = words.view(np.int64)[:-_CHECK_WORDS]
    found_checks = words[-_CHECK_WORDS:].tolist()
    weight = _total_weight(keys, message.kind)
    limit = _offset(keys, message.kind, weight)
    beyond = (tagged > limit) | (tagged < -limit)
    if found_checks != [weight, len(keys.members)] or beyond.any():
        raise paillier.sum_mismatch()
    return tagged


def _weight(keys: SumKeys, kind: SumKind, member: int) -> int:
    return int(keys.n_rows[member]) if kind is SumKind.MEAN else 1


def _total_weight(keys: SumKeys, kind: SumKind) -> int:
    return sum(_weight(keys, kind, member) for member in keys.members)


def _offset(keys: SumKeys, kind: SumKind, weight: int) -> int:
    """The largest word of that weight: n B 2^f for means, weight * (2^62 // K) for counts."""
    if kind is SumKind.MEAN:
        return keys.fixed_point.offset(weight)
    return weight * (_SUM_LIMIT // len(keys.members))


def _terms(keys: SumKeys, *, kind: SumKind, d: int, info: bytes) -> bytes:
    """SHA-256 over all that the members must agree on: whoever differs in one has other masks and tags."""
    scale = struct.pack(">BBId", _CODES[keys.method], kind, d, keys.bound)
    members = b"".join(struct.pack(">QQ", member, keys.n_rows[member]) for member in keys.members)
    public = b""
    if keys.public is not None:
        public = paillier.public_to_bytes(keys.public)
    digest = hashlib.sha256(_TERMS)
    # Each part after its length, so that no two lists of parts are the same bytes.
    for part in (scale, members, public, info):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


# Bytes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Payload:
    """version, method, kind, 0 (1 byte each), n_members (2), d (4), bytes of the body (4), big-endian; body."""

    method: EncryptMethod
    kind: SumKind
    n_members: int  # 1 of a contribution, K of a total
    d: int  # values, without tag and check words
    body: bytes  # ciphertexts big-endian, or words little-endian

    def encode(self) -> bytes:
        code = _CODES[self.method]
        header = _HEADER.pack(VERSION, code, self.kind, 0, self.n_members, self.d, len(self.body))
        return header + self.body

    @staticmethod
    def decode(data: bytes, *, public: PaillierPublicKey | None) -> _Payload:
        """ProtocolViolation `payload` unless header and length are exactly those of such a payload."""
        if len(data) < _HEADER.size:
            raise _bad_payload("A payload is shorter than its header.")
        version, code, kind, zero, n_members, d, size = _HEADER.unpack_from(data)
        methods = {code: method for method, code in _CODES.items()}
        is_known = version == VERSION and code in methods and kind in list(SumKind)
        if not is_known or zero or not n_members or not d:
            raise _bad_payload("A payload's header is not one of this version.")
        message = _Payload(methods[code], SumKind(kind), n_members, d, data[_HEADER.size :])
        if size != len(message.body) or size != _body_bytes(message.method, d, public):
            raise _bad_payload("A payload is not as long as its header says.")
        return message


def _body_bytes(method: EncryptMethod, d: int, public: PaillierPublicKey | None) -> int:
    if method != "Paillier":
        return _WORD_BYTES * (d + _TAG_WORDS + _CHECK_WORDS)
    if public is None:
        raise _bad_payload("The public key to read a payload with is missing.")
    n_ciphertexts = paillier.n_plaintexts(d + _TAG_WORDS, paillier.key_bits(public))
    return _ciphertext_bytes(public) * n_ciphertexts


def _add_bodies(method: EncryptMethod, bodies: list[bytes], public: PaillierPublicKey | None) -> bytes:
    if method == "Paillier":
        width = _ciphertext_bytes(public)
        contributions = [_split(body, width) for body in bodies]
        return _join(paillier.add(public, contributions), width)
    total = _words_of(bodies[0])
    for body in bodies[1:]:
        total = total + _words_of(body)  # wraps modulo 2^64
    return total.astype("<u8").tobytes()


def _ciphertext_bytes(public: PaillierPublicKey) -> int:
    """The bytes of a number below n^2."""
    return paillier.key_bits(public) // 4


def _join(numbers: list[int], width: int) -> bytes:
    return b"".join(number.to_bytes(width, "big") for number in numbers)


def _split(body: bytes, width: int) -> list[int]:
    starts = range(0, len(body), width)
    return [int.from_bytes(body[start : start + width], "big") for start in starts]


def _words_of(body: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(body, dtype="<u8").astype(np.uint64, copy=False)


def _bad_payload(sentence: str) -> ProtocolViolation:
    return ProtocolViolation(sentence, remedy="Use one version of Consilium at all parties.", code="payload")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ProtocolViolation(sentence, remedy="Set up the order again.", code="sum_keys")
