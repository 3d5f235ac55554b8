"""A Paillier order of 30 rounds over 31 coefficients and three agents, beside the same
order with method None.

A real federation of its own, on free ports. The orders are sent in turn, several times;
medians are compared. The breakdown comes from the initiator's log line of the Paillier
orders. Then the request document's order as it is written, and with 30 rounds, 1, 4, 12
and 30 times at once, to hospitals that take four each: orders per minute, how long a POST
takes, and seconds of the processor for each order, by part: two cores have 120 of them a
minute.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass
from typing import Any

import httpx

from agents.site.settings import SiteSettings
from api.settings import CoordinatorSettings
from benchmarks.own_home import own_home
from benchmarks.processor import by_part, seconds_by_part
from deployments.demo.training import INITIATOR, document_order
from deployments.local.federation import choose_ports, federation
from deployments.local.sites import prepare
from deployments.processes import RunningParts
from deployments.state import read_tokens

N_ORDERS = 3
ROUNDS, FEATURES = 30, 30
TARGET_SECONDS, TARGET_RATIO = 10.0, 1.2
PAUSE_SECONDS = 3.0
DOCUMENT_ROUNDS = 10  # as the request document writes it
AT_ONCE = (1, 4, 12, 30)


def main() -> None:
    """Prints seconds by method, their ratio, and where the encrypted order's time went."""
    with own_home():
        settings = choose_ports(any_free=True)
        asyncio.run(_compare(settings, prepare(settings)))


async def _compare(settings: CoordinatorSettings, sites: list[SiteSettings]) -> None:
    seconds: dict[str, list[float]] = {"Paillier": [], "Mask": [], "None": []}
    async with federation(settings, sites, restart=False) as parts:
        await _time_order(
            settings, "Mask"
        )  # the first order of a process loads what later ones find
        for _ in range(N_ORDERS):
            for method, times in seconds.items():
                await asyncio.sleep(
                    PAUSE_SECONDS
                )  # so that no order pays for the end of the one before
                times.append(await _time_order(settings, method))
        crowds: dict[int, list[Crowd]] = {DOCUMENT_ROUNDS: [], ROUNDS: []}
        for rounds, of_these in crowds.items():
            for n_orders in AT_ONCE:
                await asyncio.sleep(PAUSE_SECONDS)
                of_these.append(await _time_crowd(settings, parts, n_orders, rounds))
    medians = {method: statistics.median(times) for method, times in seconds.items()}
    print(
        f"{ROUNDS} rounds, {FEATURES + 1} coefficients, {len(sites)} agents, from POST to success, seconds"
    )
    for method, times in seconds.items():
        print(
            f"  {method:10}{medians[method]:8.2f}   ({', '.join(f'{t:.2f}' for t in times)})"
        )
    ratio = medians["Paillier"] / medians["None"]
    print(
        f"Paillier to None: {ratio:.2f} ({_verdict(ratio, TARGET_RATIO)} {TARGET_RATIO})"
    )
    print(
        f"Paillier: {medians['Paillier']:.1f} s ({_verdict(medians['Paillier'], TARGET_SECONDS)} {TARGET_SECONDS} s)"
    )
    _breakdown(
        next(site for site in sites if site.user_id == INITIATOR), medians["Paillier"]
    )
    for rounds, of_these in crowds.items():
        print(
            f"the document's order, {rounds} rounds, Paillier,"
            f" {sites[0].max_orders} places at each of {len(sites)} agents"
        )
        _print_crowds(of_these)


@dataclass(frozen=True)
class Crowd:
    """Orders that were sent at once: how many, in how many seconds all ended, and how
    long each POST took.
    """

    n_orders: int
    seconds: float
    posts: list[float]
    processor: dict[str, float]  # seconds for one order, by part

    @property
    def per_minute(self) -> float:
        return 60 * self.n_orders / self.seconds


def _print_crowds(crowds: list[Crowd]) -> None:
    for crowd in crowds:
        print(
            f"  {crowd.n_orders:3} at once{crowd.per_minute:8.1f} orders a minute   POST answers in "
            f"{statistics.median(crowd.posts):.2f} s (median), {max(crowd.posts):.2f} s (longest)"
        )
        print(
            f"      {sum(crowd.processor.values()):.2f} s of the processor for each order"
            f" ({by_part(crowd.processor)})"
        )
    ratio = crowds[-1].per_minute / crowds[0].per_minute
    print(
        f"{AT_ONCE[-1]} at once to one alone: {ratio:.2f} times as many orders a minute"
    )


async def _time_crowd(
    settings: CoordinatorSettings, parts: RunningParts, n_orders: int, rounds: int
) -> Crowd:
    body = document_order(rounds=rounds)
    body["model_params"]["eps"] = 0.0
    posts: list[float] = []
    before = seconds_by_part(parts)
    began = time.perf_counter()
    await asyncio.gather(*(send(settings, body, posts) for _ in range(n_orders)))
    seconds = time.perf_counter() - began
    # What is done behind the last order's end belongs to it.
    await asyncio.sleep(1)
    each = {
        name: (used - before[name]) / n_orders
        for name, used in seconds_by_part(parts).items()
    }
    return Crowd(n_orders, seconds, posts, each)


def _verdict(value: float, target: float) -> str:
    return "meets" if value <= target else "MISSES"


async def _time_order(settings: CoordinatorSettings, method: str) -> float:
    body = document_order(rounds=ROUNDS, features=FEATURES, method=method)
    # All rounds are run, whatever the method.
    body["model_params"]["eps"] = 0.0
    return await send(settings, body, [])


async def send(
    settings: CoordinatorSettings, body: dict[str, Any], posts: list[float]
) -> float:
    """Seconds from POST to success, sent by the body's `user_id`; what the POST took
    goes to `posts`.
    """
    token = read_tokens(settings)[str(body["user_id"])]
    headers = {"Authorization": f"Bearer {token}"}
    url = f"http://{settings.host}:{settings.port}"
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=600, trust_env=False
    ) as client:
        began = time.perf_counter()
        answer = (await client.post("/model/train", json=body)).json()
        posts.append(time.perf_counter() - began)
        order_id = answer["data"]["order_id"]
        async with client.stream("GET", f"/orders/{order_id}/events") as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data:") and '"success"' in line:
                    return time.perf_counter() - began
    raise RuntimeError(f"order {order_id} did not succeed")


def _breakdown(initiator: SiteSettings, total: float) -> None:
    """Medians over the Paillier orders, at the initiator; what its own process does not
    see is dispatch.
    """
    lines = [
        line
        for line in (initiator.state / "agent.log").read_text().splitlines()
        if "Times of order" in line
    ]
    every = [json.loads(line.split(": ", 2)[-1]) for line in lines]
    orders = every[1:][
        0::3
    ]  # the warm-up goes first; then Paillier, Mask, None in turn
    parts = _parts(
        {name: statistics.median(times[name] for times in orders) for name in orders[0]}
    )
    parts["dispatch (coordinator, Prefect, start of processes)"] = max(
        0.0, total - sum(parts.values())
    )
    print("where the time of a Paillier order goes, at the initiator")
    for name, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {name:56}{seconds:6.2f} s {seconds / total:6.0%}")
    print(f"largest part: {max(parts, key=lambda name: parts[name])}")


def _parts(times: dict[str, Any]) -> dict[str, float]:
    """Disjoint parts: sending is taken out of the steps that send; waiting for others
    is outside the steps' work.
    """
    return {
        "extraction": times["data SQL extraction"],
        "gradient and metrics": times["local gradient"],
        "encryption, vault and ledger": max(
            0.0, times["encryption"] + times["final metrics"] - times["sending"]
        ),
        "HTTP (sending)": times["sending"],
        "waiting for the others": times["waiting"],
        "Prefect's task engine": times["Prefect"],
    }
