"""How large Prefect's database grows: 300 training orders of one round over three
agents, of which it keeps the runs of 50.

A real federation of its own, on free ports. The file of SQLite after 150 orders is
compared with that after 300; from what one kept order takes follows its size after
1,000 orders with as many kept as the setting has by default.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from agents.site.settings import SiteSettings
from api.settings import CoordinatorSettings, load_settings
from api.trimming import SETTLE_SECONDS
from benchmarks.orders import send
from benchmarks.own_home import own_home
from deployments.demo.training import document_order
from deployments.local.federation import choose_ports, federation
from deployments.local.sites import prepare

N_ORDERS, KEPT = 300, 50
AT_ONCE = 4
MOST_GROWTH = 1.1
LATER, MOST_MEGABYTES = 1_000, 200
MEGABYTE = 10**6
LONGEST_WAIT, LOOK_SECONDS = 10, 2.0


@dataclass(frozen=True)
class Size:
    """Bytes of the database's file, and of its pages in use."""

    file: int
    used: int
    n_orders: int  # whose runs it has


def main(n_orders: int = N_ORDERS, kept: int = KEPT) -> None:
    """Prints the file's size by number of orders, what an order takes, and the size
    that follows for 1,000.
    """
    with own_home():
        usual = load_settings().prefect_keep_orders
        os.environ["CONSILIUM_PREFECT_KEEP_ORDERS"] = str(kept)
        settings = choose_ports(any_free=True)
        sizes = asyncio.run(_measure(settings, prepare(settings), n_orders, kept))
    _say(sizes, n_orders, kept, usual)


async def _measure(
    settings: CoordinatorSettings,
    sites: list[SiteSettings],
    n_orders: int,
    kept: int,
) -> list[Size]:
    """Without orders, after half of them, and after all."""
    body = document_order(rounds=1, method="Mask")
    database = settings.home / "prefect" / "prefect.db"
    places = asyncio.Semaphore(AT_ONCE)

    async def order() -> None:
        async with places:
            await send(settings, body, [])

    async with federation(settings, sites, restart=False):
        sizes = [_size(database)]
        for n_more in (n_orders // 2, n_orders - n_orders // 2):
            await asyncio.gather(*(order() for _ in range(n_more)))
            sizes.append(await _size_when_trimmed(database, kept))
    return sizes


async def _size_when_trimmed(database: Path, kept: int) -> Size:
    """The coordinator deletes a minute after the last end, or after the turn before."""
    deadline = time.monotonic() + LONGEST_WAIT * SETTLE_SECONDS
    while True:
        size = _size(database)
        if size.n_orders <= kept or time.monotonic() > deadline:
            return size
        await asyncio.sleep(LOOK_SECONDS)


def _size(database: Path) -> Size:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    (n_pages,) = connection.execute("PRAGMA page_count").fetchone()
    (n_free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (n_orders,) = connection.execute(
        "SELECT count(*) FROM flow_run WHERE flow_id IN"
        " (SELECT id FROM flow WHERE name = 'train-order')"
    ).fetchone()
    connection.close()
    return Size(n_pages * page, (n_pages - n_free) * page, n_orders)


def _say(sizes: list[Size], n_orders: int, kept: int, usual: int) -> None:
    empty, half, whole = sizes
    print(f"Prefect's database, orders of one round over 3 agents, {kept} kept")
    for n, size in zip((0, n_orders // 2, n_orders), sizes, strict=True):
        print(
            f"  after {n:4} orders{size.file / MEGABYTE:9.1f} MB, {size.used / MEGABYTE:.1f} MB in use,"
            f" runs of {size.n_orders} orders"
        )
    growth = whole.file / half.file
    print(f"all to half: {growth:.2f} ({_verdict(growth, MOST_GROWTH)} {MOST_GROWTH})")
    each = (whole.used - empty.used) / whole.n_orders
    # What is not used now was once, before the first orders were deleted.
    spare = whole.file - whole.used
    later = (empty.used + usual * each + spare) / MEGABYTE
    print(f"an order takes {each / 1000:.0f} kB")
    print(
        f"after {LATER} orders with {usual} kept: about {later:.0f} MB"
        f" ({_verdict(later, MOST_MEGABYTES)} {MOST_MEGABYTES} MB)"
    )


def _verdict(value: float, target: float) -> str:
    return "meets" if value <= target else "MISSES"
