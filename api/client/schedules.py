"""A question of joint statistics that is sent again and again, at times that Prefect
keeps (decision 45).
"""

from __future__ import annotations

import pandas as pd

from api.client import results
from api.client.connection import Connection, Json

# The columns of a history, in this order; docs/client.md describes them.
HISTORY = (
    "started",
    "scheduled",
    "schedule_id",
    "state",
    "path",
    "type",
    "rows_used",
    "repeats",
    "sentence",
)


class Schedule:
    """A schedule by its number.

    >>> from api.client.stand_in import stand_in
    >>> schedule = stand_in().schedule(3)
    >>> schedule.pause()
    <Schedule 3: paused>
    >>> schedule.history()["state"].tolist()
    ['success', 'skipped']
    """

    def __init__(
        self, connection: Connection, schedule_id: int, known: Json | None = None
    ) -> None:
        self.schedule_id = schedule_id
        self._connection = connection
        # What follows the number in the schedule's own text.
        self._state = ""
        if known is not None:
            self._state = _state(known)

    def __repr__(self) -> str:
        return f"<Schedule {self.schedule_id}{self._state}>"

    @property
    def _path(self) -> str:
        return f"/statistics/schedules/{self.schedule_id}"

    def info(self) -> Json:
        """The question, its times (`next_runs` in UTC), whether it is active, and its
        newest run.
        """
        found: Json = self._connection.get(self._path).data
        self._state = _state(found)
        return found

    def pause(self) -> Schedule:
        return self._change({"active": False})

    def resume(self) -> Schedule:
        return self._change({"active": True})

    def rename(self, name: str) -> Schedule:
        return self._change({"name": name})

    def retime(
        self,
        *,
        cron: str | None = None,
        interval_seconds: int | None = None,
        timezone: str = "UTC",
        missed: str = "make_up",
    ) -> Schedule:
        """Other times from now on."""
        times = timing(cron, interval_seconds, timezone, missed)
        return self._change({"schedule": times})

    def delete(self) -> None:
        """Ends it; its orders and its history stay."""
        self._connection.change("DELETE", self._path)
        self._state = ": deleted"

    def history(self, limit: int = 100) -> pd.DataFrame:
        """What became of each time, newest first."""
        return history(self._connection, self.schedule_id, limit)

    def _change(self, body: Json) -> Schedule:
        changed = self._connection.change("PATCH", self._path, body).data
        self._state = _state(changed)
        return self


def timing(
    cron: str | None, interval_seconds: int | None, timezone: str, missed: str
) -> Json:
    """The field `schedule` of a request.

    >>> timing("0 6 * * 1-5", None, "Asia/Shanghai", "skip")
    {'cron': '0 6 * * 1-5', 'timezone': 'Asia/Shanghai', 'missed': 'skip'}
    """
    fields = {
        "cron": cron,
        "interval_seconds": interval_seconds,
        "timezone": timezone,
        "missed": missed,
    }
    return {name: value for name, value in fields.items() if value is not None}


def history(
    connection: Connection, schedule_id: int | None, limit: int
) -> pd.DataFrame:
    """What became of each time of a schedule, or of every statistics order; a row for
    each order or skipped time.
    """
    rows = connection.pages(
        "/statistics/history", "runs", limit=limit, schedule_id=schedule_id
    )
    frame = results.table(rows, "order_id", HISTORY)
    # A time that was skipped has no order; Int64 keeps the other numbers whole beside
    # it.
    frame.index = frame.index.astype("Int64")
    return frame[list(HISTORY)]


def _state(schedule: Json) -> str:
    return ": active" if schedule["active"] else ": paused"
