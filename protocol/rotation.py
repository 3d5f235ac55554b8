"""Random rotations that all hospitals of an order can make and the coordinator cannot.

A rotated gradient keeps every length and angle and no coordinate: with Q orthogonal, <Q a, Q b> = <a, b>, so each
score that depends on inner products only can be computed by who does not know Q.

    rotate(key, g) = Q g                        up to HAAR_LIMIT values
    rotate(key, g) = H64 (P W S)^3 g            above, g padded with zeros to a power of two

Q is exactly Haar distributed (Stewart 1980): a product of random Householder reflections of n, n - 1, ... 1
dimensions, applied without being formed. S are random signs, W the Walsh-Hadamard transform, P a random permutation,
H64 independent Haar rotations of blocks of 64 values: every value is spread over all before the blocks are turned
(Ailon and Chazelle 2006). All randomness is the stream of AES-256-CTR under the key, which serves for one vector of
each hospital only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocol.masks import Stream

HAAR_LIMIT = 4096
BLOCK = 64
_MIXINGS = 3


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
    for _ in range(_MIXINGS):
        mixed = _hadamard(mixed * stream.signs(mixed.size))[stream.permutation(mixed.size)]
    return _haar(stream, mixed.reshape(-1, BLOCK)).ravel()


def _haar(stream: Stream, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row (m,) turned by a Haar rotation of its own: m reflections, the one of k dimensions on its last k values.

    The reflection that takes the first axis to -s v, with v a random direction and s the sign of its first value, is
    multiplied by -s, so that the first axis goes to v itself, which is uniform (Diaconis and Shahshahani 1987).
    """
    n_rows, width = rows.shape
    turned = rows.copy()
    for k in range(1, width + 1):
        axis = stream.normals(n_rows * k).reshape(n_rows, k)
        sign = np.where(axis[:, 0] < 0, -1.0, 1.0)
        norm = np.sqrt(np.einsum("ij,ij->i", axis, axis))
        axis[:, 0] += sign * norm
        scale = 1.0 / (norm * np.abs(axis[:, 0]))  # 2 / |axis|^2
        tail = turned[:, width - k :]
        along = np.einsum("ij,ij->i", axis, tail) * scale
        tail -= along[:, None] * axis
        tail *= -sign[:, None]
    return turned


def _hadamard(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orthonormal Walsh-Hadamard transform of 2^m values."""
    width = 1
    while width < vector.size:
        pairs = vector.reshape(-1, 2, width)
        vector = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).ravel()
        width *= 2
    result: NDArray[np.float64] = vector / np.sqrt(vector.size)
    return result
