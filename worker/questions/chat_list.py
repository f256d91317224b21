"""The table `chats` as a list: with verdicts for people, or all of its columns for an export. Read in order of the key.

Rows are streamed, whatever a partner wrote into them: what cannot be read as a time is None.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Label, Text, select
from sqlalchemy.ext.asyncio import AsyncEngine

from worker import db
from worker.db.partner_values import as_text, as_time
from worker.db.tables import UtcTime, chats, spelt
from worker.rules.eligibility import Rules, Verdict, moment, source, verdict

EXPORTED: Final = tuple(column.name for column in chats.columns if column.name not in {"created_at", "updated_at"})
"""The columns of an export: all that say something of the chat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedChat:
    """A chat with its verdict. The cards are those that the last pass saw."""

    id: str
    from_number: str
    verdict: str
    last_outbound_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatFilter:
    """Which chats to list: those that match every field given."""

    verdicts: Sequence[Verdict] = ()
    lines: Sequence[str] = ()
    after: str | None = None
    """Only chats with ids after this one."""


async def list_chats(
    engine: AsyncEngine, rules: Rules, wanted: ChatFilter, now: datetime, *, at_most: int | None = None
) -> AsyncIterator[ListedChat]:
    """The matching chats."""
    ruling = verdict(rules)
    statement = select(
        as_text(chats.c.id).label("id"),
        as_text(chats.c.from_number).label("from_number"),
        ruling.label("verdict"),
        as_time(chats.c.last_outbound_at).label("last_outbound_at"),
    ).select_from(source())
    if wanted.verdicts:
        statement = statement.where(ruling.in_([spelt(name) for name in wanted.verdicts]))
    if wanted.lines:
        statement = statement.where(chats.c.from_number.in_(wanted.lines))
    # The condition on the key, even without `after`, lets SQLite walk by the key instead of sorting.
    statement = statement.where(chats.c.id > wanted.after if wanted.after is not None else chats.c.id >= "")
    async for row in db.stream(engine, statement.order_by(chats.c.id).limit(at_most), moment(rules, now)):
        yield ListedChat(**row)


async def all_chats(engine: AsyncEngine) -> AsyncIterator[Sequence[object]]:
    """All chats, with the values of the columns `EXPORTED`."""
    async for row in db.stream(engine, select(*(_readable(name) for name in EXPORTED)).order_by(chats.c.id)):
        yield list(row.values())


def _readable(name: str) -> Label[str] | Label[datetime] | Label[bool]:
    column = chats.c[name]
    if isinstance(column.type, Text):
        return as_text(column).label(name)
    if isinstance(column.type, UtcTime):
        return as_time(column).label(name)
    return column.is_not(False).label(name)  # as the verdict takes it: what is not clearly no group is one
