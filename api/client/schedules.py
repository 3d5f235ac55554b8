"""A question of joint statistics that is sent again and again, at times that Prefect
keeps (decision 45).
"""

from __future__ import annotations

import pandas as pd

from api.client import results
from api.client.answers import Answers, noted, report_frame
from api.client.connection import Connection, Json
from protocol.errors import NotFound

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

UNDER_WAY = ("waiting", "running")
BECAME = {
    "refused": "was refused",
    "failed": "failed",
    "cancelled": "was cancelled",
    "skipped": "was skipped",
    "waiting": "waits",
    "running": "is under way",
}
"""What became of a time that has no answer, by its state in the history."""


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
        self,
        connection: Connection,
        schedule_id: int,
        known: Json | None = None,
        *,
        answers: Answers | None = None,
    ) -> None:
        self.schedule_id = schedule_id
        self._answers = answers or Answers(connection)
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
        entry: Json = self._connection.get(self._path).data
        self._state = _state(entry)
        return entry

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
        return _history_frame(self._runs(limit))

    def last_answer(self) -> pd.DataFrame:
        """The rows of its newest answer that is sealed to this user; of a schedule of
        models the report's terms, or an evaluation's metrics.

        `attrs["order_id"]` says which order's it is. `attrs["note"]` says what a reader
        should know: that times since then were refused, have failed, were skipped or are
        under way, that groups are withheld, or that it repeats an earlier answer.

        NotFound (code no_answer) where none of its last 100 times has one.
        """
        since: list[Json] = []
        for run in self._runs(limit=100):
            if run["state"] == "success":
                return self._opened(run, since)
            since.append(run)
        why = f" {_why_none(since)}" if since else ""
        raise NotFound(
            f"Schedule {self.schedule_id} has no answer yet.{why}",
            remedy="`history()` says what became of each of its times.",
            code="no_answer",
        )

    def _opened(self, run: Json, since: list[Json]) -> pd.DataFrame:
        opened = self._answers.of_order(run["order_id"])
        content = opened.json()
        frame = noted(_frame_of(opened.place.kind, content), opened)
        notes = []
        if since:
            notes.append(f"This is no answer of the newest time. {_why_none(since)}")
        withheld = content.get("notes", {}).get("withheld")
        if withheld:
            rules = ", ".join(sorted({group["rule"] for group in withheld}))
            notes.append(f"Groups are withheld: {len(withheld)} ({rules}).")
        if run["repeats"] is not None:
            notes.append(
                f"It is that of order {run['repeats']} again: rows have hardly changed."
            )
        if opened.note:
            notes.append(opened.note)
        if notes:
            frame.attrs["note"] = " ".join(notes)
        return frame

    def _runs(self, limit: int) -> list[Json]:
        """What became of each time, newest first."""
        return self._connection.pages(
            "/statistics/history", "runs", limit=limit, schedule_id=self.schedule_id
        )

    def _change(self, body: Json) -> Schedule:
        changed = self._connection.change("PATCH", self._path, body).data
        self._state = _state(changed)
        return self


class ModelSchedule(Schedule):
    """The same of an order of training, or an evaluation, that is run again."""

    @property
    def _path(self) -> str:
        return f"/model/schedules/{self.schedule_id}"

    def history(self, limit: int = 100) -> pd.DataFrame:
        """What became of each time, newest first; `path` and `type` are of questions."""
        return super().history(limit)

    def _runs(self, limit: int) -> list[Json]:
        return self._connection.pages(f"{self._path}/history", "runs", limit=limit)


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
    return _history_frame(rows)


def _history_frame(rows: list[Json]) -> pd.DataFrame:
    frame = results.table(rows, "order_id", HISTORY)
    # A time that was skipped has no order; Int64 keeps the other numbers whole beside
    # it.
    frame.index = frame.index.astype("Int64")
    return frame[list(HISTORY)]


def _frame_of(kind: str, content: Json) -> pd.DataFrame:
    """A sealed answer of this kind as a frame."""
    if kind == "report":
        return report_frame(content)
    if kind == "evaluation":
        return pd.DataFrame([content["report"]["metrics"]])
    return results.exact_frame(content["rows"])


def _why_none(runs: list[Json]) -> str:
    """Why times have no answer, by the newest of them that has ended.

    >>> refused = {"state": "refused", "scheduled": "2026-11-20T06:00:00Z", "sentence": "The reader is not listed."}
    >>> _why_none([{**refused, "state": "running", "sentence": "It waits."}, refused])
    'Times without one: 2. That of 2026-11-20T06:00:00Z was refused: The reader is not listed.'
    """
    ended = [run for run in runs if run["state"] not in UNDER_WAY]
    newest_run = (ended or runs)[0]
    reason = newest_run["sentence"] or "history() has no reason."
    outcome = BECAME.get(newest_run["state"], newest_run["state"])
    moment = newest_run["scheduled"] or newest_run["started"]
    return f"Times without one: {len(runs)}. That of {moment} {outcome}: {reason}"


def _state(schedule: Json) -> str:
    return ": active" if schedule["active"] else ": paused"
