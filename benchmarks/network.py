"""How an order grows with its hospitals: seconds, bytes and memory in the one-process
federation, where they work one after another, and Prefect's rows with real agents.

Every size is a process of its own, so that its peak is its own. `times linear` is a
figure's growth since the smallest size beside the growth of the number of hospitals: 1
is linear, and what the coordinator holds is to stay where it is. Masks stand apart:
their number is that of pairs.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from agents.site.settings import SiteSettings
from api.settings import CoordinatorSettings
from benchmarks.one_by_one import Measured
from benchmarks.orders import send
from benchmarks.own_home import own_home, write_setting
from benchmarks.prefect_rows import OrderRows, rows_of
from benchmarks.processor import family, peak_bytes
from deployments.demo.training import document_order
from deployments.local.federation import choose_ports, federation
from deployments.local.sites import prepare
from protocol.errors import BadRequest

WORDS = 1_000_000
COUNTS, MORE = (3, 10, 30), (100, 300)
AGENTS = (3, 5, 10)
ROUNDS = 5
MEGABYTE = 10**6
MOST_HELD, MOST_RESIDENT = 100, 1000  # megabytes
LARGE_ORDER, LARGE_ROUNDS, MOST_ROWS = 300, 30, 3_000
LONGEST_WAIT, LOOK_SECONDS = 60.0, 0.5


def main(
    *,
    full: bool = False,
    hospitals: Sequence[int] | None = None,
    agents: Sequence[int] | None = None,
) -> None:
    """Prints both tables; `full` takes hours and 20 GB of disk for 300 hospitals.

    hospitals, agents: these numbers of them alone, no table of none. BadRequest (code
    hospitals, agents) for fewer than an order can have.
    """
    if hospitals is None:
        hospitals = (*COUNTS, *MORE) if full else COUNTS
    if agents is None:
        agents = AGENTS
    _check_counts("hospitals", hospitals)
    _check_counts("agents", agents)
    if hospitals:
        _measure_sizes(sorted(hospitals))
    if agents:
        _measure_agents(sorted(agents))


def _check_counts(name: str, counts: Sequence[int]) -> None:
    fewest = min(AGENTS)
    if min(counts, default=fewest) < fewest:
        raise BadRequest(
            f"--{name} has {min(counts)}, and an order here has {fewest} hospitals or more.",
            remedy=f"Give numbers from {fewest} on, such as --{name} 3 5 10, or none.",
            code=name,
        )


def _measure_sizes(counts: Sequence[int]) -> None:
    print(
        f"one process, hospitals one after another, one order of one round under Mask, {WORDS:,} words"
    )
    print(
        f"  {'hospitals':>9}{'seconds':>10}{'processor':>11}{'of masks':>10}{'coordinator':>13}"
        f"{'MB sent':>10}{'it holds':>10}{'peak MB':>9}{'times linear: s, masks, MB':>30}",
        flush=True,
    )
    smallest: Measured | None = None
    for n_hospitals in counts:
        found = _in_own_process(n_hospitals)
        smallest = smallest or found
        print(_line(found, smallest), flush=True)


def _in_own_process(n_hospitals: int) -> Measured:
    command = [
        sys.executable,
        "-m",
        "benchmarks.one_by_one",
        str(n_hospitals),
        str(WORDS),
    ]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return Measured(**json.loads(answer.stdout))


def _line(found: Measured, smallest: Measured) -> str:
    growth = found.n_hospitals / smallest.n_hospitals
    # Of the processor: other work of the machine does not count.
    seconds = found.processor_seconds / smallest.processor_seconds / growth
    of_masks = found.mask_seconds / smallest.mask_seconds / growth
    n_bytes = found.n_bytes / smallest.n_bytes / growth
    held = found.coordinator_peak / MEGABYTE
    resident = found.process_peak / MEGABYTE
    verdict = f"{_verdict(held, MOST_HELD)}, {_verdict(resident, MOST_RESIDENT)}"
    return (
        f"  {found.n_hospitals:9}{found.seconds:10.1f}{found.processor_seconds:11.1f}{found.mask_seconds:10.1f}"
        f"{found.coordinator_seconds:13.1f}{found.n_bytes / MEGABYTE:10.0f}"
        f"{held:10.1f}{resident:9.0f}{seconds:14.2f}{of_masks:8.2f}{n_bytes:8.2f}"
        f"   ({verdict})"
    )


def _verdict(value: float, target: float) -> str:
    return f"{'meets' if value <= target else 'MISSES'} {target}"


@dataclass(frozen=True)
class OfAgents:
    """One order with real agents."""

    n_agents: int
    seconds: float
    api_peak: int  # bytes of resident memory of the API's processes
    rows: OrderRows


def _measure_agents(counts: Sequence[int]) -> None:
    print(f"real agents, one order of {ROUNDS} rounds under Mask, 5 coefficients")
    print(
        f"  {'agents':>9}{'seconds':>10}{'s/round':>10}{'API MB':>9}{'rows':>8}{'events':>8}"
        f"{'times linear: s, MB, rows':>28}",
        flush=True,
    )
    smallest: OfAgents | None = None
    for n_agents in counts:
        with own_home():
            # Each shows its work as those of an order of many hospitals do.
            write_setting(f"coarse_tasks_above = {min(AGENTS) - 1}")
            settings = choose_ports(any_free=True)
            sites = prepare(settings, n_hospitals=n_agents)
            found = asyncio.run(_order(settings, sites))
        smallest = smallest or found
        print(_agents_line(found, smallest), flush=True)
    foreseen = found.rows.foreseen(LARGE_ORDER, LARGE_ROUNDS)
    print(
        f"rows of flow_run, task_run and their states for {LARGE_ORDER} hospitals and {LARGE_ROUNDS} rounds:"
        f" {foreseen} ({_verdict(foreseen, MOST_ROWS)})"
    )


def _agents_line(found: OfAgents, smallest: OfAgents) -> str:
    growth = found.n_agents / smallest.n_agents
    seconds = found.seconds / smallest.seconds / growth
    held = found.api_peak / smallest.api_peak / growth
    rows = found.rows.total / smallest.rows.total / growth
    return (
        f"  {found.n_agents:9}{found.seconds:10.2f}{found.seconds / ROUNDS:10.2f}"
        f"{found.api_peak / MEGABYTE:9.0f}{found.rows.total:8}{_events(found.rows):8}"
        f"{seconds:14.2f}{held:7.2f}{rows:7.2f}"
    )


def _events(rows: OrderRows) -> int:
    of_hospitals = sum(one.events for one in rows.hospitals.values())
    return of_hospitals + rows.around.events + rows.in_rounds.events


async def _order(settings: CoordinatorSettings, sites: list[SiteSettings]) -> OfAgents:
    """The second order: the first loads what later ones find."""
    users = [site.user_id for site in sites]
    body = document_order(users, rounds=ROUNDS, method="Mask")
    body["model_params"]["eps"] = 0.0
    async with federation(settings, sites, restart=False) as parts:
        await send(settings, body, [])
        seconds = await send(settings, body, [])
        rows = await _settled(settings, order_id=2)
        api = parts.parts["api"].process
        assert api is not None
        api_peak = sum(peak_bytes(pid) for pid in family(api.pid))
    return OfAgents(len(sites), seconds, api_peak, rows)


async def _settled(settings: CoordinatorSettings, *, order_id: int) -> OrderRows:
    """Prefect writes its record a moment after the order's end."""
    database = settings.home / "prefect" / "prefect.db"
    deadline = time.monotonic() + LONGEST_WAIT
    before = None
    while True:
        rows = rows_of(database, order_id)
        # The final metrics are one round more. Prefect writes in batches: two looks
        # that find the same are the end.
        has_rounds = rows.n_rounds == ROUNDS + 1
        if (rows == before and has_rounds) or time.monotonic() > deadline:
            return rows
        before = rows
        await asyncio.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
