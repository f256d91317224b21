"""No state of ours stays on a database session: a pooler in transaction mode hands it to others."""

import asyncio
import contextlib

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection

from tests.scene import Scene
from worker import db
from worker.outcomes import Outcome
from worker.sharing.rerun import Selection
from worker.simulator.faults import Fault

STATE = """
    SELECT 'setting ' || name, setting FROM pg_settings
    UNION ALL SELECT 'prepared ' || name, statement FROM pg_prepared_statements
    UNION ALL SELECT 'lock ' || locktype, mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'
    UNION ALL SELECT 'cursor ' || name, statement FROM pg_cursors WHERE name <> ''
    UNION ALL SELECT 'temporary ' || relname, relkind::text FROM pg_class WHERE relnamespace = pg_my_temp_schema()
    UNION ALL SELECT 'listening', pg_listening_channels()
"""


class Sessions:
    """The state of each session as it was connected, and as it came back to the pool."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._first: dict[object, dict[str, str]] = {}
        self.returned = 0
        self.left_behind: list[tuple[str, str]] = []
        event.listen(engine.sync_engine, "connect", self._connected)
        event.listen(engine.sync_engine, "checkin", self._returned)

    def _connected(self, connection: PoolProxiedConnection, record: object) -> None:
        self._first[record] = self._state(connection)

    def _returned(self, connection: PoolProxiedConnection | None, record: object) -> None:
        if connection is not None:
            self.returned += 1
            self.left_behind += self._state(connection).items() - self._first[record].items()

    def _state(self, connection: PoolProxiedConnection) -> dict[str, str]:
        cursor = connection.cursor()
        cursor.execute(STATE)
        state = dict(cursor.fetchall())
        cursor.close()
        connection.rollback()
        return state


@pytest.fixture
def database_url(copied_postgresql: str) -> str:
    """These tests are about PostgreSQL's sessions."""
    return copied_postgresql


@pytest.fixture
def sessions(engine: AsyncEngine) -> Sessions:
    return Sessions(engine)


async def test_a_pass_and_a_rerun_leave_their_sessions_as_they_were(scene: Scene, sessions: Sessions) -> None:
    await scene.add_chats(f"chat-{number:02}" for number in range(30))
    scene.account.add_fault(Fault(path="share", status=400, code=1005, times=3))
    result = await scene.one_pass()
    assert result.tally is not None
    assert (result.tally["shared"], result.tally["rejected"]) == (27, 3)
    scene.clock.move(minutes=6)
    rerun = await scene.rerun(await scene.plan(Selection(outcomes=[Outcome.REJECTED])))
    assert rerun.tally is not None
    assert rerun.tally["shared"] == 3
    assert sessions.returned > 10
    assert sessions.left_behind == []


async def test_a_migration_leaves_its_session_as_it_was(empty_postgresql: str) -> None:
    async with db.opened(db.parse_url(empty_postgresql), schema="sharing") as engine:
        sessions = Sessions(engine)
        assert await db.migrate(engine) is True
        assert sessions.returned >= 2
        assert sessions.left_behind == []


async def test_a_failed_transaction_leaves_its_session_as_it_was(engine: AsyncEngine, sessions: Sessions) -> None:
    for statement in ("SELECT 1 / 0", "no SQL at all", "SET LOCAL statement_timeout = 1; SELECT pg_sleep(10)"):
        with pytest.raises(SQLAlchemyError):
            async with db.write(engine) as connection:
                await connection.execute(text(statement))
    assert sessions.returned >= 3
    assert sessions.left_behind == []


async def test_a_cancelled_transaction_leaves_no_session_behind_with_its_settings(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    begun = asyncio.Event()

    async def hang() -> None:
        async with db.write(engine) as connection:
            begun.set()
            await connection.execute(text("SELECT pg_sleep(60)"))

    hanging = asyncio.create_task(hang())
    await begun.wait()
    hanging.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await hanging
    async with db.read(engine) as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    assert sessions.returned >= 1
    assert sessions.left_behind == []


async def test_the_test_would_notice_a_setting_that_stays(engine: AsyncEngine, sessions: Sessions) -> None:
    async with db.write(engine) as connection:
        await connection.execute(text("SELECT set_config('jit', 'off', false)"))
    assert ("setting jit", "off") in sessions.left_behind
