"""Matching: the same people at all providers, whatever the order of their keys, and
nothing of a wrong message.
"""

from __future__ import annotations

import contextlib
import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolViolation
from protocol.shares.matching import (
    check_digests,
    common_digest,
    common_rows,
    decode_bitmap,
    decode_tags,
    encode_bitmap,
    encode_tags,
    intersect,
    tags,
)

KEY = bytes(range(32))

key_lists = st.lists(
    st.lists(st.integers(0, 30).map(str), unique=True), min_size=2, max_size=5
)


def matched(parts: list[list[str]], key: bytes = KEY) -> list[list[str]]:
    """The common keys as each provider would list its rows, after every message has
    been written and read.
    """
    own = [tags(key, part) for part in parts]
    bitmaps = intersect([decode_tags(encode_tags(found)) for found, _ in own])
    told = [
        decode_bitmap(encode_bitmap(bits), n_tags=len(part))
        for bits, part in zip(bitmaps, parts, strict=True)
    ]
    check_digests(
        {i: common_digest(own[i][0], common) for i, common in enumerate(told)}
    )
    return [
        [parts[i][row] for row in common_rows(own[i][1], common)]
        for i, common in enumerate(told)
    ]


@given(key_lists)
def test_every_provider_finds_the_common_keys_in_the_same_order(
    parts: list[list[str]],
) -> None:
    found = matched(parts)
    assert all(keys == found[0] for keys in found)
    assert set(found[0]) == set.intersection(*map(set, parts))
    assert len(found[0]) == len(set(found[0]))


def test_tags_ascend_and_say_which_key_they_belong_to() -> None:
    keys = ["7", "北京", "", "e\u0301", "é"]
    found, order = tags(KEY, keys)
    expected = [
        hashlib.blake2b(keys[i].encode(), key=KEY, digest_size=16).digest()
        for i in order
    ]
    assert encode_tags(found)[8:] == b"".join(sorted(expected))
    assert (found.dtype, found.shape) == (np.uint64, (5, 2))


def test_another_key_gives_other_tags_in_another_order() -> None:
    keys = [str(i) for i in range(200)]
    one, other = tags(KEY, keys), tags(KEY[::-1], keys)
    assert not intersect([one[0], other[0]])[0].any()
    assert (one[1] != other[1]).any()


def test_tags_that_share_their_first_half_are_told_apart() -> None:
    one = np.array([[5, 1], [5, 3], [6, 0]], dtype=np.uint64)
    other = np.array([[5, 2], [5, 3], [6, 1]], dtype=np.uint64)
    assert [bits.tolist() for bits in intersect([one, other])] == [
        [False, True, False]
    ] * 2


def test_a_key_that_stands_there_twice_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="twice"):
        tags(KEY, ["a", "b", "a"])
    with pytest.raises(ValueError, match="one provider"):
        intersect([tags(KEY, ["a"])[0]])


def test_a_key_of_another_length() -> None:
    with pytest.raises(ProtocolViolation):
        tags(KEY[:-1], ["a"])


def test_digests_differ_where_a_provider_was_told_another_set() -> None:
    found, _ = tags(KEY, ["a", "b", "c"])
    all_of_them, none = np.array([True, True, True]), np.array([False, False, False])
    digests = {2: common_digest(found, all_of_them), 3: common_digest(found, none)}
    with pytest.raises(ProtocolViolation) as caught:
        check_digests(digests)
    assert (caught.value.code, caught.value.detail) == (
        "keys_differ",
        {"hospitals": [2, 3]},
    )
    check_digests({2: digests[2], 3: digests[2]})
    with pytest.raises(ProtocolViolation):
        check_digests({2: b"", 3: b""})


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (decode_tags, lambda data: decode_bitmap(data, n_tags=3)):
        with contextlib.suppress(ProtocolViolation):
            read(data)
