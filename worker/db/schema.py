"""The schema's version: what the database is at, whether this version can work with it, and how it gets there."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.db.engine import read, write
from worker.db.faults import first_line, is_duplicate_table
from worker.db.url import shown
from worker.errors import SchemaError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD: Final = "0002"
"""The schema revision this version works with: the newest in `migrations/` (a test holds the two together)."""

MIGRATION_LOCK: Final = 0x4C696E71
"""The PostgreSQL advisory lock under which one process at a time migrates ('Linq' in ASCII)."""


async def schema_revision(engine: AsyncEngine) -> str | None:
    """The revision that the database is at; None for one that was never migrated."""
    async with read(engine) as connection:
        return await connection.run_sync(_revision)


async def require_current_schema(engine: AsyncEngine) -> None:
    """Return if the schema is the one this version needs.

    Raises:
        SchemaError: it is older, newer, or not there at all; the message says what to do.
    """
    _compare(await schema_revision(engine), shown(engine.url))


async def migrate(engine: AsyncEngine) -> bool:
    """Bring the schema up to date; say whether there was anything to do. Two at once are safe: the second one waits.

    Raises:
        SchemaError: the database is newer than this version, or holds tables of the same name that are not the
        worker's.
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
            await connection.run_sync(_upgrade)
        except SQLAlchemyError as error:
            if revision is None and is_duplicate_table(error):
                msg = (
                    f"{shown(engine.url)} already has a table that the worker wants to make ({first_line(error)}); "
                    "give the worker a database, or a PostgreSQL schema, of its own"
                )
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


def _upgrade(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 -- a quarter of a second that only a migration needs
    from alembic.util import CommandError  # noqa: PLC0415 -- the same

    try:
        command.upgrade(alembic_config(connection), HEAD)
    except CommandError as error:
        _compare(_revision(connection), shown(connection.engine.url))
        raise SchemaError(str(error)) from error


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _compare(revision: str | None, name: str) -> None:
    if revision == HEAD:
        return
    if revision is None:
        msg = f"the database {name} has no tables of the worker's yet; run 'share-worker migrate'"
    elif revision < HEAD:
        msg = f"the schema of {name} is at {revision}, older than this version's {HEAD}; run 'share-worker migrate'"
    else:
        msg = f"the schema of {name} is at {revision}, newer than this version's {HEAD}; run a newer share-worker"
    raise SchemaError(msg)


def _migrations_folder() -> Path:
    inside = Path(__file__).parent.parent / "migrations"  # in a wheel they travel inside the package
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "migrations"
