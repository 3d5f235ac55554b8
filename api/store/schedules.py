"""Schedules of joint statistics: what is asked, when, what became of each time.

Decision 45. The times themselves are Prefect's to keep; here stands what is asked for at each, and
one entry for every time that has passed, so that no time gives two orders. Next:
api/routes/schedules.py.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from api.store.engine import Database
from api.store.once import Once
from api.store.rows import DueTime, FiringRow, ScheduleRow, SealedBox
from api.store.tables import ENDED, firings, orders, schedule_boxes, schedules, utc_now
from protocol.errors import NotFound


class TimeTaken(Exception):
    """Another process has entered this time before: its entry stands."""


def add_firing(
    connection: sa.Connection,
    due: DueTime,
    *,
    order_id: int | None = None,
    skipped: str | None = None,
) -> None:
    """Enters what becomes of a time, or raises TimeTaken, which undoes the transaction."""
    insert = firings.insert().values(
        schedule_id=due.schedule_id,
        scheduled=due.scheduled,
        started=utc_now(),
        order_id=order_id,
        skipped=skipped,
    )
    try:
        connection.execute(insert)
    except sa.exc.IntegrityError as error:
        raise TimeTaken from error


class ScheduleStore:
    """Schedules with their sealed places, and the history of their times."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        boxes: Mapping[int, SealedBox],
        *,
        name: str,
        initiator: int,
        hospitals: list[int],
        body: Mapping[str, Any],
        timing: Mapping[str, Any],
        once: Once | None = None,
    ) -> tuple[int, bool]:
        """(schedule_id, made).

        Asked `once` again, the same request finds the schedule that exists.
        """
        now = utc_now()
        owner_key = once and once.owner_key
        body_digest = once and once.body_digest
        schedule_fields = {
            "name": name,
            "initiator": initiator,
            "hospitals": hospitals,
            "body": body,
            "timing": timing,
            "active": True,
            "created": now,
            "updated": now,
            "owner_key": owner_key,
            "body_digest": body_digest,
        }
        try:
            with self._database.begin() as connection:
                insert = schedules.insert().values(**schedule_fields)
                inserted = connection.execute(insert)
                primary_key = inserted.inserted_primary_key
                schedule_id = int(primary_key[0])  # type: ignore[index]
                for user_id, sealed in boxes.items():
                    insert = schedule_boxes.insert().values(
                        schedule_id=schedule_id,
                        user_id=user_id,
                        box=sealed.box,
                        commitment=sealed.commitment,
                    )
                    connection.execute(insert)
                return schedule_id, True
        except sa.exc.IntegrityError:
            # The key was used before.
            if once is None:
                raise
            with self._database.begin() as connection:
                # In a transaction of its own: PostgreSQL answers nothing more in one
                # that has failed.
                earlier = once.earlier(connection, schedules)
            if earlier is None:
                raise
            return earlier, False

    def drop(self, schedule_id: int) -> None:
        """Undoes `add`, for one that Prefect has not taken."""
        is_sealed_for_it = schedule_boxes.c.schedule_id == schedule_id
        is_it = schedules.c.schedule_id == schedule_id
        delete_boxes = schedule_boxes.delete().where(is_sealed_for_it)
        delete = schedules.delete().where(is_it)
        with self._database.begin() as connection:
            # Boxes first: they name the schedule, and both databases hold to that.
            connection.execute(delete_boxes)
            connection.execute(delete)

    def get(
        self,
        schedule_id: int,
        *,
        or_deleted: bool = False,
    ) -> ScheduleRow:
        """NotFound when there is none, or it was deleted."""
        is_meant = schedules.c.schedule_id == schedule_id
        schedule_query = sa.select(schedules).where(is_meant)
        with self._database.begin() as connection:
            row = connection.execute(schedule_query).first()
        if row is None or (row.deleted and not or_deleted):
            raise NotFound(
                f"There is no schedule {schedule_id}.",
                remedy="GET /statistics/schedules lists them.",
                code="schedule",
            )
        return ScheduleRow(**row._mapping)

    def newest(
        self,
        *,
        hospital: int | None,
        limit: int,
        before: int | None,
        reruns: bool = False,
    ) -> list[ScheduleRow]:
        """Newest first, without deleted ones: of questions, or with `reruns` of orders
        that are run again.

        `hospital` keeps those in which it takes part.
        """
        not_deleted = schedules.c.deleted.is_(None)
        newest_first = schedules.c.schedule_id.desc()
        schedules_query = sa.select(schedules).where(not_deleted).order_by(newest_first)
        if before is not None:
            is_before = schedules.c.schedule_id < before
            schedules_query = schedules_query.where(is_before)
        newest_schedules: list[ScheduleRow] = []
        with self._database.begin() as connection:
            for row in connection.execute(schedules_query):
                schedule = ScheduleRow(**row._mapping)
                # Not in SQL: the list of hospitals is JSON, which databases read
                # differently.
                takes_part = hospital is None or hospital in schedule.hospitals
                has_reruns = schedule.reruns is not None
                if takes_part and has_reruns == reruns:
                    newest_schedules.append(schedule)
                if len(newest_schedules) == limit:
                    break
        return newest_schedules

    def active_timings(self) -> list[dict[str, Any]]:
        """When the schedules that are neither paused nor deleted fall due."""
        is_wanted = sa.and_(
            schedules.c.active,
            schedules.c.deleted.is_(None),
        )
        timings_query = sa.select(schedules.c.timing).where(is_wanted)
        with self._database.begin() as connection:
            return list(connection.scalars(timings_query))

    def change(
        self,
        schedule_id: int,
        *,
        active: bool,
        timing: Mapping[str, Any],
        name: str,
    ) -> None:
        is_meant = schedules.c.schedule_id == schedule_id
        update = schedules.update().where(is_meant)
        schedule_fields = {
            "active": active,
            "timing": timing,
            "name": name,
            "updated": utc_now(),
        }
        changed = update.values(**schedule_fields)
        with self._database.begin() as connection:
            connection.execute(changed)

    def delete(self, schedule_id: int) -> None:
        """Its history stays; what was sealed for it goes."""
        is_sealed_for_it = schedule_boxes.c.schedule_id == schedule_id
        delete_boxes = schedule_boxes.delete().where(is_sealed_for_it)
        is_meant = schedules.c.schedule_id == schedule_id
        update = schedules.update().where(is_meant)
        with self._database.begin() as connection:
            connection.execute(delete_boxes)
            # Its Idempotency-Key is free again: the same request makes a new schedule.
            deleted = update.values(
                deleted=utc_now(),
                active=False,
                owner_key=None,
            )
            connection.execute(deleted)

    def boxes(self, schedule_id: int) -> dict[int, SealedBox]:
        """Each provider's sealed place and its commitment."""
        is_sealed_for_it = schedule_boxes.c.schedule_id == schedule_id
        boxes_query = sa.select(schedule_boxes).where(is_sealed_for_it)
        sealed_boxes = {}
        with self._database.begin() as connection:
            for row in connection.execute(boxes_query):
                sealed = SealedBox(row.box, row.commitment)
                sealed_boxes[row.user_id] = sealed
        return sealed_boxes

    # What became of each time

    def firing(self, due: DueTime) -> FiringRow | None:
        is_due = sa.and_(
            firings.c.schedule_id == due.schedule_id,
            firings.c.scheduled == due.scheduled,
        )
        firing_query = sa.select(firings).where(is_due)
        with self._database.begin() as connection:
            row = connection.execute(firing_query).first()
        if row is None:
            return None
        return FiringRow(**row._mapping)

    def skip(self, due: DueTime, sentence: str) -> FiringRow:
        """Enters a time at which nothing was asked, and why; the entry that stands.

        A time that has its entry keeps it.
        """
        earlier = self.firing(due)
        if earlier is not None:
            return earlier
        time_taken: TimeTaken | None = None
        try:
            with self._database.begin() as connection:
                add_firing(connection, due, skipped=sentence)
        except TimeTaken as error:
            time_taken = error
        # In a transaction of its own: PostgreSQL answers nothing more in one that has
        # failed.
        firing_row = self.firing(due)
        if firing_row is None:
            raise time_taken or AssertionError("unreachable")
        return firing_row

    def have_fired(self) -> bool:
        """Whether any schedule has fallen due."""
        any_firing = sa.exists(firings.select())
        query = sa.select(any_firing)
        with self._database.begin() as connection:
            return bool(connection.scalar(query))

    def unended_order(self, schedule_id: int) -> int | None:
        """The schedule's order that is still under way."""
        is_wanted = sa.and_(
            orders.c.schedule_id == schedule_id,
            orders.c.state.not_in(ENDED),
        )
        return self._newest_order(is_wanted)

    def last_success(self, schedule_id: int) -> int | None:
        """The schedule's last order with a result."""
        is_wanted = sa.and_(
            orders.c.schedule_id == schedule_id,
            orders.c.state == "success",
        )
        return self._newest_order(is_wanted)

    def _newest_order(self, is_wanted: sa.ColumnElement[bool]) -> int | None:
        newest = sa.func.max(orders.c.order_id)
        query = sa.select(newest).where(is_wanted)
        with self._database.begin() as connection:
            order_id: int | None = connection.scalar(query)
        return order_id

    def history(
        self,
        schedule_id: int,
        *,
        limit: int,
        before: int | None,
    ) -> list[FiringRow]:
        """Entries newest first; `before` is the firing_id to go on from."""
        is_of_schedule = firings.c.schedule_id == schedule_id
        newest_first = firings.c.firing_id.desc()
        firings_query = sa.select(firings).where(is_of_schedule).order_by(newest_first)
        if before is not None:
            is_before = firings.c.firing_id < before
            firings_query = firings_query.where(is_before)
        firings_query = firings_query.limit(limit)
        with self._database.begin() as connection:
            rows = connection.execute(firings_query)
            return [FiringRow(**row._mapping) for row in rows]

    def scheduled_times(self, order_ids: list[int]) -> dict[int, datetime.datetime]:
        """When the orders of schedules were due."""
        is_wanted = firings.c.order_id.in_(order_ids)
        times_query = sa.select(
            firings.c.order_id,
            firings.c.scheduled,
        ).where(is_wanted)
        with self._database.begin() as connection:
            rows = connection.execute(times_query)
            return {row.order_id: row.scheduled for row in rows}
