"""The steps of the coordinator in an order of joint statistics, each visible in Prefect.

It adds what it cannot read, matches tags that it cannot turn back, and deals random numbers.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from analytics.statistics import quantiles
from analytics.statistics.circuit import Plan
from protocol import statistics_messages, statistics_plan
from protocol.exchange import Address, Exchange
from protocol.messages import COORDINATOR, EVERYONE, Acceptance, peek_envelope
from protocol.sealing import KEY_BYTES
from protocol.shares import matching
from protocol.shares.sharing import SEED
from protocol.statistics_request import RANKED, StatisticsRequest, read_statistics_document
from protocol.sums import exact_sum
from tasks.coordinator import dealing
from tasks.steps import step

Show = Callable[[dict[str, Any]], None]


@dataclass
class Desk:
    """The coordinator's end of one order. It holds no key that opens anything."""

    order_id: int
    exchange: Exchange
    request: StatisticsRequest
    n_rows: dict[int, int] = field(default_factory=dict)

    @property
    def hospitals(self) -> list[int]:
        return self.request.hospitals

    def peek(self, kind: str, senders: list[int], *, round: int = 0) -> dict[int, bytes]:
        """The clear bodies of what these hospitals have sent to the coordinator; waits for them."""
        envelopes = self.exchange.gather(Address(self.order_id, kind, round=round), senders)
        return {user: peek_envelope(e, kind=kind, sender=user, round=round) for user, e in envelopes.items()}

    def peek_all(self, kind: str) -> dict[int, bytes]:
        """The same of what the providers have sent to everyone."""
        envelopes = self.exchange.gather(Address(self.order_id, kind), self.request.providers, EVERYONE)
        return {user: peek_envelope(e, kind=kind, sender=user) for user, e in envelopes.items()}

    def told(self, address: Address, recipient: int) -> bytes | None:
        """What an earlier process of this run has put there; None if none has."""
        transport = self.exchange.transport
        found = self.exchange.insist(
            lambda: transport.gather(address, (COORDINATOR,), recipient, wait_seconds=0)
        )
        return None if found is None else found[COORDINATOR]


def open_desk(order_id: int, exchange: Exchange) -> Desk:
    """Reads the order's document."""
    document = exchange.get(Address(order_id, "document"), COORDINATOR, EVERYONE).decode()
    return Desk(order_id, exchange, read_statistics_document(document, order_id).request)


MOST_ROUNDS = 1 + quantiles.MOST_ROUNDS
"""Of a search for order statistics: one that counts all rows, and those of pivots."""


def advance(desk: Desk, show: Show, *, what: str, done: int, of: int | None = None) -> None:
    """How far the order is, for Prefect and for who asks over REST: the same numbers."""
    stage = {"what": what, "done": done, "of": of}
    desk.exchange.record(desk.order_id, stage=stage)
    show(stage)


@step("acceptances")
def collect_acceptances(desk: Desk) -> None:
    """Waits until every hospital has verified the order and counted its rows; the order never goes on without one."""
    address = Address(desk.order_id, "acceptance")
    for user, envelope in desk.exchange.gather(address, desk.hospitals, EVERYONE).items():
        desk.n_rows[user] = Acceptance.decode(peek_envelope(envelope, kind="acceptance", sender=user)).n_rows
    desk.peek("public_key", [desk.request.initiator])
    desk.exchange.record(
        desk.order_id, state="running", n_rows={str(user): n for user, n in desk.n_rows.items()}
    )


@step("aggregation", lambda desk, round_, show: f"round {round_}")
def add_round(desk: Desk, round_: int, show: Show) -> bool:
    """Adds the providers' parts of one round and gives the sum to the receivers; False when there was nothing more."""
    address = Address(desk.order_id, "addend", round=round_)
    total = replace(address, topic="total")
    if desk.told(total, EVERYONE) is not None:
        return True
    parts = desk.peek("addend", list(desk.request.providers), round=round_)
    if not any(parts.values()):
        return False
    desk.exchange.put(total, EVERYONE, exact_sum.add(parts))
    desk.exchange.discard(address)
    of = MOST_ROUNDS if desk.request.method in RANKED else 1
    advance(desk, show, what="sums", done=round_ + 1, of=of)
    return True


@step("types")
def agree_on_plan(desk: Desk) -> Plan | None:
    """What the providers will compute, from their columns' types; None where a schedule's last result stands again."""
    announced = statistics_messages.read_types(desk.peek_all("types"))
    if any(types.repeats for types in announced.values()):
        return None
    return statistics_plan.agreed_plan(desk.request, announced)


@step("matching")
def match_keys(desk: Desk) -> int:
    """Tells each provider which of its own tags all have, and drops the tags when used; how many all have."""
    providers = list(desk.request.providers)
    address = Address(desk.order_id, "common")
    told = {user: desk.told(address, user) for user in providers}
    if None in told.values():
        tags = {user: matching.decode_tags(body) for user, body in desk.peek("tags", providers).items()}
        bitmaps = matching.intersect([tags[user] for user in providers])
        for user, bitmap in zip(providers, bitmaps, strict=True):
            told[user] = matching.encode_bitmap(bitmap)
            desk.exchange.put(address, user, told[user])
    desk.exchange.discard(Address(desk.order_id, "tags"))
    return matching.n_common(told[providers[0]])


@step("dealing")
def deal(desk: Desk, plan: Plan, *, n_rows: int, show: Show) -> None:
    """Random triples for what the providers compute; nothing where the expression needs none."""
    seeds = {provider: _seed(desk, provider) for provider in plan.providers}
    for message in dealing.deal(plan, n_rows=n_rows, seeds=seeds):
        address = Address(desk.order_id, "dealt", round=message.number)
        desk.exchange.put(address, message.provider, message.data)
        advance(desk, show, what="dealing", done=message.number)


def _seed(desk: Desk, provider: int) -> bytes:
    """Drawn once for an order: after a restart, the one that was dealt is dealt again."""
    dealt = desk.told(Address(desk.order_id, "dealt", round=SEED), provider)
    return secrets.token_bytes(KEY_BYTES) if dealt is None else dealt


@step("results")
def collect_reports(desk: Desk) -> dict[str, Any]:
    """Waits until the receivers hold the result; what may be said of it, which is no value."""
    request = desk.request
    reports = {
        user: statistics_messages.read_report(body)
        for user, body in desk.peek("report", desk.hospitals).items()
    }
    received = reports[request.receivers[0]]
    return {
        "path": f"{desk.order_id}/{request.result_alias}.{request.result_type}",
        "type": request.result_type,
        "rows_used": {str(user): reports[user].rows_used for user in request.providers},
        "rows_suppressed": {str(user): reports[user].rows_suppressed for user in request.providers},
        "rows_null": {str(user): reports[user].rows_null for user in request.providers},
        "suppressed": [entry.model_dump() for entry in received.suppressed],
        "notes": received.notes,
        "repeats": received.repeats,
    }
