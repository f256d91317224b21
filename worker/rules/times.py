"""When share days begin, and when scheduled passes share: at their times, within SHARE_HOURS."""

from datetime import UTC, date, datetime, timedelta
from typing import Final

from worker.rules.eligibility import Rules
from worker.rules.schedule import Schedule

SCHEDULED_TIMES_TRIED: Final = 400
"""Scheduled times that are looked at for one in SHARE_HOURS: more than a year of daily ones."""


def beginning_of(day: date, rules: Rules) -> datetime:
    """The first moment of a share day, in UTC; if daylight saving skips midnight, the end of the gap."""
    return datetime(day.year, day.month, day.day, tzinfo=rules.timezone).astimezone(UTC)


def first_pass(rules: Rules, schedule: Schedule, at: datetime) -> datetime | None:
    """When the first scheduled pass from a moment on shares: at its time, or later that day when SHARE_HOURS begin."""
    fire = schedule.after(at - timedelta(microseconds=1))
    for _ in range(SCHEDULED_TIMES_TRIED):
        if fire is None:
            return None
        opening = rules.opening(fire)
        if rules.share_day(opening) == rules.share_day(fire):
            return opening
        fire = schedule.after(fire)
    return None
