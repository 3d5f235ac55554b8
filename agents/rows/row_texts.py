"""Texts of many rows, such as their unique ids, in one block of bytes: a list of Python's
has seventy bytes for each besides.

Decisions 138 and 152.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from agents.rows.row_tables import GrowingColumn, folder_of, is_in_order
from analytics.arrays import Ints, let_go, row_chunks

_Packed = tuple[NDArray[np.uint8], Ints]
"""Letters behind each other, and how many each text has."""


@dataclass(frozen=True, eq=False)
class Texts(Sequence[str]):
    """Texts in their order, as UTF-8 behind each other, in memory or on disk."""

    letters: NDArray[np.uint8]
    # (n + 1,): where each begins and the one before it ends
    edges: Ints

    def __len__(self) -> int:
        return len(self.edges) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step == 1 and start < stop:
                return self._of_chunk(slice(start, stop))
            return [self[position] for position in range(start, stop, step)]
        index = range(len(self))[place]
        return str(
            self.letters[self.edges[index] : self.edges[index + 1]].tobytes(), "utf-8"
        )

    def __iter__(self) -> Iterator[str]:
        for chunk in row_chunks(len(self)):
            yield from self._of_chunk(chunk)

    def _of_chunk(self, chunk: slice) -> list[str]:
        # A copy: what it is of on disk is let go before these are used.
        edges = np.array(self.edges[chunk.start : chunk.stop + 1])
        letters = self.letters[edges[0] : edges[-1]].tobytes()
        self._let_go()
        letter_places = (edges - edges[0]).tolist()
        ends = pairwise(letter_places)
        return [str(letters[start:end], "utf-8") for start, end in ends]

    def _let_go(self) -> None:
        let_go(self.letters)
        let_go(self.edges)

    @property
    def longest(self) -> int:
        """How many bytes the longest one has."""
        longest = 0
        for chunk in row_chunks(len(self)):
            edges = self.edges[chunk.start : chunk.stop + 1]
            longest = max(longest, int(np.diff(edges).max()))
        return longest

    def taken(self, places: Ints) -> Texts:
        """Those at these places (n,), in their order; on disk where these are."""
        if is_in_order(places, len(self)):
            return self
        return _packed(self._moved(places), folder_of(self.edges))

    def _moved(self, places: Ints) -> Iterator[_Packed]:
        for chunk in row_chunks(len(places)):
            of_chunk = places[chunk]
            begins = np.asarray(self.edges[of_chunk])
            lengths = self.edges[of_chunk + 1] - begins
            # Of each letter where it stood: its place here, moved by that of its text.
            new_begins = np.cumsum(lengths) - lengths
            stood = np.arange(int(lengths.sum())) + np.repeat(
                begins - new_begins, lengths
            )
            yield np.asarray(self.letters[stood]), np.asarray(lengths)
            self._let_go()


def packed_texts(
    chunks: Iterable[Sequence[str]], *, folder: Path | None = None
) -> Texts:
    """Texts that come in chunks; folder: where they are put on disk."""
    return _packed(map(_packed_chunk, chunks), folder)


def _packed_chunk(texts: Sequence[str]) -> _Packed:
    written = [text.encode() for text in texts]
    lengths = np.fromiter(map(len, written), dtype=np.int64, count=len(written))
    return np.frombuffer(b"".join(written), dtype=np.uint8), lengths


def _packed(chunks: Iterable[_Packed], folder: Path | None) -> Texts:
    letters = GrowingColumn(folder, np.uint8)
    edges = GrowingColumn(folder, np.int64)
    edges.append(np.zeros(1, dtype=np.int64))
    n_letters = 0
    for of_chunk, lengths in chunks:
        letters.append(of_chunk)
        edges.append(n_letters + np.cumsum(lengths))
        n_letters += len(of_chunk)
    return Texts(letters.close(), edges.close())
