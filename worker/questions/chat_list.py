"""The table `chats` as a list: with verdicts for people, or all of its columns for an export. Read in order of the key.

Rows are streamed, whatever a partner wrote into them: what cannot be read as a time is None.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Label, Select, Text, and_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import db
from worker.db.partner_values import as_text, as_time
from worker.db.tables import UtcTime, chats, spelt
from worker.rules.eligibility import Rules, Verdict, chats_with_lines, moment, verdict

EXPORTED: Final = tuple(column.name for column in chats.columns if column.name not in {"created_at", "updated_at"})
"""The columns of an export: all that say something of the chat."""

LOOKED_AT: Final = 10_000
"""Chats that are looked at for one page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedChat:
    """A chat with its verdict. The cards are those that the last pass saw."""

    id: str
    from_number: str
    handle: str | None
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
    statement = _listed(ruling)
    if wanted.verdicts:
        statement = statement.where(ruling.in_([spelt(name) for name in wanted.verdicts]))
    if wanted.lines:
        statement = statement.where(chats.c.from_number.in_(wanted.lines))
    # The condition on the key, even without `after`, lets SQLite walk by the key instead of sorting.
    statement = statement.where(chats.c.id > wanted.after if wanted.after is not None else chats.c.id >= "")
    async for row in db.stream(engine, statement.order_by(chats.c.id).limit(at_most), moment(rules, now)):
        yield ListedChat(**row)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatPage:
    """Some of the matching chats, and where to go on."""

    chats: list[ListedChat]
    next_after: str | None
    """The id after which the next page begins; None: this is the last one."""
    is_whole: bool
    """False: the page ended because enough chats were looked at, not because it is full or nothing is left."""


async def chats_page(
    connection: AsyncConnection, rules: Rules, wanted: ChatFilter, now: datetime, *, at_most: int
) -> ChatPage:
    """The first matching chats, among at most `LOOKED_AT` of the table: a rare verdict may need several pages."""
    of_lines = [chats.c.from_number.in_(wanted.lines)] if wanted.lines else []
    following = [chats.c.id > wanted.after] if wanted.after is not None else [chats.c.id >= ""]
    candidates = select(as_text(chats.c.id)).where(*of_lines, *following).order_by(chats.c.id)
    last: str | None = (await connection.execute(candidates.offset(LOOKED_AT - 1).limit(1))).scalar()
    within = [chats.c.id <= last] if last is not None else []
    ruling = verdict(rules)
    verdicts = [ruling.in_([spelt(name) for name in wanted.verdicts])] if wanted.verdicts else []
    statement = _listed(ruling).where(*of_lines, *following, *within, *verdicts).order_by(chats.c.id).limit(at_most + 1)
    rows = [ListedChat(**row) for row in (await connection.execute(statement, moment(rules, now))).mappings()]
    if len(rows) > at_most:
        return ChatPage(chats=rows[:at_most], next_after=rows[at_most - 1].id, is_whole=True)
    return ChatPage(chats=rows, next_after=last, is_whole=last is None)


async def find_chats(connection: AsyncConnection, rules: Rules, words: str, now: datetime, at_most: int) -> ChatPage:
    """The chats with this id, handle or line, or whose id begins so; all by index lookups."""
    end = words[:-1] + chr(ord(words[-1]) + 1) if words and ord(words[-1]) < 0xD7FF else words
    found: dict[str, ListedChat] = {}
    for condition in (
        chats.c.id == words,
        chats.c.handle == words,
        chats.c.from_number == words,
        and_(chats.c.id > words, chats.c.id < end),
    ):
        statement = _listed(verdict(rules)).where(condition).order_by(chats.c.id).limit(at_most + 1)
        for row in (await connection.execute(statement, moment(rules, now))).mappings():
            found.setdefault(row["id"], ListedChat(**row))
    return ChatPage(chats=list(found.values())[:at_most], next_after=None, is_whole=len(found) <= at_most)


async def all_chats(engine: AsyncEngine) -> AsyncIterator[Sequence[object]]:
    """All chats, with the values of the columns `EXPORTED`."""
    async for row in db.stream(engine, select(*(_readable(name) for name in EXPORTED)).order_by(chats.c.id)):
        yield list(row.values())


def _listed(ruling: ColumnElement[str]) -> Select[*tuple[object, ...]]:
    return select(
        as_text(chats.c.id).label("id"),
        as_text(chats.c.from_number).label("from_number"),
        as_text(chats.c.handle).label("handle"),
        ruling.label("verdict"),
        as_time(chats.c.last_outbound_at).label("last_outbound_at"),
    ).select_from(chats_with_lines())


def _readable(name: str) -> Label[str] | Label[datetime] | Label[bool]:
    column = chats.c[name]
    if isinstance(column.type, Text):
        return as_text(column).label(name)
    if isinstance(column.type, UtcTime):
        return as_time(column).label(name)
    return column.is_not(False).label(name)  # as the verdict takes it: what is not clearly no group is one
