"""The geometry of a round: the lengths of the hospitals' vectors and the angles between
them, and nothing else.

Every score of `anomaly` is unchanged by a rotation of all vectors. So a round of n
vectors of any length is kept as its triangular factor R, n x n: column i holds n
coordinates of vector i, with all distances and angles (decision 28).
`api/store/round_files.py` keeps it; `anomaly` scores its columns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from analytics.arrays import Bools, Floats, check_finite, check_result

# n vectors over some columns: an array (n, b), or n arrays (b,)
Block = NDArray[Any] | Sequence[NDArray[Any]]
Blocks = Iterable[Block] | Callable[[], Iterable[Block]]

# Vectors nearer than this, measured by their lengths, are the same: sixteen digits do
# not carry more, and rotated copies of equal vectors must stay equal.
RELATIVE_ZERO = 1e-12
# A threshold or a tie lies exactly on a distance by construction; without a margin
# rounding would decide about it.
MARGIN = 1e-9

# A Gram matrix loses (length / distance)^2 * 1e-16 of a distance. Up to this ratio that
# is 1e-10.
_SAFE_RATIO = 1e-3
_SAFE_SQUARES = (1e-200, 1e200)
_SMALL = 2**18  # so many values are decomposed at once
_THREADS = 2
# Columns that a thread takes: fixed, so that no sum depends on the number of threads
_PIECE = 2**14
_COPY = 2**12  # columns converted to float64 and multiplied at once
_QR_COLUMNS = 2**10
_ONE_USER = threading.Lock()


def triangular_factor(blocks: Blocks, n: int) -> Floats:
    """R float64 (n, n), upper triangular with diagonal >= 0, where R^T R = G G^T for n
    vectors G (n, d).

    `blocks` are the columns of G cut anywhere, float32 or float64: arrays (n, b) or
    lists of n arrays (b,), which may be views of a file, and are not changed
    afterwards. Column i of R belongs to vector i; for full rank R is unique.

    A first pass sums G G^T in float64 and decomposes it (Cholesky): as fast as one
    matrix product. R_jj is the distance of vector j from the span of those before.
    Where one is below a thousandth of its vector's length, squares would lose the small
    distances, so a second pass does a QR of the columns in turn (Golub and Van Loan
    2013, section 5.2.2), which keeps distances to 1e-15 of the vectors' lengths. For
    that pass `blocks` is a collection or a callable that starts again; an iterator can
    be read only once and is decomposed by QR at once.

    Raises ValueError for n below 1, blocks of another shape, a number that is not
    finite, and lengths outside float64.

    Disclosure: lengths and angles of the hospitals' gradients, no coordinate in their
    frame. With few vectors of few values, or beside one hospital's rows, that may be
    nearly the gradients.

    >>> triangular_factor([np.array([[3.0, 4.0], [6.0, 8.0]])], 2).round(9).tolist()
    [[5.0, 10.0], [0.0, 0.0]]
    """
    if n < 1:
        raise ValueError(f"n is {n}; 1 or more is allowed.")
    with single_threads():
        # An iterator cannot start again.
        if not callable(blocks) and iter(blocks) is blocks:
            return _by_qr(blocks, n)
        gram, n_columns = _gram_matrix(_started(blocks), n)
        factor: Floats | None = None
        if n * n_columns > _SMALL:
            factor = _by_cholesky(gram)
        if factor is None:
            return _by_qr(_started(blocks), n)
        return factor


def _started(blocks: Blocks) -> Iterable[Block]:
    """The blocks from their beginning."""
    if callable(blocks):
        return blocks()
    return blocks


def combine_factors(factors: Iterable[Floats]) -> Floats:
    """The factor of several layers together, (n, n).

    It is the QR of their factors one under the other. One after the other, R = qr([R;
    next]), so two are held at a time. The squares of distances add up over layers, to
    1e-15 of the whole vectors' lengths: a layer of huge values hides the digits of the
    others. Raises ValueError for no factors or different shapes.

    >>> combine_factors([np.array([[3.0]]), np.array([[4.0]])]).tolist()
    [[5.0]]
    """
    together: Floats | None = None
    for factor in factors:
        shape = factor.shape
        is_square = factor.ndim == 2 and shape[0] == shape[1]
        is_alike = together is None or shape == together.shape
        if not is_square or not is_alike:
            raise ValueError(
                f"A factor has the shape {shape}; one square shape for all layers is expected."
            )
        if together is None:
            together = factor
        else:
            stacked = np.vstack([together, factor])
            reduced = _reduced(stacked)
            together = _finished(reduced, len(factor))
    if together is None:
        raise ValueError(
            "There are no factors; one square shape for all layers is expected."
        )
    return together


@contextmanager
def single_threads() -> Iterator[None]:
    """Within, numpy's and scikit-learn's libraries use no threads of their own, for one
    user at a time.

    Their threads add in any order, and for n x n results of long vectors they mostly
    wait for each other: two threads of ours, each with its own columns, take less than
    half of the time. The limit holds for the whole process; without the lock two users
    would each restore what the other had set.
    """
    with _ONE_USER, threadpool_limits(1):
        yield


def check_points(
    points: Floats,
    *,
    field: str = "points",
) -> None:
    """Raise ValueError unless points is (n, m), finite, with n and m at least 1."""
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(
            f"{field} has the shape {points.shape}; a row of coordinates for each client is expected."
        )
    check_finite(field, points)


def lengths(points: Floats) -> Floats:
    """|x_i| of each row of points (n, m), float64 (n,), without overflow on the way."""
    scaled, scale = to_unit_scale(points)
    squares: Floats = np.einsum("ij,ij->i", scaled, scaled)
    return scale * np.sqrt(squares)


def distances(points: Floats) -> Floats:
    """|x_i - x_j| of the rows of points (n, m): float64 (n, n), symmetric, diagonal 0.

    Taken from the differences, not from inner products. A distance of at most
    RELATIVE_ZERO (|x_i| + |x_j|) is 0.
    """
    # A third of a second, which most processes do without.
    from scipy.spatial.distance import pdist, squareform

    scaled, scale = to_unit_scale(points)
    of_pairs = pdist(scaled)
    between = squareform(of_pairs, checks=False)
    reach = lengths(scaled)
    both_reaches = reach[:, None] + reach
    is_zero = between <= RELATIVE_ZERO * both_reaches
    between[is_zero] = 0.0
    return scale * between


def cosine_distances(points: Floats) -> Floats:
    """1 - cos of the angles between the rows of points (n, m).

    float64 (n, n) in [0, 2], diagonal 0. It is half the squared distance of the unit
    vectors, so small angles keep their digits. Two zero vectors are at distance 0, a
    zero and another vector at 1.
    """
    is_zero = (points == 0).all(axis=1)
    # Each row by a power of two of its own: short and long ones keep their digits.
    magnitudes = np.abs(points)
    largest = magnitudes.max(axis=1, keepdims=True)
    _, exponents = np.frexp(largest)
    scaled = np.ldexp(points, -exponents)
    own_lengths = lengths(scaled)
    divisors = np.where(is_zero, 1.0, own_lengths)
    units = scaled / divisors[:, None]
    halves = distances(units) ** 2 / 2
    between = np.minimum(halves, 2.0)
    is_one_zero = is_zero[:, None] != is_zero
    between[is_one_zero] = 1.0
    return between


def to_unit_scale(points: Floats) -> tuple[Floats, float]:
    """The points divided by a power of two, and that power of two.

    The largest coordinate is in [0.5, 1) then.
    """
    largest = np.abs(points).max()
    _, exponent = np.frexp(largest)
    within = int(np.clip(exponent, -1000, 1000))
    scale = float(np.ldexp(1.0, within))
    scaled = np.ldexp(points, -within)
    return scaled, scale


def _pieces(
    work: Callable[[Block, slice], Floats],
    blocks: Iterable[Block],
    n: int,
) -> Iterator[tuple[int, Floats]]:
    """The result of `work` on each piece of the columns, in their order, with its width.

    While the pool works on one block, the next one is read.
    """
    waiting: list[tuple[int, Future[Floats]]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for block in blocks:
            width = _checked_width(block, n)
            begun = []
            for start in range(0, width, _PIECE):
                stop = min(start + _PIECE, width)
                columns = slice(start, stop)
                running = pool.submit(work, block, columns)
                begun.append((stop - start, running))
            for piece_width, running in waiting:
                yield piece_width, running.result()
            waiting = begun
        for piece_width, running in waiting:
            yield piece_width, running.result()


def _gram_matrix(
    blocks: Iterable[Block],
    n: int,
) -> tuple[Floats, int]:
    """G G^T (n, n) and the number of columns."""
    gram_sum = np.zeros((n, n))
    n_columns = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for width, gram in _pieces(_piece_gram, blocks, n):
            gram_sum = gram_sum + gram
            n_columns += width
    return gram_sum, n_columns


def _piece_gram(block: Block, columns: slice) -> Floats:
    """The Gram matrix of some columns, by tiles that stay in the processor's cache."""
    n = len(block)
    gram_sum = np.zeros((n, n))
    copy = np.empty((n, _COPY))
    for left in range(columns.start, columns.stop, _COPY):
        right = min(left + _COPY, columns.stop)
        tile = copy[:, : right - left]
        for row, vector in enumerate(block):
            tile[row] = vector[left:right]
        with np.errstate(over="ignore", invalid="ignore"):
            gram_sum += tile @ tile.T
    return gram_sum


def _checked_width(block: Block, n: int) -> int:
    n_vectors = len(block)
    shapes = [np.shape(vector) for vector in block]
    first_shape, *other_shapes = shapes or [()]
    is_vector = len(first_shape) == 1
    are_alike = all(shape == first_shape for shape in other_shapes)
    if n_vectors != n or not is_vector or not are_alike:
        raise ValueError(
            f"A block holds {n_vectors} vectors; {n} of one length are expected."
        )
    (width,) = first_shape
    return int(width)


def _by_cholesky(gram: Floats) -> Floats | None:
    """The factor of a Gram matrix, or None where squares carry too few digits."""
    squares = gram.diagonal()
    least_square, most_square = _SAFE_SQUARES
    is_safe = (squares > least_square) & (squares < most_square)
    if not is_safe.all():
        return None
    try:
        lower = np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        return None
    upper = lower.T
    factor = np.ascontiguousarray(upper, dtype=np.float64)
    smallest = _SAFE_RATIO * np.sqrt(squares)
    keeps_digits = factor.diagonal() >= smallest
    if not keeps_digits.all():
        return None
    return factor


def _by_qr(blocks: Iterable[Block], n: int) -> Floats:
    factor = np.zeros((0, n))
    for _, piece_factor in _pieces(_piece_factor, blocks, n):
        rows = np.vstack([factor, piece_factor])
        factor = _reduced(rows)
    return _finished(factor, n)


def _piece_factor(block: Block, columns: slice) -> Floats:
    """The triangular factor of some columns."""
    n = len(block)
    factor = np.zeros((0, n))
    for left in range(columns.start, columns.stop, _QR_COLUMNS):
        right = min(left + _QR_COLUMNS, columns.stop)
        vector_pieces = [vector[left:right] for vector in block]
        table = np.array(vector_pieces, dtype=np.float64)
        rows = table.T
        check_finite("A gradient", rows)
        stacked = np.vstack([factor, rows])
        factor = _reduced(stacked)
    return factor


def _reduced(rows: Floats) -> Floats:
    """The triangular factor of rows (r, n), at most n rows of it."""
    with np.errstate(over="ignore", invalid="ignore"):
        triangle = np.linalg.qr(rows, mode="r")
    factor = np.asarray(triangle, dtype=np.float64)
    check_result("The length of a gradient", factor)
    return factor


def _finished(factor: Floats, n: int) -> Floats:
    """Padded with zero rows to (n, n); no row has a negative diagonal."""
    n_rows = len(factor)
    square = np.zeros((n, n))
    square[:n_rows] = np.triu(factor)
    is_negative: Bools = square.diagonal() < 0
    of_row = is_negative[:, None]
    turned = np.where(of_row, -square, square)
    return turned + 0.0  # no negative zeros
