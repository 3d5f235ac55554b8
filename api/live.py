"""What lives in the API's process: bells that wake who waits, inboxes of agents, who is
present.

All of it is lost with the process, and nothing depends on that it is not: the store has
what must last. Where there are several processes, each says to the others what it learns
(`say`, set by `api.together`), and hears what they say.

Decision 141.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from protocol.exchange import LONGEST_WAIT_SECONDS
from protocol.messages import EVERYONE

# So many news are kept for workers that were away for a moment.
LONGEST_NEWS = 10_000

SHARED_BOOT = "shared"
"""Of all processes together: their news have the same numbers."""

MOST_NAMED = 300
"""Hospitals in one saying: of the longest numbers, half of a notification."""

T = TypeVar("T")

Say = Callable[..., None]
"""What kind, and its content."""


def nobody_hears(*_saying: Any) -> None:
    """There is one process."""


class Waiter(asyncio.Event):
    """One waiter's event.

    `over`: this process is ending, so nobody waits any longer.
    """

    over = False


class Bell:
    """Wakes whoever waits for news of an order. It carries no content: who wakes looks
    in the store.

    Who listens for "order" is woken by ("order", 3), too.
    """

    def __init__(self) -> None:
        self._waiting: dict[Any, set[Waiter]] = defaultdict(set)
        self._is_closed = False
        self.say: Say = nobody_hears

    def ring(self, key: Any) -> None:
        """In every process."""
        self.ring_here(key)
        self.say("bell", key)

    def ring_all(self) -> None:
        """In this process, whoever waits for anything."""
        for waiters in self._waiting.values():
            for waiter in waiters:
                waiter.set()

    def ring_here(self, key: Any) -> None:
        """For what this process alone knows, or has heard."""
        woken = list(self._waiting.get(key, ()))
        if isinstance(key, tuple):
            wider = key[0]
            woken += self._waiting.get(wider, ())
        for waiter in woken:
            waiter.set()

    def close(self) -> None:
        """Ends every wait, so that a process that is asked to end does so at once."""
        self._is_closed = True
        for waiters in self._waiting.values():
            for waiter in waiters:
                waiter.over = True
                waiter.set()

    @contextlib.contextmanager
    def listening(self, *keys: Any) -> Iterator[Waiter]:
        """A waiter's event while it waits, which any of these keys wakes.

        Look in the store after entering, or what came just before is missed.
        """
        event = Waiter()
        # Who comes while the process is ending waits for nothing either.
        event.over = self._is_closed
        for key in keys:
            self._waiting[key].add(event)
        try:
            yield event
        finally:
            for key in keys:
                waiters = self._waiting[key]
                waiters.discard(event)
                if not waiters:
                    del self._waiting[key]


class News(NamedTuple):
    """One entry of the inbox."""

    # counts up over all hospitals; a cursor is the number of the last that was read
    number: int
    user_id: int  # EVERYONE for all
    what: str  # look: there is something to run; stop: an order has ended
    order_id: int


class Inbox:
    """Informs workers that there is something to run or to end, without their asking
    again and again.

    In memory only: a worker that finds another `boot`, or whose cursor says nothing here
    (`knows`), looks at its Prefect pool itself. Several processes have one `boot` and
    number the news alike.
    """

    def __init__(self) -> None:
        self.boot = secrets.token_hex(8)
        self._news: deque[News] = deque(maxlen=LONGEST_NEWS)
        # Of the newest, and of the last that this process has not heard.
        self._newest = 0
        self._unheard = 0
        self.bell = Bell()
        self.say: Say | None = None

    def tell(
        self,
        user_id: int,
        what: str,
        order_id: int,
    ) -> None:
        if self.say is None:
            number = self._newest + 1
            news_entries = [(user_id, what, order_id)]
            self.hear(number, news_entries)
        else:
            # It comes back with its number, as to all others.
            self.say(
                "news",
                user_id,
                what,
                order_id,
            )

    def begin(self, number: int) -> None:
        """This process hears all news behind `number`, and none of those before."""
        self.boot = SHARED_BOOT
        self._news.clear()
        self._newest = number
        self._unheard = number
        self.bell.ring_all()

    def hear(
        self,
        number: int,
        entries: Iterable[tuple[int, str, int]],
    ) -> None:
        """News that are told at one time, under one number."""
        self._newest = number
        for user_id, what, order_id in entries:
            news = News(
                number,
                user_id,
                what,
                order_id,
            )
            self._news.append(news)
            if user_id == EVERYONE:
                self.bell.ring_all()
            else:
                self.bell.ring_here(user_id)

    def knows(self, cursor: int) -> bool:
        """Whether this process has heard all that came behind a cursor."""
        return self._unheard <= cursor <= self._newest

    def since(
        self,
        user_id: int,
        cursor: int,
    ) -> tuple[int, list[dict[str, Any]]]:
        """The news behind a cursor, and the next cursor.

        Who was away for longer looks at its pool anyway.
        """
        news_entries = []
        for news in self._news:
            is_new = news.number > cursor
            if is_new and news.user_id in (user_id, EVERYONE):
                news_entry = {
                    "what": news.what,
                    "order_id": news.order_id,
                }
                news_entries.append(news_entry)
        return self._newest, news_entries


class Waits:
    """Whom the coordinator waits for, by order: shown to people, so that no order hangs
    without a name.
    """

    def __init__(self) -> None:
        # By order, then by hospital, in time.monotonic().
        self._since: dict[int, dict[int, float]] = {}
        self.say: Say = nobody_hears

    def note(
        self,
        run: int,
        missing: Iterable[int],
    ) -> None:
        """Who is missing now; who was missing before is missing since then."""
        waited_for = self._since.get(run, ())
        before = set(waited_for)
        now_missing = set(missing)
        self.hear(run, now_missing)
        if now_missing != before:
            self._say(run, now_missing)

    def tell_all(self) -> None:
        """To a process that has just come."""
        for run, waited_for in self._since.items():
            self._say(run, waited_for)

    def _say(self, run: int, missing: Iterable[int]) -> None:
        """In pieces that fit into a notification, each of a range of numbers: in
        whatever order they come, a piece changes nothing of another one.
        """
        user_ids = sorted(missing)
        above = None
        while len(user_ids) > MOST_NAMED:
            piece, user_ids = user_ids[:MOST_NAMED], user_ids[MOST_NAMED:]
            self.say("waits", run, piece, above, piece[-1])
            above = piece[-1]
        self.say("waits", run, user_ids, above, None)

    def hear(
        self,
        run: int,
        missing: Iterable[int],
        above: int | None = None,
        up_to: int | None = None,
    ) -> None:
        """Who is missing of the hospitals with numbers above the one and up to the
        other.
        """
        now = time.monotonic()
        earlier = self._since.pop(run, {})
        waited_for = {}
        for user_id, since in earlier.items():
            is_below = above is not None and user_id <= above
            is_beyond = up_to is not None and user_id > up_to
            if is_below or is_beyond:
                waited_for[user_id] = since
        for user_id in missing:
            waited_for[user_id] = earlier.get(user_id, now)
        if waited_for:
            self._since[run] = waited_for

    def longer_than(
        self,
        run: int,
        seconds: float,
    ) -> list[int]:
        """Who has been missing for so long."""
        now = time.monotonic()
        waited_for = self._since.get(run, {})
        missing_users = []
        for user_id, since in waited_for.items():
            missing_seconds = now - since
            if missing_seconds >= seconds:
                missing_users.append(user_id)
        return sorted(missing_users)


class Presence:
    """Which agents are there: each has a poll of its inbox open, or had one a moment
    ago.

    Whoever comes or goes rings the bell for "hospitals".
    """

    PAUSE_SECONDS = 10.0

    def __init__(self, bell: Bell) -> None:
        # By hospital: how many polls are open, when the last began or ended, and since
        # when it is gone.
        self._open: Counter[int] = Counter()
        self._last: dict[int, float] = {}
        self._gone: dict[int, float] = {}
        # By other process and hospital, until when it is there by that one's word.
        self._elsewhere: dict[tuple[str, int], float] = {}
        self._started = time.monotonic()
        self._bell = bell
        self.say: Say = nobody_hears

    @contextlib.contextmanager
    def poll(self, user_id: int) -> Iterator[None]:
        was_there = self.is_there(user_id)
        self._open[user_id] += 1
        self._last[user_id] = time.monotonic()
        self._gone.pop(user_id, None)
        there_seconds = LONGEST_WAIT_SECONDS + self.PAUSE_SECONDS
        self.say("here", user_id, there_seconds)
        if not was_there:
            self._bell.ring_here("hospitals")
        try:
            yield
        finally:
            self._open[user_id] -= 1
            # One whose connection broke meanwhile is gone already.
            if user_id in self._last:
                self._last[user_id] = time.monotonic()
                self.say("here", user_id, self.PAUSE_SECONDS)
                loop = asyncio.get_running_loop()
                after_pause = self.PAUSE_SECONDS + 0.1
                loop.call_later(after_pause, self._look_again, user_id)

    def gone(self, user_id: int) -> None:
        """Its connection broke; it is there again with its next poll."""
        # This poll is still counted: with a second one the agent has connected anew
        # already.
        if self._open[user_id] > 1:
            return
        last_poll = self._last.pop(user_id, None)
        if last_poll is None:
            return
        self.say("here", user_id, 0)
        # It may have connected anew to another process.
        if not self.is_there(user_id):
            self._note_gone(user_id)

    def hear(
        self,
        process: str,
        user_id: int,
        seconds: float,
    ) -> None:
        """Another process says that it is there for so long; 0 that its connection
        broke.
        """
        was_there = self.is_there(user_id)
        until = time.monotonic() + seconds
        self._elsewhere[process, user_id] = until
        if self.is_there(user_id):
            self._gone.pop(user_id, None)
            loop = asyncio.get_running_loop()
            loop.call_later(
                seconds + 0.1,
                self._look_elsewhere,
                process,
                user_id,
            )
            if not was_there:
                self._bell.ring_here("hospitals")
        elif was_there:
            self._note_gone(user_id)

    def tell_all(self) -> None:
        """To a process that has just come."""
        there_seconds = LONGEST_WAIT_SECONDS + self.PAUSE_SECONDS
        for user_id, n_open in self._open.items():
            if n_open > 0:
                self.say("here", user_id, there_seconds)

    def _note_gone(self, user_id: int) -> None:
        self._gone[user_id] = time.monotonic()
        self._bell.ring_here("hospitals")

    def _look_elsewhere(self, process: str, user_id: int) -> None:
        """That process has not said it again, or has died."""
        until = self._elsewhere.get((process, user_id))
        if until is None or until > time.monotonic():
            return
        del self._elsewhere[process, user_id]
        if not self.is_there(user_id) and user_id not in self._gone:
            self._last.pop(user_id, None)
            self._note_gone(user_id)

    def _look_again(self, user_id: int) -> None:
        """Nobody reports that an agent has died between two polls."""
        if user_id in self._last and not self.is_there(user_id):
            self.gone(user_id)

    def is_there(self, user_id: int) -> bool:
        return self._is_here(user_id) or user_id in self._there_elsewhere()

    def _there_elsewhere(self) -> set[int]:
        now = time.monotonic()
        users_there = set()
        for (_, user_id), until in self._elsewhere.items():
            if until > now:
                users_there.add(user_id)
        return users_there

    def _is_here(self, user_id: int) -> bool:
        last_poll = self._last.get(user_id)
        if last_poll is None:
            return False
        if self._open[user_id] > 0:
            return True
        silent_seconds = time.monotonic() - last_poll
        return silent_seconds < self.PAUSE_SECONDS

    def there(self) -> set[int]:
        """The hospitals whose agents are there."""
        seen_users = list(self._last)
        users_here = {user_id for user_id in seen_users if self._is_here(user_id)}
        return users_here | self._there_elsewhere()

    def away_seconds(self, user_id: int) -> float:
        """How long this agent has been away, as far as this process knows; 0 for one
        that is there.
        """
        if self.is_there(user_id):
            return 0.0
        # Who has not come yet is away since this process began: a restart gives
        # everybody the whole grace again.
        since = self._gone.get(user_id, self._started)
        return time.monotonic() - since

    def count(self) -> int:
        return len(self.there())


async def rang(event: Waiter, deadline: float) -> bool:
    """False when the deadline came first, or the end of this process."""
    remaining_seconds = deadline - time.monotonic()
    if remaining_seconds <= 0 or event.over:
        return False
    try:
        await asyncio.wait_for(event.wait(), remaining_seconds)
    except TimeoutError:
        return False
    return not event.over


async def read_until(
    bell: Bell,
    key: Any,
    read: Callable[[], Awaitable[T]],
    *,
    is_enough: Callable[[T], bool],
    seconds: float,
    or_key: Any = None,
) -> T:
    """What `read` gives once it is enough, or what it gave last when the time is over
    or this process ends.

    It is called at once, and again whenever the bell rings for `key`, or for `or_key`
    where there is one.
    """
    deadline = time.monotonic() + seconds
    keys = [key] if or_key is None else [key, or_key]
    with bell.listening(*keys) as event:
        while True:
            # Before the reading: what rings while it is made ends the wait behind it at
            # once.
            event.clear()
            reading = await read()
            if is_enough(reading) or not await rang(event, deadline):
                return reading
