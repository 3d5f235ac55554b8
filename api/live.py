"""What lives in the API's process alone: bells that wake who waits, inboxes of agents,
who is present.

All of it is lost with the process, and nothing depends on that it is not: the store has
what must last.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

# So many news are kept for workers that were away for a moment.
LONGEST_NEWS = 10_000
T = TypeVar("T")


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

    def ring(self, key: Any) -> None:
        woken = list(self._waiting.get(key, ()))
        if isinstance(key, tuple):
            woken += self._waiting.get(key[0], ())
        for event in woken:
            event.set()

    def close(self) -> None:
        """Ends every wait, so that a process that is asked to end does so at once."""
        self._is_closed = True
        for events in self._waiting.values():
            for event in events:
                event.over = True
                event.set()

    @contextlib.contextmanager
    def listening(self, key: Any) -> Iterator[Waiter]:
        """A waiter's event while it waits.

        Look in the store after entering, or what came just before is missed.
        """
        event = Waiter()
        event.over = self._is_closed
        self._waiting[key].add(event)
        try:
            yield event
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]


class News(NamedTuple):
    """One entry of the inbox."""

    # counts up over all hospitals; a cursor is the number of the last that was read
    number: int
    user_id: int
    what: str  # look: there is something to run; stop: an order has ended
    order_id: int


class Inbox:
    """Informs workers that there is something to run or to end, without their asking
    again and again.

    In memory only: a worker that finds another `boot` looks at its Prefect pool itself.
    """

    def __init__(self) -> None:
        self.boot = secrets.token_hex(8)
        self._news: deque[News] = deque(maxlen=LONGEST_NEWS)
        self._n_news = 0
        self.bell = Bell()

    def tell(self, user_id: int, what: str, order_id: int) -> None:
        self._n_news += 1
        self._news.append(News(self._n_news, user_id, what, order_id))
        self.bell.ring(user_id)

    def since(self, user_id: int, cursor: int) -> tuple[int, list[dict[str, Any]]]:
        """The news behind a cursor, and the next cursor.

        Who was away for longer looks at its pool anyway.
        """
        found = []
        for news in self._news:
            if news.number > cursor and news.user_id == user_id:
                found.append({"what": news.what, "order_id": news.order_id})
        return self._n_news, found


class Waits:
    """Whom the coordinator waits for, by order: shown to people, so that no order hangs
    without a name.
    """

    def __init__(self) -> None:
        # By order, then by hospital, in time.monotonic().
        self._since: dict[int, dict[int, float]] = {}

    def note(self, run: int, missing: Iterable[int]) -> None:
        """Who is missing now; who was missing before is missing since then."""
        now = time.monotonic()
        earlier = self._since.pop(run, {})
        waited_for = {user: earlier.get(user, now) for user in missing}
        if waited_for:
            self._since[run] = waited_for

    def longer_than(self, run: int, seconds: float) -> list[int]:
        """Who has been missing for so long."""
        now = time.monotonic()
        waited_for = self._since.get(run, {})
        return sorted(
            user for user, since in waited_for.items() if now - since >= seconds
        )


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
        self._started = time.monotonic()
        self._bell = bell

    @contextlib.contextmanager
    def poll(self, user_id: int) -> Iterator[None]:
        was_there = self.is_there(user_id)
        self._open[user_id] += 1
        self._last[user_id] = time.monotonic()
        self._gone.pop(user_id, None)
        if not was_there:
            self._bell.ring("hospitals")
        try:
            yield
        finally:
            self._open[user_id] -= 1
            # One whose connection broke meanwhile is gone already.
            if user_id in self._last:
                self._last[user_id] = time.monotonic()
                loop = asyncio.get_running_loop()
                loop.call_later(self.PAUSE_SECONDS + 0.1, self._look_again, user_id)

    def gone(self, user_id: int) -> None:
        """Its connection broke; it is there again with its next poll."""
        # This poll is still counted: with a second one the agent has connected anew
        # already.
        if self._open[user_id] > 1:
            return
        if self._last.pop(user_id, None) is not None:
            self._gone[user_id] = time.monotonic()
            self._bell.ring("hospitals")

    def _look_again(self, user_id: int) -> None:
        """Nobody reports that an agent has died between two polls."""
        if user_id in self._last and not self.is_there(user_id):
            self.gone(user_id)

    def is_there(self, user_id: int) -> bool:
        last = self._last.get(user_id)
        if last is None:
            return False
        if self._open[user_id] > 0:
            return True
        return time.monotonic() - last < self.PAUSE_SECONDS

    def there(self) -> set[int]:
        """The hospitals whose agents are there."""
        known = list(self._last)
        return {user_id for user_id in known if self.is_there(user_id)}

    def away_seconds(self, user_id: int) -> float:
        """How long this agent has been away, as far as this process knows; 0 for one
        that is there.
        """
        if self.is_there(user_id):
            return 0.0
        since = self._gone.get(user_id, self._started)
        return time.monotonic() - since

    def count(self) -> int:
        return len(self.there())


async def rang(event: Waiter, deadline: float) -> bool:
    """False when the deadline came first, or the end of this process."""
    left = deadline - time.monotonic()
    if left <= 0 or event.over:
        return False
    try:
        await asyncio.wait_for(event.wait(), left)
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
) -> T:
    """What `read` gives once it is enough, or what it gave last when the time is over
    or this process ends.

    It is called at once, and again whenever the bell rings for `key`.
    """
    deadline = time.monotonic() + seconds
    with bell.listening(key) as event:
        while True:
            # Before the reading: what rings while it is made ends the wait behind it at
            # once.
            event.clear()
            found = await read()
            if is_enough(found) or not await rang(event, deadline):
                return found
