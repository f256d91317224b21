"""When the sync and the webhooks were last heard, as the page and alerts read it."""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.due import NOW
from worker import db
from worker.chats.sources import Source, SourceState, note_failed, note_heard, read_sources


async def known(engine: AsyncEngine) -> dict[Source, SourceState]:
    async with db.read(engine) as connection:
        return await read_sources(connection)


async def test_a_source_is_heard_fails_and_is_heard_again(engine: AsyncEngine) -> None:
    assert set((await known(engine)).values()) == {SourceState()}
    await note_heard(engine, Source.SYNC, NOW)
    await note_failed(engine, Source.SYNC, NOW + timedelta(hours=1), "Linq is down")
    failed = SourceState(heard_at=NOW, failed_at=NOW + timedelta(hours=1), failure="Linq is down")
    assert await known(engine) == {Source.SYNC: failed, Source.WEBHOOKS: SourceState()}
    await note_heard(engine, Source.SYNC, NOW + timedelta(hours=2))
    assert (await known(engine))[Source.SYNC] == SourceState(heard_at=NOW + timedelta(hours=2))


async def test_what_was_heard_later_stays(engine: AsyncEngine) -> None:
    await note_heard(engine, Source.WEBHOOKS, NOW)
    await note_heard(engine, Source.WEBHOOKS, NOW - timedelta(minutes=1))
    assert (await known(engine))[Source.WEBHOOKS] == SourceState(heard_at=NOW)


async def test_a_table_that_may_not_be_written_harms_nobody(engine: AsyncEngine) -> None:
    async with db.write(engine) as connection:
        await connection.execute(text("ALTER TABLE sources RENAME TO away"))
    await note_heard(engine, Source.WEBHOOKS, NOW)
    await note_failed(engine, Source.SYNC, NOW, "Linq is down")
    async with db.read(engine) as connection:
        assert (await connection.execute(text("SELECT count(*) FROM away"))).scalar_one() == 0
