"""The coordinator's part in thresholds on the sum: it puts the providers' cells
together, which it knows by tags only, and deals the random numbers of one comparison.

Decision 73.
"""

from __future__ import annotations

from protocol.errors import ProtocolViolation, listed, who_differ
from protocol.exchange import Address, Used
from protocol.messages import COORDINATOR, EVERYONE, bad_message
from protocol.shares import cells
from protocol.shares.cells import CellList
from protocol.statistics_plan import cells_plan
from tasks.coordinator import statistics
from tasks.coordinator.order import Show
from tasks.coordinator.statistics import CoordinatedStatistics
from tasks.steps import step


@step("cells")
def unite_cells(order: CoordinatedStatistics) -> CellList | None:
    """Sends all hospitals the cells of all; None where none are compared.

    Drops the providers' own lists when they are used.
    """
    address = Address(order.order_id, "cells")
    tags_address = Address(order.order_id, "cell_tags")
    sent_cells = order.sent_before(address, EVERYONE)
    if sent_cells is None:
        bodies = order.peek("cell_tags", order.request.providers)
        if not any(bodies.values()):
            return None
        if not all(bodies.values()):
            raise _mixed(bodies)
        lists = order.read("cell_tags", order.request.providers, CellList.decode)
        _check_thresholds(lists)
        sent_cells = cells.union(lists).encode()
        order.exchange.put(address, EVERYONE, sent_cells)
    order.exchange.discard(order.order_id, Used(tags_address, COORDINATOR))
    return CellList.decode(sent_cells)


def compare_cells(order: CoordinatedStatistics, show: Show) -> None:
    """Before pooled sums: which cells there are, and what their comparison needs."""
    if not order.request.has_cells:
        return
    union = unite_cells(order)
    if union is None or not union.cells:
        return
    request = order.request
    plan = cells_plan(request.providers, request.openers, union.limits)
    statistics.deal(order, plan, n_rows=len(union.cells), show=show)


def _check_thresholds(lists: dict[int, CellList]) -> None:
    """All state the same ones, which each has from all providers' statements."""
    stated = {provider: cell_list.limits for provider, cell_list in lists.items()}
    if named := who_differ(stated):
        error = bad_message(
            f"of cells has other thresholds than those of others: {listed(named)}"
        )
        error.detail["hospitals"] = named
        raise error


def _mixed(bodies: dict[int, bytes]) -> ProtocolViolation:
    empty = sorted(provider for provider, body in bodies.items() if not body)
    error = bad_message(
        f"of cells is empty ({listed(empty)}), and those of other providers are not"
    )
    error.detail["hospitals"] = empty
    return error
