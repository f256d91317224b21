"""How times and spans are written for people: always with the zone's offset, as PostgreSQL writes them."""

from datetime import UTC, datetime, timedelta, tzinfo


def exact(moment: datetime, zone: tzinfo) -> str:
    """A time to the second: `2026-03-10 10:30:05+01`."""
    local = moment.astimezone(zone)
    return f"{local:%Y-%m-%d %H:%M:%S}{_offset(local)}"


def minute(moment: datetime, zone: tzinfo) -> str:
    """A time to the minute: `2026-03-10 10:30+01`."""
    local = moment.astimezone(zone)
    return f"{local:%Y-%m-%d %H:%M}{_offset(local)}"


def both(moment: datetime, zone: tzinfo) -> str:
    """A time to the second, and the same in UTC where that reads differently."""
    here, there = exact(moment, zone), exact(moment, UTC)
    return here if here == there else f"{here} = {there}"


def no_time(written: str) -> str:
    """What stands in a time's place and names none."""
    return f"{written!r} names no time"


def span(length: timedelta) -> str:
    """How long something took: `38 ms`, `1.7 s`, `0:02:31`."""
    seconds = length.total_seconds()
    if 0 <= seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else str(timedelta(seconds=round(seconds)))


def roughly(length: timedelta) -> str:
    """How long ago, or how long to wait, in one unit: `40 s`, `5 min`, `3 h`, `12 days`."""
    seconds = abs(length.total_seconds())
    for many, unit in ((172_800, "days"), (5_400, "h"), (90, "min")):
        if seconds >= many:
            return f"{round(seconds / {'days': 86_400, 'h': 3_600, 'min': 60}[unit])} {unit}"
    return f"{round(seconds)} s"


def _offset(local: datetime) -> str:
    offset = f"{local:%z}"
    return offset[:3] if offset[3:] == "00" else f"{offset[:3]}:{offset[3:5]}"
