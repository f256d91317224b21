"""What a partner wrote into `chats`, as SQL reads it: a time that names a moment or none, an id that can be one or not.

SQLite keeps whatever it is given, of any type. What it cannot tell by itself it asks of `utc_time` and `is_utf8`, which
`worker.db.engine` gives to each connection.
"""

from datetime import datetime
from typing import Final

from sqlalchemy import Boolean, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from worker.db.tables import UtcTime

LONGEST_ID: Final = 500
"""Characters; Linq's ids have 36. A longer one fits into no URL or no key."""


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


class as_text(FunctionElement[str]):  # noqa: N801 -- named as SQL functions are
    """A partner's value as text that can always be read.

    SQLite also keeps text that is not UTF-8, which Python's driver refuses to read: it is given in hex, like a blob.
    """

    type = Text()
    inherit_cache = True


@compiles(as_text)
def _compile_as_text(element: as_text, compiler: SQLCompiler, **options: object) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS TEXT)"


@compiles(as_text, "sqlite")
def _compile_as_text_sqlite(element: as_text, compiler: SQLCompiler, **options: object) -> str:
    value = compiler.process(element.clauses, **options)
    in_hex = f"CASE WHEN {value} IS NOT NULL THEN 'X''' || hex({value}) || '''' END"
    return f"CASE WHEN is_utf8(CAST({value} AS BLOB)) THEN CAST({value} AS TEXT) ELSE {in_hex} END"


class as_time(FunctionElement[datetime]):  # noqa: N801 -- named as SQL functions are
    """A partner's time column as it was written; null where SQLite keeps what Python's driver refuses to read."""

    type = UtcTime()
    inherit_cache = True


@compiles(as_time)
def _compile_as_time(element: as_time, compiler: SQLCompiler, **options: object) -> str:
    return compiler.process(element.clauses, **options)


@compiles(as_time, "sqlite")
def _compile_as_time_sqlite(element: as_time, compiler: SQLCompiler, **options: object) -> str:
    column_ = compiler.process(element.clauses, **options)
    return f"CASE WHEN {column_} IS NOT NULL AND is_utf8(CAST({column_} AS BLOB)) THEN {column_} END"
