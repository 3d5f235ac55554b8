"""Several processes of the API on one PostgreSQL: what one of them says, all of them
hear.

Said through NOTIFY, in one order for all: that somebody has to look in the store, which
agent is there, what it reports of its site, whom an order waits for. Numbers and words
of this program only; what hospitals send is read from the store by whoever needs it.

Nothing of it is kept. Whoever comes, or comes back after its connection broke, asks the
others to say what they know, rings every bell once and has every agent look once: what a
killed process had no time to say is made good when it is started again.

Decision 139.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from api.conditions import Condition, Conditions
from api.live import Bell, Inbox, Presence, Waits
from protocol.messages import EVERYONE

log = logging.getLogger("consilium.api")

CHANNEL = "consilium"

APPLICATION = "consilium-together"
"""As PostgreSQL lists these connections."""

SPEAKING_LOCK = 0x636F6E74
"""Of who says something: numbers go up in the order in which they are heard."""

DUTIES_LOCK = 0x636F6E75
"""Of the one process that does what no request brings."""

MOST_BYTES = 7000
"""Of the sayings in one notification. PostgreSQL takes less than 8000 bytes with who
says it, and refuses more: they would be said again for ever.
"""

SEPARATOR_BYTES = len(", ")

MOST_UNSAID = 10_000
"""Kept while the database is away, beside what `_tell_all` says. Beyond it nothing is
kept: the others are to look at everything, and are told anew.
"""

AGAIN_SECONDS = 0.5

KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
"""A database that is gone without a word is noticed within seconds."""

LOOK_EVERYWHERE = (("bell", None), ("news", EVERYONE, "look", 0))
"""Said in place of what cannot be said."""


class Together:
    """This process among the others of the same store."""

    def __init__(
        self,
        conninfo: str,
        *,
        bell: Bell,
        inbox: Inbox,
        presence: Presence,
        conditions: Conditions,
        waits: Waits,
    ) -> None:
        self._conninfo = conninfo
        self._me = secrets.token_hex(8)
        # As they are sent.
        self._unsaid: deque[str] = deque()
        self._most_unsaid = MOST_UNSAID
        self._is_telling = False
        self._has_lost = False
        self._has_unsaid = asyncio.Event()
        self._has_joined = asyncio.Event()
        self._bell = bell
        self._inbox = inbox
        self._presence = presence
        self._conditions = conditions
        self._waits = waits
        for speaker in (bell, inbox, presence, conditions, waits):
            speaker.say = self.say

    @contextlib.asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """While this process hears the others, and they it."""
        tasks = [
            asyncio.create_task(_again_and_again(self._listen)),
            asyncio.create_task(_again_and_again(self._speak)),
        ]
        try:
            await self._has_joined.wait()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def say(self, *saying: Any) -> None:
        """To all other processes, soon; news to this one too."""
        saying_text = json.dumps(saying)
        if len(saying_text.encode()) > MOST_BYTES:
            log.error(
                "What is said of %s does not fit into a notification; the other "
                "processes look in the store instead",
                saying[0],
            )
            self._look_everywhere()
            return
        # What is lost is told anew in `_make_good`: this too, if it is still so.
        if self._has_lost:
            return
        self._unsaid.append(saying_text)
        self._has_unsaid.set()
        if self._is_telling:
            # Told anew because too much was unsaid, it must not be too much itself.
            self._most_unsaid += 1
        elif len(self._unsaid) > self._most_unsaid:
            self._unsaid.clear()
            self._has_lost = True

    def _look_everywhere(self) -> None:
        for saying in LOOK_EVERYWHERE:
            self.say(*saying)

    # Speaking

    async def _speak(self) -> None:
        async with await connected(self._conninfo) as connection:
            while True:
                await self._has_unsaid.wait()
                if self._has_lost:
                    self._make_good()
                # Out of the queue while it is said: what comes meanwhile must not push
                # out what nobody has heard.
                saying_texts = self._take()
                try:
                    await self._notify(connection, saying_texts)
                except BaseException:
                    # What a broken connection did not say is said again.
                    self._unsaid.extendleft(reversed(saying_texts))
                    raise
                if not self._unsaid and not self._has_lost:
                    self._most_unsaid = MOST_UNSAID
                    self._has_unsaid.clear()

    def _make_good(self) -> None:
        log.warning("Too much was unsaid: the other processes look at everything")
        self._has_lost = False
        self._most_unsaid = MOST_UNSAID
        self._look_everywhere()
        self._tell_all()

    def _take(self) -> list[str]:
        """The oldest that fit into one notification."""
        chosen_texts: dict[str, None] = {}
        n_bytes = 0
        while self._unsaid:
            saying_text = self._unsaid[0]
            if saying_text not in chosen_texts:
                n_bytes += len(saying_text.encode()) + SEPARATOR_BYTES
                if chosen_texts and n_bytes > MOST_BYTES:
                    break
            self._unsaid.popleft()
            # The same bell twice is heard as well once. At its last place: who is there,
            # gone and there again is there.
            chosen_texts.pop(saying_text, None)
            chosen_texts[saying_text] = None
        return list(chosen_texts)

    async def _notify(
        self, connection: psycopg.AsyncConnection[Any], texts: list[str]
    ) -> None:
        sayings = [json.loads(text) for text in texts]
        async with connection.transaction():
            number = await _next_number(connection)
            payload = json.dumps({"by": self._me, "number": number, "said": sayings})
            await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))

    # Hearing

    async def _listen(self) -> None:
        async with await connected(self._conninfo) as connection:
            # Before the number is taken: what is said from that number on has to be
            # heard.
            await connection.execute(f"LISTEN {CHANNEL}")
            async with connection.transaction():
                number = await _next_number(connection)
            self._join(number)
            async for notice in connection.notifies():
                self._hear(json.loads(notice.payload))

    def _join(self, number: int) -> None:
        """From here on everything is heard; what came before is looked for once."""
        self._inbox.begin(number)
        self._bell.ring_all()
        self._look_everywhere()
        self.say("tell")
        self._tell_all()
        self._has_joined.set()

    def _tell_all(self) -> None:
        self._is_telling = True
        try:
            self._presence.tell_all()
            self._conditions.tell_all()
            self._waits.tell_all()
        finally:
            self._is_telling = False

    def _hear(self, payload: dict[str, Any]) -> None:
        news = [saying for saying in payload["said"] if saying[0] == "news"]
        if news:
            entries = [(user_id, what, order_id) for _, user_id, what, order_id in news]
            self._inbox.hear(payload["number"], entries)
        # News come back to get their number; all the rest this process has done when it
        # said it.
        if payload["by"] == self._me:
            return
        for kind, *content in payload["said"]:
            self._hear_one(payload["by"], kind, content)

    def _hear_one(self, process: str, kind: str, content: list[Any]) -> None:
        match kind:
            case "bell" if content[0] is None:
                self._bell.ring_all()
            case "bell":
                key = content[0]
                self._bell.ring_here(tuple(key) if isinstance(key, list) else key)
            case "here":
                self._presence.hear(process, content[0], content[1])
            case "condition":
                user_id, sent = content
                condition = None if sent is None else Condition.model_validate(sent)
                self._conditions.hear(user_id, condition)
            case "waits":
                self._waits.hear(*content)
            case "tell":
                self._tell_all()


async def hold_duties(conninfo: str, do: Callable[[], Awaitable[None]]) -> None:
    """Runs `do` in one process at a time: in this one as soon as no other one does.

    The lock is a connection's. When its process dies PostgreSQL wakes who waits for it;
    when the connection breaks, `do` is ended here, and the lock is waited for again.
    """

    async def hold() -> None:
        async with await connected(conninfo) as connection:
            await connection.execute("SELECT pg_advisory_lock(%s)", (DUTIES_LOCK,))
            log.info("This process has the duties of all processes")
            doing = asyncio.ensure_future(do())
            losing = asyncio.ensure_future(_until_lost(connection))
            try:
                await asyncio.wait((doing, losing), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (doing, losing):
                    task.cancel()
                await asyncio.gather(doing, losing, return_exceptions=True)

    await _again_and_again(hold)


async def _until_lost(connection: psycopg.AsyncConnection[Any]) -> None:
    """Nothing is listened for: it ends when the connection does."""
    async for _ in connection.notifies():
        pass


async def connected(conninfo: str) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(
        make_conninfo(conninfo, application_name=APPLICATION, **KEEPALIVE),
        # PostgreSQL gives a session no notification while a transaction of its own is
        # open.
        autocommit=True,
        connect_timeout=5,
    )


async def _next_number(connection: psycopg.AsyncConnection[Any]) -> int:
    """Above all that have been said, below all that will be.

    A transaction's own number serves: it is given below the lock, which is held until
    all hear what was said.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (SPEAKING_LOCK,))
    cursor = await connection.execute("SELECT pg_current_xact_id()::text::bigint")
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def _again_and_again(work: Callable[[], Awaitable[None]]) -> None:
    """Each time anew, a moment after its connection broke."""
    is_away = False
    while True:
        try:
            await work()
        except psycopg.Error as error:
            if not is_away:
                log.warning(
                    "The store's database is away for a part of this process (%s)",
                    type(error).__name__,
                )
            is_away = True
        else:
            is_away = False
        await asyncio.sleep(AGAIN_SECONDS)
