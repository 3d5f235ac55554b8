"""The exchange's REST face: put once, read by long polling that wakes at once.

A hospital puts in its own name and reads what is for it or for everyone. What is for the coordinator is read by the
coordinator's own flow, by nobody else, and dropped when used.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from api.auth import AGENT, COORDINATOR_ROLE, OPEN, CallerOf, require_role
from api.store import BOXES, Caller, Store
from protocol.errors import Forbidden, InvalidInput
from protocol.exchange import LONGEST_WAIT_SECONDS, Address, encode_frames
from protocol.messages import COORDINATOR, EVERYONE, KINDS

router = APIRouter(prefix="/exchange", include_in_schema=False)

Number = Annotated[int, Path(ge=0, lt=2**31)]
Recipient = Annotated[int, Query(ge=0, lt=2**31)]
Wait = Annotated[float, Query(ge=0, allow_inf_nan=False)]
Topic = Annotated[str, Path(max_length=32, pattern=r"^[a-z_-]+$")]

# So many news are kept for workers that were away for a moment.
LONGEST_NEWS = 10_000


def _address(run: Number, topic: Topic, fold: Number, round_: Number, attempt: Number) -> Address:
    """The part of every path that names a set of messages."""
    return Address(run, topic, fold, round_, attempt)


AddressOf = Annotated[Address, Depends(_address)]


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
        for event in (*self._waiting.get(key, ()), *(self._waiting.get(key[0], ()) if isinstance(key, tuple) else ())):
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


@router.get("/inbox")
async def read_inbox(
    request: Request,
    caller: CallerOf,
    boot: str = "",
    cursor: Annotated[int, Query(ge=0)] = 0,
    wait: Wait = LONGEST_WAIT_SECONDS,
) -> dict[str, Any]:
    """News for an agent or the coordinator's worker; waits until there is some. Marks the hospital as seen."""
    require_role(caller, AGENT, COORDINATOR_ROLE)
    state, user_id = request.app.state, COORDINATOR if caller.user_id is None else caller.user_id
    inbox: Inbox = state.inbox
    if caller.user_id is None:
        return await _news(request, inbox, user_id, boot, cursor, wait)
    await to_thread.run_sync(state.store.seen, user_id)
    with state.presence.poll(user_id):
        news = await _news(request, inbox, user_id, boot, cursor, wait)
        if await request.is_disconnected():
            state.presence.gone(user_id)
    return news


async def _news(request: Request, inbox: Inbox, user_id: int, boot: str, cursor: int, wait: float) -> dict[str, Any]:
    if boot != inbox.boot:
        return _told(inbox, inbox.since(user_id, 0)[0], [{"what": "look", "order_id": 0}])
    deadline = time.monotonic() + min(wait, LONGEST_WAIT_SECONDS)
    with inbox.bell.listening(user_id) as event:
        while True:
            event.clear()
            end, news = inbox.since(user_id, cursor)
            is_last = time.monotonic() > deadline or event.over
            if news or is_last or await request.is_disconnected():
                return _told(inbox, end, news)
            await _rang(event, min(deadline, time.monotonic() + 1.0))


def _told(inbox: Inbox, cursor: int, news: list[dict[str, Any]]) -> dict[str, Any]:
    """News, and our time: an agent looks at Prefect by this clock, so that a wrong one of its own delays nothing."""
    return {"boot": inbox.boot, "cursor": cursor, "news": news, "time": time.time()}


async def _rang(event: Ring, deadline: float) -> bool:
    """False when the deadline came first, or the end of this process."""
    left = deadline - time.monotonic()
    if left <= 0 or event.over:
        return False
    try:
        await asyncio.wait_for(event.wait(), left)
    except TimeoutError:
        return False
    return not event.over


@router.put("/{run}/{topic}/{fold}/{round_}/{attempt}/{sender}/{recipient}")
async def put_message(
    request: Request,
    caller: CallerOf,
    address: AddressOf,
    sender: Number,
    recipient: Number,
    takes_place: bool = True,
) -> Response:
    """Keeps a message; the same bytes again are fine, other bytes are a conflict.

    Who works on an order before it has places says `takes_place=false`; everybody else hears OrderWaits then.
    """
    _check_sender(caller, sender)
    _check_topic(caller, address.topic)
    state, run = request.app.state, address.run
    await _require_party(state.store, caller, run)
    body = await request.body()
    new = await to_thread.run_sync(
        lambda: state.store.put_message(address, sender, recipient, body, takes_place=takes_place)
    )
    state.bell.ring(run)
    if address.topic == "acceptance":
        state.bell.ring(("order", run))
    if address.topic == "predictions":
        await to_thread.run_sync(state.store.end_inference, run)
    return Response(status_code=201 if new else 200)


@router.get("/{run}/{topic}/{fold}/{round_}/{attempt}")
async def gather_messages(
    request: Request,
    caller: CallerOf,
    address: AddressOf,
    senders: Annotated[str, Query(max_length=20_000)],
    recipient: Recipient,
    wait: Wait = LONGEST_WAIT_SECONDS,
    takes_place: bool = True,
) -> Response:
    """All senders' messages for one recipient, or 204 when they are not all there in time."""
    _check_recipient(caller, recipient, senders)
    state, run = request.app.state, address.run
    await _require_party(state.store, caller, run)
    wanted = _user_ids(senders)
    deadline = time.monotonic() + min(wait, LONGEST_WAIT_SECONDS)
    is_coordinator = caller.role == COORDINATOR_ROLE and wait > 0
    with state.bell.listening(run) as event:
        while True:
            event.clear()
            found = await to_thread.run_sync(
                lambda: state.store.gather(address, wanted, recipient, takes_place=takes_place)
            )
            if is_coordinator:
                state.waits.note(run, set(wanted) - set(found))
            if len(found) == len(wanted):
                break
            if not await _rang(event, deadline):
                return Response(status_code=204)
    return Response(encode_frames(found), media_type="application/octet-stream")


@router.delete("/{run}/{topic}/{fold}/{round_}/{attempt}")
async def discard_messages(
    request: Request,
    caller: CallerOf,
    address: AddressOf,
    recipient: Recipient,
) -> Response:
    """Drops what was for the coordinator alone."""
    require_role(caller, COORDINATOR_ROLE)
    await to_thread.run_sync(request.app.state.store.discard, address, recipient)
    return Response(status_code=204)


def _check_sender(caller: Caller, sender: int) -> None:
    require_role(caller, AGENT, COORDINATOR_ROLE)
    own = COORDINATOR if caller.role == COORDINATOR_ROLE else caller.user_id
    if caller.role != OPEN and sender != own:
        raise Forbidden("A message is put in one's own name only.", remedy="Use this hospital's own agent token.")


def _check_topic(caller: Caller, topic: str) -> None:
    """A hospital sends only the kinds of messages that there are."""
    if caller.role == AGENT and topic not in (*KINDS, *BOXES):
        raise Forbidden(f"There are no messages of kind {topic}.", remedy="Update the agent.", code="topic")


def _check_recipient(caller: Caller, recipient: int, senders: str) -> None:
    require_role(caller, AGENT, COORDINATOR_ROLE)
    if caller.role == COORDINATOR_ROLE:
        allowed = recipient in (COORDINATOR, EVERYONE) or senders == str(COORDINATOR)
    else:
        allowed = caller.role == OPEN or recipient in (caller.user_id, EVERYONE)
    if not allowed:
        raise Forbidden("This message is for somebody else.", remedy="Read what is addressed to this hospital.")


async def _require_party(store: Store, caller: Caller, run: int) -> None:
    """An agent takes part only in orders of its hospital."""
    if caller.role == AGENT:
        order = await to_thread.run_sync(store.order_hospitals, run)
        if caller.user_id not in order:
            raise Forbidden("This order is not one of this hospital's.", remedy="Nothing is to be done here.")


def _user_ids(senders: str) -> list[int]:
    parts = senders.split(",")
    if not all(part.isdecimal() and len(part) <= 10 for part in parts) or len(set(parts)) < len(parts):
        raise InvalidInput("senders is not a list of user ids.", remedy="Write each once, with commas between.")
    return [int(part) for part in parts]
