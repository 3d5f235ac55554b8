"""Who is signed in on the page: a digest for each session, until it signs out or is too
old.

The cookie has the session and, sealed, the token (`api.pages.visit`); without its row
here a copy of it is worth nothing. Whom an identity provider has signed in has no token:
the session's own secret is taken for one, while it lasts.
"""

from __future__ import annotations

import datetime

import sqlalchemy as sa

from api.store.engine import Database
from api.store.hospitals import Caller, token_digest
from api.store.tables import page_sessions, utc_now

SESSION_SECONDS = 43_200


class SessionStore:
    """The sessions of all visitors."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self,
        digest: str,
        person: Caller | None = None,
    ) -> None:
        """`person` is whom an identity provider has signed in; None with a token."""
        role = None if person is None else person.role
        user_id = None if person is None else person.user_id
        # No secret stands here, as of tokens: who reads the store can take nobody's
        # place.
        insert = page_sessions.insert().values(
            digest=digest,
            began=utc_now(),
            role=role,
            user_id=user_id,
        )
        with self._database.begin() as connection:
            connection.execute(insert)

    def is_open(self, digest: str) -> bool:
        is_meant = _is(digest)
        query = sa.select(page_sessions.c.digest).where(is_meant)
        with self._database.begin() as connection:
            open_digest = connection.scalar(query)
            return open_digest is not None

    def person(
        self,
        secret: str,
        *,
        now: datetime.datetime | None = None,
    ) -> Caller | None:
        """Whom an identity provider has signed in with this secret of a session; None
        after its end, and for the session of a token.
        """
        now = now or utc_now()
        longest = datetime.timedelta(seconds=SESSION_SECONDS)
        oldest = now - longest
        digest = token_digest(secret)
        is_meant = _is(digest)
        session_query = sa.select(page_sessions).where(is_meant)
        with self._database.begin() as connection:
            row = connection.execute(session_query).first()
        # The session of a token has a secret, too, which is no token: it opens nothing
        # without the cookie that has the token.
        if row is None or row.role is None:
            return None
        # Looked at here, and not left to `prune`: that comes once a day.
        is_over = row.began < oldest
        if is_over:
            return None
        return Caller(row.role, row.user_id)

    def end(self, digest: str) -> None:
        """Ends one, if there is such a one."""
        is_meant = _is(digest)
        delete = page_sessions.delete().where(is_meant)
        with self._database.begin() as connection:
            connection.execute(delete)

    def prune(self, before: datetime.datetime) -> int:
        """Forgets what began before; how many."""
        is_old = page_sessions.c.began < before
        delete = page_sessions.delete().where(is_old)
        with self._database.begin() as connection:
            return connection.execute(delete).rowcount


def _is(digest: str) -> sa.ColumnElement[bool]:
    return page_sessions.c.digest == digest
