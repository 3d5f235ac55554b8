"""A snapshot of more rows than one chunk: a small file that says what belongs to it, and
beside it one file of plain numbers for each array, which is read in chunks.

The small file is written last: it is the snapshot, and without it the others are
nothing. It holds their digests, so that a bit that a disk has turned is noticed.

Decision 138.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agents.rows.canonical import Members
from agents.rows.cohort import Cohort, Flow
from agents.rows.row_texts import Texts, packed_texts
from agents.site.vault import add_digest, damaged
from analytics.arrays import row_chunks, table_chunks
from protocol.machine.disk import locked, put_in_place, write_durably

_VERSION = 3
_TYPES = ("<f8", "<i8", "<u8", "|u1")


@dataclass(frozen=True)
class _Part:
    """An array in a file of its own."""

    type: str
    shape: tuple[int, ...]
    sha256: str


def write_large(path: Path, cohort: Cohort) -> None:
    """As `agents.rows.cohort_snapshot.save_cohort`; memory holds one chunk."""
    with locked(path.parent):
        if path.exists():
            return
        head: dict[str, Any] = {
            "version": _VERSION,
            "attributes": list(cohort.attributes),
            "labels": cohort.labels,
            "rounded": list(cohort.rounded),
            "levels": cohort.levels,
        }
        if cohort.flow is not None:
            head["flow"] = asdict(cohort.flow)
        parts: dict[str, _Part] = {}

        def keep(name: str, *arrays: NDArray[Any]) -> None:
            parts[name] = _write(_file_of(path, name), arrays)

        keep("X", cohort.X)
        texts = cohort.unique_ids
        if not isinstance(texts, Texts):
            texts = packed_texts([texts[chunk] for chunk in row_chunks(len(texts))])
        keep("letters", texts.letters)
        keep("edges", texts.edges)
        if cohort.weights is not None:
            keep("weights", cohort.weights)
        if cohort.y is not None and cohort.y.dtype == np.float64:
            keep("y", cohort.y)
        of_few = {"classes": cohort.y, "groups": cohort.groups}
        of_few["clusters"] = cohort.clusters
        for array_name, row_values in of_few.items():
            if row_values is not None and row_values.dtype == object:
                distinct_places, distinct = pd.factorize(row_values)
                head[array_name] = distinct.tolist()
                keep(array_name, distinct_places.astype(np.int64))
        members = cohort.members
        if members is not None:
            head["members"] = [members.form, list(members.values)]
            keep("members", members.ids, *members.values.values())
        head["parts"] = {name: asdict(part) for name, part in parts.items()}
        write_durably(path, add_digest(json.dumps(head).encode()))


def read_large(path: Path, head: dict[str, Any]) -> Cohort:
    """The cohort whose small file at `path` holds `head`; its tables stay on disk.

    Raises Conflict (code vault_damaged) for a file that is missing or altered, and
    ValueError, KeyError or TypeError for a head of another version.
    """
    if head["version"] != _VERSION:
        raise ValueError("version")
    arrays: dict[str, NDArray[Any]] = {}
    for array_name, fields in head["parts"].items():
        part = _Part(fields["type"], tuple(fields["shape"]), fields["sha256"])
        arrays[array_name] = _read(_file_of(path, array_name), part)
    members = None
    if "members" in head:
        form, column_names = head["members"]
        ids, *column_digests = arrays["members"]
        of_name = dict(zip(column_names, column_digests, strict=True))
        members = Members(ids, of_name, is_whole_row=False, form=form)
    return Cohort(
        Texts(arrays["letters"], arrays["edges"]),
        tuple(head["attributes"]),
        arrays["X"],
        _named(head, arrays, "classes") if "classes" in head else _own(arrays, "y"),
        head["labels"],
        tuple(head["rounded"]),
        members,
        head["levels"],
        Flow(**head["flow"]) if "flow" in head else None,
        _own(arrays, "weights"),
        _named(head, arrays, "groups"),
        _named(head, arrays, "clusters"),
    )


def _own(arrays: dict[str, NDArray[Any]], name: str) -> NDArray[Any] | None:
    """One number for each row: these stay in memory."""
    return np.array(arrays[name]) if name in arrays else None


def _named(
    head: dict[str, Any], arrays: dict[str, NDArray[Any]], name: str
) -> NDArray[np.object_] | None:
    if name not in head:
        return None
    distinct = np.empty(len(head[name]), dtype=object)
    distinct[:] = head[name]
    values: NDArray[np.object_] = distinct[np.asarray(arrays[name])]
    return values


def _file_of(path: Path, name: str) -> Path:
    return path.with_suffix(f".{name}")


def _write(path: Path, arrays: Sequence[NDArray[Any]]) -> _Part:
    """Arrays of one shape behind each other; whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    digest = hashlib.sha256()
    descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for array in arrays:
                for _, rows in table_chunks(array):
                    written = rows.tobytes()
                    digest.update(written)
                    file.write(written)
        put_in_place(temporary, path)
    except BaseException:
        # Whatever ends the writing, no half of a table stays, which would be patients'
        # rows.
        temporary.unlink(missing_ok=True)
        raise
    shape = arrays[0].shape if len(arrays) == 1 else (len(arrays), *arrays[0].shape)
    return _Part(arrays[0].dtype.str, shape, digest.hexdigest())


def _read(path: Path, part: _Part) -> NDArray[Any]:
    # The type stands in a file: as objects its bytes would be taken for places in
    # memory.
    if part.type not in _TYPES:
        raise ValueError("type")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise damaged(path) from None
    if digest != part.sha256:
        raise damaged(path)
    return np.memmap(path, dtype=part.type, mode="r", shape=part.shape)
