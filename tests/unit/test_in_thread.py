"""Calls of a store off the event loop: a call that is cancelled is waited for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from api.store.engine import in_thread


def test_what_a_call_gives_and_raises() -> None:
    async def ask() -> int:
        with pytest.raises(ZeroDivisionError):
            await in_thread(divmod, 1, 0)
        return await in_thread(int, "11", base=2)

    assert asyncio.run(ask()) == 3


@pytest.mark.parametrize("fails", [False, True])
def test_nobody_goes_on_while_a_cancelled_call_writes(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is cancelled: else the store could be closed under it."""
    begun, may_end = threading.Event(), threading.Event()
    written: list[str] = []

    def write() -> None:
        begun.set()
        assert may_end.wait(20)
        written.append("row")
        if fails:
            raise OSError

    async def cancel() -> None:
        task = asyncio.create_task(in_thread(write))
        await asyncio.to_thread(begun.wait, 20)
        for _ in range(3):
            task.cancel()
            # Some turns of the loop, in which it could end.
            for _ in range(5):
                await asyncio.sleep(0)
            assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert written == ["row"]

    asyncio.run(cancel())
    assert caplog.records == []
