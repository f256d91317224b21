"""A database that others use: their Alembic, their tables of the same names, a schema of our own, and release 0.1."""

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from alembic import command
from sqlalchemy import Connection, insert, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.due import NOW, add_card, add_chats, answered, claim_on
from worker import db
from worker.db.tables import chats, metadata, share_attempts
from worker.errors import SchemaError
from worker.ledger import attempts
from worker.outcomes import Outcome

OURS = {*metadata.tables, db.VERSION_TABLE}


@pytest.fixture
def partner(empty_postgresql: str) -> Iterator[psycopg.Connection]:
    """The partner's own connection to the database."""
    with psycopg.connect(empty_postgresql, autocommit=True) as connection:
        yield connection


def alembic_of_the_partner(partner: psycopg.Connection, revision: str) -> None:
    partner.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    partner.execute("INSERT INTO alembic_version VALUES (%s)", [revision])


def tables_in(partner: psycopg.Connection, schema: str) -> set[str]:
    rows = partner.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema]).fetchall()
    return {name for (name,) in rows}


@pytest.mark.parametrize("revision", ["0002", "0003", "4f2a9c01d7e3"])
async def test_a_partners_alembic_is_none_of_our_business_whatever_its_revision(
    empty_postgresql: str, partner: psycopg.Connection, revision: str
) -> None:
    alembic_of_the_partner(partner, revision)
    async with db.opened(db.parse_url(empty_postgresql)) as engine:
        with pytest.raises(SchemaError, match="has no tables of the worker's yet"):
            await db.require_current_schema(engine)
        assert await db.migrate(engine) is True
        await db.require_current_schema(engine)
        assert await db.migrate(engine) is False
    assert partner.execute("SELECT version_num FROM alembic_version").fetchall() == [(revision,)]
    assert tables_in(partner, "public") == OURS | {"alembic_version"}


async def test_a_partner_may_start_with_alembic_after_us(empty_postgresql: str, partner: psycopg.Connection) -> None:
    async with db.opened(db.parse_url(empty_postgresql)) as engine:
        await db.migrate(engine)
        alembic_of_the_partner(partner, "4f2a9c01d7e3")
        await db.require_current_schema(engine)
        assert await db.migrate(engine) is False


async def test_a_schema_of_our_own_is_made_and_holds_every_table(
    empty_postgresql: str, partner: psycopg.Connection
) -> None:
    partner.execute("CREATE TABLE chats (mine text); CREATE TABLE runs (mine text)")
    partner.execute("INSERT INTO chats VALUES ('precious')")
    alembic_of_the_partner(partner, "0002")
    async with db.opened(db.parse_url(empty_postgresql), schema="sharing") as engine:
        assert await db.migrate(engine) is True
        await db.require_current_schema(engine)
        assert await db.migrate(engine) is False
        async with db.write(engine) as connection:
            await add_card(connection)
            await add_chats(connection, "a", "b")
            claims = await claim_on(connection, ["a", "b"])
            await attempts.record(connection, answered(claims, Outcome.SHARED))
    assert tables_in(partner, "sharing") == OURS
    assert tables_in(partner, "public") == {"chats", "runs", "alembic_version"}
    assert partner.execute("SELECT count(*) FROM sharing.share_attempts WHERE outcome = 'shared'").fetchone() == (2,)
    assert partner.execute("SELECT mine FROM chats").fetchall() == [("precious",)]


async def test_our_schema_is_used_whatever_the_search_path_says(
    empty_postgresql: str, partner: psycopg.Connection
) -> None:
    partner.execute("CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.chats (mine text)")
    partner.execute(f"ALTER DATABASE {partner.info.dbname} SET search_path = elsewhere, public")
    async with db.opened(db.parse_url(empty_postgresql), schema="sharing") as engine:
        await db.migrate(engine)
        async with db.write(engine) as connection:
            await add_chats(connection, "a")
            assert (await connection.execute(select(chats.c.id))).scalars().all() == ["a"]
            assert (await connection.execute(text("SHOW search_path"))).scalar_one() == "elsewhere, public"
    assert tables_in(partner, "elsewhere") == {"chats"}
    assert tables_in(partner, "public") == set()


async def test_two_workers_with_a_schema_each_do_not_see_each_other(empty_postgresql: str) -> None:
    url = db.parse_url(empty_postgresql)
    async with db.opened(url, schema="acme") as one, db.opened(url, schema="umbrella") as other:
        for engine in (one, other):
            await db.migrate(engine)
            async with db.write(engine) as connection:
                await add_card(connection)
                await add_chats(connection, "chat")
        for engine in (one, other):
            async with db.write(engine) as connection:
                assert [claim.chat_id for claim in await claim_on(connection, ["chat"])] == ["chat"]
                assert await claim_on(connection, ["chat"]) == []


# Release 0.1


def _as_release_0_1_left_it(connection: Connection) -> None:
    command.downgrade(db.alembic_config(connection), "0002")
    connection.execute(text("DROP TABLE share_worker_version"))
    connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
    connection.execute(text("INSERT INTO alembic_version VALUES ('0002')"))


async def test_an_installation_of_0_1_is_adopted_without_loss_or_a_second_share(engine: AsyncEngine) -> None:
    async with db.write(engine) as connection:
        await add_card(connection)
        await add_chats(connection, "shared", "due")
        await attempts.record(connection, answered(await claim_on(connection, ["shared"]), Outcome.SHARED))
        await connection.run_sync(_as_release_0_1_left_it)
    with pytest.raises(SchemaError, match="is at 0002, older than this version's"):
        await db.require_current_schema(engine)
    assert await db.migrate(engine) is True
    await db.require_current_schema(engine)
    assert await db.migrate(engine) is False
    async with db.write(engine) as connection:
        assert [claim.chat_id for claim in await claim_on(connection, ["due", "shared"])] == ["due"]
        assert (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalars().all() == ["0002"]
        names = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
    assert names == OURS | {"alembic_version"}


async def test_an_opt_out_that_0_1_wrote_after_a_refusal_gets_its_date(engine: AsyncEngine) -> None:
    refusal = {"outcome": "rejected", "run_id": "run", "claimed_at": NOW, "http_status": 403, "error_code": 2024}
    async with db.write(engine) as connection:
        await connection.run_sync(_as_release_0_1_left_it)
        for chat_id in ("refused", "told by the partner"):
            await connection.execute(
                text("INSERT INTO chats (id, from_number, health_status) VALUES (:id, '+1', 'OPTED_OUT')"),
                {"id": chat_id},
            )
        for back in (1, 2):
            row = refusal | {"chat_id": "refused", "share_day": NOW.date() - timedelta(days=back), "sequence": 0}
            await connection.execute(insert(share_attempts).values(**row | {"claimed_at": NOW - timedelta(days=back)}))
    await db.migrate(engine)
    async with db.read(engine) as connection:
        rows = {row.id: (row.health_status, row.opted_out_at) for row in await connection.execute(select(chats))}
    assert rows == {"refused": (None, NOW - timedelta(days=1)), "told by the partner": ("OPTED_OUT", None)}
