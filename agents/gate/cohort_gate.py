"""The gate before the rows of a training order, and what it remembers of the rows that it let through.

A gradient over rows that differ from an earlier order's by one patient is that patient's by subtraction, and one over
few rows says much of each. `agents/training/cohorts.py` asks this gate; `disclosure.py` is the one of joint statistics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.rows.cohort import Cohort, check_enough_rows
from agents.site.vault_database import KeyedDatabase, open_database
from protocol.errors import Refused
from protocol.policy import TableRules

Digests = NDArray[np.uint64]
"""(n_patients,), sorted, each once: keyed digests of unique ids."""

MIN_KEY_BYTES = 16


def check_gate(
    cohort: Cohort, digests: Digests, *, n_parameters: int, rules: TableRules, earlier: Iterable[Digests]
) -> None:
    """Let a cohort of another hospital's order pass, or refuse it. For training, test and fold rows.

    `digests` are the cohort's own (`id_digests`), `earlier` those of the requester's earlier cohorts on the table under
    the same key, `rules` the table's in the policy. For test rows, which train no parameter, n_parameters is 0.

    Two orders at one moment are each other's earlier ones: whoever lets a cohort through holds the ledger alone
    (`CohortLedger.alone`) from before `earlier` is read until the cohort is remembered.

    - min_rows: n_rows >= min_rows
    - earlier_cohort: the symmetric difference to each earlier cohort is 0 or >= min_rows
    - min_varying: in each feature the rows that differ from its commonest value (one that at least two rows have)
      are 0 or >= min_varying
    - max_parameter_share: n_parameters <= max_parameter_share * n_rows

    Raises Refused whose code is the rule.

    Disclosure: takes rows; a refusal shows its rule and the name of a feature, no count and no value.
    """
    check_enough_rows(cohort.n_rows, rules.min_rows)
    _check_differences(digests, earlier, rules.min_rows)
    _check_varying(cohort, rules.min_varying)
    check_parameters(cohort.n_rows, n_parameters, rules)


def _check_differences(digests: Digests, earlier: Iterable[Digests], min_rows: int) -> None:
    for other in earlier:
        # The difference is at least that of the sizes, and to count it takes long.
        if abs(digests.size - other.size) >= min_rows:
            continue
        n_different = np.setxor1d(digests, other, assume_unique=True).size
        if 0 < n_different < min_rows:
            raise Refused(
                f"These rows differ from those of an earlier order by fewer than {min_rows} patients, who could be"
                " found by comparing the two.",
                remedy="Use the same rows as before, or rows that differ more.",
                code="earlier_cohort",
            )


def _check_varying(cohort: Cohort, min_varying: int) -> None:
    columns = list(zip(cohort.attributes, cohort.X.T, strict=True))
    if cohort.y is not None and not cohort.labels:
        columns.append(("the label", cohort.y))  # of a linear model: it enters the sums as a feature does
    for name, column in columns:
        _, n_of_value = np.unique(column, return_counts=True)
        n_commonest = int(n_of_value.max())
        n_varying = cohort.n_rows - n_commonest
        # Where all values differ there is no commonest one, and every row has its part in the gradient.
        if n_commonest > 1 and 0 < n_varying < min_varying:
            raise Refused(
                f"In {name}, fewer than {min_varying} rows differ from its commonest value: its gradient would be"
                " theirs alone.",
                remedy="Leave this feature out, widen the SQL, or ask the hospital to lower min_varying.",
                code="min_varying",
                feature=name,
            )


def check_parameters(n_rows: int, n_parameters: int, rules: TableRules) -> None:
    """Refuse a model that has too many parameters for these rows (code max_parameter_share)."""
    if n_parameters > rules.max_parameter_share * n_rows:
        raise Refused(
            f"A model of {n_parameters} parameters is too large for this hospital's {n_rows} rows; it allows"
            f" {rules.max_parameter_share} parameters per row.",
            remedy="Use fewer attributes, more rows, or ask the hospital to raise max_parameter_share.",
            code="max_parameter_share",
        )


def id_digests(key: bytes, ids: Iterable[str]) -> Digests:
    """Keyed 8-byte BLAKE2b digests of canonical unique ids, sorted, each once.

    `key`: 16 to 64 bytes that never leave the hospital's vault; ValueError otherwise.

    Disclosure: without the key the digests say nothing; with it, whether a given id is among them.
    """
    if not MIN_KEY_BYTES <= len(key) <= hashlib.blake2b.MAX_KEY_SIZE:
        raise ValueError(f"key must have {MIN_KEY_BYTES} to {hashlib.blake2b.MAX_KEY_SIZE} bytes")
    digests = [hashlib.blake2b(text.encode(), key=key, digest_size=8).digest() for text in ids]
    numbers = np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
    return np.unique(numbers)


_SCHEMA = """
CREATE TABLE IF NOT EXISTS id_sets (hash BLOB PRIMARY KEY, digests BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cohorts (
    requester INTEGER NOT NULL, table_name TEXT NOT NULL, order_id TEXT NOT NULL, part TEXT NOT NULL,
    hash BLOB NOT NULL REFERENCES id_sets (hash),
    PRIMARY KEY (requester, table_name, order_id, part, hash)
) WITHOUT ROWID;
"""


class CohortLedger(KeyedDatabase):
    """The id digests of every cohort that was let through, per requester and table, in SQLite in the vault.

    `part` is "train", "test" and so on: one order may read a table twice, and its train and test rows must not
    differ by one patient either. `key` is made with the file and keys the digests. Each call opens and closes the
    file; a call that has returned is on disk (fsync). The file has mode 0600. Conflict (code vault_damaged) where it
    cannot be read: what was let through before must not be forgotten.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "cohorts.sqlite", _SCHEMA)

    def earlier(self, requester: int, table: str) -> list[Digests]:
        """The different id sets of the requester's cohorts on the table, this order's own among them.

        An order that starts again after a crash finds its own first reading here, which differs from it by no row.
        """
        query = (
            "SELECT digests FROM id_sets WHERE hash IN"
            " (SELECT hash FROM cohorts WHERE requester = ? AND table_name = ?)"
        )
        with open_database(self.path) as database:
            rows = database.execute(query, (requester, table.lower())).fetchall()
        return [np.frombuffer(row[0], dtype="<u8").astype(np.uint64) for row in rows]

    def remember(
        self, requester: int, parts: Iterable[tuple[str, str, Digests]], *, order_id: int | str
    ) -> None:
        """Write an order's cohorts down, all or none, before anything of them leaves.

        Each part is a table, what the order uses its rows for, and their digests. Idempotent: the same again changes
        nothing.
        """
        with open_database(self.path) as database:
            for table, part, digests in parts:
                stored = digests.astype("<u8").tobytes()
                # A hundred orders over the same patients keep their digests once.
                content_hash = hashlib.blake2b(stored, digest_size=32).digest()
                row = (requester, table.lower(), str(order_id), part, content_hash)
                database.execute("INSERT OR IGNORE INTO id_sets VALUES (?, ?)", (content_hash, stored))
                database.execute("INSERT OR IGNORE INTO cohorts VALUES (?, ?, ?, ?, ?)", row)
