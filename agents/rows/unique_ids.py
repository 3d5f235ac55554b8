"""The ids by which an order tells rows apart: read, checked, and put in order.

Ids are canonical texts, so that all kinds of databases give the same ones. Many are
packed, and compared in arrays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.rows.canonical_text import WHOLE_NUMBER, canonical_sql
from agents.rows.dataset import Dataset
from agents.rows.missing_values import capital, check_no_null
from agents.rows.relation import IDENTIFIED, UNIQUE_ID, quoted
from agents.rows.row_tables import is_rising
from agents.rows.row_texts import Texts, packed_texts
from analytics.arrays import CHUNK_ROWS, Ints, row_chunks
from protocol.errors import bad_request

_INTEGER = re.compile(r"-?\d+", re.ASCII)
_WIDEST_KEY = 64
"""Bytes of an id; among many longer ones Python's texts are compared."""
# Numbers of 19 digits may be larger than int64 holds.
_INT64_DIGITS = 18


def unique_ids(rows: Dataset, name: str) -> Sequence[str]:
    """The canonical text of each row's unique id, called `name`, in the rows' order.

    Raises BadRequest (code null, unique_id, duplicate_unique_id).
    """
    return ids_in_order(rows, name)[0]


def ids_in_order(rows: Dataset, name: str) -> tuple[Sequence[str], Ints]:
    """`unique_ids`, and `id_order` of them."""
    check_no_null(rows, name, [])
    n_bad = 0
    if rows.id_type == "BOOLEAN":
        n_bad = rows.n_rows
    elif rows.id_is_number or rows.id_type != "VARCHAR":
        n_bad = rows.n_rows - _count_whole(rows)
    if n_bad:
        raise bad_request(
            "unique_id",
            f"{capital(rows.told(n_bad))} with an unusable {name}.",
            "Use a column of integers, texts, dates or UUIDs as unique_id.",
        )
    ids = _read_ids(rows)
    order, n_doubled = _order(ids)
    if n_doubled:
        raise bad_request(
            "duplicate_unique_id",
            f"{capital(rows.told(n_doubled))} with a {name} that another row has too.",
            "Give one row per unique id: make it unique in the table, or use another column.",
        )
    return ids, order


def _read_ids(rows: Dataset) -> Sequence[str]:
    frames = rows.frames(f"SELECT {_id_sql(rows)} AS id FROM {IDENTIFIED}")  # noqa: S608
    chunks = (frame["id"].tolist() for frame in frames)
    if rows.n_rows > CHUNK_ROWS:
        return packed_texts(chunks, folder=rows.folder)
    return list(chain.from_iterable(chunks))


def _id_sql(rows: Dataset) -> str:
    return canonical_sql(quoted(UNIQUE_ID), rows.id_type)


def _count_whole(rows: Dataset) -> int:
    """How many ids are whole numbers."""
    is_whole = f"regexp_full_match({_id_sql(rows)}, '{WHOLE_NUMBER}')"
    sql = f"SELECT count(*) FILTER ({is_whole}) FROM {IDENTIFIED}"  # noqa: S608
    ((n_whole,),) = rows.query(sql)
    return int(n_whole)


def _order(ids: Sequence[str]) -> tuple[Ints, int]:
    """`id_order`, and how many ids another one before them is the same as."""
    if isinstance(ids, Texts):
        keys = _keys(ids)
        if keys is not None:
            order, n_doubled = _order_of_keys(keys)
            # 01 and 1 are two ids and one number.
            if not n_doubled or keys.dtype.kind == "S":
                return order, n_doubled
        ids = list(ids)
    return np.array(id_order(ids), dtype=np.int64), len(ids) - len(set(ids))


def _order_of_keys(keys: NDArray[Any]) -> tuple[Ints, int]:
    """The places of keys (n,) in their order, and how many equal the one before them."""
    if is_rising(keys):
        return np.arange(len(keys)), 0
    order = np.argsort(keys, kind="stable")
    n_equal = 0
    for chunk in row_chunks(len(keys) - 1):
        following = order[chunk.start + 1 : chunk.stop + 1]
        n_equal += int(np.count_nonzero(keys[order[chunk]] == keys[following]))
    return order, n_equal


def _keys(ids: Texts) -> NDArray[Any] | None:
    """What many ids are compared by, (n_rows,): int64 where all are whole numbers, else
    their UTF-8, whose order is that of Python's texts. None where neither holds them.
    """
    width = ids.longest
    if width > _WIDEST_KEY:
        return None
    if _are_whole(ids):
        return (
            _written_keys(ids, f"S{width}", np.int64)
            if width <= _INT64_DIGITS
            else None
        )
    return _written_keys(ids, f"S{width}", f"S{width}")


def _are_whole(ids: Texts) -> bool:
    return all(
        all(map(_INTEGER.fullmatch, ids[chunk])) for chunk in row_chunks(len(ids))
    )


def _written_keys(ids: Texts, written: str, kind: Any) -> NDArray[Any]:
    keys = np.empty(len(ids), dtype=kind)
    for chunk in row_chunks(len(ids)):
        encoded_ids = [id_text.encode() for id_text in ids[chunk]]
        keys[chunk] = np.array(encoded_ids, dtype=written).astype(kind)
    return keys


def id_order(ids: Sequence[str]) -> list[int]:
    """Positions in order of id: as numbers when all are whole numbers, else as text."""
    if all(_INTEGER.fullmatch(id_text) for id_text in ids):
        # 01 and 1 are one number: their texts put them in one order, however they were
        # read.
        return sorted(range(len(ids)), key=lambda i: (int(ids[i]), ids[i]))
    return sorted(range(len(ids)), key=ids.__getitem__)
