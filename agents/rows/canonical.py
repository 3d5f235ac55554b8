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
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agents.rows.canonical_text import FORM as FORM
from agents.rows.canonical_text import canonical_sql
from agents.rows.dataset import Dataset
from agents.rows.relation import IDENTIFIED, UNIQUE_ID, quoted
from protocol.errors import BadRequest

Digests = NDArray[np.uint64]

ID_FORM = 1
"""Never to be raised: people are known again by it when values are written otherwise."""


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
    cells = [canonical_sql(quoted(UNIQUE_ID), dataset.id_type)]
    for name in columns:
        cells.append(canonical_sql(quoted(name), dataset.check_column(name)))
    prefixes = _prefixes(key)[: len(cells)]
    arrays = dataset.arrays(_digest_sql(cells, IDENTIFIED), prefixes)
    ids, *values = (arrays[f"c{i}"] for i in range(len(cells)))
    _check_ids(ids, dataset)
    by_column = dict(zip(columns, values, strict=True))
    return Members(ids, by_column, dataset.is_whole_row, FORM)


def _digest_sql(cells: Sequence[str], relation: str) -> str:
    """Digests of canonical texts, of which the first is the id's; the parameters are
    its secret prefix and that of values, where there are any.
    """
    texts = ", ".join(f"{cell} AS c{i}" for i, cell in enumerate(cells))
    digests = []
    for i in range(len(cells)):
        prefix = "$2" if i else "$1"
        digest = f"CAST('0x' || left(sha256({prefix} || c{i}), 16) AS UBIGINT)"
        # 0 is no value.
        digests.append(
            f"CASE WHEN c{i} IS NULL THEN 0::UBIGINT ELSE greatest({digest}, 1) END AS c{i}"
        )
    return f"SELECT {', '.join(digests)} FROM (SELECT {texts} FROM {relation})"  # noqa: S608


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
    found = dataset.told(n_without)
    raise BadRequest(
        f"{found[0].upper()}{found[1:]} without a value in the unique id.",
        remedy="Fill it, or leave these rows out: without it nobody knows whose rows they are.",
        code="null",
    )
