"""Secure sums: the three methods give the plain sum, and whatever is not exactly that
sum is refused.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from phe.paillier import PaillierPrivateKey

from protocol.errors import BadRequest, ConsiliumError, ProtocolViolation
from protocol.sums import EncryptMethod as Method
from protocol.sums import masks, packing, paillier, secure_sum
from protocol.sums.paillier import Obfuscators
from protocol.sums.payload import SumKind
from protocol.sums.sum_keys import SumKeys
from tests.examples import few

METHODS: list[Method] = ["Paillier", "Mask", "None"]
INFO = b"train fold 0 round 3 attempt 0"
ROWS = {2: 40, 3: 7, 5: 1000}
HEADER = 14


@cache
def private(bits: int) -> PaillierPrivateKey:
    return paillier._generate_keys(bits, secrets.token_bytes)


def keys_of(
    method: Method, rows: dict[int, int], *, bits: int = 512, bound: float = 8.0
) -> dict[int, SumKeys]:
    """The keys of every hospital of an order."""
    public = private(bits).public_key if method == "Paillier" else None
    stock = Obfuscators(public) if public else None
    return {
        me: SumKeys(
            method=method,
            me=me,
            members=tuple(sorted(rows)),
            n_rows=rows,
            pair_keys={peer: _pair_key(me, peer) for peer in rows if peer != me},
            group_key=hashlib.sha256(b"order secret").digest(),
            bound=bound,
            public=public,
            obfuscators=stock,
        )
        for me in rows
    }


def _pair_key(a: int, b: int) -> bytes:
    return hashlib.sha256(bytes(sorted((a, b)))).digest()


def vectors(
    rows: dict[int, int], d: int, seed: int = 0
) -> dict[int, NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    return {me: random.uniform(-8, 8, d) for me in rows}


def total_of(keys: dict[int, SumKeys], d: int = 9, info: bytes = INFO) -> bytes:
    values = vectors(dict(next(iter(keys.values())).n_rows), d)
    return add_up(
        keys, {me: secure_sum.seal(keys[me], values[me], info=info) for me in keys}
    )


def add_up(keys: dict[int, SumKeys], payloads: dict[int, bytes]) -> bytes:
    any_keys = next(iter(keys.values()))
    return secure_sum.add(any_keys.method, payloads, public=any_keys.public)


def open_total(keys: SumKeys, total: bytes, info: bytes = INFO) -> NDArray[np.int64]:
    bits = paillier.key_bits(keys.public) if keys.public else 512
    return secure_sum.open_sum(keys, total, info=info, private_key=private(bits))


def assert_refused(action: Callable[[], object], code: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        action()
    assert caught.value.code == code


# Joint equals plain
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@few
@given(
    rows=st.dictionaries(
        st.integers(0, 99), st.integers(0, 500), min_size=1, max_size=5
    ).filter(lambda rows: sum(rows.values()) > 0),
    d=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_sum_equals_the_plain_sum(
    method: Method, rows: dict[int, int], d: int, seed: int
) -> None:
    keys, values = keys_of(method, rows), vectors(rows, d, seed)
    opener = next(iter(keys.values()))
    plain = sum(
        opener.fixed_point.encode(values[me], n).astype(object)
        for me, n in rows.items()
    )
    total = add_up(
        keys, {me: secure_sum.seal(keys[me], values[me], info=INFO) for me in rows}
    )
    sums = open_total(opener, total)
    assert sums.dtype == np.int64
    assert sums.tolist() == list(plain)
    weights = list(rows.values())
    expected = np.average([values[me] for me in rows], axis=0, weights=weights)
    np.testing.assert_allclose(secure_sum.mean(opener, sums), expected, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_members", [1, 2, 3, 5])
def test_counts_add_exactly_up_to_their_limit(method: Method, n_members: int) -> None:
    rows = dict.fromkeys(range(1, n_members + 1), 100)
    limit = 2**62 // n_members
    keys = keys_of(method, rows)
    counts = np.array([0, 1, -1, limit, -limit])
    total = add_up(
        keys, {me: secure_sum.seal_counts(keys[me], counts, info=INFO) for me in rows}
    )
    assert open_total(keys[1], total).tolist() == (counts * n_members).tolist()
    for beyond in (limit + 1, -limit - 1):
        with pytest.raises(BadRequest, match="too large"):
            secure_sum.seal_counts(keys[1], np.array([beyond]), info=INFO)


def test_a_real_key_carries_31_words_to_a_ciphertext_two_of_all_for_the_tag() -> None:
    keys = keys_of("Paillier", {1: 10, 2: 20}, bits=2048)
    assert len(secure_sum.seal(keys[1], np.zeros(61), info=INFO)) == HEADER + 3 * 512
    values = vectors({1: 10, 2: 20}, 60)
    payloads = {me: secure_sum.seal(keys[me], values[me], info=INFO) for me in keys}
    assert {len(payload) for payload in payloads.values()} == {HEADER + 2 * 512}
    mean = secure_sum.mean(keys[1], open_total(keys[1], add_up(keys, payloads)))
    np.testing.assert_allclose(mean, (values[1] + 2 * values[2]) / 3, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_largest_values_of_all_hospitals_do_not_wrap(method: Method) -> None:
    keys = keys_of(method, ROWS)
    values = np.array([8.0, -8.0])
    total = add_up(
        keys, {me: secure_sum.seal(keys[me], values, info=INFO) for me in ROWS}
    )
    assert secure_sum.mean(keys[2], open_total(keys[2], total)).tolist() == [8.0, -8.0]


def test_an_initiator_outside_the_sum_can_open_but_not_seal() -> None:
    keys = keys_of("Mask", ROWS)
    outsider = replace(keys[2], me=9, pair_keys={})
    assert open_total(outsider, total_of(keys)).size == 9
    assert_refused(
        lambda: secure_sum.seal(outsider, np.zeros(1), info=INFO), "sum_keys"
    )
    assert_refused(
        lambda: secure_sum.seal_counts(outsider, np.zeros(1, int), info=INFO),
        "sum_keys",
    )


# What is not the sum of all members is refused
# ----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "change",
    [
        {"n_rows": {2: 41, 3: 6, 5: 1000}},
        {"bound": 4.0},
        {"members": (2, 3, 6), "n_rows": {2: 40, 3: 7, 6: 1000}},
        {"group_key": bytes(32)},
    ],
)
def test_other_terms_at_the_opener_are_refused(
    method: Method, change: dict[str, object]
) -> None:
    keys = keys_of(method, ROWS)
    total = total_of(keys)
    assert_refused(
        lambda: open_total(replace(keys[2], **change), total), "sum_mismatch"
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("info", [b"", INFO + b" ", b"train fold 0 round 2 attempt 0"])
def test_a_total_of_another_round_is_refused(method: Method, info: bytes) -> None:
    keys = keys_of(method, ROWS)
    assert_refused(
        lambda: open_total(keys[2], total_of(keys, info=info)), "sum_mismatch"
    )


@pytest.mark.parametrize("method", METHODS)
def test_one_hospital_with_another_member_list_spoils_the_sum(method: Method) -> None:
    keys = keys_of(method, ROWS)
    keys[3] = replace(keys[3], n_rows={2: 40, 3: 7, 5: 999})
    assert_refused(lambda: open_total(keys[2], total_of(keys)), "sum_mismatch")


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_hospital_is_refused(method: Method) -> None:
    keys, values = keys_of(method, ROWS), vectors(ROWS, 9)
    payloads = {me: secure_sum.seal(keys[me], values[me], info=INFO) for me in (2, 3)}
    total = add_up(keys, payloads)
    assert_refused(lambda: open_total(keys[2], total), "payload")
    forged = (
        total[:5] + b"\x03" + total[6:]
    )  # the header says three members all the same
    assert_refused(lambda: open_total(keys[2], forged), "sum_mismatch")


@pytest.mark.parametrize("method", METHODS)
def test_a_hospital_counted_twice_for_another_is_refused(method: Method) -> None:
    keys, values = keys_of(method, ROWS), vectors(ROWS, 9)
    payloads = {me: secure_sum.seal(keys[me], values[me], info=INFO) for me in ROWS}
    payloads[3] = payloads[2]
    assert_refused(lambda: open_total(keys[2], add_up(keys, payloads)), "sum_mismatch")


@pytest.mark.parametrize("method", METHODS)
def test_counts_are_not_opened_as_means(method: Method) -> None:
    keys = keys_of(
        method, dict.fromkeys(ROWS, 1)
    )  # one row each: the weights are the same in both kinds
    counts = np.arange(9)
    total = add_up(
        keys, {me: secure_sum.seal_counts(keys[me], counts, info=INFO) for me in ROWS}
    )
    forged = total[:2] + b"\x01" + total[3:]
    assert_refused(lambda: open_total(keys[2], forged), "sum_mismatch")


@pytest.mark.parametrize("method", METHODS)
def test_a_flipped_byte_of_the_header_is_refused(method: Method) -> None:
    keys = keys_of(method, ROWS)
    total = total_of(keys)
    for i in (0, 1, 3, 4, 5, 6, 9, 10, 13):
        flipped = total[:i] + bytes([total[i] ^ 0x40]) + total[i + 1 :]
        assert_refused(lambda flipped=flipped: open_total(keys[2], flipped), "payload")


def test_a_flipped_byte_of_a_ciphertext_is_refused() -> None:
    keys = keys_of("Paillier", ROWS)
    total = total_of(keys)
    for i in range(HEADER + 10, len(total), 37):
        flipped = total[:i] + bytes([total[i] ^ 1]) + total[i + 1 :]
        with pytest.raises(ProtocolViolation):
            open_total(keys[2], flipped)


@pytest.mark.parametrize("method", ["Mask", "None"])
def test_a_flipped_byte_of_a_check_word_is_refused(method: Method) -> None:
    keys = keys_of(method, ROWS)
    total = total_of(keys)
    for i in range(len(total) - 16, len(total)):
        flipped = total[:i] + bytes([total[i] ^ 1]) + total[i + 1 :]
        assert_refused(
            lambda flipped=flipped: open_total(keys[2], flipped), "sum_mismatch"
        )


def test_a_word_out_of_range_is_refused() -> None:
    keys = keys_of("None", ROWS)
    total = total_of(keys)
    flipped = total[: HEADER + 7] + b"\x7f" + total[HEADER + 8 :]
    assert_refused(lambda: open_total(keys[2], flipped), "sum_mismatch")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [0, 1, HEADER - 1, HEADER, -1])
def test_a_truncated_payload_is_refused(method: Method, length: int) -> None:
    keys = keys_of(method, ROWS)
    payload = secure_sum.seal(keys[2], np.zeros(3), info=INFO)
    assert_refused(lambda: add_up(keys, {2: payload[:length]}), "payload")
    assert_refused(lambda: add_up(keys, {2: payload + b"\0"}), "payload")


def test_contributions_of_different_shape_are_refused() -> None:
    keys = keys_of("Mask", ROWS)
    short, long = (secure_sum.seal(keys[2], np.zeros(d), info=INFO) for d in (3, 4))
    assert_refused(lambda: add_up(keys, {2: short, 3: long}), "payload")
    assert_refused(lambda: add_up(keys, {}), "payload")
    assert_refused(lambda: secure_sum.add("None", {2: short}), "payload")
    assert_refused(lambda: secure_sum.add("Mask", {2: total_of(keys)}), "payload")


def test_paillier_needs_its_keys() -> None:
    keys = keys_of("Paillier", ROWS)
    total = total_of(keys)
    assert_refused(
        lambda: secure_sum.add(
            "Paillier", {2: secure_sum.seal(keys[2], np.zeros(1), info=INFO)}
        ),
        "payload",
    )
    for wrong in (None, private(256)):
        with pytest.raises(ProtocolViolation, match="private key"):
            secure_sum.open_sum(keys[2], total, info=INFO, private_key=wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "Rot13"},
        {"members": ()},
        {"members": (3, 2, 5)},
        {"members": (2, 3)},
        {"n_rows": {2: 1, 3: -1, 5: 1}},
        {"group_key": b""},
        {"method": "Paillier"},
    ],
)
def test_keys_that_do_not_fit_together_are_refused(change: dict[str, object]) -> None:
    assert_refused(lambda: replace(keys_of("Mask", ROWS)[2], **change), "sum_keys")


def test_a_missing_pair_key_is_refused() -> None:
    keys = replace(keys_of("Mask", ROWS)[2], pair_keys={3: bytes(32)})
    assert_refused(lambda: secure_sum.seal(keys, np.zeros(1), info=INFO), "sum_keys")


@pytest.mark.parametrize(
    "values", [np.zeros(0), np.zeros((2, 2)), np.array([np.nan]), np.array([8.1])]
)
def test_a_vector_that_cannot_be_sealed_is_refused(values: NDArray[np.float64]) -> None:
    with pytest.raises(BadRequest):
        secure_sum.seal(keys_of("Mask", ROWS)[2], values, info=INFO)


def test_counts_must_be_integers() -> None:
    with pytest.raises(BadRequest, match="integers"):
        secure_sum.seal_counts(keys_of("Mask", ROWS)[2], np.zeros(3), info=INFO)


# An altered total is refused
# -----------------------------------------------------------------------------------

D = 9
TAG_LOW, TAG_HIGH = D, D + 1


def shifted(keys: dict[int, SumKeys], total: bytes, deltas: dict[int, int]) -> bytes:
    """What the coordinator can do to a total it cannot read: add numbers to words of
    its choice.
    """
    any_keys = next(iter(keys.values()))
    if any_keys.method == "Paillier":
        return _shifted_slots(any_keys, total, deltas)
    words = np.frombuffer(total[HEADER:], dtype="<u8")
    added = np.array([deltas.get(i, 0) % 2**64 for i in range(words.size)], dtype="<u8")
    return total[:HEADER] + (words + added).tobytes()


def _shifted_slots(keys: SumKeys, total: bytes, deltas: dict[int, int]) -> bytes:
    """The product with fresh encryptions of the deltas, each in its slot."""
    public = keys.public
    assert public is not None
    width, bits = paillier.key_bits(public) // 4, paillier.key_bits(public)
    sealed = [
        int.from_bytes(total[i : i + width], "big")
        for i in range(HEADER, len(total), width)
    ]
    plain = [0] * len(sealed)
    for position, delta in deltas.items():
        number, slot = divmod(position, packing.slots_per_plaintext(bits))
        plain[number] = (plain[number] + (delta << 64 * slot)) % public.n
    product = paillier.add(
        public, [sealed, paillier.encrypt(public, plain, Obfuscators(public))]
    )
    return total[:HEADER] + b"".join(
        number.to_bytes(width, "big") for number in product
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("position", [0, 4, D - 1, TAG_LOW, TAG_HIGH])
@pytest.mark.parametrize("delta", [1, -1, 2**32, -(2**32), 2**61 - 1, 1 - 2**61])
def test_a_number_added_to_one_word_is_refused(
    method: Method, position: int, delta: int
) -> None:
    keys = keys_of(method, ROWS)
    assert_refused(
        lambda: open_total(keys[2], shifted(keys, total_of(keys), {position: delta})),
        "sum_mismatch",
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("position", [0, 4, D - 1])
def test_a_number_added_to_a_count_is_refused(method: Method, position: int) -> None:
    keys = keys_of(method, ROWS)
    total = add_up(
        keys,
        {me: secure_sum.seal_counts(keys[me], np.arange(D), info=INFO) for me in ROWS},
    )
    assert open_total(keys[2], shifted(keys, total, {})).tolist() == [
        3 * i for i in range(D)
    ]
    for delta in (1, -1, 2**61 - 1, 2**31 - 1):
        forged = shifted(keys, total, {position: delta})
        assert_refused(
            lambda forged=forged: open_total(keys[2], forged), "sum_mismatch"
        )


@pytest.mark.parametrize("method", METHODS)
@few
@given(
    deltas=st.dictionaries(
        st.integers(0, D - 1),
        st.integers(-(2**63), 2**63).filter(bool),
        min_size=1,
        max_size=D,
    ),
    tag_delta=st.integers(-(2**63), 2**63),
)
def test_any_shift_of_values_is_refused_whatever_is_added_to_the_tag(
    method: Method, deltas: dict[int, int], tag_delta: int
) -> None:
    keys = keys_of(method, ROWS)
    high, low = divmod(tag_delta, 2**32)
    forged = shifted(keys, total_of(keys), {**deltas, TAG_LOW: low, TAG_HIGH: high})
    assert_refused(lambda: open_total(keys[2], forged), "sum_mismatch")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "deltas", [{0: 5, 1: -5}, {0: 1, TAG_LOW: 1}, {3: -7, TAG_HIGH: 7}]
)
def test_two_words_altered_against_each_other_are_refused(
    method: Method, deltas: dict[int, int]
) -> None:
    keys = keys_of(method, ROWS)
    assert_refused(
        lambda: open_total(keys[2], shifted(keys, total_of(keys), deltas)),
        "sum_mismatch",
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("a", "b"), [(0, 1), (2, D - 1), (TAG_LOW, TAG_HIGH)])
def test_two_words_swapped_are_refused(method: Method, a: int, b: int) -> None:
    """Even by a coordinator that guessed their difference."""
    keys, values = keys_of(method, ROWS), vectors(ROWS, D)
    clear = secure_sum.add("None", {me: _clear(keys[me], values[me]) for me in ROWS})
    words = np.frombuffer(clear[HEADER:], dtype="<i8").tolist()
    total = clear if method == "None" else total_of(keys)
    deltas = {a: words[b] - words[a], b: words[a] - words[b]}
    if method != "None" and TAG_LOW in (
        a,
        b,
    ):  # the tags of the clear sum are others: any difference will do
        deltas = {a: 12345, b: -12345}
    assert_refused(
        lambda: open_total(keys[2], shifted(keys, total, deltas)), "sum_mismatch"
    )


def _clear(keys: SumKeys, values: NDArray[np.float64]) -> bytes:
    return secure_sum.seal(
        replace(keys, method="None", public=None, obfuscators=None), values, info=INFO
    )


def test_two_ciphertexts_swapped_are_refused() -> None:
    keys = keys_of("Paillier", ROWS)
    total = total_of(keys, d=14)
    swapped = (
        total[:HEADER]
        + total[HEADER + 128 : HEADER + 256]
        + total[HEADER : HEADER + 128]
        + total[HEADER + 256 :]
    )
    assert_refused(lambda: open_total(keys[2], swapped), "sum_mismatch")


def test_a_masked_total_with_two_words_exchanged_is_refused() -> None:
    keys = keys_of("Mask", ROWS)
    total = total_of(keys)
    swapped = (
        total[:HEADER]
        + total[HEADER + 8 : HEADER + 16]
        + total[HEADER : HEADER + 8]
        + total[HEADER + 16 :]
    )
    assert_refused(lambda: open_total(keys[2], swapped), "sum_mismatch")


@pytest.mark.parametrize(
    "factors", [(2, 0, 1), (0, 0, 2), (2, 2, 2), (-1, 1, 1), (0, 0, 0)]
)
def test_another_combination_of_clear_contributions_is_refused(
    factors: tuple[int, int, int],
) -> None:
    """Method None shows words and tags; check words are set at will. Without the pad
    the tags would combine as well.
    """
    keys, values = keys_of("None", ROWS), vectors(ROWS, D)
    bodies = [
        np.frombuffer(
            secure_sum.seal(keys[me], values[me] / 4, info=INFO)[HEADER:], dtype="<i8"
        )
        for me in ROWS
    ]
    combined = sum(factor * body for factor, body in zip(factors, bodies, strict=True))
    combined[-2:] = [sum(ROWS.values()), len(ROWS)]
    header = total_of(keys)[:HEADER]
    assert_refused(
        lambda: open_total(keys[2], header + combined.astype("<i8").tobytes()),
        "sum_mismatch",
    )


def test_a_single_clear_value_does_not_give_the_factors_away() -> None:
    """With bare tags, a word of one would show r: here three hospitals' tags look
    unrelated.
    """
    keys = keys_of("None", dict.fromkeys(ROWS, 1))
    tags = set()
    for me in ROWS:
        words = np.frombuffer(
            secure_sum.seal_counts(keys[me], np.array([1]), info=INFO)[HEADER:],
            dtype="<i8",
        )
        tags.add(int(words[1]) + (int(words[2]) << 32))
    assert len(tags) == 3


@pytest.mark.parametrize("method", METHODS)
def test_a_hospital_without_rows_takes_part(method: Method) -> None:
    keys = keys_of(method, {1: 0, 2: 3})
    total = add_up(
        keys, {me: secure_sum.seal(keys[me], np.array([2.5]), info=INFO) for me in keys}
    )
    assert secure_sum.mean(keys[1], open_total(keys[1], total)).tolist() == [2.5]
    assert_refused(
        lambda: open_total(keys[1], shifted(keys, total, {0: 1})), "sum_mismatch"
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_rows", [2**29 - 1, 2**29])
def test_tags_fit_up_to_half_a_billion_rows(method: Method, n_rows: int) -> None:
    keys = keys_of(method, {1: 1, 2: n_rows - 1}, bound=1.0)
    values = np.array([1.0, -1.0])
    for info in (bytes([i]) for i in range(10)):  # ten tags, high and low halves
        total = add_up(
            keys, {me: secure_sum.seal(keys[me], values, info=info) for me in keys}
        )
        assert secure_sum.mean(keys[1], open_total(keys[1], total, info)).tolist() == [
            1.0,
            -1.0,
        ]


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_leave_no_room_for_a_tag_are_refused(method: Method) -> None:
    keys = keys_of(method, {1: 1, 2: 2**30}, bound=1.0)
    for me in keys:  # all of them, also those whose own words are large enough
        with pytest.raises(BadRequest) as caught:
            secure_sum.seal(keys[me], np.zeros(1), info=INFO)
        assert caught.value.code == "headroom"
    assert secure_sum.seal_counts(keys[1], np.zeros(1, int), info=INFO)


@pytest.mark.parametrize("kind", list(SumKind))
@pytest.mark.parametrize(
    "rows", [{1: 2**20}, {1: 3, 2: 4}, dict.fromkeys(range(1, 8), 1)]
)
def test_the_modulus_exceeds_every_difference_of_two_sums(
    kind: SumKind, rows: dict[int, int]
) -> None:
    keys = keys_of("Mask", rows)[1]
    assert 2 * keys.offset(kind, keys.total_weight(kind)) < masks.TAG_MODULUS


# What leaves a hospital is noise
# ------------------------------------------------------------------------------


def bits_of(data: bytes) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8))


def test_one_ciphertext_opened_with_the_private_key_is_noise() -> None:
    """The initiator has the private key and the order secret, and still sees one
    hospital's plaintext masked.
    """
    keys, n = keys_of("Paillier", ROWS), private(512).public_key.n
    payload = secure_sum.seal(keys[3], np.zeros(7 * 200), info=INFO)
    body = payload[HEADER:]
    plain = paillier.decrypt(
        private(512),
        [int.from_bytes(body[i : i + 128], "big") for i in range(0, len(body), 128)],
    )
    terms = keys[3].terms(kind=SumKind.MEAN, d=1400, info=INFO)
    group = secure_sum.masks.group_modulo(keys[3].group_key, 3, n, len(plain), terms)
    assert len(plain) == 201
    for numbers in (plain, [(m - g) % n for m, g in zip(plain, group, strict=True)]):
        tenths = np.bincount([10 * m // n for m in numbers], minlength=10)
        assert tenths.max() < 45  # 200 plaintexts, 20 to a tenth
        low_bytes = b"".join((m % 2**448).to_bytes(56, "little") for m in numbers)
        assert abs(bits_of(low_bytes).mean() - 0.5) < 0.01


def test_masked_words_are_noise() -> None:
    keys = keys_of("Mask", ROWS)
    payload = secure_sum.seal(keys[3], np.zeros(10_000), info=INFO)
    assert abs(bits_of(payload[HEADER:]).mean() - 0.5) < 0.005


def test_the_coordinators_total_is_noise_too_under_masks() -> None:
    assert (
        abs(bits_of(total_of(keys_of("Mask", ROWS), d=10_000)[HEADER:]).mean() - 0.5)
        < 0.005
    )


def test_rounds_do_not_share_their_masks() -> None:
    keys = keys_of("Mask", ROWS)[3]
    payloads = {secure_sum.seal(keys, np.zeros(4), info=bytes([i])) for i in range(20)}
    counts = {
        secure_sum.seal_counts(keys, np.zeros(4, int), info=bytes([i]))
        for i in range(20)
    }
    assert len({payload[HEADER:] for payload in payloads | counts}) == 40


def test_keys_do_not_show_in_their_text() -> None:
    text = repr(keys_of("Mask", ROWS)[3])
    assert "pair_keys" not in text
    assert "group_key" not in text


def test_no_error_holds_a_value() -> None:
    keys = keys_of("Mask", ROWS)[3]
    with pytest.raises(ConsiliumError) as caught:
        secure_sum.seal(keys, np.array([0.0, 1234.5678]), info=INFO)
    assert "1234" not in str(caught.value.to_json())
