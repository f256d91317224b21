"""The values of one line of a file, as the table `chats` takes them: each is checked, or refused with a reason."""

import difflib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from worker.clock import CLOCK_ERROR
from worker.db.partner_values import LONGEST_ID
from worker.db.tables import chats, read_time
from worker.errors import UsageError
from worker.linq.phone_numbers import e164

Value = str | bool | datetime | None
Row = dict[str, Value]
"""Columns with their values. A column that is not in it stays as it is in the table."""

REQUIRED: Final = ("id", "from_number")

COLUMNS: Final = (
    *REQUIRED,
    *("service", "is_group", "last_outbound_at", "last_inbound_at", "health_status", "handle"),
)
"""The columns that a file may bring."""

IGNORED: Final = frozenset(column.name for column in chats.columns) - frozenset(COLUMNS)
"""The other columns of the table: an export has them, an import takes no notice of them."""

TIMES: Final = ("last_outbound_at", "last_inbound_at")

EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""What lies before is no message, but a zero: 1970-01-01, 0001-01-01."""

LONGEST_TEXT: Final = 500
"""Characters of `health_status` and `handle`."""

LONGEST_NAME: Final = 60
"""Characters of an unknown column for which a suggestion is looked for."""

LONGEST_NUMBER: Final = 40
"""Characters of a phone number, however it is typed."""

SERVICES: Final = {"imessage": "iMessage", "sms": "SMS", "rcs": "RCS"}
YES: Final = frozenset({"true", "t", "yes", "y", "1"})
NO: Final = frozenset({"false", "f", "no", "n", "0"})

UNREADABLE: Final = "\N{REPLACEMENT CHARACTER}"
"""Stands where bytes could not be decoded."""

_USUAL_NAMES: Final = {
    "chat": "id",
    "chat_id": "id",
    "linq_chat_id": "id",
    "line": "from_number",
    "phone": "from_number",
    "phone_number": "from_number",
    "number": "from_number",
    "from": "from_number",
    "channel": "service",
    "type": "service",
    "group": "is_group",
    "last_outbound": "last_outbound_at",
    "last_sent_at": "last_outbound_at",
    "last_inbound": "last_inbound_at",
    "last_received_at": "last_inbound_at",
    "health": "health_status",
    "recipient": "handle",
    "to": "handle",
}
"""What others call these columns."""


class BadValueError(Exception):
    """A value, or a line, cannot be taken.

    `reason` says it in general, to be counted; the message names what was found and what is expected.
    """

    def __init__(self, reason: str, message: str | None = None) -> None:
        super().__init__(message or reason)
        self.reason = reason


@lru_cache(maxsize=1_000)
def column_named(name: str) -> str:
    """The column that a file's own name for it means: blanks around it and capitals make no difference.

    Raises:
        BadValueError: there is no such column; the message suggests one if it can.
    """
    column = name.strip().lower()
    if column in COLUMNS or column in IGNORED:
        return column
    likely = difflib.get_close_matches(column, COLUMNS, n=1) if len(column) <= LONGEST_NAME else []
    meant = _USUAL_NAMES.get(column.replace(" ", "_").replace("-", "_")) or (likely[0] if likely else None)
    hint = f" (did you mean {meant}?)" if meant else ""
    raise BadValueError("unknown column", f"{shown(column)}{hint}")


def row_of(values: Mapping[str, object], now: datetime) -> Row:
    """The values of a line, checked and in the table's own form; columns that an import ignores are left out.

    Raises:
        BadValueError: one of them cannot be taken, or a required one is missing.
    """
    for name in REQUIRED:
        if name not in values:
            raise BadValueError(f"{name} is missing")
    row: Row = {}
    for name, value in values.items():
        if name in TIMES:
            row[name] = _time(name, value, now)
        elif name in _READERS:
            row[name] = _READERS[name](name, value)
    if row.get("is_group", False) is None:
        del row["is_group"]  # not known: false in a new row, and an old one keeps what it has
    return row


def merged(earlier: Row, later: Row) -> Row:
    """Two lines with one id, as one after the other would leave the table: the later one, but of times the latest."""
    both = earlier | later
    for name in TIMES:
        moments = [row[name] for row in (earlier, later) if isinstance(row.get(name), datetime)]
        if moments:
            both[name] = max(moment for moment in moments if isinstance(moment, datetime))
    return both


def shown(value: object) -> str:
    """A value as a message shows it: on one line, and not too long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


def _id(name: str, value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise BadValueError(f"{name} is not a text", f"{name} is the number {shown(value)}; write it in quotes")
    if value is None or value == "":
        raise BadValueError(f"{name} is empty")
    if not isinstance(value, str):
        raise _no_text(name, value)
    if len(value) > LONGEST_ID:
        message = f"{name} has {len(value):,} characters; at most {LONGEST_ID} are possible"
        raise BadValueError(f"{name} is too long", message)
    _require_printable(name, value)
    if value != value.strip():
        raise BadValueError(f"{name} has blanks around it", f"{name} is {shown(value)}, with blanks around it")
    return value


def _number(name: str, value: object) -> str:
    text = _text(name, value)
    if text is None:
        raise BadValueError(f"{name} is empty")
    if len(text) > LONGEST_NUMBER:
        raise BadValueError(f"{name} is not a phone number", f"{name} {shown(text)} is too long for a phone number")
    try:
        return _e164(text)
    except UsageError as error:
        raise BadValueError(f"{name} is not a phone number", f"{name} {error}") from None


_e164: Final = lru_cache(maxsize=10_000)(e164)
"""An account has far fewer lines than chats."""


def _service(name: str, value: object) -> str | None:
    text = _text(name, value)
    if text is None:
        return None
    service = SERVICES.get(text.lower())
    if service is None:
        message = f"{name} is {shown(text)}; it must be iMessage, SMS, RCS or empty"
        raise BadValueError(f"{name} is unknown", message)
    return service


def _is_group(name: str, value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    text = _text(name, str(value) if isinstance(value, int) else value)
    if text is None:
        return None
    word = text.lower()
    if word not in YES and word not in NO:
        raise BadValueError(f"{name} is neither true nor false", f"{name} is {shown(text)}; it must be true or false")
    return word in YES


def _time(name: str, value: object, now: datetime) -> datetime | None:
    text = _text(name, value)
    if text is None:
        return None
    moment = read_time(text)
    if moment is None:
        message = f"{name} is {shown(text)}, which is not a time; write it as 2026-03-10T09:00:00Z"
        raise BadValueError(f"{name} is not a time", message)
    if moment > now + CLOCK_ERROR:
        message = f"{name} is {shown(text)}, which is in the future; a time without a zone is in UTC"
        raise BadValueError(f"{name} is in the future", message)
    if moment < EARLIEST:
        message = f"{name} is {shown(text)}, which is before {EARLIEST.year}; leave it empty where no message is known"
        raise BadValueError(f"{name} is before {EARLIEST.year}", message)
    return moment


def _text(name: str, value: object) -> str | None:
    """A text without blanks around it; None if nothing is left."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise _no_text(name, value)
    text = value.strip()
    if len(text) > LONGEST_TEXT:
        message = f"{name} has {len(text):,} characters; at most {LONGEST_TEXT} are possible"
        raise BadValueError(f"{name} is too long", message)
    _require_printable(name, text)
    return text or None


def _no_text(name: str, value: object) -> BadValueError:
    return BadValueError(f"{name} is not a text", f"{name} is {shown(value)}; it must be a text")


def _require_printable(name: str, text: str) -> None:
    if text.isprintable() and UNREADABLE not in text:
        return
    if UNREADABLE in text:
        message = f"{name} is {shown(text)}, which could not be decoded; save the file as UTF-8"
        raise BadValueError(f"{name} could not be decoded", message)
    raise BadValueError(f"{name} is not printable", f"{name} is {shown(text)}, with characters that cannot be printed")


_READERS: Final[Mapping[str, Callable[[str, object], Value]]] = {
    "id": _id,
    "from_number": _number,
    "service": _service,
    "is_group": _is_group,
    "health_status": _text,
    "handle": _text,
}
