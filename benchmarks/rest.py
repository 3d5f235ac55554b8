"""What an agent takes that has nothing to do: memory and processor of all its processes,
a minute after its start and a minute after an order, with `preload` true and false; and
what the setting costs an order, the first and the second.

Two real federations of their own, on free ports, one after the other. Memory is the
proportional set size (PSS): a page that two processes share is counted once. A hospital's
agent stands alone on its machine, and the agents here map the same libraries: these are
counted in full for each.
"""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass
from pathlib import Path

from agents.site.settings import SiteSettings
from api.settings import CoordinatorSettings
from benchmarks.orders import send
from benchmarks.own_home import own_home, write_setting
from benchmarks.processor import PROC, family
from deployments.demo.training import document_order
from deployments.local.federation import choose_ports, federation
from deployments.local.sites import prepare
from deployments.processes import RunningParts

IDLE_SECONDS = 60.0
MOST_MEGABYTES = 200.0
MOST_SHARE = 0.001
MEGABYTE = 10**6


@dataclass(frozen=True)
class Rest:
    """One agent in a minute without work: bytes at its end, seconds of processor in it."""

    n_processes: int
    n_bytes: int
    processor_seconds: float


@dataclass(frozen=True)
class Measured:
    """With one setting: agents at rest, and seconds of two orders."""

    fresh: list[Rest]
    after: list[Rest]
    first_seconds: float
    second_seconds: float


def main(idle_seconds: float = IDLE_SECONDS) -> None:
    """Prints megabytes, share of a core and seconds of two orders, by setting."""
    found = {}
    for preload in (True, False):
        with own_home():
            write_setting(_setting(preload))
            settings = choose_ports(any_free=True)
            sites = prepare(settings)
            measuring = _measure(settings, sites, idle_seconds)
            found[preload] = asyncio.run(measuring)
    _say(found, idle_seconds)


def _setting(preload: bool) -> str:
    value = str(preload).lower()
    return f"preload = {value}"


async def _measure(
    settings: CoordinatorSettings,
    sites: list[SiteSettings],
    idle_seconds: float,
) -> Measured:
    body = document_order(rounds=1)
    async with federation(settings, sites, restart=False) as parts:
        fresh = await _rest(parts, sites, idle_seconds)
        first = await send(settings, body, [])
        second = await send(settings, body, [])
        after = await _rest(parts, sites, idle_seconds)
    return Measured(
        fresh,
        after,
        first,
        second,
    )


async def _rest(
    parts: RunningParts,
    sites: list[SiteSettings],
    idle_seconds: float,
) -> list[Rest]:
    """Each agent, after a third of the time in which it may come to rest."""
    await asyncio.sleep(idle_seconds / 3)
    before = {}
    for site in sites:
        process = parts.parts[site.name].process
        assert process is not None
        members = family(process.pid)
        before[process.pid] = processor_seconds(members)
    await asyncio.sleep(idle_seconds)
    found = []
    for pid, spent in before.items():
        members = family(pid)
        spent_now = processor_seconds(members)
        rest = Rest(
            n_processes=len(members),
            n_bytes=lone_bytes(members),
            processor_seconds=spent_now - spent,
        )
        found.append(rest)
    return found


def proportional_bytes(pid: int) -> int:
    """Its share of memory: a page of n processes counts as an n-th."""
    shares = PROC / str(pid) / "smaps_rollup"
    return _bytes_of(shares, "Pss")


def lone_bytes(pids: list[int]) -> int:
    """The PSS of a family of forks where nobody else on the machine has the same files
    in memory: those of the one that has most, whose forks have no others.
    """
    own = 0
    of_files = [0]
    for pid in pids:
        folder = PROC / str(pid)
        shares = folder / "smaps_rollup"
        own += _bytes_of(shares, "Pss_Anon")
        own += _bytes_of(shares, "Pss_Shmem")
        status = folder / "status"
        of_files.append(_bytes_of(status, "RssFile"))
    return own + max(of_files)


def _bytes_of(path: Path, name: str) -> int:
    """A line of /proc's, in kB there."""
    for line in path.read_text().splitlines():
        found, _, value = line.partition(":")
        if found == name:
            kilobytes = value.split()[0]
            return int(kilobytes) * 1024
    return 0


def processor_seconds(pids: list[int]) -> float:
    """Of all threads that they have now, finer than the clock's ticks."""
    nanoseconds = 0
    for pid in pids:
        threads = PROC / str(pid) / "task"
        for thread in threads.iterdir():
            text = (thread / "schedstat").read_text()
            spent = text.split()[0]
            nanoseconds += int(spent)
    return nanoseconds / 1e9


def _say(found: dict[bool, Measured], idle_seconds: float) -> None:
    print(
        f"an agent at rest for {idle_seconds:.0f} s, median of three; orders of 1 round"
    )
    for preload, measured in found.items():
        setting = _setting(preload)
        print(f"  {setting}")
        _say_rest("start", measured.fresh, idle_seconds)
        _say_rest("order", measured.after, idle_seconds)
        print(
            f"    first order {measured.first_seconds:.1f} s, second {measured.second_seconds:.1f} s"
        )
    on = found[True]
    off = found[False]
    memory = _memory(off.after) / _memory(on.after)
    first = off.first_seconds / on.first_seconds
    second = off.second_seconds / on.second_seconds
    print(f"memory, false to true: {memory:.2f}")
    print(f"first order, false to true: {first:.2f}")
    print(f"second order, false to true: {second:.2f}")


def _say_rest(
    when: str,
    rests: list[Rest],
    idle_seconds: float,
) -> None:
    megabytes = _memory(rests) / MEGABYTE
    spent = statistics.median(rest.processor_seconds for rest in rests)
    share = spent / idle_seconds
    n_processes = rests[0].n_processes
    of_memory = _verdict(megabytes, MOST_MEGABYTES)
    of_share = _verdict(share, MOST_SHARE)
    print(
        f"    after its {when}{megabytes:8.0f} MB PSS in {n_processes} processes"
        f" ({of_memory} {MOST_MEGABYTES:.0f}),"
        f" {share:.2%} of a core ({of_share} {MOST_SHARE:.1%})"
    )


def _memory(rests: list[Rest]) -> float:
    return statistics.median(rest.n_bytes for rest in rests)


def _verdict(value: float, target: float) -> str:
    return "meets" if value <= target else "MISSES"
