"""When a pass is due by a crontab expression: what crontab(5) means by it, in a time zone, daylight saving included.

A time that daylight saving skips comes as soon as the gap is over; one that it repeats comes once. So it is in Debian's
cron, whose rules the library `cronsim` follows. What comes every hour goes by the hours that the day has.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final

from cronsim import CronSim, CronSimError

NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""The extensions of crontab(5); `@reboot` is none that a date could tell."""

FIELDS: Final = ("minute", "hour", "day of month", "month", "day of week")

PART: Final = re.compile(r"(\*|\w+-\w+)(/\d+)?|\w+")
"""One part of a list. A step comes after a range or a star only, and there are no letters but those of names."""

EVERY_HOUR: Final = ("*", "*/1")

NAMES: Final = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "day of week": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}


@dataclass(frozen=True)
class Schedule:
    """A crontab expression in a time zone.

    Raises:
        ValueError: it is none; the message says which part of it.
    """

    expression: str
    timezone: tzinfo

    def __post_init__(self) -> None:
        """Refuse what crontab(5) does not know, `cronsim`'s own extensions included."""
        fields = self._plain.split()
        if self._plain.startswith("@") or len(fields) != len(FIELDS):
            msg = f"it has {len(fields)} fields" if len(fields) != 1 else f"it is none of {', '.join(NICKNAMES)}"
            raise ValueError(msg)
        for name, field in zip(FIELDS, fields, strict=True):
            for part in field.split(","):
                words = re.findall(r"[a-z]+", part.lower())
                if not PART.fullmatch(part) or any(word not in NAMES.get(name, []) for word in words):
                    msg = f"{part!r} is no {name}"
                    raise ValueError(msg)
        try:
            first = next(self._fires(datetime(2000, 1, 1, tzinfo=UTC)), None)
        except CronSimError as error:
            raise ValueError(str(error).replace("-", " ").lower()) from None
        if first is None:
            msg = "it never comes"
            raise ValueError(msg)

    def after(self, moment: datetime) -> datetime | None:
        """The first time after a moment, in UTC; None if none comes within the next fifty years."""
        return next(self._fires(moment), None)

    def latest_on(self, day: date, until: datetime) -> datetime | None:
        """The last time on a day (a date in the time zone) not after `until`, in UTC; None if there was none."""
        latest = None
        for fire in self._fires(self._beginning(day) - timedelta(seconds=1)):
            if fire > until or fire.astimezone(self.timezone).date() != day:
                return latest
            latest = fire
        return latest

    @property
    def _plain(self) -> str:
        return NICKNAMES.get(self.expression.strip().lower(), self.expression)

    @property
    def _spelt_out(self) -> str:
        """Without stars in the time of day, unless it comes every hour: cron has no care for skipped times with one."""
        minute, hour, *days = self._plain.split()
        if hour not in EVERY_HOUR:
            minute, hour = minute.replace("*", "0-59"), hour.replace("*", "0-23")
        return " ".join([minute, hour, *days])

    def _beginning(self, day: date) -> datetime:
        return datetime(day.year, day.month, day.day, tzinfo=self.timezone).astimezone(UTC)

    def _fires(self, after: datetime) -> Iterator[datetime]:
        for fire in CronSim(self._spelt_out, after.astimezone(self.timezone)):
            yield fire.astimezone(UTC)
