"""An SQLite file in the vault: made whole or not at all, and never begun anew where one was.

Who compares an order with earlier ones must not find an empty past because a crash or a full disk left an empty file:
then every order would pass. SQLite itself takes an empty file for a new database.

The tables are those of agents.gate.earlier_questions and agents.gate.cohort_gate, which open the file through here.
"""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.site.vault import damaged
from protocol.machine.disk import locked, make_private_folder, put_in_place

KEY_BYTES = 32
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_KEYS = "CREATE TABLE IF NOT EXISTS keys (one INTEGER PRIMARY KEY CHECK (one = 1), key BLOB NOT NULL);"


def open_keyed(path: Path, schema: str) -> bytes:
    """Makes the file with these tables and a random key where there is none; returns its key (32 bytes).

    The file has mode 0600. Conflict (code vault_damaged) for one that is empty, no database, or cut short.
    """
    make_private_folder(path.parent)
    if not path.exists():
        with locked(path.parent):
            if not path.exists():
                _make(path, schema)
    if not path.stat().st_size:
        raise damaged(path)
    with open_database(path) as database:
        database.executescript(schema)  # tables that an earlier version had not
        row = database.execute("SELECT key FROM keys").fetchone()
    if row is None:
        raise damaged(path)
    return bytes(row[0])


def _make(path: Path, schema: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        # Made before SQLite opens it, which would give it the mode of any new file.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.close(descriptor)
        with open_database(temporary) as database:
            database.executescript(_KEYS + schema)
            database.execute("INSERT INTO keys VALUES (1, ?)", (secrets.token_bytes(KEY_BYTES),))
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class KeyedDatabase:
    """One of the vault's files of what was asked before, made where there is none. Errors as `open_keyed`.

    `key`, 32 bytes, is made with the file and keys what is hashed for it.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self.path = path
        self.key = open_keyed(path, schema)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other order of this hospital compares its rows or writes them down meanwhile, whatever it orders.

        Held for as long as memory is compared with memory: never while a database is read or a message waited for.
        """
        with locked(self.path.parent):
            yield


@contextmanager
def open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction, on disk when it is over (fsync).

    Conflict (code vault_damaged) for what is no database any more. A full disk is the OSError that it is elsewhere,
    so that the order waits for room.
    """
    database = sqlite3.connect(path, timeout=30)
    try:
        database.execute("PRAGMA synchronous = FULL")
        with database:
            yield database
    except sqlite3.DatabaseError as error:
        kind = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code; above it are its details
        if kind in _DAMAGE:
            raise damaged(path) from None
        if kind == sqlite3.SQLITE_FULL:
            sentence = os.strerror(errno.ENOSPC)
            raise OSError(errno.ENOSPC, sentence, str(path)) from None
        raise
    finally:
        database.close()
