"""Statements that go to PostgreSQL's driver directly: they answer, fail and end as any other does."""

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import timedelta, timezone

import psycopg
import pytest
from sqlalchemy import Select, Update, bindparam, event, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.conftest import START
from tests.databases import end_the_workers
from tests.scene import until
from worker import db, prepared
from worker.db.tables import chats
from worker.db.text_list import TextList, is_one_of

IDS = ["a", 'with "quotes" and \\', "ünï, {code}", "d%s %(name)s", "NULL", " \n\t", '\\"']


@pytest.fixture
async def engine(copied_postgresql: str) -> AsyncIterator[AsyncEngine]:
    """PostgreSQL, with chats that were last written to an hour apart."""
    async with db.opened(db.parse_url(copied_postgresql)) as engine:
        async with db.write(engine) as connection:
            for number, chat_id in enumerate(IDS):
                at = START + timedelta(hours=number)
                await connection.execute(chats.insert().values(id=chat_id, from_number="+1", last_outbound_at=at))
        yield engine


def written_before() -> Select[str, str | None]:
    """With a value of each kind: a list, a time, a number, one that is not there, and one that the statement brings."""
    return (
        select(chats.c.id, chats.c.service)
        .where(
            is_one_of(chats.c.id, bindparam("among", type_=TextList())),
            chats.c.last_outbound_at < bindparam("before"),
            chats.c.from_number == "+1",
            chats.c.service.is_not_distinct_from(bindparam("service")),
        )
        .order_by(chats.c.last_outbound_at)
        .limit(bindparam("at_most"))
    )


def renamed() -> Update:
    """The update of a chat's key."""
    return update(chats).where(chats.c.id == bindparam("old")).values(id=bindparam("new"))


async def test_the_rows_are_those_that_sqlalchemy_gives_with_new_values_each_time(engine: AsyncEngine) -> None:
    statement = written_before()
    usual: dict[str, object] = {"among": IDS, "before": START + timedelta(hours=9), "service": None, "at_most": 10}
    asked = [
        usual | {"before": START + timedelta(hours=hours), "at_most": most} for hours in range(5) for most in (1, 9)
    ]
    asked += [usual | {"among": IDS[1:3]}, usual | {"among": []}, usual | {"service": "SMS"}]
    elsewhere = timezone(timedelta(hours=5))
    asked += [usual | {"before": (START + timedelta(hours=hours)).astimezone(elsewhere)} for hours in range(3)]
    async with db.read(engine) as connection:
        for values in asked:
            expected = (await connection.execute(statement, values)).all()
            assert await prepared.fetch(connection, statement, values) == expected, values
            assert await prepared.fetch(connection, statement, values, repeated=False) == expected, values
        everyone = await prepared.fetch(connection, statement, usual)
    assert [chat_id for chat_id, _ in everyone] == IDS


async def test_a_time_without_a_zone_is_refused_as_ever(engine: AsyncEngine) -> None:
    values = {"among": IDS, "before": START.replace(tzinfo=None), "service": None, "at_most": 1}
    async with db.read(engine) as connection:
        with pytest.raises(ValueError, match="needs its zone"):
            await prepared.fetch(connection, written_before(), values)


async def test_it_belongs_to_the_transaction_around_it(engine: AsyncEngine) -> None:
    statement = renamed()

    async def rename(old: str, new: str, *, fail: bool) -> None:
        async with db.write(engine) as connection:
            await prepared.execute(connection, statement, {"old": old, "new": new})
            if fail:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await rename("a", "b", fail=True)
    async with db.read(engine) as connection:
        assert (await connection.execute(select(chats.c.id).where(chats.c.id.in_(["a", "b"])))).scalars().all() == ["a"]
    await rename("a", "b", fail=False)
    async with db.read(engine) as connection:
        assert (await connection.execute(select(chats.c.id).where(chats.c.id.in_(["a", "b"])))).scalars().all() == ["b"]


async def test_what_the_database_refuses_is_sqlalchemys_error_and_the_connection_stays(engine: AsyncEngine) -> None:
    statement = renamed()
    with pytest.raises(IntegrityError) as refused:
        async with db.write(engine) as connection:
            await prepared.execute(connection, statement, {"old": "a", "new": IDS[1]})
    assert isinstance(refused.value.orig, psycopg.errors.UniqueViolation)
    assert not refused.value.connection_invalidated
    assert not db.is_passing(refused.value)
    async with db.write(engine) as connection:
        await prepared.execute(connection, statement, {"old": "a", "new": "b"})


async def test_a_connection_that_the_server_ended_is_a_fault_that_passes(
    engine: AsyncEngine, copied_postgresql: str
) -> None:
    statement = written_before()
    values = {"among": IDS, "before": START + timedelta(hours=9), "service": None, "at_most": 10}

    async def ask_twice() -> None:
        async with db.write(engine) as connection:
            await prepared.fetch(connection, statement, values)
            with psycopg.connect(copied_postgresql, autocommit=True) as admin:
                end_the_workers(admin)
            await prepared.fetch(connection, statement, values)

    with pytest.raises(OperationalError) as lost:
        await ask_twice()
    assert "terminating connection" in str(lost.value)
    assert lost.value.connection_invalidated
    assert db.is_passing(lost.value)
    async with db.write(engine) as connection:
        assert len(await prepared.fetch(connection, statement, values)) == len(IDS)


async def test_what_is_broken_off_leaves_no_connection_in_the_middle_of_a_statement(
    engine: AsyncEngine, copied_postgresql: str
) -> None:
    """Somebody else holds the row; a transaction that waits for it is given up, and so is its connection."""
    statement = renamed()
    processes: list[int] = []

    async def rename_both() -> None:
        async with db.write(engine) as connection:
            processes.append((await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one())
            await prepared.execute(connection, statement, {"old": IDS[1], "new": "half"})
            await prepared.execute(connection, statement, {"old": "a", "new": "b"})

    with psycopg.connect(copied_postgresql) as other, psycopg.connect(copied_postgresql, autocommit=True) as admin:
        other.execute("UPDATE chats SET from_number = '+2' WHERE id = 'a'")
        waiting = asyncio.create_task(rename_both())
        blocked = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        await until(lambda: admin.execute(blocked).fetchone() == (1,))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with db.read(engine) as connection:
        assert set((await connection.execute(select(chats.c.id))).scalars()) == set(IDS)
    await rename_both()
    assert processes[0] != processes[1]


async def test_whoever_listens_to_the_engine_hears_of_it(engine: AsyncEngine) -> None:
    heard: list[tuple[str, object]] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def hear(_connection: object, _cursor: object, statement: str, parameters: object, *_rest: object) -> None:
        heard.append((statement, parameters))

    async with db.write(engine) as connection:
        await prepared.execute(connection, renamed(), {"old": "a", "new": "b"})
    ((statement, parameters),) = heard
    assert statement.startswith("UPDATE chats SET id=")
    assert parameters == {"old": "a", "new": "b"}


async def test_a_statement_is_kept_only_as_long_as_somebody_may_execute_it(engine: AsyncEngine) -> None:
    """A service makes a pass a day for years, each with statements of its own, over the same connection."""
    async with db.write(engine) as connection:
        for _ in range(50):
            await prepared.execute(connection, renamed(), {"old": "a", "new": "a"})
        gc.collect()
        info = (await connection.get_raw_connection()).info
        assert len(info["prepared"]) <= 1
        assert (await connection.execute(text("SELECT count(*) FROM pg_prepared_statements"))).scalar_one() <= 2
