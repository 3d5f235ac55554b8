"""Several processes of the API on one PostgreSQL: each hears what another one says."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import psycopg
import pytest
import sqlalchemy as sa

from api import together
from api.conditions import Condition, Conditions
from api.live import Bell, Inbox, Presence, Waits, read_until
from api.store import Store
from api.store.engine import in_thread
from api.together import (
    APPLICATION,
    SPEAKING_LOCK,
    Together,
    connected,
    hold_duties,
)
from protocol.exchange import Address
from tests.api.own_database import SERVER, own_databases

LONG_SECONDS = 60.0
SOON_SECONDS = 20.0
"""Far below any wait: who was not woken is not there by then."""

ADDRESS = Address(7, "acceptance")


@pytest.fixture(scope="module")
def store_url() -> Iterator[str]:
    with own_databases("together") as (name,):
        url = f"postgresql+psycopg://{SERVER}/{name}"
        store = Store(url)
        store.migrate()
        store.hospitals.add(2, "suzhou-szslyy")
        store.close()
        yield url


class Process:
    """What one process of the API has in its memory, with a store of its own."""

    def __init__(self, url: str) -> None:
        self.store = Store(url)
        self.bell = Bell()
        self.inbox = Inbox()
        self.waits = Waits()
        self.presence = Presence(self.bell)
        self.conditions = Conditions(self.bell)
        self.together = Together(
            self.conninfo,
            bell=self.bell,
            inbox=self.inbox,
            presence=self.presence,
            conditions=self.conditions,
            waits=self.waits,
        )

    @property
    def conninfo(self) -> str:
        assert self.store.conninfo is not None
        return self.store.conninfo


@contextlib.asynccontextmanager
async def running(url: str) -> AsyncIterator[Process]:
    process = Process(url)
    try:
        async with process.together.joined():
            yield process
    finally:
        process.store.close()


def with_two(url: str, test: Callable[[Process, Process], Awaitable[None]]) -> None:
    async def run() -> None:
        async with running(url) as one, running(url) as other:
            # What both said at their coming has been heard: this comes behind it.
            await settle(one, other)
            await settle(other, one)
            await test(one, other)

    asyncio.run(run())


async def settle(speaker: Process, hearer: Process) -> None:
    speaker.waits.note(99, [2])
    speaker.bell.ring("settled")
    await until(hearer.bell, "settled", lambda: bool(hearer.waits.longer_than(99, 0)))
    speaker.waits.note(99, [])
    speaker.bell.ring("settled")
    await until(hearer.bell, "settled", lambda: not hearer.waits.longer_than(99, 0))


async def until(bell: Bell, key: object, is_so: Callable[[], bool]) -> None:
    """Fails unless the bell has it seen soon."""

    async def look() -> bool:
        return is_so()

    found = await read_until(bell, key, look, is_enough=bool, seconds=SOON_SECONDS)
    assert found


def test_who_waits_at_one_process_is_woken_by_what_another_has_stored(
    store_url: str,
) -> None:
    async def test(one: Process, other: Process) -> None:
        looks = 0

        async def look() -> dict[int, str]:
            nonlocal looks
            names = await in_thread(other.store.hospitals.names)
            # It has looked when it has read.
            looks += 1
            return names

        waiting = asyncio.create_task(
            read_until(
                other.bell,
                7,
                look,
                is_enough=lambda names: 3 in names,
                seconds=LONG_SECONDS,
            )
        )
        while looks == 0:
            await asyncio.sleep(0)
        began = time.monotonic()
        await in_thread(one.store.hospitals.add, 3, "zhejiang-zdey")
        one.bell.ring(7)
        assert 3 in await waiting
        assert time.monotonic() - began < SOON_SECONDS
        # By the ring, and by nothing else: it has looked once before.
        assert looks == 2

    with_two(store_url, test)


def test_an_agent_is_there_for_all_processes_and_gone_for_all(store_url: str) -> None:
    async def test(one: Process, other: Process) -> None:
        def is_there() -> bool:
            return other.presence.is_there(2)

        with one.presence.poll(2):
            await until(other.bell, "hospitals", is_there)
            assert other.presence.there() == {2}
            one.presence.gone(2)
            await until(other.bell, "hospitals", lambda: not is_there())

    with_two(store_url, test)


def test_one_that_connects_anew_elsewhere_is_not_gone(store_url: str) -> None:
    async def test(one: Process, other: Process) -> None:
        with one.presence.poll(2):
            await until(other.bell, "hospitals", lambda: other.presence.is_there(2))
            with other.presence.poll(2):
                await until(one.bell, "hospitals", lambda: bool(one.presence.there()))
                one.presence.gone(2)
                condition = Condition(disk_full=True)
                one.conditions.tell(3, condition)
                # Said behind it, so all before has been heard.
                await until(
                    other.bell,
                    "hospitals",
                    lambda: other.conditions.held_up_seconds(3) > 0,
                )
                assert other.presence.is_there(2)

    with_two(store_url, test)


def test_news_are_heard_by_all_under_one_number_and_none_twice(store_url: str) -> None:
    async def test(one: Process, other: Process) -> None:
        assert one.inbox.boot == other.inbox.boot
        start, _ = other.inbox.since(2, 0)
        one.inbox.tell(2, "look", 7)

        def heard(process: Process) -> bool:
            _, news = process.inbox.since(2, start)
            return {"what": "look", "order_id": 7} in news

        await until(other.inbox.bell, 2, lambda: heard(other))
        await until(one.inbox.bell, 2, lambda: heard(one))
        end, _ = one.inbox.since(2, start)
        assert other.inbox.knows(end)
        assert other.inbox.since(2, end) == (end, [])

    with_two(store_url, test)


def test_who_comes_later_is_told_what_the_others_know(store_url: str) -> None:
    async def run() -> None:
        async with running(store_url) as one:
            one.conditions.tell(2, Condition(not_ready=True))
            one.waits.note(7, [2, 3])
            cursor, _ = one.inbox.since(2, 0)
            with one.presence.poll(2):
                async with running(store_url) as late:
                    await until(
                        late.bell, "hospitals", lambda: late.presence.is_there(2)
                    )
                    await until(
                        late.bell,
                        "hospitals",
                        lambda: late.conditions.held_up_seconds(2) > 0,
                    )
                    # It has not heard what came before: who asks has to look.
                    assert not late.inbox.knows(cursor)

    asyncio.run(run())


def test_a_lost_connection_is_made_anew_and_rings_once(store_url: str) -> None:
    async def test(one: Process, other: Process) -> None:
        with one.bell.listening("anything") as event:
            event.clear()
            name = one.store.engine.url.database
            with psycopg.connect(
                f"postgresql://{SERVER}/postgres", autocommit=True
            ) as admin:
                ended = admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = %s AND application_name = %s",
                    (name, APPLICATION),
                )
                assert ended.rowcount == 4  # each listens by one and speaks by one
            await asyncio.wait_for(event.wait(), SOON_SECONDS)
        waiting = asyncio.create_task(until(other.bell, "after", lambda: bool(rung)))
        rung: list[int] = []
        await asyncio.sleep(0)
        rung.append(1)
        one.bell.ring("after")
        await waiting

    with_two(store_url, test)


def test_duties_pass_to_another_process_when_their_holder_ends(store_url: str) -> None:
    async def run() -> None:
        process = Process(store_url)
        begun: asyncio.Queue[str] = asyncio.Queue()

        def duties(name: str) -> Callable[[], Awaitable[None]]:
            async def do() -> None:
                begun.put_nowait(name)
                await asyncio.Event().wait()

            return do

        first = asyncio.create_task(hold_duties(process.conninfo, duties("first")))
        assert await asyncio.wait_for(begun.get(), SOON_SECONDS) == "first"
        second = asyncio.create_task(hold_duties(process.conninfo, duties("second")))
        # It waits for the lock; PostgreSQL says so.
        await _until_one_waits(process.store)
        assert begun.empty()
        first.cancel()
        began = time.monotonic()
        assert await asyncio.wait_for(begun.get(), SOON_SECONDS) == "second"
        assert time.monotonic() - began < 5
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        process.store.close()

    asyncio.run(run())


async def _until_one_waits(store: Store) -> None:
    waiting = sa.text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )

    def n_waiting() -> int:
        with store.begin() as connection:
            return int(connection.scalar(waiting) or 0)

    async with asyncio.timeout(SOON_SECONDS):
        while not await in_thread(n_waiting):
            await asyncio.sleep(0.01)


MANY = [10**9 + number for number in range(1200)]
"""Hospitals of the longest numbers, more than one notification names."""


def test_whom_many_orders_of_many_hospitals_wait_for_is_heard(store_url: str) -> None:
    """In notifications that PostgreSQL takes, and what is said behind them, too."""

    async def test(one: Process, other: Process) -> None:
        runs = range(100, 160)
        for run in runs:
            one.waits.note(run, range(1, 300))
        one.bell.ring("behind")

        def is_heard() -> bool:
            return all(len(other.waits.longer_than(run, 0)) == 299 for run in runs)

        await until(other.bell, "behind", is_heard)

    with_two(store_url, test)


def test_more_hospitals_than_one_notification_names_are_all_heard(
    store_url: str,
) -> None:
    async def test(one: Process, other: Process) -> None:
        one.waits.note(7, MANY)
        one.bell.ring("all")
        await until(other.bell, "all", lambda: other.waits.longer_than(7, 0) == MANY)
        heard = time.monotonic()
        one.waits.note(7, MANY[1:])
        one.bell.ring("fewer")
        fewer = MANY[1:]
        await until(other.bell, "fewer", lambda: other.waits.longer_than(7, 0) == fewer)
        # Who was missing before is missing since then.
        assert other.waits.longer_than(7, time.monotonic() - heard) == fewer
        one.waits.note(7, [])
        one.bell.ring("none")
        await until(other.bell, "none", lambda: other.waits.longer_than(7, 0) == [])

    with_two(store_url, test)


def test_what_fits_into_no_notification_has_all_look(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(one: Process, other: Process) -> None:
        with other.bell.listening("anything") as event:
            event.clear()
            one.together.say("here", "x" * 9000, 1.0)
            await asyncio.wait_for(event.wait(), SOON_SECONDS)

    with_two(store_url, test)
    assert "What is said of here does not fit" in caplog.text


def test_what_comes_back_in_a_batch_is_heard_as_the_last(store_url: str) -> None:
    async def test(one: Process, other: Process) -> None:
        for missing in ([2], [3], [2]):
            one.waits.note(7, missing)
        one.bell.ring("last")
        await until(other.bell, "last", lambda: bool(other.waits.longer_than(7, 0)))
        assert other.waits.longer_than(7, 0) == [2]
        one.waits.note(7, [])

    with_two(store_url, test)


@contextlib.asynccontextmanager
async def nobody_speaks(process: Process) -> AsyncIterator[None]:
    """What the process says meanwhile waits, the first of it in a NOTIFY under way."""
    async with await connected(process.conninfo) as connection:
        await connection.execute("SELECT pg_advisory_lock(%s)", (SPEAKING_LOCK,))
        process.bell.ring("under way")
        await _until_one_waits(process.store)
        yield


def test_nothing_is_lost_while_something_is_said(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "MOST_UNSAID", 20)
    runs = range(1, together.MOST_UNSAID + 1)

    async def test(one: Process, other: Process) -> None:
        async with nobody_speaks(one):
            for run in runs:
                one.waits.note(run, [2])
        # None is too much: what is under way counts no more.
        while one.together._unsaid:
            await asyncio.sleep(0.01)
        await settle(one, other)
        assert all(other.waits.longer_than(run, 0) for run in runs)

    with_two(store_url, test)


def test_where_too_much_is_unsaid_all_look_and_are_told(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "MOST_UNSAID", 20)

    async def test(one: Process, other: Process) -> None:
        cursor, _ = other.inbox.since(2, 0)
        with other.bell.listening("first") as event:
            event.clear()
            async with nobody_speaks(one):
                one.bell.ring("first")
                # What is told anew is more than the bound, too.
                for run in range(1, 100):
                    one.waits.note(run, [2])
            await asyncio.wait_for(event.wait(), SOON_SECONDS)
        one.bell.ring("behind")

        def is_heard() -> bool:
            return all(other.waits.longer_than(run, 0) for run in range(1, 100))

        await until(other.bell, "behind", is_heard)
        _, news = other.inbox.since(2, cursor)
        assert {"what": "look", "order_id": 0} in news

    with_two(store_url, test)
