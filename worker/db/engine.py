"""Connections and transactions.

A read and a write are both a `with` block of one transaction. On SQLite a write takes the write lock as it begins, so
what it read cannot change before it commits; on PostgreSQL that is the business of the statements in it. Both commit
durably: a committed claim outlives the power supply.
"""

import asyncio
import math
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import URL, Connection, Dialect, Engine, PoolProxiedConnection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from worker.db.faults import BUSY_SECONDS
from worker.db.tables import is_utf8, utc_text
from worker.db.url import shown, sqlite_file
from worker.errors import DatabaseError, SchemaError

if TYPE_CHECKING:
    import sqlite3

    import psycopg

CONNECT_SECONDS: Final = 10

READ_SECONDS: Final = 600.0
WRITE_SECONDS: Final = 60.0
"""How long a transaction may take; counting a million chats is a long read, while writes are all short."""

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
