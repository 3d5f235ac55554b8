"""What Prefect answers a page at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from uuid import UUID

import pytest

from protocol.machine.pages import PAGE, all_pages


@dataclass(frozen=True)
class Run:
    id: UUID


RUNS = [Run(UUID(int=number)) for number in range(3 * PAGE)]


@pytest.mark.parametrize("n_runs", [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
def test_all_of_them_are_read_in_their_order(n_runs: int) -> None:
    async def page(limit: int, offset: int) -> list[Run]:
        return RUNS[:n_runs][offset : offset + limit]

    assert asyncio.run(all_pages(page)) == RUNS[:n_runs]


def test_one_that_a_new_one_pushes_onto_the_next_page_is_there_once() -> None:
    async def page(limit: int, offset: int) -> list[Run]:
        begin = max(0, offset - 1)
        return RUNS[: PAGE + 5][begin : begin + limit]

    assert asyncio.run(all_pages(page)) == RUNS[: PAGE + 5]


def test_the_same_page_again_is_not_asked_for_for_ever() -> None:
    offsets = []

    async def page(limit: int, offset: int) -> list[Run]:
        offsets.append(offset)
        return RUNS[:limit]

    assert asyncio.run(all_pages(page)) == RUNS[:PAGE]
    assert offsets == [0, PAGE]
