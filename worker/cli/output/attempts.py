"""The output of `share-worker attempts`: a table, one JSON document, or CSV. Rows are printed as they are read."""

import csv
import json
import sys
from collections.abc import AsyncIterator
from datetime import tzinfo
from typing import Final

from worker.cli.output.tables import print_columns_of, unicode_is_shown
from worker.ledger.history import Attempt
from worker.text import minute, one_line
from worker.wording.attempts import FIELDS, answer, document, note

HEAD: Final = ("claimed", "chat", "outcome", "answer", "note")
EXPENDABLE: Final = ("note", "claimed", "answer")
"""Columns to leave out on a narrow terminal, the first one first."""

FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet takes a text that begins with one of these for a formula."""


async def print_table(attempts: AsyncIterator[Attempt], zone: tzinfo) -> int:
    """A table with timestamps in a zone; return how many rows it has."""

    async def rows() -> AsyncIterator[tuple[str, ...]]:
        async for attempt in attempts:
            chat = one_line(attempt.chat_id)
            yield (minute(attempt.claimed_at, zone), chat, attempt.outcome, answer(attempt), note(attempt))

    return await print_columns_of(HEAD, rows(), expendable=EXPENDABLE)


async def print_attempts_json(attempts: AsyncIterator[Attempt]) -> int:
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


def _no_formula(value: str | int | None) -> str | int | None:
    """Put an apostrophe before a formula, as OWASP advises against CSV injection."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
