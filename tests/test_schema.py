"""The schema: what the migrations make is what the models say, on both databases, and it survives being migrated."""

import asyncio
import os
import sqlite3
import stat
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, insert, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.commands import share_worker, share_worker_process
from tests.databases import plain
from worker import db
from worker.db.tables import chats, metadata
from worker.errors import DatabaseError, SchemaError, UsageError

WHEN = datetime(2026, 3, 10, 9, 30, 15, 123456, tzinfo=timezone(timedelta(hours=2)))


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(
        connection,
        opts={
            "compare_type": True,
            "compare_server_default": True,
            "target_metadata": metadata,
            "version_table": db.VERSION_TABLE,
        },
    )
    return list(compare_metadata(context, metadata))


async def test_the_migrations_make_what_the_models_say(empty_database: str) -> None:
    async with db.opened(db.parse_url(empty_database), create=True) as engine:
        await db.migrate(engine)
        async with db.read(engine) as connection:
            assert await connection.run_sync(_differences) == []
            keys = await connection.run_sync(lambda sync: inspect(sync).get_pk_constraint("share_attempts"))
            assert keys["constrained_columns"] == ["chat_id", "share_day", "sequence"]
            indexes = await connection.run_sync(
                lambda sync: {index["name"] for table in metadata.tables for index in inspect(sync).get_indexes(table)}
            )
    assert indexes == {index.name for table in metadata.tables.values() for index in table.indexes}


async def test_the_newest_migration_is_the_one_the_code_expects(empty_database: str) -> None:
    async with (
        db.opened(db.parse_url(empty_database), create=True) as engine,
        engine.connect() as connection,
    ):
        config = await connection.run_sync(db.alembic_config)
    assert ScriptDirectory.from_config(config).get_heads() == [db.HEAD]


async def test_down_and_up_again_works_with_data_in_the_tables(engine: AsyncEngine) -> None:
    async with db.write(engine) as connection:
        await connection.execute(insert(chats).values(id="chat", from_number="+15550100001"))
        await connection.run_sync(lambda sync: command.downgrade(db.alembic_config(sync), "base"))
        tables = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        assert tables == ["share_worker_version"]
    assert await db.migrate(engine) is True
    async with db.read(engine) as connection:
        assert (await connection.execute(select(chats))).all() == []
        assert await connection.run_sync(_differences) == []


async def test_migrating_twice_changes_nothing_the_second_time(empty_database: str) -> None:
    async with db.opened(db.parse_url(empty_database), create=True) as engine:
        assert await db.migrate(engine) is True
        assert await db.migrate(engine) is False


async def test_two_processes_that_migrate_at_once_both_succeed(empty_database: str) -> None:
    url = db.parse_url(empty_database)
    async with db.opened(url, create=True) as one, db.opened(url, create=True) as other:
        changed = await asyncio.gather(db.migrate(one), db.migrate(other), db.migrate(one))
        assert sorted(changed) == [False, False, True]
        await db.require_current_schema(other)


@pytest.mark.parametrize("_attempt", range(2))
async def test_processes_that_start_at_once_on_nothing_make_one_database(tmp_path: Path, _attempt: int) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    ended = await asyncio.gather(*(share_worker_process("migrate", DATABASE_URL=url) for _ in range(4)))
    assert [one.err for one in ended] == [""] * 4
    assert sum("is now at revision" in one.out for one in ended) == 1
    assert sum("was already at revision" in one.out for one in ended) == 3
    assert {path.name for path in tmp_path.iterdir()} <= {"new.db", "new.db-wal", "new.db-shm"}


async def test_times_are_kept_in_utc_and_come_back_aware(engine: AsyncEngine) -> None:
    async with db.write(engine) as connection:
        await connection.execute(insert(chats).values(id="chat", from_number="+15550100001", last_outbound_at=WHEN))
    async with db.read(engine) as connection:
        row = (await connection.execute(select(chats))).one()
    assert row.last_outbound_at == WHEN
    assert row.last_outbound_at.tzinfo is UTC
    assert row.created_at.tzinfo is UTC


async def test_a_time_without_a_zone_is_refused(engine: AsyncEngine) -> None:
    naive = WHEN.replace(tzinfo=None)
    with pytest.raises(Exception, match="a time needs its zone"):
        async with db.write(engine) as connection:
            await connection.execute(insert(chats).values(id="chat", from_number="+1", last_outbound_at=naive))


@pytest.mark.parametrize(
    "written", ["2026-03-10 07:30:15", "2026-03-10T07:30:15Z", "2026-03-10T09:30:15+02:00", "2026-03-10 07:30:15.000"]
)
async def test_a_partners_own_iso_times_are_read_in_sqlite(sqlite_template: Path, tmp_path: Path, written: str) -> None:
    file = tmp_path / "partner.db"
    file.write_bytes(sqlite_template.read_bytes())
    async with db.opened(db.parse_url(f"sqlite:///{file}")) as engine:
        async with db.write(engine) as connection:
            await connection.execute(
                text("INSERT INTO chats (id, from_number, last_outbound_at) VALUES ('chat', '+1', :at)"),
                {"at": written},
            )
        async with db.read(engine) as connection:
            row = (await connection.execute(select(chats))).one()
    assert row.last_outbound_at == datetime(2026, 3, 10, 7, 30, 15, tzinfo=UTC)


async def test_a_new_sqlite_file_is_for_its_owner_only_and_durable(tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    async with db.opened(db.parse_url(f"sqlite:///{file}"), create=True) as engine:
        await db.migrate(engine)
        async with db.write(engine) as connection:
            await connection.execute(insert(chats).values(id="chat", from_number="+15550100001"))
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("new.db*")}
            pragmas = [
                (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
    assert set(modes.values()) == {0o600}
    assert "new.db-wal" in modes
    assert pragmas == ["wal", 2, 1, 30_000]


async def test_postgresql_commits_durably_even_where_the_server_would_not(empty_postgresql: str) -> None:
    url = db.parse_url(empty_postgresql)
    async with db.opened(url) as engine, engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(f"ALTER DATABASE {url.database} SET synchronous_commit = off"))
    async with db.opened(url) as engine:
        async with db.write(engine) as connection:
            assert (await connection.execute(text("SHOW synchronous_commit"))).scalar_one() == "on"
        async with db.read(engine) as connection:
            assert (await connection.execute(text("SHOW synchronous_commit"))).scalar_one() == "off", "left as it was"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_hold_every_word_of_linqs_is_refused(postgresql: URL, encoding: str) -> None:
    name = f"share_worker_{encoding.lower()}_{os.getpid()}"
    url = plain(postgresql.set(database=name))
    with psycopg.connect(plain(postgresql), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        try:
            ended = await share_worker("migrate", DATABASE_URL=url)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    (line,) = ended.err.splitlines()
    assert ended.code == 1
    assert line.endswith("has another encoding than UTF8; make it with ENCODING 'UTF8' TEMPLATE template0")


async def test_a_schema_newer_than_the_code_is_refused_in_one_line(engine: AsyncEngine) -> None:
    async with db.write(engine) as connection:
        await connection.execute(text("UPDATE share_worker_version SET version_num = '9999'"))
    with pytest.raises(SchemaError, match=r"is at 9999, newer than this version's .*; run a newer share-worker$"):
        await db.migrate(engine)
    with pytest.raises(SchemaError, match="newer"):
        await db.require_current_schema(engine)


async def test_a_server_that_commits_more_carefully_is_left_to_do_so(empty_postgresql: str) -> None:
    url = db.parse_url(empty_postgresql)
    async with db.opened(url) as engine, engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(f"ALTER DATABASE {url.database} SET synchronous_commit = remote_apply"))
    async with db.opened(url) as engine, db.write(engine) as connection:
        assert (await connection.execute(text("SHOW synchronous_commit"))).scalar_one() == "remote_apply"


async def test_a_table_of_somebody_elses_is_left_alone(empty_database: str) -> None:
    async with db.opened(db.parse_url(empty_database), create=True) as engine:
        async with db.write(engine) as connection:
            await connection.execute(text("CREATE TABLE chats (id TEXT, mine TEXT)"))
            await connection.execute(text("INSERT INTO chats VALUES ('1', 'precious')"))
        with pytest.raises(SchemaError, match="already has a table that the worker wants to make"):
            await db.migrate(engine)
        async with db.read(engine) as connection:
            assert (await connection.execute(text("SELECT mine FROM chats"))).scalars().all() == ["precious"]
        assert await db.schema_revision(engine) is None


async def test_a_database_that_was_never_migrated_says_what_to_do(empty_database: str) -> None:
    async with db.opened(db.parse_url(empty_database), create=True) as engine:
        with pytest.raises(SchemaError, match="run 'share-worker migrate'"):
            await db.require_current_schema(engine)


async def test_a_missing_sqlite_file_is_not_made_by_looking(tmp_path: Path) -> None:
    file = tmp_path / "none.db"
    with pytest.raises(DatabaseError, match=r"does not exist; 'share-worker migrate' makes it"):
        async with db.opened(db.parse_url(f"sqlite:///{file}")):
            pass
    assert not file.exists()


@pytest.mark.parametrize(
    ("url", "sign"),
    [
        ("mysql://root:planted@host/db", "must begin with sqlite:/// or postgresql://"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("planted", "is not a database URL"),
        ("postgresql://u:planted@host:port/db", "is not a database URL"),
        ("postgresql://u:planted@host/d\nb", "is not a database URL"),
        ("sqlite:///\udcff.db", "is not a database URL"),
        ("postgresql://u@host/db?autocommit=planted", "its options must be PostgreSQL's own, such as sslmode"),
        ("postgresql://u@host/db?sslmode=require&planted=1", "its options must be PostgreSQL's own"),
        ("sqlite:///file.db?planted=1", "its options must be none: a SQLite URL is sqlite:///FILE"),
    ],
)
def test_a_wrong_database_url_is_refused_without_showing_it(url: str, sign: str) -> None:
    with pytest.raises(UsageError, match=sign) as caught:
        db.parse_url(url)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("name", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_common_spelling_of_a_postgresql_url_is_taken(name: str) -> None:
    url = db.parse_url(f"{name}://user:secret@host:5433/db?sslmode=require")
    assert (url.drivername, url.host, url.port, url.query["sslmode"]) == ("postgresql+psycopg", "host", 5433, "require")
    assert db.shown(url) == "postgresql://user:***@host:5433/db"


async def test_a_foreign_file_is_reported_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "letter.db"
    file.write_text("Dear reader, this is no database. " * 40)
    url = db.parse_url(f"sqlite:///{file}")
    with pytest.raises(DatabaseError, match="is not a SQLite database"), db.one_line_errors(url):
        async with db.opened(url, create=True) as engine:
            await db.migrate(engine)
    assert file.read_text().startswith("Dear reader")


def test_sqlite_is_new_enough_for_the_statements_used() -> None:
    assert sqlite3.sqlite_version_info >= (3, 35), "RETURNING came with 3.35"
