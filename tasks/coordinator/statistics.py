"""The steps of the coordinator in an order of joint statistics.

It adds what it cannot read, matches tags that it cannot turn back, and deals random
numbers (`dealing`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from analytics.statistics import quantiles
from analytics.statistics.circuit import Plan
from protocol import statistics_messages, statistics_plan
from protocol.errors import listed, other_version, who_differ
from protocol.exchange import Address, Exchange, Used
from protocol.messages import COORDINATOR, EVERYONE
from protocol.shares import matching
from protocol.statistics_request import (
    SUMS_OF_DESCRIBE,
    StatisticsRequest,
    read_statistics_document,
)
from protocol.sums import exact_sum
from protocol.versions import protocol_of_document
from tasks.coordinator.dealt import send_dealt
from tasks.coordinator.order import CoordinatedOrder, Show, read_document
from tasks.steps import step

MOST_ROUNDS = 1 + quantiles.MOST_ROUNDS
"""Of a search for order statistics: one that counts all rows, and those of pivots."""

Counts = dict[str, int]
"""Rows by what was done with them."""


@dataclass
class CoordinatedStatistics(CoordinatedOrder):
    """An order of joint statistics at the coordinator."""

    request: StatisticsRequest

    @property
    def hospitals(self) -> list[int]:
        return self.request.hospitals


def open_order(order_id: int, exchange: Exchange) -> CoordinatedStatistics:
    """Reads the order's document."""
    document_text = read_document(order_id, exchange)
    protocol = protocol_of_document(document_text)
    document = read_statistics_document(document_text, order_id)
    return CoordinatedStatistics(
        order_id,
        exchange,
        protocol,
        document.request,
    )


def _show_stage(
    order: CoordinatedStatistics,
    show: Show,
    *,
    what: str,
    done: int,
    of: int | None = None,
) -> None:
    """How far the order is, for Prefect and for who asks over REST: the same numbers."""
    stage = {
        "what": what,
        "done": done,
        "of": of,
    }
    order.record(stage=stage)
    show(stage)


@step("acceptances")
def collect_acceptances(order: CoordinatedStatistics) -> None:
    """Waits until every hospital has verified the order and counted its rows.

    The order never goes on without one of its party, which is all of them unless it
    starts with who is there.
    """
    order.request = order.read_party(order.request)
    order.read_acceptances(order.hospitals)
    # The initiator's word that all is agreed: sums by masks need no key.
    order.peek("public_key", [order.request.initiator])
    order.report_running()


def _round(
    order: CoordinatedStatistics,
    round_: int,
    show: Show,
) -> str:
    return f"round {round_}"


@step("aggregation", _round)
def add_round(
    order: CoordinatedStatistics,
    round_: int,
    show: Show,
) -> bool:
    """Adds the providers' parts of one round and gives the sum to the receivers.

    False when there was nothing more.
    """
    address = Address(order.order_id, "addend", round=round_)
    total_address = replace(address, topic="total")
    if order.sent_before(total_address, EVERYONE) is not None:
        return True
    adder = exact_sum.Adder()
    # By provider, whether it adds anything to this round.
    adds: dict[int, bool] = {}
    addends = order.read_each(
        "addend",
        order.request.providers,
        bytes,
        round=round_,
    )
    for provider, addend in addends:
        adds[provider] = bool(addend)
        if addend:
            adder.add(provider, addend)
        del addend
    # Empty parts of all: nothing is left to add.
    if not any(adds.values()):
        return False
    # All end their search with the same round.
    if named := who_differ(adds):
        raise other_version(
            "payload",
            f"Some providers add to round {round_} and others do not: {listed(named)}.",
            hospitals=named,
        )
    # The sum is sent before its parts are dropped: a restart in between finds one or
    # the other.
    order.exchange.put(total_address, EVERYONE, adder.total())
    order.exchange.discard(order.order_id, Used(address, COORDINATOR))
    n_rounds = most_rounds(order.request)
    _show_stage(
        order,
        show,
        what="sums",
        done=round_ + 1,
        of=n_rounds,
    )
    return True


def most_rounds(request: StatisticsRequest) -> int:
    """How many sums an order may have: one, or of describe one of numbers and one of
    counts; and those of a search.
    """
    n_rounds = MOST_ROUNDS if request.searches else 0
    if request.describes:
        return SUMS_OF_DESCRIBE + n_rounds
    return n_rounds or 1


@step("types")
def agree_on_plan(order: CoordinatedStatistics) -> Plan | None:
    """What the providers will compute, from their columns' types.

    None where a schedule's last result stands again.
    """
    announced = order.read(
        "types",
        order.request.providers,
        statistics_messages.read_types,
        recipient=EVERYONE,
    )
    if any(types.repeats for types in announced.values()):
        return None
    return statistics_plan.agreed_plan(order.request, announced)


@step("matching")
def match_keys(order: CoordinatedStatistics) -> int:
    """Sends each provider which of its own tags all have; how many these are.

    Drops the tags when they are used.
    """
    providers = order.request.providers
    address = Address(order.order_id, "common")
    bitmaps = {}
    for provider in providers:
        sent_bitmap = order.sent_before(address, provider)
        if sent_bitmap is not None:
            bitmaps[provider] = sent_bitmap
    # The tags stand until all have their answer: a restart in between answers again,
    # with the same bytes.
    if len(bitmaps) < len(providers):
        tags_by_user = order.read("tags", providers, matching.decode_tags)
        tags = [tags_by_user[provider] for provider in providers]
        common = matching.intersect(tags)
        answers = zip(providers, common, strict=True)
        for provider, common_of_user in answers:
            bitmap = matching.encode_bitmap(common_of_user)
            bitmaps[provider] = bitmap
            order.exchange.put(address, provider, bitmap)
    tags_address = Address(order.order_id, "tags")
    order.exchange.discard(order.order_id, Used(tags_address, COORDINATOR))
    # Any provider's: in each as many are set as all have.
    first_provider = providers[0]
    return matching.n_common(bitmaps[first_provider])


@step("dealing")
def deal(
    order: CoordinatedStatistics,
    plan: Plan,
    *,
    n_rows: int,
    show: Show,
) -> None:
    """Random triples for what the providers compute.

    Nothing where the expression needs none.
    """
    for number in send_dealt(order, plan, n_rows=n_rows):
        _show_stage(
            order,
            show,
            what="dealing",
            done=number,
        )


@step("results")
def collect_reports(order: CoordinatedStatistics) -> dict[str, Any]:
    """Waits until the receivers hold the result; what may be said of it.

    That is no value.
    """
    request = order.request
    reports = order.read(
        "report",
        order.hospitals,
        statistics_messages.read_report,
    )
    used_by_each = {}
    suppressed_by_each = {}
    null_by_each = {}
    flows = {}
    for provider in request.providers:
        provider_key = str(provider)
        report = reports[provider]
        used_by_each[provider_key] = report.rows_used
        suppressed_by_each[provider_key] = report.rows_suppressed
        null_by_each[provider_key] = report.rows_null
        flows[provider_key] = report.flow
    rows_used = _of_each(used_by_each)
    rows_suppressed = _of_each(suppressed_by_each)
    rows_null = _of_each(null_by_each)
    # All receivers hold the same result: the first one's word stands for it.
    first_receiver = request.receivers[0]
    received = reports[first_receiver]
    if received.joint_rows is not None:
        # No hospital has said its own: they would tell its small cells.
        rows_used = _of_all(received.joint_rows, "used")
        rows_suppressed = _of_all(received.joint_rows, "withheld")
        rows_null = _of_all(received.joint_rows, "null")
    file_name = f"{request.result_alias}.{request.result_type}"
    suppressed = [suppression.model_dump() for suppression in received.suppressed]
    summary: dict[str, Any] = {
        "path": f"{order.order_id}/{file_name}",
        "type": request.result_type,
        "rows_used": rows_used,
        "rows_suppressed": rows_suppressed,
        "rows_null": rows_null,
        "suppressed": suppressed,
        "notes": received.notes,
        "opened": received.opened,
        "repeats": received.repeats,
    }
    if request.missing is not None:
        summary["flow"] = _flow(flows, received.joint_rows)
    return summary


def _flow(
    flows: dict[str, Counts | None],
    joint_rows: Counts | None,
) -> dict[str, Counts]:
    """How many rows were selected, left out and used, of each provider and of all,
    where all tell.
    """
    if joint_rows:
        used = joint_rows["used"] + joint_rows["withheld"]
        selected = used + joint_rows["null"]
        left_out = joint_rows["null"]
        return {
            "all": {
                "selected": selected,
                "left_out": left_out,
                "used": used,
            }
        }
    told_flows = {}
    for provider, flow in flows.items():
        if flow is None:
            return {}
        told_flows[provider] = flow
    together: Counts = {}
    for flow in told_flows.values():
        for count_name, row_count in flow.items():
            before = together.get(count_name, 0)
            together[count_name] = before + row_count
    return {
        **told_flows,
        "all": together,
    }


def _of_each(counts: dict[str, int | None]) -> dict[str, int]:
    """Rows of each provider, if all of them tell: what one keeps back would follow from
    the others' and the answer.
    """
    told_counts = {}
    for provider, row_count in counts.items():
        if row_count is None:
            return {}
        told_counts[provider] = row_count
    return told_counts


def _of_all(joint_rows: dict[str, int], count_name: str) -> dict[str, int]:
    """Rows of all hospitals together, if they may be told."""
    if count_name not in joint_rows:
        return {}
    return {"all": joint_rows[count_name]}
