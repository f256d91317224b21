"""Connections and transactions.

A read and a write are both a `with` block of one transaction. On SQLite a write takes the write lock as it begins, so
what it read cannot change before it commits; on PostgreSQL the statements lock what they need. Both commit durably: a
committed claim survives a power cut.

On PostgreSQL nothing of ours outlives a transaction: no setting, no prepared statement, no lock. So the worker can
share a server's connections with others, through a pooler in transaction mode.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import URL, Connection, Engine, PoolProxiedConnection, RowMapping, Select, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from worker.db.faults import BUSY_SECONDS, took_too_long
from worker.db.tables import is_utf8, utc_text
from worker.db.url import shown, sqlite_file
from worker.errors import DatabaseError, SchemaError, TooSlowError

if TYPE_CHECKING:
    import sqlite3

    import aiosqlite
    import psycopg

CONNECT_SECONDS: Final = 10

READ_SECONDS: Final = 600.0
WRITE_SECONDS: Final = 60.0
"""How long a transaction may take; counting a million chats is a long read, while writes are all short."""

INTERRUPTED_EVERY: Final = 0.05
"""Seconds between two interruptions of SQLite, until its block has ended."""

ROWS_AT_ONCE: Final = 1_000
"""Rows of a streamed query in memory at once."""

_BEGIN_WRITING: Final = {"begin_statement": "BEGIN IMMEDIATE"}
"""SQLite: a writing transaction takes the write lock as it begins."""

_NAMED: Final = "SELECT set_config('application_name', 'share-worker', true)"
_NAMED_AND_DURABLE: Final = (
    f"{_NAMED}, CASE current_setting('synchronous_commit') WHEN 'off'"
    " THEN set_config('synchronous_commit', 'on', true) END"
)
"""PostgreSQL, as SET LOCAL: the name in pg_stat_activity; and durable commits, where a committed claim could be lost in
a crash of the server. As a start-up parameter the name would stay on a pooler's session."""

POSTGRESQL_OPTIONS: Final = {
    "prepare_threshold": None,  # never prepare on the server: behind a pooler the next statement may go elsewhere
    "connect_timeout": CONNECT_SECONDS,
    "client_encoding": "utf8",
    # A server that vanished without a word is noticed within a minute instead of hours.
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 45_000,
}


@asynccontextmanager
async def opened(url: URL, *, schema: str | None = None, create: bool = False) -> AsyncIterator[AsyncEngine]:
    """An engine for the time of the block. Nothing connects before it is used.

    `schema` is the PostgreSQL schema of all tables; None: where the search path points.

    With `create`, a missing SQLite file is made first, for its owner's eyes only: it holds phone numbers.

    Raises:
        DatabaseError: the SQLite file does not exist, or cannot be made.
    """
    file = sqlite_file(url)
    if file is not None:
        _require_file(file, create=create)
    engine = _make_engine(url, schema)
    try:
        yield engine
    finally:
        await engine.dispose()


def schema_of(connection: Connection | Engine) -> str | None:
    """The PostgreSQL schema of all tables; None: where the search path points."""
    schema: str | None = connection.get_execution_options().get("schema_translate_map", {}).get(None)
    return schema


@asynccontextmanager
async def read(engine: AsyncEngine, *, seconds: float | None = READ_SECONDS) -> AsyncIterator[AsyncConnection]:
    """A transaction that only reads. `seconds` None is for rows that stream to a slow reader."""
    async with _within(seconds), engine.connect() as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            await connection.exec_driver_sql(_NAMED)
        yield connection


async def stream(
    engine: AsyncEngine, statement: Select[*tuple[object, ...]], values: Mapping[str, object] | None = None
) -> AsyncIterator[RowMapping]:
    """The rows of a query as they come, for a reader that may be slow; few of them are in memory at once."""
    async with read(engine, seconds=None) as connection:
        result = await connection.stream(statement, values, execution_options={"yield_per": ROWS_AT_ONCE})
        async for rows in result.mappings().partitions():
            for row in rows:
                yield row


@asynccontextmanager
async def glance(engine: AsyncEngine, seconds: float) -> AsyncIterator[AsyncConnection]:
    """A transaction that only reads, for a reader who does not wait: the database ends a statement that takes longer.

    Raises:
        TooSlowError: a statement took longer than `seconds`.
    """
    async with _within(CONNECT_SECONDS + seconds), engine.connect() as connection, connection.begin():
        try:
            async with _limited(connection, seconds):
                yield connection
        except DBAPIError as error:
            if not took_too_long(error):
                raise
            msg = f"the database needs longer than {seconds:g} s for this"
            raise TooSlowError(msg) from error


@asynccontextmanager
async def _limited(connection: AsyncConnection, seconds: float) -> AsyncIterator[None]:
    """Have each statement of the block ended that takes longer; on SQLite, which has no such limit, the whole block."""
    if connection.dialect.name == "postgresql":
        await connection.exec_driver_sql(f"{_NAMED}, set_config('statement_timeout', '{seconds * 1000:.0f}', true)")
        yield
        return
    driver: aiosqlite.Connection | None = (await connection.get_raw_connection()).driver_connection

    async def interrupt() -> None:
        await asyncio.sleep(seconds)
        while driver is not None:  # between two statements there is nothing to interrupt
            await driver.interrupt()
            await asyncio.sleep(INTERRUPTED_EVERY)

    timer = asyncio.create_task(interrupt())
    try:
        yield
    except asyncio.CancelledError:
        if driver is not None:
            await driver.interrupt()  # or its thread would go on
        raise
    finally:
        timer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await timer


@asynccontextmanager
async def write(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction that is committed when the block ends without an error, and rolled back otherwise."""
    async with _within(WRITE_SECONDS), engine.connect() as connection:
        await connection.execution_options(**_BEGIN_WRITING)
        async with connection.begin():
            if engine.dialect.name == "postgresql":
                await connection.exec_driver_sql(_NAMED_AND_DURABLE)
            yield connection


@asynccontextmanager
async def _within(seconds: float | None) -> AsyncIterator[None]:
    """Treat a database that does not answer like one that cannot be reached.

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


def _make_engine(url: URL, schema: str | None) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(url, connect_args={"timeout": BUSY_SECONDS})
        _prepare_sqlite(engine.sync_engine)
        return engine
    engine = create_async_engine(
        url,
        connect_args=dict(POSTGRESQL_OPTIONS),
        # Sent with each BEGIN, since a database may default to another level: a claim's second look must see what was
        # committed meanwhile.
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_timeout=CONNECT_SECONDS,
        use_native_hstore=False,  # spares a query at each connect
        execution_options={"schema_translate_map": {None: schema}} if schema else {},
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
        # Another encoding cannot hold every answer of Linq's, and one that cannot be recorded is lost.
        if connection.info.parameter_status("server_encoding") != "UTF8":
            msg = f"{shown(engine.url)} has another encoding than UTF8; make it with ENCODING 'UTF8' TEMPLATE template0"
            raise SchemaError(msg)
