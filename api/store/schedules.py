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
        values = {
            "name": name,
            "initiator": initiator,
            "hospitals": hospitals,
            "body": body,
            "timing": timing,
            "active": True,
            "created": now,
            "updated": now,
            "owner_key": once and once.owner_key,
            "body_digest": once and once.body_digest,
        }
        try:
            with self._database.begin() as connection:
                inserted = connection.execute(schedules.insert().values(**values))
                schedule_id = int(inserted.inserted_primary_key[0])  # type: ignore[index]
                for user, sealed in boxes.items():
                    insert = schedule_boxes.insert().values(
                        schedule_id=schedule_id,
                        user_id=user,
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
                earlier = once.earlier(connection, schedules)
            if earlier is None:
                raise
            return earlier, False

    def drop(self, schedule_id: int) -> None:
        """Undoes `add`, for one that Prefect has not taken."""
        is_sealed_for_it = schedule_boxes.c.schedule_id == schedule_id
        is_it = schedules.c.schedule_id == schedule_id
        with self._database.begin() as connection:
            connection.execute(schedule_boxes.delete().where(is_sealed_for_it))
            connection.execute(schedules.delete().where(is_it))

    def get(self, schedule_id: int, *, or_deleted: bool = False) -> ScheduleRow:
        """NotFound when there is none, or it was deleted."""
        query = sa.select(schedules).where(schedules.c.schedule_id == schedule_id)
        with self._database.begin() as connection:
            row = connection.execute(query).first()
        if row is None or (row.deleted and not or_deleted):
            raise NotFound(
                f"There is no schedule {schedule_id}.",
                remedy="GET /statistics/schedules lists them.",
                code="schedule",
            )
        return ScheduleRow(**row._mapping)

    def newest(
        self, *, hospital: int | None, limit: int, before: int | None
    ) -> list[ScheduleRow]:
        """Newest first, without deleted ones.

        `hospital` keeps those in which it takes part.
        """
        query = (
            sa.select(schedules)
            .where(schedules.c.deleted.is_(None))
            .order_by(schedules.c.schedule_id.desc())
        )
        if before is not None:
            query = query.where(schedules.c.schedule_id < before)
        found: list[ScheduleRow] = []
        with self._database.begin() as connection:
            for row in connection.execute(query):
                takes_part = hospital is None or hospital in row.hospitals
                if takes_part:
                    found.append(ScheduleRow(**row._mapping))
                if len(found) == limit:
                    break
        return found

    def active_timings(self) -> list[dict[str, Any]]:
        """When the schedules that are neither paused nor deleted fall due."""
        is_wanted = sa.and_(schedules.c.active, schedules.c.deleted.is_(None))
        query = sa.select(schedules.c.timing).where(is_wanted)
        with self._database.begin() as connection:
            return list(connection.scalars(query))

    def change(
        self, schedule_id: int, *, active: bool, timing: Mapping[str, Any], name: str
    ) -> None:
        update = schedules.update().where(schedules.c.schedule_id == schedule_id)
        values = {
            "active": active,
            "timing": timing,
            "name": name,
            "updated": utc_now(),
        }
        with self._database.begin() as connection:
            connection.execute(update.values(**values))

    def delete(self, schedule_id: int) -> None:
        """Its history stays; what was sealed for it goes."""
        sealed = schedule_boxes.c.schedule_id == schedule_id
        update = schedules.update().where(schedules.c.schedule_id == schedule_id)
        with self._database.begin() as connection:
            connection.execute(schedule_boxes.delete().where(sealed))
            # Its Idempotency-Key is free again: the same request makes a new schedule.
            connection.execute(
                update.values(deleted=utc_now(), active=False, owner_key=None)
            )

    def boxes(self, schedule_id: int) -> dict[int, SealedBox]:
        """Each provider's sealed place and its commitment."""
        is_sealed_for_it = schedule_boxes.c.schedule_id == schedule_id
        query = sa.select(schedule_boxes).where(is_sealed_for_it)
        found = {}
        with self._database.begin() as connection:
            for row in connection.execute(query):
                found[row.user_id] = SealedBox(row.box, row.commitment)
        return found

    # What became of each time

    def firing(self, due: DueTime) -> FiringRow | None:
        is_due = sa.and_(
            firings.c.schedule_id == due.schedule_id,
            firings.c.scheduled == due.scheduled,
        )
        query = sa.select(firings).where(is_due)
        with self._database.begin() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        return FiringRow(**row._mapping)

    def skip(self, due: DueTime, sentence: str) -> None:
        """Enters a time at which nothing was asked, and why.

        A time that has its entry keeps it.
        """
        if self.firing(due) is not None:
            return
        values = {
            "schedule_id": due.schedule_id,
            "scheduled": due.scheduled,
            "started": utc_now(),
            "skipped": sentence,
        }
        with self._database.begin() as connection:
            connection.execute(firings.insert().values(**values))

    def have_fired(self) -> bool:
        """Whether any schedule has fallen due."""
        with self._database.begin() as connection:
            return bool(connection.scalar(sa.select(sa.exists(firings.select()))))

    def unended_order(self, schedule_id: int) -> int | None:
        """The schedule's order that is still under way."""
        is_wanted = sa.and_(
            orders.c.schedule_id == schedule_id, orders.c.state.not_in(ENDED)
        )
        return self._newest_order(is_wanted)

    def last_success(self, schedule_id: int) -> int | None:
        """The schedule's last order with a result."""
        is_wanted = sa.and_(
            orders.c.schedule_id == schedule_id, orders.c.state == "success"
        )
        return self._newest_order(is_wanted)

    def _newest_order(self, is_wanted: sa.ColumnElement[bool]) -> int | None:
        query = sa.select(sa.func.max(orders.c.order_id)).where(is_wanted)
        with self._database.begin() as connection:
            order_id: int | None = connection.scalar(query)
        return order_id

    def history(
        self, schedule_id: int, *, limit: int, before: int | None
    ) -> list[FiringRow]:
        """Entries newest first; `before` is the firing_id to go on from."""
        query = (
            sa.select(firings)
            .where(firings.c.schedule_id == schedule_id)
            .order_by(firings.c.firing_id.desc())
        )
        if before is not None:
            query = query.where(firings.c.firing_id < before)
        query = query.limit(limit)
        with self._database.begin() as connection:
            return [FiringRow(**row._mapping) for row in connection.execute(query)]

    def scheduled_times(self, order_ids: list[int]) -> dict[int, datetime.datetime]:
        """When the orders of schedules were due."""
        is_wanted = firings.c.order_id.in_(order_ids)
        query = sa.select(firings.c.order_id, firings.c.scheduled).where(is_wanted)
        with self._database.begin() as connection:
            return {row.order_id: row.scheduled for row in connection.execute(query)}
