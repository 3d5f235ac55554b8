"""Orders: how one is made, what becomes of it, and how it ends.

An order comes into being with all that belongs to it, and ends once, with its messages,
each in one transaction: no crash leaves half an order. Its places are in
api/store/places.py, its rounds in api/store/rounds.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, Unpack

import sqlalchemy as sa

from api.store.engine import Database
from api.store.messages import delete_messages, insert_message
from api.store.once import Once
from api.store.places import PLACED, who_decides
from api.store.rows import DueTime, OrderRow, SealedBox
from api.store.tables import ENDED, boxes, firings, orders, utc_now
from protocol.errors import ConsiliumError, NotFound, reason_of
from protocol.exchange import Address
from protocol.message_plan import BOXES
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
    runs_deleted: datetime | None
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
        """(order_id, made).

        The order, its document, sealed SQL and first messages come into being together.
        Asked `once` again, the same request finds the order that exists. `body` holds
        no SQL text. Without `prepare` no agent has to do anything, and the order is
        running as soon as it is made. The order of a schedule comes into being with the
        entry of its due time in the history. Unavailable (code disk) while the disk is
        short.
        """
        disk = self._database.disk
        # A new order would fill the disk that those under way need; an order that
        # exists is no new one.
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
                if prepare:
                    # The document and the commitments in it name the order's number.
                    prepared = prepare(order_id)
                    _add_prepared(connection, order_id, prepared)
                if due:
                    _add_firing(connection, order_id, due)
                return order_id, True
        except sa.exc.IntegrityError:
            # Somebody else's transaction has used the key, or the due time, before this
            # one.
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
            raise NotFound(
                f"There is no order {order_id}.",
                remedy="GET /orders lists what there is.",
            )
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
        if row is None:
            return []
        return list(row.hospitals)

    def newest(
        self,
        *,
        hospital: int | None,
        limit: int,
        before: int | None,
        kind: str | None = None,
    ) -> list[OrderRow]:
        """Newest first.

        `hospital` keeps those in which it takes part, `kind` those of one kind.
        """
        query = sa.select(orders).order_by(orders.c.order_id.desc())
        if kind is not None:
            query = query.where(orders.c.kind == kind)
        if before is not None:
            query = query.where(orders.c.order_id < before)
        found: list[OrderRow] = []
        with self._database.begin() as connection:
            for row in connection.execute(query):
                # Not in SQL: the list of hospitals is JSON, which databases read
                # differently.
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

    def with_old_runs(self, keep: int) -> dict[int, str | None]:
        """Ended orders whose runs Prefect may still have, but for the `keep` that have
        ended last: by order_id, the flow_run_id. The oldest first.
        """
        may_have_runs = sa.and_(
            orders.c.state.in_(ENDED),
            orders.c.kind != "external",
            orders.c.runs_deleted.is_(None),
        )
        query = sa.select(orders.c.order_id, orders.c.flow_run_id)
        newest_first = (orders.c.updated.desc(), orders.c.order_id.desc())
        query = query.where(may_have_runs).order_by(*newest_first).offset(keep)
        with self._database.begin() as connection:
            found = connection.execute(query).all()
        return {row.order_id: row.flow_run_id for row in reversed(found)}

    def boxes(self, order_id: int) -> dict[int, SealedBox]:
        """Each hospital's sealed SQL and its commitment.

        A rerun uses them again (decision 6).
        """
        query = sa.select(boxes).where(boxes.c.order_id == order_id)
        found = {}
        with self._database.begin() as connection:
            for row in connection.execute(query):
                found[row.user_id] = SealedBox(row.box, row.commitment)
        return found

    # Changing

    def change(self, order_id: int, **change: Unpack[OrderChange]) -> None:
        update = orders.update().where(orders.c.order_id == order_id)
        with self._database.begin() as connection:
            connection.execute(update.values(updated=utc_now(), **change))

    def leave_pending(self, order_id: int, state: str) -> None:
        """The state of an order that begins.

        One that has begun, or ended meanwhile, keeps its own: an order that came back
        from its end would hold its places for ever.
        """
        is_pending = sa.and_(orders.c.order_id == order_id, orders.c.state == "pending")
        update = orders.update().where(is_pending)
        with self._database.begin() as connection:
            connection.execute(update.values(updated=utc_now(), state=state))

    def end(
        self, order_id: int, state: str, stop: ConsiliumError | None = None
    ) -> bool:
        """Ends an order once; False when it had ended before.

        Its messages go with it: nothing is left behind.
        """
        is_open = sa.and_(orders.c.order_id == order_id, orders.c.state.not_in(ENDED))
        reason = stop.to_json() if stop else None
        outlives = BOXES if state == "success" else ()
        update = orders.update().where(is_open)
        ended = update.values(state=state, stop=reason, updated=utc_now())
        with self._database.begin() as connection:
            n_changed = connection.execute(ended).rowcount
            is_new = n_changed > 0
            if is_new:
                delete_messages(connection, order_id, but=outlives)
        # What was deleted stands in the write-ahead log until that is emptied.
        if is_new:
            self._database.empty_log()
        return is_new

    def add_reason(self, order_id: int, reason: ConsiliumError) -> bool:
        """Adds another hospital's reason to an order that a hospital has refused; False
        where it ended otherwise, or has that hospital's reason.

        Hospitals check an order at the same time: who mends the first reason alone
        would meet the second one next. detail: user_id, whose reason it is. The first
        one's code stays; the others stand in the detail `also`, too.
        """
        is_meant = orders.c.order_id == order_id
        query = sa.select(orders.c.state, orders.c.stop).where(is_meant)
        with self._database.begin() as connection:
            row = connection.execute(query.with_for_update()).first()
            if row is None or row.state != "failed" or not row.stop:
                return False
            detail = row.stop["detail"]
            also = detail.get("also", [])
            speakers = {one["user_id"] for one in also} | {detail.get("user_id")}
            if None in speakers or reason.detail["user_id"] in speakers:
                return False
            told = {**reason_of(reason), "user_id": reason.detail["user_id"]}
            del told["detail"]
            remedy = row.stop["remedy"]
            # The same is not said twice.
            if reason.remedy not in remedy:
                remedy = f"{remedy} {reason.remedy}"
            stop = {
                **row.stop,
                "sentence": f"{row.stop['sentence']} {reason.sentence}",
                "remedy": remedy,
                "detail": {**detail, "also": [*also, told]},
            }
            update = orders.update().where(is_meant)
            connection.execute(update.values(stop=stop, updated=utc_now()))
        return True

    def note_runs_deleted(self, order_id: int, flow_run_id: str | None) -> None:
        """Prefect has no run of an ended order; nothing changes where the order has
        been given another run than `flow_run_id` meanwhile.
        """
        is_same = orders.c.flow_run_id.is_not_distinct_from(flow_run_id)
        is_meant = sa.and_(
            orders.c.order_id == order_id, orders.c.state.in_(ENDED), is_same
        )
        # `updated` stays: it says when the order ended.
        update = orders.update().where(is_meant).values(runs_deleted=utc_now())
        with self._database.begin() as connection:
            connection.execute(update)

    def end_inference(self, order_id: int) -> None:
        """An inference order ends with its answer, whether anybody waits for it or not.

        No other order does.
        """
        if self.get(order_id).kind == "infer":
            self.end(order_id, "success")


def _add_prepared(connection: sa.Connection, order_id: int, prepared: Prepared) -> None:
    update = orders.update().where(orders.c.order_id == order_id)
    connection.execute(update.values(document=prepared.document))
    address = Address(order_id, "sql")
    for user, sealed in prepared.boxes.items():
        insert = boxes.insert().values(
            order_id=order_id,
            user_id=user,
            box=sealed.box,
            commitment=sealed.commitment,
        )
        connection.execute(insert)
        # The message goes when the order ends; the box stays for a rerun.
        insert_message(connection, address, COORDINATOR, user, sealed.box)
    document = prepared.document.encode()
    insert_message(
        connection, Address(order_id, "document"), COORDINATOR, EVERYONE, document
    )


def _add_firing(connection: sa.Connection, order_id: int, due: DueTime) -> None:
    insert = firings.insert().values(
        schedule_id=due.schedule_id,
        scheduled=due.scheduled,
        started=utc_now(),
        order_id=order_id,
    )
    connection.execute(insert)
