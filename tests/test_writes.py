"""The write transactions of a pass: one connection for all of them, which never gets in the way of one."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tests.databases import end_the_workers
from tests.due import add_card, add_chats, answered, claim_on
from worker import db
from worker.db.tables import chats
from worker.outcomes import Claim, Outcome
from worker.writes import PLANS, Writes


@pytest.fixture
async def writes(engine: AsyncEngine) -> AsyncIterator[Writes]:
    """On either database."""
    async with aclosing(Writes(engine)) as writes:
        yield writes


@pytest.fixture
async def on_postgresql(copied_postgresql: str) -> AsyncIterator[tuple[AsyncEngine, Writes]]:
    """PostgreSQL alone, with its engine."""
    async with db.opened(db.parse_url(copied_postgresql)) as engine, aclosing(Writes(engine)) as writes:
        yield engine, writes


async def ids(engine: AsyncEngine) -> list[str]:
    async with db.read(engine) as connection:
        return list((await connection.execute(select(chats.c.id).order_by(chats.c.id))).scalars())


async def process(writes: Writes) -> int:
    """The server's process for the connection at hand."""
    async with writes.one() as connection:
        found: int = (await connection.execute(select(func.pg_backend_pid()))).scalar_one()
    return found


async def rows_read(connection: AsyncConnection) -> int:
    """Rows and index entries that this transaction read, and those before it of which the server has not yet told.

    Hence only differences count.
    """
    found: int = (await connection.execute(_READ_SO_FAR)).scalar_one()
    return found


async def settings_of(connection: AsyncConnection) -> dict[str, str]:
    return {name: (await connection.execute(text(f"SHOW {name}"))).scalar_one() for name in PLANS}


async def test_each_transaction_is_committed_or_undone_by_itself(engine: AsyncEngine, writes: Writes) -> None:
    async def add_and_fail() -> None:
        async with writes.one() as connection:
            await add_chats(connection, "b")
            raise ZeroDivisionError

    async with writes.one() as connection:
        await add_chats(connection, "a")
    assert await ids(engine) == ["a"], "it is committed as its block ends, not when the connection is given up"
    with pytest.raises(ZeroDivisionError):
        await add_and_fail()
    with pytest.raises(IntegrityError):
        async with writes.one() as connection:
            await add_chats(connection, "c", "a")
    async with writes.one() as connection:
        await add_chats(connection, "d")
    assert await ids(engine) == ["a", "d"]


async def test_between_two_transactions_nobody_else_is_kept_from_writing(engine: AsyncEngine, writes: Writes) -> None:
    async with writes.one() as connection:
        await add_chats(connection, "a")
    async with db.write(engine) as connection:
        await add_chats(connection, "b")
    async with writes.one() as connection:
        await add_chats(connection, "c")
        found = (await connection.execute(select(chats.c.id).order_by(chats.c.id))).scalars().all()
    assert found == ["a", "b", "c"]


async def test_on_sqlite_a_transaction_has_the_write_lock_before_its_first_statement(tmp_path: Path) -> None:
    file = tmp_path / "worker.db"
    url = db.parse_url(f"sqlite:///{file}")
    async with db.opened(url, create=True) as engine, aclosing(Writes(engine)) as writes:
        with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as other:
            for _ in range(2):
                async with writes.one():
                    with pytest.raises(sqlite3.OperationalError, match="locked"):
                        other.execute("BEGIN IMMEDIATE")
                other.execute("BEGIN IMMEDIATE")
                other.execute("ROLLBACK")


async def test_one_connection_serves_them_all_until_something_fails(
    on_postgresql: tuple[AsyncEngine, Writes],
) -> None:
    _, writes = on_postgresql
    first = await process(writes)
    assert await process(writes) == first
    with pytest.raises(ZeroDivisionError):
        async with writes.one():
            raise ZeroDivisionError
    assert await process(writes) != first


async def test_its_settings_are_nobody_elses_and_are_gone_with_it(on_postgresql: tuple[AsyncEngine, Writes]) -> None:
    engine, writes = on_postgresql
    async with db.read(engine) as other:
        usual = await settings_of(other)
    assert usual["plan_cache_mode"] == "force_custom_plan"
    async with writes.one() as connection:
        assert await settings_of(connection) == PLANS
        async with db.read(engine) as other:
            assert await settings_of(other) == usual
    await writes.aclose()
    async with db.read(engine) as one, db.read(engine) as another:
        assert await settings_of(one) == await settings_of(another) == usual


async def test_a_connection_that_was_cut_off_while_it_lay_idle_costs_no_transaction(
    on_postgresql: tuple[AsyncEngine, Writes], copied_postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, writes = on_postgresql
    first = await process(writes)
    with psycopg.connect(copied_postgresql, autocommit=True) as admin:
        end_the_workers(admin)
        monkeypatch.setattr("worker.db.engine.IDLE_SECONDS", 1_000.0)
        with pytest.raises(OperationalError, match="terminating connection") as lost:
            await process(writes)  # in the midst of work it is not tried before each transaction
        assert db.is_passing(lost.value)
        second = await process(writes)
        end_the_workers(admin)
        monkeypatch.setattr("worker.db.engine.IDLE_SECONDS", -1.0)
        third = await process(writes)
    assert len({first, second, third}) == 3


async def test_a_transaction_that_is_given_up_in_the_middle_leaves_nothing(
    on_postgresql: tuple[AsyncEngine, Writes], copied_postgresql: str
) -> None:
    engine, writes = on_postgresql
    begun = asyncio.Event()

    async def wait_in_the_middle() -> None:
        async with writes.one() as connection:
            await add_chats(connection, "a")
            begun.set()
            await connection.execute(text("SELECT pg_sleep(60)"))

    waiting = asyncio.create_task(wait_in_the_middle())
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with writes.one() as connection:
        await add_chats(connection, "b")
    assert await ids(engine) == ["b"]


@pytest.mark.parametrize(
    ("known", "each", "turns", "settled"),
    [(None, 40, 25, 5), (0, 40, 25, 5), (1, 1, 200, 150), (10, 1, 200, 5), (200, 5, 100, 5)],
    ids=["nothing known", "empty", "one row", "ten rows", "200 rows"],
)
async def test_a_plan_made_for_a_short_ledger_looks_up_its_rows_by_key_when_it_has_grown(
    on_postgresql: tuple[AsyncEngine, Writes],
    copied_postgresql: str,
    *,
    known: int | None,
    each: int,
    turns: int,
    settled: int,
) -> None:
    """What the server knows of the ledger's length, it takes for the truth while rows are added.

    From one row it learns that a page holds one, and takes the ledger for short until a new plan finds some pages.
    """
    engine, writes = on_postgresql
    everyone = [f"chat-{number:04}" for number in range((known or 0) + each * turns)]
    async with db.write(engine) as connection:
        await add_chats(connection, *everyone)
        await add_card(connection)
    claims: list[Claim] = []

    async def turn(begin: int) -> int:
        """Record what was claimed and claim anew; return how much was read for it."""
        nonlocal claims
        among = everyone[begin : begin + each]
        async with writes.one() as connection:
            before = await rows_read(connection)
            claims = await claim_on(connection, among, at_most=each, answers=answered(claims, Outcome.SHARED))
            read = await rows_read(connection) - before
        assert [claim.chat_id for claim in claims] == among
        return read

    for begin in range(0, known or 0, each):
        await turn(begin)
    await writes.aclose()
    if known is not None:
        with psycopg.connect(copied_postgresql, autocommit=True) as admin:
            admin.execute("VACUUM ANALYZE")
    read = [await turn(begin) for begin in range(known or 0, len(everyone), each)]
    assert max(read[settled:]) <= 15 * each, "a turn costs what it claims and records, not what was called before"


async def test_a_claim_reads_no_further_than_the_last_chat_that_it_wants(
    on_postgresql: tuple[AsyncEngine, Writes],
) -> None:
    engine, writes = on_postgresql
    everyone = [f"chat-{number:04}" for number in range(2_000)]
    async with db.write(engine) as connection:
        await add_chats(connection, *everyone)
        await add_card(connection)
    read: list[int] = []
    for begin in range(0, 100, 2):
        async with writes.one() as connection:
            before = await rows_read(connection)
            claims = await claim_on(connection, everyone[begin : begin + 1_000], at_most=2)
            read.append(await rows_read(connection) - before)
        assert [claim.chat_id for claim in claims] == everyone[begin : begin + 2]
    assert max(read) <= 50, "two chats are wanted, and 998 more are offered in case that others hold those"


_READ_SO_FAR = text("""
    SELECT sum(pg_stat_get_xact_tuples_returned(oid) + pg_stat_get_xact_tuples_fetched(oid))::bigint FROM pg_class
    WHERE oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'share_attempts'::regclass)
       OR relname IN ('share_attempts', 'chats', 'contact_cards')
""")
