"""Connections, transactions and the schema's version; nothing about what the rows mean.

A read and a write are both a `with` block of one transaction. On SQLite a write takes the write lock as it begins, so
what it read cannot change before it commits; on PostgreSQL that is the business of the statements in it. Both commit
durably: a committed claim outlives the power supply.
"""

import asyncio
import math
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import URL, Connection, Dialect, Engine, PoolProxiedConnection, event, inspect, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from worker.errors import DatabaseError, SchemaError, UsageError
from worker.tables import is_utf8, utc_text

if TYPE_CHECKING:
    import sqlite3

    import psycopg
    from alembic.config import Config

HEAD: Final = "0002"
"""The schema revision this version works with: the newest in `migrations/` (a test holds the two together)."""

BUSY_SECONDS: Final = 30
"""How long a SQLite write waits for another process's write."""

CONNECT_SECONDS: Final = 10

READ_SECONDS: Final = 600.0
WRITE_SECONDS: Final = 60.0
"""How long a transaction may take; counting a million chats is a long read, while writes are all short."""

PATIENCE_SECONDS: Final = 300.0
"""How long a pass waits for a database that went away, with its answers in hand."""

PAUSE_SECONDS: Final = 1.0
"""Between two tries of a database that went away."""

MIGRATION_LOCK: Final = 0x4C696E71
"""The PostgreSQL advisory lock under which one process at a time migrates ('Linq' in ASCII)."""

IDLE_SECONDS: Final = 0.1
"""A PostgreSQL connection that lay idle for longer is tried before it is used."""

WRITING: Final = {"begin_statement": "BEGIN IMMEDIATE"}
"""The execution options of a connection on which transactions write."""

POSTGRESQL_OPTIONS: Final = {
    "connect_timeout": CONNECT_SECONDS,
    "application_name": "share-worker",
    "client_encoding": "utf8",
    # A server that vanished without a word is noticed within a minute instead of hours.
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 45_000,
}


def parse_url(url: str) -> URL:
    """Read a `DATABASE_URL` and choose its driver.

    Raises:
        UsageError: it names no database that the worker can use; the message never holds a password.
    """
    try:
        parsed = make_url(url)
        if not url.isprintable():
            raise ValueError
    except (ArgumentError, ValueError):
        msg = "DATABASE_URL is not a database URL; it may be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
        raise UsageError(msg) from None
    match parsed.drivername:
        case "sqlite" | "sqlite+aiosqlite":
            if parsed.database in {None, "", ":memory:"}:
                msg = "DATABASE_URL names a database in memory, but the ledger must outlast the process; use sqlite:///FILE"
                raise UsageError(msg)
            _refuse_options(bool(parsed.query), "none: it may be sqlite:///FILE")
            return parsed.set(drivername="sqlite+aiosqlite")
        case "postgresql" | "postgres" | "postgresql+psycopg":
            _refuse_options(not set(parsed.query) <= _libpq_keywords(), "PostgreSQL's own, such as sslmode=verify-full")
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            msg = f"DATABASE_URL begins with {other}://, but may begin with sqlite:/// or postgresql://"
            raise UsageError(msg)


def _refuse_options(others: bool, allowed: str) -> None:
    """The driver's Python options are none of a user's: `autocommit` would undo what a transaction is for."""
    if others:
        msg = f"DATABASE_URL has an option after its '?' that it may not have; its options may be {allowed}"
        raise UsageError(msg)


def _libpq_keywords() -> set[str]:
    from psycopg.pq import Conninfo  # noqa: PLC0415 -- a driver that SQLite does without

    return {option.keyword.decode() for option in Conninfo.get_defaults()}


def shown(url: URL) -> str:
    """A URL as it may be printed: without password, and without options but the socket's folder."""
    kept = {name: value for name, value in url.query.items() if name == "host"}
    return url.set(drivername=url.get_backend_name(), query=kept).render_as_string(hide_password=True)


def sqlite_file(url: URL) -> Path | None:
    """The file of a SQLite database; None for another kind."""
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None


@asynccontextmanager
async def opened(url: URL, *, create: bool = False) -> AsyncIterator[AsyncEngine]:
    """An engine for the time of the block. Nothing connects before it is used.

    With `create`, a missing SQLite file is made first, for its owner's eyes only: it holds phone numbers.

    Raises:
        DatabaseError: the SQLite file does not exist, or cannot be made.
    """
    file = sqlite_file(url)
    if file is not None:
        _require_file(file, create=create)
    engine = _make_engine(url)
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def read(engine: AsyncEngine, *, seconds: float | None = READ_SECONDS) -> AsyncIterator[AsyncConnection]:
    """A transaction that only looks. `seconds` None is for rows that stream to a reader who takes their time."""
    async with within(seconds), engine.connect() as connection, connection.begin():
        yield connection


@asynccontextmanager
async def write(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction that is committed when the block ends well, and undone when it does not."""
    async with within(WRITE_SECONDS), engine.connect() as connection:
        await connection.execution_options(**WRITING)
        async with connection.begin():
            yield connection


@asynccontextmanager
async def within(seconds: float | None) -> AsyncIterator[None]:
    """Treat a database that does not answer like one that went away.

    Raises:
        PoolTimeoutError: SQLAlchemy's own error for it, after so many seconds.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        msg = f"no answer within {seconds:g} s"
        raise PoolTimeoutError(msg) from error


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
            if revision is None and _is_duplicate_table(error):
                msg = (
                    f"{shown(engine.url)} already has a table that the worker wants to make ({_first_line(error)}); "
                    "give the worker a database, or a PostgreSQL schema, of its own"
                )
                raise SchemaError(msg) from error
            raise
    return True


@contextmanager
def one_line_errors(url: URL) -> Iterator[None]:
    """Turn what the database's driver raises in the block into a `DatabaseError` of one line.

    Raises:
        DatabaseError: in place of any SQLAlchemy error, with its cause chained.
    """
    try:
        yield
    except SQLAlchemyError as error:
        raise DatabaseError(describe(error, url)) from error


def describe(error: BaseException, url: URL) -> str:
    """What went wrong with the database, in one line that names it and holds no password."""
    name = shown(url)
    line = _first_line(error)
    if url.password:
        line = line.replace(str(url.password), "***")
    state = _sqlstate(error)
    hints: dict[str, str] = {
        "unable to open database file": "cannot be opened: check that its folder exists and may be written",
        "database is locked": f"is locked by another process (waited {BUSY_SECONDS} s)",
        "readonly database": "may only be read: check the owner and mode of the file and its folder",
        "disk is full": "cannot grow: the disk is full",
        "file is not a database": "is not a SQLite database",
        "disk image is malformed": "is damaged; restore it from a backup",
        "disk I/O error": "cannot be read or written: disk I/O error",
    }
    if _is_sqlite(error):
        return next(
            (f"the database {name} {hint}" for sign, hint in hints.items() if sign in line),
            f"the database {name}: {line}",
        )
    if state in {"25006", "42501"}:  # read-only transaction, insufficient privilege
        return f"the database {name} refuses writing: {line}"
    if state == "53100":
        return f"the database {name} cannot grow: {line}"
    if state is None:
        return f"the database {name} cannot be reached: {line}"
    return f"the database {name}: {line}"


def is_passing(error: BaseException) -> bool:
    """Whether the same work may well succeed in a moment: a lost connection, a lock, a deadlock, a restart.

    A full disk, a missing table or a refused password will not pass by itself.
    """
    if isinstance(error, PoolTimeoutError | OSError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    cause = str(_cause(error))
    if _is_sqlite(error):
        return isinstance(error, OperationalError) and ("locked" in cause or "busy" in cause)
    # Connection trouble, rolled back (deadlock, serialization), too many connections, lock wait, shutdown.
    state = _sqlstate(error)
    if state is not None:
        return state.startswith(("08", "40", "533", "55P", "57P"))
    return isinstance(error, OperationalError | InterfaceError) and "authentication" not in cause


def _require_file(file: Path, *, create: bool) -> None:
    if file.exists():
        return
    if not create:
        msg = f"the database file {file} does not exist; 'share-worker migrate' makes it"
        raise DatabaseError(msg)
    try:
        _make_file(file)
    except OSError as error:
        msg = f"the database file {file} cannot be made: {error.strerror}"
        raise DatabaseError(msg) from error


def _make_file(file: Path) -> None:
    """Let an empty database appear, in WAL mode from the first moment: to change the mode would need it for itself."""
    import sqlite3  # noqa: PLC0415 -- a driver that PostgreSQL does without

    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        connection = sqlite3.connect(draft)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        file.hardlink_to(draft)
    except FileExistsError:
        pass  # another process was quicker; it is the same file
    except OSError:  # a file system without hard links; the first connection changes the mode
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    finally:
        draft.unlink()


def _make_engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(url, connect_args={"timeout": BUSY_SECONDS})
        _prepare_sqlite(engine.sync_engine)
        return engine
    # Named, since a database may be set to another one: a claim's second look must see what was committed meanwhile.
    engine = create_async_engine(
        url,
        connect_args=dict(POSTGRESQL_OPTIONS),
        isolation_level="READ COMMITTED",
        pool_timeout=CONNECT_SECONDS,
    )
    _prepare_postgresql(engine.sync_engine)
    return engine


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: "sqlite3.Connection", _record: object) -> None:
        # Python's sqlite3 would otherwise begin transactions when it sees fit; they begin below, and nowhere else.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
        # SQLite keeps whatever a partner wrote, of any type; what it cannot tell by itself, the verdict asks of these.
        connection.create_function("utc_time", 1, utc_text, deterministic=True)
        connection.create_function("is_utf8", 1, is_utf8, deterministic=True)

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin_statement", "BEGIN"))


def _prepare_postgresql(engine: Engine) -> None:
    from psycopg import DataError  # noqa: PLC0415 -- a driver that SQLite does without
    from psycopg.types.datetime import TimestamptzLoader  # noqa: PLC0415 -- the same

    class EndlessIsNone(TimestamptzLoader):
        """Reads `infinity`, and what lies beyond the year 9999, as no time: Python has none for it."""

        def load(self, data: bytes | bytearray | memoryview) -> datetime | None:  # type: ignore[override] # None too
            try:
                return super().load(data)
            except DataError:
                return None

    @event.listens_for(engine, "connect")
    def on_connect(connection: "psycopg.Connection", record: PoolProxiedConnection) -> None:
        driver: psycopg.AsyncConnection | None = record.driver_connection
        if driver is not None:
            driver.adapters.register_loader("timestamptz", EndlessIsNone)
        # A server set to 'off' may forget a committed claim in a crash; a claim must be on disk before its call.
        cursor = connection.cursor()
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        # A plan that was kept from when a table was small, or empty, would read the whole of it for each chat.
        cursor.execute("SET plan_cache_mode = force_custom_plan")
        cursor.execute("SELECT current_setting('server_encoding')")
        encoding = cursor.fetchone()
        cursor.close()
        connection.commit()
        # Another one cannot hold every word of Linq's, and an answer that cannot be recorded is lost.
        if encoding != ("UTF8",):
            msg = f"{shown(engine.url)} has another encoding than UTF8; make it with ENCODING 'UTF8' TEMPLATE template0"
            raise SchemaError(msg)

    @event.listens_for(engine, "checkin")
    def on_checkin(_connection: "psycopg.Connection | None", record: ConnectionPoolEntry) -> None:
        record.info["free_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def on_checkout(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        # One that lay idle may have been cut off meanwhile. To try it each time would cost a round trip a transaction.
        if time.monotonic() - record.info.get("free_since", math.inf) > IDLE_SECONDS:
            _ping(engine.dialect, connection)


def ping(connection: Connection) -> None:
    """Try a connection that lay idle.

    Raises:
        DisconnectionError: there is nobody at its other end.
    """
    driven = connection.connection.dbapi_connection
    if driven is not None:
        _ping(connection.dialect, driven)


def _ping(dialect: Dialect, connection: DBAPIConnection) -> None:
    try:
        dialect.do_ping(connection)
    except dialect.loaded_dbapi.Error as error:
        raise DisconnectionError from error


def _migrations_folder() -> Path:
    inside = Path(__file__).parent / "migrations"  # in a wheel they travel inside the package
    return inside if inside.is_dir() else Path(__file__).parent.parent / "migrations"


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


def _cause(error: BaseException) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error


def _is_sqlite(error: BaseException) -> bool:
    """Whether it is an error of SQLite's, by its driver's name: an import is no work for a bad moment."""
    return type(_cause(error)).__module__ == "sqlite3"


def _sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's five-letter word for what happened; None where no server said one."""
    state: str | None = getattr(_cause(error), "sqlstate", None)
    return state


def _first_line(error: BaseException) -> str:
    message = str(_cause(error) or error).strip()
    return message.splitlines()[0] if message else type(error).__name__


def _is_duplicate_table(error: SQLAlchemyError) -> bool:
    return _sqlstate(error) == "42P07" or "already exists" in str(_cause(error))
