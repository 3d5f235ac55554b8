"""Whether an order still takes messages and gives them: within the transaction that puts
or finds them.
"""

from __future__ import annotations

import sqlalchemy as sa

from api.store.places import PLACED
from api.store.rows import late_stop, stop_of
from api.store.tables import ENDED, orders
from protocol.errors import NotFound, OrderWaits


def hold_open(
    connection: sa.Connection,
    run: int,
    *,
    takes_place: bool,
    sender: int,
) -> None:
    """As `check_open`, and the order cannot end before this transaction has; nor has it
    started without the sender.

    Else a message put while its order ends would stay behind.
    """
    is_open = sa.and_(
        orders.c.order_id == run,
        orders.c.state.not_in(ENDED),
    )
    # Writing the row, even as it is, locks it until this transaction's end.
    as_it_is = orders.update().where(is_open).values(state=orders.c.state)
    connection.execute(as_it_is)
    is_late = check_open(
        connection,
        run,
        takes_place=takes_place,
        hospital=sender,
    )
    if is_late:
        raise late_stop(run)


def check_open(
    connection: sa.Connection,
    run: int,
    *,
    takes_place: bool,
    hospital: int | None = None,
) -> bool:
    """Whether the order has started without this hospital. It hears so, too, when the
    order has ended.
    """
    columns = (
        orders.c.kind,
        orders.c.state,
        orders.c.stop,
        orders.c.admitted,
        orders.c.hospitals,
        orders.c.party,
    )
    is_meant = orders.c.order_id == run
    order_query = sa.select(*columns).where(is_meant)
    row = connection.execute(order_query).first()
    if row is None:
        raise NotFound(
            f"There is no order {run}.", remedy="GET /orders lists what there is."
        )
    is_late = row.party is not None and hospital in row.hospitals
    is_late = is_late and hospital not in row.party
    has_ended = row.state in ENDED
    if has_ended and is_late:
        raise late_stop(run)
    if has_ended:
        raise stop_of(run, row.state, row.stop)
    waits_for_places = row.kind in PLACED and row.admitted is None
    if takes_place and waits_for_places and not is_late:
        raise OrderWaits(
            f"Order {run} waits for places at its hospitals.",
            remedy="It goes on by itself when it has them.",
        )
    return is_late
