"""The exchange's messages: put once, gathered, and deleted with their order.

A message is bytes that the coordinator cannot read, or that are for its own flow; here
they are only kept. An order that has ended takes no message and gives none, but for its
answers' boxes.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable

import sqlalchemy as sa

from api.store.engine import Database
from api.store.places import PLACED
from api.store.rows import stop_of
from api.store.tables import ENDED, messages, orders
from protocol.errors import Conflict, NotFound, OrderWaits
from protocol.exchange import Address


class MessageStore:
    """Messages of all orders."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self,
        address: Address,
        sender: int,
        recipient: int,
        body: bytes,
        *,
        takes_place: bool = False,
    ) -> bool:
        """True if new, False if the same bytes stood there (or were used already).

        Conflict on other bytes. OrderStopped when the order has ended; OrderWaits when
        it has no places and `takes_place`.
        """
        digest = hashlib.sha256(body).hexdigest()
        is_same_name = sa.and_(_is_at(address, recipient), messages.c.sender == sender)
        query = sa.select(messages.c.digest).where(is_same_name)
        with self._database.begin() as connection:
            _hold_open(connection, address.run, takes_place=takes_place)
            standing = connection.scalar(query)
            if standing is None:
                insert_message(connection, address, sender, recipient, body)
                return True
        # Whoever has used one message keeps to it: a second one under its name would be
        # a second mask or key for the same numbers (decision 14).
        if standing != digest:
            raise Conflict(
                f"Another message {address.topic} of round {address.round} from {sender} stands there already.",
                remedy="A message is put once; a restarted agent sends the bytes from its vault.",
                code="put_twice",
            )
        return False

    def gather(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        takes_place: bool = False,
    ) -> dict[int, bytes]:
        """Those of the senders' messages that are there.

        OrderStopped when the order has ended; OrderWaits when it has no places and
        `takes_place`.
        """
        is_wanted = sa.and_(
            _is_at(address, recipient),
            messages.c.sender.in_(list(senders)),
            messages.c.body.is_not(None),  # a discarded message has a digest only
        )
        query = sa.select(messages.c.sender, messages.c.body).where(is_wanted)
        with self._database.begin() as connection:
            _check_open(connection, address.run, takes_place=takes_place)
            return {row.sender: row.body for row in connection.execute(query)}

    def read_box(self, address: Address, sender: int, recipient: int) -> bytes | None:
        """One message, also of an order that has ended.

        One of BOXES, sealed to a key that only memory holds.
        """
        is_wanted = sa.and_(_is_at(address, recipient), messages.c.sender == sender)
        query = sa.select(messages.c.body).where(is_wanted)
        with self._database.begin() as connection:
            return connection.scalar(query)

    def discard(self, address: Address, recipient: int) -> dict[int, int]:
        """Deletes the bodies and keeps the digests; how many bytes of each sender.

        So the same bytes put again are still fine.
        """
        is_meant = _is_at(address, recipient)
        size = sa.func.length(messages.c.body)
        query = sa.select(messages.c.sender, size.label("n_bytes"))
        query = query.where(is_meant, messages.c.body.is_not(None))
        used = messages.update().where(is_meant)
        with self._database.begin() as connection:
            found = {row.sender: row.n_bytes for row in connection.execute(query)}
            connection.execute(used.values(body=None))
        return found

    def held(self, run: int) -> dict[int, int]:
        """How many bytes of each sender lie there."""
        total = sa.func.sum(sa.func.length(messages.c.body))
        query = sa.select(messages.c.sender, total.label("n_bytes"))
        query = query.where(messages.c.run == run).group_by(messages.c.sender)
        with self._database.begin() as connection:
            found = connection.execute(query).all()
        return {row.sender: int(row.n_bytes or 0) for row in found}

    def prune(self, before: datetime.datetime) -> int:
        """Deletes the sealed answers of orders that ended before; how many."""
        has_ended = sa.and_(orders.c.updated < before, orders.c.state.in_(ENDED))
        ended_orders = sa.select(orders.c.order_id).where(has_ended)
        of_ended = messages.delete().where(messages.c.run.in_(ended_orders))
        with self._database.begin() as connection:
            return connection.execute(of_ended).rowcount


def insert_message(
    connection: sa.Connection,
    address: Address,
    sender: int,
    recipient: int,
    body: bytes,
) -> None:
    """Within the transaction of whoever puts it.

    Of an order's first messages that is the one that makes the order.
    """
    insert = messages.insert().values(
        run=address.run,
        topic=address.topic,
        fold=address.fold,
        round=address.round,
        attempt=address.attempt,
        sender=sender,
        recipient=recipient,
        body=body,
        digest=hashlib.sha256(body).hexdigest(),
    )
    connection.execute(insert)


def delete_messages(
    connection: sa.Connection, order_id: int, *, but: tuple[str, ...] = ()
) -> None:
    """Within the transaction that ends the order; those of the topics `but` stay."""
    of_order = sa.and_(messages.c.run == order_id, messages.c.topic.not_in(but))
    connection.execute(messages.delete().where(of_order))


def _is_at(address: Address, recipient: int) -> sa.ColumnElement[bool]:
    return sa.and_(
        messages.c.run == address.run,
        messages.c.topic == address.topic,
        messages.c.fold == address.fold,
        messages.c.round == address.round,
        messages.c.attempt == address.attempt,
        messages.c.recipient == recipient,
    )


def _hold_open(connection: sa.Connection, run: int, *, takes_place: bool) -> None:
    """As `_check_open`, and the order cannot end before this transaction has.

    Else a message put while its order ends would stay behind.
    """
    is_open = sa.and_(orders.c.order_id == run, orders.c.state.not_in(ENDED))
    # Writing the row, even as it is, locks it until this transaction's end.
    connection.execute(orders.update().where(is_open).values(state=orders.c.state))
    _check_open(connection, run, takes_place=takes_place)


def _check_open(connection: sa.Connection, run: int, *, takes_place: bool) -> None:
    columns = (orders.c.kind, orders.c.state, orders.c.stop, orders.c.admitted)
    query = sa.select(*columns).where(orders.c.order_id == run)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(
            f"There is no order {run}.", remedy="GET /orders lists what there is."
        )
    if row.state in ENDED:
        raise stop_of(run, row.state, row.stop)
    waits_for_places = row.kind in PLACED and row.admitted is None
    if takes_place and waits_for_places:
        raise OrderWaits(
            f"Order {run} waits for places at its hospitals.",
            remedy="It goes on by itself when it has them.",
        )
