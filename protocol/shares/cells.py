"""The cells of a table that several hospitals have rows of, known by tags only.

A cell is a label: a value of each of its columns. Its slices are its projections on
each choice of fewer columns, at least one: the totals that a receiver could subtract
shown cells from. Tags are those of `matching`, under a key that the coordinator lacks.
So it can put the hospitals' cells together and cannot tell what they are of:

    list = version (1) || min_rows (8) || min_providers (4) || min_changed (8)
           || earlier answers (2) || slices of a cell (2) || cells (8)
           || for each earlier answer its tag (16), who is left out (8)
           || for each cell its tag, then those of its slices (16 bytes each)

A provider sends the list of its own cells to the coordinator, cells ascending by tag;
the coordinator sends all hospitals the union, in the same form, which says of no cell
whose it is. The hospitals compare the union's digest, and each provider finds its own
cells in it, before anything is computed by it.

`agents/statistics/pooled_cells.py` and `tasks/coordinator/cells.py` send these
messages. Decision 73.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from protocol.errors import ProtocolViolation
from protocol.shares.matching import KEY_BYTES, TAG_BYTES, keyed_hashes

_VERSION = 1
_HEADER = struct.Struct(">BQIQHHQ")
_EARLIER = struct.Struct(f">{TAG_BYTES}sQ")
_DIGEST_TAG = b"consilium/cells/union/1"
MOST_CELLS = 10_000
MOST_THRESHOLD = 2**31
MOST_COLUMNS = 7
MOST_EARLIER = 24
"""Earlier answers that an order's cells are compared with jointly, the last ones."""

NOBODY = 0
"""Users count from 1."""

Label = tuple[str | None, ...]


@dataclass(frozen=True)
class Earlier:
    """An earlier answer that a receiver of this one can subtract from it."""

    # Of the order's number.
    tag: bytes
    # The receiver, where it is a provider and knows its own rows; else NOBODY.
    left_out: int


@dataclass(frozen=True)
class Limits:
    """What a cell has to reach, the largest of all providers' policies."""

    min_rows: int
    min_providers: int
    # People who have come since an earlier answer are none or so many, and those who
    # have gone.
    min_changed: int = 1
    earlier: tuple[Earlier, ...] = ()


@dataclass(frozen=True)
class CellList:
    """Cells by tag, each with the tags of its slices, and what a cell has to reach."""

    limits: Limits
    # Ascending by tag. All cells have as many slices.
    cells: dict[bytes, tuple[bytes, ...]]

    def encode(self) -> bytes:
        slices_by_cell = iter(self.cells.values())
        n_slices = len(next(slices_by_cell, ()))
        limits = self.limits
        header = _HEADER.pack(
            _VERSION,
            limits.min_rows,
            limits.min_providers,
            limits.min_changed,
            len(limits.earlier),
            n_slices,
            len(self.cells),
        )
        parts = [header]
        for earlier_answer in limits.earlier:
            earlier = _EARLIER.pack(earlier_answer.tag, earlier_answer.left_out)
            parts.append(earlier)
        for cell_tag, slices in self.cells.items():
            parts.append(cell_tag)
            parts += slices
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Inverse of `encode`; ProtocolViolation (code bad_message) for anything else."""
        if len(data) < _HEADER.size:
            raise _violation("is shorter than its header")
        header_fields = _HEADER.unpack_from(data)
        version, min_rows, min_providers, min_changed = header_fields[:4]
        n_earlier, n_slices, n_cells = header_fields[4:]
        cell_bytes = TAG_BYTES * (1 + n_slices)
        if version != _VERSION or n_slices > 2**MOST_COLUMNS:
            raise _violation("is not of this version")
        # The circuit's size follows from the thresholds and the earlier answers.
        for threshold in (min_rows, min_providers, min_changed):
            if not 1 <= threshold <= MOST_THRESHOLD:
                raise _violation("has a threshold out of range")
        if n_earlier > MOST_EARLIER:
            raise _violation(f"has more than {MOST_EARLIER} earlier answers")
        begin_cells = _HEADER.size + n_earlier * _EARLIER.size
        n_bytes = begin_cells + n_cells * cell_bytes
        has_other_length = len(data) != n_bytes
        if has_other_length or (n_slices and not n_cells):
            raise _violation("has another length than it says")
        earlier_bytes = data[_HEADER.size : begin_cells]
        earlier = []
        for tag, left_out in _EARLIER.iter_unpack(earlier_bytes):
            earlier.append(Earlier(tag, left_out))
        limits = Limits(
            min_rows,
            min_providers,
            min_changed,
            tuple(earlier),
        )
        cells = {}
        last_tag = b""
        for begin in range(begin_cells, len(data), cell_bytes):
            end = begin + cell_bytes
            tag, *slices = _split(data[begin:end])
            if tag <= last_tag:
                raise _violation("is not in order, or names a cell twice")
            cells[tag] = tuple(slices)
            last_tag = tag
        return cls(limits, cells)

    @property
    def digest(self) -> bytes:
        """SHA-256, 32 bytes: equal at all hospitals, or they compute by other cells."""
        digest_input = _DIGEST_TAG + self.encode()
        digest = hashlib.sha256(digest_input)
        return digest.digest()


def tags_of(key: bytes, label: Label) -> tuple[bytes, tuple[bytes, ...]]:
    """The tag of a cell, and those of its slices.

    `key` is session.group_key(b"cells"), else ProtocolViolation.

    Disclosure: to the coordinator, which lacks the key, which cells and slices are the
    same; to who has the key, whether a given label is among them.
    """
    if len(key) != KEY_BYTES:
        raise _violation("has a key of another length")
    n_columns = len(label)
    whole_label = _text(range(n_columns), label)
    label_texts = [whole_label]
    for columns in _proper_subsets(n_columns):
        label_texts.append(_text(columns, label))
    hashes = keyed_hashes(key, label_texts)
    cell_tag, *slices = _split(hashes)
    return cell_tag, tuple(slices)


def earlier_of(
    key: bytes,
    order_id: int,
    left_out: int,
) -> Earlier:
    """An earlier answer, known by a tag as cells are: hospitals that compute by the
    same list mean the same orders.
    """
    hashes = keyed_hashes(key, [f"earlier {order_id}"])
    (earlier_tag,) = _split(hashes)
    return Earlier(earlier_tag, left_out)


def list_of(
    key: bytes,
    labels: Iterable[Label],
    limits: Limits,
) -> CellList:
    """A provider's own cells."""
    tagged = [tags_of(key, label) for label in labels]
    tagged.sort()
    return CellList(limits, dict(tagged))


def union(lists: Mapping[int, CellList]) -> CellList:
    """All cells of the providers' lists. The coordinator runs it.

    ProtocolViolation (code cells_differ) where two hospitals say different things of
    one cell, or of the limits.
    """
    limits = {cell_list.limits for cell_list in lists.values()}
    slices_of: dict[bytes, tuple[bytes, ...]] = {}
    for cell_list in lists.values():
        for cell_tag, slices in cell_list.cells.items():
            known_slices = slices_of.setdefault(cell_tag, slices)
            if known_slices != slices:
                raise differ()
    n_slices = {len(slices) for slices in slices_of.values()}
    if len(limits) != 1:
        raise differ()
    if len(n_slices) > 1:
        raise differ()
    if len(slices_of) > MOST_CELLS:
        raise _violation(f"has more than {MOST_CELLS} cells with those of the others")
    (of_all,) = limits
    ascending = sorted(slices_of.items())
    return CellList(of_all, dict(ascending))


def differ() -> ProtocolViolation:
    """The hospitals do not compute by the same cells."""
    return ProtocolViolation(
        "The hospitals were not told the same cells, so numbers of different cells would be added.",
        remedy="Nothing was computed. Send the order again; if it repeats, the coordinator is broken or deviates.",
        code="cells_differ",
    )


def _proper_subsets(n_columns: int) -> Iterator[tuple[int, ...]]:
    for n_kept in range(1, n_columns):
        columns = range(n_columns)
        yield from itertools.combinations(columns, n_kept)


def _text(columns: Sequence[int], label: Label) -> str:
    """Which columns, and their values: no two different slices have one text."""
    label_values = [label[column] for column in columns]
    columns_and_values = [
        list(columns),
        label_values,
    ]
    return json.dumps(columns_and_values, separators=(",", ":"))


def _split(data: bytes) -> list[bytes]:
    tags = []
    for begin in range(0, len(data), TAG_BYTES):
        end = begin + TAG_BYTES
        tags.append(data[begin:end])
    return tags


def _violation(fault: str) -> ProtocolViolation:
    return ProtocolViolation(
        f"A list of cells {fault}.",
        remedy="Nothing of it was used. Run the same version at all sides.",
        code="bad_message",
    )
