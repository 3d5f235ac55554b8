"""The exchange's messages: put once, gathered, and deleted with their order.

A message is bytes that the coordinator cannot read, or that are for its own flow; here
they are only kept: small ones in the table, large ones in files that it names
(`bodies.py`). An order that has ended takes no message and gives none, but for its
answers' boxes.

Decisions 145, 149 and 153.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from api.store.bodies import Bodies, Body
from api.store.engine import Database
from api.store.open_orders import check_open, hold_open
from api.store.rows import late_stop
from api.store.tables import ENDED, messages, orders
from protocol.errors import Conflict, TooLarge
from protocol.exchange import Address, Used
from protocol.messages import COORDINATOR, EVERYONE


@dataclass(frozen=True)
class Arrived:
    """A message that has come in, to be entered."""

    address: Address
    recipient: int
    body: Body


@dataclass
class Found:
    """What is there of the messages that somebody waits for."""

    # Bytes of each, by sender.
    n_bytes: dict[int, int] = field(default_factory=dict)
    # Those that were enough to be read, by sender.
    bodies: dict[int, Body] = field(default_factory=dict)


class MessageStore:
    """Messages of all orders; `bodies` is where the large ones are."""

    def __init__(self, database: Database, bodies: Bodies) -> None:
        self._database = database
        self.bodies = bodies

    def put(
        self,
        address: Address,
        sender: int,
        recipient: int,
        body: Body,
        *,
        takes_place: bool = False,
        most_bytes: int | None = None,
    ) -> bool:
        """As `put_together`, of one message: whether it is new."""
        (is_new,) = self.put_together(
            address.run,
            sender,
            [Arrived(address, recipient, body)],
            takes_place=takes_place,
            most_bytes=most_bytes,
        )
        return is_new

    def put_together(
        self,
        run: int,
        sender: int,
        arrived: Sequence[Arrived],
        *,
        takes_place: bool = False,
        most_bytes: int | None = None,
    ) -> list[bool]:
        """Enters an order's messages of one sender, all or none. Of each True if new,
        False if the same bytes stood there (or were used already): then no row names
        the body's file.

        most_bytes: that the sender's messages may have together, these among them.
        Conflict on other bytes. OrderStopped when the order has ended, or has started
        without the sender; OrderWaits when it has no places and `takes_place`; TooLarge
        (code budget) where the sender would have more than `most_bytes`.
        """
        with self._database.begin() as connection:
            # From here on the order's row is locked: nobody else puts a message of it
            # meanwhile.
            hold_open(
                connection,
                run,
                takes_place=takes_place,
                sender=sender,
            )
            are_new = [_enter(connection, sender, arrival) for arrival in arrived]
            if any(are_new) and most_bytes is not None:
                held = _held(connection, run)
                n_held = held.get(sender, 0)
                if n_held > most_bytes:
                    # Raised within the transaction, which undoes the rows that have
                    # just been added.
                    raise too_much(run, sender)
        return are_new

    def find_enough(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        choose: Callable[[dict[int, int]], Collection[int]],
        *,
        takes_place: bool = False,
        reader: int | None = None,
        along: str | None = None,
    ) -> Found:
        """Who of the senders has a message there, and the messages of those whom
        `choose` names by the sizes of what is there: of the others none is read.

        along: a topic of the coordinator's to everyone; with what is read comes its
        message, as COORDINATOR's, where there is a small one.

        reader: the hospital that asks. One without which the order has started reads
        what stands there, and waits for nothing. OrderStopped for it, and when the order
        has ended; OrderWaits when it has no places and `takes_place`.
        """
        all_senders = list(senders)
        is_there = _is_there(address, recipient)
        sizes_query = sa.select(
            messages.c.sender,
            messages.c.size,
        ).where(is_there, _is_from(all_senders))
        found = Found()
        with self._database.begin() as connection:
            is_late = check_open(
                connection,
                address.run,
                takes_place=takes_place,
                hospital=reader,
            )
            for row in connection.execute(sizes_query):
                found.n_bytes[row.sender] = row.size
            chosen = choose(found.n_bytes)
            if chosen:
                found.bodies = _bodies_from(connection, is_there, chosen)
            if chosen and along is not None:
                beside = _is_there(replace(address, topic=along), EVERYONE)
                bodies_beside = _bodies_from(connection, beside, [COORDINATOR])
                body_beside = bodies_beside.get(COORDINATOR)
                if body_beside is not None and body_beside.data is not None:
                    found.bodies[COORDINATOR] = body_beside
        if is_late and len(found.n_bytes) < len(all_senders):
            raise late_stop(address.run)
        return found

    def find(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
        *,
        takes_place: bool = False,
    ) -> dict[int, Body]:
        """Those of the senders' messages that are there, the small ones with their
        bytes.

        Raises as `find_enough`.
        """
        is_there = _is_there(address, recipient)
        with self._database.begin() as connection:
            check_open(connection, address.run, takes_place=takes_place)
            return _bodies_from(connection, is_there, senders)

    def gather(
        self,
        address: Address,
        senders: Iterable[int],
        recipient: int,
    ) -> dict[int, bytes]:
        """As `find`, whole: for messages of which all fit into memory.

        Raises as `find_enough`, and DamagedBody.
        """
        bodies = self.find(address, senders, recipient)
        contents = {}
        for sender, body in bodies.items():
            contents[sender] = self.bodies.read(body)
        return contents

    def read_box(
        self,
        address: Address,
        sender: int,
        recipient: int,
    ) -> bytes | None:
        """One message, also of an order that has ended.

        One of BOXES, sealed to a key that only memory holds. DamagedBody where its file
        is not whole.
        """
        is_wanted = sa.and_(
            _is_there(address, recipient),
            messages.c.sender == sender,
        )
        body_query = sa.select(*BODY).where(is_wanted)
        with self._database.begin() as connection:
            row = connection.execute(body_query).first()
        if row is None:
            return None
        body = _body_of(row)
        return self.bodies.read(body)

    def discard(self, run: int, used_messages: Iterable[Used]) -> dict[int, int]:
        """Deletes the bodies of an order's messages and keeps the digests, in one
        transaction; how many bytes of each sender.

        So the same bytes put again are still fine. Messages of another order stay.
        """
        columns = (messages.c.sender, messages.c.size, messages.c.file)
        n_bytes: Counter[int] = Counter()
        files = []
        with self._database.begin() as connection:
            for used_message in used_messages:
                is_there = _is_there(used_message.address, used_message.recipient)
                is_meant = sa.and_(messages.c.run == run, is_there)
                rows = connection.execute(sa.select(*columns).where(is_meant)).all()
                # The row stays with its digest: without it a second mask could be put
                # under the name of one that was used.
                emptied = messages.update().where(is_meant)
                connection.execute(emptied.values(body=None, file=None))
                for row in rows:
                    n_bytes[row.sender] += row.size
                    if row.file:
                        files.append(row.file)
        # The rows first: after a crash no row is without its file.
        self.bodies.remove(files)
        return dict(n_bytes)

    def held(self, run: int) -> dict[int, int]:
        """How many bytes of each sender lie there."""
        with self._database.begin() as connection:
            return _held(connection, run)

    def files(self, run: int) -> set[str]:
        """The files that an order's messages name."""
        is_named = sa.and_(
            messages.c.run == run,
            messages.c.file.is_not(None),
        )
        query = sa.select(messages.c.file).where(is_named)
        with self._database.begin() as connection:
            return set(connection.scalars(query))

    def prune(self, before: datetime.datetime) -> int:
        """Deletes the sealed answers of orders that ended before; how many."""
        has_ended = sa.and_(
            orders.c.updated < before,
            orders.c.state.in_(ENDED),
        )
        ended_orders = sa.select(orders.c.order_id).where(has_ended)
        is_of_ended = messages.c.run.in_(ended_orders)
        delete = messages.delete().where(is_of_ended)
        with self._database.begin() as connection:
            # Before the rows go: nobody else knows these names.
            files = _files_where(connection, is_of_ended)
            n_deleted = connection.execute(delete).rowcount
        # After the commit: a transaction that is undone would have rows again, and no
        # files.
        self.bodies.remove(files)
        return n_deleted


def too_much(run: int, sender: int) -> TooLarge:
    return TooLarge(
        f"Hospital {sender} has more bytes in order {run} than its messages can have.",
        remedy="Update the agent; an order of this kind and size needs less.",
        code="budget",
    )


def _held(
    connection: sa.Connection,
    run: int,
) -> dict[int, int]:
    total_size = sa.func.sum(messages.c.size)
    # What was used takes no room any longer, though its size stays in the row.
    is_held = sa.and_(messages.c.run == run, _HAS_BODY)
    held_query = (
        sa.select(
            messages.c.sender,
            total_size.label("n_bytes"),
        )
        .where(is_held)
        .group_by(messages.c.sender)
    )
    held = {}
    for row in connection.execute(held_query).all():
        held[row.sender] = int(row.n_bytes or 0)
    return held


def _enter(
    connection: sa.Connection,
    sender: int,
    message: Arrived,
) -> bool:
    """Whether it is new. Conflict where other bytes stand under its name."""
    address = message.address
    is_same_name = sa.and_(
        _is_at(address, message.recipient),
        messages.c.sender == sender,
    )
    standing = connection.scalar(sa.select(messages.c.digest).where(is_same_name))
    if standing is None:
        insert_message(
            connection,
            address,
            sender,
            message.recipient,
            message.body,
        )
        return True
    # Whoever has used one message keeps to it: a second one under its name would be
    # a second mask or key for the same numbers (decision 14).
    if standing != message.body.digest:
        raise Conflict(
            f"Another message {address.topic} of round {address.round} from {sender} stands there already.",
            remedy="A message is put once; a restarted agent sends the bytes from its vault.",
            code="put_twice",
        )
    return False


def insert_message(
    connection: sa.Connection,
    address: Address,
    sender: int,
    recipient: int,
    body: Body,
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
        body=body.data,
        file=body.file,
        size=body.size,
        digest=body.digest,
    )
    connection.execute(insert)


def delete_messages(
    connection: sa.Connection,
    order_id: int,
    *,
    but: tuple[str, ...] = (),
) -> list[str]:
    """Within the transaction that ends the order; those of the topics `but` stay.

    Which files nobody names once it is committed: to be removed then.
    """
    is_of_order = sa.and_(
        messages.c.run == order_id,
        messages.c.topic.not_in(but),
    )
    delete = messages.delete().where(is_of_order)
    files = _files_where(connection, is_of_order)
    connection.execute(delete)
    return files


def _files_where(
    connection: sa.Connection, is_meant: sa.ColumnElement[bool]
) -> list[str]:
    is_file = messages.c.file.is_not(None)
    query = sa.select(messages.c.file).where(is_meant, is_file)
    return list(connection.scalars(query))


# A discarded message has a digest only.
_HAS_BODY = sa.or_(
    messages.c.body.is_not(None),
    messages.c.file.is_not(None),
)

BODY = (
    messages.c.body,
    messages.c.file,
    messages.c.size,
    messages.c.digest,
)
"""The columns of a `Body`."""


def _bodies_from(
    connection: sa.Connection,
    is_there: sa.ColumnElement[bool],
    senders: Iterable[int],
) -> dict[int, Body]:
    columns = (messages.c.sender, *BODY)
    bodies_query = sa.select(*columns).where(is_there, _is_from(senders))
    return {row.sender: _body_of(row) for row in connection.execute(bodies_query)}


def _body_of(row: sa.Row[Any]) -> Body:
    return Body(
        row.size,
        row.digest,
        data=row.body,
        file=row.file,
    )


def _is_from(senders: Iterable[int]) -> sa.ColumnElement[bool]:
    return messages.c.sender.in_(list(senders))


def _is_there(
    address: Address,
    recipient: int,
) -> sa.ColumnElement[bool]:
    return sa.and_(_is_at(address, recipient), _HAS_BODY)


def _is_at(
    address: Address,
    recipient: int,
) -> sa.ColumnElement[bool]:
    return sa.and_(
        messages.c.run == address.run,
        messages.c.topic == address.topic,
        messages.c.fold == address.fold,
        messages.c.round == address.round,
        messages.c.attempt == address.attempt,
        messages.c.recipient == recipient,
    )
