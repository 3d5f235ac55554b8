"""What a user asks of a provider's data, within the policy of its hospital: a file below
its data folder, a table, or a SELECT that `check_sql` lets that user run.

To read next: `agents.rows.database_rows` and `agents.rows.file_rows`.

Decisions 37 and 69.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from agents.rows.allowed_sql import CheckedQuery, check_sql
from agents.rows.cohort_sql import names_cohort
from agents.rows.database import DescribedQuery, Source, open_source
from agents.rows.database_rows import QueryRows, read_query
from agents.rows.dialect_text import quoted_names
from agents.rows.faults import safe_reading
from agents.rows.file_rows import FILE_TYPES, read_file
from agents.rows.files import DataFile, changed, open_data_file
from agents.rows.named_cohort import (
    cohort_source,
    usable_cohort,
    with_numbers,
)
from agents.rows.relation import (
    UNIQUE_ID,
    check_name,
    found_column,
    open_connection,
)
from agents.rows.snapshot import temporary_of
from agents.site.settings import SiteSettings
from protocol.errors import BadRequest, Refused
from protocol.policy import Policy


@dataclass(frozen=True)
class RowFacts:
    """What the relation IDENTIFIED does not say of its rows."""

    name: str
    populations: tuple[str, ...]
    is_whole_row: bool
    numbers: frozenset[str] = frozenset()
    id_is_number: bool = False
    file: DataFile | None = None
    version: tuple[int, int] | None = None


class Room:
    """Where connections are opened, and what they may write."""

    def __init__(
        self,
        settings: SiteSettings,
        stack: ExitStack,
        *,
        writes: Path | None = None,
        beside: Sequence[Path] = (),
    ) -> None:
        self.stack = stack
        self._spill = settings.state / "spill"
        self._writes = [str(path) for path in beside]
        if writes is not None:
            self._writes.append(str(temporary_of(writes)))
        self._described_by: Any = None

    def connection(self, *paths: str, attach: str | None = None) -> Any:
        """A connection that opens these paths, and the snapshot that is written."""
        return open_connection(
            self.stack, self._spill, paths=[*paths, *self._writes], attach=attach
        )

    def to_describe(self, attach: str | None) -> Any:
        """A connection that describes a query of the database, which `of_database` gives
        next.
        """
        self._described_by = self.connection(attach=attach)
        return self._described_by

    def of_database(self, attach: str | None) -> Any:
        """A connection for rows of the database, which may be a DuckDB file; once it is
        that which has described the query.
        """
        opened, self._described_by = self._described_by, None
        if opened is not None:
            return opened
        return self.connection(attach=attach)


def site_source(settings: SiteSettings) -> Source:
    return open_source(
        settings.data_url,
        statement_timeout_seconds=float(settings.statement_timeout_seconds),
        max_rows=settings.max_rows,
    )


def described_query(
    settings: SiteSettings, query: CheckedQuery, room: Room
) -> tuple[Source, DescribedQuery]:
    """A checked query where its rows are: in the database, or a cohort's in the vault.

    room: where they are read next.

    Raises as `Source.described` and `agents.rows.named_cohort.usable_cohort`.
    """
    if query.cohort is None:
        source = site_source(settings)
        return source, source.described(query, connect=room.to_describe)
    cohort_facts = usable_cohort(settings, query.cohort)
    source = cohort_source(settings, query.cohort)
    described = source.described(query, connect=room.to_describe)
    return source, with_numbers(described, cohort_facts)


def populations_of(query: CheckedQuery) -> tuple[str, ...]:
    return tuple(table.lower() for table in query.tables)


class DataRequest:
    """What a user asks of a provider's data, within the policy of its hospital."""

    def __init__(
        self,
        settings: SiteSettings,
        policy: Policy,
        requester: int,
        columns: Sequence[str] | None,
        and_numbers: bool,
        room: Room,
    ) -> None:
        assert policy.statistics is not None
        self.settings, self.policy, self.requester = settings, policy, requester
        self.columns = None if columns is None else list(dict.fromkeys(columns))
        self.and_numbers = and_numbers
        self.rules, self.room = policy.statistics, room
        self.timeout_seconds = float(settings.statement_timeout_seconds)
        self.is_foreign = requester != settings.user_id
        self.min_rows = self.rules.min_rows if self.is_foreign else 0

    def canonical_name(self, data_path: str, data_type: str) -> str:
        """The name that the data had when the snapshot was written; the file may be
        gone since.
        """
        if data_type in FILE_TYPES:
            root = Path(os.path.realpath(self.settings.data_folder))
            return os.path.relpath(os.path.realpath(root / data_path), root)
        return _database_name(data_path, data_type)

    def read(self, data_path: str, data_type: str) -> tuple[Any, RowFacts]:
        if data_type in FILE_TYPES:
            return self._read_file(data_path, data_type)
        if data_type in ("table", "sql"):
            return self._read_database(data_path, data_type)
        raise BadRequest(
            "data_type is none of csv, parquet, json, table and sql.",
            remedy="Write one of them.",
            code="data_type",
        )

    # files

    def _read_file(self, data_path: str, data_type: str) -> tuple[Any, RowFacts]:
        data_file = self.room.stack.enter_context(
            open_data_file(
                self.settings.data_folder, data_path, patterns=self.rules.files
            )
        )
        version = data_file.version
        connection = self.room.connection(data_file.path)
        unique_id = self._unique_id_of(data_file)
        with safe_reading(self.timeout_seconds, data_type):
            numbers = read_file(
                connection,
                data_file,
                data_type,
                # Any column of a file of texts may hold numbers.
                columns=None if self.and_numbers else self.columns,
                unique_id=unique_id,
            )
        if data_file.version != version:
            raise changed()
        row_facts = RowFacts(
            name=data_file.name,
            populations=(f"file {data_file.name}",),
            is_whole_row=unique_id is None,
            numbers=numbers,
            # All else has been copied in: what becomes of the file is nothing to it.
            file=data_file if data_type == "parquet" else None,
            version=version,
        )
        return connection, row_facts

    def _unique_id_of(self, file: DataFile) -> str | None:
        """The column that the policy names for this file; the first pattern that fits."""
        for pattern, column in self.rules.unique_ids.items():
            if fnmatchcase(file.name, pattern):
                return column
        return None

    # the site's database

    def _read_database(self, data_path: str, data_type: str) -> tuple[Any, RowFacts]:
        dialect = site_source(self.settings).dialect
        for column in self.columns or ():
            check_name(column)
        sql_text = data_path
        if data_type == "table" and not names_cohort(data_path):
            asked_columns = (
                self.columns if self._is_listed(data_path, dialect) else None
            )
            sql_text = _select(data_path, asked_columns, dialect)
        checked = self._checked(sql_text, dialect)
        named = ""
        if len(checked.tables) == 1:
            named = self.policy.rows(checked.tables[0]).unique_id
        with _named_by_policy(checked, named, self.columns or ()):
            source, described = described_query(self.settings, checked, self.room)
        unique_id = self._unique_id(described, named, data_type)
        rows = self._rows(source, described, unique_id)
        row_facts = RowFacts(
            name=_database_name(data_path, data_type),
            populations=populations_of(checked),
            is_whole_row=unique_id is None,
            numbers=rows.numbers,
            id_is_number=rows.id_is_number,
        )
        return rows.connection, row_facts

    def _is_listed(self, table: str, dialect: str) -> bool:
        """Whether the columns of a table are named, and not all of them by *.

        A name in quotes is one in Oracle's own spelling, most often capitals: where the
        policy lists no columns, nobody here knows it before the database is asked.
        """
        if not self.is_foreign or self.and_numbers:
            return False
        return dialect != "oracle" or not self.policy.table(table).all_columns

    def _rows(
        self, source: Source, described: DescribedQuery, unique_id: str | None
    ) -> QueryRows:
        return read_query(
            source,
            described,
            columns=self._needed(described),
            unique_id=unique_id,
            connect=self.room.of_database,
        )

    def _needed(self, described: DescribedQuery) -> list[str] | None:
        if self.columns is None or not self.and_numbers:
            return self.columns
        needed_columns = {name.lower(): name for name in self.columns}
        for column in described.columns:
            if column.is_number and column.name != UNIQUE_ID:
                needed_columns.setdefault(column.name.lower(), column.name)
        return list(needed_columns.values())

    def _unique_id(
        self, described: DescribedQuery, named: str, data_type: str
    ) -> str | None:
        """The column of the result that says whose a row is.

        Another hospital's SELECT gets it while it is checked. The own user's SELECT is
        free, so it has one only if its result holds the unique id of its only table;
        else the digest of all that it selects stands for it.
        """
        # The last one of a foreign SELECT is the id that was added while it was
        # checked.
        for name in described.names[:-1] if self.is_foreign else described.names:
            check_name(name)
        if self.is_foreign:
            return UNIQUE_ID
        id_column = found_column(named, described.names) if named else None
        if id_column is None and data_type == "table":
            raise _no_unique_id(described.query, named)
        return id_column

    def _checked(self, text: str, dialect: str) -> CheckedQuery:
        """`check_sql` with the unique id of the one table that the text reads,
        whichever that is.
        """
        unique_ids = list(
            dict.fromkeys(rules.unique_id for rules in self.policy.opened.values())
        ) or ["id"]
        for unique_id in unique_ids:
            try:
                return check_sql(
                    text,
                    policy=self.policy,
                    requester=self.requester,
                    own_user_id=self.settings.user_id,
                    unique_id=unique_id,
                    label=None,
                    dialect=dialect,
                    unique_id_as=UNIQUE_ID,
                )
            except Refused as error:
                if error.code != "unique_id" or unique_id == unique_ids[-1]:
                    raise
        raise AssertionError("the last unique id returns or raises")


def _select(table: str, columns: Sequence[str] | None, dialect: str) -> str:
    """A SELECT of `schema.table`, for `check_sql` to look at."""
    if not re.fullmatch(r"[\w ]+(\.[\w ]+)?", table):
        raise Refused(
            "data_path names no table.", remedy="Write schema.table.", code="tables"
        )
    selected = "*"
    if columns is not None:
        selected = ", ".join(quoted_names(dialect, [column]) for column in columns)
    dotted = quoted_names(dialect, table.split("."))
    return f"SELECT {selected} FROM {dotted}"  # noqa: S608


def _database_name(data_path: str, data_type: str) -> str:
    """One name for one table; of a SELECT its text, with blanks and a semicolon at its
    end as they do not matter.
    """
    if data_type == "table":
        return data_path.strip().lower()
    return " ".join(data_path.strip("; \n\t").split())


@contextmanager
def _named_by_policy(
    checked: CheckedQuery, unique_id: str, asked_columns: Sequence[str]
) -> Iterator[None]:
    """Says of a missing column that nobody asked for why it is needed."""
    try:
        yield
    except BadRequest as error:
        is_its_own = bool(unique_id) and unique_id not in asked_columns
        if not is_its_own or f"has no column {unique_id}." not in str(error):
            raise
        raise _no_unique_id(checked, unique_id) from None


def _no_unique_id(checked: CheckedQuery, unique_id: str) -> BadRequest:
    return BadRequest(
        f"{checked.tables[0]} has no column {unique_id}, which this hospital's policy names as its unique id.",
        remedy="Set unique_id of that table in its policy.toml to the column that identifies each patient.",
        code="missing_column",
    )
