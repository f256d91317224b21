"""How text is written for users: foreign text as one printable line, timestamps with their UTC offset, durations."""

from datetime import UTC, datetime, timedelta, tzinfo


def one_line(text: str, longest: int | None = None) -> str:
    """Foreign text made safe to print: one line, no control characters, cut with an ellipsis beyond `longest`."""
    head = text if longest is None else text[: longest * 2]  # enough to cut from, however long the text is
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in head).split())
    return line if longest is None or len(line) <= longest else line[: longest - 1] + "…"


def chat_count(count: int) -> str:
    """A number of chats."""
    return "1 chat" if count == 1 else f"{count:,} chats"


def exact(moment: datetime, zone: tzinfo) -> str:
    """A timestamp to the second: `2026-03-10 10:30:05+01`."""
    local = moment.astimezone(zone)
    return f"{local:%Y-%m-%d %H:%M:%S}{_offset(local)}"


def minute(moment: datetime, zone: tzinfo) -> str:
    """A timestamp to the minute: `2026-03-10 10:30+01`."""
    local = moment.astimezone(zone)
    return f"{local:%Y-%m-%d %H:%M}{_offset(local)}"


def both(moment: datetime, zone: tzinfo) -> str:
    """A timestamp to the second, followed by the same in UTC if that reads differently."""
    local, in_utc = exact(moment, zone), exact(moment, UTC)
    return local if local == in_utc else f"{local} = {in_utc}"


def unparseable(written: str) -> str:
    """What to show for a timestamp that cannot be parsed."""
    return f"{written!r} is not a timestamp"


def span(length: timedelta) -> str:
    """A duration: `38 ms`, `1.7 s`, `0:02:31`."""
    seconds = length.total_seconds()
    if 0 <= seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else str(timedelta(seconds=round(seconds)))


def roughly(length: timedelta) -> str:
    """A duration in one unit: `40 s`, `5 min`, `3 h`, `12 days`."""
    seconds = abs(length.total_seconds())
    for least, seconds_in_unit, unit in ((172_800, 86_400, "days"), (5_400, 3_600, "h"), (90, 60, "min")):
        if seconds >= least:
            return f"{round(seconds / seconds_in_unit)} {unit}"
    return f"{round(seconds)} s"


def _offset(local: datetime) -> str:
    offset = f"{local:%z}"
    return offset[:3] if offset[3:] == "00" else f"{offset[:3]}:{offset[3:5]}"
