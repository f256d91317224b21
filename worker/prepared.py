"""Statements that a pass executes thousands of times: on PostgreSQL, SQLAlchemy's work is done once for each of them.

A statement is compiled when a connection meets it first; from then on the driver is given its text and new values, with
nothing in between: nearly half of the work that a turn made in Python. It belongs to the transaction that is open, and
fails with the errors that it would have with SQLAlchemy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVarTuple, cast
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import DQLDMLClauseElement
from sqlalchemy.sql.selectable import TypedReturnsRows

if TYPE_CHECKING:
    import psycopg

Ts = TypeVarTuple("Ts")

_KEPT: Final = "prepared"
"""The place in a pooled connection's `info` where its statements are, for as long as someone may execute them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    """A statement on a connection."""

    cursor: "psycopg.AsyncCursor[tuple[object, ...]]"
    """Kept, since it remembers how the values are written."""
    text: bytes
    fixed: Mapping[str, object]
    """The values that the statement brings itself."""
    writers: Mapping[str, Callable[[object], object]]
    """By the name of a value, what turns it into one for the driver."""


_Kept = WeakKeyDictionary[DQLDMLClauseElement, _Prepared]


async def fetch(
    connection: AsyncConnection,
    statement: TypedReturnsRows[*Ts],
    values: Mapping[str, object],
    *,
    repeated: bool = True,
) -> Sequence[tuple[*Ts]]:
    """Execute a statement and return its rows, which hold texts and numbers only: those need no conversion.

    One that is not `repeated`, but another one each time, would not be worth keeping.

    Raises:
        SQLAlchemyError: as if SQLAlchemy had executed it.
    """
    if not repeated or connection.dialect.name != "postgresql":
        return (await connection.execute(statement, values)).all()
    cursor = await _executed(connection, statement, values)
    return cast("list[tuple[*Ts]]", await cursor.fetchall())


async def execute(connection: AsyncConnection, statement: Update, values: Mapping[str, object]) -> None:
    """Execute a statement that returns nothing, on PostgreSQL.

    Raises:
        SQLAlchemyError: as if SQLAlchemy had executed it.
    """
    await _executed(connection, statement, values)


async def _executed(
    connection: AsyncConnection, statement: DQLDMLClauseElement, values: Mapping[str, object]
) -> "psycopg.AsyncCursor[tuple[object, ...]]":
    import psycopg  # noqa: PLC0415 -- a driver that SQLite does without

    underlying = cast("Connection", connection.sync_connection)
    prepared = _on(underlying, statement)
    written = {**prepared.fixed, **values}
    for name, write in prepared.writers.items():
        written[name] = write(written[name])
    if underlying.dispatch.before_cursor_execute:
        await connection.run_sync(_tell_listeners, prepared, written)
    try:
        return await prepared.cursor.execute(prepared.text, written)
    except psycopg.Error as error:
        lost = prepared.cursor.connection.closed
        if lost:
            await connection.invalidate(error)
        raise DBAPIError.instance(None, None, error, psycopg.Error, connection_invalidated=lost) from error
    except BaseException as error:
        # Broken off in the middle: nobody knows what the server is at, and a ROLLBACK would have to wait for that.
        await connection.invalidate(error)
        raise


def _on(connection: Connection, statement: DQLDMLClauseElement) -> _Prepared:
    """A statement as its connection keeps it."""
    pooled = connection.connection
    kept: _Kept | None = pooled.info.get(_KEPT)
    if kept is None:
        kept = pooled.info[_KEPT] = WeakKeyDictionary()
    prepared = kept.get(statement)
    if prepared is None:
        driver = cast("psycopg.AsyncConnection[tuple[object, ...]]", pooled.driver_connection)
        prepared = kept[statement] = _prepare(statement, connection.dialect, driver)
    return prepared


def _prepare(
    statement: DQLDMLClauseElement, dialect: Dialect, driver: "psycopg.AsyncConnection[tuple[object, ...]]"
) -> _Prepared:
    compiled = statement.compile(dialect=dialect)
    fixed, writers = {}, {}
    for name, value in compiled.binds.items():
        if not value.required:
            fixed[name] = value.effective_value
        if write := value.type.dialect_impl(dialect).bind_processor(dialect):
            writers[name] = write
    return _Prepared(cursor=driver.cursor(), text=compiled.string.encode(), fixed=fixed, writers=writers)


def _tell_listeners(connection: Connection, prepared: _Prepared, written: dict[str, object]) -> None:
    """Whoever listens to SQLAlchemy's events hears of a statement as of any other."""
    connection.dispatch.before_cursor_execute(connection, prepared.cursor, prepared.text.decode(), written, None, False)
