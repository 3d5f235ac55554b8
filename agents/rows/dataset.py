"""One provider's data for joint statistics: a file, a table or a SELECT as one relation of DuckDB, and nothing else.

The connection is in memory, may spill to a private folder, and can open no file but the one it was given. Columns are
numbers of their type, or text; numbers of csv and json files stay the text that is written there, so that no digit is
lost. A parquet file is read where it lies, all else is copied in once: what is asked later sees the same rows.

Decisions 37, 42 and 59.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from agents.rows.allowed_sql import CheckedQuery, check_sql
from agents.rows.database import Source, attach_read_only, interrupted_after, open_source
from agents.rows.faults import MEMORY_LIMIT, safe_errors, safe_reading
from agents.rows.files import DataFile, changed, csv_header, json_batches, no_column, open_data_file
from agents.site.settings import Settings
from agents.site.vault import damaged
from protocol.errors import BadRequest, Refused, TooLarge
from protocol.machine.disk import make_private_folder, put_in_place
from protocol.policy import Policy

FILE_TYPES = ("csv", "parquet", "json")
THREADS = 2
BATCH_ROWS = 10_000
MAX_COLUMNS = 4_096
_CONFIGURATION: dict[str, Any] = {
    "threads": THREADS,
    "memory_limit": MEMORY_LIMIT,
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
}
_BLANKS = " \t\r\n\f\v" + "".join(
    map(chr, (0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000))
)
_NUMBER_TYPES = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|BOOLEAN|FLOAT|DOUBLE|DECIMAL\(\d+,\d+\)")


@dataclass(frozen=True)
class Dataset:
    """Rows as the relation `rows` of a locked DuckDB connection; closed by leaving `open_dataset`.

    name: what the data are called, the same for every spelling of the path; columns: each one's type as DuckDB writes
    it, VARCHAR for all that are no numbers, without blanks around and NULL where nothing else is; min_rows: smaller
    counts are not told (0 for the own user).

    Disclosure: patients' rows. agents.rows.exact_totals and agents.rows.join_columns read them; nothing else may.
    """

    name: str
    columns: dict[str, str]
    n_rows: int
    min_rows: int
    timeout_seconds: float
    connection: Any = field(repr=False)
    file: DataFile | None = field(default=None, repr=False)
    version: tuple[int, int] | None = None

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a SELECT over `rows`. Errors hold no value."""
        return [row for batch in self.batches(sql) for row in batch]

    def batches(self, sql: str, batch_rows: int = BATCH_ROWS) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a SELECT over `rows`, streamed: memory holds one batch. One query runs at a time."""
        with self._running(sql) as cursor:
            while batch := cursor.fetchmany(batch_rows):
                yield batch

    def frames(self, sql: str) -> Iterator[pd.DataFrame]:
        """The same as data frames of some hundred thousand rows."""
        with self._running(sql) as cursor:
            while len(frame := cursor.fetch_df_chunk(64)):
                yield frame

    def told(self, n: int, what: str = "row") -> str:
        """How many rows are meant, without telling a small number of another hospital's patients."""
        if n < self.min_rows:
            return f"fewer than {self.min_rows} {what}s"
        return f"{n} {what}{'' if n == 1 else 's'}"

    def check_column(self, name: str) -> str:
        """The column's type. BadRequest (code missing_column) lists the columns that there are."""
        if name not in self.columns:
            raise no_column(name, self.columns)
        return self.columns[name]

    @contextmanager
    def _running(self, sql: str) -> Iterator[Any]:
        with safe_reading(self.timeout_seconds), interrupted_after(self.timeout_seconds, self.connection):
            yield self.connection.execute(sql)
        if self.file is not None and self.file.version != self.version:
            raise changed()


@contextmanager
def open_dataset(
    settings: Settings,
    policy: Policy,
    *,
    data_path: str,
    data_type: str,
    requester: int,
    columns: Sequence[str] | None = None,
    snapshot: Path | None = None,
) -> Iterator[Dataset]:
    """Opens a provider's data, for a user and within the policy of its hospital.

    data_type csv, parquet and json (one object a line): a file below settings.data_folder that statistics.files
    opens; table: `schema.table` of the site's database; sql: a SELECT that `check_sql` lets the requester run.
    columns: those that are needed, each in the data once; None for all. snapshot: a parquet file in the vault. The
    first call writes it, whole or not at all and for the owner only; every later call reads it and nothing else, so
    that all rounds of an order see the same rows even after a crash.

    Raises Refused (data_path, files, data_type, statistics and the codes of `check_sql`), BadRequest (missing_file,
    missing_column, duplicate_column, no_rows, empty_file, no_header, delimiter, encoding, csv, json, parquet,
    changed, and those of `Source.read`), TooLarge (max_rows, statement_timeout, memory), Unavailable.

    Disclosure: as `Dataset`; errors name columns, lines and, not below min_rows, counts.
    """
    if policy.statistics is None:
        raise Refused(
            "This hospital takes no part in joint statistics.",
            remedy="Ask it to add a section [statistics] to its policy.toml.",
            code="statistics",
        )
    if columns is not None and len(columns) > MAX_COLUMNS:
        raise TooLarge(
            f"More than {MAX_COLUMNS} columns are asked for.", remedy="Ask for fewer.", code="columns"
        )
    with ExitStack() as stack:
        needed = None if columns is None else list(dict.fromkeys(columns))
        rows = _Rows(settings, policy, requester, needed, stack, writes=snapshot and _temporary(snapshot))
        if snapshot is not None and snapshot.exists():
            yield rows.from_snapshot(snapshot, name=rows.canonical_name(data_path, data_type))
            return
        dataset = rows.read(data_path, data_type)
        if snapshot is None:
            yield dataset
            return
        _write_snapshot(dataset, snapshot)
        yield rows.from_snapshot(snapshot, name=dataset.name)


class _Rows:
    """Brings one provider's data into a DuckDB connection of their own."""

    def __init__(
        self,
        settings: Settings,
        policy: Policy,
        requester: int,
        columns: list[str] | None,
        stack: ExitStack,
        *,
        writes: Path | None = None,
    ) -> None:
        assert policy.statistics is not None
        self.settings, self.policy, self.requester = settings, policy, requester
        self.columns, self.stack = columns, stack
        self.writes = [str(writes)] if writes is not None else []
        self.rules = policy.statistics
        self.timeout_seconds = float(settings.statement_timeout_seconds)

    def read(self, data_path: str, data_type: str) -> Dataset:
        if data_type in FILE_TYPES:
            file = self.stack.enter_context(
                open_data_file(self.settings.data_folder, data_path, patterns=self.rules.files)
            )
            read = {"csv": self._from_csv, "json": self._from_json, "parquet": self._from_parquet}[data_type]
            version = file.version
            connection = self._connection(file.path)
            with safe_reading(self.timeout_seconds, data_type):
                read(connection, file)
            if file.version != version:
                raise changed()
            kept = file if data_type == "parquet" else None
            return self._dataset(connection, file.name, file=kept, version=version)
        if data_type in ("table", "sql"):
            return self._from_database(data_path, data_type)
        raise BadRequest(
            "data_type is none of csv, parquet, json, table and sql.",
            remedy="Write one of them.",
            code="data_type",
        )

    def from_snapshot(self, path: Path, *, name: str) -> Dataset:
        connection = self._connection(str(path))
        try:
            connection.execute(f"CREATE VIEW rows AS SELECT {_from_snapshot(connection, path)}")
        except duckdb.Error:
            raise damaged(path) from None
        return self._dataset(connection, name)

    def canonical_name(self, data_path: str, data_type: str) -> str:
        """The name that the data had when the snapshot was written; the file may be gone since."""
        if data_type in FILE_TYPES:
            root = Path(os.path.realpath(self.settings.data_folder))
            return os.path.relpath(os.path.realpath(root / data_path), root)
        return _database_name(data_path, data_type)

    # a connection and what it ends with

    def _connection(self, *paths: str, attach: str | None = None) -> Any:
        """In memory, spilling to a private folder; nothing can be opened but `paths`, and nothing set any more."""
        spill = _spill_folder(self.settings.state / "spill")
        self.stack.callback(shutil.rmtree, spill, ignore_errors=True)
        connection = duckdb.connect(config=_CONFIGURATION)
        self.stack.callback(connection.close)
        if attach is not None:
            attach_read_only(connection, attach, name=_ATTACHED)
            connection.execute(f"USE {_ATTACHED}")
        connection.execute(f"SET allowed_paths = [{', '.join(map(_text, [*paths, *self.writes]))}]")
        for setting in (
            f"temp_directory = {_text(str(spill))}",
            "preserve_insertion_order = true",
            "enable_external_access = false",
            "python_enable_replacements = false",
            "enable_progress_bar = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")
        return connection

    def _dataset(
        self,
        connection: Any,
        name: str,
        *,
        file: DataFile | None = None,
        version: tuple[int, int] | None = None,
    ) -> Dataset:
        with safe_reading(self.timeout_seconds):
            n_rows = int(connection.execute("SELECT count(*) FROM rows").fetchall()[0][0])
            columns = {str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE rows").fetchall()}
        if n_rows == 0:
            raise BadRequest(
                "The data hold no rows.", remedy="Fill the file or table, or widen WHERE.", code="no_rows"
            )
        return Dataset(
            name=name,
            columns=columns,
            n_rows=n_rows,
            min_rows=0 if self.requester == self.settings.user_id else self.rules.min_rows,
            timeout_seconds=self.timeout_seconds,
            connection=connection,
            file=file,
            version=version,
        )

    def _needed(self, present: Sequence[str]) -> list[str]:
        """The columns that are asked for, each of which must be there once."""
        needed = list(dict.fromkeys(present)) if self.columns is None else self.columns
        for name in needed:
            if name not in present:
                raise no_column(name, present)
            if present.count(name) > 1:
                raise BadRequest(
                    f"The data have more than one column {name}.",
                    remedy="Rename one of them.",
                    code="duplicate_column",
                )
        return needed

    # files

    def _from_parquet(self, connection: Any, file: DataFile) -> None:
        source = f"read_parquet({_text(file.path)}, binary_as_string = true, hive_partitioning = false)"
        types = {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}  # noqa: S608
        selected = ", ".join(_number_or_text(name, types[name]) for name in self._needed(list(types)))
        connection.execute(f"CREATE VIEW rows AS SELECT {selected} FROM {source}")  # noqa: S608

    def _from_csv(self, connection: Any, file: DataFile) -> None:
        delimiter, header = csv_header(file, self.columns)
        needed = self._needed(header)
        all_columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(header)))
        selected = ", ".join(f"{_stripped(f'c{header.index(name)}')} AS {quoted(name)}" for name in needed)
        connection.execute(
            f"CREATE TABLE rows AS SELECT {selected} FROM read_csv({_text(file.path)}, columns = {{{all_columns}}},"  # noqa: S608
            f" auto_detect = false, header = true, delim = {_text(delimiter)}, quote = '\"', escape = '\"',"
            " encoding = 'utf-8', compression = 'none', strict_mode = true, null_padding = false, nullstr = '')"
        )

    def _from_json(self, connection: Any, file: DataFile) -> None:
        """Every object is read, so that a column is known to be missing; one that an object lacks is NULL there."""
        present: dict[str, None] = {}
        for batch in json_batches(file, BATCH_ROWS, self.columns):
            new = dict.fromkeys(name for one in batch for name in one if name not in present)
            if not present:
                names = list(new) if self.columns is None else self.columns
                connection.execute(
                    f"CREATE TABLE rows ({', '.join(f'{quoted(name)} VARCHAR' for name in names)})"
                )
            present |= new
            _insert(connection, names, [[one.get(name) for name in names] for one in batch])
        self._needed(list(present))

    # the site's database

    def _from_database(self, data_path: str, data_type: str) -> Dataset:
        source = open_source(
            self.settings.data_url,
            statement_timeout_seconds=self.timeout_seconds,
            max_rows=self.settings.max_rows,
        )
        mark = "`" if source.dialect == "mysql" else '"'
        text = data_path if data_type == "sql" else _select(data_path, self.columns, mark)
        checked = self._checked(text, source.dialect)
        if self.columns is not None:
            names = ", ".join(_marked(name, mark) for name in self.columns)
            inner = checked.sql.rstrip("; ")
            checked = replace(checked, sql=f"SELECT {names} FROM ({inner}) AS checked_rows")  # noqa: S608
        if source.dialect == "duckdb":
            connection = self._from_duckdb(source, checked)
        else:
            connection = self._connection()
            self._from_driver(connection, source, checked)
        return self._dataset(connection, _database_name(data_path, data_type))

    def _checked(self, text: str, dialect: str) -> CheckedQuery:
        """`check_sql` with the unique id of the one table that the text reads, whichever that is."""
        unique_ids = list(dict.fromkeys(rules.unique_id for rules in self.policy.tables.values())) or ["id"]
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
                )
            except Refused as error:
                if error.code != "unique_id" or unique_id == unique_ids[-1]:
                    raise
        raise AssertionError("the last unique id returns or raises")

    def _from_duckdb(self, source: Source, checked: CheckedQuery) -> Any:
        path = str(source.engine.url.database)
        with safe_errors(self.timeout_seconds):
            connection = self._connection(attach=path)
            with interrupted_after(self.timeout_seconds, connection):
                most = min(self.settings.max_rows, checked.max_rows)
                described = connection.execute(f"DESCRIBE {checked.sql}").fetchall()
                selected = ", ".join(_number_or_text(row[0], row[1]) for row in described)
                connection.execute(
                    f"CREATE TABLE memory.main.rows AS SELECT {selected} FROM ({checked.sql}) AS t LIMIT {most + 1}"  # noqa: S608
                )
            connection.execute("USE memory.main")
            connection.execute(f"DETACH {_ATTACHED}")
            n_rows = connection.execute("SELECT count(*) FROM rows").fetchall()[0][0]
        if n_rows > most:
            raise TooLarge(
                f"The data have more than {most} rows.",
                remedy="Narrow them by WHERE, or raise cohort.max_rows in the hospital's policy.toml.",
                code="max_rows",
            )
        return connection

    def _from_driver(self, connection: Any, source: Source, checked: CheckedQuery) -> None:
        types = source.types(checked)
        created = ", ".join(f"{quoted(name)} {kind}" for name, kind in types.items())
        connection.execute(f"CREATE TABLE rows ({created})")
        with safe_reading(self.timeout_seconds):
            for batch in source.stream(checked, types, batch_rows=BATCH_ROWS):
                _insert(connection, list(types), batch)


_ATTACHED = "attached_site"


def _spill_folder(parent: Path) -> Path:
    """A private folder of this process; what processes that are gone have left is removed first."""
    for left in make_private_folder(parent).iterdir():
        if not Path("/proc", left.name.partition("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    return make_private_folder(parent / f"{os.getpid()}-{secrets.token_hex(8)}")


def _select(table: str, columns: Sequence[str] | None, mark: str) -> str:
    """A SELECT of `schema.table`, for `check_sql` to look at."""
    if not re.fullmatch(r"[\w ]+(\.[\w ]+)?", table):
        raise Refused("data_path names no table.", remedy="Write schema.table.", code="tables")
    names = "*" if columns is None else ", ".join(_marked(name, mark) for name in columns)
    return f"SELECT {names} FROM {'.'.join(_marked(part, mark) for part in table.split('.'))}"  # noqa: S608


def _database_name(data_path: str, data_type: str) -> str:
    """One name for one table; of a SELECT its text, with blanks and a semicolon at its end as they do not matter."""
    return data_path.strip().lower() if data_type == "table" else " ".join(data_path.strip("; \n\t").split())


def quoted(name: str) -> str:
    """A column's name in DuckDB's SQL."""
    return _marked(name, '"')


def _marked(name: str, mark: str) -> str:
    return mark + name.replace(mark, mark * 2) + mark


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _number_or_text(name: str, kind: str) -> str:
    """A column as it is where it holds numbers, else as text."""
    if _NUMBER_TYPES.fullmatch(kind):
        return quoted(name)
    return f"{_stripped(f'CAST({quoted(name)} AS VARCHAR)')} AS {quoted(name)}"


def _stripped(text: str) -> str:
    """A text without blanks around it; NULL where nothing is left. To look first is ten times as fast."""
    has_blanks = f"regexp_matches({text}, '^[{_BLANKS}]|[{_BLANKS}]$')"
    trimmed = f"CASE WHEN {has_blanks} THEN trim({text}, '{_BLANKS}') ELSE {text} END"
    return f"nullif({trimmed}, '')"


def _insert(connection: Any, names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
    if rows and names:
        columns = zip(*rows, strict=True)
        frame = pd.DataFrame({f"c{i}": pd.Series(column, dtype=object) for i, column in enumerate(columns)})
        connection.register("batch", frame)
        selected = ", ".join(_stripped(f"CAST(c{i} AS VARCHAR)") for i in range(len(names)))
        connection.execute(f"INSERT INTO rows SELECT {selected} FROM batch")  # noqa: S608
        connection.unregister("batch")


# --- snapshots -------------------------------------------------------------------------------------------------------


_TYPES = "types"  # under this name a snapshot says the types of its columns, in their order
_NOT_IN_PARQUET = ("HUGEINT", "UHUGEINT")


def _into_snapshot(columns: Mapping[str, str]) -> str:
    """The rows as a snapshot holds them. Parquet has no wider whole numbers than 64 bits, and DuckDB would write
    doubles instead, which makes one person of several: those columns are text there."""
    written = (
        f"CAST({quoted(name)} AS VARCHAR) AS {quoted(name)}" if kind in _NOT_IN_PARQUET else quoted(name)
        for name, kind in columns.items()
    )
    return f"SELECT {', '.join(written)} FROM rows"  # noqa: S608


def _from_snapshot(connection: Any, path: Path) -> str:
    """What follows SELECT: the columns with the types that they were written from, and the snapshot."""
    file = _text(str(path))
    sql = f"SELECT value FROM parquet_kv_metadata({file}) WHERE key = '{_TYPES}'"  # noqa: S608
    told = connection.execute(sql).fetchall()
    if not told:  # an order that began under an earlier version goes on with the types that it began with
        return f"* FROM read_parquet({file})"
    names = [str(row[0]) for row in connection.execute(f"DESCRIBE FROM read_parquet({file})").fetchall()]
    kinds = told[0][0].decode().split(";")
    cells = (
        f"CAST({quoted(name)} AS {kind}) AS {quoted(name)}" for name, kind in zip(names, kinds, strict=True)
    )
    return f"{', '.join(cells)} FROM read_parquet({file})"


def _write_snapshot(dataset: Dataset, path: Path) -> None:
    """The rows as parquet: a temporary file of mode 0600, fsync, rename, fsync of the folder."""
    make_private_folder(path.parent)
    temporary = _temporary(path)
    descriptor = os.open(temporary, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o600)
    try:
        types = _text(";".join(dataset.columns.values()))
        options = f"FORMAT parquet, USE_TMP_FILE false, KV_METADATA {{{_TYPES}: {types}}}"
        dataset.query(f"COPY ({_into_snapshot(dataset.columns)}) TO {_text(str(temporary))} ({options})")
        put_in_place(temporary, path)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
