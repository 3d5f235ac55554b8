"""Which people several hospitals have in common, found by one who cannot tell who they
are.

    tag(key, text) = BLAKE2b(text, keyed, 16 bytes)

Every provider sends the tags of its keys to the coordinator only, sorted by value, so
that their order says nothing. The coordinator has no key: it compares tags in memory,
sends each provider which of its own are common, and forgets them. The providers, who
have the key, never see each other's tags, so none can try out names on another's. They
compare a digest of the common tags, sealed for them, and stop where it differs.

    tags   = number of tags (8 bytes) || tags (16 bytes each), strictly ascending
    bitmap = number of tags (8 bytes) || a bit for each, the first in the highest bit,
                                         rest of the last byte zero

Here in the order in which it happens. `agents/statistics/matched_rows.py` and
`tasks/coordinator/statistics.py` send these messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import Places
from protocol.errors import ProtocolViolation

KEY_BYTES = 32
TAG_BYTES = 16
DIGEST_BYTES = 32
_COUNT_BYTES = 8
_DIGEST_TAG = b"consilium/match/common/1"

Tags = NDArray[np.uint64]
"""(n, 2): the high and the low half of each tag, ascending, each tag once."""
Bitmap = NDArray[np.bool_]


def tags(key: bytes, keys: Sequence[str]) -> tuple[Tags, Places]:
    """The tags of canonical key texts, uint64 (n, 2) ascending, and intp (n,): which
    key each tag belongs to.

    A provider runs it. `key` is session.group_key(b"match"), 32 bytes, else
    ProtocolViolation. The keys all differ, else ValueError; two that differ have equal
    tags with probability n^2 2^-129.

    Disclosure: to the coordinator, which lacks the key, the number of keys and,
    compared with other providers' tags of the run, how many they share; to who has the
    key, whether a given text is among them.
    """
    if len(key) != KEY_BYTES:
        raise _violation(f"A matching key is not {KEY_BYTES} bytes long.")
    hashes = _from_bytes(keyed_hashes(key, keys))
    # By value, so that the order tells nothing of the provider's rows.
    order = _order_of(hashes)
    sorted_tags = hashes[order]
    if not _is_ascending(sorted_tags):
        raise ValueError("a key stands there twice")
    return sorted_tags, order


def keyed_hashes(key: bytes, texts: Iterable[str]) -> bytes:
    """TAG_BYTES of BLAKE2b of each text, keyed with up to 64 bytes, one behind the other.

    A provider runs it.

    Disclosure: none to who lacks the key.
    """
    # The key is taken in once, and a copy takes in each text.
    keyed = hashlib.blake2b(key=key, digest_size=TAG_BYTES)
    hashes = []
    for text in texts:
        hash_state = keyed.copy()
        hash_state.update(text.encode())
        digest = hash_state.digest()
        hashes.append(digest)
    return b"".join(hashes)


def encode_tags(key_tags: Tags) -> bytes:
    """Tags as bytes: a provider to the coordinator alone."""
    n_tags = len(key_tags)
    return _count(n_tags) + _to_bytes(key_tags)


def decode_tags(data: bytes) -> Tags:
    """Inverse of `encode_tags`; ProtocolViolation for a wrong length, or tags that do
    not ascend.
    """
    tag_bytes = _checked(data, _tags_bytes)
    key_tags = _from_bytes(tag_bytes)
    if not _is_ascending(key_tags):
        raise _violation("Tags of keys are not in order, or one stands there twice.")
    return key_tags


def intersect(provider_tags: Sequence[Tags]) -> list[Bitmap]:
    """For each provider which of its tags all providers have: bool (n_i,), in the order
    of its tags.

    The coordinator runs it, in memory. `provider_tags` are two or more arrays as
    `decode_tags` gives them, else ValueError.
    """
    n_providers = len(provider_tags)
    if n_providers < 2:
        raise ValueError("one provider has nothing to match")
    together = np.concatenate(provider_tags)
    order = _order_of(together)
    ordered = together[order]
    # Every provider has a tag once at most, so a tag of all fills n_providers places in
    # a row, and no other does.
    n_places = len(ordered) - n_providers + 1
    n_starts = max(0, n_places)
    run_starts = ordered[:n_starts]
    run_ends = ordered[n_providers - 1 :]
    is_run = (run_ends == run_starts).all(axis=1)
    firsts = np.flatnonzero(is_run)
    # Back to the places where the providers' tags stand.
    n_tags = len(together)
    is_common = np.zeros(n_tags, dtype=np.bool_)
    for place in range(n_providers):
        tags_of_provider = order[firsts + place]
        is_common[tags_of_provider] = True
    lengths = [len(key_tags) for key_tags in provider_tags]
    ends = np.cumsum(lengths)
    return np.split(is_common, ends[:-1])


def encode_bitmap(common: Bitmap) -> bytes:
    """Which of a provider's tags are common: the coordinator to that provider."""
    octets = np.packbits(common)
    n_tags = len(common)
    return _count(n_tags) + octets.tobytes()


def decode_bitmap(data: bytes, *, n_tags: int) -> Bitmap:
    """Inverse of `encode_bitmap` for `n_tags` tags; ProtocolViolation for another
    number or length, or bits beyond.
    """
    bits = _bits(data)
    told_count = _counted(data)
    own_bits = bits[:n_tags]
    beyond = bits[n_tags:]
    if told_count != n_tags or beyond.any():
        raise _violation("What is common is told of other tags than were sent.")
    return own_bits.astype(np.bool_)


def n_common(data: bytes) -> int:
    """How many tags an encoded bitmap says are common."""
    n_set = _bits(data).sum()
    return int(n_set)


def common_digest(key_tags: Tags, common: Bitmap) -> bytes:
    """SHA-256 over the common tags in order, 32 bytes.

    Equal at all providers, or they mean different people.

    Disclosure: with the matching key it lets a set of people be guessed, so it goes
    sealed, to the group only.
    """
    common_tags = key_tags[common]
    digest_input = _DIGEST_TAG + encode_tags(common_tags)
    digest = hashlib.sha256(digest_input)
    return digest.digest()


def check_digests(digests: Mapping[int, bytes]) -> None:
    """Every provider's `common_digest` by its user id is the same 32 bytes, else
    ProtocolViolation keys_differ.

    Every provider runs it. It detects a coordinator that sends providers different
    sets; one that leaves the same people out everywhere it cannot detect. That one
    learns no result, and the number of rows is checked against each provider's policy.
    """
    different = set(digests.values())
    differ = len(different) > 1
    is_damaged = any(len(digest) != DIGEST_BYTES for digest in different)
    if differ or is_damaged:
        raise ProtocolViolation(
            "The hospitals were not told the same common keys, so rows of different people would be joined.",
            remedy="Nothing was computed. Send the order again; if it repeats, the coordinator is broken or deviates.",
            code="keys_differ",
            hospitals=sorted(digests),
        )


def common_rows(order: Places, common: Bitmap) -> Places:
    """The places of the common keys among a provider's keys, in the order that is the
    same at all providers.
    """
    return order[common]


def _from_bytes(data: bytes) -> Tags:
    numbers = np.frombuffer(data, dtype=">u8")
    halves = numbers.astype(np.uint64)
    return halves.reshape(-1, 2)


def _to_bytes(key_tags: Tags) -> bytes:
    big_endian = key_tags.astype(">u8")
    return big_endian.tobytes()


def _order_of(key_tags: Tags) -> Places:
    """The places of tags, ascending by value."""
    high = key_tags[:, 0]
    low = key_tags[:, 1]
    return np.lexsort((low, high))


def _is_ascending(key_tags: Tags) -> bool:
    high = key_tags[:, 0]
    low = key_tags[:, 1]
    upper = high[:-1]
    next_upper = high[1:]
    is_higher = upper < next_upper
    is_equal = upper == next_upper
    lower = low[:-1]
    next_lower = low[1:]
    is_low_higher = lower < next_lower
    ascends = is_higher | (is_equal & is_low_higher)
    return bool(ascends.all())


def _bits(data: bytes) -> NDArray[np.uint8]:
    """An encoded bitmap's bits, those beyond its tags too."""
    bitmap_bytes = _checked(data, _bitmap_bytes)
    octets = np.frombuffer(bitmap_bytes, dtype=np.uint8)
    return np.unpackbits(octets)


def _count(number: int) -> bytes:
    return number.to_bytes(_COUNT_BYTES, "big")


def _counted(data: bytes) -> int:
    """The number that a message begins with."""
    count_bytes = data[:_COUNT_BYTES]
    return int.from_bytes(count_bytes, "big")


def _tags_bytes(n_tags: int) -> int:
    return TAG_BYTES * n_tags


def _bitmap_bytes(n_tags: int) -> int:
    return (n_tags + 7) // 8


def _checked(data: bytes, length: Callable[[int], int]) -> bytes:
    """What follows the count, if it is as long as the count says."""
    body = data[_COUNT_BYTES:]
    count = _counted(data)
    is_short = len(data) < _COUNT_BYTES
    if is_short or len(body) != length(count):
        raise _violation("A message of the matching has another length than it says.")
    return body


def _violation(sentence: str) -> ProtocolViolation:
    return ProtocolViolation(
        sentence,
        remedy="Nothing of it was used. Run the same version at all sides.",
        code="bad_message",
    )
