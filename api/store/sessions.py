"""Who is signed in on the page: a digest for each session, until it signs out or is too
old.

The cookie has the session and, sealed, the token (`api.pages.visit`); without its row
here a copy of it is worth nothing.
"""

from __future__ import annotations

import datetime

import sqlalchemy as sa

from api.store.engine import Database
from api.store.tables import page_sessions, utc_now


class SessionStore:
    """The sessions of all visitors."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, digest: str) -> None:
        insert = page_sessions.insert().values(digest=digest, began=utc_now())
        with self._database.begin() as connection:
            connection.execute(insert)

    def is_open(self, digest: str) -> bool:
        query = sa.select(page_sessions.c.digest).where(_is(digest))
        with self._database.begin() as connection:
            return connection.scalar(query) is not None

    def end(self, digest: str) -> None:
        """Ends one, if there is such a one."""
        with self._database.begin() as connection:
            connection.execute(page_sessions.delete().where(_is(digest)))

    def prune(self, before: datetime.datetime) -> int:
        """Forgets what began before; how many."""
        is_old = page_sessions.c.began < before
        with self._database.begin() as connection:
            return connection.execute(page_sessions.delete().where(is_old)).rowcount


def _is(digest: str) -> sa.ColumnElement[bool]:
    return page_sessions.c.digest == digest
