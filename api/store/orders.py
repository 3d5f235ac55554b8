"""Orders: how one is made, what becomes of it, and how it ends.

An order comes into being with all that belongs to it, and ends once, with its messages,
each in one transaction: no crash leaves half an order. Its places are in
api/store/places.py, its rounds in api/store/rounds.py.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, Unpack

import sqlalchemy as sa

from api.store.bodies import Bodies, Body
from api.store.engine import Database
from api.store.messages import delete_messages, insert_message
from api.store.once import Once
from api.store.places import PLACED, who_decides
from api.store.rows import DueTime, OrderRow, SealedBox
from api.store.schedules import add_firing
from api.store.tables import ENDED, boxes, orders, utc_now
from protocol.errors import ConsiliumError, NotFound, reason_of
from protocol.exchange import Address
from protocol.message_plan import BOXES
from protocol.messages import COORDINATOR, EVERYONE


@dataclass(frozen=True, slots=True)
class Prepared:
    """What belongs to a new order and needs its number."""

    document: str
    boxes: Mapping[int, SealedBox]  # by hospital


MOST_KNOWN = 1_000
"""Orders whose hospitals are remembered."""


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

    def __init__(self, database: Database, bodies: Bodies) -> None:
        self._database = database
        self._bodies = bodies
        # By order; who takes part never changes.
        self._hospitals: OrderedDict[int, list[int]] = OrderedDict()

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
        entry of its due time in the history; TimeTaken where it has one. Unavailable
        (code disk) while the disk is short.
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
        order_fields: dict[str, Any] = {
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
            return self._insert(order_fields, prepare, due), True
        except sa.exc.IntegrityError:
            # Somebody else's transaction has used the key before this one.
            earlier = self._earlier(once)
            if earlier is None:
                raise
            return earlier, False

    def _insert(
        self,
        values: dict[str, Any],
        prepare: Callable[[int], Prepared] | None,
        due: DueTime | None,
    ) -> int:
        """The number of a new order of these values; all that belongs to it is written
        in the same transaction.
        """
        with self._database.begin() as connection:
            if values["kind"] in PLACED:
                values["asked"] = who_decides(
                    connection, values["hospitals"], values["initiator"]
                )
            insert = orders.insert().values(**values)
            inserted = connection.execute(insert)
            primary_key = inserted.inserted_primary_key
            order_id = int(primary_key[0])  # type: ignore[index]
            if prepare:
                # The document and the commitments in it name the order's number.
                prepared = prepare(order_id)
                _add_prepared(connection, order_id, prepared)
            if due:
                add_firing(connection, due, order_id=order_id)
            return order_id

    def _earlier(self, once: Once | None) -> int | None:
        if once is None:
            return None
        with self._database.begin() as connection:
            return once.earlier(connection, orders)

    # Reading

    def get(self, order_id: int) -> OrderRow:
        """NotFound when there is none."""
        is_meant = orders.c.order_id == order_id
        order_query = sa.select(orders).where(is_meant)
        with self._database.begin() as connection:
            row = connection.execute(order_query).first()
        if row is None:
            raise NotFound(
                f"There is no order {order_id}.",
                remedy="GET /orders lists what there is.",
            )
        return OrderRow(**row._mapping)

    def exists(self, order_id: int) -> bool:
        is_meant = orders.c.order_id == order_id
        query = sa.select(sa.exists().where(is_meant))
        with self._database.begin() as connection:
            return bool(connection.scalar(query))

    def hospitals_of(self, order_id: int) -> list[int]:
        """Who was asked; nobody for an order that does not exist."""
        is_meant = orders.c.order_id == order_id
        hospitals_query = sa.select(orders.c.hospitals).where(is_meant)
        with self._database.begin() as connection:
            row = connection.execute(hospitals_query).first()
        if row is None:
            return []
        self._hospitals[order_id] = list(row.hospitals)
        while len(self._hospitals) > MOST_KNOWN:
            self._hospitals.popitem(last=False)
        return list(row.hospitals)

    def known_hospitals_of(self, order_id: int) -> list[int] | None:
        """As `hospitals_of`, without asking the database; None where it has to be
        asked.
        """
        return self._hospitals.get(order_id)

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
        newest_first = orders.c.order_id.desc()
        orders_query = sa.select(orders).order_by(newest_first)
        if kind is not None:
            is_of_kind = orders.c.kind == kind
            orders_query = orders_query.where(is_of_kind)
        if before is not None:
            is_before = orders.c.order_id < before
            orders_query = orders_query.where(is_before)
        newest_orders: list[OrderRow] = []
        with self._database.begin() as connection:
            for row in connection.execute(orders_query):
                # Not in SQL: the list of hospitals is JSON, which databases read
                # differently.
                takes_part = hospital is None or hospital in row.hospitals
                if takes_part:
                    order = OrderRow(**row._mapping)
                    newest_orders.append(order)
                if len(newest_orders) == limit:
                    break
        return newest_orders

    def active(self) -> list[OrderRow]:
        """Those that Prefect works on and that have not ended."""
        is_active = sa.and_(
            orders.c.state.not_in(ENDED),
            orders.c.kind != "external",
        )
        orders_query = sa.select(orders).where(is_active)
        with self._database.begin() as connection:
            rows = connection.execute(orders_query)
            return [OrderRow(**row._mapping) for row in rows]

    def with_old_runs(self, keep: int) -> dict[int, str | None]:
        """Ended orders whose runs Prefect may still have, but for the `keep` that have
        ended last: by order_id, the flow_run_id. The oldest first.
        """
        may_have_runs = sa.and_(
            orders.c.state.in_(ENDED),
            orders.c.kind != "external",
            orders.c.runs_deleted.is_(None),
        )
        newest_first = (
            orders.c.updated.desc(),
            orders.c.order_id.desc(),
        )
        orders_query = (
            sa.select(orders.c.order_id, orders.c.flow_run_id)
            .where(may_have_runs)
            .order_by(*newest_first)
            .offset(keep)
        )
        with self._database.begin() as connection:
            rows = connection.execute(orders_query).all()
        oldest_first = reversed(rows)
        return {row.order_id: row.flow_run_id for row in oldest_first}

    def boxes(self, order_id: int) -> dict[int, SealedBox]:
        """Each hospital's sealed SQL and its commitment.

        A rerun uses them again (decision 6).
        """
        is_meant = boxes.c.order_id == order_id
        boxes_query = sa.select(boxes).where(is_meant)
        sealed_boxes = {}
        with self._database.begin() as connection:
            for row in connection.execute(boxes_query):
                sealed = SealedBox(row.box, row.commitment)
                sealed_boxes[row.user_id] = sealed
        return sealed_boxes

    # Changing

    def change(self, order_id: int, **change: Unpack[OrderChange]) -> None:
        is_meant = orders.c.order_id == order_id
        update = orders.update().where(is_meant)
        with self._database.begin() as connection:
            changed = update.values(updated=utc_now(), **change)
            connection.execute(changed)

    def name_party(self, order_id: int, user_ids: Iterable[int]) -> None:
        """Who takes part in an order that starts with who is there. The first word
        stands: its hospitals go by it.
        """
        is_open = sa.and_(
            orders.c.order_id == order_id,
            orders.c.party.is_(None),
        )
        update = orders.update().where(is_open)
        with self._database.begin() as connection:
            now = utc_now()
            party = sorted(user_ids)
            named = update.values(updated=now, party=party)
            connection.execute(named)

    def renew_document(
        self,
        order_id: int,
        earlier: str,
        document: str,
    ) -> bool:
        """Asks with another document, and the order is pending; False where another
        process has changed the earlier one meanwhile.
        """
        is_as_read = sa.and_(
            orders.c.order_id == order_id,
            orders.c.document == earlier,
        )
        update = orders.update().where(is_as_read)
        news = {
            "updated": utc_now(),
            "document": document,
            "state": "pending",
        }
        renewed = update.values(**news)
        with self._database.begin() as connection:
            return connection.execute(renewed).rowcount > 0

    def leave_pending(self, order_id: int, state: str) -> None:
        """The state of an order that begins.

        One that has begun, or ended meanwhile, keeps its own: an order that came back
        from its end would hold its places for ever.
        """
        is_pending = sa.and_(
            orders.c.order_id == order_id,
            orders.c.state == "pending",
        )
        update = orders.update().where(is_pending)
        with self._database.begin() as connection:
            begun = update.values(updated=utc_now(), state=state)
            connection.execute(begun)

    def end(
        self,
        order_id: int,
        state: str,
        stop: ConsiliumError | None = None,
        *,
        document: str | None = None,
    ) -> bool:
        """Ends an order once; False when it had ended before, or has another document
        than this one.

        Its messages go with it: nothing is left behind.
        """
        is_open = sa.and_(
            orders.c.order_id == order_id,
            orders.c.state.not_in(ENDED),
        )
        if document is not None:
            is_open = sa.and_(is_open, orders.c.document == document)
        reason = stop.to_json() if stop else None
        outlives = BOXES if state == "success" else ()
        update = orders.update().where(is_open)
        ended = update.values(
            state=state,
            stop=reason,
            updated=utc_now(),
        )
        with self._database.begin() as connection:
            n_changed = connection.execute(ended).rowcount
            is_new = n_changed > 0
            files: list[str] = []
            if is_new:
                files = delete_messages(connection, order_id, but=outlives)
        # What was deleted stands in the write-ahead log until that is emptied.
        if is_new:
            self._bodies.remove(files)
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
        stop_query = sa.select(orders.c.state, orders.c.stop).where(is_meant)
        with self._database.begin_to_change() as connection:
            row = connection.execute(stop_query.with_for_update()).first()
            if row is None or row.state != "failed" or not row.stop:
                return False
            earlier = row.stop
            detail = earlier["detail"]
            also = detail.get("also", [])
            speakers = {earlier_reason["user_id"] for earlier_reason in also}
            speakers.add(detail.get("user_id"))
            if None in speakers:
                return False
            speaker = reason.detail["user_id"]
            if speaker in speakers:
                return False
            added_reason = reason_of(reason)
            added_reason["user_id"] = speaker
            del added_reason["detail"]
            sentence = earlier["sentence"]
            remedy = earlier["remedy"]
            # The same is not said twice.
            if reason.remedy not in remedy:
                remedy = f"{remedy} {reason.remedy}"
            stop = {
                **earlier,
                "sentence": f"{sentence} {reason.sentence}",
                "remedy": remedy,
                "detail": {
                    **detail,
                    "also": [*also, added_reason],
                },
            }
            update = orders.update().where(is_meant)
            changed = update.values(stop=stop, updated=utc_now())
            connection.execute(changed)
        return True

    def note_runs_deleted(self, order_id: int, flow_run_id: str | None) -> None:
        """Prefect has no run of an ended order; nothing changes where the order has
        been given another run than `flow_run_id` meanwhile.
        """
        is_same = orders.c.flow_run_id.is_not_distinct_from(flow_run_id)
        is_meant = sa.and_(
            orders.c.order_id == order_id,
            orders.c.state.in_(ENDED),
            is_same,
        )
        # `updated` stays: it says when the order ended.
        update = orders.update().where(is_meant)
        noted = update.values(runs_deleted=utc_now())
        with self._database.begin() as connection:
            connection.execute(noted)

    def end_inference(self, order_id: int, attempt: int) -> bool:
        """An inference order ends with its answer, whether anybody waits for it or not.

        No other order does; nor does one whose hospital has been asked again since, for
        another process's key: it would be refused the answer that it is about to give.
        False where it had ended before, too.
        """
        order = self.get(order_id)
        if order.kind != "infer":
            return False
        document = json.loads(order.document)
        if document["attempt"] != attempt:
            return False
        return self.end(order_id, "success", document=order.document)


def _add_prepared(
    connection: sa.Connection,
    order_id: int,
    prepared: Prepared,
) -> None:
    is_meant = orders.c.order_id == order_id
    update = orders.update().where(is_meant)
    connection.execute(update.values(document=prepared.document))
    address = Address(order_id, "sql")
    for user_id, sealed in prepared.boxes.items():
        insert = boxes.insert().values(
            order_id=order_id,
            user_id=user_id,
            box=sealed.box,
            commitment=sealed.commitment,
        )
        connection.execute(insert)
        # The message goes when the order ends; the box stays for a rerun.
        box_body = Body.of(sealed.box)
        insert_message(
            connection,
            address,
            COORDINATOR,
            user_id,
            box_body,
        )
    document = Body.of(prepared.document.encode())
    document_address = Address(order_id, "document")
    insert_message(
        connection,
        document_address,
        COORDINATOR,
        EVERYONE,
        document,
    )
