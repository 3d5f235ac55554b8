"""Orders: how one is made, what becomes of it, and how it ends.

An order comes into being with all that belongs to it, and ends once, with its messages, each in one transaction: no
crash leaves half an order. Its places are in api/store/places.py, its rounds in api/store/rounds.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import sqlalchemy as sa

from api.store.engine import Database
from api.store.messages import BOXES, delete_messages, insert_message
from api.store.once import Once
from api.store.places import PLACED, who_decides
from api.store.rows import DueTime, OrderRow, SealedBox
from api.store.tables import ENDED, boxes, firings, orders, utc_now
from protocol.errors import ConsiliumError, NotFound
from protocol.exchange import Address
from protocol.messages import COORDINATOR, EVERYONE


@dataclass(frozen=True, slots=True)
class Prepared:
    """What belongs to a new order and needs its number."""

    document: str
    boxes: Mapping[int, SealedBox]  # by hospital


class OrderChange(TypedDict, total=False):
    """What may be changed of an order by name; how it ends is `OrderStore.end`'s."""

    state: str
    document: str
    flow_run_id: str | None
    runs: dict[str, str]
    n_rows: dict[str, int]
    summary: dict[str, Any]
    score_readers: str
    stage: dict[str, Any]


class OrderStore:
    """Orders with their sealed SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Making one

    def add(
        self,
        *,
        kind: str,
        initiator: int,
        hospital_ids: Iterable[int],
        body: Mapping[str, Any],
        prepare: Callable[[int], Prepared] | None = None,
        rerun_of: int | None = None,
        once: Once | None = None,
        due: DueTime | None = None,
    ) -> tuple[int, bool]:
        """(order_id, made). The order, its document, sealed SQL and first messages come into being together.

        Asked `once` again, the same request finds the order that exists. `body` holds no SQL text. Without `prepare`
        no agent has to do anything, and the order is running as soon as it is made. The order of a schedule comes into
        being with the entry of its due time in the history. Unavailable (code disk) while the disk is short.
        """
        disk = self._database.disk
        # A new order would fill the disk that those under way need; an order that exists is no new one.
        if disk and disk.is_short():
            earlier = self._earlier(once)
            if earlier is None:
                raise disk.trouble()
            return earlier, False
        hospitals = sorted(hospital_ids)
        now = utc_now()
        values: dict[str, Any] = {
            "kind": kind,
            "initiator": initiator,
            "hospitals": hospitals,
            "body": dict(body),
            "state": "pending" if prepare else "running",
            "n_rows": {},
            "summary": {},
            "rerun_of": rerun_of,
            "created": now,
            "updated": now,
            "owner_key": once and once.owner_key,
            "body_digest": once and once.body_digest,
            "schedule_id": due and due.schedule_id,
        }
        try:
            with self._database.begin() as connection:
                if kind in PLACED:
                    values["asked"] = who_decides(connection, hospitals, initiator)
                inserted = connection.execute(orders.insert().values(**values))
                order_id = int(inserted.inserted_primary_key[0])  # type: ignore[index]
                if prepare:  # the document and the commitments in it name the order's number
                    _add_prepared(connection, order_id, prepare(order_id))
                if due:
                    _add_firing(connection, order_id, due)
                return order_id, True
        except sa.exc.IntegrityError:
            # Somebody else's transaction has used the key, or the due time, before this one.
            earlier = self._earlier(once)
            if earlier is None:
                raise
            return earlier, False

    def _earlier(self, once: Once | None) -> int | None:
        if once is None:
            return None
        with self._database.begin() as connection:
            return once.earlier(connection, orders)

    # Reading

    def get(self, order_id: int) -> OrderRow:
        """NotFound when there is none."""
        query = sa.select(orders).where(orders.c.order_id == order_id)
        with self._database.begin() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise NotFound(f"There is no order {order_id}.", remedy="GET /orders lists what there is.")
        return OrderRow(**row._mapping)

    def exists(self, order_id: int) -> bool:
        query = sa.select(sa.exists().where(orders.c.order_id == order_id))
        with self._database.begin() as connection:
            return bool(connection.scalar(query))

    def hospitals_of(self, order_id: int) -> list[int]:
        """Who takes part; nobody for an order that does not exist."""
        query = sa.select(orders.c.hospitals).where(orders.c.order_id == order_id)
        with self._database.begin() as connection:
            row = connection.execute(query).first()
        return list(row.hospitals) if row else []

    def newest(
        self, *, hospital: int | None, limit: int, before: int | None, kind: str | None = None
    ) -> list[OrderRow]:
        """Newest first; `hospital` keeps those in which it takes part, `kind` those of one kind."""
        query = sa.select(orders).order_by(orders.c.order_id.desc())
        if kind is not None:
            query = query.where(orders.c.kind == kind)
        if before is not None:
            query = query.where(orders.c.order_id < before)
        found: list[OrderRow] = []
        with self._database.begin() as connection:
            for row in connection.execute(query):
                takes_part = hospital is None or hospital in row.hospitals
                if takes_part:
                    found.append(OrderRow(**row._mapping))
                if len(found) == limit:
                    break
        return found

    def active(self) -> list[OrderRow]:
        """Those that Prefect works on and that have not ended."""
        is_active = sa.and_(orders.c.state.not_in(ENDED), orders.c.kind != "external")
        query = sa.select(orders).where(is_active)
        with self._database.begin() as connection:
            return [OrderRow(**row._mapping) for row in connection.execute(query)]

    def boxes(self, order_id: int) -> dict[int, SealedBox]:
        """Each hospital's sealed SQL and its commitment; a rerun uses them again (decision 6)."""
        query = sa.select(boxes).where(boxes.c.order_id == order_id)
        with self._database.begin() as connection:
            found = connection.execute(query)
            return {row.user_id: SealedBox(row.box, row.commitment) for row in found}

    # Changing

    def change(self, order_id: int, **change: Unpack[OrderChange]) -> None:
        update = orders.update().where(orders.c.order_id == order_id)
        with self._database.begin() as connection:
            connection.execute(update.values(updated=utc_now(), **change))

    def leave_pending(self, order_id: int, state: str) -> None:
        """The state of an order that begins. One that has begun, or ended meanwhile, keeps its own: an order that came
        back from its end would hold its places for ever."""
        is_pending = sa.and_(orders.c.order_id == order_id, orders.c.state == "pending")
        update = orders.update().where(is_pending)
        with self._database.begin() as connection:
            connection.execute(update.values(updated=utc_now(), state=state))

    def end(self, order_id: int, state: str, stop: ConsiliumError | None = None) -> bool:
        """Ends an order once; False when it had ended before. Its messages go with it: nothing is left behind."""
        is_open = sa.and_(orders.c.order_id == order_id, orders.c.state.not_in(ENDED))
        reason = stop.to_json() if stop else None
        outlives = BOXES if state == "success" else ()
        update = orders.update().where(is_open).values(state=state, stop=reason, updated=utc_now())
        with self._database.begin() as connection:
            n_changed = connection.execute(update).rowcount
            is_new = n_changed > 0
            if is_new:
                delete_messages(connection, order_id, but=outlives)
        if is_new:
            self._database.empty_log()
        return is_new

    def end_inference(self, order_id: int) -> None:
        """An inference order ends with its answer, whether anybody waits for it or not; no other order does."""
        if self.get(order_id).kind == "infer":
            self.end(order_id, "success")


def _add_prepared(connection: sa.Connection, order_id: int, prepared: Prepared) -> None:
    update = orders.update().where(orders.c.order_id == order_id)
    connection.execute(update.values(document=prepared.document))
    for user, sealed in prepared.boxes.items():
        connection.execute(
            boxes.insert().values(
                order_id=order_id, user_id=user, box=sealed.box, commitment=sealed.commitment
            )
        )
        insert_message(connection, Address(order_id, "sql"), COORDINATOR, user, sealed.box)
    document = prepared.document.encode()
    insert_message(connection, Address(order_id, "document"), COORDINATOR, EVERYONE, document)


def _add_firing(connection: sa.Connection, order_id: int, due: DueTime) -> None:
    connection.execute(
        firings.insert().values(
            schedule_id=due.schedule_id,
            scheduled=due.scheduled,
            started=utc_now(),
            order_id=order_id,
        )
    )
