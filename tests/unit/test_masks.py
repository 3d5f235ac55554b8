"""Masks: they cancel over all members, they differ wherever anything differs, they look
uniform. Tags are linear.
"""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable

import gmpy2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocol.errors import ProtocolViolation
from protocol.sums.masks import (
    GROUP_WORDS,
    PAIR_WORDS,
    TAG_FACTORS,
    TAG_MODULUS,
    Stream,
    _inner_product,
    group_modulo,
    group_words,
    mask_modulo,
    mask_words,
    tag,
    tag_pad,
)

MODULUS = (1 << 255) - 19
MANY = 1_000_000


def key_of(*ids: int) -> bytes:
    return hashlib.sha256(repr(sorted(ids)).encode()).digest()


def pair_keys(me: int, members: range) -> dict[int, bytes]:
    return {peer: key_of(me, peer) for peer in members if peer != me}


@pytest.mark.parametrize("n_members", [1, 2, 3, 5])
@given(info=st.binary(max_size=40), count=st.integers(0, 6))
def test_masks_cancel_over_all_members(n_members: int, info: bytes, count: int) -> None:
    members = range(3, 3 + n_members)
    words = sum(
        (mask_words(pair_keys(m, members), m, count, info) for m in members),
        np.zeros(count, dtype=np.uint64),
    )
    assert not words.any()
    columns = [
        mask_modulo(pair_keys(m, members), m, MODULUS, count, info) for m in members
    ]
    assert [sum(column) % MODULUS for column in zip(*columns, strict=True)] == [
        0
    ] * count


def test_masks_do_not_cancel_when_a_member_is_missing() -> None:
    members = range(3)
    assert sum(mask_words(pair_keys(m, members), m, 4, b"i") for m in (0, 1)).all()


def test_a_lone_hospital_has_no_pair_mask() -> None:
    assert mask_modulo({}, 1, MODULUS, 2, b"") == [0, 0]


def test_every_input_changes_the_mask() -> None:
    streams = [
        mask_words({2: key_of(1)}, 1, 4, b"a"),
        mask_words({2: key_of(2)}, 1, 4, b"a"),
        mask_words({2: key_of(1)}, 1, 4, b"b"),
        mask_words({2: key_of(1)}, 3, 4, b"a"),
        group_words(key_of(1), 1, 4, b"a"),
        group_words(key_of(1), 2, 4, b"a"),
        group_words(key_of(1), 1, 4, b"b"),
    ]
    assert len({stream.tobytes() for stream in streams}) == len(streams)


def test_a_longer_mask_begins_with_the_shorter() -> None:
    assert (
        group_words(key_of(1), 1, 9, b"")[:4].tolist()
        == group_words(key_of(1), 1, 4, b"").tolist()
    )


def test_masks_modulo_are_in_range_and_spread_evenly() -> None:
    modulus = (
        3 << 200
    )  # far from a power of two: the plain stream modulo 2^202 would be lopsided
    values = mask_modulo({2: key_of(1)}, 1, modulus, 3000, b"") + group_modulo(
        key_of(1), 1, modulus, 3000, b""
    )
    thirds = np.bincount([value // (1 << 200) for value in values], minlength=3)
    assert thirds.size == 3
    assert abs(thirds - 2000).max() < 150


def test_words_are_uint64_and_spread_evenly() -> None:
    words = mask_words({2: key_of(1)}, 1, 20_000, b"")
    assert words.dtype == np.uint64
    ones = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 0.005


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="32 bytes"):
        mask_words({2: bytes(length)}, 1, 1, b"")


def test_a_pair_key_with_oneself_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="itself"):
        mask_modulo({1: bytes(32)}, 1, MODULUS, 1, b"")


# Tags

WORDS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(
    [0, 1, -1, 2**62, -(2**62), 2**63 - 1, -(2**63), 2**16 - 1]
)
FACTORS = st.integers(0, 2**64 - 1) | st.sampled_from(
    [0, 1, 2**64 - 1, TAG_MODULUS, 2**48 - 1]
)


def test_the_tags_modulus_is_a_prime_beyond_every_difference_of_two_sums() -> None:
    assert gmpy2.is_prime(TAG_MODULUS, 40)
    assert 2 * 2**62 < TAG_MODULUS < 2**64


@given(st.lists(st.tuples(WORDS, FACTORS), max_size=40))
def test_the_inner_product_is_that_of_pythons_integers(
    pairs: list[tuple[int, int]],
) -> None:
    words = np.array([word for word, _ in pairs], dtype=np.int64)
    factors = np.array([factor for _, factor in pairs], dtype=np.uint64)
    assert _inner_product(words, factors) == sum(
        word * factor for word, factor in pairs
    )


@pytest.mark.parametrize("extreme", [2**62, -(2**62), 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("d", [2**14 - 1, 2**14, 2**14 + 1, 3 * 2**14 + 5])
def test_no_extreme_overflows_over_several_chunks(extreme: int, d: int) -> None:
    words = np.full(2 * d, extreme, dtype=np.int64)[::2]  # not contiguous either
    assert _inner_product(
        words, np.full(d, 2**64 - 1, dtype=np.uint64)
    ) == d * extreme * (2**64 - 1)


@given(
    rows=st.lists(
        st.tuples(*3 * [st.integers(-(2**60), 2**60)]), min_size=1, max_size=6
    ).map(np.array),
    info=st.binary(max_size=20),
)
def test_tags_add_up_to_the_tag_of_the_sum(
    rows: NDArray[np.int64], info: bytes
) -> None:
    contributions = rows.T
    tags = sum(tag(key_of(1), words, info) for words in contributions)
    assert tags % TAG_MODULUS == tag(key_of(1), contributions.sum(axis=0), info)


def test_every_input_changes_tag_and_pad() -> None:
    words = np.array([1, 2, 3])
    tags = [
        tag(key_of(1), words, b"a"),
        tag(key_of(2), words, b"a"),
        tag(key_of(1), words, b"b"),
        tag(key_of(1), words[::-1], b"a"),
        tag_pad(key_of(1), 1, b"a"),
        tag_pad(key_of(2), 1, b"a"),
        tag_pad(key_of(1), 2, b"a"),
        tag_pad(key_of(1), 1, b"b"),
    ]
    assert len(set(tags)) == len(tags)
    assert all(0 <= number < TAG_MODULUS for number in tags)


def test_factors_are_no_mask() -> None:
    """Another label, so that neither shows the other."""
    assert (
        tag(key_of(1), np.array([1]), bytes(8))
        != int(group_words(key_of(1), 0, 1, b"")[0]) % TAG_MODULUS
    )
    assert tag(key_of(1), np.array([1]), bytes(8)) != tag_pad(key_of(1), 0, b"")


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_tag_key_of_another_length_is_refused(length: int) -> None:
    for action in (
        lambda: tag(bytes(length), np.array([1]), b""),
        lambda: tag_pad(bytes(length), 1, b""),
    ):
        with pytest.raises(ProtocolViolation, match="32 bytes"):
            action()


def test_masks_of_many_words_are_the_stream_of_their_key() -> None:
    """However many are made at a time."""
    count = 50_001
    whole = Stream(key_of(1), PAIR_WORDS, b"i").words(count)
    assert (mask_words({2: key_of(1)}, 1, count, b"i") == whole).all()
    whole = Stream(key_of(1), GROUP_WORDS, (7).to_bytes(8, "big") + b"i").words(count)
    assert (group_words(key_of(1), 7, count, b"i") == whole).all()
    factors = Stream(key_of(1), TAG_FACTORS, b"i").words(count)
    words = np.arange(count) - 7
    expected = sum(w * r for w, r in zip(words.tolist(), factors.tolist(), strict=True))
    assert tag(key_of(1), words, b"i") == expected % TAG_MODULUS


@pytest.mark.parametrize(
    "make",
    [
        lambda: mask_words({2: key_of(1), 3: key_of(2)}, 1, MANY, b"i"),
        lambda: group_words(key_of(1), 1, MANY, b"i"),
    ],
)
def test_masks_of_a_large_model_take_no_more_than_they_are(
    make: Callable[[], object],
) -> None:
    tracemalloc.start()
    try:
        make()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * 8 * MANY
