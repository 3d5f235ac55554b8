"""Random rotations that all hospitals of an order can make and the coordinator cannot.

A rotated gradient keeps every length and angle and no coordinate: with Q orthogonal, <Q
a, Q b> = <a, b>, so each score that depends on inner products only can be computed by
who does not know Q.

    rotate(key, g) = Q g                        up to HAAR_LIMIT values
    rotate(key, g) = H64 (P W S)^3 g            above, g padded with zeros to a power of two

Q is exactly Haar distributed (Stewart 1980): a product of random Householder
reflections of n, n - 1, ... 1 dimensions, applied without being formed. S are random
signs, W the Walsh-Hadamard transform, P a random permutation, H64 independent Haar
rotations of blocks of 64 values: every value is spread over all before the blocks are
turned (Ailon and Chazelle 2006). All randomness is the stream of AES-256-CTR under the
key, which serves for one vector of each hospital only. Decisions 28 and 29; what is
computed from rotated gradients is in `analytics/scores/`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from analytics.arrays import Floats
from protocol.sums.masks import Stream

HAAR_LIMIT = 512
BLOCK = 64
_MIXINGS = 3
_DRAWN_AT_ONCE = 1 << 15


def rotate(key: bytes, vector: Floats) -> Floats:
    """The vector (d,) in the key's frame, float64.

    It is (d,) up to HAAR_LIMIT values, above padded to a power of two. A hospital runs
    it. `key` is 32 bytes from the order secret, for one fold, round and layer.
    ProtocolViolation when it has another length. Processors may differ in the last
    bits: the rotated vectors of two hospitals belong to frames that agree to about
    1e-15.

    Disclosure: to who lacks the key, the vector's length and its angles with the others
    of that key; to who has it, the vector. So it goes to the coordinator only, by the
    release door.
    """
    stream = Stream(key, b"consilium/rotation/1", b"")
    if vector.size <= HAAR_LIMIT:
        doubles = vector.astype(np.float64)
        one_row = doubles.reshape(1, -1)
        turned_row = _haar(stream, one_row)
        return turned_row.ravel()
    last_place = vector.size - 1
    n_bits = last_place.bit_length()
    mixed = np.zeros(1 << n_bits)
    mixed[: vector.size] = vector
    for _ in range(_MIXINGS):  # P W S, from the right
        signs = stream.signs(mixed.size)
        order = stream.permutation(mixed.size)
        mixed = _hadamard(mixed * signs)[order]
    blocks = mixed.reshape(-1, BLOCK)
    turned = _haar(stream, blocks)
    return turned.ravel()


def _haar(stream: Stream, rows: Floats) -> Floats:
    """Each row (m,) turned by a Haar rotation of its own.

    It takes m reflections, the one of k dimensions on the row's last k values. The
    reflection that takes the first axis to -s v, with v a random direction and s the
    sign of its first value, is multiplied by -s, so that the first axis goes to v
    itself, which is uniform (Diaconis and Shahshahani 1987).
    """
    n_rows, width = rows.shape
    turned = rows.copy()
    axes = _axes(stream, n_rows, width)
    for k, axis in enumerate(axes, start=1):
        first = axis[:, :1]
        sign = np.copysign(1.0, first)
        square = _row_products(axis, axis)
        norm = np.sqrt(square)
        first += sign * norm  # in `axis` too, of which it is a view
        tail = turned[:, width - k :]
        # |axis|^2 = 2 norm |axis_1| now, so that this is 2 <axis, tail> / |axis|^2.
        product = _row_products(axis, tail)
        along = product / (norm * np.abs(first))
        tail[:] = sign * (along * axis - tail)
    return turned


def _row_products(left: Floats, right: Floats) -> Floats:
    """The inner product of each row with the other's: (n_rows, 1)."""
    products: Floats = np.einsum("ij,ij->i", left, right)
    return products[:, None]


def _axes(
    stream: Stream,
    n_rows: int,
    width: int,
) -> Iterator[Floats]:
    """Gaussian vectors (n_rows, k) for k = 1 .. width, many drawn at once."""
    k = 1
    while k <= width:
        drawn_by_size = n_rows * k
        n_sizes = max(1, _DRAWN_AT_ONCE // drawn_by_size)
        last_size = min(width, k + n_sizes)
        sizes = range(k, last_size + 1)
        n_normals = n_rows * sum(sizes)
        normals = stream.normals(n_normals)
        start = 0
        for size in sizes:
            end = start + n_rows * size
            coordinates = normals[start:end]
            yield coordinates.reshape(n_rows, size)
            start = end
        k = last_size + 1


def _hadamard(vector: Floats) -> Floats:
    """The orthonormal Walsh-Hadamard transform of 2^m values."""
    width = 1
    while width < vector.size:
        pairs = vector.reshape(-1, 2, width)
        first = pairs[:, 0]
        second = pairs[:, 1]
        sums = first + second
        differences = first - second
        stacked = np.stack([sums, differences], axis=1)
        vector = stacked.ravel()
        width *= 2
    norm = np.sqrt(vector.size)
    transformed: Floats = vector / norm
    return transformed
