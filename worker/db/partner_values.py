"""What a partner wrote into `chats`, as SQL reads it: a time that names a moment or none, an id that can be one or not.

SQLite keeps whatever it is given, of any type. What it cannot tell by itself it asks of `utc_time` and `is_utf8`, which
`worker.db.engine` gives to each connection.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Boolean, Text, and_, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from worker.db.tables import UtcTime, chats

LONGEST_ID: Final = 500
"""Characters; Linq's ids have 36. A longer one fits into no URL or no key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unfit:
    """How many rows of `chats` can never be due as they are written."""

    ids: int
    times: int
    """Whose `last_outbound_at` names no moment."""
    written: str | None
    """One such time."""


async def count_unfit(connection: AsyncConnection) -> Unfit:
    """Look for rows whose id or time cannot be read."""
    at = chats.c.last_outbound_at
    no_time = and_(at.is_not(None), utc(at).is_(None))
    written = func.max(case((no_time, cast(at, Text))))
    counts = select(func.count().filter(no_id(chats.c.id)), func.count().filter(no_time), written)
    ids, times, example = (await connection.execute(counts.select_from(chats))).one()
    return Unfit(ids=ids, times=times, written=example)


class utc(FunctionElement[datetime]):  # noqa: N801 -- named as SQL functions are
    """A partner's own time column, made comparable; null where it names no moment.

    SQLite holds whatever was written: text that SQLite itself reads as a date and a time, or that `utc_time` can read
    (`worker.db.engine` puts it there). PostgreSQL holds infinities.
    """

    type = UtcTime()
    inherit_cache = True


@compiles(utc)
def _compile_utc(element: utc, compiler: SQLCompiler, **options: object) -> str:
    column_ = compiler.process(element.clauses, **options)
    return f"CASE WHEN isfinite({column_}) THEN {column_} END"


@compiles(utc, "sqlite")
def _compile_utc_sqlite(element: utc, compiler: SQLCompiler, **options: object) -> str:
    column_ = compiler.process(element.clauses, **options)
    readable = f"{column_} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9][T ]*' AND julianday({column_}) IS NOT NULL"
    moment = f"strftime('%Y-%m-%d %H:%M:%f000', {column_})"  # to the microsecond, as the worker's own times are written
    return f"CASE WHEN {readable} THEN {moment} ELSE utc_time(CAST({column_} AS BLOB)) END"


class no_id(FunctionElement[bool]):  # noqa: N801 -- named as SQL functions are
    """Whether what stands in a chat's place for an id can be none: empty, endless, or on SQLite no text at all."""

    type = Boolean()
    inherit_cache = True


@compiles(no_id)
def _compile_no_id(element: no_id, compiler: SQLCompiler, **options: object) -> str:
    return f"(char_length({compiler.process(element.clauses, **options)}) NOT BETWEEN 1 AND {LONGEST_ID})"


@compiles(no_id, "sqlite")
def _compile_no_id_sqlite(element: no_id, compiler: SQLCompiler, **options: object) -> str:
    id_ = compiler.process(element.clauses, **options)
    garbled = f"({id_} GLOB '*[^ -~]*' AND NOT is_utf8(CAST({id_} AS BLOB)))"
    return f"(typeof({id_}) <> 'text' OR length({id_}) NOT BETWEEN 1 AND {LONGEST_ID} OR {garbled})"
