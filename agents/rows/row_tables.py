"""Tables of rows that are too large for memory: on disk, and read in chunks.

A table of more than CHUNK_ROWS rows is a file in the hospital's private folder that has
no name any more: nobody else can open it, and it is gone with the process, however that
ends. To everything that computes it is an array; who walks it with
`analytics.arrays.table_chunks` has one chunk of it in memory.

Decisions 138 and 152.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analytics.arrays import CHUNK_ROWS, Ints, let_go, row_chunks, table_chunks

_BLOCK_BYTES = 2**25
"""Of so many bytes are the blocks in which rows are put in another order."""


class GrowingColumn:
    """Numbers of one type that come in chunks: in a file without a name in the folder,
    or in memory.
    """

    def __init__(self, folder: Path | None, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._held = bytearray()
        self._file = None
        if folder is not None:
            # `close` closes it.
            self._file = tempfile.NamedTemporaryFile(dir=folder, prefix=".rows-")  # noqa: SIM115

    def append(self, values: NDArray[Any]) -> None:
        written = values.astype(self._dtype, copy=False).tobytes()
        if self._file is None:
            self._held += written
        else:
            self._file.write(written)

    def close(self) -> NDArray[Any]:
        """All of them, (n,); no more can come."""
        if self._file is None:
            return np.frombuffer(self._held, dtype=self._dtype)
        with self._file as file:
            file.flush()
            # The system maps no file of no bytes.
            if not file.tell():
                return np.zeros(0, dtype=self._dtype)
            return np.memmap(file.name, dtype=self._dtype, mode="r")


def empty_table(
    folder: Path, shape: tuple[int, ...], dtype: Any = np.float64
) -> NDArray[Any]:
    """An array of this shape, (n_rows, ...), whose values are anything: in memory up to
    CHUNK_ROWS rows, else in a file without a name in the folder, of mode 0600.
    """
    # A shape with a 0 has no bytes, and no file of none can be mapped.
    if max(shape) <= CHUNK_ROWS or 0 in shape:
        return np.empty(shape, dtype=dtype)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".rows-") as file:
        return np.memmap(file.name, dtype=dtype, mode="w+", shape=shape)


def empty_beside(table: NDArray[Any], n_rows: int | None = None) -> NDArray[Any]:
    """Of the same rows and columns, where the table is: in memory, or in its folder."""
    shape = (len(table) if n_rows is None else n_rows, *table.shape[1:])
    folder = folder_of(table)
    if folder is None:
        return np.empty(shape, dtype=table.dtype)
    return empty_table(folder, shape, table.dtype)


def folder_of(table: NDArray[Any]) -> Path | None:
    """Where a table on disk is; None of one in memory, also where it was copied from a
    table on disk.
    """
    filename = getattr(table, "filename", None)
    return None if filename is None else Path(str(filename)).parent


def taken(table: NDArray[Any], places: Ints) -> NDArray[Any]:
    """The rows at these places (n,), in their order; on disk where the table is. It
    may be the table itself."""
    if folder_of(table) is None:
        return table[places]
    if is_in_order(places, len(table)):
        return table
    new_table = empty_beside(table, len(places))
    if is_rising(places):
        for chunk in row_chunks(len(places)):
            new_table[chunk] = table[places[chunk]]
            let_go(new_table)
            let_go(table)
        return new_table
    _take_scattered(table, places, new_table)
    return new_table


def _take_scattered(table: NDArray[Any], places: Ints, new_table: NDArray[Any]) -> None:
    """Writes the rows at these places, in whatever order, to `new_table`.

    A look at each row where it stands would have all of the table in memory, a page for
    each row. So the table is read from its first row to its last, and each row is put
    into the block that it belongs to; then the rows of each block are put in order.
    """
    n_rows = max(1, _BLOCK_BYTES // (new_table.nbytes // len(new_table)))
    n_blocks = -(-len(places) // n_rows)
    # By block, where its next row is put.
    ends = n_rows * np.arange(n_blocks)
    goes_to = np.argsort(places, kind="stable")
    for chunk in row_chunks(len(places)):
        targets = goes_to[chunk]
        rows = table[places[targets]]
        blocks = targets // n_rows
        for block in np.unique(blocks).tolist():
            of_block = rows[blocks == block]
            block_end = int(ends[block])
            new_table[block_end : block_end + len(of_block)] = of_block
            ends[block] += len(of_block)
            # The system may have given more of the file than was written.
            let_go(new_table)
        let_go(table)
    del goes_to
    for first_row in range(0, len(places), n_rows):
        block_rows = slice(first_row, first_row + n_rows)
        # As they came: in the order of the table.
        came = np.argsort(places[block_rows], kind="stable")
        in_order = np.empty_like(new_table[block_rows], subok=False)
        in_order[came] = new_table[block_rows]
        new_table[block_rows] = in_order
        let_go(new_table)


def made_of(
    table: NDArray[Any], make: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[Any]:
    """The table that is made of another one (n_rows, ...), row by row; on disk where it
    is, and made a chunk at a time then.
    """
    folder = folder_of(table)
    if folder is None:
        return make(table)
    new_table = None
    for chunk, rows in table_chunks(table):
        new_rows = make(rows)
        if new_table is None:
            shape = (len(table), *new_rows.shape[1:])
            new_table = empty_table(folder, shape, new_rows.dtype)
        new_table[chunk] = new_rows
        let_go(new_table)
    assert new_table is not None, "a table on disk has rows"
    return new_table


def without_column(table: NDArray[Any], place: int) -> NDArray[Any]:
    """A table (n_rows, n_columns) less one column; on disk where it is."""
    return made_of(table, lambda rows: np.delete(rows, place, axis=1))


def is_in_order(places: Ints, n_rows: int) -> bool:
    """Whether they are all of so many rows as they stand."""
    if len(places) != n_rows:
        return False
    return all(
        np.array_equal(places[chunk], np.arange(chunk.start, chunk.stop))
        for chunk in row_chunks(n_rows)
    )


def is_rising(values: NDArray[Any]) -> bool:
    """Whether each of some values (n,) is above the one before it."""
    for chunk in row_chunks(max(0, len(values) - 1)):
        following = values[chunk.start + 1 : chunk.stop + 1]
        if (following <= values[chunk]).any():
            return False
    return True


def columns(table: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Each column of a table (n_rows, n_columns) by itself, (n_rows,), in memory."""
    for column_place in range(table.shape[1]):
        if folder_of(table) is None:
            yield table[:, column_place]
            continue
        column = np.empty(len(table), dtype=table.dtype)
        for chunk, rows in table_chunks(table):
            column[chunk] = rows[:, column_place]
        yield column
