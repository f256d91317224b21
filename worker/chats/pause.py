"""Stopping and resuming sharing in chats: the columns `paused_at` and `paused_reason`, where the verdict reads them.

A pass that is running obeys at once: each of its claims asks for the verdict again, under a lock on the chat's row.
What was claimed before the pause was committed may still be called.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import db
from worker.db.tables import chats

BATCH: Final = 1_000
"""So many chats are changed in one transaction: a running pass is not held up."""


class State(StrEnum):
    """What was found, or done."""

    PAUSED = "paused"
    ALREADY_PAUSED = "already_paused"
    RESUMED = "resumed"
    NOT_PAUSED = "not_paused"
    UNKNOWN = "unknown"

    @property
    def meaning(self) -> str:
        """The state in a few words, for people."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    State.PAUSED: "not shared with from now on",
    State.ALREADY_PAUSED: "paused before; the time of that stays",
    State.RESUMED: "shared with again, when due",
    State.NOT_PAUSED: "was not paused",
    State.UNKNOWN: "no such chat in the table 'chats'",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One chat: what was done, and since when and why it is, or was, paused."""

    chat_id: str
    state: State
    since: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LineCounts:
    """How many chats a line has, and how many of them are paused."""

    chats: int
    paused: int


Change = Callable[[AsyncConnection, Sequence[str]], Awaitable[list[Told]]]


async def pause(connection: AsyncConnection, ids: Sequence[str], *, reason: str | None, now: datetime) -> list[Told]:
    """Pause chats. One that is paused keeps its time, and its reason too unless another one is given."""
    before = await _paused(connection, ids)
    told = []
    for chat_id in ids:
        if chat_id not in before:
            told.append(Told(chat_id=chat_id, state=State.UNKNOWN))
            continue
        since, known_reason = before[chat_id]
        if since is None:
            told.append(Told(chat_id=chat_id, state=State.PAUSED, since=now, reason=reason))
        else:
            told.append(Told(chat_id=chat_id, state=State.ALREADY_PAUSED, since=since, reason=reason or known_reason))
    await _change(connection, told, State.PAUSED, paused_at=now, paused_reason=reason, updated_at=now)
    if reason is not None:
        await _change(connection, told, State.ALREADY_PAUSED, paused_reason=reason, updated_at=now)
    return told


async def resume(connection: AsyncConnection, ids: Sequence[str], *, now: datetime) -> list[Told]:
    """Let chats be shared with again; what they were paused for is told, and forgotten."""
    before = await _paused(connection, ids)
    told = []
    for chat_id in ids:
        since, reason = before.get(chat_id, (None, None))
        state = State.RESUMED if since is not None else State.NOT_PAUSED if chat_id in before else State.UNKNOWN
        told.append(Told(chat_id=chat_id, state=state, since=since, reason=reason))
    await _change(connection, told, State.RESUMED, paused_at=None, paused_reason=None, updated_at=now)
    return told


async def change_ids(engine: AsyncEngine, ids: Sequence[str], change: Change) -> AsyncIterator[list[Told]]:
    """Change chats by their ids, a batch at a time; each batch is committed when it is told of."""
    for start in range(0, len(ids), BATCH):
        async with db.write(engine) as connection:
            told = await change(connection, ids[start : start + BATCH])
        yield told


async def change_line(engine: AsyncEngine, line: str, change: Change) -> AsyncIterator[list[Told]]:
    """Change the chats that a line has now, a batch at a time, in the order of their ids."""
    after = ""
    while True:
        async with db.write(engine) as connection:
            of_line = select(chats.c.id).where(chats.c.from_number == line, chats.c.id > after)
            ids = list((await connection.execute(of_line.order_by(chats.c.id).limit(BATCH))).scalars())
            told = await change(connection, ids)
        if not ids:
            return
        yield told
        after = ids[-1]


async def count_line(connection: AsyncConnection, line: str) -> LineCounts:
    """How many chats a line has."""
    counted = select(func.count(), func.count(chats.c.paused_at)).where(chats.c.from_number == line)
    total, paused = (await connection.execute(counted)).one()
    return LineCounts(chats=total, paused=paused)


async def _paused(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, tuple[datetime | None, str | None]]:
    """Since when and why each known chat is paused; their rows are locked, in the order of the key."""
    statement = select(chats.c.id, chats.c.paused_at, chats.c.paused_reason).where(chats.c.id.in_(ids))
    rows = await connection.execute(statement.order_by(chats.c.id).with_for_update())
    return {chat_id: (since, reason) for chat_id, since, reason in rows}


async def _change(connection: AsyncConnection, told: Sequence[Told], state: State, **values: object) -> None:
    ids = [one.chat_id for one in told if one.state is state]
    if ids:
        await connection.execute(update(chats).where(chats.c.id.in_(ids)).values(**values))
