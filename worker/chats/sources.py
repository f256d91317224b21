"""When each source of facts was last heard: the sync, and Linq's webhooks. Kept for the page and for alerts."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker import db
from worker.db.inserts import insert_into
from worker.db.tables import sources


class Source(StrEnum):
    """Where facts about chats come from by themselves."""

    SYNC = "sync"
    WEBHOOKS = "webhooks"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceState:
    """What is known of a source."""

    heard_at: datetime | None = None
    """When a sync of all lines was last complete, or when an event last came."""
    failed_at: datetime | None = None
    """When a sync last failed, if none was complete since."""
    failure: str | None = None
    """Why, in one line."""


async def read_sources(connection: AsyncConnection) -> dict[Source, SourceState]:
    """The state of every source."""
    rows = {row.name: row for row in await connection.execute(select(sources))}
    return {
        source: SourceState(heard_at=row.heard_at, failed_at=row.failed_at, failure=row.failure)
        if (row := rows.get(source.value))
        else SourceState()
        for source in Source
    }


async def note_heard(engine: AsyncEngine, source: Source, at: datetime) -> None:
    """Note that a source was heard at a moment; an earlier one than the table has changes nothing.

    Neither this nor `note_failed` raises an error of the database: the facts themselves are written.
    """
    is_newer = or_(sources.c.heard_at.is_(None), sources.c.heard_at < at)
    await _note(engine, source, {"heard_at": at, "failed_at": None, "failure": None}, is_newer)


async def note_failed(engine: AsyncEngine, source: Source, at: datetime, failure: str) -> None:
    """Note that a source failed at a moment, and why; when it was last heard stays."""
    await _note(engine, source, {"failed_at": at, "failure": failure})


async def _note(
    engine: AsyncEngine,
    source: Source,
    values: Mapping[str, datetime | str | None],
    condition: ColumnElement[bool] | None = None,
) -> None:
    with contextlib.suppress(SQLAlchemyError):
        async with db.write(engine) as connection:
            row = insert_into(connection, sources).values(name=source.value, **values)
            read = {name: row.excluded[name] for name in values}
            await connection.execute(row.on_conflict_do_update(index_elements=["name"], set_=read, where=condition))
