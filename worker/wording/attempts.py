"""An attempt in words: Linq's answer, and the rerun that made it."""

from datetime import date, datetime
from typing import Final

from worker.ledger.history import Attempt
from worker.text import one_line

FIELDS: Final = tuple(Attempt.__dataclass_fields__)


def document(attempt: Attempt) -> dict[str, str | int | None]:
    """An attempt for machines; timestamps in ISO 8601, in UTC."""
    return {name: _plain(getattr(attempt, name)) for name in FIELDS}


def answer(attempt: Attempt) -> str:
    """Linq's status and code: `404/2012`, `200`, or nothing."""
    numbers = (attempt.http_status, attempt.error_code)
    return "/".join(str(number) for number in numbers if number is not None)


def note(attempt: Attempt) -> str:
    """The rerun that made the attempt, if one did, and Linq's error message, in one line."""
    return one_line("; ".join(part for part in (rerun(attempt), attempt.error_message) if part))


def rerun(attempt: Attempt) -> str:
    """The rerun that made an attempt, who asked for it and why; empty for a scheduled attempt."""
    if not attempt.sequence and not attempt.requested_by:
        return ""
    by = f" by {attempt.requested_by}" if attempt.requested_by else ""
    why = f" ({attempt.reason})" if attempt.reason else ""
    return f"rerun {attempt.sequence}{by}{why}"


def _plain(value: str | int | date | datetime | None) -> str | int | None:
    return value.isoformat() if isinstance(value, date) else value
