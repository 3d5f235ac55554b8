"""The store's part for schedules of joint statistics: what is asked, when, and what became of each time."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from api.store.tables import ENDED, firings, orders, schedule_boxes, schedules, utc_now
from protocol.errors import Conflict, NotFound


class ScheduleStore:
    """All reads and writes about schedules. Every method is one transaction."""

    _engine: sa.Engine

    def add_schedule(self, boxes: Mapping[int, tuple[bytes, str]], **values: Any) -> tuple[int, bool]:
        """(schedule_id, made). With an `owner_key` the same request finds the schedule that exists."""
        values |= {"active": True, "created": utc_now(), "updated": utc_now()}
        try:
            with self._engine.begin() as db:
                made = db.execute(schedules.insert().values(**values)).inserted_primary_key
                schedule_id = int(made[0])  # type: ignore[index]
                for user, (box, text) in boxes.items():
                    db.execute(
                        schedule_boxes.insert().values(
                            schedule_id=schedule_id, user_id=user, box=box, commitment=text
                        )
                    )
                return schedule_id, True
        except sa.exc.IntegrityError:
            if values.get("owner_key") is None:
                raise
            return self._earlier(values), False

    def _earlier(self, values: Mapping[str, Any]) -> int:
        with self._engine.begin() as db:
            row = db.execute(sa.select(schedules).where(schedules.c.owner_key == values["owner_key"])).one()
        if row.body_digest != values["body_digest"]:
            raise Conflict(
                "This Idempotency-Key was used for another body.",
                remedy="Use a new key for a new schedule.",
                code="idempotency",
            )
        return int(row.schedule_id)

    def drop_schedule(self, schedule_id: int) -> None:
        """Undoes `add_schedule`, for one that Prefect has not taken."""
        with self._engine.begin() as db:
            db.execute(schedule_boxes.delete().where(schedule_boxes.c.schedule_id == schedule_id))
            db.execute(schedules.delete().where(schedules.c.schedule_id == schedule_id))

    def schedule(self, schedule_id: int, *, or_deleted: bool = False) -> dict[str, Any]:
        """NotFound when there is none, or it was deleted."""
        with self._engine.begin() as db:
            row = db.execute(sa.select(schedules).where(schedules.c.schedule_id == schedule_id)).first()
        if row is None or (row.deleted and not or_deleted):
            raise NotFound(
                f"There is no schedule {schedule_id}.",
                remedy="GET /statistics/schedules lists them.",
                code="schedule",
            )
        return dict(row._mapping)

    def list_schedules(self, *, hospital: int | None, limit: int, before: int | None) -> list[dict[str, Any]]:
        """Newest first, without deleted ones; `hospital` keeps those in which it takes part."""
        query = (
            sa.select(schedules).where(schedules.c.deleted.is_(None)).order_by(schedules.c.schedule_id.desc())
        )
        if before is not None:
            query = query.where(schedules.c.schedule_id < before)
        with self._engine.begin() as db:
            found = (dict(row._mapping) for row in db.execute(query))
            own = (row for row in found if hospital is None or hospital in row["hospitals"])
            return [row for row, _ in zip(own, range(limit), strict=False)]

    def active_timings(self) -> list[dict[str, Any]]:
        """When the schedules that are neither paused nor deleted fall due."""
        with self._engine.begin() as db:
            wanted = sa.and_(schedules.c.active, schedules.c.deleted.is_(None))
            return list(db.scalars(sa.select(schedules.c.timing).where(wanted)))

    def set_schedule(self, schedule_id: int, **values: Any) -> None:
        with self._engine.begin() as db:
            one = schedules.c.schedule_id == schedule_id
            db.execute(schedules.update().where(one).values(updated=utc_now(), **values))

    def delete_schedule(self, schedule_id: int) -> None:
        """Its history stays; what was sealed for it goes."""
        with self._engine.begin() as db:
            db.execute(schedule_boxes.delete().where(schedule_boxes.c.schedule_id == schedule_id))
            one = schedules.c.schedule_id == schedule_id
            db.execute(schedules.update().where(one).values(deleted=utc_now(), active=False, owner_key=None))

    def schedule_boxes(self, schedule_id: int) -> dict[int, tuple[bytes, str]]:
        """Each provider's sealed place and its commitment."""
        with self._engine.begin() as db:
            found = db.execute(sa.select(schedule_boxes).where(schedule_boxes.c.schedule_id == schedule_id))
            return {row.user_id: (row.box, row.commitment) for row in found}

    # What became of each time

    def firing(self, schedule_id: int, scheduled: datetime.datetime) -> dict[str, Any] | None:
        one = sa.and_(firings.c.schedule_id == schedule_id, firings.c.scheduled == scheduled)
        with self._engine.begin() as db:
            row = db.execute(sa.select(firings).where(one)).first()
        return dict(row._mapping) if row else None

    def skip(self, schedule_id: int, scheduled: datetime.datetime, sentence: str) -> None:
        """Enters a time at which nothing was asked, and why. A time that has its entry keeps it."""
        values = {
            "schedule_id": schedule_id,
            "scheduled": scheduled,
            "started": utc_now(),
            "skipped": sentence,
        }
        if self.firing(schedule_id, scheduled) is None:
            with self._engine.begin() as db:
                db.execute(firings.insert().values(**values))

    def unended_order(self, schedule_id: int) -> int | None:
        """The schedule's order that is still under way."""
        mine = sa.and_(orders.c.schedule_id == schedule_id, orders.c.state.not_in(ENDED))
        with self._engine.begin() as db:
            found: int | None = db.scalar(sa.select(sa.func.max(orders.c.order_id)).where(mine))
        return found

    def last_success(self, schedule_id: int) -> int | None:
        """The schedule's last order with a result."""
        mine = sa.and_(orders.c.schedule_id == schedule_id, orders.c.state == "success")
        with self._engine.begin() as db:
            found: int | None = db.scalar(sa.select(sa.func.max(orders.c.order_id)).where(mine))
        return found

    def history(self, schedule_id: int, *, limit: int, before: int | None) -> list[dict[str, Any]]:
        """Entries newest first; `before` is the firing_id to go on from."""
        query = (
            sa.select(firings)
            .where(firings.c.schedule_id == schedule_id)
            .order_by(firings.c.firing_id.desc())
        )
        if before is not None:
            query = query.where(firings.c.firing_id < before)
        with self._engine.begin() as db:
            return [dict(row._mapping) for row in db.execute(query.limit(limit))]

    def scheduled_times(self, order_ids: list[int]) -> dict[int, datetime.datetime]:
        """When the orders of schedules were due."""
        query = sa.select(firings.c.order_id, firings.c.scheduled).where(firings.c.order_id.in_(order_ids))
        with self._engine.begin() as db:
            return {row.order_id: row.scheduled for row in db.execute(query)}
