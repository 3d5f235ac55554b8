"""A cohort's snapshot in the vault: bytes without pickle, floats bit for bit, whole or not
at all.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.rows.canonical import Members
from agents.rows.cohort import Cohort, Flow
from agents.rows.large_snapshot import read_large, write_large
from agents.site.stored_arrays import decode_arrays, encode_arrays
from agents.site.vault import add_digest, read_checked
from analytics.arrays import CHUNK_ROWS
from protocol.errors import Conflict, NotFound
from protocol.machine.disk import make_private_folder, write_once

_SNAPSHOT_VERSION = 2


def encode_cohort(cohort: Cohort) -> bytes:
    """A cohort as bytes (npz without pickle); `decode_cohort` gives the same back,
    floats bit for bit.

    Disclosure: patients' rows in clear; the bytes belong into the hospital's vault
    only.
    """
    is_float = cohort.y is not None and cohort.y.dtype == np.float64
    head: dict[str, Any] = {
        "version": _SNAPSHOT_VERSION,
        "unique_ids": list(cohort.unique_ids),
        "attributes": list(cohort.attributes),
        "labels": cohort.labels,
        "rounded": cohort.rounded,
        "classes": None if cohort.y is None or is_float else cohort.y.tolist(),
    }
    if cohort.levels:
        head["levels"] = cohort.levels
    for field_name in ("groups", "clusters"):
        field_texts = getattr(cohort, field_name)
        if field_texts is not None:
            head[field_name] = field_texts.tolist()
    if cohort.flow is not None:
        flow = cohort.flow
        head["flow"] = [flow.n_selected, flow.n_used, flow.n_undefined]
    if cohort.members is not None:
        head["members"] = [cohort.members.form, list(cohort.members.values)]
    arrays: dict[str, NDArray[Any]] = {
        "head": np.frombuffer(json.dumps(head).encode(), dtype=np.uint8),
        "X": cohort.X,
    }
    if is_float and cohort.y is not None:
        arrays["y"] = cohort.y
    if cohort.weights is not None:
        arrays["weights"] = cohort.weights
    if cohort.members is not None:
        arrays["ids"] = cohort.members.ids
        arrays["values"] = np.array(list(cohort.members.values.values()))
    return encode_arrays(arrays)


def decode_cohort(data: bytes) -> Cohort:
    """Inverse of `encode_cohort`.

    Raises Conflict (code snapshot) for bytes that are damaged or of another version.
    """
    try:
        return _decoded(data)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile):
        raise _unusable() from None


def _unusable() -> Conflict:
    return Conflict(
        "The snapshot of the cohort in the vault is damaged or of another version.",
        remedy="Restore the vault from its backup, or cancel the order and order again.",
        code="snapshot",
    )


def _decoded(data: bytes) -> Cohort:
    arrays = decode_arrays(data)
    head = json.loads(arrays["head"].tobytes())
    X, y = arrays["X"], arrays.get("y")
    members = None
    if "members" in head:
        form, column_names = head["members"]
        column_digests = dict(zip(column_names, arrays["values"], strict=True))
        members = Members(arrays["ids"], column_digests, is_whole_row=False, form=form)
    if head["version"] != _SNAPSHOT_VERSION or X.dtype != np.float64:
        raise ValueError("version or type")
    if head["classes"] is not None:
        y = np.empty(len(head["classes"]), dtype=object)
        y[:] = head["classes"]
    n_rows, n_features = X.shape
    groups = _texts(head, "groups", n_rows)
    clusters = _texts(head, "clusters", n_rows)
    if (
        len(head["unique_ids"]) != n_rows
        or len(head["attributes"]) != n_features
        or (y is not None and len(y) != n_rows)
    ):
        raise ValueError("shape")
    return Cohort(
        head["unique_ids"],
        tuple(head["attributes"]),
        X,
        y,
        head["labels"],
        tuple(head["rounded"]),
        members,
        head.get("levels", {}),
        Flow(*head["flow"]) if "flow" in head else None,
        arrays.get("weights"),
        groups,
        clusters,
    )


def _texts(head: dict[str, Any], name: str, n_rows: int) -> NDArray[np.object_] | None:
    if name not in head:
        return None
    row_texts = np.array(head[name], dtype=object)
    if row_texts.shape != (n_rows,):
        raise ValueError("shape")
    return row_texts


def save_cohort(path: Path, cohort: Cohort) -> None:
    """Write a cohort's snapshot with its digest: temporary file of mode 0600, fsync,
    rename, fsync of the folder.

    After a crash at any moment none or the whole one is there; one that is there stays.
    Disclosure: as `encode_cohort`.
    """
    make_private_folder(path.parent)
    if cohort.n_rows > CHUNK_ROWS:
        write_large(path, cohort)
        return
    write_once(path, add_digest(encode_cohort(cohort)))


def load_cohort(path: Path) -> Cohort:
    """The snapshot at `path`; of one that is larger than a chunk the tables stay on disk.

    Raises NotFound when there is none (code snapshot),
    Conflict when it is damaged (code vault_damaged) or of another version (code
    snapshot).
    """
    try:
        snapshot_bytes = read_checked(path)
        # JSON, which an npz never begins as: the small file of a large snapshot.
        if snapshot_bytes.startswith(b"{"):
            return read_large(path, json.loads(snapshot_bytes))
        return decode_cohort(snapshot_bytes)
    except (ValueError, KeyError, TypeError):
        raise _unusable() from None
    except FileNotFoundError:
        raise NotFound(
            "The vault holds no snapshot of this cohort.",
            remedy="Read the rows again.",
            code="snapshot",
        ) from None
