"""The schema's version: what the database is at, whether this version can work with it, and how it gets there.

The version stands in a table of our own, so a partner's `alembic_version` beside it is none of our business. Release
0.1 kept it in `alembic_version`; the next migration adopts such a database, and leaves that table as it is.

On PostgreSQL all tables are in one schema: `DATABASE_SCHEMA`, or else where the search path points. Its name is
compiled into each statement, so no search path has to be set on a session.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateSchema

from worker.db.engine import read, schema_of, write
from worker.db.faults import first_line, is_duplicate_table, may_not_make_tables
from worker.db.url import shown
from worker.errors import SchemaError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD: Final = "0006"
"""The schema revision this version works with: the newest in `migrations/` (a test holds the two together)."""

VERSION_TABLE: Final = "share_worker_version"

MIGRATION_LOCK: Final = 0x4C696E71
"""The PostgreSQL advisory lock under which one process at a time migrates ('Linq' in ASCII)."""

_version: Final = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32)))
_version_of_0_1: Final = Table("alembic_version", MetaData(), Column("version_num", String(32)))

_REVISIONS_OF_0_1: Final = ("0001", "0002")
_TABLES_OF_0_1: Final = ("chats", "contact_cards", "runs", "share_attempts")


async def schema_revision(engine: AsyncEngine) -> str | None:
    """The revision that the database is at; None if it was never migrated."""
    async with read(engine) as connection:
        return await connection.run_sync(_revision)


async def prepare(engine: AsyncEngine, *, migrates: bool) -> None:
    """Bring the schema up to date, or only check that it is.

    Raises:
        SchemaError: as `migrate` and `require_current_schema` do.
    """
    if migrates:
        await migrate(engine)
    else:
        await require_current_schema(engine)


async def require_current_schema(engine: AsyncEngine) -> None:
    """Return if the schema is the one this version needs.

    Raises:
        SchemaError: it is older, newer, or missing; the message says what to do.
    """
    _compare(await schema_revision(engine), shown(engine.url))


async def migrate(engine: AsyncEngine) -> bool:
    """Bring the schema up to date; return False if it was. Two at once are safe: the second one waits.

    Makes the PostgreSQL schema too, if it does not exist.

    Raises:
        SchemaError: the database is newer than this version, holds tables of the same name that are not the worker's,
        or its role may not change the schema.
    """
    if await schema_revision(engine) == HEAD:
        return False
    async with write(engine) as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        revision = await connection.run_sync(_revision)
        if revision == HEAD:
            return False
        try:
            await connection.run_sync(_upgrade, revision)
        except SQLAlchemyError as error:
            if revision is None and is_duplicate_table(error):
                msg = (
                    f"{shown(engine.url)} already has a table that the worker wants to make ({first_line(error)}); "
                    "give the worker a database of its own, or on PostgreSQL a schema: DATABASE_SCHEMA=sharing"
                )
                raise SchemaError(msg) from error
            if may_not_make_tables(error):
                msg = f"{_mismatch(revision, shown(engine.url))} as a role that may change it ({first_line(error)})"
                raise SchemaError(msg) from error
            raise
    return True


def alembic_config(connection: Connection) -> "Config":
    """Alembic's configuration, working on a connection of ours and inside its transaction."""
    from alembic.config import Config  # noqa: PLC0415 -- a quarter of a second that only a migration needs

    config = Config()
    config.set_main_option("script_location", str(_migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection, revision: str | None) -> None:
    from alembic import command  # noqa: PLC0415 -- a quarter of a second that only a migration needs
    from alembic.util import CommandError  # noqa: PLC0415 -- the same

    schema = schema_of(connection)
    if schema is not None:
        if not inspect(connection).has_schema(schema):
            connection.execute(CreateSchema(schema))
        # Alembic's own statements know nothing of the engine's schema.
        connection.execute(text("SELECT set_config('search_path', quote_ident(:schema), true)"), {"schema": schema})
    config = alembic_config(connection)
    try:
        if revision is not None and not _has_table(connection, VERSION_TABLE):
            command.stamp(config, revision)
        command.upgrade(config, HEAD)
    except CommandError as error:
        _compare(_revision(connection), shown(connection.engine.url))
        raise SchemaError(str(error)) from error


def _revision(connection: Connection) -> str | None:
    if _has_table(connection, VERSION_TABLE):
        return connection.execute(select(_version.c.version_num)).scalar()
    if _is_of_0_1(connection):
        return connection.execute(select(_version_of_0_1.c.version_num)).scalar()
    return None


def _is_of_0_1(connection: Connection) -> bool:
    """True if release 0.1 made the tables: all are there, with our ledger's key, beside one of its revisions.

    A partner's Alembic may have a revision of the same name, but not our tables beside it.
    """
    if not all(_has_table(connection, name) for name in ("alembic_version", *_TABLES_OF_0_1)):
        return False
    versions = connection.execute(select(_version_of_0_1.c.version_num)).scalars().all()
    key = inspect(connection).get_pk_constraint("share_attempts", schema_of(connection))["constrained_columns"]
    return len(versions) == 1 and versions[0] in _REVISIONS_OF_0_1 and key == ["chat_id", "share_day", "sequence"]


def _has_table(connection: Connection, name: str) -> bool:
    return inspect(connection).has_table(name, schema_of(connection))


def _compare(revision: str | None, name: str) -> None:
    if revision != HEAD:
        raise SchemaError(_mismatch(revision, name))


def _mismatch(revision: str | None, name: str) -> str:
    """How a revision differs from this version's, and what to do."""
    if revision is None:
        return f"the database {name} has no tables of the worker's yet; run 'share-worker migrate'"
    if revision < HEAD:
        return f"the schema of {name} is at {revision}, older than this version's {HEAD}; run 'share-worker migrate'"
    return f"the schema of {name} is at {revision}, newer than this version's {HEAD}; run a newer share-worker"


def _migrations_folder() -> Path:
    inside = Path(__file__).parent.parent / "migrations"  # in a wheel they travel inside the package
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "migrations"
