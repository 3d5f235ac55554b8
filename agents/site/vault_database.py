"""An SQLite file in the vault: made whole or not at all, and never begun anew.

Who compares an order with earlier ones must not find an empty past because a crash or a
full disk left an empty file: then every order would pass. SQLite itself takes an empty
file for a new database.

The tables are those of agents.gate.earlier_questions and agents.gate.cohort_gate, which
open the file through here.
"""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from agents.site.vault import damaged
from protocol.errors import Unavailable
from protocol.machine.disk import locked, make_private_folder, put_in_place

KEY_BYTES = 32
SYNCHRONOUS = "FULL"
"""On disk before a transaction counts as done. Tests in which nobody crashes say OFF."""
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_KEYS = "CREATE TABLE IF NOT EXISTS keys (one INTEGER PRIMARY KEY CHECK (one = 1), key BLOB NOT NULL);"


def open_keyed(path: Path, schema: str) -> bytes:
    """Makes the file with these tables where there is none; returns its key (32 bytes).

    The key is random. The file has mode 0600. Conflict (code vault_damaged) for one
    that is empty, no database, or cut short.
    """
    make_private_folder(path.parent)
    if not path.exists():
        with locked(path.parent):
            if not path.exists():
                _make(path, schema)
    if not path.stat().st_size:
        raise damaged(path)
    with open_database(path) as database:
        # Tables that an earlier version had not.
        database.executescript(schema)
        key_row = database.execute("SELECT key FROM keys").fetchone()
    if key_row is None:
        raise damaged(path)
    return bytes(key_row[0])


def _make(path: Path, schema: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        # Made before SQLite opens it, which would give it the mode of any new file.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.close(descriptor)
        key = secrets.token_bytes(KEY_BYTES)
        with open_database(temporary) as database:
            database.executescript(_KEYS + schema)
            database.execute("INSERT INTO keys VALUES (1, ?)", (key,))
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class KeyedDatabase:
    """One of the vault's files of what was asked before, made where there is none.

    Errors as `open_keyed`. `key`, 32 bytes, is made with the file and keys what is
    hashed for it.

    is_copy: a copy in memory as the file stands now, of one that is not there an empty
    one. The file is opened to be read only: what is done with the copy changes nothing
    on disk, and is forgotten with it.
    """

    def __init__(self, path: Path, schema: str, *, is_copy: bool = False) -> None:
        self.path = path
        self._copy: sqlite3.Connection | None = None
        if is_copy:
            self._copy, self.key = _copied(path, schema)
        else:
            self.key = open_keyed(path, schema)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """As `open_database`, of the file or of its copy."""
        if self._copy is None:
            with open_database(self.path) as database:
                yield database
        else:
            with self._copy:
                yield self._copy

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other order here compares its rows or writes them down meanwhile.

        Held for as long as memory is compared with memory: never while a database is
        read or a message waited for.
        """
        if self._copy is not None:
            yield
            return
        with locked(self.path.parent):
            yield


def _copied(path: Path, schema: str) -> tuple[sqlite3.Connection, bytes]:
    """A copy in memory, and its key."""
    copy = sqlite3.connect(":memory:")
    if not path.exists():
        copy.executescript(_KEYS + schema)
        return copy, secrets.token_bytes(KEY_BYTES)
    if not path.stat().st_size:
        raise damaged(path)
    address = f"file:{quote(str(path))}?mode=ro"
    source = sqlite3.connect(address, uri=True, timeout=30)
    try:
        source.backup(copy)
        key_row = copy.execute("SELECT key FROM keys").fetchone()
    except sqlite3.OperationalError:
        # Half of a write of a process that died stands beside it, and whoever may write
        # takes it back.
        raise Unavailable(
            f"{path} is being written, or a process died while it wrote.",
            remedy="Start the agent, which puts it right; then try again.",
        ) from None
    except sqlite3.DatabaseError:
        raise damaged(path) from None
    finally:
        source.close()
    if key_row is None:
        raise damaged(path)
    copy.executescript(schema)
    return copy, bytes(key_row[0])


@contextmanager
def open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction, on disk when it is over (fsync).

    Conflict (code vault_damaged) for what is no database any more. A full disk is the
    OSError that it is elsewhere, so that the order waits for room.
    """
    database = sqlite3.connect(path, timeout=30)
    try:
        database.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
        with database:
            yield database
    except sqlite3.DatabaseError as error:
        # The primary code; above it are its details.
        primary_code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if primary_code in _DAMAGE:
            raise damaged(path) from None
        if primary_code == sqlite3.SQLITE_FULL:
            sentence = os.strerror(errno.ENOSPC)
            raise OSError(errno.ENOSPC, sentence, str(path)) from None
        raise
    finally:
        database.close()
