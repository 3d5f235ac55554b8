"""When a schedule falls due: by a cron expression or an interval, as Prefect's own
scheduler counts it (decision 45).

`check_timing` is for what people send, `due_after` and `latest_due` count,
`prefect_fields` writes it for Prefect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule
from pydantic import AfterValidator, Field, ValidationError

from protocol.errors import bad_request
from protocol.fields import Asked, Whole, any_case, printable

Missed = Literal["make_up", "skip"]
LEAST_SECONDS = 10
MOST_SECONDS = 366 * 86_400
# Prefect counts forwards only. The last time of a cron is looked for in longer and
# longer spans: an hour, a day, a month, a year, and for 29 February eight years.
LOOK_BACK: tuple[timedelta, ...] = (
    timedelta(hours=1),
    timedelta(days=1),
    timedelta(days=31),
    timedelta(days=366),
    timedelta(days=9 * 366),
)
# What people write for it: no zone of the list has such a name, and CST is Chicago's, too.
_CHINA = re.compile(
    r"(beijing|china|peking)(_standard)?(_time)?|bjt|cst|prc|(北京|中国)(标准)?(时间)?"
    r"|((gmt|utc)?\+0?8(:?00)?)",
    re.ASCII,
)


class Timing(Asked):
    """The field `schedule`: one of `cron` and `interval_seconds`."""

    cron: Annotated[str, Field(max_length=100), AfterValidator(printable)] | None = None
    interval_seconds: Whole | None = None
    timezone: Annotated[str, Field(max_length=100), AfterValidator(printable)] = "UTC"
    missed: Annotated[Missed, any_case(Missed)] = "make_up"


def check_timing(
    timing: Timing,
    *,
    now: datetime,
) -> dict[str, Any]:
    """The timing as the store keeps it; an interval counts from `now`. BadRequest with
    what to write instead.
    """
    has_cron = timing.cron is not None
    has_interval = timing.interval_seconds is not None
    if has_cron == has_interval:
        raise bad_request(
            "schedule",
            "schedule has no cron and no interval_seconds, or both.",
            "Give one of the two.",
        )
    if not _is_zone(timing.timezone):
        raise bad_request(
            "timezone",
            "timezone is no name of the IANA list.",
            _zone_remedy(timing.timezone),
        )
    if timing.cron is not None:
        _check_cron(timing.cron)
    seconds = timing.interval_seconds
    if seconds is not None and not _is_in_range(seconds):
        raise bad_request(
            "interval_seconds",
            "interval_seconds is out of range.",
            f"Give {LEAST_SECONDS} to {MOST_SECONDS}.",
        )
    stored_timing = timing.model_dump(mode="json", exclude_none=True)
    if seconds is not None:
        # The store and Prefect count from one moment, so both have the same times.
        anchor = now.replace(microsecond=0)
        stored_timing["anchor"] = anchor.isoformat()
    try:
        due_after(stored_timing, now)
    except ValueError:
        raise bad_request(
            "cron",
            "cron names a time that never comes.",
            "Name a day that there is.",
        ) from None
    return stored_timing


def _is_in_range(seconds: int) -> bool:
    return LEAST_SECONDS <= seconds <= MOST_SECONDS


def _is_zone(name: str) -> bool:
    """Whether Prefect takes it: it has a list of its own."""
    daily = {"cron": "@daily", "timezone": name}
    any_day = datetime(2026, 1, 1)
    try:
        due_after(daily, any_day)
    except (ValidationError, KeyError):
        return False
    return bool(name)


def _zone_remedy(name: str) -> str:
    """The name that was probably meant, else what names look like."""
    all_zones = sorted(available_timezones())
    zones = {zone.lower(): zone for zone in all_zones}
    cities = {}
    for lower, zone in zones.items():
        # There GMT-5 is five hours before Greenwich, where others write GMT+5.
        if not zone.startswith("Etc/"):
            city = lower.rpartition("/")[2]
            cities[city] = zone
    lower_name = name.strip().lower()
    lower_name = lower_name.replace(" ", "_")
    city = lower_name.rpartition("/")[2]
    if _CHINA.fullmatch(city):
        return "For the time of China write Asia/Shanghai."
    meant_zone = zones.get(lower_name) or cities.get(city)
    if meant_zone is not None and _is_zone(meant_zone):
        return f"Write {meant_zone}."
    return "Write a place, as Asia/Shanghai or Europe/Berlin, or UTC."


def _check_cron(text: str) -> None:
    """Five fields or a word as @daily: seconds would be too often."""
    remedy = 'Write five fields (minute, hour, day, month, weekday), as "0 6 * * 1-5", or a word as @daily.'
    is_word = text.startswith("@")
    cron_fields = text.split()
    if not is_word and len(cron_fields) != 5:
        raise bad_request("cron", "cron has not five fields.", remedy)
    try:
        CronSchedule(cron=text)
    except ValidationError:
        raise bad_request("cron", "cron is not readable.", remedy) from None


def prefect_fields(timing: Mapping[str, Any]) -> dict[str, Any]:
    """The timing in the words of Prefect's schedules."""
    zone = timing["timezone"]
    if "cron" in timing:
        return {"cron": timing["cron"], "timezone": zone}
    anchor = datetime.fromisoformat(timing["anchor"])
    interval = timedelta(seconds=timing["interval_seconds"])
    return {
        "interval": interval,
        "anchor_date": anchor.replace(tzinfo=UTC),
        "timezone": zone,
    }


def _schedule(timing: Mapping[str, Any]) -> CronSchedule | IntervalSchedule:
    kind = CronSchedule if "cron" in timing else IntervalSchedule
    return kind(**prefect_fields(timing))


def due_after(
    timing: Mapping[str, Any],
    start: datetime,
    n: int = 1,
) -> list[datetime]:
    """The next n times from `start` on; all times are in UTC and without a zone, as in
    the store.
    """
    schedule = _schedule(timing)
    begin = start.replace(tzinfo=UTC)
    dates = schedule._get_dates_generator(n=n, start=begin)
    return sorted(_plain(date) for date in dates)


def latest_due(
    timing: Mapping[str, Any],
    now: datetime,
) -> datetime | None:
    """The last time up to `now`; None if there was none for years."""
    schedule = _schedule(timing)
    end = now.replace(tzinfo=UTC)
    spans = LOOK_BACK
    if "interval_seconds" in timing:
        # Two intervals have a time in any case; two hours more for a change of the
        # clocks.
        two_intervals = 2 * timing["interval_seconds"]
        seconds = two_intervals + 7_200
        spans = (timedelta(seconds=seconds),)
    for span in spans:
        begin = end - span
        dates = list(schedule._get_dates_generator(start=begin, end=end))
        if dates:
            return max(_plain(date) for date in dates)
    return None


def _plain(date: datetime) -> datetime:
    """In UTC, without a zone."""
    in_utc = datetime.fromtimestamp(date.timestamp(), UTC)
    return in_utc.replace(tzinfo=None)
