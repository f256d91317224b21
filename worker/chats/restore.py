"""Forgetting what Linq once said of a chat: that it is missing, or that its recipient opted out.

The next pass may share with the chat again, and Linq says anew what it thinks. The ledger and pauses are not touched.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, func, null, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from worker.db.tables import chats

BATCH: Final = 1_000
"""Ids in one statement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreFilter:
    """Which chats are meant: those with these ids, or on these lines, that are marked as missing or as opted out."""

    chat_ids: Sequence[str] = ()
    lines: Sequence[str] = ()
    missing: bool = True
    opted_out: bool = True


async def count_marked(connection: AsyncConnection, wanted: RestoreFilter) -> dict[str, int]:
    """How many of the chats are marked, by the column that marks them; a chat may be in both."""
    counts: Counter[str] = Counter()
    columns = _columns(wanted)
    for among in _batches(wanted):
        statement = select(*(func.count(chats.c[name]).label(name) for name in columns)).where(*among)
        counts.update(dict((await connection.execute(statement)).mappings().one()))
    return {name: counts[name] for name in columns}


async def restore(connection: AsyncConnection, wanted: RestoreFilter, now: datetime) -> int:
    """Empty the columns that mark the chats; return how many chats were marked."""
    changed = 0
    columns = _columns(wanted)
    marked = or_(*(chats.c[name].is_not(None) for name in columns))
    for among in _batches(wanted):
        statement = update(chats).where(marked, *among).values({name: null() for name in columns} | {"updated_at": now})
        changed += (await connection.execute(statement)).rowcount
    return changed


def _columns(wanted: RestoreFilter) -> list[str]:
    columns = {"missing_at": wanted.missing, "opted_out_at": wanted.opted_out}
    return [name for name, is_wanted in columns.items() if is_wanted]


def _batches(wanted: RestoreFilter) -> list[list[ColumnElement[bool]]]:
    """The conditions of each statement, without the marks."""
    of_lines: list[ColumnElement[bool]] = [chats.c.from_number.in_(wanted.lines)] if wanted.lines else []
    if not wanted.chat_ids:
        return [of_lines]
    starts = range(0, len(wanted.chat_ids), BATCH)
    return [[chats.c.id.in_(wanted.chat_ids[start : start + BATCH]), *of_lines] for start in starts]
