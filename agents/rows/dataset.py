"""One provider's data as a relation of DuckDB: what statistics, training and inference
read of a file, a table or a SELECT.

Beside each row stands whose it is, whatever columns were asked for: the unique id that
the policy names for the table or file, else the digest of the whole row, which DuckDB
computes. No statistic sees it: it is in a relation of its own, under a name that no
order can use. `agents.rows.canonical` reads it.

To read next: `agents.rows.reading`, which opens one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from agents.rows.database import interrupted_after
from agents.rows.faults import safe_reading
from agents.rows.files import DataFile, changed, no_column
from agents.rows.relation import BATCH_ROWS

_VECTORS = 32
"""Of 2,048 rows each, in a data frame."""


@dataclass(frozen=True)
class Dataset:
    """Rows as the relation `rows` of a locked DuckDB connection; closed by leaving
    `agents.rows.reading`.

    name: what the data are called, the same for every spelling of the path; columns:
    each one's type as DuckDB writes it, VARCHAR for all that are no numbers, without
    blanks around and NULL where nothing else is; min_rows: smaller counts are not told
    (0 for the own user). populations: whose people the rows are of: the policy's tables
    in lower case, or "file NAME"; more than one for a SELECT over several tables.
    id_type: the type of UNIQUE_ID in the relation IDENTIFIED, as in columns; is_whole_row:
    it is the digest of the whole row, because nothing names a unique id. numbers: columns
    that the source holds as numbers, those of VARCHAR with every digit; id_is_number: so
    does it the unique id.

    Disclosure: patients' rows. agents.rows reads them; nothing else may.
    """

    name: str
    columns: dict[str, str]
    n_rows: int
    min_rows: int
    timeout_seconds: float
    connection: Any = field(repr=False)
    # By column of categories the levels that all hospitals agree on: a label that is
    # none of them is OTHER (`agents.rows.column_text.label_sql`).
    levels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    file: DataFile | None = field(default=None, repr=False)
    version: tuple[int, int] | None = None
    populations: tuple[str, ...] = ()
    id_type: str = "VARCHAR"
    is_whole_row: bool = False
    numbers: frozenset[str] = frozenset()
    id_is_number: bool = False
    # Rows that were read and are none of the data: complete_on needs a value.
    n_left_out: int = 0

    @property
    def population(self) -> str:
        """The one table or file; of a SELECT over several tables the first."""
        return self.populations[0]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a SELECT over `rows`. Errors hold no value."""
        return [row for batch in self.batches(sql) for row in batch]

    def batches(
        self, sql: str, batch_rows: int = BATCH_ROWS
    ) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a SELECT over `rows`, streamed: memory holds one batch. One query
        runs at a time.
        """
        with self._running(sql) as cursor:
            while batch := cursor.fetchmany(batch_rows):
                yield batch

    def frames(
        self, sql: str, parameters: Sequence[Any] = ()
    ) -> Iterator[pd.DataFrame]:
        """The same as data frames of some ten thousand rows. Parameters are in no error."""
        with self._running(sql, parameters) as cursor:
            while len(frame := cursor.fetch_df_chunk(_VECTORS)):
                yield frame

    @property
    def folder(self) -> Path:
        """Where arrays of these rows are that are too large for memory: private, of this
        hospital, and there after the connection.
        """
        (spill_folder,) = self.connection.execute(
            "SELECT current_setting('temp_directory')"
        ).fetchone()
        return Path(spill_folder).parent

    def told(self, n: int, what: str = "row") -> str:
        """How many rows are meant, without telling a small number of another hospital's
        patients.
        """
        if n < self.min_rows:
            return f"fewer than {self.min_rows} {what}s"
        return f"{n} {what}{'' if n == 1 else 's'}"

    def check_column(self, name: str) -> str:
        """The column's type.

        BadRequest (code missing_column) lists the columns that there are.
        """
        if name not in self.columns:
            raise no_column(name, self.columns)
        return self.columns[name]

    def is_number(self, name: str) -> bool:
        """Whether the source holds a column's values as numbers; a text of digits, as
        of a csv file, is none.
        """
        return self.check_column(name) != "VARCHAR" or name in self.numbers

    @contextmanager
    def _running(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        with (
            safe_reading(self.timeout_seconds),
            interrupted_after(self.timeout_seconds, self.connection),
        ):
            yield self.connection.execute(sql, list(parameters))
        if self.file is not None and self.file.version != self.version:
            raise changed()
