"""What a `DATABASE_URL` names: which database, by which driver, and how it may be printed."""

import re
from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from worker.errors import UsageError

NO_URL: Final = "DATABASE_URL is not a database URL; it must be sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
IN_DOUBT: Final = (
    "DATABASE_URL cannot be split without doubt; percent-encode special characters in its user and password:"
    " @ is %40, : is %3A, / is %2F, ? is %3F, # is %23, % is %25, a space is %20"
)

_SECRET_OPTIONS: Final = ("password", "sslpassword", "passfile")


def parse_url(url: str) -> URL:
    """Read a `DATABASE_URL` and choose its driver.

    Raises:
        UsageError: it names no database that the worker can use; the message never holds a part of a password.
    """
    if not url.isprintable():
        raise UsageError(NO_URL)
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+]*", scheme):
        raise UsageError(NO_URL)
    if scheme.partition("+")[0] in {"postgresql", "postgres"} and _is_in_doubt(rest):
        raise UsageError(IN_DOUBT)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(NO_URL) from None
    match parsed.drivername:
        case "sqlite" | "sqlite+aiosqlite":
            if parsed.database in {None, "", ":memory:"}:
                msg = "DATABASE_URL names a database in memory, but the ledger must outlast the process; use sqlite:///FILE"
                raise UsageError(msg)
            _refuse_options(bool(parsed.query), "none: a SQLite URL is sqlite:///FILE")
            return parsed.set(drivername="sqlite+aiosqlite")
        case "postgresql" | "postgres" | "postgresql+psycopg":
            _refuse_options(not set(parsed.query) <= _libpq_keywords(), "PostgreSQL's own, such as sslmode=verify-full")
            return parsed.set(drivername="postgresql+psycopg")
        case _:
            raise UsageError("DATABASE_URL must begin with sqlite:/// or postgresql://")


def shown(url: URL) -> str:
    """A URL as it may be printed: without password, and without options but the socket's folder."""
    kept = {name: value for name, value in url.query.items() if name == "host"}
    return url.set(drivername=url.get_backend_name(), query=kept).render_as_string(hide_password=True)


def secrets_of(url: str) -> list[str]:
    """What of a URL must never be printed: the password, as it is and as the URL spells it."""
    parsed = parse_url(url)
    spelt = re.search(r"://[^:/@]*:([^@]+)@", url)
    options = [str(parsed.query[name]) for name in _SECRET_OPTIONS if name in parsed.query]
    found = [str(parsed.password or ""), spelt[1] if spelt else "", *options]
    return [secret for secret in found if secret]


def sqlite_file(url: URL) -> Path | None:
    """The file of a SQLite database; None for another kind."""
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None


def _is_in_doubt(rest: str) -> bool:
    """True if a special character in the user or password may have moved the place where they end."""
    userinfo, at, address = rest.rpartition("@")
    if not at:
        return False
    return (
        "@" in userinfo
        or bool(set(userinfo) & set("/?#[] \\"))
        or userinfo.count(":") > 1
        or bool(re.search(r"%(?![0-9A-Fa-f]{2})", userinfo))
        or not address
    )


def _refuse_options(wrong: bool, allowed: str) -> None:
    """The driver's Python options are not for users: `autocommit` would undo what a transaction is for."""
    if wrong:
        msg = f"DATABASE_URL has an option after its '?' that it must not have; its options must be {allowed}"
        raise UsageError(msg)


def _libpq_keywords() -> set[str]:
    from psycopg.pq import Conninfo  # noqa: PLC0415 -- a driver that SQLite does without

    return {option.keyword.decode() for option in Conninfo.get_defaults()}
