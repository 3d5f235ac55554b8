"""One face for the three ways to add vectors of several hospitals: Paillier, Mask,
None.

    seal(keys, values, info)           at each hospital     value -> word (-> plaintext) -> masked (-> ciphertext)
    add(method, payloads, public)      at the coordinator   adds what it cannot read
    open_sum(keys, total, info)        at the initiator     the sum only, and only if all members are in it
    mean(keys, sums)                   at every hospital    the weighted mean

| method   | a word is            | hidden from the coordinator by | from the holder of the private key by |
|----------|----------------------|--------------------------------|---------------------------------------|
| Paillier | a slot of a plaintext | encryption                    | pair masks modulo n                   |
| Mask     | an integer mod 2^64  | pair masks and group masks     | pair masks (there is no private key)  |
| None     | an integer mod 2^64  | nothing                        | nothing                               |

Every mask and the tag are derived from the caller's `info` (purpose, fold, round,
attempt) and from all that members must agree on: method, kind, length, members, row
counts, bound, public key. Group masks ride under Paillier too: they hide nothing there,
but make a sum that is opened under other terms, or replayed from another round, come
out as noise.

After the values stand two words of tag, the halves of a linear authenticator (`masks`),
under a key that the members hold and the coordinator does not; the row count stands in
every plaintext, and Mask and None carry two check words more, the row count and a 1.

Detected under every method, None too: whatever makes a value of the total another one
than the sum of exactly the members' contributions of this info and these terms; one
missing, doubled or replayed, words altered, swapped or scaled, a number of the
coordinator's choice added under encryption. It goes unseen with a probability of 2^-63
per attempt, and a wrong guess ends the order. Not detected: a member that seals untrue
values or tells the coordinator the group key, and an initiator that passes on other
sums than it opened.

One `info` may seal one vector only: sealed again with other values, the difference of
the two would be in clear, and with it a relation between the tag's factors.

What it is made of: `fixed_point` (values to words), `masks` (masks and tags), `packing`
and `paillier` (words to plaintexts to ciphertexts), `payload` (bytes). Sums of joint
statistics are `exact_sum`, not this.

Decision 10.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from phe.paillier import PaillierPrivateKey, PaillierPublicKey

from analytics.arrays import Floats, Ints
from protocol.errors import (
    BadRequest,
    ProtocolViolation,
    listed,
    other_version,
    sent_by,
    who_differ,
)
from protocol.sums import EncryptMethod, masks, packing, paillier
from protocol.sums.fixed_point import SUM_BITS, FixedPoint
from protocol.sums.paillier import Obfuscators
from protocol.sums.payload import (
    CHECK_WORDS,
    CODES,
    TAG_WORDS,
    Payload,
    SumKind,
    add_bodies,
    ciphertext_bytes,
    join_ciphertexts,
    split_ciphertexts,
    words_of,
)

_TERMS = b"consilium/secure-sum/terms/1"
_HALF_BITS = 32  # of a tag, which stands in two words
_HALF_MAX = (1 << _HALF_BITS) - 1
_TAG_BYTES = 8
_SUM_LIMIT = 1 << SUM_BITS


@dataclass(frozen=True)
class SumKeys:
    """What one party holds of an order to take part in sums over `members`.

    ProtocolViolation `sum_keys` when the fields do not fit together.
    """

    method: EncryptMethod
    me: int  # this party's user id
    members: tuple[int, ...]  # user ids, sorted
    n_rows: Mapping[int, int]  # the rows of each member, and of nobody else
    # 32 bytes by peer; a sum may leave some peers out.
    pair_keys: Mapping[int, bytes] = field(repr=False)
    group_key: bytes = field(repr=False)  # 32 bytes from the order secret
    bound: float = 2.0**20  # B, the largest coordinate that the order allows
    public: PaillierPublicKey | None = None  # needed for Paillier
    # Without, they are made when sealing.
    obfuscators: Obfuscators | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.method not in get_args(EncryptMethod):
            raise _bad_keys("The method is not Paillier, Mask or None.")
        is_sorted = list(self.members) == sorted(set(self.members))
        if not self.members or not is_sorted:
            raise _bad_keys("Members are not sorted.")
        # A payload has 16 bits for the number of members, the terms have 64 unsigned
        # bits for an id.
        if self.members[0] < 0 or len(self.members) >= 2**16:
            raise _bad_keys("A member's id or their number is out of range.")
        if set(self.n_rows) != set(self.members):
            raise _bad_keys("The row counts are not those of the members.")
        if min(self.n_rows.values()) < 0:
            raise _bad_keys("A row count is negative.")
        if self.method == "Paillier" and self.public is None:
            raise _bad_keys("The order's public key is missing.")
        if len(self.group_key) != masks.KEY_BYTES:
            raise _bad_keys("The group key has another length.")

    @property
    def n_rows_total(self) -> int:
        """N, the rows of all members."""
        return sum(self.n_rows.values())

    @property
    def fixed_point(self) -> FixedPoint:
        """The scale of weighted means."""
        return FixedPoint(self.n_rows_total, self.bound)

    def own_rows(self) -> int:
        """n_i of this party.

        ProtocolViolation `sum_keys` when it is not a member and so cannot seal.
        """
        if self.me not in self.members:
            raise _bad_keys("This hospital is not a member of the sum.")
        return self.n_rows[self.me]

    def peers(self) -> dict[int, bytes]:
        """The pair keys shared with the other members.

        ProtocolViolation `sum_keys` when one is missing.
        """
        others = set(self.members) - {self.me}
        if not others <= set(self.pair_keys):
            raise _bad_keys("A pair key is missing.")
        return {member: self.pair_keys[member] for member in sorted(others)}


def seal(keys: SumKeys, values: Floats, *, info: bytes) -> bytes:
    """A hospital's contribution n_i * values, for the coordinator. A hospital runs it.

    `values` is float64 (d,), d >= 1, each |value| <= bound; `info` names purpose, fold,
    round and attempt, and is used once. Raises BadRequest `bound_exceeded` and
    `headroom` of FixedPoint (`headroom` also when a word of one row is too small for
    half a tag: never up to 2^29 rows), ProtocolViolation `sum_keys`, and
    `forked_obfuscators` of Obfuscators.

    Disclosure: Paillier and Mask: the length d and nothing else, while the coordinator
    and a member do not conspire; None: the weighted values themselves. It needs the
    release door.
    """
    words = keys.fixed_point.encode(values, keys.own_rows())
    return _seal(keys, words, kind=SumKind.MEAN, info=info)


def seal_counts(keys: SumKeys, counts: Ints, *, info: bytes) -> bytes:
    """A hospital's exact integers, with weight one and no scaling.

    For histograms and contingency tables. `counts` is int64 (d,), d >= 1, each |count|
    <= 2^62 // K for K members: BadRequest `bound_exceeded` beyond. Roles,
    pre-conditions, errors and disclosure as `seal`; `open_sum` gives the exact sums.
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
    method: EncryptMethod,
    payloads: Mapping[int, bytes],
    *,
    public: PaillierPublicKey | None = None,
) -> bytes:
    """The sum of contributions, still sealed, by user id of the sender.

    The coordinator runs it. Paillier: products of ciphertexts modulo n^2 (`public` is
    needed); Mask and None: words modulo 2^64. Nothing is decoded but the headers.
    ProtocolViolation `payload` when a payload is malformed or their shapes differ.
    """
    if not payloads:
        raise other_version("payload", "There are no contributions to add.")
    messages = {}
    for sender in sorted(payloads):
        with sent_by(sender):
            message = Payload.decode(payloads[sender], public=public)
            # A total that is added again would count some member twice.
            if message.method != method or message.n_members != 1:
                raise other_version(
                    "payload", "A payload is not a single contribution of this method."
                )
        messages[sender] = message
    shapes = {user: (part.kind, part.d) for user, part in messages.items()}
    if named := who_differ(shapes):
        raise other_version(
            "payload",
            f"The contributions differ in kind or length: {listed(named)}.",
            hospitals=named,
        )
    first = next(iter(messages.values()))
    bodies = [message.body for message in messages.values()]
    total = Payload(
        method=method,
        kind=first.kind,
        n_members=len(messages),
        d=first.d,
        body=add_bodies(method, bodies, public),
    )
    return total.encode()


def open_sum(
    keys: SumKeys,
    total: bytes,
    *,
    info: bytes,
    private_key: PaillierPrivateKey | None = None,
) -> Ints:
    """The summed words int64 (d,) of a total: for `mean`, or exact for counts.

    The initiator runs it. `info` and the terms in `keys` must be those of every
    contribution; `private_key` is needed for Paillier. ProtocolViolation `sum_mismatch`
    when the check fields do not add up to N rows (counts: K) and K members or the tag
    is not that of the sums, `payload` when the total is malformed, of another method or
    number of members.
    """
    message = Payload.decode(total, public=keys.public)
    if message.method != keys.method or message.n_members != len(keys.members):
        raise other_version(
            "payload", "The total is of another method or of another number of members."
        )
    terms = _terms(keys, kind=message.kind, d=message.d, info=info)
    if keys.method == "Paillier":
        tagged = _open_paillier(keys, message, terms, private_key)
    else:
        tagged = _open_words(keys, message, terms)
    return _strip_tag(keys, tagged, message.kind, terms)


def mean(keys: SumKeys, sums: Ints) -> Floats:
    """sum_i n_i v_i / N as float64 (d,).

    Bit for bit the same at every hospital that runs it.
    """
    return keys.fixed_point.decode(sums)


# Sealing and opening


def _seal(keys: SumKeys, words: Ints, *, kind: SumKind, info: bytes) -> bytes:
    """The payload of words int64 (d,) and their tag, by the order's method."""
    if not words.size:
        raise BadRequest(
            "A contribution is empty.", remedy="Send one value or more.", code="shape"
        )
    terms = _terms(keys, kind=kind, d=words.size, info=info)
    tag_words = _tag_words(keys, words, kind, terms)
    tagged = np.append(words, tag_words)
    if keys.method == "Paillier":
        body = _seal_paillier(keys, tagged, kind, terms)
    else:
        body = _seal_words(keys, tagged, kind, terms)
    contribution = Payload(
        method=keys.method,
        kind=kind,
        n_members=1,
        d=words.size,
        body=body,
    )
    return contribution.encode()


def _tag_words(keys: SumKeys, words: Ints, kind: SumKind, terms: bytes) -> Ints:
    """The low and high half of this member's padded tag.

    A member without rows has nothing but zeros to tag. A half is at most the largest
    word of weight one, so halves add up within the words' own range.
    """
    if _offset(keys, kind, 1) < _HALF_MAX:
        raise BadRequest(
            "So many rows leave no room for a tag.",
            remedy="Order fewer rows.",
            code="headroom",
        )
    if not _weight(keys, kind, keys.me):
        return np.zeros(TAG_WORDS, dtype=np.int64)
    # t_i = sum_j r_j m_ij + s_i mod q (masks): without the pad s_i, as many tags as
    # words would give r away.
    bare_tag = masks.tag(keys.group_key, words, terms)
    pad = masks.tag_pad(keys.group_key, keys.me, terms)
    tag = (bare_tag + pad) % masks.TAG_MODULUS
    low = tag & _HALF_MAX
    high = tag >> _HALF_BITS
    return np.array([low, high], dtype=np.int64)


def _strip_tag(keys: SumKeys, tagged: Ints, kind: SumKind, terms: bytes) -> Ints:
    """The sums without the tag, once they fit it.

    sum_i t_i = sum_j r_j sum_i m_ij + sum_i s_i mod q
    """
    sums = tagged[:-TAG_WORDS]
    low, high = tagged[-TAG_WORDS:].tolist()
    found = (low + (high << _HALF_BITS)) % masks.TAG_MODULUS
    expected = masks.tag(keys.group_key, sums, terms)
    for member in keys.members:
        if _weight(keys, kind, member):
            expected += masks.tag_pad(keys.group_key, member, terms)
    expected %= masks.TAG_MODULUS
    # In constant time: how far a forged tag agrees is not shown to who measures.
    expected_bytes = expected.to_bytes(_TAG_BYTES, "big")
    found_bytes = found.to_bytes(_TAG_BYTES, "big")
    if not hmac.compare_digest(expected_bytes, found_bytes):
        raise packing.sum_mismatch()
    return sums.copy()


def _seal_paillier(keys: SumKeys, words: Ints, kind: SumKind, terms: bytes) -> bytes:
    """c = (1 + n (m + pair mask + group mask)) h^x mod n^2 for each plaintext m.

    A hospital runs it.
    """
    public = keys.public
    assert public is not None  # SumKeys refuses Paillier without it
    modulus = int(public.n)
    weight = _weight(keys, kind, keys.me)
    offset = _offset(keys, kind, weight)
    plaintexts = packing.pack(
        words, weight=weight, offset=offset, bits=paillier.key_bits(public)
    )
    # Under the encryption too (decision 9): the initiator has the private key, and must
    # not read one hospital's sum.
    pair_masks = masks.mask_modulo(
        keys.peers(), keys.me, modulus, len(plaintexts), terms
    )
    group_masks = masks.group_modulo(
        keys.group_key, keys.me, modulus, len(plaintexts), terms
    )
    masked = []
    for plaintext, pair_mask, group_mask in zip(
        plaintexts, pair_masks, group_masks, strict=True
    ):
        masked.append((plaintext + pair_mask + group_mask) % modulus)
    stock = keys.obfuscators
    if stock is None:
        stock = Obfuscators(public)
    ciphertexts = paillier.encrypt(public, masked, stock)
    return join_ciphertexts(ciphertexts, ciphertext_bytes(public))


def _seal_words(keys: SumKeys, words: Ints, kind: SumKind, terms: bytes) -> bytes:
    """Words and check words modulo 2^64; under Mask plus pair and group masks.

    A hospital runs it.
    """
    weight = _weight(keys, kind, keys.me)
    check_words = np.array([weight, 1], dtype=np.int64)
    sealed = np.append(words, check_words).view(np.uint64)
    if keys.method == "Mask":
        count = sealed.size
        pair_masks = masks.mask_words(keys.peers(), keys.me, count, terms)
        group_masks = masks.group_words(keys.group_key, keys.me, count, terms)
        sealed = sealed + pair_masks + group_masks  # wraps modulo 2^64
    return sealed.astype("<u8").tobytes()


def _open_paillier(
    keys: SumKeys,
    message: Payload,
    terms: bytes,
    private_key: PaillierPrivateKey | None,
) -> Ints:
    """The summed words and tag halves: Dec(c) less all group masks; pair masks cancel.

    The initiator runs it.
    """
    public = keys.public
    if public is None or private_key is None or private_key.public_key != public:
        raise ProtocolViolation(
            "The private key of this order is missing.", remedy="Open at the initiator."
        )
    modulus = int(public.n)
    ciphertexts = split_ciphertexts(message.body, ciphertext_bytes(public))
    plaintexts = paillier.decrypt(private_key, ciphertexts)
    for member in keys.members:
        group_masks = masks.group_modulo(
            keys.group_key, member, modulus, len(plaintexts), terms
        )
        pairs = zip(plaintexts, group_masks, strict=True)
        plaintexts = [
            (plaintext - group_mask) % modulus for plaintext, group_mask in pairs
        ]
    weight = _total_weight(keys, message.kind)
    offset = _offset(keys, message.kind, weight)
    n_words = message.d + TAG_WORDS
    return packing.unpack(
        plaintexts,
        n_words,
        weight=weight,
        offset=offset,
        bits=paillier.key_bits(public),
    )


def _open_words(keys: SumKeys, message: Payload, terms: bytes) -> Ints:
    """The same of Mask and None, once the check words are N (of counts K) and K."""
    words = words_of(message.body)
    if keys.method == "Mask":
        for member in keys.members:
            group_masks = masks.group_words(keys.group_key, member, words.size, terms)
            words = words - group_masks
    tagged = words[:-CHECK_WORDS].view(np.int64)
    found_checks = words[-CHECK_WORDS:].tolist()
    weight = _total_weight(keys, message.kind)
    expected_checks = [weight, len(keys.members)]
    limit = _offset(keys, message.kind, weight)
    is_beyond = (tagged > limit) | (tagged < -limit)
    if found_checks != expected_checks or is_beyond.any():
        raise packing.sum_mismatch()
    return tagged


def _weight(keys: SumKeys, kind: SumKind, member: int) -> int:
    """What a member's contribution counts for."""
    if kind is SumKind.MEAN:
        return int(keys.n_rows[member])
    return 1


def _total_weight(keys: SumKeys, kind: SumKind) -> int:
    return sum(_weight(keys, kind, member) for member in keys.members)


def _offset(keys: SumKeys, kind: SumKind, weight: int) -> int:
    """The largest word of that weight.

    n B 2^f for means, weight * (2^62 // K) for counts.
    """
    if kind is SumKind.MEAN:
        return keys.fixed_point.offset(weight)
    largest_count = _SUM_LIMIT // len(keys.members)
    return weight * largest_count


def _terms(keys: SumKeys, *, kind: SumKind, d: int, info: bytes) -> bytes:
    """SHA-256 over all that the members must agree on.

    Whoever differs in one has other masks and tags.
    """
    scale = struct.pack(">BBId", CODES[keys.method], kind, d, keys.bound)
    members = b""
    for member in keys.members:
        members += struct.pack(">QQ", member, keys.n_rows[member])
    public = b""
    if keys.public is not None:
        public = paillier.public_to_bytes(keys.public)
    digest = hashlib.sha256(_TERMS)
    # Each part after its length, so that no two lists of parts are the same bytes.
    for part in (scale, members, public, info):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def _bad_keys(sentence: str) -> ProtocolViolation:
    return ProtocolViolation(
        sentence, remedy="Set up the order again.", code="sum_keys"
    )
