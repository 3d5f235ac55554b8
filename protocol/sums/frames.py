"""Random rotations that all hospitals of an order can make and the coordinator cannot.

A rotated gradient keeps every length and angle and no coordinate: with Q orthogonal, <Q a, Q b> = <a, b>, so each
score that depends on inner products only can be computed by who does not know Q.

    rotate(key, g) = Q g                        up to HAAR_LIMIT values
    rotate(key, g) = H64 (P W S)^3 g            above, g padded with zeros to a power of two

Q is exactly Haar distributed (Stewart 1980): a product of random Householder reflections of n, n - 1, ... 1
dimensions, applied without being formed. S are random signs, W the Walsh-Hadamard transform, P a random permutation,
H64 independent Haar rotations of blocks of 64 values: every value is spread over all before the blocks are turned
(Ailon and Chazelle 2006). All randomness is the stream of AES-256-CTR under the key, which serves for one vector of
each hospital only. Decisions 28 and 29; what is computed from rotated gradients is in `analytics/scores/`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from protocol.sums.masks import Stream

HAAR_LIMIT = 512
BLOCK = 64
_MIXINGS = 3
_DRAWN_AT_ONCE = 1 << 15


def rotate(key: bytes, vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The vector (d,) in the key's frame, float64: (d,) up to HAAR_LIMIT values, above padded to a power of two.

    A hospital runs it. `key` is 32 bytes from the order secret, for one fold, round and layer. ProtocolViolation when
    it has another length. Processors may differ in the last bits: the rotated vectors of two hospitals belong to frames
    that agree to about 1e-15.

    Disclosure: to who lacks the key, the vector's length and its angles with the others of that key; to who has it,
    the vector. So it goes to the coordinator only, by the release door.
    """
    stream = Stream(key, b"consilium/rotation/1", b"")
    if vector.size <= HAAR_LIMIT:
        return _haar(stream, vector.astype(np.float64).reshape(1, -1)).ravel()
    mixed = np.zeros(1 << (vector.size - 1).bit_length())
    mixed[: vector.size] = vector
    for _ in range(_MIXINGS):  # P W S, from the right
        signs = stream.signs(mixed.size)
        order = stream.permutation(mixed.size)
        mixed = _hadamard(mixed * signs)[order]
    return _haar(stream, mixed.reshape(-1, BLOCK)).ravel()


def _haar(stream: Stream, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row (m,) turned by a Haar rotation of its own: m reflections, the one of k dimensions on its last k values.

    The reflection that takes the first axis to -s v, with v a random direction and s the sign of its first value, is
    multiplied by -s, so that the first axis goes to v itself, which is uniform (Diaconis and Shahshahani 1987).
    """
    width = rows.shape[1]
    turned = rows.copy()
    for k, axis in enumerate(_axes(stream, *rows.shape), start=1):
        sign = np.copysign(1.0, axis[:, :1])
        norm = np.sqrt(np.einsum("ij,ij->i", axis, axis))[:, None]
        axis[:, :1] += sign * norm
        tail = turned[:, width - k :]
        # |axis|^2 = 2 norm |axis_1| now, so that this is 2 <axis, tail> / |axis|^2.
        product = np.einsum("ij,ij->i", axis, tail)[:, None]
        along = product / (norm * np.abs(axis[:, :1]))
        turned[:, width - k :] = sign * (along * axis - tail)
    return turned


def _axes(stream: Stream, n_rows: int, width: int) -> Iterator[NDArray[np.float64]]:
    """Gaussian vectors (n_rows, k) for k = 1 .. width, many drawn at once."""
    k = 1
    while k <= width:
        n_sizes = max(1, _DRAWN_AT_ONCE // (n_rows * k))
        sizes = range(k, min(width, k + n_sizes) + 1)
        normals = stream.normals(n_rows * sum(sizes))
        start = 0
        for size in sizes:
            end = start + n_rows * size
            yield normals[start:end].reshape(n_rows, size)
            start = end
        k = sizes[-1] + 1


def _hadamard(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orthonormal Walsh-Hadamard transform of 2^m values."""
    width = 1
    while width < vector.size:
        pairs = vector.reshape(-1, 2, width)
        first, second = pairs[:, 0], pairs[:, 1]
        vector = np.stack([first + second, first - second], axis=1).ravel()
        width *= 2
    result: NDArray[np.float64] = vector / np.sqrt(vector.size)
    return result
