"""Who is in a reading and with which values, as keyed digests of canonical texts.

The audit of what may be told compares sets of people of today with those of earlier
answers. It has to know a person and a value again, whether a statistic or a training
order reads them and whatever the source; it needs neither in clear. So each is a digest
of 64 bits of its canonical text (`agents.rows.canonical_text`) under a key of this
hospital. Values' digests carry the number of their form, ids' do not: sets of another
form are compared by ids alone.

Decision 69.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agents.rows.canonical_text import FORM as FORM
from agents.rows.canonical_text import canonical_sql
from agents.rows.dataset import Dataset
from agents.rows.relation import IDENTIFIED, UNIQUE_ID, quoted
from agents.rows.row_tables import empty_table
from analytics.arrays import let_go
from protocol.errors import BadRequest

Digests = NDArray[np.uint64]

ID_FORM = 1
"""Never to be raised: people are known again by it when values are written otherwise."""

FEW_ROWS = 2048
"""Up to which planning the query takes longer than running it."""


@dataclass(frozen=True, eq=False)
class Members:
    """The rows of one reading, in no particular order; the same order in each array.

    ids are as the rows have them: of a person with several rows the digest stands there
    several times, once for each row. Who counts people counts each once.

    Disclosure: which rows two readings share, and which of them have the same value, to
    who has both; who has the key too can try values. They stay in the vault.
    """

    # uint64 (n_rows,): of the unique id, or of the whole row
    ids: Digests = field(repr=False)
    # by column, uint64 (n_rows,): of the value; 0 where there is none
    values: dict[str, Digests] = field(repr=False)
    # ids are digests of whole rows: a corrected row is another person, and min_rows
    # counts twice
    is_whole_row: bool
    # of the values' texts
    form: int


def members_of(dataset: Dataset, columns: Sequence[str], *, key: bytes) -> Members:
    """The members of a dataset, with their values in these columns; all of its rows.

    DuckDB computes them; Python sees digests only. BadRequest: missing_column; null for
    rows without a unique id. Errors as `Dataset.query`.

    Disclosure: as `Members`.
    """
    column_kinds = {column: dataset.check_column(column) for column in columns}
    id_text = canonical_sql(quoted(UNIQUE_ID), dataset.id_type)
    if dataset.n_rows <= FEW_ROWS:
        sql = _sql_by_type(id_text, column_kinds)
    else:
        sql = _sql_by_column(id_text, column_kinds)
    prefixes = _prefixes(key)
    if not columns:
        prefixes = prefixes[:1]
    # A column's digests stand together: the audit looks at one column after the other.
    shape = (1 + len(column_kinds), dataset.n_rows)
    digests = empty_table(dataset.folder, shape, np.uint64)
    first = 0
    for frame in dataset.frames(sql, prefixes):
        digests[:, first : first + len(frame)] = frame.to_numpy(dtype=np.uint64).T
        first += len(frame)
        let_go(digests)
    ids, *column_digests = digests
    _check_ids(ids, dataset)
    by_column = dict(zip(column_kinds, column_digests, strict=True))
    return Members(ids, by_column, dataset.is_whole_row, FORM)


# Of both texts the first parameter is the secret prefix of ids, the second that of
# values, where there are any.


def _sql_by_column(id_text: str, kinds: Mapping[str, str]) -> str:
    """Digests of ids as `id` and of columns as c0, c1, ..., each written by itself."""
    texts = [f"{id_text} AS id"]
    digests = [f"{_digest_sql('$1', 'id')} AS id"]
    for i, (column, kind) in enumerate(kinds.items()):
        texts.append(f"{canonical_sql(quoted(column), kind)} AS c{i}")
        digests.append(f"{_digest_sql('$2', f'c{i}')} AS c{i}")
    return f"SELECT {', '.join(digests)} FROM (SELECT {', '.join(texts)} FROM {IDENTIFIED})"  # noqa: S608


def _sql_by_type(id_text: str, kinds: Mapping[str, str]) -> str:
    """As `_sql_by_column`, with one expression for all columns of a type, over lists.

    To plan sixty columns one by one takes DuckDB half a second, however few the rows.
    """
    of_type: dict[str, list[str]] = {}
    selected = [f"{_digest_sql('$1', 'id')} AS id"]
    for i, (column, kind) in enumerate(kinds.items()):
        columns = of_type.setdefault(kind, [])
        columns.append(quoted(column))
        number = list(of_type).index(kind)
        selected.append(f"l{number}[{len(columns)}] AS c{i}")
    lists = [f"{id_text} AS id"]
    for number, (kind, columns) in enumerate(of_type.items()):
        texts = f"list_transform([{', '.join(columns)}], lambda v: {canonical_sql('v', kind)})"
        digests = f"list_transform({texts}, lambda t: {_digest_sql('$2', 't')})"
        lists.append(f"{digests} AS l{number}")
    return f"SELECT {', '.join(selected)} FROM (SELECT {', '.join(lists)} FROM {IDENTIFIED})"  # noqa: S608


def _digest_sql(prefix: str, text: str) -> str:
    digest = f"CAST('0x' || left(sha256({prefix} || {text}), 16) AS UBIGINT)"
    # 0 is no value.
    return f"CASE WHEN {text} IS NULL THEN 0::UBIGINT ELSE greatest({digest}, 1) END"


def _prefixes(key: bytes) -> list[str]:
    """What stands before the text of an id and of a value: 128 bits each that only who
    has the key can compute.

    With a text of up to 23 bytes they fill one block of SHA-256, which the key itself
    would not leave room for.
    """
    prefixes = []
    for form in (ID_FORM, FORM):
        derived = hmac.digest(key, b"consilium/members/%d" % form, hashlib.sha256)
        prefixes.append(derived[:16].hex())
    return prefixes


def _check_ids(ids: Digests, dataset: Dataset) -> None:
    n_without = int(np.count_nonzero(ids == 0))
    if not n_without:
        return
    count_text = dataset.told(n_without)
    raise BadRequest(
        f"{count_text[0].upper()}{count_text[1:]} without a value in the unique id.",
        remedy="Fill it, or leave these rows out: without it nobody knows whose rows they are.",
        code="null",
    )
