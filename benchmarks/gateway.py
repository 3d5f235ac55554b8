"""What the gateway costs an order: from POST to success through the coordinator's
gateway, beside the same order whose agents reach Prefect directly.

A real federation of its own, on free ports, with two parties of three hospitals that
hold the same table. The agents of one party are started as they are in use, those of
the other with Prefect's address and auth string (benchmarks.direct_agent). Orders of
one round alternate, in pairs, and so does which of a pair goes first; after half of the
pairs the parties change places, so that what differs between them cancels.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agents.site.settings import SiteSettings
from api.settings import CoordinatorSettings
from benchmarks.direct_agent import part_without_gateway
from benchmarks.orders import PAUSE_SECONDS, send
from benchmarks.own_home import own_home
from deployments.demo.training import INITIATOR, document_order
from deployments.local.federation import (
    choose_ports,
    federation,
    part_of_site,
)
from deployments.local.sites import prepare
from deployments.processes import PartProcess
from deployments.state import prefect_auth

N_PAIRS = 10
N_HOSPITALS = 7
N_PARTY = 3
LEAST_LIMIT = 0.05
"""Of direct, that an order through the gateway may take more however close pairs are."""
SPREADS = 2
"""So many times the spread of the pairs is the limit where that is more."""


@dataclass(frozen=True)
class Pair:
    """Seconds of two orders, one after the other."""

    gateway: float
    direct: float

    @property
    def ratio(self) -> float:
        return self.gateway / self.direct


@dataclass(frozen=True)
class Comparison:
    """What the pairs say together.

    `spread` is the median distance of the pairs' ratios from their median: half of the
    pairs are no farther from it. One disturbed order does not widen it, as it would
    widen a standard deviation, and the limit with it.
    """

    gateway: float  # median seconds
    direct: float
    ratio: float  # of the two medians
    spread: float

    @property
    def limit(self) -> float:
        """Of the ratio."""
        return 1 + max(LEAST_LIMIT, SPREADS * self.spread)

    @property
    def is_met(self) -> bool:
        return self.ratio <= self.limit


def compare(pairs: list[Pair]) -> Comparison:
    """The medians of both ways, their ratio, and how far the pairs are apart."""
    gateway = statistics.median(pair.gateway for pair in pairs)
    direct = statistics.median(pair.direct for pair in pairs)
    ratios = [pair.ratio for pair in pairs]
    middle = statistics.median(ratios)
    spread = statistics.median(abs(ratio - middle) for ratio in ratios)
    return Comparison(gateway, direct, gateway / direct, spread)


def main(n_pairs: int = N_PAIRS) -> None:
    """Prints both medians, their ratio, the pairs' spread, and whether the aim is met."""
    with own_home():
        settings = choose_ports(any_free=True)
        sites = prepare(settings, n_hospitals=N_HOSPITALS)
        pairs = asyncio.run(_measure(settings, sites, n_pairs))
    _say(pairs)


async def _measure(
    settings: CoordinatorSettings, sites: list[SiteSettings], n_pairs: int
) -> list[Pair]:
    # The document's initiator holds another table than all others.
    alike = [site for site in sites if site.user_id != INITIATOR]
    first, second = alike[:N_PARTY], alike[N_PARTY:]
    half = n_pairs // 2
    return [
        *await _measure_half(settings, first, second, half),
        *await _measure_half(settings, second, first, n_pairs - half),
    ]


async def _measure_half(
    settings: CoordinatorSettings,
    through: list[SiteSettings],
    past: list[SiteSettings],
    n_pairs: int,
) -> list[Pair]:
    """Pairs of orders to the party whose agents go through the gateway, and to the one
    whose agents go past it.
    """
    auth = prefect_auth(settings)
    assert auth is not None  # `prepare` has made it

    def part(site: SiteSettings) -> PartProcess:
        if site in past:
            return part_without_gateway(site, settings.prefect_url, auth)
        return part_of_site(site)

    bodies = {"gateway": _order_of(through), "direct": _order_of(past)}
    pairs = []
    async with federation(settings, [*through, *past], restart=False, part=part):
        # The first order of a process loads what later ones find.
        for body in bodies.values():
            await send(settings, body, [])
        for ways in _in_turn(n_pairs):
            seconds = {}
            for way in ways:
                # So that no order pays for the end of the one before.
                await asyncio.sleep(PAUSE_SECONDS)
                seconds[way] = await send(settings, bodies[way], [])
            pairs.append(Pair(**seconds))
    return pairs


def _in_turn(n_pairs: int) -> Iterator[tuple[str, str]]:
    """Which way goes first."""
    for number in range(n_pairs):
        yield ("gateway", "direct") if number % 2 == 0 else ("direct", "gateway")


def _order_of(party: list[SiteSettings]) -> dict[str, Any]:
    """The request document's order with one round, sent by the party's first hospital."""
    first, *others = [site.user_id for site in party]
    body = document_order([first, *others], rounds=1, method="Mask")
    return {**body, "user_id": first, "party_id": others}


def _say(pairs: list[Pair]) -> None:
    found = compare(pairs)
    print(
        f"one order of one round, {N_PARTY} agents, from POST to success, seconds;"
        f" {len(pairs)} pairs"
    )
    _say_way("gateway", found.gateway, [pair.gateway for pair in pairs])
    _say_way("direct", found.direct, [pair.direct for pair in pairs])
    ratios = sorted(pair.ratio for pair in pairs)
    print(
        f"gateway to direct: {found.ratio:.3f} ({found.ratio - 1:+.1%});"
        f" pairs from {ratios[0]:.3f} to {ratios[-1]:.3f}, spread {found.spread:.1%}"
    )
    print(
        f"aim: within {LEAST_LIMIT:.0%} of direct, or {SPREADS} times the spread"
        f" ({SPREADS * found.spread:.1%}) where that is more:"
        f" {'met' if found.is_met else 'MISSED'}"
    )


def _say_way(name: str, median: float, seconds: list[float]) -> None:
    each = ", ".join(f"{one:.2f}" for one in seconds)
    print(f"  {name:10}{median:8.2f}   ({each})")


if __name__ == "__main__":
    main()
