"""When a schedule falls due: by a cron expression or an interval, as Prefect's own scheduler counts it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule
from pydantic import AfterValidator, Field, ValidationError

from protocol.errors import BadRequest
from protocol.training_request import Strict, Whole, any_case, printable

Missed = Literal["make_up", "skip"]
LEAST_SECONDS, MOST_SECONDS = 10, 366 * 86_400
LOOK_BACK = tuple(timedelta(hours=hours) for hours in (1, 24, 31 * 24, 366 * 24, 9 * 366 * 24))


class Timing(Strict):
    """The field `schedule`: one of `cron` and `interval_seconds`."""

    cron: Annotated[str, Field(max_length=100), AfterValidator(printable)] | None = None
    interval_seconds: Whole | None = None
    timezone: Annotated[str, Field(max_length=100), AfterValidator(printable)] = "UTC"
    missed: Annotated[Missed, any_case(Missed)] = "make_up"


def check_timing(timing: Timing, *, now: datetime) -> dict[str, Any]:
    """The timing as the store keeps it; an interval counts from `now`. BadRequest with what to write instead."""
    if (timing.cron is None) == (timing.interval_seconds is None):
        raise _bad(
            "schedule", "schedule has no cron and no interval_seconds, or both.", "Give one of the two."
        )
    if not _is_zone(timing.timezone):
        raise _bad("timezone", "timezone is no name of the IANA list.", "Write it as Europe/Berlin or UTC.")
    if timing.cron is not None:
        _check_cron(timing.cron)
    seconds = timing.interval_seconds
    if seconds is not None and not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        raise _bad(
            "interval_seconds",
            "interval_seconds is out of range.",
            f"Give {LEAST_SECONDS} to {MOST_SECONDS}.",
        )
    kept = timing.model_dump(mode="json", exclude_none=True)
    if seconds is not None:
        kept["anchor"] = now.replace(microsecond=0).isoformat()
    try:
        due_after(kept, now)
    except ValueError:
        raise _bad("cron", "cron names a time that never comes.", "Name a day that there is.") from None
    return kept


def _is_zone(name: str) -> bool:
    try:
        due_after({"cron": "@daily", "timezone": name}, datetime(2026, 1, 1))
    except (ValidationError, KeyError):
        return False
    return bool(name)


def _check_cron(text: str) -> None:
    """Five fields or a word as @daily: seconds would be too often."""
    remedy = 'Write five fields (minute, hour, day, month, weekday), as "0 6 * * 1-5", or a word as @daily.'
    if len(text.split()) != 5 and not text.startswith("@"):
        raise _bad("cron", "cron has not five fields.", remedy)
    try:
        CronSchedule(cron=text)
    except ValidationError:
        raise _bad("cron", "cron is not readable.", remedy) from None


def prefect_fields(timing: Mapping[str, Any]) -> dict[str, Any]:
    """The timing in the words of Prefect's schedules."""
    if "cron" in timing:
        return {"cron": timing["cron"], "timezone": timing["timezone"]}
    return {
        "interval": timedelta(seconds=timing["interval_seconds"]),
        "anchor_date": datetime.fromisoformat(timing["anchor"]).replace(tzinfo=UTC),
        "timezone": timing["timezone"],
    }


def _schedule(timing: Mapping[str, Any]) -> CronSchedule | IntervalSchedule:
    return (CronSchedule if "cron" in timing else IntervalSchedule)(**prefect_fields(timing))


def due_after(timing: Mapping[str, Any], start: datetime, n: int = 1) -> list[datetime]:
    """The next n times from `start` on; all times are in UTC and without a zone, as in the store."""
    found = _schedule(timing)._get_dates_generator(n=n, start=start.replace(tzinfo=UTC))
    return sorted(_plain(date) for date in found)


def latest_due(timing: Mapping[str, Any], now: datetime) -> datetime | None:
    """The last time up to `now`; None if there was none for years."""
    end = now.replace(tzinfo=UTC)
    backs = LOOK_BACK if "cron" in timing else [timedelta(seconds=2 * timing["interval_seconds"] + 7_200)]
    for back in backs:
        if found := list(_schedule(timing)._get_dates_generator(start=end - back, end=end)):
            return max(_plain(date) for date in found)
    return None


def _plain(date: datetime) -> datetime:
    return datetime.fromtimestamp(date.timestamp(), UTC).replace(tzinfo=None)


def _bad(code: str, sentence: str, remedy: str) -> BadRequest:
    return BadRequest(sentence, remedy=remedy, code=code)
