"""Stopping and resuming sharing in chats: the columns `paused_at` and `paused_reason`, where the verdict reads them.

A running pass obeys at once: each of its claims asks for the verdict again, under a lock on the chat's row. A chat
claimed before the pause was committed may still be shared with.
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
"""Chats changed in one transaction: few enough not to hold up a running pass."""


class PauseState(StrEnum):
    """What became of one chat."""

    PAUSED = "paused"
    ALREADY_PAUSED = "already_paused"
    RESUMED = "resumed"
    NOT_PAUSED = "not_paused"
    UNKNOWN = "unknown"

    @property
    def meaning(self) -> str:
        """The state in a few words, for users."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    PauseState.PAUSED: "not shared with from now on",
    PauseState.ALREADY_PAUSED: "was paused already; its time is kept",
    PauseState.RESUMED: "shared with again when due",
    PauseState.NOT_PAUSED: "was not paused",
    PauseState.UNKNOWN: "no such chat in the table 'chats'",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PauseResult:
    """What became of one chat, and since when and why it is, or was, paused."""

    chat_id: str
    state: PauseState
    since: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LineCounts:
    """How many chats a line has, and how many of these are paused."""

    chats: int
    paused: int


Change = Callable[[AsyncConnection, Sequence[str]], Awaitable[list[PauseResult]]]


async def pause(
    connection: AsyncConnection, ids: Sequence[str], *, reason: str | None, now: datetime
) -> list[PauseResult]:
    """Pause chats. A chat that is paused already keeps its time, and its reason unless a new one is given."""
    before = await _paused(connection, ids)
    results = []
    for chat_id in ids:
        if chat_id not in before:
            results.append(PauseResult(chat_id=chat_id, state=PauseState.UNKNOWN))
            continue
        since, known_reason = before[chat_id]
        if since is None:
            results.append(PauseResult(chat_id=chat_id, state=PauseState.PAUSED, since=now, reason=reason))
        else:
            results.append(
                PauseResult(
                    chat_id=chat_id, state=PauseState.ALREADY_PAUSED, since=since, reason=reason or known_reason
                )
            )
    await _change(connection, results, PauseState.PAUSED, paused_at=now, paused_reason=reason, updated_at=now)
    if reason is not None:
        await _change(connection, results, PauseState.ALREADY_PAUSED, paused_reason=reason, updated_at=now)
    return results


async def resume(connection: AsyncConnection, ids: Sequence[str], *, now: datetime) -> list[PauseResult]:
    """Let chats be shared with again. The results say why they were paused; the table no longer does."""
    before = await _paused(connection, ids)
    results = []
    for chat_id in ids:
        since, reason = before.get(chat_id, (None, None))
        state = (
            PauseState.RESUMED
            if since is not None
            else PauseState.NOT_PAUSED
            if chat_id in before
            else PauseState.UNKNOWN
        )
        results.append(PauseResult(chat_id=chat_id, state=state, since=since, reason=reason))
    await _change(connection, results, PauseState.RESUMED, paused_at=None, paused_reason=None, updated_at=now)
    return results


async def change_ids(engine: AsyncEngine, ids: Sequence[str], change: Change) -> AsyncIterator[list[PauseResult]]:
    """Change chats by id, a batch at a time; yields the results of each batch once it is committed."""
    for start in range(0, len(ids), BATCH):
        async with db.write(engine) as connection:
            results = await change(connection, ids[start : start + BATCH])
        yield results


async def change_line(engine: AsyncEngine, line: str, change: Change) -> AsyncIterator[list[PauseResult]]:
    """Change the chats that a line has now, a batch at a time, in the order of their ids."""
    after = ""
    while True:
        async with db.write(engine) as connection:
            of_line = select(chats.c.id).where(chats.c.from_number == line, chats.c.id > after)
            ids = list((await connection.execute(of_line.order_by(chats.c.id).limit(BATCH))).scalars())
            results = await change(connection, ids)
        if not ids:
            return
        yield results
        after = ids[-1]


async def count_line(connection: AsyncConnection, line: str) -> LineCounts:
    """Count a line's chats."""
    counted = select(func.count(), func.count(chats.c.paused_at)).where(chats.c.from_number == line)
    total, paused = (await connection.execute(counted)).one()
    return LineCounts(chats=total, paused=paused)


async def _paused(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, tuple[datetime | None, str | None]]:
    """Since when and why each known chat is paused. Locks the rows in key order: two admins cannot deadlock."""
    statement = select(chats.c.id, chats.c.paused_at, chats.c.paused_reason).where(chats.c.id.in_(ids))
    rows = await connection.execute(statement.order_by(chats.c.id).with_for_update())
    return {chat_id: (since, reason) for chat_id, since, reason in rows}


async def _change(
    connection: AsyncConnection, results: Sequence[PauseResult], state: PauseState, **values: object
) -> None:
    ids = [result.chat_id for result in results if result.state is state]
    if ids:
        await connection.execute(update(chats).where(chats.c.id.in_(ids)).values(**values))
