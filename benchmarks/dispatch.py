"""From `./run up` to the first result: how long a federation takes to be ready, and what
the first orders after that wait for.

A real federation of its own, on free ports; orders of one round, one after the other.
Beside seconds the processor's: on a machine with other work they are what can be
compared. When which run was made and began stands in Prefect's database.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agents.site.settings import SiteSettings
from api.settings import CoordinatorSettings
from benchmarks.orders import send
from benchmarks.own_home import own_home
from benchmarks.processor import by_part, seconds_by_part
from deployments.demo.training import document_order
from deployments.local.federation import choose_ports, federation
from deployments.local.sites import prepare
from deployments.processes import RunningParts

N_ORDERS = 4
PAUSE_SECONDS = 5.0
MARKS = (
    ("its run begins", "order-{n}", "RUNNING"),
    ("the last hospital's run is made", "order-{n}-hospital-%", "SCHEDULED"),
    ("the last hospital's run is taken", "order-{n}-hospital-%", "PENDING"),
    ("the last hospital's run begins", "order-{n}-hospital-%", "RUNNING"),
    ("the last hospital's run has ended", "order-{n}-hospital-%", "COMPLETED"),
    ("its run has ended", "order-{n}", "COMPLETED"),
)
"""What is told, of which runs, and of which of their states."""


@dataclass(frozen=True)
class Timed:
    """One order: when it was sent, seconds of POST and in all, the processor's by part."""

    sent: float  # of the clock, as Prefect's times
    post_seconds: float
    seconds: float
    processor: dict[str, float]


def main(n_orders: int = N_ORDERS) -> None:
    """Prints seconds until ready, and of each order what they went to."""
    with own_home():
        settings = choose_ports(any_free=True)
        sites = prepare(settings)
        asyncio.run(_measure(settings, sites, n_orders))


async def _measure(
    settings: CoordinatorSettings, sites: list[SiteSettings], n_orders: int
) -> None:
    body = document_order(rounds=1)
    began = time.perf_counter()
    spent_before = _own_seconds()
    orders = []
    async with federation(settings, sites, restart=False) as parts:
        ready = time.perf_counter() - began
        spent = seconds_by_part(parts)
        spent["starting them"] = _own_seconds() - spent_before
        total = sum(spent.values())
        cores = os.cpu_count() or 1
        print(
            f"ready after {ready:.1f} s, {total:.1f} s of the processor ({by_part(spent)}):"
            f" on {cores} cores at least {total / cores:.1f} s"
        )
        for _ in range(n_orders):
            orders.append(await _order(settings, parts, body))
            await asyncio.sleep(PAUSE_SECONDS)
    for number, order in enumerate(orders, start=1):
        print(
            f"order {number}: {order.seconds:.2f} s, POST {order.post_seconds:.2f} s,"
            f" {sum(order.processor.values()):.2f} s of the processor ({by_part(order.processor)})"
        )
        database = settings.home / "prefect" / "prefect.db"
        for words, at in _marks(database, number).items():
            print(f"  {at - order.sent:6.2f} s  {words}")
    first, *later = [order.seconds for order in orders]
    usual = sum(later) / len(later)
    print(f"first order to later ones: {first / usual:.2f}")


def _own_seconds() -> float:
    """Of this process and of its children that have ended, such as the one that makes
    Prefect's deployments.
    """
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system


async def _order(
    settings: CoordinatorSettings, parts: RunningParts, body: dict[str, object]
) -> Timed:
    before = seconds_by_part(parts)
    posts: list[float] = []
    sent = datetime.now(UTC).timestamp()
    seconds = await send(settings, body, posts)
    # What is done behind the order's end belongs to it.
    await asyncio.sleep(1)
    spent = {name: used - before[name] for name, used in seconds_by_part(parts).items()}
    return Timed(sent, posts[0], seconds, spent)


def _marks(database: Path, number: int) -> dict[str, float]:
    """When the last of the runs came to the state, by what it is called."""
    # Read only: Prefect's server has it open, and writes.
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    found = {}
    for words, name, state in MARKS:
        (last,) = connection.execute(
            "SELECT max(s.timestamp) FROM flow_run_state s JOIN flow_run r ON s.flow_run_id = r.id"
            " WHERE r.name LIKE ? AND s.type = ?",
            (name.format(n=number), state),
        ).fetchone()
        if last is not None:
            at = datetime.fromisoformat(last).replace(tzinfo=UTC)
            found[words] = at.timestamp()
    connection.close()
    return found
