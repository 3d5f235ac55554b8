"""Waiting on the bell: a look that is enough ends the wait, and nothing that rings
between two looks is missed.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from api.live import Bell, read_until

LONG = 30.0


class Looks:
    """A stand-in for the store: what is found at each look, and what happens while it
    is looked.
    """

    def __init__(
        self, bell: Bell, *, rings_at: tuple[int, ...] = (), closes_at: int = 0
    ) -> None:
        self.n_looks = 0
        self._bell = bell
        self._rings_at = rings_at
        self._closes_at = closes_at

    async def look(self) -> int:
        self.n_looks += 1
        if self.n_looks in self._rings_at:
            self._bell.ring(("order", 3))
        if self.n_looks == self._closes_at:
            self._bell.close()
        return self.n_looks


def waited(looks: Looks, bell: Bell, *, enough: int, seconds: float = LONG) -> int:
    async def wait() -> int:
        return await read_until(
            bell,
            ("order", 3),
            looks.look,
            is_enough=lambda found: found >= enough,
            seconds=seconds,
        )

    return asyncio.run(wait())


def test_what_is_there_is_found_at_the_first_look() -> None:
    bell = Bell()
    assert waited(Looks(bell), bell, enough=1, seconds=0) == 1


def test_a_ring_during_a_look_leads_to_another() -> None:
    bell = Bell()
    assert waited(Looks(bell, rings_at=(1, 2)), bell, enough=3) == 3


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_the_last_look_is_the_answer_when_the_time_is_over(seconds: float) -> None:
    bell, began = Bell(), time.monotonic()
    assert waited(Looks(bell), bell, enough=2, seconds=seconds) == 1
    assert seconds <= time.monotonic() - began < LONG


def test_nobody_waits_in_a_process_that_ends() -> None:
    bell = Bell()
    assert waited(Looks(bell, closes_at=1), bell, enough=2) == 1
    assert waited(Looks(bell), bell, enough=2) == 1


def test_a_ring_for_another_order_wakes_nobody() -> None:
    bell = Bell()
    looks = Looks(bell)

    async def wait() -> int:
        asyncio.get_running_loop().call_later(0.02, bell.ring, ("order", 4))
        return await read_until(
            bell,
            ("order", 3),
            looks.look,
            is_enough=lambda found: found >= 2,
            seconds=0.2,
        )

    assert asyncio.run(wait()) == 1


def test_a_second_key_ends_the_wait_and_a_third_does_not() -> None:
    """Who waits for one message of an order is not woken by another one."""
    bell = Bell()

    async def wait() -> list[int]:
        looks = Looks(bell)
        waiting = asyncio.create_task(
            read_until(
                bell,
                3,
                looks.look,
                is_enough=lambda found: found >= 2,
                seconds=LONG,
                or_key=("messages", 3, "gradient", 0, 7),
            )
        )
        # Each turn lets the waiter go as far as it can.
        for _ in range(5):
            await asyncio.sleep(0)
        seen = [looks.n_looks]
        bell.ring(("messages", 3, "gradient", 0, 8))
        for _ in range(5):
            await asyncio.sleep(0)
        seen.append(looks.n_looks)
        bell.ring(("messages", 3, "gradient", 0, 7))
        seen.append(await waiting)
        return seen

    assert asyncio.run(wait()) == [1, 1, 2]


def test_the_end_of_an_order_wakes_who_waits_for_a_message() -> None:
    bell = Bell()

    async def wait() -> int:
        looks = Looks(bell)
        waiting = asyncio.create_task(
            read_until(
                bell,
                3,
                looks.look,
                is_enough=lambda found: found >= 2,
                seconds=LONG,
                or_key=("messages", 3, "gradient", 0, 7),
            )
        )
        for _ in range(5):
            await asyncio.sleep(0)
        bell.ring(3)
        return await waiting

    assert asyncio.run(wait()) == 2
