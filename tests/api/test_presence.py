"""Who is there, and that whoever waits for news of it is woken."""

from __future__ import annotations

import asyncio

import pytest

from api.live import Bell, Presence


class HurriedPresence(Presence):
    PAUSE_SECONDS = 0.05


async def rung(bell: Bell, presence: Presence) -> bool:
    """Waits for the bell; whether hospital 2 is there then."""
    with bell.listening("hospitals") as event:
        await asyncio.wait_for(event.wait(), 20)
    return presence.is_there(2)


def test_whoever_comes_or_goes_rings_the_bell() -> None:
    async def run() -> None:
        bell = Bell()
        presence = HurriedPresence(bell)
        came = asyncio.create_task(rung(bell, presence))
        await asyncio.sleep(0)
        with presence.poll(2):
            assert await came
            broke = asyncio.create_task(rung(bell, presence))
            await asyncio.sleep(0)
            presence.gone(2)
            assert not await broke

    asyncio.run(run())


def test_who_does_not_poll_again_is_gone_and_the_bell_says_so() -> None:
    async def run() -> None:
        bell = Bell()
        presence = HurriedPresence(bell)
        with presence.poll(2):
            pass
        assert presence.is_there(2)
        assert not await rung(bell, presence)

    asyncio.run(run())


def test_who_polls_again_in_time_rings_nothing() -> None:
    async def run() -> None:
        bell = Bell()
        presence = Presence(bell)
        with presence.poll(2):
            pass
        with bell.listening("hospitals") as event:
            with presence.poll(2):
                pass
            assert not event.is_set()

    asyncio.run(run())


@pytest.mark.parametrize("n_polls", [1, 2])
def test_a_poll_that_is_open_is_presence(n_polls: int) -> None:
    async def run() -> None:
        presence = HurriedPresence(Bell())
        with presence.poll(2):
            for _ in range(n_polls - 1):
                with presence.poll(2):
                    pass
            await asyncio.sleep(3 * presence.PAUSE_SECONDS)
            assert presence.is_there(2)
            assert presence.count() == 1

    asyncio.run(run())
