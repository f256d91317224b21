"""SHARE_HOURS: the hours of the day in which shares are made, by the clock on the wall of a time zone."""

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from typing import Final, Self

WRITTEN: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)\s*-\s*([01]?\d|2[0-4]):([0-5]\d)")

MINUTES_SEARCHED: Final = 2 * 24 * 60
"""Any hours come within two days, daylight saving included."""


@dataclass(frozen=True)
class Hours:
    """From `start` up to, but not including, `end`; over midnight if `end` is earlier."""

    start: time
    end: time

    @classmethod
    def parse(cls, written: str) -> Self:
        """Read `09:00-21:00`; `24:00` is midnight.

        Raises:
            ValueError: it is not written so, or is no time at all.
        """
        match = WRITTEN.fullmatch(written.strip())
        if match is None or (match[3] == "24" and match[4] != "00"):
            raise ValueError
        hours = cls(time(int(match[1]), int(match[2])), time(int(match[3]) % 24, int(match[4])))
        if hours.start == hours.end:
            msg = "it begins when it ends"
            raise ValueError(msg)
        return hours

    def __str__(self) -> str:
        """As it is written in the setting."""
        return f"{self.start:%H:%M}-{self.end:%H:%M}"

    def contain(self, moment: datetime, zone: tzinfo) -> bool:
        """Whether a moment lies within them."""
        local = moment.astimezone(zone).time()
        if self.start < self.end:
            return self.start <= local < self.end
        return local >= self.start or local < self.end

    def opening(self, moment: datetime, zone: tzinfo) -> datetime:
        """The moment itself if it lies within them, else the next at which they begin.

        Looks minute by minute: a beginning that daylight saving skips is the end of the gap, one that it repeats comes
        once.
        """
        if self.contain(moment, zone):
            return moment
        minute = moment.replace(second=0, microsecond=0)
        later = (minute + timedelta(minutes=number) for number in range(1, MINUTES_SEARCHED))
        return next(at for at in later if self.contain(at, zone))
