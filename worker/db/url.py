"""What a `DATABASE_URL` names: which database, by which driver, and how it may be printed."""

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from worker.errors import UsageError


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


def shown(url: URL) -> str:
    """A URL as it may be printed: without password, and without options but the socket's folder."""
    kept = {name: value for name, value in url.query.items() if name == "host"}
    return url.set(drivername=url.get_backend_name(), query=kept).render_as_string(hide_password=True)


def sqlite_file(url: URL) -> Path | None:
    """The file of a SQLite database; None for another kind."""
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None


def _refuse_options(others: bool, allowed: str) -> None:
    """The driver's Python options are none of a user's: `autocommit` would undo what a transaction is for."""
    if others:
        msg = f"DATABASE_URL has an option after its '?' that it may not have; its options may be {allowed}"
        raise UsageError(msg)


def _libpq_keywords() -> set[str]:
    from psycopg.pq import Conninfo  # noqa: PLC0415 -- a driver that SQLite does without

    return {option.keyword.decode() for option in Conninfo.get_defaults()}
