"""What can go wrong with a database: whether it may pass by itself, and one line that says what it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from worker.db.url import shown
from worker.errors import DatabaseError

BUSY_SECONDS: Final = 30
"""How long a SQLite write waits for another process's write."""

QUERY_CANCELED: Final = "57014"
"""PostgreSQL's code for a statement that took longer than `statement_timeout`."""

INSUFFICIENT_PRIVILEGE: Final = "42501"
"""PostgreSQL's code for a statement that the role may not execute."""


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
    line = first_line(error)
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
    if "unsupported startup parameter" in line:
        return (
            f"the database {name}: the pooler refuses an option of DATABASE_URL ({line}); "
            "leave 'options' out of the URL, and name the schema in DATABASE_SCHEMA"
        )
    meanings: dict[str, str] = {
        "25006": f"refuses writing: {line}",  # read-only transaction
        INSUFFICIENT_PRIVILEGE: f"refuses: {line}; 'share-worker check' names missing grants",
        "53100": f"cannot grow: {line}",  # disk full
    }
    if state in meanings:
        return f"the database {name} {meanings[state]}"
    if state is None:
        return f"the database {name} cannot be reached: {line}"
    return f"the database {name}: {line}"


def took_too_long(error: DBAPIError) -> bool:
    """Whether the database ended a statement because of its time limit."""
    return _sqlstate(error) == QUERY_CANCELED or (_is_sqlite(error) and str(_cause(error)) == "interrupted")


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


def first_line(error: BaseException) -> str:
    """The first line of what a driver said."""
    message = str(_cause(error) or error).strip()
    return message.splitlines()[0] if message else type(error).__name__


def is_duplicate_table(error: SQLAlchemyError) -> bool:
    """Whether a table could not be made because it exists."""
    return _sqlstate(error) == "42P07" or "already exists" in str(_cause(error))


def may_not_make_tables(error: SQLAlchemyError) -> bool:
    """Whether the role may not make or alter a table, or no schema that it may use is on the search path."""
    return _sqlstate(error) in {INSUFFICIENT_PRIVILEGE, "3F000"}


def _cause(error: BaseException) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error


def _is_sqlite(error: BaseException) -> bool:
    """Whether it is an error of SQLite's, by its driver's name: an import is no work for a bad moment."""
    return type(_cause(error)).__module__ == "sqlite3"


def _sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's five-letter word for what happened; None where no server said one."""
    state: str | None = getattr(_cause(error), "sqlstate", None)
    return state
