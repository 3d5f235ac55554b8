"""What lives in the API's process alone: bells that wake who waits, inboxes of agents, who is present."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

# So many news are kept for workers that were away for a moment.
LONGEST_NEWS = 10_000
T = TypeVar("T")


class Ring(asyncio.Event):
    """One waiter's event. `over`: this process is ending, so nobody waits any longer."""

    over = False


class Bell:
    """Wakes whoever waits for news of an order. It carries no content: who wakes looks in the store.

    Who listens for "order" is woken by ("order", 3), too.
    """

    def __init__(self) -> None:
        self._waiting: dict[Any, set[Ring]] = defaultdict(set)
        self._closed = False

    def ring(self, key: Any) -> None:
        for event in (
            *self._waiting.get(key, ()),
            *(self._waiting.get(key[0], ()) if isinstance(key, tuple) else ()),
        ):
            event.set()

    def close(self) -> None:
        """Ends every wait, so that a process that is asked to end does so at once."""
        self._closed = True
        for event in (event for events in self._waiting.values() for event in events):
            event.over = True
            event.set()

    @contextlib.contextmanager
    def listening(self, key: Any) -> Iterator[Ring]:
        event = Ring()
        event.over = self._closed
        self._waiting[key].add(event)
        try:
            yield event
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]


class Inbox:
    """Tells workers that there is something to run or to end, without their asking again and again.

    In memory only: a worker that finds another `boot` looks at its Prefect pool itself.
    """

    def __init__(self) -> None:
        self.boot = secrets.token_hex(8)
        self._news: deque[tuple[int, int, str, int]] = deque(maxlen=LONGEST_NEWS)
        self._n_told = 0
        self.bell = Bell()

    def tell(self, user_id: int, what: str, order_id: int) -> None:
        self._n_told += 1
        self._news.append((self._n_told, user_id, what, order_id))
        self.bell.ring(user_id)

    def since(self, user_id: int, cursor: int) -> tuple[int, list[dict[str, Any]]]:
        """The news behind a cursor, and the next cursor. Who was away for longer looks at its pool anyway."""
        fresh = (news for news in self._news if news[0] > cursor)
        return self._n_told, [{"what": w, "order_id": o} for _, user, w, o in fresh if user == user_id]


class Waits:
    """Whom the coordinator waits for, by order: shown to people, so that no order hangs without a name."""

    def __init__(self) -> None:
        self._since: dict[int, dict[int, float]] = {}

    def note(self, run: int, missing: Iterable[int]) -> None:
        """Who is missing now; who was missing before is missing since then."""
        earlier, now = self._since.pop(run, {}), time.monotonic()
        if still := {user: earlier.get(user, now) for user in missing}:
            self._since[run] = still

    def longer_than(self, run: int, seconds: float) -> list[int]:
        now = time.monotonic()
        return sorted(user for user, since in self._since.get(run, {}).items() if now - since >= seconds)


class Presence:
    """Which agents are there: each has a poll of its inbox open, or had one a moment ago.

    Whoever comes or goes rings the bell for "hospitals".
    """

    PAUSE_SECONDS = 10.0

    def __init__(self, bell: Bell) -> None:
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
            if user_id in self._last:
                self._last[user_id] = time.monotonic()
                asyncio.get_running_loop().call_later(self.PAUSE_SECONDS + 0.1, self._look_again, user_id)

    def gone(self, user_id: int) -> None:
        """Its connection broke; it is there again with its next poll, which may be open already."""
        if self._open[user_id] > 1:
            return
        if self._last.pop(user_id, None) is not None:
            self._gone[user_id] = time.monotonic()
            self._bell.ring("hospitals")

    def _look_again(self, user_id: int) -> None:
        """Nobody tells that an agent has died between two polls."""
        if user_id in self._last and not self.is_there(user_id):
            self.gone(user_id)

    def is_there(self, user_id: int) -> bool:
        last = self._last.get(user_id)
        return last is not None and (self._open[user_id] > 0 or time.monotonic() - last < self.PAUSE_SECONDS)

    def there(self) -> set[int]:
        """The hospitals whose agents are there."""
        return {user_id for user_id in list(self._last) if self.is_there(user_id)}

    def away_seconds(self, user_id: int) -> float:
        """How long this agent has been away, as far as this process knows; 0 for one that is there."""
        if self.is_there(user_id):
            return 0.0
        return time.monotonic() - self._gone.get(user_id, self._started)

    def count(self) -> int:
        return len(self.there())


async def rang(event: Ring, deadline: float) -> bool:
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
    bell: Bell, key: Any, read: Callable[[], Awaitable[T]], *, is_enough: Callable[[T], bool], seconds: float
) -> T:
    """What `read` gives once it is enough, or what it gave last when the time is over or this process ends.

    It is called at once, and again whenever the bell rings for `key`.
    """
    deadline = time.monotonic() + seconds
    with bell.listening(key) as event:
        while True:
            # Before the reading: what rings while it is made ends the wait behind it at once.
            event.clear()
            found = await read()
            if is_enough(found) or not await rang(event, deadline):
                return found
