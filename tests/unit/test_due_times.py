"""Time zones as people write them, and what a cron does when the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from api.due_times import Timing, check_timing, due_after
from protocol.errors import BadRequest

NOW = datetime(2026, 3, 1)


@pytest.mark.parametrize(
    ("written", "zone"),
    [
        ("GMT+8", "Asia/Shanghai"),
        ("UTC+08:00", "Asia/Shanghai"),
        ("CST", "Asia/Shanghai"),
        ("China Standard Time", "Asia/Shanghai"),
        ("北京时间", "Asia/Shanghai"),
        ("Asia/Beijing", "Asia/Shanghai"),
        ("asia/shanghai", "Asia/Shanghai"),
        ("new york", "America/New_York"),
        ("Berlin", "Europe/Berlin"),
    ],
)
def test_a_zone_that_is_none_is_told_the_one_that_was_meant(
    written: str, zone: str
) -> None:
    with pytest.raises(BadRequest) as raised:
        check_timing(Timing(cron="@daily", timezone=written), now=NOW)
    assert raised.value.code == "timezone"
    assert zone in raised.value.remedy
    assert check_timing(Timing(cron="@daily", timezone=zone), now=NOW)


def test_hours_from_greenwich_are_not_told_the_zone_of_the_other_side() -> None:
    """Etc/GMT-5 is five hours before Greenwich; who writes GMT-5 is five hours behind."""
    for written in ("GMT-5", "UTC+3", "gmt+0530"):
        with pytest.raises(BadRequest) as raised:
            check_timing(Timing(cron="@daily", timezone=written), now=NOW)
        assert "Etc" not in raised.value.remedy
        assert "Europe/Berlin" in raised.value.remedy


def local_times(cron: str, start: datetime, n: int) -> list[str]:
    zone = ZoneInfo("Europe/Berlin")
    timing = {"cron": cron, "timezone": "Europe/Berlin"}
    times = due_after(timing, start, n)
    return [f"{time.replace(tzinfo=UTC).astimezone(zone):%d %H:%M}" for time in times]


def test_a_time_that_the_spring_day_lacks_comes_an_hour_early() -> None:
    times = local_times("30 2 * * *", datetime(2026, 3, 28), 3)
    assert times == ["28 02:30", "29 01:30", "30 02:30"]


def test_the_hour_that_autumn_repeats_counts_once() -> None:
    times = local_times("*/30 * * * *", datetime(2026, 10, 25, 0, 0), 4)
    assert times == ["25 02:00", "25 02:30", "25 03:00", "25 03:30"]
    start = datetime(2026, 10, 25, 0, 0)
    first, *_, last = due_after(
        {"cron": "*/30 * * * *", "timezone": "Europe/Berlin"}, start, 4
    )
    assert (last - first).total_seconds() == 2.5 * 3600
