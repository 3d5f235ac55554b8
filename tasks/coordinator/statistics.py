"""The steps of the coordinator in an order of joint statistics, each visible in Prefect.

It adds what it cannot read, matches tags that it cannot turn back, and deals random numbers (`dealing`).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any

from analytics.statistics import quantiles
from analytics.statistics.circuit import Plan
from protocol import statistics_messages, statistics_plan
from protocol.exchange import Address, Exchange
from protocol.messages import EVERYONE
from protocol.sealing import KEY_BYTES
from protocol.shares import matching
from protocol.shares.sharing import SEED
from protocol.statistics_request import RANKED, StatisticsRequest, read_statistics_document
from protocol.sums import exact_sum
from tasks.coordinator import dealing
from tasks.coordinator.order import CoordinatedOrder, Show, read_document
from tasks.steps import step

MOST_ROUNDS = 1 + quantiles.MOST_ROUNDS
"""Of a search for order statistics: one that counts all rows, and those of pivots."""


@dataclass
class CoordinatedStatistics(CoordinatedOrder):
    """An order of joint statistics at the coordinator."""

    request: StatisticsRequest

    @property
    def hospitals(self) -> list[int]:
        return self.request.hospitals


def open_order(order_id: int, exchange: Exchange) -> CoordinatedStatistics:
    """Reads the order's document."""
    document = read_document(order_id, exchange)
    return CoordinatedStatistics(order_id, exchange, read_statistics_document(document, order_id).request)


def _show_stage(
    order: CoordinatedStatistics, show: Show, *, what: str, done: int, of: int | None = None
) -> None:
    """How far the order is, for Prefect and for who asks over REST: the same numbers."""
    stage = {"what": what, "done": done, "of": of}
    order.record(stage=stage)
    show(stage)


@step("acceptances")
def collect_acceptances(order: CoordinatedStatistics) -> None:
    """Waits until every hospital has verified the order and counted its rows; the order never goes on without one."""
    order.read_acceptances(order.hospitals)
    order.peek("public_key", [order.request.initiator])
    order.report_running()


@step("aggregation", lambda order, round_, show: f"round {round_}")
def add_round(order: CoordinatedStatistics, round_: int, show: Show) -> bool:
    """Adds the providers' parts of one round and gives the sum to the receivers; False when there was nothing more."""
    address = Address(order.order_id, "addend", round=round_)
    total = replace(address, topic="total")
    if order.sent_before(total, EVERYONE) is not None:
        return True
    parts = order.peek("addend", order.request.providers, round=round_)
    if not any(parts.values()):
        return False
    # The sum is sent before its parts are dropped: a restart in between finds one or the other.
    order.exchange.put(total, EVERYONE, exact_sum.add(parts))
    order.exchange.discard(address)
    n_rounds = MOST_ROUNDS if order.request.method in RANKED else 1
    _show_stage(order, show, what="sums", done=round_ + 1, of=n_rounds)
    return True


@step("types")
def agree_on_plan(order: CoordinatedStatistics) -> Plan | None:
    """What the providers will compute, from their columns' types; None where a schedule's last result stands again."""
    bodies = order.peek("types", order.request.providers, recipient=EVERYONE)
    announced = statistics_messages.read_types(bodies)
    if any(types.repeats for types in announced.values()):
        return None
    return statistics_plan.agreed_plan(order.request, announced)


@step("matching")
def match_keys(order: CoordinatedStatistics) -> int:
    """Sends each provider which of its own tags all have, and drops the tags when used; how many all have."""
    providers = order.request.providers
    address = Address(order.order_id, "common")
    bitmaps = {}
    for user in providers:
        sent = order.sent_before(address, user)
        if sent is not None:
            bitmaps[user] = sent
    if len(bitmaps) < len(providers):
        bodies = order.peek("tags", providers)
        tags = [matching.decode_tags(bodies[user]) for user in providers]
        for user, common in zip(providers, matching.intersect(tags), strict=True):
            bitmaps[user] = matching.encode_bitmap(common)
            order.exchange.put(address, user, bitmaps[user])
    order.exchange.discard(Address(order.order_id, "tags"))
    return matching.n_common(bitmaps[providers[0]])


@step("dealing")
def deal(order: CoordinatedStatistics, plan: Plan, *, n_rows: int, show: Show) -> None:
    """Random triples for what the providers compute; nothing where the expression needs none."""
    seeds = {provider: _seed(order, provider) for provider in plan.providers}
    # A restart deals from the beginning: the same seeds give the same bytes, which the exchange takes twice.
    for message in dealing.deal(plan, n_rows=n_rows, seeds=seeds):
        address = Address(order.order_id, "dealt", round=message.number)
        order.exchange.put(address, message.provider, message.data)
        _show_stage(order, show, what="dealing", done=message.number)


def _seed(order: CoordinatedStatistics, provider: int) -> bytes:
    """Drawn once for an order: after a restart, the one that was dealt is dealt again."""
    address = Address(order.order_id, "dealt", round=SEED)
    dealt = order.sent_before(address, provider)
    return secrets.token_bytes(KEY_BYTES) if dealt is None else dealt


@step("results")
def collect_reports(order: CoordinatedStatistics) -> dict[str, Any]:
    """Waits until the receivers hold the result; what may be said of it, which is no value."""
    request = order.request
    reports = {}
    for user, body in order.peek("report", order.hospitals).items():
        reports[user] = statistics_messages.read_report(body)
    received = reports[request.receivers[0]]
    return {
        "path": f"{order.order_id}/{request.result_alias}.{request.result_type}",
        "type": request.result_type,
        "rows_used": {str(user): reports[user].rows_used for user in request.providers},
        "rows_suppressed": {str(user): reports[user].rows_suppressed for user in request.providers},
        "rows_null": {str(user): reports[user].rows_null for user in request.providers},
        "suppressed": [entry.model_dump() for entry in received.suppressed],
        "notes": received.notes,
        "repeats": received.repeats,
    }
