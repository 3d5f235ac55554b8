"""One face for the three ways to add vectors of several hospitals: Paillier, Mask,
None.

    seal(keys, values, info)           at each hospital     value -> word (-> plaintext) -> masked (-> ciphertext)
    Adder(method, public).add, .total  at the coordinator   adds what it cannot read, as it comes
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

Of more than 64 members, pair masks may be with some of the others only (`mask_graph`).
A member that takes another graph than the rest makes noise of the sum, which its check
words and tag show.

What it is made of: `sum_keys` (what members agree on), `fixed_point` (values to words),
`masks` (masks and tags), `packing` and `paillier` (words to plaintexts to ciphertexts),
`payload` (bytes). Sums of joint statistics are `exact_sum`, not this.

Decisions 10, 136 and 144.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

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
from protocol.sums.paillier import Obfuscators
from protocol.sums.payload import (
    CHECK_WORDS,
    TAG_WORDS,
    BodySum,
    Payload,
    SumKind,
    ciphertext_bytes,
    join_ciphertexts,
    split_ciphertexts,
    words_of,
)
from protocol.sums.sum_keys import SumKeys

# Of a tag, which stands in two words.
_HALF_BITS = 32
_HALF_MAX = (1 << _HALF_BITS) - 1
_TAG_BYTES = 8


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
    fixed_point = keys.fixed_point
    encoded_words = fixed_point.encode(values, keys.own_rows())
    return _seal(
        keys,
        encoded_words,
        kind=SumKind.MEAN,
        info=info,
    )


def seal_counts(keys: SumKeys, counts: Ints, *, info: bytes) -> bytes:
    """A hospital's exact integers, with weight one and no scaling.

    For histograms and contingency tables. `counts` is int64 (d,), d >= 1, each |count|
    <= 2^62 // K for K members: BadRequest `bound_exceeded` beyond. Roles,
    pre-conditions, errors and disclosure as `seal`; `open_sum` gives the exact sums.
    """
    keys.own_rows()
    counts = np.asarray(counts)
    is_integer = counts.dtype.kind in "iu"
    if not is_integer or counts.ndim != 1:
        raise BadRequest(
            "Counts are not one flat vector of integers.",
            remedy="Round and flatten them.",
            code="shape",
        )
    limit = keys.largest_count
    too_large = (counts > limit) | (counts < -limit)
    if too_large.any():
        raise BadRequest(
            "A count is too large to add exactly.",
            remedy="Count fewer rows.",
            code="bound_exceeded",
        )
    count_words = counts.astype(np.int64)
    return _seal(
        keys,
        count_words,
        kind=SumKind.COUNTS,
        info=info,
    )


def add(
    method: EncryptMethod,
    payloads: Mapping[int, bytes],
    *,
    public: PaillierPublicKey | None = None,
) -> bytes:
    """The sum of contributions that are all there, still sealed; see `Adder`."""
    adder = Adder(method, public=public)
    for sender in sorted(payloads):
        payload = payloads[sender]
        adder.add(sender, payload)
    return adder.total()


class Adder:
    """Adds contributions one after another, as they come, and keeps none of them.

    The coordinator runs it. Paillier: products of ciphertexts modulo n^2 (`public` is
    needed); Mask and None: words modulo 2^64. Both are the same bits in whatever order
    the contributions come. Nothing is decoded but the headers. In memory it holds one
    contribution's size (Mask, None: 8 bytes a word), however many are added.
    """

    def __init__(
        self,
        method: EncryptMethod,
        *,
        public: PaillierPublicKey | None = None,
    ) -> None:
        self._method = method
        self._public = public
        # By sender, what its contribution is a sum of; all must have the same.
        self._shapes: dict[int, tuple[SumKind, int]] = {}
        self._sum: BodySum | None = None

    def add(self, sender: int, payload: bytes) -> None:
        """Adds one hospital's contribution, by its user id.

        ProtocolViolation `payload` when it is malformed, or there already.
        """
        with sent_by(sender):
            contribution = Payload.decode(payload, public=self._public)
            # A total that is added again would count some member twice, and so would a
            # second contribution.
            is_of_method = contribution.method == self._method
            is_single = contribution.n_members == 1
            if not is_of_method or not is_single or sender in self._shapes:
                raise other_version(
                    "payload",
                    "A payload is not a single contribution of this method.",
                )
        if self._sum is None:
            self._sum = BodySum(self._method, self._public)
        shape = (contribution.kind, contribution.d)
        shapes = iter(self._shapes.values())
        first_shape = next(shapes, shape)
        self._shapes[sender] = shape
        # Of another length than the first: `total` says whose, once all are known.
        if shape == first_shape:
            self._sum.add(contribution.body)

    def total(self) -> bytes:
        """The sum of all that was added, still sealed.

        ProtocolViolation `payload` when nothing was, or when shapes differ.
        """
        if self._sum is None:
            raise other_version("payload", "There are no contributions to add.")
        if named := who_differ(self._shapes):
            raise other_version(
                "payload",
                f"The contributions differ in kind or length: {listed(named)}.",
                hospitals=named,
            )
        shapes = iter(self._shapes.values())
        sum_kind, d = next(shapes)
        total_payload = Payload(
            method=self._method,
            kind=sum_kind,
            n_members=len(self._shapes),
            d=d,
            body=self._sum.encode(),
        )
        return total_payload.encode()


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
    total_payload = Payload.decode(total, public=keys.public)
    n_members = len(keys.members)
    if total_payload.method != keys.method or total_payload.n_members != n_members:
        raise other_version(
            "payload",
            "The total is of another method or of another number of members.",
        )
    terms = keys.terms(kind=total_payload.kind, d=total_payload.d, info=info)
    if keys.method == "Paillier":
        tagged = _open_paillier(keys, total_payload, terms, private_key)
    else:
        tagged = _open_words(keys, total_payload, terms)
    return _strip_tag(keys, tagged, total_payload.kind, terms)


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
            "A contribution is empty.",
            remedy="Send one value or more.",
            code="shape",
        )
    terms = keys.terms(kind=kind, d=words.size, info=info)
    tag_words = _tag_words(keys, words, kind, terms)
    tagged = np.append(words, tag_words)
    if keys.method == "Paillier":
        sealed_body = _seal_paillier(keys, tagged, kind, terms)
    else:
        sealed_body = _seal_words(keys, tagged, kind, terms)
    contribution = Payload(
        method=keys.method,
        kind=kind,
        n_members=1,
        d=words.size,
        body=sealed_body,
    )
    return contribution.encode()


def _tag_words(keys: SumKeys, words: Ints, kind: SumKind, terms: bytes) -> Ints:
    """The low and high half of this member's padded tag.

    A member without rows has nothing but zeros to tag. A half is at most the largest
    word of weight one, so halves add up within the words' own range.
    """
    if keys.offset(kind, 1) < _HALF_MAX:
        raise BadRequest(
            "So many rows leave no room for a tag.",
            remedy="Order fewer rows.",
            code="headroom",
        )
    if not keys.weight(kind, keys.me):
        return np.zeros(TAG_WORDS, dtype=np.int64)
    # t_i = sum_j r_j m_ij + s_i mod q (masks): without the pad s_i, as many tags as
    # words would give r away.
    bare_tag = masks.tag(keys.group_key, words, terms)
    pad = masks.tag_pad(keys.group_key, keys.me, terms)
    padded_tag = (bare_tag + pad) % masks.TAG_MODULUS
    low_half = padded_tag & _HALF_MAX
    high_half = padded_tag >> _HALF_BITS
    return np.array([low_half, high_half], dtype=np.int64)


def _strip_tag(keys: SumKeys, tagged: Ints, kind: SumKind, terms: bytes) -> Ints:
    """The sums without the tag, once they fit it.

    sum_i t_i = sum_j r_j sum_i m_ij + sum_i s_i mod q
    """
    sums = tagged[:-TAG_WORDS]
    tag_words = tagged[-TAG_WORDS:]
    low_half, high_half = tag_words.tolist()
    tag_sum = low_half + (high_half << _HALF_BITS)
    found_tag = tag_sum % masks.TAG_MODULUS
    expected_tag = masks.tag(keys.group_key, sums, terms)
    for member in keys.members:
        if keys.weight(kind, member):
            expected_tag += masks.tag_pad(keys.group_key, member, terms)
    expected_tag %= masks.TAG_MODULUS
    # In constant time: how far a forged tag agrees is not shown to who measures.
    expected_bytes = expected_tag.to_bytes(_TAG_BYTES, "big")
    found_bytes = found_tag.to_bytes(_TAG_BYTES, "big")
    if not hmac.compare_digest(expected_bytes, found_bytes):
        raise packing.sum_mismatch()
    return sums.copy()


def _seal_paillier(keys: SumKeys, words: Ints, kind: SumKind, terms: bytes) -> bytes:
    """c = (1 + n (m + pair mask + group mask)) h^x mod n^2 for each plaintext m.

    A hospital runs it.
    """
    public = keys.public
    # SumKeys refuses Paillier without it.
    assert public is not None
    modulus = int(public.n)
    weight = keys.weight(kind, keys.me)
    offset = keys.offset(kind, weight)
    plaintexts = packing.pack(
        words,
        weight=weight,
        offset=offset,
        bits=paillier.key_bits(public),
    )
    # Under the encryption too (decision 9): the initiator has the private key, and must
    # not read one hospital's sum.
    n_plaintexts = len(plaintexts)
    pair_masks = masks.mask_modulo(
        keys.peers(),
        keys.me,
        modulus,
        n_plaintexts,
        terms,
    )
    group_masks = masks.group_modulo(
        keys.group_key,
        keys.me,
        modulus,
        n_plaintexts,
        terms,
    )
    masked = []
    summands = zip(plaintexts, pair_masks, group_masks, strict=True)
    for plaintext, pair_mask, group_mask in summands:
        number = plaintext + pair_mask + group_mask
        masked.append(number % modulus)
    stock = keys.obfuscators
    if stock is None:
        stock = Obfuscators(public)
    ciphertexts = paillier.encrypt(public, masked, stock)
    return join_ciphertexts(ciphertexts, ciphertext_bytes(public))


def _seal_words(keys: SumKeys, words: Ints, kind: SumKind, terms: bytes) -> bytes:
    """Words and check words modulo 2^64; under Mask plus pair and group masks.

    A hospital runs it.
    """
    weight = keys.weight(kind, keys.me)
    check_words = np.array([weight, 1], dtype=np.int64)
    checked = np.append(words, check_words)
    sealed = checked.view(np.uint64)
    if keys.method == "Mask":
        n_words = sealed.size
        # In place, one after the other: of large models each vector counts. Both wrap
        # modulo 2^64.
        sealed += masks.mask_words(
            keys.peers(),
            keys.me,
            n_words,
            terms,
        )
        sealed += masks.group_words(
            keys.group_key,
            keys.me,
            n_words,
            terms,
        )
    little = sealed.astype("<u8", copy=False)
    return little.tobytes()


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
            "The private key of this order is missing.",
            remedy="Open at the initiator.",
        )
    modulus = int(public.n)
    ciphertexts = split_ciphertexts(message.body, ciphertext_bytes(public))
    plaintexts = paillier.decrypt(private_key, ciphertexts)
    for member in keys.members:
        group_masks = masks.group_modulo(
            keys.group_key,
            member,
            modulus,
            len(plaintexts),
            terms,
        )
        unmasked = []
        for plaintext, group_mask in zip(plaintexts, group_masks, strict=True):
            number = plaintext - group_mask
            unmasked.append(number % modulus)
        plaintexts = unmasked
    weight = keys.total_weight(message.kind)
    offset = keys.offset(message.kind, weight)
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
    summed_words = words_of(message.body).copy()
    if keys.method == "Mask":
        for member in keys.members:
            summed_words -= masks.group_words(
                keys.group_key,
                member,
                summed_words.size,
                terms,
            )
    tagged = summed_words[:-CHECK_WORDS].view(np.int64)
    check_words = summed_words[-CHECK_WORDS:]
    found_checks = check_words.tolist()
    weight = keys.total_weight(message.kind)
    expected_checks = [weight, len(keys.members)]
    limit = keys.offset(message.kind, weight)
    is_beyond = (tagged > limit) | (tagged < -limit)
    if found_checks != expected_checks or is_beyond.any():
        raise packing.sum_mismatch()
    return tagged
