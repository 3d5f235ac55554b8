"""The database under all stores: its address, its schema, its transactions, and what it
says when it is in trouble.

The stores of the subjects (api/store/hospitals.py and those beside it) work on one
`Database`. Next: tables.py.

Decisions 21 and 67.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy.dialects import postgresql, sqlite

from api.store.disk import Disk, is_full
from api.store.tables import hospitals
from protocol.errors import BadRequest, Conflict, Unavailable

BUSY_MILLISECONDS = 10_000

MOST_AT_ONCE = 40
"""Calls of stores, each in a thread of its own."""

BUSY_CLEANING_MILLISECONDS = 200
"""How long emptying the log waits for others: it is done again at the next order's end.
"""

ADMISSION_LOCK = 0x636F6E73
"""PostgreSQL's advisory lock of who gives places, in every process of this coordinator.
"""

MIGRATION_LOCK = 0x636F6E76
"""Of who brings the schema up to date."""

MOST_SPARE = 2**26
"""That stays free on the disk when a store is written anew."""

PAGES_AT_ONCE = 2_048
"""That are given back to the disk while nobody else writes: 8 MiB."""

MOST_FREE_PAGES = 1_024
"""That stay in the file for what comes next: 4 MiB."""

SQLITE_INCREMENTAL = 2
"""What `PRAGMA auto_vacuum` answers where pages can be given back."""

SQLITE_PRIMARY_CODE = 0xFF
"""The bits of SQLite's extended error code that say which kind of error it is."""

SQLITE_PRAGMAS = (
    # Before there is a table: deleted pages can be given back to the disk. A store that
    # was made without is rewritten once (`_can_shrink`).
    "auto_vacuum=INCREMENTAL",
    "journal_mode=WAL",
    "synchronous=FULL",  # every commit is on disk before it is acknowledged
    f"busy_timeout={BUSY_MILLISECONDS}",
    "foreign_keys=ON",
    "secure_delete=ON",  # deleted bytes are overwritten
)

P = ParamSpec("P")
T = TypeVar("T")


_threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="store")


async def in_thread(method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """A call of a store, off the event loop.

    Cancelled, it ends when the call has: nobody goes on, or closes the store, while a
    thread still writes.
    """
    call = functools.partial(method, *args, **kwargs)
    working = asyncio.get_running_loop().run_in_executor(_threads, call)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        while not working.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([working])
        # Looked at, so that nothing is said of an error that nobody hears.
        working.exception()
        raise


def insert_unless_there(
    connection: sa.Connection, table: sa.Table, **values: Any
) -> None:
    """A row, unless one with its key is there; where another transaction is just making
    that one, it is waited for.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    insert = sqlite.insert(table) if is_sqlite else postgresql.insert(table)
    connection.execute(insert.values(**values).on_conflict_do_nothing())


class Database:
    """One database of the coordinator, SQLite or PostgreSQL."""

    def __init__(self, url: str, disk: Disk | None = None) -> None:
        """With a `disk`, what finds it full raises Unavailable (code disk), and no
        order is made while it is short.

        BadRequest (code CONSILIUM_STORE_URL) for an address of no database.
        """
        self.disk = disk
        try:
            address = sa.make_url(url)
            # A server may have closed a connection; a file has none to close
            # (decision 151).
            is_server = address.get_backend_name() != "sqlite"
            self.engine = sa.create_engine(address, pool_pre_ping=is_server)
        except (sa.exc.ArgumentError, ImportError):
            raise BadRequest(
                "CONSILIUM_STORE_URL is no address of a database.",
                remedy="Unset it, or write postgresql+psycopg://user:password@host/database.",
                code="CONSILIUM_STORE_URL",
            ) from None
        if disk:
            sa.event.listen(
                self.engine, "handle_error", functools.partial(_report_full_disk, disk)
            )
        self._is_sqlite = self.engine.dialect.name == "sqlite"
        if self._is_sqlite:
            sa.event.listen(self.engine, "connect", _tune_sqlite)

    # Opening

    @property
    def place(self) -> str:
        """Where the store is, without a password."""
        url = self.engine.url
        return (
            str(url.database)
            if self._is_sqlite
            else url.render_as_string(hide_password=True)
        )

    @property
    def conninfo(self) -> str | None:
        """Where psycopg connects to hear and lock; None for SQLite, which one process
        has.
        """
        if self._is_sqlite:
            return None
        url = self.engine.url.set(drivername="postgresql")
        return url.render_as_string(hide_password=False)

    @property
    def _file(self) -> Path | None:
        """SQLite's; None for a database on a server, or in memory."""
        name = self.engine.url.database
        return Path(name) if self._is_sqlite and name and name != ":memory:" else None

    @property
    def folder(self) -> Path:
        """Of SQLite's file; the process's own for a database on a server."""
        file = self._file
        return file.absolute().parent if file else Path.cwd()

    def is_empty(self) -> bool:
        """Whether there are no tables of a store yet.

        Makes no file. Raises as `migrate`.
        """
        file = self._file
        if file is not None and not (file.is_file() and file.stat().st_size):
            return True
        with _opening(self.place):
            return not sa.inspect(self.engine).has_table(hospitals.name)

    def migrate(self, version: str = "head") -> None:
        """Brings the schema up to this version, in one transaction; a new database gets
        it whole or not at all.

        Conflict (code store) for what is no database, is damaged, or is of a later
        version; Unavailable (code store) where it does not answer or its disk is full.
        """
        config = Config()
        config.set_main_option(
            "script_location", str(Path(__file__).with_name("migrations"))
        )
        if self._file is not None:
            _make_private(self._file)
        with _opening(self.place), self.engine.begin() as connection:
            if self._is_sqlite:
                connection.exec_driver_sql(
                    "BEGIN IMMEDIATE"
                )  # Python begins none before it makes a table
            else:
                # Processes that start at one time find it done by the first.
                lock = sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)
                connection.execute(sa.select(lock))
            config.attributes["connection"] = connection
            command.upgrade(config, version)
        if self._is_sqlite:
            self._let_shrink()

    def _let_shrink(self) -> None:
        """A store of an earlier version is written anew, once, where there is room for
        a second one.
        """
        if self._file is None:
            return
        n_bytes = self._file.stat().st_size
        # VACUUM writes the store a second time and then, through the log, over the
        # first: it may take twice the size.
        has_room = shutil.disk_usage(self._file.parent).free > 2 * n_bytes + MOST_SPARE
        with self.engine.connect() as connection:
            mode = connection.exec_driver_sql("PRAGMA auto_vacuum").scalar()
            if mode == SQLITE_INCREMENTAL or not has_room:
                return
            # The mode that `_tune_sqlite` asks for is taken by the next VACUUM, which
            # runs outside of a transaction.
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
            with contextlib.suppress(sqlite3.OperationalError):  # another one is busy
                raw.execute("VACUUM")

    def close(self) -> None:
        self.engine.dispose()

    # Transactions

    def begin(self) -> AbstractContextManager[sa.Connection]:
        """One transaction: committed at the end, undone by an error."""
        return self.engine.begin()

    @contextlib.contextmanager
    def begin_to_change(self) -> Iterator[sa.Connection]:
        """A transaction that writes what it has read FOR UPDATE: on PostgreSQL the rows
        are locked by that, and SQLite, which knows no such thing, is locked here.
        """
        with self.engine.begin() as connection:
            if self._is_sqlite:
                # Python begins no transaction before a SELECT: another thread could
                # write between what is read here and what is written.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextlib.contextmanager
    def begin_alone(self) -> Iterator[sa.Connection]:
        """A transaction in which no other process gives places: what is read stands
        until it is written.
        """
        with self.begin_to_change() as connection:
            if not self._is_sqlite:
                lock = sa.func.pg_advisory_xact_lock(ADMISSION_LOCK)
                connection.execute(sa.select(lock))
            yield connection

    def empty_log(self) -> None:
        """Gives back to the disk what was deleted.

        SQLite keeps free pages in its file, and deleted bytes stand in its write-ahead
        log until that is emptied. A busy store does it another time. Other databases
        do it by themselves.
        """
        if not self._is_sqlite:
            return
        with self.engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute(f"PRAGMA busy_timeout={BUSY_CLEANING_MILLISECONDS}")
            try:
                _give_back_pages(raw)
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                # The connection goes back to the pool: who takes it next would give up
                # after a fifth of a second.
                raw.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")


def _give_back_pages(connection: sqlite3.Connection) -> None:
    """In pieces, so that others come in between."""
    (n_free,) = connection.execute("PRAGMA freelist_count").fetchone()
    while n_free > MOST_FREE_PAGES:
        n_given = min(PAGES_AT_ONCE, n_free - MOST_FREE_PAGES)
        try:
            connection.execute(f"PRAGMA incremental_vacuum({n_given})").fetchall()
        except sqlite3.OperationalError:
            return
        n_before = n_free
        (n_free,) = connection.execute("PRAGMA freelist_count").fetchone()
        # Others may take and free pages meanwhile, and an old store gives none back.
        if n_free >= n_before:
            return


def _report_full_disk(disk: Disk, context: Any) -> None:
    """A statement or commit that finds the disk full raises Unavailable; its
    transaction is undone.
    """
    if is_full(context.original_exception):
        raise disk.noted() from None


def _tune_sqlite(connection: Any, _record: Any) -> None:
    for pragma in SQLITE_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _make_private(file: Path) -> None:
    """SQLite makes its files as others may read them, and those beside one as that one
    is.
    """
    with contextlib.suppress(OSError):  # where it cannot be made, opening it says why
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))


@contextlib.contextmanager
def _opening(place: str) -> Iterator[None]:
    """Turns what a database says when it is opened into a sentence."""
    try:
        yield
    except CommandError:
        raise Conflict(
            f"The store in {place} is of another version than this one.",
            remedy="Install the version that ran last, or restore the backup from before the upgrade.",
            code="store",
        ) from None
    except (sa.exc.DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        sqlite_code = getattr(cause, "sqlite_errorcode", 0) & SQLITE_PRIMARY_CODE
        if sqlite_code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Conflict(
                f"The store in {place} is damaged ({cause}).",
                remedy="Restore it from the backup.",
                code="store",
            ) from None
        why = str(cause).strip().split("\n")[0]
        raise Unavailable(
            f"The store in {place} cannot be opened ({why}).",
            remedy="See whether its database runs, whether its disk is full and CONSILIUM_STORE_URL right.",
            code="store",
        ) from None
