"""Brings a file of chats into the table, a batch a transaction: what was committed stays, whatever comes after it."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.chats.files import BadLine, Record, StoppedReadingError
from worker.chats.rows import IGNORED, BadValueError, Row, merged, row_of
from worker.chats.upsert import Changes, compare, store

BATCH: Final = 5_000
"""Lines of a file in one transaction: a running pass waits for none longer than a moment."""

BAD_KEPT: Final = 1_000
"""Bad lines that are kept for a report; the others are counted."""


@dataclass(kw_only=True, slots=True)
class Imported:
    """What an import did so far. Each line is in one of the counts."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    repeated: int = 0
    """Lines whose id came again in the same batch; the two became one row."""
    bad: int = 0
    complete: bool = False
    """The file was read to its end."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why lines were bad."""
    bad_lines: list[BadLine] = field(default_factory=list)
    """The first ones."""
    ignored: set[str] = field(default_factory=set)
    """Columns of the file that an import ignores."""

    @property
    def imported(self) -> int:
        """The good lines."""
        return self.new + self.changed + self.unchanged + self.repeated

    @property
    def lines(self) -> int:
        """All lines, but for blank ones and the header."""
        return self.imported + self.bad


async def import_chats(
    engine: AsyncEngine,
    records: Iterable[Record | BadLine],
    done: Imported,
    *,
    now: datetime,
    dry_run: bool,
    stop: asyncio.Event,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Import records until there are no more or `stop` is set.

    After each batch `done` is counted up, then `watch` is called. With `dry_run`, nothing is
    written, and the counts say what would be.

    Raises:
        UsageError: see `read_records`, whose records these are.
        SQLAlchemyError: the database failed; what `done` counts is in the table all the same.
    """
    batches = _batches(records, now)
    while not stop.is_set():
        try:
            # In a thread: reading may wait for a pipe, and a signal must be heard meanwhile.
            batch = await asyncio.to_thread(next, batches, None)
        except StoppedReadingError:
            return
        if batch is None:
            done.complete = True
            return
        rows = list(batch.rows.values())
        if dry_run:
            async with db.read(engine) as connection:
                changes = await compare(connection, rows, now)
        else:
            async with db.write(engine) as connection:
                changes = await store(connection, rows, now)
        _count(done, batch, changes)
        watch()


@dataclass(kw_only=True, slots=True)
class _Batch:
    rows: dict[str, Row] = field(default_factory=dict)
    lines: int = 0
    bad: list[BadLine] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)


def _batches(records: Iterable[Record | BadLine], now: datetime) -> Iterator[_Batch]:
    batch = _Batch()
    for record in records:
        batch.lines += 1
        if isinstance(record, BadLine):
            batch.bad.append(record)
        else:
            _add(batch, record, now)
        if batch.lines == BATCH:
            yield batch
            batch = _Batch()
    if batch.lines:
        yield batch


def _add(batch: _Batch, record: Record, now: datetime) -> None:
    try:
        row = row_of(record.values, now)
    except BadValueError as error:
        batch.bad.append(BadLine(line=record.line, reason=error.reason, message=str(error)))
        return
    batch.ignored |= record.values.keys() & IGNORED
    chat_id = str(row["id"])
    earlier = batch.rows.get(chat_id)
    batch.rows[chat_id] = row if earlier is None else merged(earlier, row)


def _count(done: Imported, batch: _Batch, changes: Changes) -> None:
    done.new += changes.new
    done.changed += changes.changed
    done.unchanged += changes.unchanged
    done.repeated += batch.lines - len(batch.bad) - len(batch.rows)
    done.bad += len(batch.bad)
    done.reasons.update(line.reason for line in batch.bad)
    done.bad_lines += batch.bad[: BAD_KEPT - len(done.bad_lines)]
    done.ignored |= batch.ignored
