"""What Prefect answers a page at a time, as one list."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar
from uuid import UUID

PAGE = 200
"""As many entries as Prefect gives in one answer."""


class Entry(Protocol):
    """A run, a task or a deployment."""

    @property
    def id(self) -> UUID: ...


E = TypeVar("E", bound=Entry)


async def all_pages(page: Callable[[int, int], Awaitable[list[E]]]) -> list[E]:
    """Each entry once, in the order of the answers; page: of a limit and an offset.

    What is made meanwhile may stand on two pages. Raises what `page` raises.
    """
    by_id: dict[UUID, E] = {}
    for offset in itertools.count(0, PAGE):
        n_known = len(by_id)
        entries = await page(PAGE, offset)
        for entry in entries:
            by_id[entry.id] = entry
        # Who answers the same page again would be asked for ever.
        if len(entries) < PAGE or len(by_id) == n_known:
            break
    return list(by_id.values())
