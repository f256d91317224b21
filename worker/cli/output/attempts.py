"""The output of `share-worker attempts`: a table, one JSON document, or CSV. Rows are printed as they are read."""

import csv
import json
import sys
from collections.abc import AsyncIterator
from datetime import date, datetime, tzinfo
from typing import Final

from worker.cli.output.tables import print_columns_of, unicode_is_shown
from worker.ledger.history import Attempt
from worker.text import minute, one_line

HEAD: Final = ("claimed", "chat", "outcome", "answer", "note")
EXPENDABLE: Final = ("note", "claimed", "answer")
"""Columns to leave out on a narrow terminal, the first one first."""

FIELDS: Final = tuple(Attempt.__dataclass_fields__)

FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet takes a text that begins with one of these for a formula."""


async def print_table(attempts: AsyncIterator[Attempt], zone: tzinfo) -> int:
    """A table with timestamps in a zone; return how many rows it has."""

    async def rows() -> AsyncIterator[tuple[str, ...]]:
        async for attempt in attempts:
            chat = one_line(attempt.chat_id)
            yield (minute(attempt.claimed_at, zone), chat, attempt.outcome, answer(attempt), note(attempt))

    return await print_columns_of(HEAD, rows(), expendable=EXPENDABLE)


async def print_json(attempts: AsyncIterator[Attempt]) -> int:
    """One JSON document, an attempt a line; return how many there are."""
    count = 0
    sys.stdout.write('{"attempts": [')
    async for attempt in attempts:
        line = json.dumps(document(attempt), ensure_ascii=not unicode_is_shown())
        sys.stdout.write(f"{',' if count else ''}\n  {line}")
        count += 1
    sys.stdout.write("\n]}\n" if count else "]}\n")
    return count


async def print_csv(attempts: AsyncIterator[Attempt]) -> int:
    """CSV with the ledger's column names as its head, timestamps in UTC; return how many rows there are."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(FIELDS)
    count = 0
    async for attempt in attempts:
        writer.writerow([_no_formula(value) for value in document(attempt).values()])
        count += 1
    return count


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


def _no_formula(value: str | int | None) -> str | int | None:
    """Put an apostrophe before a formula, as OWASP advises against CSV injection."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
